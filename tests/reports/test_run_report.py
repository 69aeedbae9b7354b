"""Which pictures a run gets, what they show, and what is left alone in their folders."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageColumn
from PIL import Image

from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.errors import DataError
from hf_urbanseg.inference.evaluation import Measurement
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.metrics.image_counts import ImageCountsBuilder
from hf_urbanseg.reports import run_report
from hf_urbanseg.reports.run_report import pick_evenly, save_pictures
from hf_urbanseg.runs.folder import RunFolder

FEATURES = Features({"image": ImageColumn(), "label": ImageColumn(), "name": Value("string")})
# Wrong pixels, road called car, of 100 in each of five frames.
WRONG = {"a": 10, "b": 90, "train/c": 50, ".d": 0, "e": 70}


class Known:
    """Predicts the frames above from their red channel, which holds the number of wrong pixels."""

    def __init__(self):
        self.asked = []

    def predict(self, images):
        wrong = [np.asarray(image)[0, 0, 0] for image in images]
        self.asked += wrong
        return [_prediction(count) for count in wrong]


def _prediction(wrong):
    return np.where(np.arange(100) < wrong, 13, 0).astype(np.uint8).reshape(10, 10)


@pytest.fixture
def data():
    road = Image.fromarray(np.full((10, 10), 7, np.uint8))
    rows = {
        "image": [Image.new("RGB", (10, 10), (wrong, 0, 0)) for wrong in WRONG.values()],
        "label": [road] * len(WRONG),
        "name": list(WRONG),
    }
    splits = DatasetDict({"test": Dataset.from_dict(rows, features=FEATURES)})
    return LoadedData(splits, CITYSCAPES, "five", ())


@pytest.fixture
def measurement():
    builder = ImageCountsBuilder(CITYSCAPES.names)
    total = 0
    for name, wrong in WRONG.items():
        matrix = np.zeros((19, 19), np.int64)
        matrix[0, 0], matrix[0, 13] = 100 - wrong, wrong
        builder.add(name, matrix)
        total = total + matrix
    return Measurement(total, builder.build(), Counter({(10, 10): 5}))


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn, by folder and file; the picture itself as ever."""
    seen, draw = {}, run_report.save_comparison

    def save(path, image, prediction, label, space, title, note=""):
        seen[f"{path.parent.name}/{path.name}"] = (np.asarray(image)[0, 0, 0], prediction, label, title, note)
        draw(path, image, prediction, label, space, title, note)

    monkeypatch.setattr(run_report, "save_comparison", save)
    return seen


def _files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_save_pictures__failures_and_overlays_of_their_own_frames(tmp_path, data, measurement, drawn):
    predictor = Known()
    save_pictures(RunFolder(tmp_path), predictor, data, "test", measurement, 2)
    # The three of lowest mIoU; b is the worst for road and car, too. The first and the last of the split.
    c = next(name for name in drawn if "train_c" in name)
    assert _files(tmp_path) == {"failures/b.jpg", "failures/e.jpg", c, "overlays/a.jpg", "overlays/e.jpg"}
    assert c.startswith("failures/train_c-")
    for name, wrong in (("failures/b.jpg", 90), ("failures/e.jpg", 70), (c, 50), ("overlays/a.jpg", 10)):
        image, prediction, label, title, _ = drawn[name]
        assert image == wrong  # the row of that name, not another one
        assert np.array_equal(prediction, _prediction(wrong))
        assert (label == 0).all()  # train ids, not label ids
        assert title.startswith("test: ")
    assert drawn["overlays/a.jpg"][3:] == ("test: a", "")
    # IoU 10 % of road, 0 of car.
    assert drawn["failures/b.jpg"][3] == "test: b, mIoU 5.00 %"
    assert drawn["failures/b.jpg"][4].splitlines() == [
        "lowest mIoU of 5 images",
        "worst for road: IoU 10.0 %, 90 pixels missed, 0 claimed falsely",
        "worst for car: IoU 0.0 %, 0 pixels missed, 90 claimed falsely",
    ]
    assert sorted(predictor.asked) == [10, 50, 70, 90]  # once each, e for both of its pictures


@pytest.mark.parametrize(("failures", "expected"), [(0, set()), (1, {"failures/b.jpg"})])
def test_save_pictures__as_many_failures_as_asked_for(tmp_path, data, measurement, failures, expected):
    predictor = Known()
    save_pictures(RunFolder(tmp_path), predictor, data, "test", measurement, 0, failures)
    assert _files(tmp_path) == expected
    assert len(predictor.asked) == len(expected)


def test_save_pictures__replaces_its_own_and_no_others(tmp_path, data, measurement):
    save_pictures(RunFolder(tmp_path), Known(), data, "test", measurement, 5)
    before = _files(tmp_path)
    theirs = {"failures/notes.md", "failures/photo.png", "failures/broken.png", "overlays/photo.png"}
    for name in theirs:
        (tmp_path / name).write_bytes(b"mine")
    for folder in ("failures", "overlays"):
        Image.new("RGB", (2, 2)).save(tmp_path / folder / "photo.png")
    save_pictures(RunFolder(tmp_path), Known(), data, "test", measurement, None, 1)
    kept = {name for name in before if name.startswith("overlays/")}
    assert len(kept) == 5
    assert _files(tmp_path) == theirs | kept | {"failures/b.jpg"}
    save_pictures(RunFolder(tmp_path), Known(), data, "test", measurement, 0, 0)
    assert _files(tmp_path) == theirs


def test_save_pictures__no_room_is_one_line(tmp_path, data, measurement):
    (tmp_path / "failures").write_text("a file")
    with pytest.raises(DataError, match="a place to write to"):
        save_pictures(RunFolder(tmp_path), Known(), data, "test", measurement, 0)


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [(10, 0, set()), (10, 1, {0}), (10, 2, {0, 9}), (11, 3, {0, 5, 10}), (3, 8, {0, 1, 2}), (1, 4, {0})],
)
def test_pick_evenly__ends_and_between(length, count, expected):
    assert pick_evenly(length, count) == expected
