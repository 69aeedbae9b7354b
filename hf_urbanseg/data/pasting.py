"""Objects of rare classes, cut out of other training frames and pasted into finished crops."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import albumentations as A
import cv2
import numpy as np

from hf_urbanseg.data.rare_classes import PASTE_STREAM, RareClasses
from hf_urbanseg.data.transforms import PhotometricDistortion, count_pixels, seed_transforms
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace

RARE_SHARE = 0.01
"""Of the labelled pixels: classes below it are pasted if none are named."""
_KEPT = 2**28
"""Bytes of cut-out objects that a process keeps: without them each paste reads a whole frame."""


class RareObject(NamedTuple):
    """A connected object, cut out.

    Shape:
        image: (h, w, C) uint8. train_ids: (h, w) uint8, `IGNORE_INDEX` around the object.
        counts: (256,) pixels of each train id. top: row in its frame, which has `frame_rows`. cut: whether the frame's
        left and right border cut it.
    """

    image: np.ndarray
    train_ids: np.ndarray
    counts: np.ndarray
    top: int
    frame_rows: int
    cut: tuple[bool, bool]


class ObjectPaste:
    """Pastes an object of a rare class, out of another frame, into a share of the samples.

    Crop, flip and colours of the sample are what they are without it. The object's frame is resized to the height that
    the crop's own frame was, and the object stays at its height in it: there things are as large as it is. To the side
    it may be anywhere in the crop, but one that its frame's border cuts is pasted at the crop's. It is mirrored and
    changes its colours by draws of its own. Its outermost pixels are mixed with what is behind them; there is no rim of
    void, which would take most of a thin thing out of the loss. An object of which less than half would be seen isn't
    pasted.

    Args:
        rare: Draws the frame, and the class as far as it is among `train_ids`.
        train_ids: What is pasted; what touches is one object, such as a rider and the bicycle.
        kept: Classes that nothing is pasted over, as `train_ids` are: which is nearer isn't known.
        share: Probability that a sample gets one.
        flip, photometric: As of the samples.

    Source: Ghiasi et al. 2021 (Simple Copy-Paste), Olsson et al. 2021 (ClassMix). Differs: one object of a rare class
    at its height, in place of any objects anywhere, or of all pixels of half the classes where they were.
    """

    def __init__(
        self,
        rare: RareClasses,
        train_ids: Sequence[int],
        kept: Sequence[int],
        share: float,
        flip: float = 0.5,
        photometric: bool = True,
    ):
        self.rare, self.share, self.flip = rare, share, flip
        self.table = np.isin(np.arange(256), train_ids)
        self.gives_way = ~np.isin(np.arange(256), [*train_ids, *kept])
        thresholds = rare.compute_probabilities(train_ids).cumsum()
        self.thresholds = thresholds / thresholds[-1]
        self.transforms = A.Compose([PhotometricDistortion()] if photometric else [])
        self._kept: dict[int, list[RareObject]] = {}
        self._room = _KEPT

    def paste(self, sample: dict, seed: Sequence[int], index: int, read: Callable) -> np.ndarray:
        """Changes `image` and `mask` of a sample, determined by `seed` alone.

        Args:
            sample: From `TrainTransforms`.
            index: Of its frame, which gives no object.
            read: Index -> image and train ids of a frame.

        Returns:
            Train ids of the pasted pixels, (K,).
        """
        sequence = np.random.SeedSequence(list(seed), spawn_key=(PASTE_STREAM,))
        random, nothing = np.random.default_rng(sequence), np.empty(0, np.uint8)
        if random.random() >= self.share:
            return nothing
        one, view = self._draw(random, index, read), sample["view"]
        if one is None:
            return nothing
        ratio = view.size[0] / one.frame_rows
        height, width = (max(1, round(side * ratio)) for side in one.train_ids.shape)
        train_ids = cv2.resize(one.train_ids, (width, height), interpolation=cv2.INTER_NEAREST)
        mirrored, cut, room = random.random() < self.flip, one.cut, view.extent[1] - width
        if mirrored:
            train_ids, cut = cv2.flip(train_ids, 1), cut[::-1]
        left = int(random.integers(min(room, 0), max(room, 0) + 1))
        place = round(one.top * ratio) - view.top, 0 if cut[0] else room if cut[1] else left
        inside = [slice(max(-start, 0), max(most - start, 0)) for start, most in zip(place, view.extent, strict=True)]
        solid, found = train_ids != IGNORE_INDEX, train_ids[*inside]
        blurred = cv2.GaussianBlur(solid.astype(np.float32), (3, 3), 0, borderType=cv2.BORDER_CONSTANT)
        opacity = blurred[*inside]
        window = [slice(max(start, 0), max(start, 0) + side) for start, side in zip(place, found.shape, strict=True)]
        pixels, labels = sample["image"][:, *window], sample["mask"][*window]
        shown = solid[*inside] & (opacity >= 0.5) & self.gives_way.take(labels)
        if 2 * np.count_nonzero(shown) < np.count_nonzero(solid):
            return nothing
        seed_transforms(self.transforms, sequence)
        image = cv2.resize(one.image, (width, height), interpolation=cv2.INTER_LINEAR)
        image = self.transforms(image=image)["image"]
        image = (image[:, ::-1] if mirrored else image)[*inside]
        behind = np.ascontiguousarray(pixels.transpose(1, 2, 0))
        mixed = cv2.blendLinear(np.ascontiguousarray(image), behind, opacity, 1 - opacity)
        np.copyto(pixels, mixed.transpose(2, 0, 1), where=shown)
        np.copyto(labels, found, where=shown)
        return found[shown]

    def _draw(self, random: np.random.Generator, index: int, read: Callable) -> RareObject | None:
        # What `random.choice` draws, in a fifth of its time.
        train_id = int(self.thresholds.searchsorted(random.random(), "right"))
        frames = self.rare.images[train_id]
        if not len(frames := frames[frames != index]):
            return None
        objects = self._find(int(frames[random.integers(len(frames))]), read)
        most = max(one.counts[train_id] for one in objects)
        enough = min(self.rare.min_pixels, (most + 1) // 2)
        objects = [one for one in objects if one.counts[train_id] >= enough]
        return objects[random.integers(len(objects))]

    def _find(self, index: int, read: Callable) -> list[RareObject]:
        if index in self._kept:
            return self._kept[index]
        self._kept[index] = objects = find_objects(*read(index), self.table)
        self._room -= _count_bytes(objects)
        while self._room < 0:
            self._room += _count_bytes(self._kept.pop(next(iter(self._kept))))
        return objects


def _count_bytes(objects: Sequence[RareObject]) -> int:
    return sum(one.image.nbytes + one.train_ids.nbytes for one in objects)


def find_objects(image: np.ndarray, labels: np.ndarray, table: np.ndarray) -> list[RareObject]:
    """Connected objects of the train ids of which `table` (256,) is true."""
    rare = cv2.LUT(labels, table.astype(np.uint8))
    # Between a rider and the bicycle there is often a line of void.
    joined = cv2.dilate(rare, np.ones((3, 3), np.uint8))
    _, numbers, boxes, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    objects = []
    for number, (left, top, width, height, _) in enumerate(boxes[1:].tolist(), 1):
        window = slice(top, top + height), slice(left, left + width)
        inside = (numbers[window] == number) & (rare[window] > 0)
        train_ids = np.where(inside, labels[window], np.uint8(IGNORE_INDEX))
        counts = count_pixels(train_ids)
        cut = left == 0, left + width == labels.shape[1]
        objects.append(RareObject(image[window].copy(), train_ids, counts, top, len(labels), cut))
    return objects


def list_movable(space: LabelSpace) -> list[int]:
    """Train ids of people and vehicles, as far as the classes have categories."""
    return [train_id for train_id, category in enumerate(space.categories) if category in ("human", "vehicle")]


def choose_pasted(names: Sequence[str] | None, rare: RareClasses, space: LabelSpace) -> list[int]:
    """Train ids of the classes to paste: those named, else the rare ones of people and vehicles, or of all.

    Raises:
        ConfigError: A class that there isn't, or of which train has no pixel; none to choose.
    """
    if names is None:
        among = list_movable(space) or range(space.num_labels)
        names = [space.names[train_id] for train_id in among if 0 < rare.frequencies[train_id] < RARE_SHARE]
    if not names:
        expected = f"`paste_classes`, or people and vehicles below {RARE_SHARE:.0%} of the pixels, with `paste_share`"
        raise ConfigError(expected, "none", "name classes, or leave it out")
    for name in names:
        if name not in space.names:
            raise ConfigError(f"`paste_classes` of {', '.join(space.names)}", f"`{name}`", "correct it")
        if not rare.frequencies[space.label2id[name]]:
            raise ConfigError("`paste_classes` with pixels in train", f"none of `{name}`", "leave it out")
    return [space.label2id[name] for name in names]
