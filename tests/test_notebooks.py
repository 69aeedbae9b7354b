"""The notebooks run from top to bottom, and what they keep is fit to be read where the code is hosted."""

import copy
import re
import runpy
from itertools import pairwise

import nbformat
import pytest
from pages import ROOT, read_anchors

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
execute = runpy.run_path(str(ROOT / "notebooks" / "refresh.py"))["execute"]
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_execute__each_runs_from_top_to_bottom(monkeypatch, tmp_path):
    """One after the other in one kernel, which takes longer to import than to run one; each begins with no names."""
    monkeypatch.setenv("HF_URBANSEG_NOTEBOOK_STEPS", "1")
    monkeypatch.setenv("HF_URBANSEG_CACHE", str(tmp_path))
    kept, joined = [nbformat.read(path, as_version=4) for path in NOTEBOOKS], nbformat.v4.new_notebook()
    for notebook in kept:
        begin = "%reset -f\nimport os, tempfile\nos.chdir(tempfile.mkdtemp(dir='.'))\ndel os, tempfile"
        joined.cells += [nbformat.v4.new_code_cell(begin), *copy.deepcopy(notebook.cells)]
    run = iter(execute(joined).cells)
    for notebook in kept:
        assert not next(run).outputs
        for old, new in zip(notebook.cells, run, strict=False):
            assert old.source == new.source
            assert find_kinds(old) == find_kinds(new), f"refresh the outputs (CONTRIBUTING.md): {new.source}"


def find_kinds(cell) -> set[str]:
    """What a cell shows, without warnings, which a training of one step has more of."""
    outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    return {kind for output in outputs for kind in output.get("data", {"text": None})}


@each
def test_outputs__are_kept_small_and_clean(path):
    assert path.stat().st_size <= 400_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output.output_type != "error"
        shown = output.get("data", {"text": output.get("text")})
        texts = [value for kind, value in shown.items() if not kind.startswith("image/")]
        text = "".join(texts)
        assert not re.search(r"Warning|Traceback|\r|it/s|\d%\||Iou Road", text), text
        paths = re.sub(r"<[^>]+>|https?://\S+", "", text)
        assert not re.search(r"(?<![\w.])/[\w.-]+/[\w.-]|[A-Z]:\\|site-packages", paths), text
        assert max(one.count("\n") for one in texts) <= 60, text


@each
def test_cells__are_short_and_introduced(path):
    cells = nbformat.read(path, as_version=4).cells
    assert max(len(cell.source.splitlines()) for cell in cells) <= 30
    for before, cell in pairwise(cells):
        assert cell.cell_type == "markdown" or before.cell_type == "markdown", cell.source
    assert (cells[0].cell_type, cells[-1].cell_type) == ("markdown", "markdown")


@each
def test_links__lead_somewhere(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "markdown":
            continue
        for link in re.findall(r"\]\(((?!https?://)[^)\s]+)\)", cell.source):
            file, _, anchor = link.partition("#")
            assert (path.parent / file).is_file(), link
            assert not anchor or anchor in read_anchors(path.parent / file), link


def test_notebooks__of_the_first_hour():
    assert [path.name[:3] for path in NOTEBOOKS] == ["01_", "02_", "03_", "04_"]
