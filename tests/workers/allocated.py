"""How much memory a computation takes, by torch's own account."""

import weakref

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
