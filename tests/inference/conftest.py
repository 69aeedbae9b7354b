import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Bytes of the largest tensor made while it is on, and of all that were alive at once."""

    def __init__(self):
        super().__init__()
        self.largest = self.peak = self.alive = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {storage._cdata for storage in _storages((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in known:
                self._add(storage)
        return result

    def _add(self, storage):
        size = storage.nbytes()
        self.largest = max(self.largest, size)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size):
        self.alive -= size


def _storages(values):
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if torch.is_tensor(leaf)]


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
