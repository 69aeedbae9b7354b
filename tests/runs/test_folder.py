"""A run's folder read back: what is there, what isn't, and what is damaged."""

import hashlib
import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.errors import DataError, ModelError, UrbanSegError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.runs.folder import (
    FRAMES,
    LABEL_SPACE,
    MEASURED,
    METRICS,
    RECIPE,
    SPLITS,
    RunFolder,
    describe_data,
    per_class,
    per_image,
)

READERS = ("read_metrics", "read_recipe", "read_splits", "read_label_space", "read_class_weights", "read_frames")


@pytest.fixture
def data():
    splits = {"train": ["000001", "b"], "test": ["c"]}
    rows = DatasetDict({split: Dataset.from_dict({"name": names}) for split, names in splits.items()})
    return LoadedData(rows, CITYSCAPES, "kitti", ("cut",))


def test_run_folder__nothing_there(tmp_path):
    run = RunFolder(str(tmp_path / "none"))
    assert [getattr(run, reader)() for reader in READERS] == [None] * len(READERS)
    assert run.read_counts("test") is None
    assert run.list_counted_splits() == []
    assert not run.is_finished


def test_run_folder__reads_back_what_it_wrote(tmp_path, data):
    run = RunFolder(tmp_path)
    counts = ImageCounts(("c",), ("road", "car"), *(np.array([[3, 1]]) for _ in range(3)))
    run.write_inputs({"seed": 1, "label_space": None}, {"max_steps": 4}, data, {"test": {"c": ["1f", "2e"]}}, {})
    run.write_changes(2, ["`seed` 1, then 2 (recipe.yaml)"])
    run.write_changes(3, [])
    assert not run.is_finished
    run.write_counts("test", counts, {"protocol": "single scale", "data": "kitti"})
    run.write_metrics({"splits": {"test": {"mean_iou": 0.5}}, "data": describe_data(data)})
    assert run.is_finished
    assert run.read_recipe() == {"seed": 1, "label_space": None}
    assert run.read_splits() == {"train": ["000001", "b"], "test": ["c"]}  # words, not numbers
    assert run.read_label_space() == CITYSCAPES
    assert run.read_training_arguments() == {"max_steps": 4}
    assert run.read_frames() == {"test": {"c": ["1f", "2e"]}}
    assert [change["step"] for change in run.read_changes()] == [2, 3]
    assert run.read_metrics()["data"] == {"name": "kitti", "images": {"train": 2, "test": 1}, "notes": ["cut"]}
    read, said = run.read_counts("test")
    assert read.to_dict() == counts.to_dict()
    assert (said["protocol"], said["data"]) == ("single scale", "kitti")
    assert run.list_counted_splits() == ["test"]
    assert run.has(per_image("test"))
    assert per_class("test", ".md") == "per_class_test.md"


@pytest.mark.parametrize("content", ["{", "[]", '{"loss": 1}', '{"splits": []}', '{"splits": {"test": 0.5}}'])
def test_read_metrics__damaged_names_the_file(tmp_path, content):
    (tmp_path / METRICS).write_text(content)
    with pytest.raises(DataError) as caught:
        RunFolder(tmp_path).read_metrics()
    assert str(caught.value).startswith(f"{tmp_path / METRICS}: expected ")


@pytest.mark.parametrize(("name", "reader"), [(RECIPE, "read_recipe"), (SPLITS, "read_splits")])
@pytest.mark.parametrize("content", ["a: [", "- a", "a: 1\na: 2\n"])
def test_read__a_damaged_yaml_file_names_the_file(tmp_path, name, reader, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        getattr(RunFolder(tmp_path), reader)()
    assert str(caught.value).startswith(f"{tmp_path / name}: expected ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "{}", "[]", "3", '{"a": 1}'])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        (per_image("test"), lambda run: run.read_counts("test")),
        (LABEL_SPACE, RunFolder.read_label_space),
        (MEASURED, RunFolder.read_source),
    ],
)
def test_read__a_damaged_json_file_names_the_file(tmp_path, name, read, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UrbanSegError) as caught:
        read(RunFolder(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path / name}: expected ")


@pytest.mark.parametrize(
    "digests", ["null", "[]", "3", "{}", '"1f"', '["1f"]', "[1, 2]", '["1f", null]', '{"a": 1, "b": 2}']
)
def test_read_frames__without_two_digests(tmp_path, digests):
    (tmp_path / FRAMES).write_text(f'{{"train": {{"a": ["1f", "2e"], "b": {digests}}}}}')
    with pytest.raises(DataError, match=r"frames\.json: expected frames of each split with two digests; .*, or delete"):
        RunFolder(tmp_path).read_frames()


def test_read_frames__of_an_older_versions_start_names_alone_are_known(tmp_path):
    frames = {"train": {"a": ["1f", "2e"]}, "trained_before": {"b": [], "c": ["1f", "2e"]}}
    (tmp_path / FRAMES).write_text(json.dumps(frames))
    assert RunFolder(tmp_path).read_frames() == frames


def test_read_metrics__a_number_that_is_none(tmp_path):
    (tmp_path / METRICS).write_text('{"splits": {"test": {"mean_iou": NaN}}}')
    assert RunFolder(tmp_path).read_metrics() == {"splits": {"test": {"mean_iou": None}}}
    assert json.loads('{"a": NaN}')  # which json itself would let pass


def test_check_weights__scores_of_other_weights(tmp_path):
    run, file = RunFolder(tmp_path), tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    measured = hashlib.sha256(b"weights").hexdigest()
    run.write_metrics(
        {"splits": {"test": {"weights_sha256": measured}, "validation": {}, "train": {"weights_sha256": None}}}
    )
    run.check_weights()
    file.write_bytes(b"Weights")
    run.check_weights("validation", "train")  # not recorded
    for splits in ((), ("test",)):
        with pytest.raises(ModelError) as caught:
            run.check_weights(*splits)
        assert str(caught.value) == (
            f"{file}: expected the weights that test was measured with ({measured[:8]}...); found "
            f"{hashlib.sha256(b'Weights').hexdigest()[:8]}...; put them back, or measure again: "
            f"`urbanseg evaluate {tmp_path} --output {tmp_path} --split test`."
        )
    file.unlink()  # a measurement kept without its model
    run.check_weights()
