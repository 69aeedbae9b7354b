import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "workers"))
from allocated import Allocations


@pytest.fixture
def allocations():
    """The class, after a check that it counts what it says."""
    with Allocations() as made:
        first = torch.zeros(1000)
        second = first + 1
        first.add_(1)
        del first
        second[:10].clone()
        third = torch.zeros(500)
        del second
    assert (made.largest, made.peak, made.alive) == (4000, 8000, 2000)
    del third
    assert made.alive == 0
    return Allocations
