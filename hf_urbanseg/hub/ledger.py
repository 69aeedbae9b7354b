"""push.json in a run's folder: where the run is pushed to, what the Hub hasn't got yet, and why. Never uploaded."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hf_urbanseg.errors import DataError, UrbanSegError
from hf_urbanseg.json_yaml import write_json

LEDGER = "push.json"
_LOCK = threading.RLock()  # the thread that pushes and the one that trains both write


@dataclass
class PushLedger:
    """What a run, or a prepared set, owes the Hub; None is the Hub's default, or what the data's terms allow.

    `owed` are states announced and not there yet, oldest first ("step 500", "final"): a later state that arrives
    settles the earlier ones. `failure` (`text` and `time`) is the last one since `success` (`commit`, `url`, `time`).
    """

    run: Path
    repo_id: str | None = None
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    tensorboard: bool = False
    pictures: bool | None = None
    owed: list[str] = field(default_factory=list)
    failure: dict[str, str] | None = None
    success: dict[str, str] | None = None

    @classmethod
    def read(cls, run: str | Path) -> "PushLedger":
        """The ledger of a run; an empty one if it was never pushed. A DataError if it is not what this class writes."""
        path = Path(run) / LEDGER
        try:
            return cls(Path(run), **json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls(Path(run))
        except (OSError, ValueError, TypeError) as error:
            fix = "delete it and name the repository again"
            raise DataError("the record of earlier pushes", f"{type(error).__name__}", fix, path) from error

    def retarget(self, repo_id: str) -> None:
        """Turns to another repository, which is owed nothing of what the first one lacks. Nothing is written yet."""
        self.__dict__.update(vars(PushLedger(self.run, repo_id)))

    def owe(self, what: str) -> None:
        """Notes that a state is on its way; if this process dies now, it is still owed."""
        with _LOCK:
            self.owed = [*(known for known in self.owed if known != what), what]
            self.write()

    @contextmanager
    def owing(self, what: str) -> Iterator[None]:
        """As `owe`, for a block that ends by `settle`; why it failed is noted and passed on."""
        self.owe(what)
        try:
            yield
        except UrbanSegError as error:
            self.fail(error.found)
            raise

    def fail(self, text: str) -> None:
        """Notes why a push failed; `text` holds no secret."""
        with _LOCK:
            self.failure = {"text": text, "time": _now()}
            self.write()

    def settle(self, what: str, commit: str, url: str) -> None:
        """Notes that a state has arrived, and with it all that were owed before it."""
        with _LOCK:
            self.owed = self.owed[self.owed.index(what) + 1 if what in self.owed else 0 :]
            self.failure, self.success = None, {"commit": commit, "url": url, "time": _now()}
            self.write()

    def write(self) -> None:
        with _LOCK:
            write_json(self.run / LEDGER, {key: value for key, value in asdict(self).items() if key != "run"})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
