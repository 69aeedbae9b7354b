"""finetune.py --push_to_hub against a loopback Hub: what arrives, and that no outage costs the run."""

import json
import math
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from folder_contents import read_folder
from run_folders import read_content
from safetensors.torch import load

from hf_urbanseg.commands import finetune, publish
from hf_urbanseg.hub.repository import collect_repository

SCRIPTS = Path(__file__).parents[2] / "scripts"


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


def test_push__arrives_whole_and_changes_no_weight(hub, push, run):
    output, done = push()
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = load((output / "model.safetensors").read_bytes()), load((run / "model.safetensors").read_bytes())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert re.search(r"pushed to http://\S+user/tiny", done.stderr)
    tree = hub.tree("user/tiny")
    local = read_folder(output)
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


def test_push__an_outage_costs_nothing_and_is_owed(hub, push, request, capsys):
    """Silent for ever from the start (every kind at every request: tests/hub/test_publish.py); training ends, its files
    are whole, `urbanseg publish` completes the push."""
    hub.fail("hang", times=math.inf)
    output, done = push("--hub_timeout", "5", token=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "owed to user/tiny: " in done.stderr
    assert f"complete it with `urbanseg publish {output}`" in done.stderr
    assert "final" in json.loads((output / "push.json").read_text())["owed"]
    assert json.loads((output / "checkpoint-4" / "trainer_state.json").read_text())["global_step"] == 4
    assert "Traceback" not in done.stderr
    before = read_folder(output, ["push.json"])
    assert load(before["model.safetensors"])
    hub.heal()
    hub.release()
    request.getfixturevalue("hub_here")
    publish.main([str(output)])
    assert "user/tiny" in capsys.readouterr().out
    assert json.loads((output / "push.json").read_text())["owed"] == []
    tree = hub.tree("user/tiny")
    assert tree["model.safetensors"] == before["model.safetensors"]
    assert read_folder(output, ["push.json", "README.md"]) == {
        path: content for path, content in before.items() if path != "README.md"
    }


KINDS = ["refuse", "reset", "cut", "lost", "hang", 401, 403, 409, 413, 429, 500]
EVERY_REQUEST = "HF_URBANSEG_TEST_EVERY_REQUEST"
_UNDISTURBED: dict[str, object] = {}
"""Weights and requests of the run below, trained by the first case."""


# By default four kinds; tests/hub has all of them at every request of a push.
@pytest.mark.parametrize("how", KINDS if os.environ.get(EVERY_REQUEST) else ("refuse", "cut", "hang", 429), ids=str)
def test_push__dying_at_a_request_of_the_run(hub_here, waits, words, kitti, tmp_path, monkeypatch, caplog, how):
    """From the first commit on; with HF_URBANSEG_TEST_EVERY_REQUEST=1 from the first and last request of each kind on,
    taking 20 minutes. Training ends with the weights of an undisturbed run, and `urbanseg publish` completes it."""
    hub = hub_here

    def train(output) -> str:
        argv = words(
            data_dir=kitti, output_dir=output, num_overlays=0, push_to_hub="true", hub_model_id="user/tiny",
            max_steps=2, eval_steps=1, save_steps=1, hub_timeout=2,
        )  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["finetune", *argv])
        caplog.clear()
        finetune.main()
        return caplog.text

    if not _UNDISTURBED:
        assert "pushed to" in train(tmp_path / "whole")
        weights = (tmp_path / "whole" / "model.safetensors").read_bytes()
        _UNDISTURBED.update(weights=weights, names=hub.names())
    weights, names = _UNDISTURBED["weights"], _UNDISTURBED["names"]
    found = {names.index(name) for name in names} | {len(names) - 1 - names[::-1].index(name) for name in names}
    for at in sorted(found) if os.environ.get(EVERY_REQUEST) else [names.index("commit")]:
        hub.repositories.clear()
        hub.requests.clear()
        hub.fail(how, at=at + 1, times=math.inf)
        output = tmp_path / f"dying_{at}"
        assert "owed to user/tiny: " in train(output)
        owed = json.loads((output / "push.json").read_text())
        assert owed["owed"][-1] == "final"
        assert owed["failure"]["text"]
        assert (output / "model.safetensors").read_bytes() == weights
        hub.heal()
        before = read_folder(output, ["push.json", "README.md"])
        monkeypatch.setattr(sys, "argv", ["publish", str(output)])
        publish.main()
        assert json.loads((output / "push.json").read_text())["owed"] == []
        local = {path: read_content(content) for path, content in collect_repository(output).items()}
        assert hub.tree("user/tiny") == local
        assert {path: read_folder(output)[path] for path in before} == before


def test_push__needs_a_name(words, kitti, tmp_path, fails):
    argv = words(data_dir=kitti, output_dir=tmp_path / "out", push_to_hub="true")
    assert "expected `hub_model_id` as user/name with `push_to_hub`; found none" in fails(finetune.main, *argv)
    argv += ["--hub_model_id", "a/b", "--hub_strategy", "checkpoint"]
    assert "invalid choice: 'checkpoint'" in fails(finetune.main, *argv)
    assert not (tmp_path / "out").exists()
