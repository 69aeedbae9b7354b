from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from hf_urbanseg.errors import ConfigError, DataError, ModelError
from hf_urbanseg.inference.plan import PLAIN, PredictionPlan
from hf_urbanseg.json_yaml import read_json, write_json
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.models.build import build_config, build_random_model
from hf_urbanseg.runs.measured import load_measurement, name_runs
from hf_urbanseg.runs.scores import describe_scores


def draw_pixels(seed, right=0.6, images=6, classes=5):
    """Labels (255 among them) and predictions that are right with the probability `right`; class 4 nowhere."""
    labels = np.random.default_rng(0).integers(0, classes - 1, (images, 20, 30))
    labels[:, :3] = 255
    rng = np.random.default_rng(seed)
    guess = rng.integers(0, classes - 1, labels.shape)
    return labels, np.where((rng.random(labels.shape) < right) & (labels != 255), labels, guess)


def count(labels, predictions, space=CITYSCAPES):
    total = space.num_labels
    matrices = np.stack(
        [
            np.bincount(total * label[label != 255] + prediction[label != 255], minlength=total**2).reshape(
                total, total
            )
            for label, prediction in zip(labels, predictions, strict=True)
        ]
    )
    names = tuple(f"frame{i}" for i in range(len(labels)))
    counts = ImageCounts(names, space.names, np.einsum("nii->ni", matrices), matrices.sum(2), matrices.sum(1))
    return counts, matrices.sum(0)


def write_run(folder, seed=1, size="tiny", right=0.6, split="test", plan=PLAIN, inputs=((375, 1242, 6),), **overrides):
    folder.mkdir(parents=True, exist_ok=True)
    counts, matrix = count(*draw_pixels(seed, right))
    said = {"protocol": "single scale", "data": "kitti", "plan": asdict(plan), "inputs": inputs}
    content = {"split": split, **said, **counts.to_dict()}
    write_json(folder / f"per_image_{split}.json", content)
    write_json(folder / "metrics.json", {"splits": {split: describe_scores(matrix, CITYSCAPES, 0)}})
    build_config(size, CITYSCAPES, **overrides).to_json_file(folder / "config.json")
    return folder


def test_load_measurement__another_model_than_was_measured(tmp_path):
    folder = write_run(tmp_path)
    metrics = read_json(folder / "metrics.json")
    metrics["splits"]["test"]["weights_sha256"] = "0" * 64
    write_json(folder / "metrics.json", metrics)
    load_measurement(folder, "test")  # measured elsewhere: no model is here
    (folder / "model.safetensors").write_bytes(b"another")
    with pytest.raises(ModelError, match="expected the weights that test was measured with"):
        load_measurement(folder, "test")


def test_load_measurement__scores_equal_scikit_learn(tmp_path):
    run = load_measurement(write_run(tmp_path / "first", seed=3), "test")
    labels, predictions = draw_pixels(3)
    valid = labels != 255
    expected = jaccard_score(labels[valid], predictions[valid], labels=range(4), average=None)
    np.testing.assert_allclose(run.iou[:4], expected, rtol=1e-12)
    assert np.isnan(run.iou[4:]).all()
    assert run.mean_iou == pytest.approx(expected.mean(), rel=1e-12)
    assert (run.name, run.protocol, run.data) == ("first", "single scale", "kitti")


def test_load_measurement__cost_is_that_of_the_report(tmp_path):
    run = load_measurement(write_run(tmp_path / "b0", size="b0"), "test")
    assert run.macs / 1e9 == pytest.approx(15.579, abs=5e-4)
    with torch.device("meta"):
        model = build_random_model("b0", CITYSCAPES)
    assert run.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_load_measurement__cost_counts_every_pass_at_its_own_scale(tmp_path):
    """Convolutions alone, at sizes that halve evenly: cost goes with the area, so that twice the sides are four."""
    network = {"architecture": "unet", "size": "tiny"}
    one = load_measurement(write_run(tmp_path / "one", **network, inputs=[[64, 128, 6]]), "test").macs
    plan = PredictionPlan(ratios=(1.0, 2.0), flip=True)
    inputs = [[*size, count] for size, count in plan.count_inputs((64, 128), {(50, 100): 6}).items()]
    several = load_measurement(write_run(tmp_path / "several", **network, plan=plan, inputs=inputs), "test")
    assert several.macs == pytest.approx(2 * (1 + 4) * one, rel=1e-9)
    assert several.plan == plan


@pytest.mark.parametrize("said", [{}, {"inputs": []}, {"inputs": [[0, 8, 1]]}, {"inputs": [["a"]]}, {"plan": {"x": 1}}])
def test_load_measurement__without_its_passes_says_how_to_measure_again(tmp_path, said):
    path = write_run(tmp_path / "run") / "per_image_test.json"
    content = read_json(path)
    write_json(path, content | said if said else {key: content[key] for key in content if key != "inputs"})
    with pytest.raises(DataError, match=r"again: `urbanseg evaluate MODEL --output \S+/run --split test`"):
        load_measurement(tmp_path / "run", "test")


@pytest.mark.parametrize("name", ["per_image_test.json", "metrics.json", "config.json"])
def test_load_measurement__a_missing_file_is_named_with_what_writes_it(tmp_path, name):
    (write_run(tmp_path / "run") / name).unlink()
    with pytest.raises(DataError, match=r"urbanseg finetune.*urbanseg evaluate --output") as caught:
        load_measurement(tmp_path / "run", "test")
    assert str(caught.value).startswith(f"{tmp_path / 'run' / name}: ")


def test_load_measurement__no_folder(tmp_path):
    with pytest.raises(DataError, match="expected the folder of a run; found nothing there; train with"):
        load_measurement(tmp_path / "nowhere", "test")


def test_load_measurement__another_split(tmp_path):
    write_run(tmp_path / "run", split="validation")
    with pytest.raises(ConfigError, match=r"expected a split of validation; found `test`; choose one with `--split`\."):
        load_measurement(tmp_path / "run", "test")


def test_load_measurement__counts_of_an_earlier_measurement(tmp_path):
    write_run(tmp_path / "run", seed=1)
    stale = (tmp_path / "run" / "metrics.json").read_text()
    write_run(tmp_path / "run", seed=2)
    (tmp_path / "run" / "metrics.json").write_text(stale)
    with pytest.raises(DataError, match=r"expected metrics.json and per_image_test.json of one measurement"):
        load_measurement(tmp_path / "run", "test")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("per_image_test.json", "{", "expected JSON; found Expecting property name"),
        ("metrics.json", "[]", "expected a JSON object; found list"),
        ("config.json", '{"model_type": "nothing"}', "expected the configuration of a model; found"),
        ("per_image_test.json", '{"names": ["a"]}', "expected counts per image"),
    ],
)
def test_load_measurement__damaged_files_end_in_one_line(tmp_path, name, text, message):
    (write_run(tmp_path / "run") / name).write_text(text)
    with pytest.raises(DataError) as caught:
        load_measurement(tmp_path / "run", "test")
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "run"))
    assert "\n" not in str(caught.value)


def test_name_runs__as_short_as_they_are_unique(tmp_path):
    assert name_runs([tmp_path / "b0", tmp_path / "b2"]) == ["b0", "b2"]
    assert name_runs([tmp_path / "x" / "run", tmp_path / "y" / "run", "z"]) == [
        "x/run",
        "y/run",
        f"{Path.cwd().name}/z",
    ]
    with pytest.raises(ConfigError, match="expected each run once; found it twice; remove one"):
        name_runs([tmp_path / "b0", tmp_path / "b2" / ".." / "b0"])
