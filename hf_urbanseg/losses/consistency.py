"""What a teacher is sure of, as labels for whoever sees the same pixels otherwise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.losses._pixels import upsample_logits


@torch.no_grad()
def label_confidently(
    scores: Tensor, inside: Tensor, threshold: float, taught: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Labels of the pixels whose best class has a probability above a threshold.

    1 leaves none of them, 0 all. `CrossEntropyLoss` on these labels is divided by the number of pixels that are inside,
    sure or not: the less the teacher is sure of, the less the unlabelled crops weigh.

    Args:
        taught: Train ids of the teacher's classes in the order of its scores; None where they are 0, 1, ...

    Shape:
        scores: (N, C, h, w) float, unnormalised, upsampled to the size of `inside`. inside: (N, H, W) bool, what isn't
            padding.
        returns: labels (N, H, W) uint8, train ids or 255; scalar fp64, the sum of the best probabilities inside.

    Source: FixMatch (Sohn et al. 2020, arXiv:2001.07685), pixel by pixel as in UniMatch (arXiv:2208.09910), which
        also divides by all pixels. Differs from both in that the threshold itself isn't sure.
    """
    labels, total = [], 0.0
    for one, where in zip(scores, inside, strict=True):  # one at a time: upsampled, they are a step's largest tensor
        logits = upsample_logits(one[None], where.shape)[0]
        top, best = logits.max(0)
        probability = (top - logits.logsumexp(0)).exp()
        total = total + (probability * where).sum(dtype=torch.float64)
        if taught is not None:
            best = torch.as_tensor(taught, device=best.device)[best]
        labels.append(torch.where(where & (probability > threshold), best, IGNORE_INDEX).to(torch.uint8))
    return torch.stack(labels), total
