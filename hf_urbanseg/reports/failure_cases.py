"""Which images a report shows as failures, why, and which class was taken for which in them."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.metrics.confusion_matrix import ConfusionMatrix
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.reports.formats import format_percent
from hf_urbanseg.reports.overlays import check_sizes

LEAST_SHARE = 1e-4
"""A class fails in an image only if this share of the image's labelled pixels is wrong because of it: 46 pixels of a
KITTI frame. Less is no failure to look at."""

CARD_FAILURES = 8
"""Failures on a run's card at most."""


@dataclass(frozen=True)
class FailureChoice:
    """An image to show.

    Args:
        index: Row of the `ImageCounts`.
        reasons: Sentences without a full stop, at least one.
    """

    index: int
    reasons: list[str]


@dataclass(frozen=True)
class Confusion:
    """Pixels of one class taken for another.

    Args:
        label, prediction: Train ids.
        pixels: How many.
        share: Of the labelled pixels of the class `label`, in [0, 1].
    """

    label: int
    prediction: int
    pixels: int
    share: float


@dataclass(frozen=True)
class FailureCase:
    """An image to show, with what is needed to show it.

    Args:
        name: As in the `ImageCounts`.
        reasons: Why it was chosen.
        image: RGB.

    Shape:
        prediction, label: (H, W) uint8 train ids at the image's size; labels may be `IGNORE_INDEX`.

    Raises:
        DataError: Image, prediction and label of different size.
    """

    name: str
    reasons: list[str]
    image: Image.Image
    prediction: np.ndarray
    label: np.ndarray

    def __post_init__(self):
        check_sizes(self.image, {"a prediction": self.prediction, "a label": self.label}, self.name)


def choose_failure_cases(images: ImageCounts, overall: int = 8, per_class: int = 1) -> list[FailureChoice]:
    """Chooses the worst images; one chosen for several reasons comes once, with all of them.

    Args:
        images: Pixel counts of the split; images without a labelled pixel are never chosen.
        overall: Images with the lowest mIoU of their own.
        per_class: Images for every class: those with the most pixels missed (labelled, predicted otherwise) or claimed
            falsely (predicted, labelled otherwise), times 1 - IoU of the class in the image. So neither three missed
            pixels nor the thin rim of a large object that was found is taken for the worst failure of a class. Images
            where the class has less than `LEAST_SHARE` of the labelled pixels wrong are left out.

    Returns:
        The worst mIoU first, then by class in train-id order.

    Raises:
        ConfigError: A negative number of images.
    """
    if min(overall, per_class) < 0:
        raise ConfigError("0 or more failure cases", f"{min(overall, per_class)}", "correct it")
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
    return [FailureChoice(index, why) for index, why in reasons.items()]


def choose_card_failures(images: ImageCounts) -> list[FailureChoice]:
    """The failures that a run's card tells of and `failures/` has pictures of: of `choose_failure_cases`, the three of
    lowest mIoU and the worst for each class, the first `CARD_FAILURES` of them."""
    return choose_failure_cases(images, 3, 1)[:CARD_FAILURES]


def describe_rule(overall: int = 8, per_class: int = 1) -> str:
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


def find_confusions(matrix: np.ndarray, limit: int) -> list[Confusion]:
    """The largest entries beside the diagonal.

    Args:
        matrix: (C, C) counts; row = label.
        limit: Entries at most; those without a pixel are left out.

    Returns:
        Most pixels first.
    """
    matrix = np.asarray(matrix, np.int64)
    labelled = matrix.sum(1)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    flat = np.argsort(-wrong, axis=None, kind="stable")[:limit].tolist()
    return [
        Confusion(label, prediction, pixels, pixels / int(labelled[label]))
        for label, prediction in (divmod(place, len(matrix)) for place in flat)
        if (pixels := int(wrong[label, prediction]))
    ]


def count_confusions(case: FailureCase, label_space: LabelSpace) -> np.ndarray:
    """(C, C) int64 confusion matrix of one image, row = label, void left out.

    Raises:
        DataError: A train id that is no class.
    """
    found = np.union1d(case.prediction, case.label[case.label != IGNORE_INDEX])
    unknown = found[found >= label_space.num_labels].tolist()
    if unknown:
        raise DataError(f"train ids of 0..{label_space.num_labels - 1}", f"{unknown}", "use one label space", case.name)
    matrix = ConfusionMatrix(label_space.num_labels)
    matrix.update(*(torch.from_numpy(np.array(ids, np.int64)) for ids in (case.prediction, case.label)))
    return matrix.matrix.numpy()


def _nth(rank: int, word: str) -> str:
    """`worst`, `2nd worst`, ..."""
    number = rank + 1
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix} {word}" if rank else word


def _count_images(number: int) -> str:
    return f"{number:,} image" + ("" if number == 1 else "s")
