"""Which process of a launch this is: what `accelerate launch`, torchrun or a scheduler says in the environment."""

import os

_OF_LAUNCH = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def count_processes() -> int:
    """Of the whole launch, on all its machines."""
    return _read("WORLD_SIZE", 1)


def count_local_processes() -> int:
    """Of the launch on this machine."""
    return _read("LOCAL_WORLD_SIZE", 1)


def is_first() -> bool:
    """Of the launch."""
    return count_processes() == 1 or _read("RANK", 0) == 0


def is_first_of_machine() -> bool:
    """Of those of the launch on this machine; it alone prints."""
    return count_processes() == 1 or _read("LOCAL_RANK", 0) == 0


def forget_launch_of_one() -> None:
    """Takes what a scheduler or a shell inside another launch has left out of the environment of a process alone.

    accelerate goes by LOCAL_RANK: it would take this process for one of several and wait for MASTER_ADDR, by torch's
    time-out for half an hour.
    """
    if count_processes() == 1:
        for name in _OF_LAUNCH:
            os.environ.pop(name, None)


def _read(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)
