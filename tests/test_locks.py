"""One process writes into a folder, whoever else is started and however it ends."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys

import pytest

from hf_urbanseg import locks
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.locks import LOCK, locked

pytestmark = pytest.mark.skipif(locks.flock is None, reason="needs POSIX file locks")

HOLD = """
import sys
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.locks import locked
try:
    with locked(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
except ConfigError as error:
    print(error, flush=True)
    sys.exit(2)
"""


def start(folder) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_locked__of_processes_that_start_together_one_runs(tmp_path):
    folder = tmp_path / "runs" / "mine"
    processes = [start(folder) for _ in range(4)]
    lines = {process: process.stdout.readline() for process in processes}
    (holder,) = [process for process, line in lines.items() if line == "held\n"]
    for process in set(processes) - {holder}:
        assert process.wait(20) == 2
        assert f"found one at work (process {holder.pid} on " in lines[process]
    assert f"process {holder.pid} on " in (folder / LOCK).read_text()
    holder.communicate()
    assert holder.returncode == 0
    assert not list(tmp_path.iterdir())  # nothing was written, so nothing is left


def test_locked__goes_with_a_killed_process_and_stays_with_its_parent(tmp_path, caplog):
    process = start(tmp_path)
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with caplog.at_level(logging.INFO), locked(tmp_path):
        assert f"was killed: process {process.pid} on " in caplog.text
        # As the workers of a loader: what a child does or survives is nothing to the lock.
        child = os.fork()
        if not child:
            os._exit(len(locks._held))
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on "), locked(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("inside", [True, False])
def test_locked__leaves_what_was_written(tmp_path, inside):
    path = tmp_path / "a" / "b"
    with locked(path, inside=inside) as check:
        with pytest.raises(ConfigError, match="no other process that writes there"), locked(path, inside=inside):
            pass
        path.mkdir(exist_ok=True)
        (path / "file").touch()
        check()
    assert [one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("*")] == ["a", "a/b", "a/b/file"]


@pytest.mark.parametrize("anew", [False, True])
def test_locked__says_when_the_folder_is_gone(tmp_path, anew):
    path = tmp_path / "run"
    with locked(path) as check:
        shutil.rmtree(path)
        if anew:
            path.mkdir()
            (path / LOCK).write_text("another's")
        with pytest.raises(ConfigError, match="found it deleted, moved or replaced meanwhile"):
            check()
    assert not anew or (path / LOCK).read_text() == "another's"


def test_locked__a_disk_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "flock", fail)
    with locked(tmp_path) as check:
        check()
    assert "no lock can be had here (No locks available)" in caplog.text
    assert not list(tmp_path.iterdir())


def test_locked__where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(DataError, match="expected a folder to write to"), locked(path):
            pass
    (tmp_path / LOCK).symlink_to(tmp_path / "file")
    with pytest.raises(DataError), locked(tmp_path):
        pass
    assert (tmp_path / "file").read_text() == ""
