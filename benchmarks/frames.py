"""Frames for benchmarks that are given none: rendered streets as PNG files, in KITTI's layout."""

import multiprocessing
import os
from pathlib import Path

from PIL import Image

from hf_urbanseg.data.synthetic import render_scene


def render_frames(folder: Path, count: int, size: tuple[int, int]) -> str:
    """Writes `count` frames of a size, on all cores, and returns the folder, which `--data_dir` takes."""
    for kind in ("image_2", "semantic"):
        Path(folder, "training", kind).mkdir(parents=True)
    jobs = [(Path(folder), number, tuple(size)) for number in range(count)]
    with multiprocessing.get_context("fork").Pool(min(count, os.cpu_count())) as pool:
        pool.starmap(_render, jobs)
    return str(folder)


def _render(folder: Path, number: int, size: tuple[int, int]) -> None:
    for kind, picture in zip(("image_2", "semantic"), render_scene(number, size), strict=True):
        Image.fromarray(picture).save(folder / "training" / kind / f"{number:06d}_10.png")
