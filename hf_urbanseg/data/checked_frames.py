"""Frames that no preflight has seen: checked when they are read, and refused or skipped, counted and listed."""

import logging
from pathlib import Path

import numpy as np

from hf_urbanseg.data.label_pictures import find_places, read_train_ids, read_values
from hf_urbanseg.data.rgb import to_array
from hf_urbanseg.data.shards import BadFrameError, ShardedRows
from hf_urbanseg.labels import LabelSpace

logger = logging.getLogger(__name__)

_MOST_IN_A_ROW = 100
"""Bad frames: more are no accident, but a wrong label space or set."""


class CheckedFrames:
    """Pixels and train ids of rows that are streamed, each pair checked as the preflight checks it by itself.

    Args:
        rows: That are streamed.
        label_space: Which values may occur.
        skipped: File that lists frames which are skipped; None refuses the first one.

    Shape:
        [index] -> image: (H, W, 3) uint8; label: (H, W) uint8 train ids or 255. In place of a bad frame those of the
        next good one, so that a sample is still decided by its key and the data alone.
    """

    def __init__(self, rows: ShardedRows, label_space: LabelSpace, skipped: Path | None = None):
        self.rows, self.label_space, self.skipped = rows, label_space, skipped

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
        image, picture = to_array(row["image"]), row["label"]
        fix = "leave the frame out, or go on without such frames by `--bad_frames skip`"
        try:
            values = read_values(picture, space.encoding)
        except ValueError as error:
            raise BadFrameError(f"a label of {error}", f"mode {picture.mode}", fix, row["name"]) from error
        if values.shape != image.shape[:2]:
            expected = "a label as large as its image, {}x{} (height x width)".format(*image.shape)
            raise BadFrameError(expected, "{}x{}".format(*values.shape), fix, row["name"])
        if not space.lossy:  # of which a part is unknown by design
            unknown = values[find_places(values, space) == 0]
            if len(unknown) > space.edge_tolerance * values.size:
                found = f"{space.spell(int(unknown[0]))} in {len(unknown)} pixels"
                raise BadFrameError(f"only label values of `{space.name}`", found, fix, row["name"])
        return image, read_train_ids(picture, space)

    def _list(self, error: BadFrameError) -> None:
        """One line a frame: short ones are appended whole, whichever processes do so at once."""
        if str(error) not in list_skipped(self.skipped):
            logger.warning("skipped: %s", error)
            with open(self.skipped, "ab", buffering=0) as file:
                file.write(f"{error}\n".encode())


def list_skipped(path: Path) -> list[str]:
    """A line on each frame that was skipped; two processes that met one at once may have listed it both."""
    return list(dict.fromkeys(path.read_text("utf-8").splitlines())) if path.is_file() else []
