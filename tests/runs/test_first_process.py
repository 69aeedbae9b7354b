"""What the first process decides or is refused, all processes of a launch get."""

import errno
import pickle
from types import SimpleNamespace

import pytest

from hf_urbanseg.errors import CheckpointError, ConfigError
from hf_urbanseg.runs import first_process
from hf_urbanseg.runs.first_process import by_first_process


@pytest.fixture
def on_two(monkeypatch):
    """Calls something on the first of two processes, then on the other, which gets what the first one sent."""
    monkeypatch.setenv("WORLD_SIZE", "2")

    def run(action):
        sent, outcomes = [], []
        for rank in (0, 1):

            def broadcast(content, rank=rank):
                if rank == 0:
                    sent.append(pickle.dumps(content))
                return pickle.loads(sent[0])

            state = SimpleNamespace(is_main_process=rank == 0)
            monkeypatch.setattr(first_process, "PartialState", lambda state=state: state)
            monkeypatch.setattr(first_process, "broadcast_object_list", broadcast)
            try:
                outcomes.append(by_first_process(action))
            except (OSError, ConfigError, CheckpointError) as error:
                outcomes.append(error)
        return outcomes

    return run


def test_by_first_process__one_acts_and_all_get_the_result(on_two):
    calls = []
    assert on_two(lambda: calls.append(1) or "checkpoint-4") == ["checkpoint-4"] * 2
    assert calls == [1]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "runs/demo/recipe.yaml"),
        PermissionError(errno.EACCES, "Permission denied", "runs/demo/checkpoint-2"),
        ConfigError("an `output_dir` without a run", "one", "name another", "runs/demo"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_by_first_process__what_refuses_the_first_ends_all(on_two, error):
    def refuse():
        raise error

    first, second = on_two(refuse)
    assert type(first) is type(second) is type(error)
    assert str(first) == str(second) == str(error)
