"""What the first process of a launch decides for all of them, and what one of them refuses."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hf_urbanseg.errors import UrbanSegError
from hf_urbanseg.inference.evaluation import gather_parts
from hf_urbanseg.launch import count_processes
from hf_urbanseg.locks import locked

T = TypeVar("T")


def by_first_process(action: Callable[[], T]) -> T:
    """Calls `action` on the first process. Every process of the launch gets its result, or raises what it refused."""
    if count_processes() == 1:
        return action()
    outcome = [None, None]
    if PartialState().is_main_process:
        try:
            outcome[0] = action()
        except (UrbanSegError, OSError) as error:
            outcome[1] = error
    result, refusal = broadcast_object_list(outcome)
    if refusal is not None:
        raise refusal
    return result


@contextmanager
def refusing_together() -> Iterator[None]:
    """What any process of the launch refuses inside, all of them do, in the words of the first that did."""
    refusal = None
    try:
        yield
    except UrbanSegError as error:
        refusal = error
    if (said := find_first(refusal)) is not None:
        raise said from refusal


def find_first(outcome: T | None) -> T | None:
    """That of the first process which has one; every process of the launch calls this."""
    return next((one for one in gather_parts(outcome) if one is not None), None)


@contextmanager
def held_by_first_process(folder: str | Path) -> Iterator[Callable[[], None]]:
    """`locked` for all processes of a launch, of which the first takes the lock; all call the function it yields."""
    with ExitStack() as stack:
        checks = []
        by_first_process(lambda: checks.append(stack.enter_context(locked(folder))))
        yield lambda: by_first_process(lambda: checks[0]())
