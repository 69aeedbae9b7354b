import json
import logging
import os
import threading
import time
import traceback
from pathlib import Path

import pytest
from folder_contents import read_folder
from run_folders import build_run, hash_tree

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.hub.background import STAGING, BackgroundPublisher
from hf_urbanseg.hub.client import bound_requests
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.hub.publish import publish
from hf_urbanseg.hub.repository import collect_checkpoint, collect_repository

SECRET = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


@pytest.fixture(autouse=True)
def default_timeout(caplog):
    caplog.set_level(logging.INFO, "hf_urbanseg")
    yield
    bound_requests(30)


@pytest.fixture
def run(tmp_path):
    return build_run(tmp_path / "run")


def _warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def _wait(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def _staged(run) -> list:
    return list(run.glob(f"{STAGING}*"))


def test_submit__pushes_and_settles(hub_here, run, caplog):
    before = hash_tree(run)
    publisher = BackgroundPublisher(run, "user/name", private=True)
    publisher.submit(collect_repository(run), "The end", "final")
    assert publisher.finish(20) == f"pushed to {hub_here.endpoint}/user/name"
    assert set(hub_here.tree("user/name")) == set(read_folder(run, ["push.json"]))
    assert hub_here.repository("user/name").private
    assert hub_here.repository("user/name").history("main")[0].title == "The end"
    ledger = PushLedger.read(run)
    assert (ledger.repo_id, ledger.private, ledger.owed, ledger.failure) == ("user/name", True, [], None)
    assert ledger.success["commit"] == hub_here.repository("user/name").branches["main"]
    assert not _staged(run)
    assert hash_tree(run) == before
    assert not _warnings(caplog)


def test_submit__what_it_gets_is_what_it_pushes(hub_here, run):
    """The checkpoint is rotated away and the picture drawn anew before the push has begun."""
    checkpoint = run / "checkpoint-4"
    checkpoint.mkdir()
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        (checkpoint / name).write_bytes((run / name).read_bytes())
    expected = {name: (run / name).read_bytes() for name in ("model.safetensors", "class_distribution.png")}
    hub_here.fail("hang", matching="whoami")
    publisher = BackgroundPublisher(run, "user/name")
    publisher.submit(lambda: collect_checkpoint(run, checkpoint), "Step 4", "step 4")
    assert os.stat(checkpoint / "model.safetensors").st_nlink == 2  # a link: no second copy of the weights
    for path in checkpoint.iterdir():
        path.unlink()
    with (run / "class_distribution.png").open("r+b") as file:
        file.write(b"in place")
    hub_here.release()
    assert publisher.finish(20).startswith("pushed to ")
    tree = hub_here.tree("user/name")
    assert {name: tree[name] for name in expected} == expected
    assert not _staged(run)


def test_submit__returns_at_once_and_newer_replaces_waiting(hub_here, run):
    hub_here.fail("hang", matching="whoami")
    publisher = BackgroundPublisher(run, "user/name")
    start = time.monotonic()
    for step in (1, 2, 3):
        (run / "config.json").write_text(f'{{"step": {step}}}')
        publisher.submit({"config.json": run / "config.json"}, f"Step {step}", f"step {step}")
    assert time.monotonic() - start < 5
    assert PushLedger.read(run).owed == ["step 1", "step 2", "step 3"]
    assert len(_staged(run)) == 1
    hub_here.release()
    assert publisher.finish(20).startswith("pushed to ")
    assert hub_here.tree("user/name") == {"config.json": b'{"step": 3}'}
    assert [commit.title for commit in hub_here.repository("user/name").history("main")] == ["Step 3", "initial commit"]
    assert PushLedger.read(run).owed == []


def test_submit__one_push_at_a_time(hub_here, run):
    under_way, most = [0], [0]
    lock = threading.Lock()

    def count(request):
        with lock:
            if request.name == "create-repo":
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            if request.name == "commit":
                under_way[0] -= 1
        return False

    publisher = BackgroundPublisher(run, "user/name")
    _wait(lambda: "create-repo" in hub_here.names())
    _wait(lambda: not publisher._busy)
    hub_here.fail(500, matching=count)
    for step in range(3):
        publisher.submit({"config.json": f'{{"step": {step}}}'.encode()}, f"Step {step}", f"step {step}")
        _wait(lambda: publisher._waiting is None)
    assert publisher.finish(20).startswith("pushed to ")
    assert most == [1]


# ---- failures ----


def test_submit__hub_down_from_start_to_end(hub, hub_here, run, caplog):
    with hub.outage():
        before = hash_tree(run)
        publisher = BackgroundPublisher(run, "user/name")
        for number, step in enumerate((500, 1000), 1):
            _wait(lambda number=number: len(_warnings(caplog)) == number)
            publisher.submit({"config.json": b"{}"}, f"Step {step}", f"step {step}")
        line = publisher.finish(20)
    assert line.startswith("owed to user/name: step 500, step 1000 (no answer from http://127.0.0.1:")
    assert line.endswith(f"; complete it with `urbanseg publish {run}`")
    lines = _warnings(caplog)
    assert [line.partition(" (user/name): ")[0] for line in lines] == [
        "the Hub can't be pushed to",
        "the push of step 500 failed",
        "the push of step 1000 failed",
    ]
    assert all("Connection refused" in line and "check the network and" in line for line in lines)
    ledger = PushLedger.read(run)
    assert ledger.owed == ["step 500", "step 1000"]
    assert "Connection refused" in ledger.failure["text"]
    assert hash_tree(run) == before
    assert not _staged(run)


def test_submit__a_later_push_settles_what_failed_before(hub_here, run, caplog):
    publisher = BackgroundPublisher(run, "user/name")
    hub_here.fail(403, matching="commit")
    publisher.submit({"config.json": b"{}"}, "Step 1", "step 1")
    _wait(lambda: PushLedger.read(run).failure is not None)
    publisher.submit({"config.json": b'{"a": 1}'}, "Step 2", "step 2")
    assert publisher.finish(20).startswith("pushed to ")
    assert PushLedger.read(run).failure is None
    assert len(_warnings(caplog)) == 1
    assert "name a repository in your own namespace" in _warnings(caplog)[0]


def test_submit__retries_leave_no_lines_of_the_library(hub_here, run, waits, caplog):
    publisher = BackgroundPublisher(run, "user/name")
    hub_here.fail(500, matching="preupload", times=99)
    publisher.submit({"config.json": b"{}"}, "Step 1", "step 1")
    assert publisher.finish(20).startswith("owed to ")
    assert len(waits) == 5
    assert len(_warnings(caplog)) == 1


def test_submit__a_secret_is_a_failed_push(hub_here, run, caplog):
    (run / "log_history.json").write_text(json.dumps({"note": SECRET}))
    publisher = BackgroundPublisher(run, "user/name")
    publisher.submit(lambda: collect_repository(run), "The end", "final")
    assert publisher.finish(20).startswith("owed to ")
    assert "the push of final failed (user/name): log_history.json: something like a token" in _warnings(caplog)[0]
    assert SECRET not in caplog.text
    assert SECRET not in (run / "push.json").read_text()
    assert not hub_here.seen(SECRET)
    assert PushLedger.read(run).owed == ["final"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("odd")])
def test_submit__nothing_reaches_the_caller(hub_here, run, caplog, error):
    def fail():
        raise error

    publisher = BackgroundPublisher(run, "user/name")
    publisher.submit(fail, "Step 1", "step 1")
    assert publisher.finish(20).startswith("owed to ")
    assert (error.strerror if isinstance(error, OSError) else "odd") in _warnings(caplog)[0]
    assert not _staged(run)


def test_finish__waits_no_longer_than_asked(hub_here, run, caplog):
    hub_here.fail("hang", matching="lfs-put", times=99)
    publisher = BackgroundPublisher(run, "user/name")
    publisher.submit(collect_repository(run), "The end", "final")
    _wait(lambda: "lfs-put" in hub_here.names())
    start = time.monotonic()
    assert "owed to user/name: final (still under way after 0.3 s)" in publisher.finish(0.3)
    assert time.monotonic() - start < 5
    assert PushLedger.read(run).owed == ["final"]
    assert not _staged(run)
    hub_here.heal()
    publisher._thread.join(20)
    assert not publisher._thread.is_alive()
    assert not _warnings(caplog)  # the line has said it


def test_finish__nothing_submitted(hub_here, run):
    assert BackgroundPublisher(run, "user/name").finish(20) == "nothing was pushed"


HERE = Path(__file__).parent
_HANGING = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[1:]
from run_folders import build_run
from hf_urbanseg.hub.background import BackgroundPublisher
from hf_urbanseg.hub.repository import collect_repository
run = build_run(Path("run"))
publisher = BackgroundPublisher(run, "user/name")
publisher.submit(collect_repository(run), "The end", "final")
time.sleep(1)
print(publisher.finish(0.5), flush=True)
print(time.time(), flush=True)
"""


def test_finish__a_hanging_push_does_not_keep_the_process(hub, run_with_hub):
    hub.fail("hang", matching="lfs-put", times=99)
    done = run_with_hub(_HANGING, str(HERE), str(HERE.parent / "common"), timeout=40)
    line, ended = done.stdout.splitlines()
    assert "still under way" in line
    assert time.time() - float(ended) < 10
    assert not done.stderr


# ---- starts ----


def test_start__removes_what_a_killed_process_left(hub_here, run):
    (run / f"{STAGING}7").mkdir()
    (run / f"{STAGING}7" / "model.safetensors").write_bytes(b"x")
    BackgroundPublisher(run, "user/name").finish(20)
    assert not _staged(run)


def test_start__a_resumed_run_still_owes_and_another_repository_does_not(hub_here, run):
    ledger = PushLedger(run, "user/name")
    ledger.owe("step 500")
    resumed = BackgroundPublisher(run, "user/name")
    assert resumed.finish(20).startswith("owed to user/name: step 500 (not pushed)")
    assert PushLedger.read(run).owed == ["step 500"]
    assert BackgroundPublisher(run, "user/other").finish(20) == "nothing was pushed"
    assert PushLedger.read(run).owed == []


def test_start__a_damaged_record_is_begun_anew(hub_here, run, caplog):
    (run / "push.json").write_text("{")
    publisher = BackgroundPublisher(run, "user/name")
    publisher.submit({"config.json": b"{}"}, "The end", "final")
    assert publisher.finish(20).startswith("pushed to ")
    assert "push.json: expected the record of earlier pushes" in _warnings(caplog)[0]


def test_start__a_wrong_token_is_told_at_once_and_stops_nothing(hub_here, run, caplog):
    publish({"config.json": b"{}"}, "user/name")  # a public repository: reading it would work without a token
    publisher = BackgroundPublisher(run, "user/name", token=SECRET)
    _wait(lambda: _warnings(caplog))
    assert "the Hub can't be pushed to (user/name): status 401" in _warnings(caplog)[0]
    assert "log in with `hf auth login`" in _warnings(caplog)[0]
    publisher.submit({"config.json": b'{"a": 1}'}, "The end", "final")
    line = publisher.finish(20)
    assert line.startswith("owed to ")
    texts = caplog.text + line + (run / "push.json").read_text()
    assert SECRET not in texts
    assert not hub_here.seen(SECRET)


def test_start__impossible_words_are_refused(run):
    with pytest.raises(ConfigError, match="expected a repository as user/name"):
        BackgroundPublisher(run, "name")
    with pytest.raises(ConfigError, match=r"expected a token such as hf_\.\.\.") as raised:
        BackgroundPublisher(run, "user/name", token=f"{SECRET} x")
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert not (run / "push.json").exists()
