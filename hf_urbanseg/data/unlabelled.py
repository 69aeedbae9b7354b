"""Frames without labels: two views of each crop, and which of them each labelled sample brings along."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import albumentations as A
import numpy as np
import torch
from datasets import Dataset, Features, Image
from torch import Tensor
from torch.utils.data import Sampler

from hf_urbanseg.data.image_files import FEATURES, list_images
from hf_urbanseg.data.preprocessing import JoinedDataset, TrainDataset
from hf_urbanseg.data.rgb import to_array
from hf_urbanseg.data.sampling import EpochSampler
from hf_urbanseg.data.transforms import TrainTransforms, seed_transforms
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import expand_home

_ORDER, _GEOMETRY, _COLOURS, _BOX = range(1, 5)
"""Last words of seeds: what is drawn for one thing says nothing of another."""


def list_unlabelled(folders: Sequence[str], channels: int = 3) -> Dataset:
    """The pictures directly inside folders, as rows of `image` and `name` (`<folder>/<stem>`), by folder and name.

    Not in folders below: labels often lie there.
    """
    found = {}
    for folder in map(expand_home, folders):
        for stem, path in sorted(list_images(folder).items()):
            name = f"{folder.resolve().name}/{stem}"
            if name in found:
                fix = "rename one of the folders, or name it once"
                raise DataError("every unlabelled frame under one name", f"two called `{name}`", fix, path)
            found[name] = str(path.absolute())
    features = Features({"image": Image(decode=channels == 3), "name": FEATURES["name"]})
    return Dataset.from_dict({"image": list(found.values()), "name": list(found)}, features=features)


def build_strong_transforms() -> A.Compose:
    """What sets the student's view apart: colours, now and then none, and blur, on 8-bit RGB.

    Source: UniMatch (Yang et al. 2023, arXiv:2208.09910), its probabilities and strengths.
    """
    jitter = A.ColorJitter(brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.25, 0.25), p=0.8)
    return A.Compose([jitter, A.ToGray(p=0.2), A.GaussianBlur(sigma_limit=(0.1, 2.0), p=0.5)])


class UnlabelledDataset(torch.utils.data.Dataset):
    """Crops of unlabelled frames, each determined by (seed, epoch, index) alone.

    Args:
        rows: Columns `image` and `name`; see `list_unlabelled`.
        transforms: From `build_train_transforms`, without photometric distortion and balanced crops.
        cutmix: Probability that a pair of crops exchanges a box.

    Shape:
        [(epoch, index)] -> weak: (C, h, w) uint8, what the teacher sees; strong: the same place in other colours, what
        the student sees; extent: (2,) int64, rows and columns that are not padding.
    """

    def __init__(self, rows: Dataset, transforms: TrainTransforms, seed: int, cutmix: float = 0.5):
        self.rows, self.transforms, self.seed, self.cutmix = rows, transforms, seed, cutmix
        self.colours = build_strong_transforms()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        image = to_array(self.rows[key[1]]["image"])
        seed_transforms(self.transforms, (self.seed, *key, _GEOMETRY))
        sample = self.transforms(image=image, mask=np.zeros(image.shape[:2], np.uint8))
        weak, (height, width) = sample["image"], sample["extent"]
        seed_transforms(self.colours, (self.seed, *key, _COLOURS))
        strong, shown = weak.copy(), (slice(3), slice(height), slice(width))  # channels behind RGB stay
        view = self.colours(image=np.ascontiguousarray(weak[shown].transpose(1, 2, 0)))["image"]
        strong[shown] = view.transpose(2, 0, 1)
        tensors = {"weak": weak, "strong": strong, "extent": sample["extent"]}
        return {name: torch.from_numpy(array) for name, array in tensors.items()}

    def draw_box(self, key: tuple[int, int]) -> Tensor:
        """Rows and columns that the crop of this key and its partner exchange; none of them if a coin says so.

        Shape: returns (4,) int64: top, bottom, left, right.

        Source: UniMatch's, 2 to 40 % of the crop at a ratio of 0.3 to 3.3. Differs in that the ratio is one of shares
            of the crop's sides, so that no box is drawn anew because it doesn't fit.
        """
        generator = np.random.default_rng((self.seed, *key, _BOX))
        if generator.random() >= self.cutmix:
            return torch.zeros(4, dtype=torch.int64)
        share, ratio = generator.uniform(0.02, 0.4), generator.uniform(0.3, 1 / 0.3)
        sides = []
        for side, part in zip(self.transforms.size, (share * ratio, share / ratio), strict=True):
            length = min(max(round(side * part**0.5), 1), side)
            start = int(generator.integers(side - length + 1))
            sides += [start, start + length]
        return torch.tensor(sides)


class WithUnlabelled(torch.utils.data.Dataset):
    """Labelled samples, some of which bring pairs of unlabelled crops along; see `UnlabelledSampler`.

    Args:
        crops_per_step: Unlabelled crops of an optimiser step, an even number.

    Shape:
        [(key, crops)] -> the labelled sample of `key`, and as `unlabelled` a list with that of each crop, two by two
        with the same `box`.
    """

    def __init__(self, labelled: TrainDataset | JoinedDataset, unlabelled: UnlabelledDataset, crops_per_step: int):
        self.labelled, self.unlabelled, self.crops_per_step = labelled, unlabelled, crops_per_step
        self.names, self.rare = labelled.names, labelled.rare

    def __len__(self) -> int:
        return len(self.labelled)

    def build_sampler(self, step_size: int, seed: int) -> "UnlabelledSampler":
        """As of a `TrainDataset`."""
        sampler = self.labelled.build_sampler(step_size, seed)
        return UnlabelledSampler(sampler, len(self.unlabelled), self.crops_per_step, self.unlabelled.seed)

    def __getitem__(self, key: tuple) -> dict[str, Tensor | list[dict[str, Tensor]]]:
        key, crops = key
        views = [self.unlabelled[one] for one in crops]
        boxes = [self.unlabelled.draw_box(crops[number // 2 * 2]) for number in range(len(crops))]
        brought = [view | {"box": box} for view, box in zip(views, boxes, strict=True)]
        return self.labelled[key] | {"unlabelled": brought}


class UnlabelledSampler(Sampler[tuple]):
    """Another sampler's keys, each with those of the unlabelled crops that come along.

    Unlabelled frames have an order and epochs of their own, which go on from step to step. They are spread evenly over
    a step's samples, in pairs that stay together: how a step is laid out changes none of them.

    Args:
        sampler: Of the labelled samples.
        num_frames: Unlabelled ones.
        crops_per_step: An even number.
    """

    def __init__(self, sampler: EpochSampler, num_frames: int, crops_per_step: int, seed: int):
        self.sampler, self.num_frames, self.crops_per_step, self.seed = sampler, num_frames, crops_per_step, seed
        self.step_size, self.set_epoch, self.list_step = sampler.step_size, sampler.set_epoch, sampler.list_step

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple]:
        done = self.sampler.epoch * len(self) // self.step_size
        for position, key in enumerate(self.sampler):
            step, place = divmod(position, self.step_size)
            first, end = (2 * (one * self.crops_per_step // 2 // self.step_size) for one in (place, place + 1))
            before = (done + step) * self.crops_per_step
            yield key, [self._find(before + number) for number in range(first, end)]

    def _find(self, number: int) -> tuple[int, int]:
        """Epoch and index of a crop, all counted from the run's first."""
        epoch, place = divmod(number, self.num_frames)
        return epoch, int(_shuffle(self.seed, epoch, self.num_frames)[place])


@lru_cache(maxsize=4)
def _shuffle(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 0, _ORDER)).permutation(count)
