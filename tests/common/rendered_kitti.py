"""Rendered streets in KITTI's official layout."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from hf_urbanseg.data.synthetic import render_scene


def write_kitti(root: Path, numbers: Iterable[int], size: tuple[int, int], vary: bool = True) -> Path:
    """Writes these frames and returns `root`; with `vary`, sizes differ by a row or two and a column, as KITTI's do."""
    for number in numbers:
        height, width = (size[0] + number % 3, size[1] + number % 2) if vary else size
        for kind, pixels in zip(("image_2", "semantic"), render_scene(number, (height, width)), strict=True):
            folder = root / "training" / kind
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number:06d}_10.png")
    return root
