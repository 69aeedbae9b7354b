import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "workers")]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
