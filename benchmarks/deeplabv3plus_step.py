"""A training step of DeepLabV3+ (ResNet-18, output stride 8) beside segmentation_models_pytorch's of the same shape.

    pip install segmentation-models-pytorch torchvision
    python benchmarks/deeplabv3plus_step.py --threads 2

Forward pass, cross-entropy at the labels' size, backward pass and SGD of 2 crops of 368x368, in turns in one process;
prints medians with quartiles and their ratio.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.models.build import build_random_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--crop", type=int, nargs=2, default=(368, 368))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import segmentation_models_pytorch as smp  # no requirement of ours

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    pixels = torch.randn(2, 3, *args.crop)
    labels = torch.randint(0, 19, (2, *args.crop))
    ours = build_random_model("resnet18", CITYSCAPES, "deeplabv3plus", deep_stem=False).train()
    theirs = smp.DeepLabV3Plus(
        "resnet18", encoder_weights=None, encoder_output_stride=8, decoder_channels=128,
        decoder_atrous_rates=(12, 24, 36), classes=19,
    ).train()  # fmt: skip
    loss = CrossEntropyLoss(19)
    steps = {
        "ours": _build_step(ours, lambda: loss(ours(pixels).logits, labels)),
        "segmentation_models_pytorch": _build_step(theirs, lambda: F.cross_entropy(theirs(pixels), labels)),
    }
    times = {name: [] for name in steps}
    for repeat in range(args.repeats + 2):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if repeat >= 2:
                times[name].append(time.perf_counter() - begin)
    for name, found in times.items():
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"{name:<28} {middle:.3f} s ({low:.3f} .. {high:.3f})")
    first, second = map(statistics.median, times.values())
    print(f"ours / theirs: {first / second:.2f}; torch {torch.__version__}, {args.threads} threads")


def _build_step(model: torch.nn.Module, compute_loss):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        compute_loss().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
