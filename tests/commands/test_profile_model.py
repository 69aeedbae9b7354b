import json
import sys
from dataclasses import fields

import pytest
import torch
from transformers import SegformerConfig

from hf_urbanseg.commands import profile_model
from hf_urbanseg.commands.profile_model import main
from hf_urbanseg.inference.profile import build_named_configs
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import ARCHITECTURES, build_config

torch.set_num_threads(1)


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["profile_model.py", *map(str, words)])
    main()


def _cells(printed, model):
    return [
        line.replace("│", " ").split() for line in printed.splitlines() if line.replace("│", " ").split()[:1] == [model]
    ]


def test_main__the_reports_models(monkeypatch, capsys, tmp_path):
    output = tmp_path / "profile.json"
    run(monkeypatch, "--decoder_hidden_size", 256, "--counts_only", "--output", output)
    printed = capsys.readouterr().out
    assert "One image of 375x1242 (height x width)" in printed
    assert _cells(printed, "b0") == [["b0", "256", "3.719", "0.400", "15.334", "15.559", "15.579", "30.667"]]
    assert _cells(printed, "b2") == [["b2", "256", "24.727", "0.531", "50.264", "50.614", "50.633", "100.528"]]
    assert _cells(printed, "b5") == [["b5", "256", "81.974", "0.531", "149.347", "149.945", "149.964", "298.693"]]
    assert "input size is 0.035 of fvcore and of report." in printed.replace("\n", " ")
    assert max(map(len, printed.splitlines())) <= 80
    content = json.loads(output.read_text())
    assert [model["name"] for model in content["models"]] == ["b0", "b2", "b5"]
    assert content["models"][0]["macs"] == {"plain": 15333502144, "fvcore": 15559488456, "report": 15579408328}
    assert content["models"][0]["parameters"] == {"encoder": 3319392, "decode_head": 399635, "total": 3719027}
    assert content["models"][0]["torch_flops"] == 2 * 15333502144
    assert content["models"][0]["macs_by_part"]["fvcore"]["classifier_resize"] == 4 * 19 * 375 * 1242
    assert content["image_size"] == [375, 1242]
    assert "report" in content["conventions"]
    assert "latency" not in content["models"][0]
    assert "precision" not in content


def test_main__a_folder_needs_its_configuration_only(monkeypatch, capsys, tmp_path):
    SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16, num_labels=5
    ).save_pretrained(tmp_path / "run[b]")
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "--model", "run[b]", "--image_size", 65, 97, "--counts_only", "--output", "out.json")
    (row,) = _cells(capsys.readouterr().out, "run[b]")
    (model,) = json.loads((tmp_path / "out.json").read_text())["models"]
    assert (model["name"], model["num_labels"], model["decoder_hidden_size"], row[1]) == ("run[b]", 5, 16, "16")
    assert model["macs_by_part"]["report"]["classifier_resize"] == 4 * 5 * 65 * 97


def test_main__the_reports_table(monkeypatch, capsys):
    run(monkeypatch, "--table")
    printed = capsys.readouterr().out
    rows = [line.split("│")[1:-1] for line in printed.splitlines() if line.startswith("│")]
    found = [(name.strip(), float(ours), float(percent)) for name, _, _, _, ours, percent in rows]
    swin, psp = ("Swin-T", 79.432, -0.05), ("PSPNet R18", 97.198, -0.02)
    segformers = [("SegFormer-B0", 15.579, 0), ("SegFormer-B2", 50.633, 0), ("SegFormer-B5", 149.964, -0.02)]
    assert found == [
        ("Baseline, 180 epochs", 67.005, 0), ("Baseline, 1000 epochs", 67.005, 0), ("UNet", 346.204, -2.75),
        ("DeepLabV3+ R18", 97.185, -0.01), ("DeepLabV3+ R50", 316.070, 0.02), ("DeepLabV3+ R101", 455.320, 0.07),
        swin, swin, *segformers, *segformers, psp, ("PSPNet R101", 458.963, -0.01), ("CWD: PSPNet R18", 97.198, -1.82),
    ]  # fmt: skip
    assert [cell.strip() for cell in rows[7][1:4]] == ["cityscapes", "76.28", "79.472"]
    assert "UNet: less by its 1x1 convolutions" in printed
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_main__every_architecture(monkeypatch, capsys, tmp_path, architecture):
    """Counted and timed, by the name of a size and of a folder."""
    build_config("tiny", CITYSCAPES, architecture).save_pretrained(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_urbanseg.inference.profile.measure_peak_memory", lambda *_: None)  # takes a process
    for words in (("--architecture", architecture, "--sizes", "tiny"), ("--model", "run")):
        run(monkeypatch, *words, "--image_size", 48, 65, "--device", "cpu", "--repeats", 1, "--output", "out.json")
        name = words[-1]
        counted, timed = _cells(capsys.readouterr().out, name)
        assert (len(counted), timed[-2]) == (8, "1")
        (model,) = json.loads((tmp_path / "out.json").read_text())["models"]
        assert model["model_type"] == ARCHITECTURES[architecture].model_type
        assert model["parameters"]["encoder"] + model["parameters"]["decode_head"] == model["parameters"]["total"]
        assert (model["decoder_hidden_size"] is None) == (counted[1] == "-")
        assert (counted[1] == "-") == ("segformer" not in architecture)


@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [("segformer", ["b0", "b2", "b5"]), ("pspnet", ["resnet18", "resnet50", "resnet101"]),
     ("encoder_decoder", ["transposed", "unpooling"])],
)  # fmt: skip
def test_build_named_configs__the_reports_by_default(architecture, sizes):
    configs = build_named_configs(architecture, None, 7)
    assert list(configs) == sizes
    assert {config.num_labels for config in configs.values()} == {7}


def test_help__lists_every_size():
    rows = [line.split() for line in profile_model.__doc__.splitlines() if line.startswith("  ")]
    assert {name: sizes for name, *sizes in rows} == {name: [*one.sizes] for name, one in ARCHITECTURES.items()}
    choices = next(f for f in fields(profile_model.ProfileArguments) if f.name == "architecture").metadata["choices"]
    assert choices == [*ARCHITECTURES]


def test_main__measures_a_tiny_model(tmp_path, capsys):
    words = (
        "--sizes", "tiny", "--num_labels", "4", "--image_size", "64", "96", "--batch_size", "2", "--precision", "bf16",
        "--device", "cpu", "--repeats", "10", "--warmup", "1", "--output", tmp_path / "out.json",
    )  # fmt: skip
    profile_model.main([*map(str, words)])
    said = capsys.readouterr().out
    assert "bf16, batches of 2, random weights" in said
    assert f"torch {torch.__version__}" in said.replace("\n", " ")
    content = json.loads((tmp_path / "out.json").read_text())
    (model,) = content["models"]
    assert model["num_labels"] == 4
    label_map, logits = model["latency"]["label_map"], model["latency"]["logits"]
    assert label_map["passes"] == 10
    assert model["latency"]["warmup_passes"] >= 1
    assert 0 < label_map["min_ms"] <= label_map["p10_ms"] <= label_map["median_ms"] <= label_map["p90_ms"]
    assert logits["median_ms"] < label_map["median_ms"]
    assert label_map["p99_ms"] is None
    assert label_map["images_per_second"] == pytest.approx(2000 / label_map["median_ms"])
    assert (content["batch_size"], content["precision"]) == (2, "bf16")
    assert content["environment"]["device"].startswith("CPU, ")
    assert content["environment"]["threads"] >= 1
    if model["memory"]:  # None without /proc
        parameters = model["parameters"]["total"]
        assert 2 * parameters < model["memory"]["weights_bytes"] < 2.1 * parameters  # and the statistics of BatchNorm
        assert model["memory"]["peak_bytes"] >= model["memory"]["weights_bytes"] + 2 * 4 * 64 * 96 // 4
    row = _cells(said, "tiny")[1]
    shown = [float(cell) for cell in (row[2], row[3], *row[4].split(".."))]
    known = [logits["median_ms"], label_map["median_ms"], label_map["p10_ms"], label_map["p90_ms"]]
    assert shown == pytest.approx(known, abs=0.51)  # without a decimal from a second on
    assert (row[5], row[6]) == ("10", f"{label_map['images_per_second']:.2f}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sizes", "b7"], "expected a size of tiny, b0, b1, b2, b3, b4, b5; found `b7`; choose one of them, or an"),
        (
            ["--architecture", "pspnet", "--sizes", "b0"],
            "expected a size of tiny, resnet18, resnet50, resnet101; fo",
        ),
        (["--architecture", "vit"], "invalid choice: 'vit' (choose from"),
        (["--architecture", "pspnet", "--decoder_hidden_size", "256"], "found `decoder_hidden_size` with `pspnet`; le"),
        (["--architecture", "pspnet", "--model", "x"], "expected `--architecture` with `--sizes`; found `--model`"),
        (["--table", "--image_size", "32", "64"], "expected `--table` alone; found `--image_size`; drop one."),
        (["--architecture", "encoder_decoder", "--image_size", "32", "64"], "inputs of 33 pixels a side at least"),
        (["--sizes", "b0", "--model", "x"], "expected either `--model` or `--sizes`; found both"),
        (["--model", "x", "--decoder_hidden_size", "256"], "expected `--decoder_hidden_size` with `--sizes`"),
        (["--image_size", "375"], "expected `image_size` as height and width of 32..16,384; found [375]"),
        (["--image_size", "16", "300"], "32..16,384; found [16, 300]"),
        (["--batch_size", "0"], "expected `batch_size` of 1..4,096; found 0"),
        (["--seconds", "-1"], "expected `seconds` of 0..10,000,000; found -1.0"),
        (["--precision", "fp8"], "invalid choice: 'fp8'"),
        (["--device", "quantum"], "expected a `--device` of this machine; found quantum"),
        (["--model", "run"], "run/config.json: expected config.json in a model folder; found none"),
        (["--model", "bert"], "bert: expected a model of segformer, encoder_decoder, unet, deeplabv3plus, pspnet, s"),
        (["--model", "broken"], "broken/config.json: expected the configuration of a model"),
    ],
)
def test_main__bad_options_end_in_one_line(monkeypatch, capsys, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    for folder, content in (("run", None), ("bert", '{"model_type": "bert"}'), ("broken", '{"model_type": ')):
        (tmp_path / folder).mkdir()
        if content:
            (tmp_path / folder / "config.json").write_text(content)
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *words, *[] if "--table" in words else ["--counts_only"])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
