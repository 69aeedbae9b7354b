"""From rows of a data set to `pixel_values` and `labels`."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache

import cv2
import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from hf_urbanseg.data.checked_frames import CheckedFrames
from hf_urbanseg.data.decoded_cache import DecodedCache
from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.pasting import ObjectPaste
from hf_urbanseg.data.rare_classes import RareClasses
from hf_urbanseg.data.rgb import to_array, to_rgb
from hf_urbanseg.data.sampling import EpochSampler, JoinedSampler, StreamSampler
from hf_urbanseg.data.shards import NamesOnDemand, ShardedRows
from hf_urbanseg.data.teacher_cache import TeacherCache
from hf_urbanseg.data.transforms import TrainTransforms, seed_transforms
from hf_urbanseg.errors import ConfigError, DataError, ModelError
from hf_urbanseg.labels import LabelSpace


class TrainDataset(torch.utils.data.Dataset):
    """Augmented samples, each determined by (seed, epoch, index) alone.

    No worker, rank or earlier sample has any influence, so any split of the work gives the same pixels and a run
    resumed in mid-epoch continues exactly.

    Args:
        rows: Columns `image` and `label` (`datasets.Image`).
        transforms: From `build_train_transforms`.
        cache: The same rows decoded already, *optional*; changes nothing but the time. Of rows that
            are streamed what reads and checks them.
        teacher: What a teacher said of the same rows, *optional*.
        first_index: Of the first row among the samples of several data sets.
        rare: For keys (epoch, index, class), whose crops show the class, *optional*.
        paste: Puts objects of other frames into samples, *optional*.
        shuffle_buffer: Of rows that are streamed, how many are shuffled at a time.

    Shape:
        [(epoch, index)] -> pixel_values: (C, h, w) uint8; labels: (h, w) uint8 train ids or 255; extent: (2,) int64,
        rows and columns that are not padding; with `teacher` its scores, as `TeacherCache.cut` gives them;
        with `rare` drawn: int64, the class of the draw or -1; pasted: (num_labels,) int64 pixels.
        `normalize_batch` makes a model's input of a batch of them.
    """

    def __init__(
        self,
        rows: Dataset | ShardedRows,
        label_space: LabelSpace,
        transforms: TrainTransforms,
        seed: int,
        cache: DecodedCache | CheckedFrames | None = None,
        teacher: TeacherCache | None = None,
        first_index: int = 0,
        rare: RareClasses | None = None,
        paste: ObjectPaste | None = None,
        shuffle_buffer: int = 4096,
    ):
        if teacher is not None and paste is not None:
            expected, found = "no `paste_share` with what a teacher wrote down", "objects that it has not seen"
            raise ConfigError(expected, found, "leave it out, or name the teacher itself", teacher.path)
        self.rows, self.label_space, self.transforms, self.seed = rows, label_space, transforms, seed
        self.cache, self.teacher, self.first_index = cache, teacher, first_index
        self.rare, self.paste, self.shuffle_buffer = rare, paste, shuffle_buffer

    @property
    def names(self) -> Sequence[str]:
        """Frame names, in the order of the images."""
        return NamesOnDemand(self.rows) if isinstance(self.rows, ShardedRows) else list(self.rows["name"])

    def __len__(self) -> int:
        return len(self.rows)

    def build_sampler(self, step_size: int, seed: int) -> EpochSampler:
        """Of this set's keys, for optimiser steps of so many samples."""
        if isinstance(self.rows, ShardedRows):
            return StreamSampler([shard.rows for shard in self.rows.shards], self.shuffle_buffer, step_size, seed)
        return EpochSampler(len(self), step_size, seed, self.rare)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self.cache is not None:
            return self.cache[index]
        row = self.rows[index]
        return to_array(row["image"]), read_train_ids(row["label"], self.label_space)

    def __getitem__(self, key: tuple[int, ...] | int) -> dict[str, torch.Tensor]:
        epoch, index, *drawn = key if isinstance(key, tuple) else (0, key)
        image, label = self._read(index)
        seed = self.seed, epoch, self.first_index + index
        seed_transforms(self.transforms, seed)
        wanted = {"wanted": (drawn[0], self.rare.min_pixels)} if drawn else {}
        sample = self.transforms(image=image, mask=label, **wanted)
        pasted = self.paste.paste(sample, seed, index, self._read) if self.paste else np.empty(0, np.uint8)
        names = {"pixel_values": "image", "labels": "mask", "extent": "extent"}
        tensors = {key: torch.from_numpy(sample[name]) for key, name in names.items()}
        if self.teacher is not None:
            tensors["teacher"] = self.teacher.cut(index, sample["view"], self.transforms.size)
        if self.rare is not None:
            # `torch.tensor` would take ten times as long.
            tensors["drawn"] = torch.from_numpy(np.array(drawn[0] if drawn else -1, np.int64))
            tensors["pasted"] = torch.from_numpy(np.bincount(pasted, minlength=self.label_space.num_labels))
        return tensors


class JoinedDataset(torch.utils.data.Dataset):
    """Several data sets as one, their indices one after the other.

    Args:
        parts: The main data first; the `first_index` of each is the number of samples before it.
        shares: Of the samples that are drawn, one per part, 1 together; for `JoinedSampler`.
        names: Of all frames, in the order of the indices.
    """

    def __init__(self, parts: Sequence[TrainDataset], shares: Sequence[float], names: Sequence[str]):
        self.parts, self.shares, self.names = tuple(parts), tuple(shares), list(names)
        self.rare = self.parts[0].rare

    def __len__(self) -> int:
        return len(self.names)

    def build_sampler(self, step_size: int, seed: int) -> JoinedSampler:
        """As of a `TrainDataset`."""
        return JoinedSampler([*map(len, self.parts)], self.shares, step_size, seed, self.rare)

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, torch.Tensor]:
        epoch, index, *drawn = key
        part = next(part for part in reversed(self.parts) if part.first_index <= index)
        return part[(epoch, index - part.first_index, *drawn)]


InputSizes = Callable[[tuple[int, int]], list[tuple[int, int]]]
"""(height, width) of an image -> those it is shown to the model in, one per scale."""


def build_views(
    image: Image.Image | np.ndarray | Mapping, image_processor, sizes: InputSizes | None = None
) -> list[torch.Tensor]:
    """An image as the model sees it, once per scale.

    Every scale is resized from the original image by the processor's own filter and normalised as it says. Of more
    channels than three each is resized for itself: Pillow would take the fourth for transparency.

    Args:
        image: A picture of any mode, (H, W, C) uint8, or a row's image that isn't decoded (`to_array`).
        image_processor: PIL image -> `pixel_values`.
        sizes: The input sizes; None is one view exactly as the processor makes it.

    Shape:
        returns: tensors (C, h, w) float32.
    """
    image = to_array(image) if isinstance(image, Mapping) else image
    channels = image.shape[2] if isinstance(image, np.ndarray) else 3
    mean = getattr(image_processor, "image_mean", None)
    if isinstance(mean, list | tuple) and len(mean) != channels:
        fix = "choose the model for the data, or the data's `--channels`"
        raise DataError(f"images of {len(mean)} channels, as the model takes", f"one of {channels}", fix)
    if channels != 3:
        return _build_band_views(image, image_processor, sizes)
    image = to_rgb(image)
    options = [{}]
    if sizes is not None:
        # Of a processor that doesn't resize too, where another scale is asked for.
        options = [
            {"size": {"height": height, "width": width}, "do_resize": (height, width) != (image.height, image.width)}
            for height, width in sizes((image.height, image.width))
        ]
    table = _tabulate_pixels(image_processor)
    if table is None:
        return [image_processor(image, return_tensors="pt", **one)["pixel_values"][0] for one in options]
    bytes_alone = {"return_tensors": "np", "do_rescale": False, "do_normalize": False}
    return [_look_up(table, image_processor(image, **one, **bytes_alone)["pixel_values"][0]) for one in options]


def _build_band_views(pixels: np.ndarray, image_processor, sizes: InputSizes | None) -> list[torch.Tensor]:
    table = _tabulate_pixels(image_processor, channels := pixels.shape[2])
    if image_processor.do_resize or table is None:
        found = "another or one that resizes, which would take the fourth for transparency"
        raise ModelError(f"SegFormer's image processor for {channels} channels", found, "set `do_resize` to false")
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(pixels, -1, 0)]
    return [
        _look_up(table, [np.asarray(plane.resize((width, height), image_processor.resample)) for plane in planes])
        for height, width in ([pixels.shape[:2]] if sizes is None else sizes(pixels.shape[:2]))
    ]


def _look_up(table: np.ndarray, planes: Sequence[np.ndarray]) -> torch.Tensor:
    view = np.empty((len(planes), *planes[0].shape), np.float32)
    for values, plane, whole in zip(table, planes, view, strict=True):
        cv2.LUT(plane, values, dst=whole)
    return torch.from_numpy(view)


def _tabulate_pixels(image_processor, channels: int = 3) -> np.ndarray | None:
    """(C, 256) float32: what the processor makes of each byte of each channel, because looking up is faster.

    None of a processor that isn't known to treat each pixel for itself once it has resized.
    """
    # By module: the class's name depends on the backend, and a class derived from it may do anything else.
    if not type(image_processor).__module__.startswith("transformers.models.segformer."):
        return None
    steps = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    # With the settings, because they may be changed later.
    return _call_on_ramp(image_processor, channels, repr([getattr(image_processor, name, None) for name in steps]))


@lru_cache(maxsize=8)
def _call_on_ramp(image_processor, channels: int, settings: str) -> np.ndarray | None:
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(channels, 2)
    options = {"return_tensors": "np", "do_resize": False, "input_data_format": "channels_last"}
    table = image_processor(ramp, **options)["pixel_values"][0]
    known = table.shape == (channels, 1, 256) and table.dtype == np.float32
    return np.ascontiguousarray(table[:, 0]) if known else None


class EvalDataset(torch.utils.data.Dataset):
    """Images as the saved image processor prepares them, at one or several scales, labels at native size.

    Args:
        rows: Columns `name`, `image` and `label` (`datasets.Image`).
        image_processor: The one saved with the model.
        sizes: Input sizes for an image size (`PredictionPlan.input_sizes`); None is the processor's own alone.

    Shape:
        [index] -> views: a list with one (3, h, w) float32 per scale; labels: (H, W) uint8 train ids or 255, the
        file's own size; index: int.
    """

    def __init__(self, rows: Dataset, label_space: LabelSpace, image_processor, sizes: InputSizes | None = None):
        self.rows, self.label_space, self.image_processor = rows, label_space, image_processor
        self.sizes, self.checked = sizes, CheckedFrames(rows, label_space) if isinstance(rows, ShardedRows) else None

    @cached_property
    def names(self) -> list[str]:
        """Frame names, in the order of the images."""
        return list(self.rows["name"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict[str, list[torch.Tensor] | torch.Tensor | int]]:
        """A batch, read by as many threads as torch has: what a loader without workers asks for."""
        threads = 1 if torch.utils.data.get_worker_info() else min(torch.get_num_threads(), len(indices))
        if threads == 1:
            return [self[index] for index in indices]
        # Decoding and resizing let go of the interpreter.
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.__getitem__, indices))

    def __getitem__(self, index: int) -> dict[str, list[torch.Tensor] | torch.Tensor | int]:
        if self.checked is not None:
            image, label = self.checked[index]
        else:
            row = self.rows[index]
            image, label = row["image"], read_train_ids(row["label"], self.label_space)
        return {
            "views": build_views(image, self.image_processor, self.sizes),
            "labels": torch.from_numpy(label),
            "index": index,
        }
