"""Decoded training frames kept in memory that all workers share, so that each is decoded once and not every epoch."""

import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from datasets import Dataset

from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.rgb import to_array
from hf_urbanseg.labels import LabelSpace

logger = logging.getLogger(__name__)

AUTO_SHARE = 0.25
"""Of the memory available (`_available_memory`), what `auto` takes at most, over all processes of the machine."""


class DecodedCache:
    """Images and train ids of a split as uint8, 4 bytes a pixel of RGB, in one block of memory.

    A KITTI frame takes 1.9 MB, a Cityscapes frame 8.4 MB. Forked workers see the same memory, because nobody writes to
    it; not through /dev/shm, which containers limit to 64 MB.

    Args:
        rows: Columns `image` and `label` (`datasets.Image`).
        sizes: (height, width) of every row, which `inspect_pairs` has found.

    Shape:
        [index] -> image: (H, W, channels) uint8; label: (H, W) uint8 train ids or 255; both read-only.
    """

    def __init__(self, rows: Dataset, label_space: LabelSpace, sizes: list[tuple[int, int]], channels: int = 3):
        self.sizes, self.channels = sizes, channels
        self.starts = np.concatenate([[0], np.cumsum([(channels + 1) * height * width for height, width in sizes])])
        self.memory = np.empty(int(self.starts[-1]), np.uint8)

        def fill(index: int) -> None:
            row, (image, label) = rows[index], self[index]
            image[:] = to_array(row["image"])
            label[:] = read_train_ids(row["label"], label_space)

        # Decoders let go of the interpreter.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(fill, range(len(rows))))
        self.memory.flags.writeable = False  # what an augmentation wrote here would stay for good

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        (height, width), start = self.sizes[index], int(self.starts[index])
        middle, end = start + self.channels * height * width, int(self.starts[index + 1])
        return self.memory[start:middle].reshape(height, width, -1), self.memory[middle:end].reshape(height, width)


def build_decoded_cache(
    rows: Dataset,
    label_space: LabelSpace,
    sizes: list[tuple[int, int]],
    choice: str = "auto",
    processes: int = 1,
    channels: int = 3,
    beside: int = 0,
) -> DecodedCache | None:
    """A cache if it is wanted and fits.

    Args:
        choice: `auto`: if the processes' caches fit into `AUTO_SHARE` of the available memory, and workers are forked
            (spawned ones would each get a copy); `true` or `false`.
        processes: Training processes on this machine; each keeps a cache of its own.
        beside: Bytes that a process has in other caches already.
    """
    needed = (channels + 1) * sum(height * width for height, width in sizes)
    forked = multiprocessing.get_start_method() == "fork"
    fits = forked and (needed + beside) * processes <= AUTO_SHARE * _available_memory()
    if choice == "false" or (choice == "auto" and not fits):
        return None
    logger.info("decoded training frames stay in memory: %.0f MB", needed / 1e6)
    return DecodedCache(rows, label_space, sizes, channels)


def _available_memory() -> int:
    """Bytes this process may still take: of the machine, or of its container or a scheduler's job."""
    available = psutil.virtual_memory().available
    for folder, limit, used in _list_groups():
        with suppress(OSError, ValueError):  # ValueError is "max"
            available = min(available, int((folder / limit).read_text()) - int((folder / used).read_text()))
    return available


def _list_groups() -> Iterator[tuple[Path, str, str]]:
    """Where Linux limits this process's memory: its control group and those above, in the terms of either version."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, own = line.split(":", 2)
        if not kinds:
            root, *files = "/sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in kinds.split(","):
            root, *files = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # A container sees its own group as the root, whatever the path says.
        for place in (Path(own), *Path(own).parents):
            yield Path(root, *place.parts[1:]), *files
