"""Whose metrics.json a measurement may change, and what of it stays."""

import json

import pytest
from datasets import Dataset

from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.runs.folder import RunFolder
from hf_urbanseg.runs.remeasured import check_output, is_own_folder, merge_metrics

SPACE = LabelSpace("two", ("road", "car"), ((1, 1, 1), (2, 2, 2)), {0: 0, 1: 1})
TRAINED = {
    "splits": {
        "validation": {"mean_iou": 0.25, "iou": {"road": 0.5, "car": 0}},
        "test": {"mean_iou": 0.5, "iou": {"road": 1, "car": 0}, "confidence_interval": {"low": 0.4}},
    },
    "selection": {"exported_step": 4, "by": "mean_iou of validation"},
    "data": {"name": "kitti", "images": {"train": 2}, "notes": []},
    "training": {"seconds": 9, "seed": 1},
    "environment": {"device": "a GPU"},
    "added_by": "hand",
}


def _rows(*names):
    return Dataset.from_dict({"name": names})


@pytest.fixture
def data():
    names = {"train": ["a", "b"], "test": ["000012_10", "c"], "validation": ["e"]}
    return LoadedData({split: _rows(*some) for split, some in names.items()}, SPACE, "kitti", ("cut",))


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(TRAINED))
    (folder / "model.safetensors").write_bytes(b"")
    # Written by hand: YAML would read the unquoted name as a number.
    (folder / "splits.yaml").write_text("train: [a, b]\ntest: [c, 000012_10]\nvalidation: [e]\n")
    return folder


def test_merge_metrics__only_the_split_changes(run, data):
    found = merge_metrics(RunFolder(run), "test", {"mean_iou": 0.75}, {"device": "a laptop"}, data)
    entry = {"mean_iou": 0.75, "environment": {"device": "a laptop"}}  # nothing is left of the entry before
    assert found == TRAINED | {"splits": {"validation": TRAINED["splits"]["validation"], "test": entry}}


def test_merge_metrics__a_split_that_was_not_measured(run, data):
    content = TRAINED | {"splits": {"validation": TRAINED["splits"]["validation"]}}
    (run / "metrics.json").write_text(json.dumps(content))
    found = merge_metrics(RunFolder(run), "test", {"mean_iou": 0.75}, {}, data)
    assert found["splits"] == content["splits"] | {"test": {"mean_iou": 0.75, "environment": {}}}


def test_merge_metrics__none_before(run, data):
    (run / "metrics.json").unlink()
    # No `environment` but the split's: that of training isn't known.
    expected = {
        "splits": {"test": {"mean_iou": 0.75, "environment": {"device": "x"}}},
        "data": {"name": "kitti", "images": {"train": 2, "test": 2, "validation": 1}, "notes": ["cut"]},
    }
    assert merge_metrics(RunFolder(run), "test", {"mean_iou": 0.75}, {"device": "x"}, data) == expected
    # A model that came without splits may have been trained on anything.
    (run / "splits.yaml").unlink()
    assert merge_metrics(RunFolder(run), "test", {"mean_iou": 0.75}, {"device": "x"}, data) == {
        "splits": expected["splits"]
    }


def test_is_own_folder__by_place_and_not_by_spelling(run, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    for model in (str(run), "run", "./run/", "link"):
        assert is_own_folder(run, model)
    assert not is_own_folder(tmp_path, str(run))
    assert not is_own_folder(tmp_path / "user" / "name", "user/name")  # a Hub id


def test_check_output__own_folder(run, data):
    check_output(run, str(run), data, "test")


@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json", "recipe.yaml"])
def test_check_output__another_models_folder(tmp_path, data, run, file):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / file).write_text("{}")
    with pytest.raises(ConfigError, match=rf"other: expected .*; found another model's \({file}\); name another `--o"):
        check_output(tmp_path / "other", str(run), data, "test")
    with pytest.raises(ConfigError, match="another model's"):
        check_output(run, "user/name", data, "test")


def test_check_output__numbers_of_a_training_run_alone(tmp_path, data, run):
    (tmp_path / "metrics.json").write_text(json.dumps(TRAINED))
    with pytest.raises(ConfigError, match=r"metrics\.json of a training run"):
        check_output(tmp_path, str(run), data, "test")


@pytest.mark.parametrize("content", [None, {"splits": {"test": {"mean_iou": 1}}, "environment": {}}])
def test_check_output__new_folder_and_that_of_a_measurement(tmp_path, data, run, content):
    folder = tmp_path / "numbers"
    if content:
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps(content))
        (folder / "config.json").write_text("{}")
    check_output(folder, str(run), data, "test")


def test_check_output__scores_of_other_classes(run, data):
    content = {"splits": {"test": {"iou": {"way": 1, "rest": 0, "void": 0}}}}
    (run / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"metrics.json: expected scores .* 2 classes for test; found those of 3 oth"):
        check_output(run, str(run), data, "test")


@pytest.mark.parametrize(
    ("names", "found"), [(["c", "x"], "2 frames, 1 of them others"), (["c"], "1 frames, 0 of them others")]
)
def test_check_output__other_frames_in_the_own_folder(run, data, names, found):
    other = LoadedData(data.splits | {"test": _rows(*names)}, SPACE, "camvid", ())
    with pytest.raises(ConfigError, match=f"splits.yaml: expected the 2 frames of test .*found {found}"):
        check_output(run, str(run), other, "test")
    check_output(run, str(run), other, "validation")  # whose frames are the run's
    (run / "splits.yaml").unlink()
    check_output(run, str(run), other, "test")  # nothing is known


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"splits": {"test"', "JSON; found "),
        ("", "JSON; found "),
        ("[]", "a JSON object; found list"),
        ('{"loss": 1}', "the metrics of a run, with `splits`; found something else"),
        ('{"splits": []}', "the metrics of a run, with `splits`; found something else"),
        ('{"splits": {"test": 0.5}}', "the metrics of a run, with `splits`; found something else"),
    ],
)
def test_read_metrics__damaged_is_refused_and_kept(tmp_path, data, run, text, found):
    for folder, model in ((run, run), (tmp_path, run)):
        path = folder / "metrics.json"
        path.write_text(text)
        for read in (lambda: RunFolder(folder).read_metrics(), lambda: check_output(folder, str(model), data, "test")):  # noqa: B023
            with pytest.raises(DataError, match=rf"metrics.json: expected {found}"):
                read()
        assert path.read_text() == text
