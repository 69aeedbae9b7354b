"""Whether an exported file predicts what the model does."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from hf_urbanseg.errors import ModelError
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.metrics.mean_iou import MeanIoU
from hf_urbanseg.models.exported import ExportedModel
from hf_urbanseg.progress import show_progress

SIZES = ((64, 96), (97, 131), (75, 200), (128, 64), (161, 90))
"""Inputs of (height, width) that a file of free sizes is tried at, odd ones among them."""
_MOST_OTHER, _MOST_OTHER_OF_BYTES = 0.001, 0.01
"""Share of pixels that may get another class in fp32: near ties; and bytes that differ by 1 after resizing."""
_MOST_DIFFERENCE = 1e-3
"""Of a logit in fp32, relative to the largest."""


def check_sizes(model: torch.nn.Module, exported: ExportedModel) -> None:
    """Refuses (ModelError) a file that doesn't compute the model's logits for noise of `SIZES`, two images each."""
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        height, width = (max(side, getattr(model, "smallest_side", 1)) for side in size)
        pixels = torch.randn(2, 3, height, width, generator=generator)
        with torch.no_grad():
            expected = model(pixel_values=pixels).logits
        try:
            found = exported(pixels).logits
        except ModelError as error:
            fault = error.found
        else:
            fault = f"logits of {tuple(found.shape)} in place of {tuple(expected.shape)}"
            if found.shape == expected.shape:
                difference = float((found - expected).abs().max() / expected.abs().max())
                if exported.facts["precision"] != "fp32" or difference < _MOST_DIFFERENCE:
                    continue
                fault = f"logits that differ by {difference:.1e} of the largest"
        expected = "a network that can be written for inputs of any size"
        raise ModelError(expected, f"{fault} at {height}x{width}", "fix the size, such as `--fixed_size 384 1280`")


@dataclass(frozen=True)
class Comparison:
    """What the model and its exported file make of the same images.

    Args:
        what: The images in words.
        same: Share of pixels with the same class.
        mean_iou: Of the model and of the file; None without labels.
    """

    what: str
    same: float
    mean_iou: tuple[float, float] | None

    def __str__(self) -> str:
        same = f"the same class on {self.same:.3%} of the pixels of {self.what}"
        return same + ("; mIoU {:.2%} in PyTorch, {:.2%} here".format(*self.mean_iou) if self.mean_iou else "")

    def check(self, facts: Mapping, most_loss: float) -> None:
        """Refuses (ModelError) a file whose classes differ: in fp32 at all, else by `most_loss` in points.

        Those are points of mean IoU, or without labels percent of the pixels.
        """
        fix, loss = "take another `--precision`, or allow more with `--most_loss`", 1 - self.same
        most, expected = most_loss / 100, f"another class on {most_loss:g} % of the pixels at most"
        if facts["precision"] == "fp32":
            most, fix = _MOST_OTHER_OF_BYTES if facts["takes_bytes"] else _MOST_OTHER, "take another `--to`"
            expected = f"the same class on {1 - most:.1%} of the pixels"
        elif self.mean_iou:
            loss, expected = self.mean_iou[0] - self.mean_iou[1], f"a loss of {most_loss:g} points of mIoU at most"
        if not loss <= most:
            raise ModelError(expected, f"{self}", fix)


def compare(predictor: Predictor, exported: Predictor, frames: Iterable[tuple], count: int, what: str) -> Comparison:
    """Predicts `count` pairs of an image and its train ids, or None, by both."""
    same, pixels, metrics = 0, 0, [MeanIoU(num_labels=predictor.label_space.num_labels) for _ in range(2)]
    label = None
    with show_progress(count, "comparing", "image") as bar:
        for image, label in frames:
            predictions = [one.predict(image) for one in (predictor, exported)]
            same, pixels = same + int((predictions[0] == predictions[1]).sum()), pixels + predictions[0].size
            for metric, prediction in zip(metrics, predictions, strict=True):
                if label is not None:
                    metric.add_batch(predictions=[prediction], references=[label])
            bar.update()
    scores = None if label is None else tuple(float(metric.compute()["mean_iou"]) for metric in metrics)
    return Comparison(what, same / pixels, scores)


def build_noise(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Seeded blots of colour, for want of pictures: (height, width, 3) uint8."""
    coarse = torch.rand(count, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return [*(255 * fine.clamp(0, 1)).byte().permute(0, 2, 3, 1).numpy()]
