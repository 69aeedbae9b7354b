"""The main job through the scripts: a KITTI folder in, a model folder out, and what users then do with it."""

import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation, pipeline
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead
from transformers.utils import is_torchvision_available

from hf_urbanseg.commands import evaluate, finetune
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.models.decode_head import FastSegformerDecodeHead
from hf_urbanseg.models.loading import SegformerImageProcessorPil
from hf_urbanseg.options import stock_options
from hf_urbanseg.options.config import LossArguments, ModelArguments
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.reports.failure_cases import choose_failure_cases
from hf_urbanseg.training import network

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_finetune__leaves_everything(run):
    expected = {
        "model.safetensors", "config.json", "preprocessor_config.json", "metrics.json", "per_class_test.md",
        "per_class_test.csv", "training_curves.png", "class_distribution.png", "class_weights.json", "recipe.yaml",
        "splits.yaml", "overlays", "per_image_test.json", "per_image_validation.json",
    }  # fmt: skip
    names = {path.name for path in run.iterdir()}
    assert expected <= names
    assert not [name for name in names if "staging" in name or name.endswith((".tmp", ".bin"))]
    assert len(list((run / "overlays").glob("*.jpg"))) == 2
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {path.stat().st_mode for path in files} == {(run / "recipe.yaml").stat().st_mode}
    splits = yaml.load((run / "splits.yaml").read_text(), yaml.BaseLoader)
    assert {split: len(frames) for split, frames in splits.items()} == {"train": 11, "validation": 1, "test": 4}
    assert json.loads((run / "preprocessor_config.json").read_text())["size"] == {"height": 64, "width": 192}


def test_finetune__pictures_of_the_failures_on_the_card(run):
    images = ImageCounts.from_dict(json.loads((run / "per_image_test.json").read_text()))
    names = {images.names[index] for index in list(choose_failure_cases(images, 3, 1))[:8]}
    assert {path.name for path in (run / "failures").iterdir()} == {f"{name}.jpg" for name in names}
    card = (run / "README.md").read_text()
    for name in names:
        assert f"failures/{name}.jpg" in card


def test_finetune__no_overlays_no_pictures_of_failures(words, kitti, run, tmp_path, monkeypatch):
    output = tmp_path / "run"
    shutil.copytree(run, output)
    (output / "failures" / "mine.md").write_text("kept")
    argv = words(data_dir=kitti, output_dir=output, num_overlays=0, max_steps=1)
    monkeypatch.setattr(sys, "argv", ["finetune.py", *argv, "--overwrite"])
    finetune.main()
    left = {path.name for folder in ("failures", "overlays") for path in (output / folder).iterdir()}
    assert left == {"mine.md"}  # none of the run that was there before
    assert "failures/" not in (output / "README.md").read_text()


def test_finetune__nothing_measured_leaves_no_earlier_pictures(words, kitti, run, tmp_path, monkeypatch):
    output = tmp_path / "run"
    shutil.copytree(run, output)
    names = [path.stem for path in sorted((kitti / "training" / "image_2").iterdir())]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"train": names}))
    argv = words(
        data_dir=kitti, output_dir=output, max_steps=1, split_file=tmp_path / "all.yaml", validation_fraction=0
    )
    monkeypatch.setattr(sys, "argv", ["finetune.py", *argv, "--overwrite"])
    finetune.main()
    assert json.loads((output / "metrics.json").read_text())["splits"] == {}
    assert not [*(output / "failures").iterdir(), *(output / "overlays").iterdir()]


def test_finetune__metrics_agree_with_table_and_constant_guess(run):
    metrics = json.loads((run / "metrics.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    test = metrics["splits"]["test"]
    matrix = np.array(test["confusion_matrix"])
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    iou = np.diag(matrix)[union > 0] / union[union > 0]
    assert test["mean_iou"] == pytest.approx(iou.mean(), abs=1e-12)
    assert test["num_images"] == 4
    assert metrics["selection"]["by"] == "mean_iou of validation"
    exported = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    assert {scores["weights_sha256"] for scores in metrics["splits"].values()} == {exported}
    rows = {row["class"]: row for row in csv.DictReader((run / "per_class_test.csv").open())}
    assert float(rows["road"]["iou"]) == pytest.approx(test["iou"]["road"], abs=1e-6)
    counts = json.loads((run / "class_weights.json").read_text())["counts"]
    commonest = max(counts, key=counts.get)
    assert test["constant_guess"]["class"] == commonest
    support = np.array(list(test["support"].values()))
    share = test["support"][commonest] / support.sum()
    assert test["constant_guess"]["mean_iou"] == pytest.approx(share / (support > 0).sum(), abs=1e-12)


def test_build_model__fast_decode_head_unless_told_otherwise():
    for words, head in (("", FastSegformerDecodeHead), ("--stock_decode_head", SegformerDecodeHead)):
        (args,) = parse_arguments([ModelArguments], f"--init random --size tiny {words}".split())
        assert type(network.build_network(args, LossArguments(), CITYSCAPES).decode_head) is head


def test_from_pretrained__complete_and_bit_identical(run):
    model, info = AutoModelForSemanticSegmentation.from_pretrained(run, output_loading_info=True)
    assert [key for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]] == []
    assert type(model).__name__ == "SegformerForSemanticSegmentation"
    assert model.config.id2label[18] == "bicycle"
    assert model.config.semantic_loss_ignore_index == 255
    # Old key names, as every SegFormer on the Hub has them.
    assert any(key.startswith("segformer.encoder.block.") for key in load_file(run / "model.safetensors"))
    metrics = json.loads((run / "metrics.json").read_text())
    best = run / f"checkpoint-{metrics['selection']['exported_step']}"
    other = AutoModelForSemanticSegmentation.from_pretrained(best)
    pixels = torch.randn(1, 3, 64, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(pixel_values=pixels).logits, other(pixel_values=pixels).logits)


def test_pipeline__image_segmentation(run, kitti):
    """With our processor the predictor's pixels; without, nearly: with torchvision transformers resizes otherwise."""
    image = Image.open(kitti / "training" / "image_2" / "000000_10.png")
    prediction = Predictor.from_pretrained(run).predict(image)
    options = {"image_processor": SegformerImageProcessorPil.from_pretrained(run)}, {}
    if Version(transformers.__version__) < Version("5.23") and not is_torchvision_available():
        options = options[:1]  # older transformers have no AutoImageProcessor without torchvision
    for chosen in options:
        segment = pipeline("image-segmentation", model=str(run), device="cpu", **chosen)
        parts = segment(image)
        assert all(part["mask"].size == image.size for part in parts)
        masks = {segment.model.config.label2id[part["label"]]: np.asarray(part["mask"]) > 0 for part in parts}
        assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()  # every pixel in exactly one class
        same = sum((mask & (prediction == train_id)).sum() for train_id, mask in masks.items()) / prediction.size
        assert same == 1 if chosen or not is_torchvision_available() else same > 0.95


def test_recipe__repeats_the_run(run, tmp_path, monkeypatch):
    output = tmp_path / "again"
    monkeypatch.setattr(sys, "argv", ["finetune.py", "--recipe", str(run / "recipe.yaml"), "--output_dir", str(output),
                                      "--cpu_threads", "1"])  # fmt: skip
    finetune.main()
    first, second = load_file(run / "model.safetensors"), load_file(output / "model.safetensors")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_finetune__every_trick_exports_a_plain_segformer(words, kitti, tmp_path, monkeypatch):
    output = tmp_path / "tricks"
    argv = words(
        data_dir=kitti, output_dir=output, loss="ohem", ohem_threshold=0.5, ohem_min_kept=500, loss_scope="global",
        add_losses="dice=0.5 lovasz=0.1", auxiliary_head="true", auxiliary_stage=2, auxiliary_channels=16,
        ema_decay=0.5, export_ema="true", lr_cycles=2, lr_cycle_decay=0.8, gradient_accumulation_steps=2,
        train_scales="0.5-1.5", bf16="true",
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["finetune.py", *argv])
    finetune.main()
    model, info = AutoModelForSemanticSegmentation.from_pretrained(output, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not any("auxiliary" in key for key in load_file(output / "model.safetensors"))
    history = json.loads((output / "log_history.json").read_text())["log_history"]
    parts = [entry for entry in history if "loss" in entry]
    for entry in parts:
        named = [entry[f"loss_{name}"] for name in ("ohem", "dice", "lovasz", "auxiliary")]
        assert sum(named) == pytest.approx(entry["loss"], rel=1e-4)
        assert 0 < entry["ohem_kept_share"] <= 1
    rates = [entry["learning_rate"] for entry in parts]
    assert rates[2] > rates[1]  # the second cycle starts
    best = json.loads((output / "metrics.json").read_text())["selection"]["exported_step"]
    averages = load_file(output / f"checkpoint-{best}" / "ema.safetensors")
    weight = model.state_dict()["decode_head.classifier.weight"]
    assert torch.equal(weight, averages["parameters.decode_head.classifier.weight"])
    raw = AutoModelForSemanticSegmentation.from_pretrained(output / f"checkpoint-{best}").state_dict()
    assert not torch.equal(weight, raw["decode_head.classifier.weight"])


def test_finetune__two_processes(words, kitti, tmp_path, launch):
    output = tmp_path / "two"
    result = launch(SCRIPTS / "finetune.py", *words(data_dir=kitti, output_dir=output))
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["training"]["processes"] == 2
    assert result.stdout.count("Everything is in") == 1  # one process speaks
    assert list((output / "failures").glob("*.jpg"))
    reported = metrics["splits"]["test"]["confusion_matrix"]
    alone = tmp_path / "alone"
    evaluate.main(["--model", str(output), "--output", str(alone)])
    assert json.loads((alone / "metrics.json").read_text())["splits"]["test"]["confusion_matrix"] == reported
    assert (alone / "per_image_test.json").read_text() == (output / "per_image_test.json").read_text()


def _truncate(folder: Path):
    path = folder / "training" / "image_2" / "000003_10.png"
    path.write_bytes(path.read_bytes()[:2000])


def _unknown_label(folder: Path):
    path = folder / "training" / "semantic" / "000003_10.png"
    label = np.array(Image.open(path))
    label[0, 0] = 99
    Image.fromarray(label).save(path)


def _other_size(folder: Path):
    path = folder / "training" / "semantic" / "000003_10.png"
    Image.open(path).crop((0, 0, 50, 50)).save(path)


def _missing_label(folder: Path):
    (folder / "training" / "semantic" / "000003_10.png").unlink()


@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (_truncate, "000003_10.png", "expected"),
        (_unknown_label, "000003_10.png", "99"),
        (_other_size, "000003_10.png", "50"),
        (_missing_label, "000003_10", "label"),
    ],
)
def test_finetune__bad_data_is_one_line(words, kitti, tmp_path, monkeypatch, capsys, damage, name, said):
    folder, output = tmp_path / "kitti", tmp_path / "out"
    shutil.copytree(kitti, folder)
    damage(folder)
    line = _fails(monkeypatch, capsys, words(data_dir=folder, output_dir=output))
    assert name in line
    assert said in line
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data_dir": "/no/such/folder"}, "/no/such/folder"),
        ({"recipe": "segformer_b9"}, "segformer_b9"),
        ({"class_weights": "inverse"}, "inverse"),
        ({"class_weights": "/no/weights.json"}, "weights.json"),
        ({"train_scales": "0"}, "train_scales"),
        ({"eval_size": "60 192"}, "eval_size"),
        ({"size": "b7"}, "b7"),
        ({"init": "pretrained", "model_name_or_path": "/no/model"}, "/no/model"),
        ({"split_file": "/no/splits.yaml"}, "splits.yaml"),
        ({"nonsense": 1}, "nonsense"),
        ({"learning_rate": "fast"}, "fast"),
        ({"lr_power": -1}, "lr_power"),
        ({"report_to": "tensorbored"}, "tensorbored"),
        ({"rare_class_temperature": 0}, "`rare_class_temperature` above 0"),
        ({"paste_classes": "bus"}, "a `paste_share` above 0 with `paste_classes`"),
        ({"paste_share": 0.5, "paste_classes": "tram"}, "found `tram`"),
    ],
)
def test_finetune__bad_option_is_one_line(words, kitti, tmp_path, monkeypatch, capsys, options, said):
    output = tmp_path / "out"
    line = _fails(monkeypatch, capsys, words(**{"data_dir": kitti, "output_dir": output} | options))
    assert said in line
    assert not output.exists()


def test_finetune__a_reporter_that_is_not_installed(words, kitti, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stock_options, "get_available_reporting_integrations", lambda: [])
    options = {"data_dir": kitti, "output_dir": tmp_path / "out", "report_to": "wandb"}
    line = _fails(monkeypatch, capsys, words(**options))
    expected = (
        "expected the package `wandb` for `--report_to wandb`; found none; `pip install wandb`, or drop the option."
    )
    assert expected in line
    line = _fails(monkeypatch, capsys, words(**options | {"report_to": "none", "report_pictures": 4}))
    assert "expected `report_to` of tensorboard, trackio, wandb with `report_pictures`; found none; " in line


def test_finetune__negative_weight(words, kitti, tmp_path, monkeypatch, capsys, run):
    content = json.loads((run / "class_weights.json").read_text())
    content["weights"]["road"] = -1
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(content))
    line = _fails(monkeypatch, capsys, words(data_dir=kitti, output_dir=tmp_path / "out", class_weights=path))
    assert "weights.json" in line
    assert "-1" in line
    assert not (tmp_path / "out").exists()


def test_finetune__recipe_with_unknown_key(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("dataset: synthetic\nlearning_rat: 1\n")
    monkeypatch.chdir(tmp_path)
    assert "did you mean `learning_rate`" in _fails(monkeypatch, capsys, ["--recipe", str(path)])
    path.write_text("dataset: synthetic\nreduce_labels: true\n")
    assert "`reduce_labels`" in _fails(monkeypatch, capsys, ["--recipe", str(path)])
    assert list(tmp_path.iterdir()) == [path]


def test_finetune__does_not_overwrite_a_run(words, kitti, run, monkeypatch, capsys):
    before = (run / "model.safetensors").stat().st_mtime_ns
    line = _fails(monkeypatch, capsys, words(data_dir=kitti, output_dir=run))
    assert "--overwrite" in line
    assert (run / "model.safetensors").stat().st_mtime_ns == before


def test_finetune__resume_without_a_run(words, kitti, tmp_path, monkeypatch, capsys):
    line = _fails(monkeypatch, capsys, [*words(data_dir=kitti, output_dir=tmp_path / "out"), "--resume"])
    assert "expected a complete checkpoint-<step> folder; found none; start anew with `--overwrite`" in line
    assert not (tmp_path / "out").exists()


def test_finetune__resumed_with_nothing_left(words, kitti, run, tmp_path, monkeypatch):
    output = tmp_path / "run"
    shutil.copytree(run, output)
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words(data_dir=kitti, output_dir=output), "--resume"])
    finetune.main()
    before, after = (json.loads((folder / "metrics.json").read_text())["training"] for folder in (run, output))
    assert (after["steps"], after["train_loss"]) == (before["steps"], before["train_loss"])


def test_image_processor__saved_size_is_used(run, kitti):
    image = Image.open(kitti / "training" / "image_2" / "000000_10.png")
    pixels = SegformerImageProcessorPil.from_pretrained(run)(image, return_tensors="pt")["pixel_values"]
    assert tuple(pixels.shape) == (1, 3, 64, 192)


def _fails(monkeypatch, capsys, argv: list[str]) -> str:
    """Runs the command; it must exit with status 2 after one line on standard error."""
    monkeypatch.setattr(sys, "argv", ["finetune.py", *argv])
    with pytest.raises(SystemExit) as stop:
        finetune.main()
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "expected" in lines[0]
    assert "found" in lines[0]
    return lines[0]
