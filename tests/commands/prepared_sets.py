"""A small KITTI folder, and what the tests of preparing and of pushing a set do with it."""

import io
import sys

import numpy as np
import pytest
from datasets import Image
from PIL import Image as PillowImage

from hf_urbanseg.commands.prepare_data import main


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_URBANSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(name="kitti")
def small_kitti(tmp_path):
    """Six different frames in the official layout; every second label is a palette PNG, every image a JPEG."""
    rng = np.random.default_rng(0)
    images, labels = tmp_path / "kitti" / "training" / "image_2", tmp_path / "kitti" / "training" / "semantic"
    images.mkdir(parents=True)
    labels.mkdir()
    for index in range(6):
        PillowImage.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(images / f"{index:06d}_10.jpg")
        label_ids = rng.choice(np.array([0, 7, 8, 11, 26, 33], np.uint8), (8, 12))
        (labels / f"{index:06d}_10.png").write_bytes(png(label_ids, palette=index % 2 == 1))
    return tmp_path / "kitti"


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, words)])
    main()


def undecoded(rows, column):
    return [stored[column] for stored in rows.cast_column(column, Image(decode=False))]


def png(array, palette=False, **options):
    picture = PillowImage.fromarray(array, "P" if palette else None)
    if palette:
        picture.putpalette([255 - value for value in range(256) for _ in range(3)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def refused(capsys, monkeypatch, *words):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *words)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]
