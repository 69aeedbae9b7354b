"""What a loss step costs in time and memory: ours against the usual formulation, with the gradients compared.

    OMP_NUM_THREADS=2 python benchmarks/loss.py                       # batch 8 of 512x1024, 19 classes
    OMP_NUM_THREADS=2 python benchmarks/loss.py --batch 2 --size 512 512 --rounds 20 --output loss.json

A step is forward and backward, from logits at a quarter of the labels' size to their gradient. The usual formulation
upsamples the logits (`interpolate`), takes `cross_entropy` with class weights and lets autograd go back; OHEM as in
MMSegmentation: all probabilities sorted for the cut, or all losses sorted for the hardest.

Candidates take turns in every round, in alternating order; reported are the median seconds of the wall with the range,
and the median ratio within a round with its range. `cpu s` is the process's, over all threads. Memory, each in a
process of its own: `resident` is by how much the process grew at most (on a GPU: what torch allocated at most),
`allocated` the most bytes of tensors held at a time (one thread, counted at each operation), `saved` what waits for
the backward pass. The logits and labels themselves are in none of these.
"""

import argparse
import json
import statistics
import time
import weakref
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import describe_environment, in_own_process, measure_growth, show_environment, spread
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.losses.focal import FocalLoss
from hf_urbanseg.losses.ohem import OhemCrossEntropyLoss

NAMES = ("cross_entropy", "ohem", "ohem threshold", "focal")
KINDS = ("ours", "usual")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), help="height and width of the labels")
    parser.add_argument("--stride", type=int, default=4, help="of the logits")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16"), default="float32")
    parser.add_argument("--min_kept", type=int, default=100_000, help="of OHEM, per image")
    parser.add_argument("--losses", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file for the numbers")
    args = parser.parse_args()

    environment = describe_environment(args.device)
    results = {name: measure_times(args, name) for name in args.losses}
    for name in args.losses:
        for kind in KINDS:
            for measure in (measure_resident, measure_tensors):
                results[name][kind] |= in_own_process(measure, args, name, kind)
    print_table(args, results, environment)
    if args.output:
        content = {"environment": environment, "arguments": vars(args), "results": results}
        Path(args.output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def build_case(args) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that are mostly right: two in three pixels by a wide margin, as in a run under way; a tenth is void."""
    generator = torch.Generator().manual_seed(args.seed)
    low = [-(-length // args.stride) for length in args.size]
    truth = torch.randint(0, args.classes, (args.batch, *(-(-length // 8) for length in low)), generator=generator)
    truth = F.interpolate(truth[:, None].float(), size=low).long()
    logits = torch.randn(args.batch, args.classes, *low, generator=generator)
    logits.scatter_add_(1, truth, 4 + 3 * torch.randn(truth.shape, generator=generator))
    labels = F.interpolate(truth.float(), size=tuple(args.size))[:, 0].long()
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = IGNORE_INDEX
    weights = 0.5 + torch.rand(args.classes, generator=generator)
    return logits.to(args.device, getattr(torch, args.dtype)), labels.to(args.device), weights.to(args.device)


def build_step(args, name: str, kind: str, labels: Tensor, weights: Tensor):
    """Logits that want a gradient -> loss; the normaliser is counted beforehand, as the trainer does."""
    options = (args.classes, weights)
    match name:
        case "cross_entropy":
            loss, usual = CrossEntropyLoss(*options), compute_cross_entropy
        case "focal":
            loss, usual = FocalLoss(*options), compute_focal
        case "ohem":
            loss, usual = OhemCrossEntropyLoss(*options, min_kept=args.min_kept), compute_ohem
        case _:
            loss = OhemCrossEntropyLoss(*options, min_kept=args.min_kept, threshold=0.5)
            usual = compute_ohem_threshold
    loss = loss.to(args.device)
    normalizer = loss.compute_normalizer(labels)
    if kind == "ours":
        return lambda logits: loss(logits, labels, normalizer)

    def step(logits: Tensor) -> Tensor:
        logits = logits if logits.dtype == torch.float64 else logits.float()
        large = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        return usual(args, large, labels, weights.to(large.dtype)) / normalizer.to(large.dtype)

    return step


def compute_cross_entropy(args, logits, labels, weights):
    return F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX, reduction="sum")


def compute_focal(args, logits, labels, weights):
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")
    weight = weights[torch.where(labels == IGNORE_INDEX, 0, labels)]
    return (weight * (1 - torch.exp(-losses)) ** 2 * losses).sum()


def compute_ohem(args, logits, labels, weights):
    losses = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX, reduction="none")
    with torch.no_grad():
        valid = labels != IGNORE_INDEX
        hardest = losses[valid].sort(descending=True).values
        cut = hardest[min(args.min_kept * len(labels), len(hardest)) - 1]
        kept = valid & (losses >= cut)
    return losses[kept].sum()


def compute_ohem_threshold(args, logits, labels, weights):
    with torch.no_grad():
        valid = labels != IGNORE_INDEX
        probs = logits.softmax(1).gather(1, torch.where(valid, labels, 0).unsqueeze(1)).squeeze(1)
        easiest = probs[valid].sort().values
        cut = easiest[min(args.min_kept * len(labels), len(easiest)) - 1]
        kept = valid & ((probs < 0.5) | (probs <= cut))
    losses = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX, reduction="none")
    return losses[kept].sum()


def run_step(args, step, logits: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    value = step(logits)
    value.backward()
    if args.device.startswith("cuda"):
        torch.cuda.synchronize()
    return value.detach(), logits.grad


def measure_times(args, name: str) -> dict:
    logits, labels, weights = build_case(args)
    steps = {kind: build_step(args, name, kind, labels, weights) for kind in KINDS}
    results = {kind: {"seconds": [], "cpu_seconds": []} for kind in KINDS}
    values, gradients = zip(*(run_step(args, steps[kind], logits) for kind in KINDS), strict=True)  # and warms up
    for turn in range(args.rounds):
        for kind in KINDS[:: 1 if turn % 2 else -1]:
            start, cpu = time.perf_counter(), time.process_time()
            run_step(args, steps[kind], logits)
            results[kind]["seconds"].append(time.perf_counter() - start)
            results[kind]["cpu_seconds"].append(time.process_time() - cpu)
    results["value_difference"] = abs(float(values[0]) / float(values[1]) - 1)
    difference = (gradients[0].double() - gradients[1].double()).abs().max() / gradients[1].double().abs().max()
    results["gradient_difference"] = float(difference)
    return results


def measure_resident(args, name: str, kind: str) -> dict:
    """What one step adds to the process at most, in MB."""
    small = argparse.Namespace(**vars(args) | {"batch": 1, "size": (32, 32)})
    logits, labels, weights = build_case(small)
    run_step(small, build_step(small, name, kind, labels, weights), logits)  # loads code, starts threads
    logits, labels, weights = build_case(args)
    step = build_step(args, name, kind, labels, weights)
    return {"resident_mb": measure_growth(lambda: run_step(args, step, logits), args.device)}


def measure_tensors(args, name: str, kind: str) -> dict:
    """Bytes of tensors: the most at a time, the largest, and what is saved for the backward pass, in MB."""
    torch.set_num_threads(1)  # modes don't reach other threads
    logits, labels, weights = build_case(args)
    step = build_step(args, name, kind, labels, weights)
    logits.requires_grad_()
    saved = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with Allocations() as seen, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step(logits).backward()
    for given in (logits, labels, weights):
        saved.pop(given.untyped_storage().data_ptr(), None)
    sizes = {"allocated_mb": seen.peak, "largest_mb": seen.largest, "saved_mb": sum(saved.values())}
    return {key: size / 2**20 for key, size in sizes.items()}


class Allocations(TorchDispatchMode):
    """Bytes of tensors made while it is on: the largest, and the most held at a time."""

    def __init__(self):
        super().__init__()
        self.largest = self.live = self.peak = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        for tensor in filter(torch.is_tensor, tree_leaves(result)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in given and storage not in self._known:
                self._known.add(storage)
                weakref.finalize(storage, self._free, storage.nbytes())
                self.live += storage.nbytes()
                self.largest, self.peak = max(self.largest, storage.nbytes()), max(self.peak, self.live)
        return result

    def _free(self, size: int) -> None:
        self.live -= size


def print_table(args, results: dict, environment: dict) -> None:
    print(
        f"batch {args.batch} of {args.size[0]}x{args.size[1]}, stride {args.stride}, {args.classes} classes, "
        f"{args.dtype}, {args.rounds} rounds, {show_environment(environment)}"
    )
    heads = ("s per step (range)", "cpu s", "resident MB", "allocated MB", "saved MB")
    print(f"{'':<23}{heads[0]:>24}{heads[1]:>8}{heads[2]:>13}{heads[3]:>14}{heads[4]:>10}")
    for name, result in results.items():
        for kind in KINDS:
            own = result[kind]
            print(
                f"{name + ', ' + kind:<23}{spread(own['seconds']):>24}{statistics.median(own['cpu_seconds']):>8.3f}"
                f"{own['resident_mb']:>13.0f}{own['allocated_mb']:>14.0f}{own['saved_mb']:>10.0f}"
            )
    print()
    for name, result in results.items():
        ours, usual = (result[kind] for kind in KINDS)
        times = [b / a for a, b in zip(ours["seconds"], usual["seconds"], strict=True)]
        memory = ", ".join(
            f"{key} {usual[key + '_mb'] / ours[key + '_mb']:.1f}" for key in ("resident", "allocated", "saved")
        )
        print(
            f"{name}: usual / ours, time {spread(times)}, memory {memory}; "
            f"differences: loss {result['value_difference']:.1e}, gradient {result['gradient_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
