"""A script of `benchmarks/` is given options as its reader would give them."""

import argparse
import runpy
import sys
from pathlib import Path

import pytest


def parse_benchmark(script: Path, argv: list[str]) -> None:
    """A benchmark's own parser takes these options, and the data is there; measuring would take minutes."""

    class Parsed(BaseException):
        pass

    parse = argparse.ArgumentParser.parse_args

    def stop(self, *args, **options):
        values = vars(parse(self, *args, **options))
        for name in ("data_dir", "images_dir"):
            assert values.get(name) is None or Path(values[name]).is_dir()
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [str(script), *argv])
        patch.setattr(sys, "path", [str(script.parent), *sys.path])
        with pytest.raises(Parsed):
            runpy.run_path(str(script), run_name="__main__")
