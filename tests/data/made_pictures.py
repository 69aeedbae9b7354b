"""Pictures that the tests of this room write, embed and upload."""

import io
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage


def encode(pixels, kind="PNG", **options) -> bytes:
    """The file of an array or picture."""
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, PillowImage.Image) else PillowImage.fromarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed=0, size=(20, 30), channels=(3,)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, *channels), np.uint8)


def mask(seed=0, size=(20, 30)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, size, np.uint8)


def with_palette(indices: np.ndarray) -> PillowImage.Image:
    """A palette picture whose colours are not as bright as their indices."""
    picture = PillowImage.fromarray(indices, "P")
    picture.putpalette([255 - value for value in range(256) for _ in range(3)])
    return picture


def write_flat(path: Path, shape=(4, 6), value=0) -> None:
    """A picture of one value; the folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(np.full(shape, value, np.uint8)).save(path)


def write_pair(images: Path, labels: Path, name: str, value=7, image_end=".png", label_end=".png") -> None:
    write_flat(images / f"{name}{image_end}", (4, 6, 3), value)
    write_flat(labels / f"{name}{label_end}", (4, 6), value)


def parquet(count=4, start=0, features=None, **columns) -> bytes:
    """A file of rows; `columns` replace the usual ones, each a list, or a function of the row's number."""
    given = {"image": lambda i: encode(noise(i)), "label": lambda i: encode(mask(i)), **columns}
    rows = {
        name: [make(start + i) for i in range(count)] if callable(make) else make
        for name, make in given.items()
        if make is not None
    }
    kinds = {name: Image() for name in ("image", "label") if name in rows} | (features or {})
    kinds |= {name: Value("int64") for name in rows if name not in kinds}
    for name, kind in kinds.items():
        if isinstance(kind, Image):
            rows[name] = [None if cell is None else {"bytes": cell, "path": None} for cell in rows[name]]
    buffer = io.BytesIO()
    Dataset.from_dict(rows, features=Features(kinds)).to_parquet(buffer)
    return buffer.getvalue()


def contents(rows: Dataset, column="image") -> list[bytes]:
    """The files inside a column of pictures."""
    return [stored[column]["bytes"] for stored in rows.cast_column(column, Image(decode=False))]
