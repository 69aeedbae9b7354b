"""`python -m hf_urbanseg.commands finetune ...`, for launchers that start a module on every process."""

import importlib
import sys

if __name__ == "__main__":
    name = sys.argv.pop(1)
    importlib.import_module(f"hf_urbanseg.commands.{name}").main()
