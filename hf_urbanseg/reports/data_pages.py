"""What a data set looks like: which frames to show, the frames with their labels, and augmented crops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.preflight.checks import Inspection
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.reports.contact_sheet import Swatch
from hf_urbanseg.reports.overlays import blend
from hf_urbanseg.reports.pages import embed_drawing, embed_photo, write_page

_STRIPE, _PAD_PAPER, _PAD_INK = (40, 40, 40), (226, 226, 226), (188, 188, 188)
_PHOTO_PIXELS, _CROP_PIXELS = 200_000, 90_000
_MOST_SIZES = 12


@dataclass(frozen=True)
class ChosenFrame:
    """A frame to show and the classes it was chosen for (none: it fills up the number asked for)."""

    index: int
    train_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Preview:
    """A frame of the data, or one crop of it: its name, a few words, and pictures to show under each other."""

    name: str
    caption: str
    pictures: tuple[np.ndarray, ...]


def choose_frames(image_counts: np.ndarray, count: int) -> list[ChosenFrame]:
    """Few frames that show every class, the rarest first; then evenly spread ones.

    Greedy: for the rarest class that is still missing (fewest pixels), among the frames that show it well, the one
    that shows the most missing classes well. A class is shown well by at least a quarter of the pixels that it has at
    most in any frame.

    Args:
        image_counts: (N, C) pixels per image and class.
        count: Frames at most.

    Returns:
        In the order chosen, at most N frames, none twice.
    """
    image_counts = np.asarray(image_counts)
    largest = image_counts.max(0, initial=0)
    shown_well = (image_counts > 0) & (4 * image_counts >= largest)
    totals = image_counts.sum(0)
    missing = [int(c) for c in np.argsort(totals, kind="stable") if totals[c] > 0]
    chosen = []
    while missing and len(chosen) < min(count, len(image_counts)):
        rarest = missing[0]
        gain = np.where(shown_well[:, rarest], shown_well[:, missing].sum(1), -1)
        # Of equals, the one with the most pixels of the rarest class.
        index = int(np.lexsort((-image_counts[:, rarest], -gain))[0])
        found = tuple(c for c in missing if shown_well[index, c])
        chosen.append(ChosenFrame(index, found))
        missing = [c for c in missing if c not in found]
    taken = {frame.index for frame in chosen}
    rest = [index for index in range(len(image_counts)) if index not in taken]
    wanted = min(count - len(chosen), len(rest))
    if wanted > 0:
        spread = np.linspace(0, len(rest) - 1, wanted).round().astype(int)
        chosen += [ChosenFrame(rest[i], ()) for i in spread]
    return chosen


def draw_labels(image: Image.Image | np.ndarray, train_ids: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """Class colours over the image, dark stripes where there is no class.

    Shape:
        image: (H, W, 3) uint8. train_ids: (H, W) uint8. returns: (H, W, 3) uint8.
    """
    return draw_stripes(blend(image, train_ids, label_space, 0.6), train_ids == IGNORE_INDEX)


def draw_stripes(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A copy of the picture, dim and with diagonal stripes where `mask` is True."""
    height, width = picture.shape[:2]
    # By width, because pictures of any size are shown about equally wide.
    period = max(6, round(width / 80))
    stripes = (np.arange(height)[:, None] + np.arange(width)) % period < max(2, period // 4)
    drawn = np.array(picture)
    drawn[mask] = (0.55 * drawn[mask] + 0.45 * 150).astype(np.uint8)
    drawn[mask & stripes] = _STRIPE
    return drawn


def show_sample(sample: dict[str, torch.Tensor], label_space: LabelSpace) -> tuple[np.ndarray, np.ndarray]:
    """What `TrainDataset` gives, made visible: the crop, and the crop with its labels; padding is a grey lattice.

    Shape:
        pixel_values: (3, h, w) uint8; labels: (h, w) uint8 train ids or 255; extent: (2,).
        returns: two (h, w, 3) uint8 pictures.
    """
    picture, labels = sample["pixel_values"].numpy().transpose(1, 2, 0), sample["labels"].numpy()
    height, width = sample["extent"].tolist()
    padding = np.ones(labels.shape, bool)
    padding[:height, :width] = False
    paper = _draw_padding(*padding.shape)
    labelled = draw_labels(picture, labels, label_space)
    return tuple(np.where(padding[..., None], paper, one) for one in (picture, labelled))


def _draw_padding(height: int, width: int) -> np.ndarray:
    period = max(8, round(width / 40))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    lattice = ((rows + columns) % period < 2) | ((rows - columns) % period < 2)
    return np.where(lattice[..., None], np.uint8(_PAD_INK), np.uint8(_PAD_PAPER))


def stack(pictures: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures of one size above each other, white between them."""
    white = np.full((gap, *pictures[0].shape[1:]), 255, np.uint8)
    rows = [part for picture in pictures for part in (white, picture)]
    return np.concatenate(rows[1:])


def describe_choice(frame: ChosenFrame, label_space: LabelSpace) -> str:
    """`for rider, bicycle`, or nothing for a frame that fills up the number."""
    names = [label_space.names[train_id] for train_id in frame.train_ids]
    return f"for {', '.join(names)}" if names else ""


def describe_cover(frames: Sequence[ChosenFrame], image_counts: np.ndarray, label_space: LabelSpace) -> str:
    """Whether the frames show every class of the split, in words."""
    shown = image_counts[[frame.index for frame in frames]].sum(0) > 0
    left_out = [label_space.names[c] for c in np.flatnonzero(image_counts.sum(0) * ~shown)]
    return f"no room for {', '.join(left_out)}" if left_out else "every class of the split is shown, rare ones first"


def label_legend(label_space: LabelSpace, counts: Sequence[int], padding: bool = False) -> list[Swatch]:
    """The classes that occur in `counts` (C,), and what stripes and lattice mean."""
    legend = [Swatch(label_space.names[c], label_space.colors[c]) for c in np.flatnonzero(counts)]
    grey = np.full((16, 16, 3), 190, np.uint8)
    legend.append(Swatch("no class (ignored)", pattern=draw_stripes(grey, np.ones((16, 16), bool))))
    if padding:
        legend.append(Swatch("padding", pattern=_draw_padding(16, 16)))
    return legend


def write_data_page(
    path: str | Path,
    *,
    data: LoadedData,
    split: str,
    inspection: Inspection,
    image_counts: np.ndarray,
    frames: Sequence[ChosenFrame],
    samples: Sequence[Preview],
    augmented: Sequence[Preview],
    augmentation: Mapping,
    distribution: Path,
) -> None:
    """Writes the page, complete in one file.

    Args:
        data, split: What is shown; the other splits are only counted.
        inspection: Of all splits.
        image_counts: (N, C) pixels per image and class of the split.
        frames, samples: The frames chosen, and their pictures in the same order.
        augmented: Crops, those of one frame behind each other.
        augmentation: The options of the augmentation, and `seed`.
        distribution: The bar chart of the classes.
    """
    space, totals = data.label_space, image_counts.sum(0)
    with_class = (image_counts > 0).sum(0)
    largest = (image_counts / np.maximum(image_counts.sum(1, keepdims=True), 1)).max(0)
    crops = {
        name: [_embed_preview(crop, _CROP_PIXELS) for crop in crops]
        for name, crops in groupby(augmented, key=lambda preview: preview.name)
    }
    with Image.open(distribution) as file:
        chart = np.asarray(file.convert("RGB"))
    write_page(
        path,
        "browse_data.html.j2",
        title=f"{data.name}: {split}",
        subtitle=f"{len(image_counts):,} images, {space.num_labels} classes ({space.name})",
        space=space,
        split=split,
        num_images=len(image_counts),
        # Per class: pixels, their share, images with it, their share, its largest share of one image.
        classes=list(
            zip(
                totals.tolist(),
                (totals / max(totals.sum(), 1)).tolist(),
                with_class.tolist(),
                (with_class / len(image_counts)).tolist(),
                largest.tolist(),
                strict=True,
            )
        ),
        present=np.flatnonzero(totals).tolist(),
        absent=[space.names[c] for c in np.flatnonzero(totals == 0)],
        distribution=embed_drawing(chart, "Bar chart of the labelled pixels per class"),
        splits={name: (len(rows), inspection.void_share(name, space)) for name, rows in data.splits.items()},
        sizes=_size_rows(inspection.sizes(split)),
        notes=[*data.notes, *inspection.warnings],
        cover=describe_cover(frames, image_counts, space),
        samples=[_embed_preview(preview, _PHOTO_PIXELS) for preview in samples],
        augmented=crops,
        epochs=max(map(len, crops.values()), default=0),
        augmentation=augmentation,
    )


def _embed_preview(preview: Preview, max_pixels: int) -> dict:
    what = f"{preview.name} {preview.caption}".strip()
    pictures = [
        embed_photo(one, alt, max_pixels)
        for one, alt in zip(preview.pictures, (what, f"labels of {what}"), strict=True)
    ]
    return {"name": preview.name, "caption": preview.caption, "pictures": pictures}


def _size_rows(sizes: Mapping[tuple[int, int], int]) -> dict[str, int]:
    """The commonest sizes, and the others in one row."""
    ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    rows = {f"{height}x{width}": images for (height, width), images in ordered[:_MOST_SIZES]}
    if rest := ordered[_MOST_SIZES:]:
        rows[f"{len(rest)} other sizes"] = sum(images for _, images in rest)
    return rows
