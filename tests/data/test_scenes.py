import os
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.scenes import ALIKE, describe_scenes, find_alike, read_scenes
from hf_urbanseg.errors import DataError

KITTI = Path(__file__).parents[3] / "shared" / "data" / "kitti48"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_URBANSEG_CACHE", str(tmp_path / "cache"))


def build_rows(pictures: dict[str, np.ndarray]) -> Dataset:
    content = {"image": [Pictures.fromarray(one) for one in pictures.values()], "name": list(pictures)}
    return Dataset.from_dict(content, Features({"image": Image(), "name": Value("string")}))


def draw(seed: int, offset: int = 0, noise: float = 0) -> np.ndarray:
    """Large blocks on what all pictures share: bright above, dark below."""
    random = np.random.default_rng(seed)
    blocks = random.normal(0, 40, (6, 12, 3)).repeat(10, 0).repeat(10, 1)
    blocks = np.roll(blocks, offset, 1) + np.linspace(200, 40, 60)[:, None, None]
    return np.clip(blocks + np.random.default_rng(99).normal(0, noise, blocks.shape), 0, 255).astype(np.uint8)


def test_find_alike__by_hand():
    """The same as a plain loop over pairs and a search through what is alike."""
    pictures = {f"far{seed}": draw(seed) for seed in range(12)}
    pictures |= {"a1": draw(50), "a2": draw(50, 2, 10), "a3": draw(50, 4, 10), "b1": draw(60), "b2": draw(60, 1, 10)}
    found = find_alike(build_rows(pictures))
    thumbnails = []
    for picture in pictures.values():
        small = np.asarray(Pictures.fromarray(picture).resize((32, 16), Pictures.Resampling.BOX), np.float64).ravel()
        thumbnails.append((small - small.mean()) / small.std())
    rest = np.array(thumbnails) - np.mean(thumbnails, 0)
    expected = set()
    for start in range(len(rest)):
        seen, edge = {start}, [start]
        while edge:
            one = edge.pop()
            for other in range(len(rest)):
                cosine = rest[one] @ rest[other] / np.linalg.norm(rest[one]) / np.linalg.norm(rest[other])
                if cosine > ALIKE and other not in seen:
                    seen.add(other)
                    edge.append(other)
        names = sorted(list(pictures)[index] for index in seen)
        expected |= {tuple(names)} if len(names) > 1 else set()
    assert found == [list(group) for group in sorted(expected)] == [["a1", "a2", "a3"], ["b1", "b2"]]


def test_find_alike__what_shows_nothing_is_like_nothing():
    flat = {str(value): np.full((20, 40, 3), value, np.uint8) for value in (0, 90, 91, 255)}
    assert find_alike(build_rows(flat)) == []


def test_find_alike__remembers_until_a_picture_changes(monkeypatch):
    pictures = {f"far{seed}": draw(seed) for seed in range(6)} | {"a1": draw(50), "a2": draw(50, 2, 10)}
    first = find_alike(build_rows(pictures))
    monkeypatch.setattr("hf_urbanseg.data.scenes._find_alike", lambda *_: [["read", "again"]])
    assert find_alike(build_rows(pictures)) == first == [["a1", "a2"]]
    assert find_alike(build_rows(pictures | {"a2": draw(7)})) == [["read", "again"]]


def test_find_alike__where_nothing_can_be_kept(tmp_path, monkeypatch):
    """As in a container whose files are read-only, the home among them."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_URBANSEG_CACHE", str(tmp_path / "file" / "cache"))
    pictures = {f"far{seed}": draw(seed) for seed in range(6)} | {"a1": draw(50), "a2": draw(50, 2, 10)}
    assert find_alike(build_rows(pictures)) == [["a1", "a2"]]


def test_find_alike__does_not_wait_at_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    paths = [str(tmp_path / "pipe.png")] * 2
    rows = Dataset.from_dict(
        {"image": paths, "label": paths, "name": ["a", "b"]},
        Features({"image": Image(), "label": Image(), "name": Value("string")}),
    )
    assert find_alike(rows) == []


@pytest.mark.skipif(not KITTI.is_dir(), reason="needs real KITTI frames beside the project")
def test_load_data__frames_of_one_place_stay_together():
    for seed in range(8):
        splits = load_data(KITTI, split_seed=seed).splits
        split_of = {name: split for split, rows in splits.items() for name in rows["name"]}
        assert len({split_of[f"0000{number}_10"] for number in (43, 44, 46, 47)}) == 1


def test_read_scenes__bad_files(tmp_path):
    for text, message in (
        ("folds: []", "expected a list `scenes` of lists of frame names; found None"),
        ("scenes: [a, b]", "a list `scenes` of lists"),
        ("scenes: [[a, nobody]]", "names of frames in the data; found `nobody`"),
    ):
        (tmp_path / "scenes.yaml").write_text(text)
        with pytest.raises(DataError, match=message):
            read_scenes(tmp_path / "scenes.yaml", ["a", "b"])


def test_describe_scenes__names_the_largest():
    scenes = [["a", "b"], ["c", "d", "e"]]
    assert describe_scenes(scenes, "by eye") == "scenes: 5 frames in 2 groups stay together, by eye: c d e; a b"
