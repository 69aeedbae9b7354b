"""finetune.py --push_to_hub against a loopback Hub: what arrives, and that no outage costs the run."""

import importlib.util
import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from hf_urbanseg.commands import finetune

SCRIPTS = Path(__file__).parents[2] / "scripts"
CANARY = "hf_" + "CanaryOfTheTests" * 2


@pytest.fixture
def push(run_with_hub, words, kitti, tmp_path):
    """Runs the script with --push_to_hub; its folder and what it said."""

    def go(*more, token=True, timeout=240, **options):
        output = tmp_path / "run"
        argv = words(
            data_dir=kitti, output_dir=output, num_overlays=1, push_to_hub="true", hub_model_id="user/tiny",
            logging_steps=2, **options,
        )  # fmt: skip
        done = run_with_hub(SCRIPTS / "finetune.py", *argv, *more, token=token, timeout=timeout, check=False)
        return output, done

    return go


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_push__arrives_whole(hub, push):
    output, done = push()
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"pushed to http://\S+user/tiny", done.stdout)
    tree = hub.tree("user/tiny")
    local = files_of(output)
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "metrics.json", "recipe.yaml",
            "splits.yaml", "per_image_test.json", "training_curves.png"} <= set(tree)  # fmt: skip
    assert tree["model.safetensors"] == local["model.safetensors"]
    assert tree["metrics.json"] == local["metrics.json"]
    assert not [path for path in tree if "checkpoint" in path or path.endswith((".bin", ".pt", "push.json"))]
    assert json.loads(local["push.json"])["owed"] == []
    assert not list(output.glob(".staging*"))
    # The saves of steps 2 and 4 were pushed too, each as a commit (a later one may take the place of one that waits).
    commits = [request for request in hub.requests if request.name == "commit"]
    assert 2 <= len(commits) <= 3
    assert "--push_to_hub" not in tree["recipe.yaml"].decode()
    assert "hub_model_id" not in tree["recipe.yaml"].decode()


@pytest.mark.parametrize("how", [403, "refuse", "hang"])  # every kind at every request: tests/hub/test_publish.py
def test_push__an_outage_costs_nothing_and_is_owed(hub, push, run_with_hub, how):
    """Failing for ever from the start; training ends, its files are whole, publish.py completes the push."""
    hub.fail(how, times=math.inf)
    output, done = push("--hub_timeout", "5", token=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "owed to user/tiny: " in done.stdout
    assert "publish.py" in done.stdout
    assert "final" in json.loads((output / "push.json").read_text())["owed"]
    assert json.loads((output / "checkpoint-4" / "trainer_state.json").read_text())["global_step"] == 4
    assert "Traceback" not in done.stderr
    before = {path: content for path, content in files_of(output).items() if path != "push.json"}
    assert load(before["model.safetensors"])
    hub.heal()
    hub.release()
    said = run_with_hub(SCRIPTS / "publish.py", output).stdout
    assert "user/tiny" in said
    assert json.loads((output / "push.json").read_text())["owed"] == []
    tree = hub.tree("user/tiny")
    assert tree["model.safetensors"] == before["model.safetensors"]
    assert {path: content for path, content in files_of(output).items() if path not in ("push.json", "README.md")} == {
        path: content for path, content in before.items() if path != "README.md"
    }


def test_push__weights_do_not_depend_on_it(hub, push, run):
    output, _ = push()
    first, second = load((output / "model.safetensors").read_bytes()), load((run / "model.safetensors").read_bytes())
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_push__secrets_stay_at_home(hub, push):
    hub.token = CANARY
    logs = importlib.util.find_spec("tensorboard") is not None
    more = ["--report_to", "tensorboard", "--hub_tensorboard", "true"] if logs else []
    output, done = push("--hub_token", CANARY, *more, token=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pushed to" in done.stdout
    assert any("tfevents" in path for path in hub.tree("user/tiny")) == logs
    assert not hub.seen(CANARY)
    assert CANARY not in done.stdout + done.stderr
    for path, content in files_of(output).items():
        assert CANARY.encode() not in content, path
    assert any(request.headers.get("Authorization") == f"Bearer {CANARY}" for request in hub.requests)


def test_push__needs_a_name(words, kitti, tmp_path, fails):
    argv = words(data_dir=kitti, output_dir=tmp_path / "out", push_to_hub="true")
    assert "expected `hub_model_id` as user/name with `push_to_hub`; found none" in fails(finetune.main, *argv)
    assert "every_save or end" in fails(finetune.main, *argv, "--hub_model_id", "a/b", "--hub_strategy", "checkpoint")
    assert not (tmp_path / "out").exists()
