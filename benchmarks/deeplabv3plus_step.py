"""A training step of DeepLabV3+ (ResNet-18, output stride 8) beside segmentation_models_pytorch's.

    pip install segmentation-models-pytorch torchvision
    python benchmarks/deeplabv3plus_step.py --threads 2

Forward pass, cross-entropy at the labels' size, backward pass and SGD of 2 crops of 368x368, in turns in one process;
prints medians with quartiles and ratios. Theirs is measured twice: as it is, and with the 3x3 convolution that the
report's head (MMSegmentation's) has behind the pyramid in place of a 1x1, which makes the arithmetic the same.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

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
    theirs, same = (
        smp.DeepLabV3Plus(
            "resnet18", encoder_weights=None, encoder_output_stride=8, decoder_channels=128,
            decoder_atrous_rates=(12, 24, 36), classes=19,
        ).train()
        for _ in range(2)
    )  # fmt: skip
    project = same.decoder.aspp[0].project
    project[0] = torch.nn.Conv2d(project[0].in_channels, 128, 3, padding=1, bias=False)
    loss = CrossEntropyLoss(19)
    models = {"ours": ours, "theirs": theirs, "theirs, 3x3 behind the pyramid": same}
    steps = {"ours": _build_step(ours, lambda: loss(ours(pixels).logits, labels))}
    for name, model in list(models.items())[1:]:
        steps[name] = _build_step(model, lambda model=model: F.cross_entropy(model(pixels), labels))
    times = {name: [] for name in steps}
    for repeat in range(args.repeats + 2):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if repeat >= 2:
                times[name].append(time.perf_counter() - begin)
    print(f"torch {torch.__version__}, {args.threads} threads, {args.repeats} steps each")
    for name, found in times.items():
        low, middle, high = statistics.quantiles(found, n=4)
        with FlopCounterMode(display=False) as counter:
            models[name](pixels)
        ratio = statistics.median(times["ours"]) / middle
        print(
            f"{name:<32} {middle:.3f} s ({low:.3f} .. {high:.3f}), {counter.get_total_flops() / 2e9:.1f} GMAC forward, "
            f"ours / this {ratio:.2f}"
        )


def _build_step(model: torch.nn.Module, compute_loss):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        compute_loss().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
