"""The errors a user meets.

Every one says what was expected, what was found and what to do, on one line, and names the file where there is one.
Commands print that line and exit with status 2; a traceback means the mistake is ours.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from hf_urbanseg.escaping import flatten, shorten

logger = logging.getLogger(__name__)

_WHOLE = re.compile(r"Error: (?:(.*): )?expected (.*); found (.*); (.*)\.$")
_LISTED = 20
_LONGEST = 1000  # characters of a line, which is to be read


class UrbanSegError(Exception):
    """A mistake in the input that the person who made it can mend.

    Args:
        expected: What should have been there, without a full stop.
        found: What was there instead, with the value.
        fix: The next step, as an imperative.
        path: The file or folder concerned, put at the front of the message.
    """

    def __init__(self, expected: str, found: str | None = None, fix: str = "", path: str | Path | None = None):
        if found is None:  # torch makes an error in a loader's worker anew, of its traceback, whose last line is ours
            path, expected, found, fix = _WHOLE.search(expected.strip().splitlines()[-1]).groups()
        self.expected, self.found, self.fix, self.path = expected, found, fix, path
        parts = [flatten(part) for part in ("" if path is None else path, expected, found, fix)]
        longest = _LONGEST
        while sum(min(len(part), longest) for part in parts) > _LONGEST:
            longest -= 1  # the long parts lose their middles, so that what to do is still said
        where, expected, found, fix = (shorten(part, longest) for part in parts)
        super().__init__(f"{where}{': ' if where else ''}expected {expected}; found {found}; {fix}.")

    def __reduce__(self):
        # Worker processes send their errors back pickled; the default would call __init__ with the message alone.
        return type(self), (self.expected, self.found, self.fix, self.path)


class DataError(UrbanSegError):
    """An image, a label, a folder layout or a split that can't be trained on."""


class ConfigError(UrbanSegError):
    """A recipe or an option that is unknown or out of range."""


class ModelError(UrbanSegError):
    """A model folder or Hub id that can't be loaded completely."""


class CheckpointError(UrbanSegError):
    """A training checkpoint that is incomplete, altered or missing."""


class DivergenceError(UrbanSegError):
    """Training whose gradients or weights are no longer finite numbers."""


class OutOfMemoryError(UrbanSegError):
    """More memory than a device or the machine has."""

    of_one_process = True
    """Of a launch, whose others don't know of it; not once it was sent to them."""

    def __reduce__(self):
        return *super().__reduce__(), {"of_one_process": False}


class HubError(UrbanSegError):
    """The Hub is away, refuses, or must not get what it would be sent."""


def log_faults(faults: Sequence[UrbanSegError], level: int = logging.ERROR) -> None:
    """Logs the first `_LISTED` of several faults and how many more there are, so that one start shows them all."""
    for fault in faults[:_LISTED]:
        logger.log(level, "%s", fault)
    if len(faults) > _LISTED:
        logger.log(level, "... and %d more like these", len(faults) - _LISTED)


def join_faults(faults: Sequence[UrbanSegError], kind: str, note: str = "") -> UrbanSegError:
    """The first fault, with the number of others; `note` is put behind what to do."""
    first, others = faults[0], len(faults) - 1
    more = f" (and {others} more {kind}{'s' if others > 1 else ''})" if others else ""
    return type(first)(first.expected, first.found + more, f"{first.fix}{note}", first.path)


def refuse_all(faults: Sequence[UrbanSegError], kind: str) -> None:
    """Raises the first with the number of the others, which are logged; nothing where there is none."""
    if faults:
        log_faults(faults[1:])
        raise join_faults(faults, kind)
