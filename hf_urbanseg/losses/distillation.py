"""Losses against a teacher's scores: per pixel over classes (soft), and per class over places (channel-wise).

Beside the logits they read `teacher`, the scores of the classes in `taught`, and `inside`, what isn't padding. Both
are computed at the resolution of the student's logits, where teachers usually speak, a sixteenth of the labels' pixels.

Shape, beside that of `hf_urbanseg.losses`:
    teacher: (N, len(taught), h', w') float, each pixel up to a constant; resized to the logits (bilinear).
    inside: (N, H, W) bool; None where nothing is padding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.losses._blocks import choose_dtype
from hf_urbanseg.losses._pixels import count_class_pixels, divide
from hf_urbanseg.ranges import Range


class _DistillationLoss(nn.Module):
    """What both know: who is heard, of which classes, how softly. `_sum` is what one adds to the divergence."""

    def __init__(
        self,
        num_labels: int,
        taught: Sequence[int],
        temperature: float,
        teach_void: bool = False,
    ):
        super().__init__()
        Range(0, above=True).check("temperature", temperature)
        self.num_labels, self.temperature, self.teach_void = num_labels, float(temperature), teach_void
        self.register_buffer("taught", torch.as_tensor(list(taught)), persistent=False)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        normalizer: Tensor | float | None = None,
        *,
        teacher: Tensor,
        inside: Tensor | None = None,
    ) -> Tensor:
        normalizer = self.compute_normalizer(labels) if normalizer is None else normalizer
        with torch.autocast(logits.device.type, enabled=False):
            student, scores = _bring_together(logits, teacher, self.taught)
            total = self._sum(student, scores, labels, inside) * self.temperature**2
            return divide(total.to(student.dtype), normalizer)


class SoftDistillationLoss(_DistillationLoss):
    """Kullback-Leibler divergence of the teacher's softened class probabilities from the student's, times T squared.

    The teacher never speaks against a label: where its best class is another, the two classes change their
    probabilities. Classes that it doesn't have are left out of both distributions, and so are their pixels.

    Args:
        taught (`Sequence[int]`): train ids that the teacher has scores of, in the order of its scores.
        temperature (`float`, defaults to 1.0): T; scores are divided by it.
        teach_void (`bool`, defaults to `False`): also listen where the label is silent (never on padding).

    Shape: see the module. Every pixel listens to the place nearest to it. The normaliser is the number of labelled
        pixels; with `teach_void` of all pixels, padding included, which no batch is without.

    Attributes:
        diagnostics: After `forward`, `agreement`: of the pixels with a taught label, those where it is the teacher's.

    Source: Hinton et al. 2015 (arXiv:1503.02531); at the resolution of the logits as in CIRKD (arXiv:2204.06986); the
        exchange is the "probability shift" of Wen et al. 2019 (arXiv:1911.07471).
    """

    name = "soft"

    def __init__(self, num_labels: int, taught: Sequence[int], temperature: float = 1.0, **options):
        super().__init__(num_labels, taught, temperature, **options)
        self.diagnostics: dict[str, Tensor] = {}

    def compute_normalizer(self, labels: Tensor) -> Tensor:
        if self.teach_void:
            return torch.tensor(labels.numel(), dtype=torch.float64, device=labels.device)
        return count_class_pixels(labels, self.num_labels, IGNORE_INDEX).sum().double()

    def _sum(self, student: Tensor, scores: Tensor, labels: Tensor, inside: Tensor | None) -> Tensor:
        own, log_target = ((one / self.temperature).log_softmax(1) for one in (student, scores))
        target, best = log_target.exp(), scores.argmax(1, keepdim=True)
        pixels = _count_labels(labels, self.taught, scores.shape[2:]).to(target.dtype)
        agreeing = pixels.gather(1, best)
        self.diagnostics = {"agreement": agreeing.sum() / pixels.sum().clamp_min(1)}
        heard = pixels.sum(1, keepdim=True)
        if self.teach_void:
            void = labels == IGNORE_INDEX if inside is None else (labels == IGNORE_INDEX) & inside
            heard = heard + _count_pixels(void, scores.shape[2:])[:, None].to(heard.dtype)
        # Probabilities times pixels. The exchange permutes them, so that their entropy stays.
        shifted = pixels * (target.gather(1, best) - target)
        summed = target * heard + shifted
        summed.scatter_add_(1, best, -shifted.sum(1, keepdim=True))
        divergence = (target * log_target).sum(1, keepdim=True) * heard - (summed * own).sum(1, keepdim=True)
        return divergence.sum(dtype=torch.float64)


class ChannelWiseDistillationLoss(_DistillationLoss):
    """Kullback-Leibler divergence, class by class, of where the teacher sees it from where the student does.

    Scores of a class are a distribution over the places of an image (softmax at temperature T); their divergence times
    T squared is averaged over classes and images. Channels of feature maps may stand in for classes.

    Args:
        taught (`Sequence[int]`): as in `SoftDistillationLoss`; of feature maps all channels.
        temperature (`float`, defaults to 4.0): T, the paper's.
        teach_void (`bool`, defaults to `False`): of all places, as in the paper, and not of those with a label alone;
            never of padding.

    Shape: see the module. The normaliser is the number of images with a label; with `teach_void` of all.

    Source: Shu et al. 2021 (arXiv:2011.13256) on logits, as the report's code (MMRazor's `ChannelWiseDivergence`).
    """

    name = "cwd"

    def __init__(self, num_labels: int, taught: Sequence[int], temperature: float = 4.0, **options):
        super().__init__(num_labels, taught, temperature, **options)

    def compute_normalizer(self, labels: Tensor) -> Tensor:
        if self.teach_void:
            return torch.tensor(len(labels), dtype=torch.float64, device=labels.device)
        return (labels != IGNORE_INDEX).flatten(1).any(1).sum().double()

    def _sum(self, student: Tensor, scores: Tensor, labels: Tensor, inside: Tensor | None) -> Tensor:
        heard = labels != IGNORE_INDEX
        if self.teach_void:
            heard = torch.ones_like(heard) if inside is None else inside
        there = (_count_pixels(heard, scores.shape[2:]) > 0).flatten(1)[:, None]
        # Left out by a low number and not by infinity, whose difference is NaN.
        least = torch.finfo(student.dtype).min / 4
        own, target = (
            (one / self.temperature).flatten(2).masked_fill(~there, least).log_softmax(2) for one in (student, scores)
        )
        divergence = F.kl_div(own, target, reduction="none", log_target=True) * there
        return divergence.sum(dtype=torch.float64) / len(self.taught)


DISTILLATION_LOSSES = {one.name: one for one in (SoftDistillationLoss, ChannelWiseDistillationLoss)}
READS = {
    "output": {"teacher": "teacher", "inside": "inside"},
    "features": {"teacher": "teacher_features", "inside": "inside"},
}
"""What `UrbanSegTrainer` adds to the outputs for them, as `LossPart.reads`."""


def _bring_together(logits: Tensor, teacher: Tensor, taught: Tensor) -> tuple[Tensor, Tensor]:
    """Both over the taught classes at the resolution of the logits, in fp32 or fp64."""
    dtype = choose_dtype(logits)
    scores = teacher.to(dtype)
    if scores.shape[2:] != logits.shape[2:]:
        scores = F.interpolate(scores, logits.shape[2:], mode="bilinear", align_corners=False)
    return logits.to(dtype).index_select(1, taught), scores


def _count_labels(labels: Tensor, taught: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Pixels of each taught class at each place of a coarser map; every pixel belongs to the nearest.

    Shape: labels: (N, H, W). returns: (N, len(taught), *size) int64.
    """
    (count, height, width), kinds = labels.shape, len(taught)
    table = torch.full((256,), kinds, device=labels.device)
    table[taught] = torch.arange(kinds, device=labels.device)
    rows, columns = (
        torch.arange(pixels, device=labels.device) * places // pixels
        for pixels, places in zip((height, width), size, strict=True)
    )
    places = torch.arange(count, device=labels.device)[:, None, None] * size[0] + rows[:, None]
    index = (places * size[1] + columns) * (kinds + 1) + table[labels]
    found = torch.bincount(index.flatten(), minlength=count * size[0] * size[1] * (kinds + 1))
    return found.view(count, *size, kinds + 1)[..., :kinds].permute(0, 3, 1, 2)


def _count_pixels(chosen: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Chosen pixels of a label map at each place of a coarser one. Shape: (N, H, W) bool; returns (N, *size) int64."""
    return _count_labels(chosen.long(), torch.ones(1, dtype=torch.long, device=chosen.device), size)[:, 0]
