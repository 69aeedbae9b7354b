"""Pushes a run while it trains: in a thread of its own, from a snapshot, and never at the cost of the run."""

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hf_urbanseg.errors import DataError, UrbanSegError
from hf_urbanseg.hub.client import clean_token, describe_failure, ensure_bounds, silence_retries
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.hub.publish import check_access, check_target, publish_owed
from hf_urbanseg.hub.repository import Files

logger = logging.getLogger(__name__)

STAGING = ".staging-push-"  # begins as the folders do that a new start of training cleans up


class _Submission(NamedTuple):
    files: Files
    message: str
    what: str
    folder: Path


class BackgroundPublisher:
    """Pushes states of a run one after the other; a newer one takes the place of one that waits.

    Nothing that happens to a push reaches the caller: a failure is logged once, with what to do, and stays in
    push.json as owed until a later push goes through, here or by `urbanseg publish`. Only an impossible name of a
    repository or token is a ConfigError at once.
    """

    def __init__(
        self,
        run: str | Path,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        tensorboard: bool = False,
        pictures: bool | None = None,
    ):
        self.run, self.repo_id = Path(run), repo_id
        check_target(repo_id, revision)
        self._token = clean_token(token)
        ensure_bounds()
        self.run.mkdir(parents=True, exist_ok=True)
        self._clear_staging()
        try:
            self._ledger = PushLedger.read(self.run)
        except DataError as error:
            logger.warning("%s A new one is begun.", error)
            self._ledger = PushLedger(self.run)
        if self._ledger.repo_id != repo_id:
            self._ledger.retarget(repo_id)
        vars(self._ledger).update(
            private=private, revision=revision, create_pr=False, tensorboard=tensorboard, pictures=pictures
        )
        self._ledger.write()
        self._changed = threading.Condition()
        self._waiting: _Submission | None = None
        self._busy, self._closed, self._number = True, False, 0
        self._url: str | None = None
        self._thread = threading.Thread(target=self._work, name="push to the Hub", daemon=True)
        self._thread.start()

    def submit(self, files: Files | Callable[[], Files], message: str, what: str) -> None:
        """Takes a snapshot and returns; the push of this state, `what` in push.json, follows in its own time.

        What a function of `files` raises is a failed push and not an error here.
        """
        self._number += 1
        folder = self.run / f"{STAGING}{self._number}"
        try:
            self._ledger.owe(what)
            submission = _Submission(_snapshot(files() if callable(files) else files, folder), message, what, folder)
        except Exception as error:  # a full disk, a file that can't be read: training goes on
            shutil.rmtree(folder, ignore_errors=True)
            self._report(what, error)
            return
        with self._changed:
            replaced, self._waiting = self._waiting, submission
            self._changed.notify_all()
        if replaced is not None:
            logger.info("the push of %s gives way to that of %s", replaced.what, what)
            shutil.rmtree(replaced.folder, ignore_errors=True)

    def finish(self, timeout: float = 120.0) -> str:
        """Waits so many seconds for what is under way, and doesn't keep the process from exiting if that hangs.

        Returns a line: the address, or what is owed, why, and how to complete it.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            if not self._changed.wait_for(self._is_idle, min(timeout, 2.0)):
                logger.info("waiting for the push to %s, at most %g s", self.repo_id, timeout)
            late = not self._changed.wait_for(self._is_idle, deadline - time.monotonic())
            self._closed = True
            self._changed.notify_all()
        if late:
            with contextlib.suppress(OSError):
                self._ledger.fail(f"still under way after {timeout:g} s")
            self._clear_staging()
        owed, failure = list(self._ledger.owed), self._ledger.failure or {}
        if not owed:
            return f"pushed to {self._url}" if self._url else "nothing was pushed"
        line = f"owed to {self.repo_id}: {', '.join(owed)} ({failure.get('text', 'not pushed')}); complete it with "
        return f"{line}`urbanseg publish {self.run}`"

    def _clear_staging(self) -> None:
        for folder in self.run.glob(f"{STAGING}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _is_idle(self) -> bool:
        return not self._busy and self._waiting is None

    def _work(self) -> None:
        silence_retries()
        private, revision = self._ledger.private, self._ledger.revision
        self._try("access", lambda: check_access(self.repo_id, self._token, private, revision))
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._closed:
                    return
                submission, self._waiting, self._busy = self._waiting, None, True
            self._try(submission.what, lambda submission=submission: self._push(submission))
            shutil.rmtree(submission.folder, ignore_errors=True)

    def _push(self, submission: _Submission) -> None:
        files, message, what, _ = submission
        self._url = publish_owed(files, self._ledger, what, message, token=self._token, threads=1).url
        logger.info("pushed %s to %s", what, self._url)

    def _try(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if not self._closed:
                self._report(what, error)

    def _report(self, what: str, error: Exception) -> None:
        found, fix = describe_failure(error, self._token)
        if isinstance(error, UrbanSegError) and error.path is not None:
            found = f"{error.path}: {found}"
        with contextlib.suppress(OSError):
            self._ledger.fail(found)
        subject = "the Hub can't be pushed to" if what == "access" else f"the push of {what} failed"
        logger.warning(
            "%s (%s): %s; %s. Training goes on, and each later push tries again; at the end `urbanseg publish %s` "
            "completes what is owed.", subject, self.repo_id, found, fix, self.run,
        )  # fmt: skip


def _snapshot(files: Files, folder: Path) -> Files:
    """Copies of the files that outlive the rotation of checkpoints and the next writing of a picture."""
    kept: Files = {}
    for name, content in files.items():
        kept[name] = content
        if isinstance(content, Path):
            kept[name] = folder / name
            kept[name].parent.mkdir(parents=True, exist_ok=True)
            # Weights are never written in place, so a link holds them, where the file system has such; pictures are.
            if name.endswith(".safetensors"):
                with contextlib.suppress(OSError):
                    os.link(content.resolve(), kept[name])
                    continue
            shutil.copyfile(content, kept[name])
    return kept
