"""Which images a report shows as failures, why, and which class was taken for which in them."""

import numpy as np

from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.reports.formats import format_percent

LEAST_SHARE = 1e-4
"""A class fails in an image only if this share of the image's labelled pixels is wrong because of it: 46 pixels of a
KITTI frame. Less is no failure to look at."""

CARD_FAILURES = 8
"""Failures on a run's card at most."""


def choose_failure_cases(images: ImageCounts, overall: int = 8, per_class: int = 1) -> dict[int, list[str]]:
    """Chooses the worst images, by row, and says why; one chosen for several reasons comes once, with all of them.

    Args:
        images: Pixel counts of the split; images without a labelled pixel are never chosen.
        overall: Images with the lowest mIoU of their own.
        per_class: Images for every class: those with the most pixels missed (labelled, predicted otherwise) or claimed
            falsely (predicted, labelled otherwise), times 1 - IoU of the class in the image. So neither three missed
            pixels nor the thin rim of a large object that was found is taken for the worst failure of a class. Images
            where the class has less than `LEAST_SHARE` of the labelled pixels wrong are left out.

    Returns:
        The worst mIoU first, then by class in train-id order; reasons are sentences without a full stop.
    """
    reasons: dict[int, list[str]] = {}
    mean_iou = images.mean_iou
    measured = int(np.count_nonzero(~np.isnan(mean_iou)))
    # A stable sort keeps the order of the images among equals; NaN comes last.
    for rank, index in enumerate(np.argsort(mean_iou, kind="stable")[: min(overall, measured)].tolist()):
        reasons.setdefault(index, []).append(f"{_nth(rank, 'lowest')} mIoU of {_count_images(measured)}")

    missed, claimed = images.labelled - images.hits, images.predicted - images.hits
    wrong, iou = missed + claimed, images.iou
    weight = wrong * (1 - np.nan_to_num(iou, nan=1.0))
    weight[wrong < LEAST_SHARE * images.labelled.sum(1, keepdims=True)] = 0
    for c, name in enumerate(images.classes):
        worst = np.argsort(-weight[:, c], kind="stable")[:per_class].tolist()
        for rank, index in enumerate(i for i in worst if weight[i, c] > 0):
            reasons.setdefault(index, []).append(
                f"{_nth(rank, 'worst')} for {name}: IoU {format_percent(iou[index, c], 1)} %, "
                f"{missed[index, c]:,} pixels missed, {claimed[index, c]:,} claimed falsely"
            )
    return reasons


def choose_card_failures(images: ImageCounts) -> dict[int, list[str]]:
    """The failures that a run's card tells of and `failures/` has pictures of: of `choose_failure_cases`, the three of
    lowest mIoU and the worst for each class, the first `CARD_FAILURES` of them."""
    return dict(list(choose_failure_cases(images, 3, 1).items())[:CARD_FAILURES])


def describe_rule(overall: int, per_class: int) -> str:
    """How `choose_failure_cases` chooses, for those who look at its choice."""
    sentences = []
    if overall:
        sentences.append(f"The {_count_images(overall)} of lowest mIoU.")
    if per_class:
        which = "the image" if per_class == 1 else f"the {per_class:,} images"
        sentences.append(
            f"For every class {which} with the most of its pixels missed or claimed falsely, weighted by 1 - IoU: so "
            "neither three pixels nor the rim of a large object that was found count as its worst failure; less than "
            f"{100 * LEAST_SHARE:g} % of an image's labelled pixels never does."
        )
    sentences.append("An image that is chosen for several reasons is shown once, with all of them.")
    return " ".join(sentences)


def find_confusions(matrix: np.ndarray, limit: int) -> list[tuple[int, int, int, float]]:
    """The largest entries beside the diagonal of (C, C) counts, row = label, those without a pixel left out.

    Returns:
        Train ids of label and prediction, pixels, and their share of the class's labelled pixels; most pixels first.
    """
    labelled = matrix.sum(1)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    flat = np.argsort(-wrong, axis=None, kind="stable")[:limit].tolist()
    return [
        (label, prediction, pixels, pixels / int(labelled[label]))
        for label, prediction in (divmod(place, len(matrix)) for place in flat)
        if (pixels := int(wrong[label, prediction]))
    ]


def _nth(rank: int, word: str) -> str:
    """`worst`, `2nd worst`, ..."""
    number = rank + 1
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix} {word}" if rank else word


def _count_images(number: int) -> str:
    return f"{number:,} image" + ("" if number == 1 else "s")
