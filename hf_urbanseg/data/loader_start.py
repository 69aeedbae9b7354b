"""Starting a loader's workers, which needs more than memory: semaphores in /dev/shm, pipes, processes."""

import traceback

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from hf_urbanseg.errors import OutOfMemoryError
from hf_urbanseg.limits import find_limit

_SHARED_MEMORY = "shared memory", "give the container more of it (Docker: `--shm-size 8g`)"


def explain_start(loader: DataLoader) -> None:
    """Makes an `OSError` of workers that can't be started an `OutOfMemoryError` with what they need."""
    begin = loader._get_iterator

    def start():
        try:
            return begin()
        except OSError as error:
            _end(error)
            # A full, missing or read-only /dev/shm refuses semaphores as it would a file.
            needed, fix = find_limit(error) or _SHARED_MEMORY
            expected = f"{needed} for {loader.num_workers} processes that load"
            fix = f"load with fewer `--dataloader_num_workers` (0: none), or {fix}"
            raise OutOfMemoryError(expected, error.strerror or str(error), fix) from error

    loader._get_iterator = start


def _end(error: OSError) -> None:
    """Ends the workers that had begun; what torch does for a half-made iterator is a traceback (2.13)."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        made = frame.f_locals.get("self")
        if isinstance(made, _MultiProcessingDataLoaderIter):
            made._shutdown = True
            for worker in getattr(made, "_workers", ()):
                worker.terminate()
