import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.data.synthetic import build_synthetic_splits, render_scene
from hf_urbanseg.data.synthetic._towns import TOWNS
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX

SMALL = (96, 192)
LABEL_ID = {CITYSCAPES.names[t]: label_id for label_id, t in CITYSCAPES.label_ids.items() if t != IGNORE_INDEX}


@pytest.fixture(scope="module")
def scenes():
    """The default training set's streets, at half the size."""
    return [render_scene(seed, SMALL) for seed in range(64)]


@pytest.fixture(scope="module")
def splits():
    return build_synthetic_splits(4, 2, 2, SMALL, seed=3)


def digest(*arrays) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def test_render_scene__same_seed_same_bytes_other_seed_other(scenes):
    assert digest(*render_scene(5, SMALL)) == digest(*scenes[5])
    assert len({digest(image) for image, _ in scenes}) == len(scenes)
    assert len({digest(label) for _, label in scenes}) == len(scenes)


def test_render_scene__same_bytes_in_another_process(scenes):
    code = (
        "import hashlib; from hf_urbanseg.data.synthetic import render_scene;"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in render_scene(5, (96, 192)))).hexdigest())"
    )
    env = os.environ | {"PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert run.stdout.strip() == digest(*scenes[5])


@pytest.mark.parametrize("size", [(192, 384), (64, 64), (75, 249), (160, 90)])
def test_render_scene__size_and_dtype(size):
    image, label = render_scene(0, size)
    assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
    assert (label.shape, label.dtype) == (size, np.uint8)


def test_render_scene__another_size_shows_the_same_street():
    for seed in range(4):
        _, small = render_scene(seed, (96, 192))
        _, large = render_scene(seed, (192, 384))
        agreement = np.mean(small == large[::2, ::2])
        assert agreement > 0.93, seed
        _, other = render_scene(seed + 1, (96, 192))
        assert np.mean(small == other) < agreement - 0.1


def test_render_scene__every_label_id_is_known(scenes):
    for _, label in scenes:
        assert CITYSCAPES.value_table[label].all()


def test_render_scene__void_is_the_bonnet_or_the_left_border(scenes):
    bonnets = sum(bool((label[-1] == 1).any()) for _, label in scenes)
    borders = sum(bool((label[:, 0] == 3).any()) for _, label in scenes)
    assert 16 < bonnets < 48
    assert 4 < borders < 32
    for _, label in scenes:
        assert not (label[: int(0.9 * SMALL[0])] == 1).any()
        assert not (label[:, int(0.05 * SMALL[1]) :] == 3).any()


def test_render_scene__all_classes_in_the_default_training_set(scenes):
    train_ids = [CITYSCAPES.train_id_table[label] for _, label in scenes]
    counts = np.bincount(np.concatenate([t.ravel() for t in train_ids]), minlength=256)
    share = dict(zip(CITYSCAPES.names, counts[:19] / counts.sum(), strict=True))
    assert min(share.values()) > 5e-4, share  # rare, but more than a few pixels
    assert all(share[name] < 0.01 for name in ("person", "rider", "truck", "bus", "train", "motorcycle", "bicycle"))
    assert all(share[name] > 0.1 for name in ("road", "building", "vegetation", "sky"))
    assert 0.002 < counts[IGNORE_INDEX] / counts.sum() < 0.05


def test_render_scene__any_eight_seeds_show_the_rare_vehicles():
    for first in (1000, 2**20 + 3):
        seen = np.concatenate([render_scene(first + k, (192, 384))[1].ravel() for k in range(8)])
        for name in ("train", "bus", "truck", "motorcycle", "bicycle", "rider", "person"):
            assert np.sum(seen == LABEL_ID[name]) > 50, (first, name)


def test_render_scene__road_below_and_sky_above(scenes):
    labels = np.stack([label for _, label in scenes])
    rows = np.arange(SMALL[0])[None, :, None] / SMALL[0]
    centre = {name: (rows * (labels == LABEL_ID[name])).sum() / (labels == LABEL_ID[name]).sum() for name in LABEL_ID}
    assert centre["sky"] < 0.35
    assert centre["road"] > 0.65
    assert centre["sky"] < centre["building"] < centre["sidewalk"]
    # 0.40 .. 0.50 is the horizon.
    assert not (labels[:, int(0.51 * SMALL[0]) :] == LABEL_ID["sky"]).any()
    assert not (labels[:, : int(0.39 * SMALL[0])] == LABEL_ID["road"]).any()


def test_render_scene__image_follows_the_label(scenes):
    # A label edge must be an edge in the picture: compare colour steps across label edges with those elsewhere.
    on_edge, elsewhere = [], []
    for image, label in scenes[:16]:
        step = np.abs(np.diff(image.astype(float), axis=1)).sum(2)
        edge = np.diff(label.astype(int), axis=1) != 0
        on_edge.append(step[edge].mean())
        elsewhere.append(step[~edge].mean())
    assert np.mean(on_edge) > 2 * np.mean(elsewhere)


def test_render_scene__colour_alone_does_not_tell_the_class(scenes):
    # The best lookup from coarse colours to classes, fitted on half of the scenes, stays far from the labels.
    table = np.zeros((4096, 256), np.int64)
    for image, label in scenes[:32]:
        np.add.at(table, (_coarse(image).ravel(), label.ravel()), 1)
    guess = table.argmax(1).astype(np.uint8)
    intersection, union = np.zeros(256), np.zeros(256)
    for image, label in scenes[32:]:
        found = guess[_coarse(image)]
        for label_id in LABEL_ID.values():
            intersection[label_id] += np.sum((found == label_id) & (label == label_id))
            union[label_id] += np.sum((found == label_id) | (label == label_id))
    ids = list(LABEL_ID.values())
    assert np.mean(intersection[ids] / union[ids]) < 0.25


def _coarse(image: np.ndarray) -> np.ndarray:
    levels = image.astype(np.int64) // 16
    return levels[..., 0] * 256 + levels[..., 1] * 16 + levels[..., 2]


@pytest.mark.parametrize("town", ["hillside", "harbour"])
def test_render_scene__a_town_has_its_own_look_and_camera(town, scenes):
    other = [render_scene(seed, SMALL, town) for seed in range(16)]
    colours = []
    for pairs in (scenes[:16], other):
        images, labels = map(np.stack, zip(*pairs, strict=True))
        assert CITYSCAPES.value_table[labels].all()
        colours.append(images[labels == LABEL_ID["building"]].mean(0))
    assert np.abs(colours[0] - colours[1]).max() > 10
    road = np.stack([label == LABEL_ID["road"] for _, label in other]).any(2)
    low, high = TOWNS[town].horizon
    assert low <= np.argmax(road, axis=1).min() / SMALL[0] <= high


def test_build_synthetic_splits__towns_share_no_street():
    every = {town: build_synthetic_splits(2, 1, 1, SMALL, seed=3, town=town) for town in TOWNS}
    labels = [row["label"].tobytes() for splits in every.values() for rows in splits.values() for row in rows]
    assert len(set(labels)) == 12
    expected = render_scene(2**40 + 3 * 2**20, SMALL, "hillside")[0]
    np.testing.assert_array_equal(np.asarray(every["hillside"]["train"][0]["image"]), expected)


def test_build_synthetic_splits__bytes_are_inside_and_decode(splits):
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 4, "validation": 2, "test": 2}
    assert all(rows.features == FEATURES for rows in splits.values())
    raw = splits["train"].with_format("arrow")[:]
    for column, mode in (("image", "RGB"), ("label", "L")):
        for cell in raw[column].to_pylist():
            assert cell["path"] is None
            picture = Image.open(io.BytesIO(cell["bytes"]))
            assert (picture.format, picture.mode, picture.size) == ("PNG", mode, SMALL[::-1])
    row = splits["train"][0]
    for column, expected in zip(("image", "label"), render_scene(3 * 2**20, SMALL), strict=True):
        np.testing.assert_array_equal(np.asarray(row[column]), expected)


def test_build_synthetic_splits__names_and_images_are_disjoint(splits):
    names = [name for rows in splits.values() for name in rows["name"]]
    assert names == [f"synthetic_{number:06d}" for number in range(8)]
    assert len({row["image"].tobytes() for rows in splits.values() for row in rows}) == 8


def test_build_synthetic_splits__seed_chooses_the_streets(splits):
    again, other = build_synthetic_splits(1, 1, 1, SMALL, seed=3), build_synthetic_splits(1, 1, 1, SMALL, seed=4)
    first = splits["train"][0]["image"].tobytes()
    assert again["train"][0]["image"].tobytes() == first
    assert other["train"][0]["image"].tobytes() != first


def test_build_synthetic_splits__what_one_caller_changes_another_does_not_get():
    splits = build_synthetic_splits(1, 1, 1, SMALL, seed=3)
    del splits["test"]
    assert "test" in build_synthetic_splits(1, 1, 1, SMALL, seed=3)
