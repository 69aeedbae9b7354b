"""What people keep on the Hub in ways of their own: configurations, odd columns, odd pictures. Right, or one line."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from datasets import Array2D, ClassLabel, Image
from datasets import config as datasets_config
from huggingface_hub import constants
from made_pictures import contents, encode, mask, noise, parquet
from PIL import Image as PillowImage

from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.errors import DataError

NAMES = {"id2label.json": b'{"0": "unlabeled", "1": "flat-road", "2": "void-ground"}'}
MODES = [False, True]
TRAIN, TEST = "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"
TWO = """---
configs:
- config_name: fine
  data_files: [{split: train, path: fine/train.parquet}, {split: test, path: fine/test.parquet}]
- config_name: coarse
  data_files: [{split: train, path: coarse/train.parquet}]
---
"""


@pytest.fixture
def two(upload):
    return upload({
        "README.md": TWO.encode(), "fine/train.parquet": parquet(4), "fine/test.parquet": parquet(2, 4),
        "coarse/train.parquet": parquet(5, 50), **NAMES,
    })  # fmt: skip


def load(streaming=False, **options):
    return load_data(dataset="user/set", streaming=streaming, **{"validation_fraction": 0, **options})


@pytest.mark.parametrize("streaming", MODES)
def test_load__a_configuration(two, streaming):
    fine, coarse = (load(streaming, dataset_config=name) for name in ("fine", "coarse"))
    assert {split: len(rows) for split, rows in fine.splits.items()} == {"train": 4, "test": 2}
    assert {split: len(rows) for split, rows in coarse.splits.items()} == {"train": 5}
    assert contents(fine.splits["train"]) == [encode(noise(i)) for i in range(4)]
    assert contents(coarse.splits["train"]) == [encode(noise(50 + i)) for i in range(5)]
    assert fine.label_space == coarse.label_space
    assert (fine.name, coarse.name) == ("user/set", "user/set")
    assert "configuration fine of the set" in fine.notes
    assert "configuration coarse of the set" in coarse.notes


@pytest.mark.parametrize("streaming", MODES)
@pytest.mark.parametrize(
    ("config", "words"), [(None, "'fine', 'coarse'"), ("medium", "'medium' not found. Available: ['fine', 'coarse']")]
)
def test_load__a_configuration_must_be_named_and_known(two, streaming, config, words):
    with pytest.raises(DataError) as bad:
        load(streaming, dataset_config=config)
    line = str(bad.value)
    assert line.startswith("user/set: expected a Hub data set that can be read; found ValueError: ")
    assert words in line
    assert line.endswith("; correct the id, `--dataset_revision` or `--dataset_config`, whichever it means.")


@pytest.mark.parametrize("streaming", MODES)
def test_load__of_hundreds_of_configurations_the_line_stays_short(upload, streaming):
    lines = [f"- {{config_name: c{i:03d}, data_files: c{i:03d}.parquet}}" for i in range(300)]
    upload({"README.md": "\n".join(["---", "configs:", *lines, "---"]).encode(), "c000.parquet": parquet(1)})
    with pytest.raises(DataError, match=r"'c000', 'c001', [^\n]*`--dataset_config`") as bad:
        load(streaming)
    assert len(str(bad.value)) < 400


def test_load__a_configuration_of_a_revision(two, upload):
    old = two.repository("user/set", "dataset").branches["main"]
    upload({"coarse/train.parquet": parquet(3, 70)})
    for streaming in MODES:
        assert len(load(streaming, dataset_config="coarse").splits["train"]) == 3
        assert len(load(streaming, dataset_config="coarse", dataset_revision=old).splits["train"]) == 5


def test_load__offline_a_configuration_from_an_earlier_download(two, monkeypatch):
    online = load(dataset_config="coarse")
    for module in (constants, datasets_config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    offline = load(dataset_config="coarse")
    assert contents(offline.splits["train"]) == contents(online.splits["train"])
    assert offline.label_space == online.label_space
    with pytest.raises(DataError, match=r"for config 'fine' .*in the cache: .*coarse.*; correct .*`--dataset_config`"):
        load(dataset_config="fine")


def test_load__a_configuration_of_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files = {"README.md": TWO.encode(), "fine/train.parquet": parquet(4), "fine/test.parquet": parquet(2, 4),
             "coarse/train.parquet": parquet(5, 50), **NAMES}  # fmt: skip
    for path, content in files.items():
        (tmp_path / "set" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / path).write_bytes(content)
    loaded = load_data(dataset=str(tmp_path / "set"), dataset_config="coarse", validation_fraction=0)
    assert contents(loaded.splits["train"]) == [encode(noise(50 + i)) for i in range(5)]
    with pytest.raises(DataError, match=r"set: .*'fine', 'coarse'.*; correct the folder or `--dataset_config`"):
        load_data(dataset=str(tmp_path / "set"))


@pytest.mark.parametrize("streaming", MODES)
def test_load__unlabeled_of_another_set_is_in_no_class(upload, streaming, tmp_path, caplog):
    upload({TRAIN: parquet(), **NAMES})
    loaded = load(streaming)
    assert loaded.label_space.names == ("flat-road", "void-ground")
    assert "void by name (or id -1), so in no loss and no score: `unlabeled` (id 0)" in caplog.text
    pixels = np.stack([mask(i) for i in range(4)])
    counts = inspect_pairs(loaded.splits, loaded.label_space, sampled=True).train_id_counts("train", loaded.label_space)
    assert counts.sum(0).tolist() == [(pixels == 1).sum(), (pixels == 2).sum()]
    caplog.clear()
    (tmp_path / "mine.json").write_text(json.dumps({"id2label": {"0": "unlabeled", "1": "a", "2": "b"}, "void": [2]}))
    assert load(streaming, label_space=str(tmp_path / "mine.json")).label_space.names == ("unlabeled", "a")
    assert "void" not in caplog.text


@pytest.mark.parametrize("streaming", MODES)
def test_load__own_label_space_wins_over_names(upload, streaming, caplog):
    classes = [{"name": name, "color": [i, 0, 0]} for i, name in enumerate(("unlabeled", "a", "b"))]
    upload({TRAIN: parquet(), **NAMES, "label_space.json": json.dumps({"classes": classes}).encode()})
    assert load(streaming).label_space.names == ("unlabeled", "a", "b")
    assert "void" not in caplog.text


def rotated(i):
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    return encode(noise(i), "JPEG", exif=exif)


@pytest.mark.parametrize("streaming", MODES)
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": lambda i: encode(np.dstack([mask(i) + k for k in range(3)]))}, "equal ones; found colours (and 3"),
        ({"image": rotated}, "the same EXIF orientation in an image and its label; found 6 in the image and 1 in the"),
        ({"label": lambda i: encode(mask(i, (40, 60)))}, "a label as large as its image, 20x30 (height x width); "
         "found 40x60"),
        ({"label": lambda i: encode(mask(i) + 5)}, "expected only label values of `set` (0..2, 255); found 5 in"),
    ],
)  # fmt: skip
def test_inspect_pairs__pictures_of_the_hub_that_would_train_wrongly(upload, streaming, columns, message):
    upload({TRAIN: parquet(**columns), **NAMES})
    loaded = load(streaming)
    with pytest.raises(DataError) as bad:
        inspect_pairs(loaded.splits, loaded.label_space, sampled=True)
    assert message in str(bad.value)
    assert "\n" not in str(bad.value)


NO_PICTURES = "expected an image column named label, labels, annotation, "
ARRAY = {"label": Array2D((20, 30), "uint8")}
TWO_CLASSES = {"label": ClassLabel(names=["a", "b"])}
RENAMED = {"annotation": lambda i: encode(mask(i)), "label": None, "features": {"annotation": Image()}}
OTHER_COLUMNS = "found files of different columns ("
EMPTY = ("corresponds to no data", "frames in every split; found none in ")


@pytest.mark.parametrize("streaming", MODES)
@pytest.mark.parametrize(
    ("files", "messages"),
    [
        ({TRAIN: parquet(label=mask, features=ARRAY)}, NO_PICTURES),
        ({TRAIN: parquet(label=lambda i: i % 2, features=TWO_CLASSES)}, NO_PICTURES),
        ({TRAIN: parquet(label=None)}, NO_PICTURES),
        ({TRAIN: parquet(0)}, EMPTY),
        ({TRAIN: parquet(), TEST: parquet(0)}, EMPTY),
        # A stream is not cut, its splits may differ, and a row is judged when it is read.
        ({TRAIN: parquet(1)}, ("at least two frames or scenes to split; found 1 frames in 1 scene", None)),
        ({TRAIN: parquet(), TEST: parquet(**RENAMED)}, (OTHER_COLUMNS, None)),
        ({TRAIN: parquet(), TEST: parquet(extra=int)}, (OTHER_COLUMNS, None)),
        ({TRAIN: parquet(label=[encode(mask(0)), None, None, None])}, (
            "label in every row; found empty ones in train", None)),
        ({TRAIN: parquet(), TRAIN[:-8] + "2.parquet": parquet(**RENAMED)}, (
            OTHER_COLUMNS, "expected `label` Image(mode=None, decode=True) in every file, as in user/set/")),
        ({TRAIN: parquet(label=[None] * 4)}, "a labelled split named train, validation or test; found train"),
    ],
)  # fmt: skip
def test_load__rows_and_columns_that_do_not_fit(upload, streaming, files, messages):
    upload({**files, **NAMES})
    message = messages if isinstance(messages, str) else messages[streaming]
    with pytest.raises(DataError) if message else nullcontext() as bad:
        load(streaming, validation_fraction=0.25)
    if not message:
        return
    assert str(bad.value).startswith("user/set")
    assert message in str(bad.value)
    assert "\n" not in str(bad.value)


def test_load__a_local_folder_is_not_blamed_on_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.parquet").write_bytes(b"<html>please log in</html>")
    with pytest.raises(DataError, match="found a damaged or unsuitable file"):
        load_data(dataset=str(tmp_path / "set"))
    (tmp_path / "set" / "README.md").write_text("---\nconfigs: [{config_name: a, data_files: {train: b}}]\n---\n")
    with pytest.raises(DataError, match=r"set: .* found ValueError: Expected data_files .*; correct the folder"):
        load_data(dataset=str(tmp_path / "set"))
