"""evaluate.py on a finished run: the run's own numbers again, on one process and two, and what it writes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from folder_contents import read_folder
from safetensors.torch import load_file, save_file

from hf_urbanseg.commands import evaluate, predict
from hf_urbanseg.errors import ModelError
from hf_urbanseg.hub.cards.model_card import write_model_card
from hf_urbanseg.hub.repository import collect_repository
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.reports import figures, plots
from hf_urbanseg.reports.failure_cases import choose_failure_cases
from hf_urbanseg.runs.environment import describe_environment

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def evaluate_run(run, monkeypatch):
    def go(*options):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--model", str(run), *map(str, options)])
        evaluate.main()

    return go


def test_evaluate__reproduces_the_reported_numbers(run, tmp_path, evaluate_run, capsys):
    reported = json.loads((run / "metrics.json").read_text())["splits"]
    for split in ("test", "validation"):
        evaluate_run("--split", split, "--output", tmp_path / split, "--num_workers", 0)
        assert json.loads((tmp_path / split / "metrics.json").read_text())["splits"][split] == reported[split]
        for name in (f"per_image_{split}.json", f"per_class_{split}.csv", f"per_class_{split}.md"):
            assert (tmp_path / split / name).read_bytes() == (run / name).read_bytes()
    assert f"validation mIoU {reported['validation']['mean_iou']:.2%}" in capsys.readouterr().out


def test_evaluate__says_that_the_model_is_not_the_one_that_was_measured(run, tmp_path, caplog, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    tensors = load_file(copy / "model.safetensors")
    tensors["decode_head.classifier.bias"] += 0.01
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="was measured with"):
        collect_repository(copy)
    for split in ("test", "validation"):
        evaluate.main(["--model", str(copy), "--output", str(copy), "--split", split, "--num_workers", "0"])
    warnings = [record.getMessage() for record in caplog.records if "was measured with" in record.getMessage()]
    assert ["test" in warnings[0], "validation" in warnings[1]] == [True, True]
    collect_repository(copy)  # measured anew, it is one model again


def test_evaluate__counts_per_image_add_up(run):
    written = json.loads((run / "per_image_test.json").read_text())
    images = ImageCounts.from_dict(written)
    matrix = np.array(json.loads((run / "metrics.json").read_text())["splits"]["test"]["confusion_matrix"])
    np.testing.assert_array_equal(images.hits.sum(0), np.diag(matrix))
    np.testing.assert_array_equal(images.labelled.sum(0), matrix.sum(1))
    np.testing.assert_array_equal(images.predicted.sum(0), matrix.sum(0))
    assert images.boundary is not None
    assert written["protocol"] == "single scale of 64x192 (height x width)"
    assert len(images) == 4


def test_evaluate__two_processes_same_numbers(run, tmp_path, evaluate_run, launch):
    evaluate_run("--output", tmp_path / "one", "--num_workers", 0, "--calibration")
    words = ["--model", run, "--output", tmp_path / "two", "--num_workers", 0, "--device", "cpu", "--calibration"]
    result = launch("-m", "hf_urbanseg", "evaluate", *words)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("test mIoU") == 1  # one process speaks
    for name in ("per_image_test.json", "per_class_test.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (run / name).read_bytes()
    one, found = (json.loads((tmp_path / name / "metrics.json").read_text())["splits"] for name in ("one", "two"))
    (single,), (shared,) = (splits["test"].pop("calibration") for splits in (one, found))
    assert (shared["temperature"], sum(shared["bins"]["pixels"])) == (1, sum(found["test"]["support"].values()))
    for key in ("ece", "nll", "brier"):  # batches of another size: torch sums in another order
        assert shared[key] == pytest.approx(single[key], abs=1e-6)
    assert found == one
    assert found["test"] == json.loads((run / "metrics.json").read_text())["splits"]["test"]


def test_evaluate__fits_a_temperature_on_validation(copy, kitti, tmp_path, capsys, fails):
    """What is measured, predicted, published and said afterwards is at that temperature; classes are as they were."""
    before, street = json.loads((copy / "metrics.json").read_text())["splits"]["test"], tmp_path / "street.png"
    shutil.copy(copy / "overlays" / next((copy / "overlays").iterdir()).name, street)
    words = ["--model", str(copy), "--num_workers", "0", "--calibration"]
    evaluate.main([*words, "--fit_temperature", "--output", str(copy), "--report", str(tmp_path / "report.html")])
    fitted = json.loads((copy / "calibration.json").read_text())
    assert (fitted["split"], fitted["images"], fitted["protocol"]) == ("validation", 1, before["protocol"])
    after = json.loads((copy / "metrics.json").read_text())["splits"]["test"]
    assert after["confusion_matrix"] == before["confusion_matrix"]
    assert [entry["temperature"] for entry in after["calibration"]] == [1, fitted["temperature"]]
    raw, scaled = after["calibration"]
    assert scaled["nll"] < raw["nll"]
    out, page, said = capsys.readouterr().out, (tmp_path / "report.html").read_text(), f"{fitted['temperature']:.4g}"
    assert f"temperature {said}, fitted on " in out
    assert f"calibration at temperature {said}: ECE {scaled['ece']:.2%}, NLL {scaled['nll']:.4f}" in out
    assert f'<th scope="row">{said}</th><td>{100 * scaled["ece"]:.2f}</td><td>{scaled["nll"]:.4f}</td>' in page
    predict.main([str(copy), str(street), "--output", str(tmp_path / "seen"), "--confidence", "png8"])
    assert f"confidence: temperature {said}\n" in capsys.readouterr().out
    assert "calibration.json" in collect_repository(copy)
    assert write_model_card(copy)
    assert f"by the temperature {said}: " in (copy / "README.md").read_text()
    # Fitted for this way of testing, and for no other.
    evaluate.main([*words, "--flip", "--output", str(tmp_path / "flipped")])
    entry = json.loads((tmp_path / "flipped" / "metrics.json").read_text())["splits"]["test"]
    assert [one["temperature"] for one in entry["calibration"]] == [1]

    (copy / "calibration.json").write_text('{"temperature": 1')
    assert "calibration.json: expected JSON; found" in fails(evaluate.main, *words)
    line = fails(evaluate.main, *words, "--fit_temperature", "--data_dir", kitti, "--validation_fraction", 0)
    assert "expected a validation split for `--fit_temperature`; found train, test" in line
    assert "expected a model in a folder with `--fit_temperature`" in fails(
        evaluate.main, "--model", "user/name", "--fit_temperature"
    )


def test_evaluate__multi_scale_and_report(run, tmp_path, evaluate_run, capsys):
    report = tmp_path / "pages" / "report.html"
    evaluate_run(
        "--multi_scale", "true", "--output", tmp_path / "ms", "--report", report, "--num_workers", 0, "--failures", 2
    )
    entry = json.loads((tmp_path / "ms" / "metrics.json").read_text())["splits"]["test"]
    assert entry["protocol"].startswith("12 passes: ratios 0.5 0.75 1 1.25 1.5 1.75 of 64x192")
    plain = json.loads((run / "metrics.json").read_text())["splits"]["test"]
    assert entry["confusion_matrix"] != plain["confusion_matrix"]
    assert entry["support"] == plain["support"]
    page = report.read_text()
    assert f"{100 * entry['mean_iou']:.2f}" in page
    assert "12 passes" in page
    images = ImageCounts.from_dict(json.loads((tmp_path / "ms" / "per_image_test.json").read_text()))
    worst = images.names[int(images.mean_iou.argmin())]
    assert re.search(rf"1\.\s*{worst}", page)
    assert "crop_size" in page  # the recipe that made the model
    assert str(report) in capsys.readouterr().out


@pytest.fixture
def copy(run, tmp_path):
    """The run in a folder of its own, to be changed."""
    shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*"))
    return tmp_path / "copy"


def test_evaluate__own_folder_keeps_what_training_recorded(copy, monkeypatch):
    before, metrics = read_folder(copy), json.loads((copy / "metrics.json").read_text())
    metrics["environment"] = {"device": "the machine of training", "hf_urbanseg": "0.0.1"}
    (copy / "metrics.json").write_text(json.dumps(metrics))
    # Written another way, and still the same folder.
    monkeypatch.chdir(copy.parent)
    options = ["--num_workers", "0", "--flip", "true", "--sliding_window", "48", "96", "--stride", "40", "48"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--model", "copy", "--output", str(copy), *options])
    evaluate.main()
    found = json.loads((copy / "metrics.json").read_text())
    entry = found["splits"].pop("test")
    assert entry["environment"] == describe_environment()
    assert entry["protocol"].endswith("with and without flip, sliding window 48x96, stride 40x48")
    assert entry["confusion_matrix"] != metrics["splits"].pop("test")["confusion_matrix"]
    assert found == metrics  # validation, selection, data, training and its environment
    after = read_folder(copy)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    pictures = {name for name in changed if name.startswith("failures/")}
    assert changed - pictures == {
        "metrics.json", "per_image_test.json", "per_class_test.md", "per_class_test.csv", "per_class_test.png",
    }  # fmt: skip
    # The pictures are of this measurement: other frames fail, or they look otherwise.
    images = ImageCounts.from_dict(json.loads(after["per_image_test.json"]))
    failures = {f"failures/{images.names[index]}.jpg" for index in list(choose_failure_cases(images, 3, 1))[:8]}
    assert {name for name in after if name.startswith("failures/")} == failures
    assert pictures


def test_evaluate__own_folder_other_split_leaves_the_pictures(copy, monkeypatch):
    monkeypatch.setattr(plots, "save_figure", figures.save_figure)  # drawn, as in the run
    before = read_folder(copy)
    options = ["--num_workers", "0", "--split", "validation"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--model", str(copy), "--output", str(copy), *options])
    evaluate.main()
    after = read_folder(copy)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {"metrics.json"}
    found, metrics = (json.loads(files["metrics.json"]) for files in (after, before))
    assert found["splits"]["validation"].pop("environment") == describe_environment()
    assert found == metrics  # the very numbers of the run


def test_evaluate__run_without_metrics_becomes_publishable(copy, monkeypatch):
    recorded = json.loads((copy / "metrics.json").read_text())
    for name in ("metrics.json", "README.md", "per_image_test.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "failures")
    with pytest.raises(ModelError, match="`urbanseg evaluate --model RUN --output RUN`"):
        collect_repository(copy)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--model", str(copy), "--output", str(copy), "--num_workers", "0"])
    evaluate.main()
    metrics = json.loads((copy / "metrics.json").read_text())
    entry = metrics["splits"]["test"]
    assert entry.pop("environment") == describe_environment()
    assert metrics["splits"] == {"test": recorded["splits"]["test"]}
    assert metrics["data"] == recorded["data"] | {"notes": ["splits: as listed in splits.yaml"]}
    assert "environment" not in metrics  # where it was trained isn't known
    assert write_model_card(copy)
    files = collect_repository(copy)
    assert {"metrics.json", "README.md", "per_image_test.json", "config.json", "model.safetensors"} <= files.keys()
    card = (copy / "README.md").read_text()
    assert f"{100 * entry['mean_iou']:.2f}" in card
    pictures = [name for name in files if name.startswith("failures/")]
    assert pictures
    assert all(name in card for name in pictures)


def test_evaluate__other_data_never_stands_in_for_the_runs(copy, tmp_path, fails):
    before = read_folder(copy)
    line = fails(evaluate.main, "--model", copy, "--output", copy, "--dataset", "synthetic", "--num_workers", 0)
    assert "splits.yaml: expected the 4 frames of test that the run recorded" in line
    assert read_folder(copy) == before


def test_evaluate__another_models_folder_is_left_alone(run, copy, fails):
    before = read_folder(copy)
    line = fails(evaluate.main, "--model", run, "--output", copy, "--num_workers", 0)
    assert "found another model's (model.safetensors); name another `--output`" in line
    (copy / "model.safetensors").unlink()
    (copy / "recipe.yaml").unlink()
    assert "metrics.json of a training run" in fails(evaluate.main, "--model", run, "--output", copy)
    (copy / "metrics.json").write_text("{")
    assert "metrics.json: expected JSON; found" in fails(evaluate.main, "--model", run, "--output", copy)
    before |= {"metrics.json": b"{"}
    assert read_folder(copy) == {name: before[name] for name in before.keys() - {"model.safetensors", "recipe.yaml"}}


def test_evaluate__wrong_classes(run, kitti, tmp_path, fails):
    description = {
        "classes": [{"name": "way", "color": [9, 9, 9], "label_ids": [7]}, {"name": "rest", "color": [1, 2, 3],
                    "label_ids": [i for i in range(34) if i != 7]}],
        "splits": {"test": {"images": "training/image_2", "labels": "training/semantic"}},
    }  # fmt: skip
    (tmp_path / "two.yaml").write_text(json.dumps(description))
    line = fails(evaluate.main, "--model", run, "--data_dir", kitti, "--label_space", tmp_path / "two.yaml")
    assert "expected a model for the 2 classes" in line
    assert "found 19 classes (road" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--output", "scores.json"], "scores.json: expected a folder as `--output`"),
        (["--report", "page.pdf"], "expected a file named .html as `--report`; found page.pdf"),
        (["--split", "night"], "expected a split of train, validation, test; found `night`"),
        (["--ratios", "0"], "`ratios` above 0"),
        (["--stride", "64", "64"], "a sliding `window` with `stride`"),
        (["--sliding_window", "64"], "`sliding_window` as height and width"),
        (["--failures", "-1"], "`failures` of 0..10,000; found -1"),
        (["--batch_size", "0"], "`batch_size` of 1..4,096"),
        (["--device", "tpu9"], "a `--device` of this machine"),
    ],
)
def test_evaluate__bad_option_is_one_line(run, fails, options, said):
    assert said in fails(evaluate.main, "--model", run, *options)


def test_evaluate__output_that_can_not_be_made(run, tmp_path, fails):
    (tmp_path / "file").write_text("")
    line = fails(evaluate.main, "--model", run, "--output", tmp_path / "file" / "in", "--num_workers", 0)
    assert "expected a folder to write to" in line


def test_evaluate__script_starts(run):
    result = subprocess.run(
        [sys.executable, "-m", "hf_urbanseg", "evaluate", "--help"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0
    assert "--multi_scale" in result.stdout
