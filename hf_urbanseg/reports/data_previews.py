"""Frames of a data set beside their labels, and what augmentation makes of them, as pictures."""

from pathlib import Path

import numpy as np

from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.preprocessing import TrainDataset
from hf_urbanseg.reports.contact_sheet import Cell, save_contact_sheet
from hf_urbanseg.reports.data_pages import (
    ChosenFrame,
    Preview,
    choose_frames,
    describe_choice,
    describe_cover,
    draw_labels,
    label_legend,
    show_sample,
    stack,
)


def draw_samples(
    data: LoadedData, split: str, frames: list[ChosenFrame], image_counts: np.ndarray, output: Path
) -> list[Preview]:
    """Writes samples.png: frames beside their labels."""
    rows, space = data.splits[split], data.label_space
    previews, cells = [], []
    for frame in frames:
        row = rows[frame.index]
        image = np.asarray(row["image"].convert("RGB"))
        labelled = draw_labels(image, space.train_id_table[np.asarray(row["label"])], space)
        caption = describe_choice(frame, space)
        previews.append(Preview(row["name"], caption, (image, labelled)))
        cells.append(Cell(stack((image, labelled)), f"{row['name']}: {caption}" if caption else row["name"]))
    title = f"{data.name}, {split}: {len(cells)} of {len(rows)} frames; {describe_cover(frames, image_counts, space)}"
    save_contact_sheet(output / "samples.png", cells, 4, title, label_legend(space, image_counts.sum(0)))
    return previews


def draw_augmented(
    data: LoadedData, transforms, seed: int, num_frames: int, num_epochs: int, image_counts: np.ndarray, output: Path
) -> list[Preview]:
    """Writes augmentations.png: what so many epochs make of some training frames.

    Args:
        transforms: From `build_train_transforms`.
        seed: Of the training.
    """
    rows, space = data.splits["train"], data.label_space
    dataset = TrainDataset(rows, space, transforms, seed)
    previews, cells = [], []
    frames = choose_frames(image_counts, num_frames)
    for frame in frames:
        name = rows[frame.index]["name"]
        for epoch in range(num_epochs):
            pictures = show_sample(dataset[epoch, frame.index], space)
            previews.append(Preview(name, f"epoch {epoch}", pictures))
            cells.append(Cell(stack(pictures), f"{name}, epoch {epoch}"))
    title = f"{data.name}: training samples as augmentation makes them, seed {seed}"
    legend = label_legend(space, image_counts[[frame.index for frame in frames]].sum(0), padding=True)
    save_contact_sheet(output / "augmentations.png", cells, num_epochs, title, legend, 280)
    return previews
