import json
import subprocess
import sys

import pytest
import torch
from transformers import SegformerConfig

from hf_urbanseg.commands.profile_model import main

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


def test_script__measures_a_tiny_model(tmp_path):
    words = (
        "--sizes", "tiny", "--num_labels", "4", "--image_size", "64", "96", "--batch_size", "2", "--precision", "bf16",
        "--device", "cpu", "--repeats", "10", "--warmup", "1", "--output", tmp_path / "out.json",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "hf_urbanseg", "profile-model", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "bf16, batches of 2, random weights" in done.stdout
    assert f"torch {torch.__version__}" in done.stdout.replace("\n", " ")
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
    row = _cells(done.stdout, "tiny")[1]
    shown = [float(cell) for cell in (row[2], row[3], *row[4].split(".."))]
    known = [logits["median_ms"], label_map["median_ms"], label_map["p10_ms"], label_map["p90_ms"]]
    assert shown == pytest.approx(known, abs=0.51)  # without a decimal from a second on
    assert (row[5], row[6]) == ("10", f"{label_map['images_per_second']:.2f}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sizes", "b7"], "invalid choice: 'b7'"),
        (["--sizes", "b0", "--model", "x"], "expected either `--model` or `--sizes`; found both"),
        (["--model", "x", "--decoder_hidden_size", "256"], "expected `--decoder_hidden_size` with `--sizes`"),
        (["--image_size", "375"], "expected `image_size` as height and width of 32..16,384; found [375]"),
        (["--image_size", "16", "300"], "32..16,384; found [16, 300]"),
        (["--batch_size", "0"], "expected `batch_size` of 1..4,096; found 0"),
        (["--seconds", "-1"], "expected `seconds` of 0..10,000,000; found -1.0"),
        (["--precision", "fp8"], "invalid choice: 'fp8'"),
        (["--device", "quantum"], "expected a `--device` of this machine; found quantum"),
        (["--model", "run"], "run/config.json: expected config.json in a model folder; found none"),
        (["--model", "bert"], "bert: expected a SegFormer; found model type `bert`"),
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
        run(monkeypatch, *words, "--counts_only")
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
