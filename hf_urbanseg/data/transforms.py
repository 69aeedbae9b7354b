"""The report's augmentations, in its order, as albumentations transforms.

Values are drawn from the generators that `preprocessing.TrainDataset` sets for every sample, never from global state.
"""

import random
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import albumentations as A
import cv2
import numpy as np

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.ranges import Range

_DRAWS = 100

cv2.setNumThreads(0)  # OpenCV's own threads fight with data-loader workers for the cores.


class Scale(NamedTuple):
    """One choice of `RandomScale`: a box to fit into, or a range of ratios of the image's own size."""

    box: tuple[int, int] | None = None
    ratios: tuple[float, float] | None = None

    def find_ratios(self, size: tuple[int, int], base: tuple[int, int] | None = None) -> tuple[float, float]:
        """The least and most that a picture of this (height, width) is made larger by.

        With `base`, ratios are of the picture once it fits into that box.
        """
        if self.box is None:
            fitted = 1.0 if base is None else Scale(box=base).find_ratios(size)[0]
            return self.ratios[0] * fitted, self.ratios[1] * fitted
        ratio = min(max(self.box) / max(size), min(self.box) / min(size))
        return ratio, ratio


def parse_scales(texts: Sequence[str | float]) -> list[Scale]:
    """Reads `375x1242` (fit into height x width), `0.75` (ratio) and `0.5-2.0` (uniform range of ratios)."""
    scales = []
    for text in map(str, texts):
        box, ratios = re.fullmatch(r"(\d+)x(\d+)", text), re.fullmatch(r"(\d*\.?\d+)(?:-(\d*\.?\d+))?", text)
        if box and all(int(side) in Range(1, 16_384) for side in box.groups()):
            scales.append(Scale(box=(int(box[1]), int(box[2]))))
        elif ratios and 0 < float(ratios[1]) <= float(ratios[2] or ratios[1]) <= 16:
            scales.append(Scale(ratios=(float(ratios[1]), float(ratios[2] or ratios[1]))))
        else:
            expected = "scales like 375x1242 (height x width), 0.75 or 0.5-2.0, up to 16384 or 16"
            raise ConfigError(expected, f"`{text}`", "correct `train_scales`")
    if not scales:
        raise ConfigError("at least one training scale", "none", "give `train_scales`, for example 1.0")
    return scales


class RandomScale(A.DualTransform):
    """Resizes to one of several scales, uniformly chosen, keeping the aspect ratio.

    Args:
        base: (height, width) that pictures are fitted into where the scale is a ratio; None: it is of their own size.

    Source: MMSegmentation's `Resize(img_scale=[...], multiscale_mode='value', keep_ratio=True)`; image bilinear,
    label nearest.
    """

    def __init__(self, scales: Sequence[Scale], base: tuple[int, int] | None = None):
        super().__init__(p=1.0)
        self.scales, self.base = list(scales), base

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        scale = self.py_random.choice(self.scales)
        least, most = scale.find_ratios((height, width), self.base)
        ratio = least if scale.box else self.py_random.uniform(least, most)
        return {"size": (max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5)))}

    def apply(self, img: np.ndarray, size: tuple[int, int], **params: Any) -> np.ndarray:
        return cv2.resize(img, size[::-1], interpolation=cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: np.ndarray, size: tuple[int, int], **params: Any) -> np.ndarray:
        return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)


class BalancedRandomCrop(A.DualTransform):
    """Random crop, redrawn while one class covers too much of it.

    Args:
        size: (height, width); an image smaller than that stays smaller and is padded later.
        max_class_share: Largest share of the crop's labelled pixels that one class may cover (report: 0.75).
        redraws: Crops drawn anew before the last one is taken as it is (report: 10).

    With `wanted` beside image and mask, a class and a number of pixels, each draw is of a window that shows so many of
    it, or half of those in the mask where that is less, with equal chances for all such windows: the first of 100 drawn
    ones that does. If none of them does, it is the one that shows most.

    Source: MMSegmentation's `RandomCrop(cat_max_ratio=0.75)`. A crop is accepted when it shows more than one class
    and none reaches the share.
    """

    def __init__(self, size: tuple[int, int], max_class_share: float = 0.75, redraws: int = 10):
        super().__init__(p=1.0)
        self.size, self.max_class_share, self.redraws = tuple(size), max_class_share, redraws

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        draw = partial(self._draw, *params["shape"][:2])
        if "wanted" in data:
            draw = self._build_draw(data["mask"], *data["wanted"])
        window = draw()
        for _ in range(self.redraws if self.max_class_share < 1 else 0):
            counts = count_pixels(data["mask"][window])[:IGNORE_INDEX]
            if (counts > 0).sum() > 1 and counts.max() < self.max_class_share * counts.sum():
                break
            window = draw()
        return {"window": window}

    def _draw(self, height: int, width: int) -> tuple[slice, slice]:
        top = self.py_random.randint(0, max(height - self.size[0], 0))
        left = self.py_random.randint(0, max(width - self.size[1], 0))
        return slice(top, top + self.size[0]), slice(left, left + self.size[1])

    def _build_draw(self, mask: np.ndarray, train_id: int, min_pixels: int) -> Callable[[], tuple[slice, slice]]:
        """Draws of windows that show enough of a class; of any windows where the mask has none of it."""
        found = (mask == train_id).view(np.uint8)
        in_rows = cv2.reduce(found, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)  # a quarter of the rectangle's time
        rows = in_rows.nonzero()[0].tolist()
        if not rows:
            return partial(self._draw, *mask.shape)
        top, found = rows[0], found[rows[0] : rows[-1] + 1]
        left, _, width, _ = cv2.boundingRect(found)
        found, enough = found[:, left : left + width], min(min_pixels, (int(in_rows.sum()) + 1) // 2)

        def draw() -> tuple[slice, slice]:
            starts = []
            for start, length, side, whole in zip((top, left), found.shape, self.size, mask.shape, strict=True):
                # Others don't reach the class's bounding box.
                least, end = max(start - side + 1, 0), min(start + length, max(whole - side, 0) + 1)
                starts.append(self.random_generator.integers(least, end, _DRAWS).tolist())
            most = -1
            for row, column in zip(*starts, strict=True):
                lower, right = row + self.size[0], column + self.size[1]
                count = cv2.countNonZero(found[max(row - top, 0) : lower - top, max(column - left, 0) : right - left])
                if count > most:
                    most, chosen = count, (slice(row, lower), slice(column, right))
                if count >= enough:
                    break
            return chosen

        return draw

    def apply(self, img: np.ndarray, window: tuple[slice, slice], **params: Any) -> np.ndarray:
        return img[window]

    apply_to_mask = apply


def count_pixels(train_ids: np.ndarray) -> np.ndarray:
    """(256,) int64: pixels of each value of a (H, W) uint8 map. In half the time of `np.bincount`."""
    return cv2.calcHist([train_ids], [0], None, [256], [0, 256]).ravel().astype(np.int64)


class PhotometricDistortion(A.ImageOnlyTransform):
    """Brightness, contrast, saturation and hue, each with probability 0.5, on 8-bit RGB; further channels stay.

    Up to 32 is added or taken away; the factors of contrast and of saturation in HSV are 0.5 to 1.5; hue turns by up
    to 18 steps of 2 degrees. Contrast comes before the colour steps if a coin says so, else after them.

    Source: MMSegmentation's `PhotoMetricDistortion`, including its clipping and truncation to 8 bits at every step.
    Differs where saturation and hue come together: one trip to HSV and back instead of two, so rounding differs by up
    to 4 grey levels; and the hue's upper end can be drawn.
    """

    def __init__(self):
        super().__init__(p=1.0)

    def get_params(self) -> dict[str, Any]:
        coin, uniform = (lambda: self.py_random.random() < 0.5), self.py_random.uniform
        return {
            "shift": uniform(-32, 32) if coin() else None,
            "contrast_first": coin(),
            "contrast": uniform(0.5, 1.5) if coin() else None,
            "saturation": uniform(0.5, 1.5) if coin() else None,
            "hue": self.py_random.randint(-18, 18) if coin() else None,
        }

    def apply(self, img, shift, contrast_first, contrast, saturation, hue, **params: Any) -> np.ndarray:
        if img.shape[2] > 3:
            colors = self.apply(np.ascontiguousarray(img[..., :3]), shift, contrast_first, contrast, saturation, hue)
            return np.dstack([colors, img[..., 3:]])
        if shift is not None:
            img = cv2.LUT(img, _table(1.0, shift))
        if contrast is not None and contrast_first:
            img = cv2.LUT(img, _table(contrast, 0.0))
        if saturation is not None or hue is not None:
            hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
            tables = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
            if saturation is not None:
                tables[:, 1] = _table(saturation, 0.0)
            if hue is not None:
                tables[:, 0] = (np.arange(256) + hue) % 180
            img = cv2.cvtColor(cv2.LUT(hsv, tables[None]), cv2.COLOR_HSV2RGB)
        if contrast is not None and not contrast_first:
            img = cv2.LUT(img, _table(contrast, 0.0))
        return img


def _table(factor: float, shift: float) -> np.ndarray:
    # What every 8-bit value becomes: one look-up instead of float arithmetic over the image.
    return np.clip(np.arange(256) * factor + shift, 0, 255).astype(np.uint8)


class View(NamedTuple):
    """Which part of an image a crop shows: of the image resized to `size`, from (top, left), then mirrored if so."""

    size: tuple[int, int]
    top: int
    left: int
    mirrored: bool
    extent: tuple[int, int]


class TrainTransforms(A.Compose):
    """Transforms on bytes, then padding; what is normalised is left to the model's device (`normalize_batch`).

    Args:
        transforms: Leave an image of at most `size`, 8-bit; a larger one is a ValueError of numpy.
        size: (height, width) that image and mask are padded to, right and below.

    Shape:
        image: (H, W, C) uint8, RGB and further channels, mask: (H, W) uint8 train ids ->
        image: (C, *size) uint8, 0 where padded; mask: (*size) uint8, `IGNORE_INDEX` where padded; extent: (2,) int64,
        rows and columns that are not padding; view: `View`, where the image's own coordinates went.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform], size: tuple[int, int]):
        super().__init__(list(transforms), save_applied_params=True)
        self.size = tuple(size)

    def __call__(self, *args, **data) -> dict[str, np.ndarray]:
        size = data["mask"].shape
        sample = super().__call__(*args, **data)
        image, mask = sample["image"], sample["mask"]
        height, width = mask.shape
        top, left, mirrored = 0, 0, False
        for name, params in sample["applied_transforms"]:
            match name:
                case RandomScale.__name__:
                    size = params["size"]
                case BalancedRandomCrop.__name__:
                    top, left = (side.start for side in params["window"])
                case A.HorizontalFlip.__name__:
                    mirrored = not mirrored
        view = View(size, top, left, mirrored, (height, width))
        planes, padded = np.zeros((image.shape[2], *self.size), np.uint8), np.full(self.size, IGNORE_INDEX, np.uint8)
        planes[:, :height, :width], padded[:height, :width] = cv2.split(image), mask
        return {"image": planes, "mask": padded, "extent": np.array([height, width]), "view": view}


def build_train_transforms(
    crop_size: Sequence[int],
    train_scales: Sequence[str | float],
    max_class_share: float = 0.75,
    flip: float = 0.5,
    photometric: bool = True,
    base: tuple[int, int] | None = None,
) -> TrainTransforms:
    """The report's chain: scale, balanced crop, flip, photometric distortion, padding (then `normalize_batch`).

    `base` as in `RandomScale`.
    """
    crop_size, scales = tuple(crop_size), parse_scales(train_scales)
    chain = [RandomScale(scales, base), BalancedRandomCrop(crop_size, max_class_share), A.HorizontalFlip(p=flip)]
    return TrainTransforms([*chain, *([PhotometricDistortion()] if photometric else [])], crop_size)


def seed_transforms(transforms: A.Compose, seed: Sequence[int] | np.random.SeedSequence) -> None:
    """Gives all transforms one fresh pair of generators, determined by `seed` alone.

    `Compose.set_random_seed` would give each transform a generator of its own with the same seed: of the report's six
    scales the two largest would never be flipped, and so on. One shared generator keeps the draws independent.
    """
    sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(list(seed))
    words = sequence.generate_state(4, np.uint64)
    transforms.set_random_state(np.random.default_rng(words[:2]), random.Random(int(words[2]) << 64 | int(words[3])))
