"""What a data set looks like: which frames to show, the frames with their labels, and augmented crops."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.preflight.checks import Inspection
from hf_urbanseg.data.preprocessing import TrainDataset
from hf_urbanseg.data.rgb import to_rgb
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.progress import show_progress
from hf_urbanseg.reports.contact_sheet import save_contact_sheet
from hf_urbanseg.reports.overlays import blend
from hf_urbanseg.reports.pages import embed_drawing, embed_photo, write_page

_STRIPE, _PAD_PAPER, _PAD_INK = (40, 40, 40), (226, 226, 226), (188, 188, 188)
_PHOTO_PIXELS, _CROP_PIXELS = 200_000, 90_000
_MOST_SIZES = 12


def choose_frames(image_counts: np.ndarray, count: int) -> dict[int, list[int]]:
    """Few frames that show every class, the rarest first; then evenly spread ones.

    Greedy: for the rarest class that is still missing (fewest pixels), among the frames that show it well, the one
    that shows the most missing classes well. A class is shown well by at least a quarter of the pixels that it has at
    most in any frame.

    Args:
        image_counts: (N, C) pixels per image and class.
        count: Frames at most.

    Returns:
        Frames in the order chosen, each with the classes it was chosen for (none: it fills up the number asked for).
    """
    largest = image_counts.max(0, initial=0)
    shown_well = (image_counts > 0) & (4 * image_counts >= largest)
    totals = image_counts.sum(0)
    missing = [int(c) for c in np.argsort(totals, kind="stable") if totals[c] > 0]
    chosen = {}
    while missing and len(chosen) < min(count, len(image_counts)):
        rarest = missing[0]
        gain = np.where(shown_well[:, rarest], shown_well[:, missing].sum(1), -1)
        # Of equals, the one with the most pixels of the rarest class.
        index = int(np.lexsort((-image_counts[:, rarest], -gain))[0])
        chosen[index] = [c for c in missing if shown_well[index, c]]
        missing = [c for c in missing if not shown_well[index, c]]
    rest = [index for index in range(len(image_counts)) if index not in chosen]
    spread = np.linspace(0, len(rest) - 1, min(count - len(chosen), len(rest))).round().astype(int)
    return chosen | {rest[i]: [] for i in spread}


def draw_labels(image: np.ndarray, train_ids: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """Class colours over the (H, W, 3) image, dark stripes where there is no class."""
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
    """What `TrainDataset` gives, made visible: the crop, and the crop with its labels; padding is a grey lattice."""
    picture, labels = sample["pixel_values"][:3].numpy().transpose(1, 2, 0), sample["labels"].numpy()
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
    """Pictures of one size above each other, or side by side where they are upright, white between them."""
    height, width = pictures[0].shape[:2]
    axis = int(height > width)
    white = np.full((height, gap, 3) if axis else (gap, width, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (white, picture)]
    return np.concatenate(parts[1:], axis)


def describe_cover(frames: Collection[int], image_counts: np.ndarray, label_space: LabelSpace) -> str:
    """Whether the frames show every class of the split, in words."""
    shown = image_counts[list(frames)].sum(0) > 0
    left_out = [label_space.names[c] for c in np.flatnonzero(image_counts.sum(0) * ~shown)]
    return f"no room for {', '.join(left_out)}" if left_out else "every class of the split is shown, rare ones first"


def label_legend(label_space: LabelSpace, counts: Sequence[int], padding: bool = False) -> list[tuple]:
    """The classes that occur in `counts` (C,), and what stripes and lattice mean."""
    legend = [(label_space.names[c], label_space.colors[c]) for c in np.flatnonzero(counts)]
    grey = np.full((16, 16, 3), 190, np.uint8)
    legend.append(("no class (ignored)", draw_stripes(grey, np.ones((16, 16), bool))))
    return [*legend, ("padding", _draw_padding(16, 16))] if padding else legend


def draw_samples(
    data: LoadedData, split: str, frames: Mapping[int, Sequence[int]], image_counts: np.ndarray, output: Path
) -> list[dict]:
    """Writes samples.png, frames beside their labels, and returns them for the page."""
    rows, space = data.splits[split], data.label_space
    samples, cells = [], []
    with show_progress(len(frames), "samples", "image") as bar:
        for index, train_ids in frames.items():
            row = rows[index]
            image = np.asarray(to_rgb(row["image"]))
            labelled = draw_labels(image, read_train_ids(row["label"], space), space)
            caption = f"for {', '.join(space.names[c] for c in train_ids)}" if train_ids else ""
            samples.append(_embed(row["name"], caption, (image, labelled), _PHOTO_PIXELS))
            cells.append((stack((image, labelled)), f"{row['name']}: {caption}" if caption else row["name"]))
            bar.update()
    title = f"{data.name}, {split}: {len(cells)} of {len(rows)} frames; {describe_cover(frames, image_counts, space)}"
    save_contact_sheet(output / "samples.png", cells, 4, title, label_legend(space, image_counts.sum(0)))
    return samples


def draw_augmented(
    data: LoadedData, transforms, seed: int, num_frames: int, num_epochs: int, image_counts: np.ndarray, output: Path
) -> dict[str, list[dict]]:
    """Writes augmentations.png, what epochs make of training frames, and returns the crops by frame for the page."""
    rows, space = data.splits["train"], data.label_space
    dataset = TrainDataset(rows, space, transforms, seed)
    crops, cells = {}, []
    frames = choose_frames(image_counts, num_frames)
    with show_progress(len(frames) * num_epochs, "augmentation", "crop") as bar:
        for index in frames:
            name = rows[index]["name"]
            crops[name] = []
            for epoch in range(num_epochs):
                pictures = show_sample(dataset[epoch, index], space)
                crops[name].append(_embed(name, f"epoch {epoch}", pictures, _CROP_PIXELS))
                cells.append((stack(pictures), f"{name}, epoch {epoch}"))
                bar.update()
    title = f"{data.name}: training samples as augmentation makes them, seed {seed}"
    legend = label_legend(space, image_counts[list(frames)].sum(0), padding=True)
    save_contact_sheet(output / "augmentations.png", cells, num_epochs, title, legend, 280)
    return crops


def write_data_page(
    path: Path,
    data: LoadedData,
    split: str,
    inspection: Inspection,
    image_counts: np.ndarray,
    frames: Mapping[int, Sequence[int]],
    distribution: Path,
    **shown,
) -> None:
    """Writes the page, complete in one file.

    Args:
        inspection: Of all splits; those that are not shown are only counted.
        image_counts: (N, C) pixels per image and class of the split.
        frames: From `choose_frames`.
        distribution: The bar chart of the classes.
        shown: `samples` and `augmented` as drawn above; `augmentation`, its options, `num_epochs` and `seed`.
    """
    space, totals = data.label_space, image_counts.sum(0)
    with_class = (image_counts > 0).sum(0)
    largest = (image_counts / np.maximum(image_counts.sum(1, keepdims=True), 1)).max(0)
    # Per class: pixels, their share, images with it, their share, its largest share of one image.
    columns = totals, totals / max(totals.sum(), 1), with_class, with_class / len(image_counts), largest
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
        classes=list(zip(*(column.tolist() for column in columns), strict=True)),
        present=np.flatnonzero(totals).tolist(),
        absent=[space.names[c] for c in np.flatnonzero(totals == 0)],
        distribution=embed_drawing(chart, "Bar chart of the labelled pixels per class"),
        splits={name: (len(rows), inspection.void_share(name, space)) for name, rows in data.splits.items()},
        sizes=_size_rows(inspection.sizes(split)),
        notes=[*data.notes, *inspection.warnings],
        cover=describe_cover(frames, image_counts, space),
        **shown,
    )


def _embed(name: str, caption: str, pictures: Sequence[np.ndarray], max_pixels: int) -> dict:
    what = f"{name} {caption}".strip()
    alts = (what, f"labels of {what}")
    embedded = [embed_photo(one, alt, max_pixels) for one, alt in zip(pictures, alts, strict=True)]
    return {"name": name, "caption": caption, "pictures": embedded}


def _size_rows(sizes: Mapping[tuple[int, int], int]) -> dict[str, int]:
    """The commonest sizes, and the others in one row."""
    ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    rows = {f"{height}x{width}": images for (height, width), images in ordered[:_MOST_SIZES]}
    if rest := ordered[_MOST_SIZES:]:
        rows[f"{len(rest)} other sizes"] = sum(images for _, images in rest)
    return rows
