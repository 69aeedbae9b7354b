"""Starts a script of `benchmarks/` as its reader would."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_campaign(script: str, what: str, cases: int, *more: str) -> None:
    words = [sys.executable, str(ROOT / "benchmarks" / script), "--what", what, "--cases", str(cases), *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert f"| **{cases}** |" in result.stdout, result.stdout[-2000:]
