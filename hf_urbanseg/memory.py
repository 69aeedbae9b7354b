"""Memory that has run out, of a device or of the machine: told in one line, with what takes less."""

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hf_urbanseg.errors import OutOfMemoryError

# torch has one class for CUDA alone; a CPU's allocator, cuDNN, cuBLAS and loaders raise a RuntimeError that says so.
_SIGNS = re.compile(
    r"out of (shared )?memory|CPUAllocator|not enough memory|allocate shared memory|_ALLOC_FAILED"
    r"|worker .* killed by signal: (Killed|Bus)",
    re.IGNORECASE,
)
_OF_MACHINE = re.compile("CPUAllocator|worker|shared memory", re.IGNORECASE)
_OF_WORKERS = re.compile("worker|shared memory", re.IGNORECASE)
_ADVICE = re.compile("(Of the allocated memory|If reserved but|Exception raised from|It is possible).*", re.DOTALL)
_FEWER_WORKERS = (
    "load with fewer `--dataloader_num_workers` (0: none)",
    "keep no decoded frames (`--cache_images false`)",
    "give the container more shared memory (Docker: `--shm-size 8g`)",
)


def is_shortage(error: BaseException | None, of_device: bool = False) -> bool:
    """Whether an error says that memory has run out; `of_device`: that of a GPU or the like."""
    if isinstance(error, RuntimeError) and (sign := _SIGNS.search(str(error))):
        return not of_device or not _OF_MACHINE.search(sign[0])
    no_memory = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    return no_memory and not of_device


@contextmanager
def explaining_shortage(describe: Callable[[], tuple[str, Sequence[str], str]]) -> Iterator[None]:
    """Inside, an error that says that memory has run out becomes an `OutOfMemoryError`.

    Args:
        describe: Called then, for the arguments of `explain_shortage`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise explain_shortage(error, *describe()) from error


def explain_shortage(error: BaseException, what: str, fixes: Sequence[str], note: str = "") -> OutOfMemoryError:
    """What to tell of such an error.

    Args:
        what: That memory was needed for.
        fixes: What would take less, as imperatives.
        note: Put behind them.
    """
    said = _ADVICE.sub("", str(error)).strip() or type(error).__name__
    if "Traceback" in said:  # of a worker
        said = f"{said.splitlines()[-1]} (in a worker)"
    said = " ".join(said.split()).rstrip(".")
    if _OF_WORKERS.search(said):
        what, fixes = f"the processes that load, while there was {what}", _FEWER_WORKERS
    return OutOfMemoryError(f"memory for {what}", said, ", or ".join(fixes) + note)
