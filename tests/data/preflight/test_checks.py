"""Every bad set is made by hand and its message read in full."""

import gzip
import logging
import os
import re
import socket
import weakref
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Image, load_from_disk
from hostile_files import ENDLESS, link_to_device, make_fifo
from PIL import Image as Pillow
from PIL import ImageFile

from hf_urbanseg.data.preflight import checks
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES, LabelSpace

SPACE = LabelSpace("toy", ("road", "car"), ((1, 2, 3), (4, 5, 6)), {7: 0, 26: 1, 0: 255})
HEIGHT, WIDTH = 12, 16
LABEL = np.full((HEIGHT, WIDTH), 7, np.uint8)
LABEL[0, :5] = 26
LABEL[1, :3] = 0
DATA = Path(os.environ.get("HF_URBANSEG_DATA", Path(__file__).parents[4] / "shared" / "data"))


def noise(seed, height=HEIGHT, width=WIDTH, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8).squeeze()


def make_pair(folder, name, seed=None, image=None, label=LABEL, image_suffix=".png"):
    """Writes a pair; arrays are saved, bytes are written as they are."""
    if image is None:
        image = noise(int(name[1:]) if seed is None else seed)
    row = {"name": name}
    for role, content, suffix in (("image", image, image_suffix), ("label", label, ".png")):
        path = folder / f"{name}_{role}{suffix}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            Pillow.fromarray(content).save(path)
        row[role] = str(path)
    return row


def make_splits(**splits):
    columns = ("image", "label", "name")
    return DatasetDict(
        {
            split: Dataset.from_dict({column: [row[column] for row in rows] for column in columns})
            .cast_column("image", Image())
            .cast_column("label", Image())
            for split, rows in splits.items()
        }
    )


def inspect(splits, space=SPACE):
    return inspect_pairs(splits, space, progress=False)


def refusal(splits, space=SPACE):
    with pytest.raises(DataError) as caught:
        inspect(splits, space)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What a sound set yields


def test_inspect_pairs__sound_set(tmp_path):
    taller = np.full((HEIGHT + 1, WIDTH), 7, np.uint8)
    rows = [make_pair(tmp_path, "f0"), make_pair(tmp_path, "f1", image=noise(1, HEIGHT + 1), label=taller)]
    found = inspect(make_splits(train=rows, test=[make_pair(tmp_path, "f2")]))
    assert [pair.name for pair in found.pairs["train"]] == ["f0", "f1"]
    assert found.train_id_counts("train", SPACE).tolist() == [[192 - 5 - 3, 5], [13 * 16, 0]]
    assert found.train_id_counts("test", SPACE).dtype == np.int64
    assert found.void_share("test", SPACE) == pytest.approx(3 / 192, abs=1e-15)
    assert found.sizes("train") == Counter({(12, 16): 1, (13, 16): 1})
    assert found.pairs["train"][0].label_counts == {0: 3, 7: 184, 26: 5}
    assert found.warnings == ()


def test_inspect_pairs__embedded_bytes_count_like_files(tmp_path):
    splits = make_splits(train=[make_pair(tmp_path, "f0"), make_pair(tmp_path, "f1")])
    splits.save_to_disk(tmp_path / "saved")
    embedded = load_from_disk(tmp_path / "saved")
    for row in ("f0", "f1"):
        (tmp_path / f"{row}_image.png").unlink()
    for pair, same in zip(inspect(embedded).pairs["train"], ["f0", "f1"], strict=True):
        assert pair.name == same
        assert pair.label_counts == {0: 3, 7: 184, 26: 5}


def test_inspect_pairs__order_is_the_rows_order_with_many_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "_THREADS", 8)
    rows = [
        make_pair(tmp_path, f"f{i}", label=np.full((HEIGHT, WIDTH), 7 if i % 3 else 26, np.uint8)) for i in range(40)
    ]
    found = inspect(make_splits(train=rows))
    assert [pair.name for pair in found.pairs["train"]] == [f"f{i}" for i in range(40)]
    assert found.train_id_counts("train", SPACE)[:, 1].tolist() == [0 if i % 3 else 192 for i in range(40)]


def test_inspect_pairs__few_pairs_are_in_flight(tmp_path, monkeypatch):
    """Embedded images that wait to be decoded fill the memory."""
    live, peaks = weakref.WeakSet(), []

    class Watched(ThreadPoolExecutor):
        def submit(self, *args):
            future = super().submit(*args)
            live.add(future)
            peaks.append(len(live))
            return future

    monkeypatch.setattr(checks, "ThreadPoolExecutor", Watched)
    monkeypatch.setattr(checks, "_THREADS", 2)
    inspect(make_splits(train=[make_pair(tmp_path, f"f{i}") for i in range(30)]))
    assert len(peaks) == 30
    assert max(peaks) <= 8


# One bad pair among many; each kind has its test in test_pair_files.py


def test_inspect_pairs__unknown_label_value(tmp_path):
    wrong = LABEL.copy()
    wrong[5, :4] = 200
    rows = [make_pair(tmp_path, "f0")] + [make_pair(tmp_path, f"f{i}", label=wrong) for i in (2, 3)]
    message = refusal(make_splits(train=rows))
    assert message.startswith(
        f"{tmp_path}/f2_label.png: expected only label values of `toy` (0, 7, 26); found 200 in 4 pixels; 2 file(s) "
        "have this value (and 1 more bad pair); correct the label"
    )
    assert "`--label_space`" in message


@pytest.mark.parametrize("threads", [1, 4])
def test_inspect_pairs__first_of_several_faults_by_split_then_row(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(checks, "_THREADS", threads)
    late = make_pair(tmp_path, "f9", label=LABEL[:-1])
    early = make_pair(tmp_path, "f1", label=b"")
    in_test = make_pair(tmp_path, "f0", label=b"")
    wrong = make_pair(tmp_path, "f4", label=LABEL + 100)
    splits = make_splits(train=[make_pair(tmp_path, "f5"), early, wrong, late], test=[in_test])
    assert refusal(splits) == (
        f"{early['label']}: expected a readable label file; found an empty file (0 bytes) (and 3 more bad pairs); "
        "fetch the file again or leave it out."
    )


@pytest.mark.parametrize(
    ("bad", "logged", "more"), [(1, 0, ""), (3, 2, "2 more bad pairs"), (25, 21, "24 more bad pairs")]
)
def test_inspect_pairs__every_fault_is_listed_up_to_twenty_others(tmp_path, caplog, bad, logged, more):
    rows = [make_pair(tmp_path, f"f{index}", label=b"") for index in range(bad)]
    message = refusal(make_splits(train=rows))
    assert message.startswith(rows[0]["label"])
    assert more in message
    lines = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert [line.partition(":")[0] for line in lines[:20]] == [row["label"] for row in rows[1:21]]
    assert lines[20:] == ["... and 4 more like these"] * (bad == 25)
    assert len(lines) == logged


@pytest.mark.parametrize(("make", "found"), ENDLESS)
@pytest.mark.parametrize("role", ["image", "label"])
def test_inspect_pairs__files_that_never_end(tmp_path, role, make, found):
    rows = [make_pair(tmp_path, "f0"), make_pair(tmp_path, "f1")]
    Path(rows[1][role]).unlink()
    make(Path(rows[1][role]))
    message = refusal(make_splits(train=rows))
    assert message.startswith(f"{rows[1][role]}: expected ")
    assert found in message


@pytest.mark.parametrize(
    "path", ["https://127.0.0.1:9/a.png", "hf://datasets/a/b/a.png", "zip://a.png::http://127.0.0.1:9/b"]
)
def test_inspect_pairs__addresses_are_not_asked(tmp_path, monkeypatch, path):
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda *words: asked.append(words))
    assert f"{path}: expected pictures on this machine" in refusal(
        make_splits(train=[{**make_pair(tmp_path, "f0"), "image": path}])
    )
    assert asked == []


def test_inspect_pairs__a_member_that_is_not_in_its_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as bundle:
        bundle.writestr("a.png", b"")
    row = {**make_pair(tmp_path, "f0"), "image": f"zip://b.png::{tmp_path}/data.zip"}
    assert "expected a readable image file; found " in refusal(make_splits(train=[row]))


def test_inspect_pairs__missing_file(tmp_path):
    row = make_pair(tmp_path, "f0")
    Path(row["label"]).unlink()
    message = refusal(make_splits(train=[row]))
    assert message.startswith(f"{row['label']}: expected a readable label file; found No such file or directory;")


def test_inspect_pairs__embedded_bytes_are_named_by_split_and_frame(tmp_path):
    row = make_pair(tmp_path, "f0")
    row["label"] = {"path": "f0.png", "bytes": Path(row["label"]).read_bytes()[:50]}
    assert refusal(make_splits(train=[row])).startswith("train/f0: expected a readable label file")


def test_inspect_pairs__truncation_is_noticed_where_pillow_was_told_to_tolerate_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    row = make_pair(tmp_path, "f0", image_suffix=".jpg")
    path = Path(row["image"])
    path.write_bytes(path.read_bytes()[:-100])
    assert "f0_image.jpg: expected a readable image file" in refusal(make_splits(train=[row]))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


# Faults of the whole set


def test_inspect_pairs__train_ids_where_label_ids_are_expected(tmp_path):
    label = np.array([0, 1, 2, 8, 10, 13, 255, 255], np.uint8).repeat(24).reshape(HEIGHT, WIDTH)
    message = refusal(make_splits(train=[make_pair(tmp_path, "f0", label=label)]), CITYSCAPES)
    assert message.startswith(
        "expected label ids of `cityscapes` (7..8, 11..13, 17, 19..28, 31..33); found no class above"
    )
    assert "(0..2, 8, 10, 13, 255), which looks like train ids; use `--label_space cityscapes_train_ids`" in message
    inspect(make_splits(train=[make_pair(tmp_path, "f0", label=label)]), CITYSCAPES.with_train_ids())


def test_inspect_pairs__train_ids_of_another_label_space(tmp_path):
    label = np.array([0, 1], np.uint8).repeat(96).reshape(HEIGHT, WIDTH)
    message = refusal(make_splits(train=[make_pair(tmp_path, "f0", label=label)]))
    assert "expected label ids of `toy` (7, 26); found no class above 1 in any label (0..1)" in message
    assert "use a label space that lists 0..1" in message


def test_inspect_pairs__label_ids_where_train_ids_are_expected(tmp_path):
    label = np.array([0, 7, 21, 26], np.uint8).repeat(48).reshape(HEIGHT, WIDTH)
    message = refusal(make_splits(train=[make_pair(tmp_path, "f0", label=label)]), CITYSCAPES.with_train_ids())
    assert "f0_label.png: expected only label values of `cityscapes` (0..18, 255); found 21 in 48 pixels" in message


def test_inspect_pairs__sparse_label_ids_are_no_train_ids(tmp_path):
    """Few classes, but one above the number of classes."""
    label = np.array([0, 7, 8, 23], np.uint8).repeat(48).reshape(HEIGHT, WIDTH)
    assert (
        inspect(make_splits(train=[make_pair(tmp_path, "f0", label=label)]), CITYSCAPES).void_share("train", CITYSCAPES)
        == 0.25
    )


def test_inspect_pairs__no_split_or_an_empty_one(tmp_path):
    assert refusal(DatasetDict()).startswith("expected at least one split; found none;")
    splits = make_splits(train=[make_pair(tmp_path, "f0")], validation=[])
    assert refusal(splits).startswith(
        "validation: expected at least one pair in every split; found none in `validation`"
    )


def test_inspect_pairs__name_twice(tmp_path):
    rows = [make_pair(tmp_path, "f0"), make_pair(tmp_path, "f1")]
    rows[1]["name"] = "f0"
    message = refusal(make_splits(train=rows))
    assert message == "train/f0: expected every frame name once in a split; found 2 pairs called `f0`; rename them."


def test_inspect_pairs__entirely_void_split(tmp_path):
    splits = make_splits(train=[make_pair(tmp_path, "f0")], test=[make_pair(tmp_path, "f1", label=LABEL * 0)])
    message = refusal(splits)
    assert message.startswith(
        "test: expected labelled pixels in every split, of `toy`; found only void in `test` (values 0)"
    )


def test_inspect_pairs__entirely_void_set_is_not_taken_for_train_ids(tmp_path):
    message = refusal(make_splits(train=[make_pair(tmp_path, "f0", label=LABEL * 0)]))
    assert message.startswith("train: expected labelled pixels in every split")


def test_inspect_pairs__the_same_image_in_two_splits(tmp_path):
    train = [make_pair(tmp_path, "f0"), make_pair(tmp_path, "f1")]
    # Other name, other file format, same pixels.
    test = [make_pair(tmp_path, "f7"), make_pair(tmp_path, "f8", seed=1, image_suffix=".bmp")]
    message = refusal(make_splits(train=train, test=test))
    assert message == (
        "test/f8: expected every image in one split; found the same pixels as train/f1; remove one of them: results "
        "on images seen in training prove nothing."
    )


# What only warns


def test_inspect_pairs__warnings(tmp_path, caplog):
    road = np.full((HEIGHT, WIDTH), 7, np.uint8)
    rows = [make_pair(tmp_path, f"f{i}", seed=seed, label=road) for i, seed in enumerate((0, 0, 2))]
    rows.append(make_pair(tmp_path, "f3", label=road * 0))
    rows.append(make_pair(tmp_path, "f5", image=noise(5, channels=4), label=road))
    with caplog.at_level(logging.WARNING):
        found = inspect(make_splits(train=rows, test=[make_pair(tmp_path, "f4", label=road)]))
    assert found.warnings == (
        "train: the same image more than once: f0 = f1.",
        "train: transparent pixels, laid on black (a fourth band needs `--channels 4`), in 1 of 5 images: f5.",
        "train: images without any labelled pixel: f3.",
        "train: no pixel of car; the model can't learn them from it.",
        "train: every labelled pixel is road: to answer it always is right, so that nothing is learnt and its scores "
        "are 100 %; list the rest as a class of its own, such as background, in place of void, in the `--label_space` "
        "file.",
    )
    assert tuple(record.message for record in caplog.records) == found.warnings


def test_inspect_pairs__classes_that_are_trained_and_not_measured(tmp_path):
    road = np.full((HEIGHT, WIDTH), 7, np.uint8)
    train, only_road, both = (make_pair(tmp_path, f"f{i}", label=one) for i, one in enumerate((LABEL, road, LABEL)))
    found = inspect(make_splits(train=[train], validation=[only_road], test=[both]))
    assert found.warnings == ("validation: no pixel of car; how well they are learnt isn't measured there.",)
    assert inspect(make_splits(validation=[only_road])).warnings == ()  # nothing is trained
    found = inspect(make_splits(train=[only_road], test=[both]))
    assert [line.partition(";")[0][:43] for line in found.warnings] == [
        "train: no pixel of car",
        "train: every labelled pixel is road: to ans",
    ]


# Cache


@pytest.fixture
def reads(monkeypatch):
    """Names of the pairs that are decoded."""
    names, inspect_pair = [], checks.inspect_pair

    def spy(split, row, **options):
        names.append(row["name"])
        return inspect_pair(split, row, **options)

    monkeypatch.setattr(checks, "inspect_pair", spy)
    return names


def assert_same(first, second):
    assert first.pairs.keys() == second.pairs.keys()
    assert first.warnings == second.warnings
    for split, pairs in first.pairs.items():
        for one, other in zip(pairs, second.pairs[split], strict=True):
            assert (one.name, one.size, one.image_digest) == (other.name, other.size, other.image_digest)
            assert one.label_counts == other.label_counts


@pytest.mark.parametrize("embedded", [False, True])
def test_inspect_pairs__cache_is_used_until_something_changes(tmp_path, cache, reads, embedded, caplog):
    rows = [make_pair(tmp_path, "f0", image=noise(0, channels=4)), make_pair(tmp_path, "f1", label=LABEL * 0)]

    def load():
        splits = make_splits(train=rows)
        if embedded:
            content = [{k: {"path": None, "bytes": Path(r[k]).read_bytes()} for k in ("image", "label")} for r in rows]
            splits = make_splits(train=[{**row, **files} for row, files in zip(rows, content, strict=True)])
        return splits

    first = inspect(load())
    assert reads == ["f0", "f1"]
    (file,) = (cache / "preflight").iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}\.json\.gz", file.name)
    written = file.stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        assert_same(first, inspect(load()))
    assert len(reads) == 2
    assert file.stat().st_mtime_ns == written
    assert "Preflight: no file has changed since the last one" in caplog.text
    assert "images without any labelled pixel: f1" in caplog.text
    assert "transparent pixels, laid on black (a fourth band needs `--channels 4`), in 1 of 2 images: f0" in caplog.text
    Pillow.fromarray(noise(5)).save(rows[1]["image"])  # another file
    inspect(load())
    assert len(reads) == 4
    other = LabelSpace("toy", SPACE.names, SPACE.colors, {7: 1, 26: 0, 0: 255})
    inspect(load(), other)
    assert len(reads) == 6


def test_inspect_pairs__a_fault_is_found_again_and_not_cached(tmp_path, cache, reads):
    splits = make_splits(train=[make_pair(tmp_path, "f0", label=LABEL + 1)])
    assert refusal(splits) == refusal(splits)
    assert reads == ["f0", "f0"]
    assert not list(cache.iterdir())


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "list", "counts", "rows", "nested"])
def test_inspect_pairs__damaged_cache_is_ignored_and_replaced(tmp_path, cache, reads, damage):
    splits = make_splits(train=[make_pair(tmp_path, "f0")])
    first = inspect(splits)
    (file,) = (cache / "preflight").iterdir()
    sound = file.read_bytes()
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 255
    contents = {"cut": sound[:100], "flip": bytes(flipped), "empty": b"", "text": b"no archive"}
    wrong = {"list": b"[]", "counts": b'{"train": [["f0", [12, 16], [1, 2], ""]]}', "rows": b'{"train": [1]}'}
    wrong["nested"] = b"[" * 100_000
    file.write_bytes(contents[damage] if damage in contents else gzip.compress(wrong[damage]))
    for _ in range(2):
        assert_same(first, inspect(splits))
        assert reads == ["f0", "f0"]
    assert [entry.name for entry in (cache / "preflight").iterdir()] == [file.name]


@pytest.mark.parametrize("make", [make_fifo, link_to_device, Path.mkdir])
def test_inspect_pairs__a_cache_that_is_no_file_is_ignored(tmp_path, cache, reads, make):
    splits = make_splits(train=[make_pair(tmp_path, "f0")])
    first = inspect(splits)
    (file,) = (cache / "preflight").iterdir()
    file.unlink()
    make(file)
    assert_same(first, inspect(splits))
    assert reads == ["f0", "f0"]


@pytest.mark.parametrize("place", ["/dev/null/cache", "/proc/none", "~nobody_of_this_name/cache"])
def test_inspect_pairs__no_place_for_a_cache_costs_nothing(tmp_path, monkeypatch, place):
    monkeypatch.setenv("HF_URBANSEG_CACHE", place)
    assert len(inspect(make_splits(train=[make_pair(tmp_path, "f0")])).pairs["train"]) == 1


def test_inspect_pairs__cache_that_cannot_be_written_costs_nothing(tmp_path, cache):
    (cache / "preflight").write_text("")
    assert len(inspect(make_splits(train=[make_pair(tmp_path, "f0")])).pairs["train"]) == 1


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "kitti48").is_dir(), reason=f"no KITTI frames at {DATA}/kitti48")
def test_inspect_pairs__kitti_frames():
    training = DATA / "kitti48" / "training"
    names = sorted(path.stem for path in (training / "image_2").iterdir())
    row = {
        role: [str(training / folder / f"{n}.png") for n in names]
        for role, folder in (("image", "image_2"), ("label", "semantic"))
    }
    dataset = Dataset.from_dict({**row, "name": names}).cast_column("image", Image()).cast_column("label", Image())
    found = inspect(DatasetDict(train=dataset), CITYSCAPES)
    assert found.sizes("train") == Counter({(375, 1242): 48})
    assert (found.train_id_counts("train", CITYSCAPES).sum(0) > 0).all()
    assert found.void_share("train", CITYSCAPES) == pytest.approx(0.05, abs=0.01)
    assert found.warnings == ()
