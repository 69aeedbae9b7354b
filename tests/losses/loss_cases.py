"""What the tests of several losses are made of."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def build_case(seed=0, images=3, classes=5, size=(7, 9), dtype=torch.float64, void=0.3):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, *size, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (images, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < void] = 255
    weights = torch.rand(classes, generator=generator, dtype=torch.float64) + 0.25
    return logits.requires_grad_(), labels, weights


def collect(loss, *batches):
    """Shows a loss the whole step, if it wants to see it."""
    if getattr(loss, "needs_collection", False):
        for batch in batches:
            loss.collect(*batch)
        loss.settle(lambda tensor: tensor)


class Ranks:
    """Stands in for a process group: `reduce` of each rank waits for the others and sums in rank order."""

    def __init__(self, count):
        self.slots, self.barrier = [None] * count, threading.Barrier(count, timeout=30)

    def build_reduce(self, rank):
        def reduce(tensor):
            self.slots[rank] = tensor
            self.barrier.wait()
            total = sum(self.slots)
            self.barrier.wait()
            return total

        return reduce


LAYOUTS = [[[8]], [[4, 4]], [[1] * 8], [[4], [4]], [[2, 2], [2, 2]], [[1, 6], [1]]]


def run_step(build_loss, logits, labels, layout):
    """Loss, gradient and cut of one optimiser step; `layout` gives each rank's micro-batch sizes."""
    ranks, shares = Ranks(len(layout)), [sum(sizes) for sizes in layout]
    every = [size for sizes in layout for size in sizes]
    common = sum(build_loss().compute_normalizer(part) for part in labels.split(every))

    def work(rank, own_logits, own_labels):
        loss, own_logits = build_loss(), own_logits.detach().clone().requires_grad_()
        batches = [*zip(own_logits.split(layout[rank]), own_labels.split(layout[rank]), strict=True)]
        for batch in batches:
            loss.collect(*batch)
        loss.settle(ranks.build_reduce(rank))
        value = sum(loss(*batch, common) for batch in batches)
        loss.release()
        cut = getattr(loss, "diagnostics", {}).get("cut")
        return value.detach(), *torch.autograd.grad(value, own_logits), cut

    with ThreadPoolExecutor(len(layout)) as pool:
        results = pool.map(work, range(len(layout)), logits.split(shares), labels.split(shares))
        values, gradients, cuts = zip(*results, strict=True)
    return sum(values), torch.cat(gradients), cuts
