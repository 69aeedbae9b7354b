import os
import zipfile
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from made_pictures import encode as png
from PIL import Image

from hf_urbanseg.data import submission
from hf_urbanseg.data.submission import (
    BENCHMARKS,
    check_submission,
    encode_label_ids,
    find_images,
    get_benchmark,
    write_submission,
)
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.metrics.confusion_matrix import ConfusionMatrix

# From cityscapesScripts' helpers/labels.py, in train-id order.
LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
KITTI = replace(
    BENCHMARKS["kitti", "test"],
    counts={"testing/image_2": 3},
    names=tuple(f"{index:06d}_10" for index in range(3)),
)
CITIES = replace(BENCHMARKS["cityscapes", "val"], counts={"leftImg8bit/val/frankfurt": 2, "leftImg8bit/val/lindau": 1})
CITY_NAMES = ["frankfurt_000000_000294", "frankfurt_000001_011835", "lindau_000000_000019"]


def make_kitti(root):
    folder = root / "testing" / "image_2"
    folder.mkdir(parents=True)
    for index in range(3):
        Image.new("RGB", (40 + index, 20)).save(folder / f"{index:06d}_10.png")
    return root


def make_cities(root, seed=0):
    """Images, and labels in which every label id occurs."""
    rng = np.random.default_rng(seed)
    for name in CITY_NAMES:
        city = name.split("_")[0]
        for kind, ending, pixels in (
            ("leftImg8bit", "leftImg8bit", rng.integers(0, 256, (16, 32, 3), np.uint8)),
            ("gtFine", "gtFine_labelIds", rng.integers(0, 34, (16, 32), np.uint8)),
        ):
            folder = root / kind / "val" / city
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{name}_{ending}.png")
    return root


def predictions(images, seed=0):
    rng = np.random.default_rng(seed)
    for name, path in images.items():
        with Image.open(path) as image:
            yield name, rng.integers(0, 19, (image.height, image.width), np.uint8)


def files(images):
    return [(name, encode_label_ids(train_ids)) for name, train_ids in predictions(images)]


@pytest.fixture
def kitti(tmp_path):
    return find_images(make_kitti(tmp_path / "data"), KITTI)


@pytest.fixture
def zipped(tmp_path):
    def zipped(members):
        with zipfile.ZipFile(tmp_path / "other.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, content in members:
                bundle.writestr(name, content)
        return tmp_path / "other.zip"

    return zipped


def refused(function, *arguments) -> str:
    with pytest.raises(DataError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_benchmarks__official_counts():
    assert {key: sum(one.counts.values()) for key, one in BENCHMARKS.items()} == {
        ("kitti", "test"): 200,
        ("cityscapes", "test"): 1525,
        ("cityscapes", "val"): 500,
    }
    names = BENCHMARKS["kitti", "test"].names
    assert (names[0], names[-1], len(set(names))) == ("000000_10", "000199_10", 200)
    assert "only new methods on their way to peer review" in BENCHMARKS["kitti", "test"].note
    with pytest.raises(ConfigError, match=r"kitti test, .*; found `kitti val`"):
        get_benchmark("kitti", "val")


def test_encode_label_ids__every_class():
    content = encode_label_ids(np.arange(19, dtype=np.uint8)[None])
    with Image.open(BytesIO(content)) as image:
        assert (image.mode, image.format) == ("L", "PNG")
        assert np.asarray(image)[0].tolist() == LABEL_IDS


def test_find_images__folder_and_zip(tmp_path):
    root = make_kitti(tmp_path / "data")
    assert list(find_images(root, KITTI)) == ["000000_10", "000001_10", "000002_10"]
    archive = tmp_path / "data_semantics.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in sorted(root.rglob("*.png")):
            bundle.write(path, path.relative_to(root))
    found = find_images(archive, KITTI)
    assert list(found) == ["000000_10", "000001_10", "000002_10"]
    assert found["000002_10"].read_bytes() == (root / "testing/image_2/000002_10.png").read_bytes()


def test_find_images__missing_ones_are_named(tmp_path):
    root = make_kitti(tmp_path)
    (root / "testing/image_2/000001_10.png").unlink()
    line = refused(find_images, root, KITTI)
    assert line.startswith(f"{root}/testing/image_2: expected the 3 official images of KITTI test; found 2, without 0")
    assert "without 000001_10; unpack the official archive again." in line


def test_find_images__others_are_refused(tmp_path):
    root = make_kitti(tmp_path)
    Image.new("RGB", (4, 4)).save(root / "testing/image_2/extra.png")
    assert "expected the 3 official images of KITTI test; found 4; unpack" in refused(find_images, root, KITTI)


def test_find_images__a_renamed_one(tmp_path):
    folder = make_kitti(tmp_path) / "testing/image_2"
    (folder / "000001_10.png").rename(folder / "000001_11.png")
    assert "found 3, without 000001_10; unpack" in refused(find_images, tmp_path, KITTI)


def test_find_images__nothing_there(tmp_path):
    assert "expected the data of KITTI test; found nothing there" in refused(find_images, tmp_path / "no", KITTI)
    assert "testing/image_2: expected a folder of images" in refused(find_images, tmp_path, KITTI)


def test_find_images__of_cities(tmp_path):
    root = make_cities(tmp_path)
    assert list(find_images(root, CITIES)) == CITY_NAMES
    (root / "leftImg8bit/val/frankfurt" / f"{CITY_NAMES[1]}_leftImg8bit.png").unlink()
    assert "frankfurt: expected the 2 official images of Cityscapes val; found 1" in refused(find_images, root, CITIES)


def test_write_submission__names_content_and_bytes(tmp_path, kitti):
    write_submission(tmp_path / "a.zip", files(kitti), KITTI, kitti)
    with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
        assert bundle.namelist() == [f"semantic/{index:06d}_10.png" for index in range(3)]
        for name, train_ids in predictions(kitti):
            found = np.asarray(Image.open(BytesIO(bundle.read(f"semantic/{name}.png"))))
            np.testing.assert_array_equal(found, np.array(LABEL_IDS)[train_ids])
    os.utime(next(iter(kitti.values())), (0, 0))
    write_submission(tmp_path / "b.zip", files(kitti), KITTI, kitti)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_write_submission__whole_or_not_at_all(tmp_path, kitti):
    target = tmp_path / "a.zip"
    target.write_bytes(b"old")

    def broken():
        yield files(kitti)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_submission(target, broken(), KITTI, kitti)
    assert "without 000002_10" in refused(write_submission, target, files(kitti)[:2], KITTI, kitti)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "data"]


def test_check_submission__made_elsewhere(zipped, kitti):
    content = dict(files(kitti))
    check_submission(zipped([(f"{name}.png", content[name]) for name in content]), KITTI, kitti)
    check_submission(
        zipped([("semantic/", b""), *[(f"semantic/{name}.png", content[name]) for name in content]]), KITTI, kitti
    )


SECOND = "semantic/000001_10.png"


def flat(value, size=(20, 41)):
    return png(np.full(size, value, np.uint8))


def damaged(content):
    content = bytearray(content)
    content[-13] ^= 8  # the pixels' checksum, the last before the 12 bytes of the end
    return bytes(content)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({SECOND: None}, "other.zip: expected 3 files for KITTI test; found 2, without 000001_10; predict the missing"),
        ({"000001_10.png": flat(26)}, f"expected one file per image; found `{SECOND}` and `000001_10.png`"),
        ({"semantic/readme.txt": b"hello"}, "only files like `semantic/000000_10.png`; found `semantic/readme.txt`"),
        ({SECOND: None, "semantic/1.png": flat(26)}, "files like `semantic/000000_10.png`; found `semantic/1.png`"),
        ({SECOND: flat(26, (20, 40))}, "000001_10.png: expected its image's size, 20x41 (height x width); found 20x40"),
        ({SECOND: flat(0, (20, 41, 3))}, "000001_10.png: expected a PNG of one 8-bit channel; found PNG, mode RGB"),
        ({SECOND: png(Image.new("P", (41, 20)))}, "expected a PNG of one 8-bit channel; found PNG, mode P"),
        ({SECOND: png(Image.new("1", (41, 20)))}, "expected a PNG of one 8-bit channel; found PNG, mode 1"),
        ({SECOND: flat(255)}, "expected label ids of 0..33; found 255"),
        ({SECOND: flat(34)}, "expected label ids of 0..33; found 34"),
        ({SECOND: damaged(flat(26))}, "000001_10.png: expected a readable PNG"),
        ({f"semantic/{i:06d}_10.png": flat(18, (20, 40 + i)) for i in range(3)},
         "expected label ids, which go up to 33 (sky is 23, car 26); found no id over 18 in 3 files"),
    ],
)  # fmt: skip
def test_check_submission__refuses(zipped, kitti, changed, part):
    members = {KITTI.member.format(name): content for name, content in files(kitti)} | changed
    made = zipped([(name, content) for name, content in members.items() if content is not None])
    assert part in refused(check_submission, made, KITTI, kitti)


@pytest.mark.parametrize("content", [b"", b"no zip"])
def test_check_submission__no_zip(tmp_path, kitti, content):
    (tmp_path / "a.zip").write_bytes(content)
    assert "a.zip: expected a readable .zip" in refused(check_submission, tmp_path / "a.zip", KITTI, kitti)
    assert "expected a readable .zip" in refused(check_submission, tmp_path / "none.zip", KITTI, kitti)


def test_check_submission__a_cityscapes_file_in_any_folder_and_not_two(tmp_path, zipped):
    images = find_images(make_cities(tmp_path / "data"), CITIES)
    members = [(f"results/{name.split('_')[0]}/{name}_x.png", content) for name, content in files(images)]
    check_submission(zipped(members), CITIES, images)
    members.append((f"color/{CITY_NAMES[0]}_color.png", members[0][1]))
    assert "expected one file per image; found `results/" in refused(check_submission, zipped(members), CITIES, images)


def test_write_submission__the_official_evaluation_reads_it_and_counts_the_same(tmp_path, monkeypatch):
    official = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", reason="compares with cityscapesScripts"
    )
    root = make_cities(tmp_path / "data")
    images = find_images(root, CITIES)
    write_submission(tmp_path / "a.zip", files(images), CITIES, images)
    with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
        bundle.extractall(tmp_path / "results")
    monkeypatch.setenv("CITYSCAPES_RESULTS", str(tmp_path / "results"))
    args = official.args
    for name, value in (("predictionPath", None), ("predictionWalk", None), ("evalInstLevelScore", False)):
        monkeypatch.setattr(args, name, value)
    monkeypatch.setattr(args, "evalLabels", [])
    matrix = official.generateMatrix(args)
    truths = sorted((root / "gtFine").rglob("*_labelIds.png"))
    ours = ConfusionMatrix(19)
    by_name = dict(predictions(images))
    for truth in truths:
        found = official.getPrediction(args, str(truth))
        official.evaluatePair(found, str(truth), matrix, {}, {}, args)
        label = CITYSCAPES.train_id_table[np.asarray(Image.open(truth))]
        ours.update(torch.from_numpy(by_name[truth.name.removesuffix("_gtFine_labelIds.png")]), torch.from_numpy(label))
    np.testing.assert_array_equal(matrix[np.ix_(LABEL_IDS, LABEL_IDS)].astype(np.int64), ours.matrix.numpy())
    assert matrix[:, LABEL_IDS].sum() == 3 * 16 * 32  # nothing was predicted outside of the 19 classes


def test_last_label_id__is_the_highest_of_the_label_space():
    assert max(label_id for label_id in CITYSCAPES.label_ids if label_id != 255) == submission.LAST_LABEL_ID
