import sys
from pathlib import Path

# This folder holds evaluate.py, which would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from hf_urbanseg.commands.publish import main  # noqa: E402

if __name__ == "__main__":
    main()
