import json
import math
import re
import sys

import pytest
import yaml
from folder_contents import read_folder
from run_folders import FORBIDDEN, build_run, hash_tree, plant_forbidden

from hf_urbanseg.commands.publish import main
from hf_urbanseg.hub.client import bound_requests
from hf_urbanseg.hub.ledger import PushLedger

COMMAND = ("-m", "hf_urbanseg", "publish")
SECRET = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


@pytest.fixture
def run(tmp_path):
    return build_run(tmp_path / "run")


@pytest.fixture
def push(hub_here, monkeypatch, capsys):
    """Runs the command in this process; what it printed."""

    def run(*argv) -> str:
        monkeypatch.setattr(sys, "argv", ["publish", *map(str, argv)])
        main()
        return capsys.readouterr().out

    yield run
    bound_requests(30)


def _expected(run) -> dict[str, bytes]:
    """The run as a stranger may see it: only its own folder's path is shortened."""
    tree = read_folder(run, without=(*FORBIDDEN, "push.json"))
    recipe = yaml.safe_load(tree["recipe.yaml"]) | {"output_dir": run.name}
    return tree | {"recipe.yaml": yaml.safe_dump(recipe, sort_keys=False).encode()}


def test_publish__dry_run_connects_to_nothing(hub_here, run, push):
    out = push(run, "user/name", "--dry_run")
    assert out.endswith("dry run: nothing was pushed\n")
    assert "21 files" in out
    assert not hub_here.requests
    assert not (run / "push.json").exists()


def test_publish__long_names_are_listed_whole(run, push):
    (run / "overlays" / f"{'scene' * 30}.jpg").write_bytes((run / "overlays" / "scene.png").read_bytes())
    out = push(run, "user/name", "--dry_run")
    listed = "".join(re.findall(r"^\S (\S+)", out, re.MULTILINE))  # the first column
    assert f"{'scene' * 30}.jpg" in listed


def test_publish__pictures_as_asked_and_remembered(hub_here, run, push):
    push(run, "user/name", "--pictures", "false")
    assert not {"overlays/scene.png", "report.html"} & set(hub_here.tree("user/name"))
    assert PushLedger.read(run).pictures is False
    (run / "log_history.json").write_text('{"a": 1}')
    push(run)
    assert "overlays/scene.png" not in hub_here.tree("user/name")
    push(run, "--pictures")
    assert {"overlays/scene.png", "report.html"} <= set(hub_here.tree("user/name"))
    push(run, "--pictures", "false")  # what an earlier push brought goes
    assert not {"overlays/scene.png", "report.html"} & set(hub_here.tree("user/name"))


def test_publish__target_is_remembered(hub_here, run, push):
    push(run, "user/name", "--private", "--revision", "dev", "--message", "Mine")
    assert hub_here.repository("user/name").private
    assert hub_here.repository("user/name").history("dev")[0].title == "Mine"
    assert hub_here.tree("user/name") == {}
    (run / "metrics.json").write_text('{"splits": {}, "a": 1}')
    out = push(run)
    assert hub_here.tree("user/name", "dev")["metrics.json"] == b'{"splits": {}, "a": 1}'
    assert f"pushed 1 new or changed files: {hub_here.endpoint}/user/name/tree/dev (" in out
    (run / "overlays" / "scene.png").unlink()
    assert "pushed 0 new or changed files, 1 removed" in push(run)
    assert hub_here.tree("user/name", "dev") == _expected(run)
    push(run, "user/other")
    ledger = PushLedger.read(run)
    assert (ledger.repo_id, ledger.private, ledger.revision) == ("user/other", None, None)


def test_publish__pull_request(hub_here, run, push):
    assert f"{hub_here.endpoint}/user/name/discussions/1 (" in push(run, "user/name", "--create_pr")
    assert hub_here.tree("user/name", "refs/pr/1") == _expected(run)
    assert "nothing to push" in push(run)
    assert "pushed 21 new" in push(run, "--create_pr", "false")
    assert hub_here.tree("user/name") == _expected(run)


def test_publish__tensorboard_if_asked_for(hub_here, run, push):
    (run / "runs" / "x").mkdir(parents=True)
    (run / "runs" / "x" / "events.out.tfevents.1.host").write_bytes((2).to_bytes(8, "little") + b"crc1xxcrc2")
    push(run, "user/name")
    assert not any("tfevents" in name for name in hub_here.tree("user/name"))
    push(run, "--tensorboard")
    assert "runs/x/events.out.tfevents.1.0" in hub_here.tree("user/name")


def test_publish__a_space(hub_here, run, push):
    assert "files of this package, in hf_urbanseg/\ndry run" in push(run, "--space", "user/demo", "--dry_run")
    assert not hub_here.requests
    out = push(run, "--space", "user/demo", "--private", "--message", "Mine")
    assert f"{hub_here.endpoint}/spaces/user/demo (" in out
    assert "paths of this machine" not in out
    repository = hub_here.repository("user/demo", "space")
    assert (repository.private, repository.history("main")[0].title) == (True, "Mine")
    assert not (run / "push.json").exists()


def test_publish__everything_forbidden_stays(hub_here, run, push):
    plant_forbidden(run)
    push(run, "user/name")
    assert hub_here.tree("user/name") == _expected(run)
    assert not hub_here.seen("forbidden")


# ---- refusals ----


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "name it: urbanseg publish "),
        (["name"], "expected a repository as user/name; found `name`"),
        (["user/name", "--create_pr", "--revision", "dev"], "expected either `create_pr` or `revision`; found both"),
        (["user/name", "--timeout", "0"], "expected a timeout above 0 seconds; found `0.0`"),
        (["user/name", "--message", SECRET], "expected names and a message without secrets"),
        (["user/name", "--what"], "found `--what`"),
        (["user/name", "extra"], "found `extra`"),
        (["--space", "name"], "expected a repository as user/name; found `name`"),
        (["user/name", "--space", "user/demo"], "found `repo_id`; leave it out, or push the run by itself"),
    ],
)
def test_publish__refuses_in_one_line(hub_here, run, fails, words, line):
    text = fails(main, run, *words)
    assert line in text
    assert SECRET not in text
    assert not hub_here.requests


def test_publish__an_unfinished_run(hub_here, run, fails):
    (run / "metrics.json").unlink()
    assert "expected a measured model with metrics.json; found none; let `urbanseg" in fails(main, run, "user/name")
    assert not (run / "push.json").exists()
    assert "expected the folder of a run" in fails(main, run.parent / "nowhere", "user/name")


def test_publish__a_card_the_hub_would_not_take(hub_here, run, fails):
    (run / "README.md").write_text("---\nlicense: mine\n---\n")
    assert "correct the front matter of README.md" in fails(main, run, "user/name")
    assert hub_here.tree("user/name") == {}


# ---- outages ----


def test_publish__with_the_hub_down_it_stays_owed(hub, hub_here, run, push, fails):
    with hub.outage():
        before = hash_tree(run)
        text = fails(main, run, "user/name", "--private")
        assert "expected the Hub to take a push to user/name; found no answer from http://127.0.0.1:" in text
        assert hash_tree(run) == before
        ledger = PushLedger.read(run)
        assert (ledger.repo_id, ledger.owed, ledger.private) == ("user/name", ["final"], True)
        assert "Connection refused" in ledger.failure["text"]
    push(run)
    assert hub.tree("user/name") == _expected(run)
    assert hub.repository("user/name").private
    ledger = PushLedger.read(run)
    assert (ledger.owed, ledger.failure) == ([], None)
    assert ledger.success["url"] == f"{hub.endpoint}/user/name"


def test_publish__what_training_owed_is_settled(hub_here, run, push):
    ledger = PushLedger(run, "user/name", revision="dev")
    ledger.owe("step 500")
    ledger.owe("final")
    push(run)
    assert hub_here.tree("user/name", "dev") == _expected(run)
    assert PushLedger.read(run).owed == []


def test_publish__another_repository_while_one_is_owed(hub_here, run, push, caplog):
    PushLedger(run, "user/name").owe("final")
    push(run, "user/other")
    assert "user/name is still owed final; push.json forgets it now" in caplog.text
    assert PushLedger.read(run).owed == []


@pytest.mark.parametrize("how", ["reset", "hang", 403])
def test_publish__failing_at_every_request_then_completed(hub_here, run, push, fails, waits, how):
    for name in ("overlays/scene.png", "failures/scene.png", "training_curves.png", "per_class_test.png"):
        (run / name).unlink()  # fewer requests
    before, expected = hash_tree(run), _expected(run)
    push(run, "user/name")
    count = len(hub_here.requests)
    assert count >= 9
    words = ["--timeout", "0.1"] if how == "hang" else []
    for n in range(1, count + 1):
        hub_here.repositories.clear()
        (run / "push.json").unlink()
        hub_here.fail(how, at=n, times=math.inf)
        text = fails(main, run, "user/name", *words)
        assert text.startswith("error: expected the Hub to take a push to user/name; found ")
        assert hash_tree(run) == before
        assert PushLedger.read(run).owed == ["final"]
        assert PushLedger.read(run).failure["text"] in text
        hub_here.heal()
        push(run)
        assert hub_here.tree("user/name") == expected
        assert PushLedger.read(run).owed == []


# ---- secrets ----


def test_publish__script_in_processes_of_its_own_shows_nobody_the_token(hub, run, run_with_hub, tmp_path):
    """The token in the environment and in .env files of the run and the working folder; a push that fails first."""
    for folder in (run, tmp_path):
        (folder / ".env").write_text(f"HF_TOKEN={hub.token}\n")
    before = hash_tree(run)
    hub.fail(403, matching="commit")
    failed = run_with_hub(*COMMAND, run, "user/name", check=False)
    assert failed.returncode == 2
    assert len(failed.stderr.strip().splitlines()) == 1
    done = run_with_hub(*COMMAND, run)
    assert hub.tree("user/name") == _expected(run)
    assert f"pushed 21 new or changed files: {hub.endpoint}/user/name (commit " in done.stdout
    assert "model.safetensors" in done.stdout
    assert "200.1 kB" in done.stdout
    assert hash_tree(run) == before
    assert not hub.unknown
    assert not hub.seen(hub.token)
    assert hub.token not in failed.stdout + failed.stderr + done.stdout + done.stderr
    holding = [path.name for path in run.rglob("*") if path.is_file() and hub.token.encode() in path.read_bytes()]
    assert holding == [".env"]


def test_publish__refuses_a_file_with_the_token_and_sends_nothing(hub_here, run, fails):
    (run / "log_history.json").write_text(json.dumps({"token": hub_here.token}))
    text = fails(main, run, "user/name")
    assert "log_history.json: expected files without secrets" in text
    assert hub_here.token not in text
    assert not hub_here.requests
