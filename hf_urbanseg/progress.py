"""How far a command is: shown from its start on a terminal and in a notebook, never in a pipe or a log."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook


@contextmanager
def show_progress(total: int | None, title: str, unit: str, hidden: bool = False, passes_of=None) -> Iterator[tqdm]:
    """A bar to `update` with what is done.

    Args:
        hidden: On processes beside the first.
        passes_of: A model whose forward passes are counted, too, where an image takes many.
    """
    in_notebook = issubclass(tqdm, tqdm_notebook)  # whose output is no terminal, but shows bars
    passes = 0

    def count_pass(*_) -> None:
        nonlocal passes
        passes += 1
        bar.set_postfix_str(f"{passes} passes")

    disable = True if hidden else False if in_notebook else None
    delay = 2 if in_notebook else 0  # a notebook keeps its bars, and short ones say nothing
    with tqdm(total=total, desc=title, unit=unit, disable=disable, delay=delay) as bar:
        hook = None if passes_of is None else passes_of.register_forward_hook(count_pass)
        try:
            yield bar
        finally:
            if hook:
                hook.remove()
