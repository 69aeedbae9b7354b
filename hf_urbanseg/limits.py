"""What a system grants a process beside memory, and a run may need more of: open files, processes and threads."""

import errno

from hf_urbanseg.errors import UrbanSegError
from hf_urbanseg.memory import is_shortage

_FILES = "open files", "allow more (`ulimit -n`)"
_PROCESSES = "processes and threads", "allow more (`ulimit -u`; a container's `--pids-limit`)"
_LIMITS = {errno.EMFILE: _FILES, errno.ENFILE: _FILES, errno.EAGAIN: _PROCESSES}


def find_limit(error: BaseException | None) -> tuple[str, str] | None:
    """What an error says that there are too few of, and what to do; None of another error."""
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return _PROCESSES
    return _LIMITS.get(error.errno) if isinstance(error, OSError) else None


def is_of_system(error: UrbanSegError) -> bool:
    """Whether a file is refused for what the machine lacks, of which the next file would die as well."""
    return is_shortage(error.__cause__) or find_limit(error.__cause__) is not None
