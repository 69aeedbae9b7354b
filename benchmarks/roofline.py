"""How fast a machine could run given tensor code: its arithmetic and its memory, measured, operation by operation."""

import statistics
import time
from math import prod

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Roofline(TorchDispatchMode):
    """Counts FLOPs and bytes of the operations under it; views cost nothing.

    `seconds` is the sum over operations of the longer of arithmetic and memory, each at the machine's measured rate:
    what eager execution could reach, reading and writing every tensor once per operation. Fused code and blocks that
    stay in a cache can be faster than that.

    FLOPs are counted by hand, two for a multiply-add, matrix products and convolutions only: torch's counter leaves
    the groups of a convolution out of its backward pass and doesn't know attention on a CPU.
    """

    def __init__(self, flop_rate: float, byte_rate: float):
        super().__init__()
        self.flop_rate, self.byte_rate = flop_rate, byte_rate
        self.flops = self.bytes = 0
        self.seconds = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        held = {one.untyped_storage().data_ptr() for one in read}
        view = (
            written and all(one.untyped_storage().data_ptr() in held for one in written) and not func._schema.is_mutable
        )
        if not view and "empty" not in func.__name__:
            flops, size = (
                count_flops(func, args, written),
                sum(one.numel() * one.element_size() for one in read + written),
            )
            self.flops, self.bytes = self.flops + flops, self.bytes + size
            self.seconds += max(flops / self.flop_rate, size / self.byte_rate)
        return out


def count_flops(func, args: tuple, written: list[Tensor]) -> int:
    name = func.__name__.split(".")[0]
    if name in ("mm", "bmm"):
        return 2 * args[0].shape[-1] * written[0].numel()
    if name in ("addmm", "baddbmm"):
        return 2 * args[1].shape[-1] * written[0].numel()
    if name == "convolution":
        weight = args[1]
        return 2 * written[0].numel() * prod(weight.shape[1:])  # (out, in / groups, kh, kw)
    if name == "convolution_backward":
        gradient, _, weight = args[:3]
        # Of the input and of the weight, each as much as forward.
        return 2 * gradient.numel() * prod(weight.shape[1:]) * sum(args[10][:2])
    if "scaled_dot_product" in name:
        query, key = args[1:3] if "backward" in name else args[:2]
        products = 5 if "backward" in name else 2  # backward forms the scores again
        return products * 2 * query.numel() * key.shape[-2]
    return 0


def measure_rates(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of a large matrix product and bytes/s of a large copy, medians."""
    size = 8192 if device.startswith("cuda") else 2048
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    source = torch.empty((2**30 if device.startswith("cuda") else 2**28) // 4, device=device).fill_(1)
    target = torch.empty_like(source)

    def clock(work) -> float:
        times = []
        for _ in range(9):
            start = time.perf_counter()
            work()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times[2:])

    return 2 * size**3 / clock(lambda: left @ right), 2 * source.numel() * 4 / clock(lambda: target.copy_(source))
