"""Runs the notebooks of this folder, all or those named, and keeps their outputs in them."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
# Threads that wait for each other by spinning take the cores from whatever else runs, and in the tests something does.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook, run from top to bottom in an empty folder by a kernel of this Python."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"timeout": 900, "record_timing": False, "coalesce_streams": True}
        # python3 is jupyter_client's name for this very Python.
        NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": folder}}, **options).execute()
    del notebook.metadata.language_info["version"]
    return notebook


if __name__ == "__main__":
    for path in [FOLDER / name for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(nbformat.read(path, as_version=4)), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
