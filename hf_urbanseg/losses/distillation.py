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


class SoftDistillationLoss(nn.Module):
    """Kullback-Leibler divergence of the teacher's softened class probabilities from the student's, times T squared.

    Where a pixel has a label, the teacher is heard if its best class is that label, and never against it. Classes that
    it doesn't have are left out of both distributions.

    Args:
        taught (`Sequence[int]`): train ids that the teacher has scores of, in the order of its scores.
        temperature (`float`, defaults to 1.0): T; scores are divided by it.
        teach_void (`bool`, defaults to `False`): also listen where the label is silent (never on padding).

    Shape: see the module. A place of the logits counts by its pixels that are heard. The normaliser is the number of
        labelled pixels, heard or not; with `teach_void` of all pixels, padding included, which no batch is without.

    Attributes:
        diagnostics: After `forward`, `heard_share`: of the labelled pixels, those where the teacher agrees.

    Source: Hinton et al. 2015 (arXiv:1503.02531); at the resolution of the logits as in CIRKD (arXiv:2204.06986).
        Theirs listens everywhere.
    """

    name = "soft"

    def __init__(
        self,
        num_labels: int,
        taught: Sequence[int],
        temperature: float = 1.0,
        teach_void: bool = False,
        ignore_index: int = IGNORE_INDEX,
    ):
        super().__init__()
        Range(0, above=True).check("temperature", temperature)
        self.num_labels, self.temperature, self.teach_void = num_labels, float(temperature), teach_void
        self.ignore_index = ignore_index
        self.register_buffer("taught", torch.as_tensor(list(taught)), persistent=False)
        self.diagnostics: dict[str, Tensor] = {}

    def compute_normalizer(self, labels: Tensor) -> Tensor:
        if self.teach_void:
            return torch.tensor(labels.numel(), dtype=torch.float64, device=labels.device)
        return count_class_pixels(labels, self.num_labels, self.ignore_index).sum().double()

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
            best = self.taught[scores.argmax(1)].to(labels.dtype)
            heard = F.interpolate(best[:, None].float(), labels.shape[1:], mode="nearest")[:, 0] == labels
            labelled = labels != self.ignore_index
            self.diagnostics = {"heard_share": heard.sum() / labelled.sum().clamp_min(1)}
            if self.teach_void:
                heard = heard | (~labelled if inside is None else inside & ~labelled)
            target = (scores / self.temperature).log_softmax(1)
            divergence = F.kl_div(
                (student / self.temperature).log_softmax(1), target, reduction="none", log_target=True
            )
            total = (divergence.sum(1) * _count_pixels(heard, logits.shape[2:])).sum(dtype=torch.float64)
            return divide((total * self.temperature**2).to(student.dtype), normalizer)


class ChannelWiseDistillationLoss(nn.Module):
    """Kullback-Leibler divergence, class by class, of where the teacher sees it from where the student does.

    Scores of a class are a distribution over the places of an image (softmax at temperature T); their divergence times
    T squared is averaged over classes and images.

    Args:
        taught (`Sequence[int]`): as in `SoftDistillationLoss`.
        temperature (`float`, defaults to 4.0): T, the paper's.
        teach_void (`bool`, defaults to `False`): of all places, as in the paper, and not of those with a label alone;
            never of padding.

    Shape: see the module. The normaliser is the number of images with a label; with `teach_void` of all.

    Source: Shu et al. 2021 (arXiv:2011.13256) on logits, as the report's code (MMRazor's `ChannelWiseDivergence`).
    """

    name = "cwd"

    def __init__(
        self,
        num_labels: int,
        taught: Sequence[int],
        temperature: float = 4.0,
        teach_void: bool = False,
        ignore_index: int = IGNORE_INDEX,
    ):
        super().__init__()
        Range(0, above=True).check("temperature", temperature)
        self.num_labels, self.temperature, self.teach_void = num_labels, float(temperature), teach_void
        self.ignore_index = ignore_index
        self.register_buffer("taught", torch.as_tensor(list(taught)), persistent=False)

    def compute_normalizer(self, labels: Tensor) -> Tensor:
        if self.teach_void:
            return torch.tensor(len(labels), dtype=torch.float64, device=labels.device)
        return (labels != self.ignore_index).flatten(1).any(1).sum().double()

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
            heard = labels != self.ignore_index
            if self.teach_void:
                heard = torch.ones_like(heard) if inside is None else inside
            there = (_count_pixels(heard, logits.shape[2:]) > 0).flatten(1)[:, None]
            # Left out by a low number and not by infinity, whose difference is NaN.
            least = torch.finfo(student.dtype).min / 4
            own, target = (
                (one / self.temperature).flatten(2).masked_fill(~there, least).log_softmax(2)
                for one in (student, scores)
            )
            divergence = F.kl_div(own, target, reduction="none", log_target=True) * there
            total = divergence.sum((1, 2), dtype=torch.float64).sum() * (self.temperature**2 / len(self.taught))
            return divide(total.to(student.dtype), normalizer)


DISTILLATION_LOSSES = {one.name: one for one in (SoftDistillationLoss, ChannelWiseDistillationLoss)}


def _bring_together(logits: Tensor, teacher: Tensor, taught: Tensor) -> tuple[Tensor, Tensor]:
    """Both over the taught classes at the resolution of the logits, in fp32 or fp64."""
    dtype = choose_dtype(logits)
    scores = teacher.to(dtype)
    if scores.shape[2:] != logits.shape[2:]:
        scores = F.interpolate(scores, logits.shape[2:], mode="bilinear", align_corners=False)
    return logits.to(dtype).index_select(1, taught), scores


def _count_pixels(chosen: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Chosen pixels of a label map at each place of a coarser one; every pixel belongs to one (nearest).

    Shape: chosen: (N, H, W) bool. returns: (N, *size) fp32, in sum as many as are chosen.
    """
    counts = chosen.float()
    for dimension, places in ((1, size[0]), (2, size[1])):
        pixels = counts.shape[dimension]
        if pixels == places:
            continue
        owners = F.interpolate(torch.arange(places, dtype=torch.float32)[None, None], pixels, mode="nearest")[0, 0]
        shape = list(counts.shape)
        shape[dimension] = places
        counts = counts.new_zeros(shape).index_add_(dimension, owners.long().to(counts.device), counts)
    return counts
