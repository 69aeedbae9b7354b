"""Frames that no preflight has seen: checked when they are read, and refused or skipped, counted and listed."""

import logging
from pathlib import Path

import numpy as np
from datasets import Image

from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.preflight.pair_files import open_pair
from hf_urbanseg.data.preflight.set_values import find_unknown, refuse_values
from hf_urbanseg.data.rgb import to_array
from hf_urbanseg.data.shards import ShardedRows
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.limits import is_of_system

logger = logging.getLogger(__name__)

_DECODER = Image()
_MOST_IN_A_ROW = 100
"""Bad frames: more are no accident, but a wrong label space or set."""


class BadFrameError(DataError):
    """A frame that can't be trained on, of a file that can be read."""


class CheckedFrames:
    """Pixels and train ids of rows that are streamed, each pair judged as the preflight judges it by itself.

    Args:
        rows: That are streamed.
        label_space: Which values may occur.
        skipped: File that lists frames which are skipped; None refuses the first one.

    Shape:
        [index] -> image: (H, W, 3) uint8; label: (H, W) uint8 train ids or 255. In place of a bad frame those of the
        next good one, so that a sample is still decided by its key and the data alone.
    """

    def __init__(self, rows: ShardedRows, label_space: LabelSpace, skipped: Path | None = None):
        self.rows, self.label_space, self.skipped = rows.cast_column("image", Image(decode=False)), label_space, skipped

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        for further in range(_MOST_IN_A_ROW):
            try:
                return self._read((index + further) % len(self.rows))
            except BadFrameError as error:
                if self.skipped is None or further + 1 == _MOST_IN_A_ROW:
                    raise
                self._list(error)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        row, space = self.rows[index], self.label_space
        try:
            pair = open_pair(self.rows.split, row, space)
            if unknown := find_unknown(pair, space):
                where, pixels = f"{self.rows.split}/{row['name']}", sum(pair.label_counts.values())
                raise refuse_values(unknown, pixels, dict.fromkeys(unknown, 1), space, where)
        except DataError as error:
            if is_of_system(error):  # skipped, it would leave other frames than elsewhere
                raise
            fix = f"{error.fix}; training goes on without such frames by `--bad_frames skip`"
            raise BadFrameError(error.expected, error.found, fix, error.path) from error
        image, label = pair.image, pair.label
        if pair.orientation != 1:  # as of a set that is downloaded
            image, label = (_DECODER.decode_example({"bytes": one, "path": None}) for one in pair.contents)
        return to_array(image), read_train_ids(label, space)

    def _list(self, error: BadFrameError) -> None:
        """One line a frame: short ones are appended whole, whichever processes do so at once."""
        if str(error) not in list_skipped(self.skipped):
            logger.warning("skipped: %s", error)
            with open(self.skipped, "ab", buffering=0) as file:
                file.write(f"{error}\n".encode())


def list_skipped(path: Path) -> list[str]:
    """A line on each frame that was skipped; two processes that met one at once may have listed it both."""
    return list(dict.fromkeys(path.read_text("utf-8").splitlines())) if path.is_file() else []
