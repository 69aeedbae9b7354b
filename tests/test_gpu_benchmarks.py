"""benchmarks/gpu.py: its commands are right before somebody has a GPU for half an hour."""

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_options import parse_benchmark

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("tiny", [False, True])
def test_build_command__is_understood(gpu, tmp_path, tiny):
    args = argparse.Namespace(tiny=tiny, device="cuda", output=tmp_path, data_dir=str(tmp_path))
    for name in gpu.PARTS:
        script, *words = gpu.build_command(args, name)
        if script != "-m":
            parse_benchmark(Path(script), words)
            assert f"--output {tmp_path / name}.json" in " ".join(words)
            assert ("tiny" in words) is tiny


def test_main__in_small(tmp_path):
    parts = ["profile_b0", "run_b0"]
    words = ["--tiny", "--device", "cpu", "--output", tmp_path, "--parts", *parts]
    result = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in parts for kind in ("json", "log")
    }
    profile = json.loads((tmp_path / "profile_b0.json").read_text())["results"]
    assert profile.keys() == {"stock", "ours", "our trainer"}
    for kind, found in profile.items():
        idle = found["shares"].pop("idle")
        assert 0 <= idle < 1
        assert sum(found["shares"].values()) == pytest.approx(1), kind
        assert all(share > 0 for name, share in found["shares"].items() if name != "resizing"), kind
        assert found["attention"].keys() == {"flash_attention_for_cpu"}
    # The labels are judged, and the gradient, before the optimiser takes its step; _blocks.py is of a CPU alone.
    run = json.loads((tmp_path / "run_b0.json").read_text())
    waits = {line.partition(":")[0]: count for line, count in run["waits"].items() if "_blocks.py" not in line}
    assert waits == {"losses/_pixels.py": 1, "training/divergence.py": 1}
    assert {name: len(values) for name, values in run["seconds"].items()} == {"run": 2, "loader": 2, "step": 2}
    heads = [line for line in result.stdout.splitlines() if line.startswith("| ") and "TINY" not in line]
    assert [head.split(" | ")[0] for head in heads[::2]] == ["| training run, images/s", "| profile of a step, %"]


def test_run_part__failure_and_time(gpu, tmp_path, monkeypatch, capsys):
    args = argparse.Namespace(output=tmp_path, seconds=1)
    codes = {"step_b0": "print('out of memory'); raise SystemExit(3)", "run_b0": "import time; time.sleep(60)"}
    monkeypatch.setattr(gpu, "build_command", lambda args, name: ["-c", codes[name]])
    assert [gpu.run_part(args, name) for name in codes] == [False, False]
    said = capsys.readouterr().out
    assert "out of memory\n  FAILED: 3, " in said
    assert "FAILED: more than 1 s" in said


def test_build_table__parts_of_the_same_columns_together(gpu, tmp_path):
    place = {"machine": "a GPU", "torch": "2.11.0", "transformers": "5.17.0", "python": "3.12.3"}
    for name, head in {"step_b2": "step", "evaluation_b0": "evaluation", "step_b0": "step"}.items():
        table = {"head": [head, "ms"], "rows": [[name, 1.5]]}
        (tmp_path / f"{name}.json").write_text(json.dumps({"table": table, "environment": place}))
    assert gpu.build_table(tmp_path).splitlines() == [
        "a GPU, torch 2.11.0, transformers 5.17.0, Python 3.12.3",
        "",
        "| step | ms |",
        "| --- | --- |",
        "| step_b0 | 1.5 |",
        "| step_b2 | 1.5 |",
        "",
        "| evaluation | ms |",
        "| --- | --- |",
        "| evaluation_b0 | 1.5 |",
    ]
