import io
import os
import re
import sys
import termios
from pathlib import Path

import torch

import hf_urbanseg
from hf_urbanseg.progress import show_progress


def _shown(monkeypatch, file, **options):
    monkeypatch.setattr(sys, "stderr", file)
    model = torch.nn.Identity()
    with show_progress(3, "predicting", "image", passes_of=model, **options) as bar:
        for _ in range(2):
            model(torch.zeros(1))
        bar.update()
    model(torch.zeros(1))  # no longer counted
    file.flush()


def test_show_progress__on_a_terminal_from_the_start_with_passes(monkeypatch):
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with open(theirs, "w") as terminal:
        _shown(monkeypatch, terminal)
        shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert re.search(r"predicting: +0%.* 0/3 ", shown.split("\r")[1])
    assert "0/3" in shown.partition("2 passes")[0]
    assert "1/3" in shown
    assert "3 passes" not in shown


def test_show_progress__not_in_pipes_nor_beside_the_first_process(monkeypatch):
    pipe = io.StringIO()
    _shown(monkeypatch, pipe)
    assert pipe.getvalue() == ""
    ours, theirs = os.openpty()
    with open(theirs, "w") as terminal:
        _shown(monkeypatch, terminal, hidden=True)
        os.write(theirs, b"end")
        assert os.read(ours, 10_000) == b"end"
    os.close(ours)


def test_bars__are_made_in_one_place():
    """So that none of them fills a log. `reproduce` has a clock of its own; `tqdm.write` makes none."""
    package = Path(hf_urbanseg.__file__).parent
    makers = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if re.search(r"\btqdm\(", file.read_text(encoding="utf-8"))
    }
    assert makers == {"progress.py", "reproduction/processes.py"}
