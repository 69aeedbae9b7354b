import numpy as np
import pytest

from hf_urbanseg.data.folds import deal_folds, find_lacking, read_folds, write_folds
from hf_urbanseg.data.splits import _read_split_file
from hf_urbanseg.errors import DataError


def draw_counts(seed: int, frames: int = 60) -> dict[str, np.ndarray]:
    """Class 0 in every frame, class 1 in a third, class 2 in a tenth."""
    has = np.random.default_rng(seed).random((frames, 3)) < (1, 1 / 3, 1 / 10)
    return {f"{number:03d}": row * 100 for number, row in enumerate(has)}


@pytest.mark.parametrize("seed", range(6))
def test_deal_folds__scenes_whole_and_classes_even(seed):
    counts, scenes = draw_counts(seed), [[f"{n:03d}" for n in range(start, start + 3)] for start in range(0, 60, 5)]
    folds = deal_folds(counts, scenes, 4, seed)
    assert sorted(name for fold in folds for name in fold) == sorted(counts)
    for scene in scenes:
        assert sum(bool(set(scene) & set(fold)) for fold in folds) == 1
    for train_id, most in ((0, 3), (1, 3), (2, 2)):  # a scene of three has at most so many frames with it
        frames = [sum(counts[name][train_id] > 0 for name in fold) for fold in folds]
        assert max(frames) - min(frames) <= most


def test_deal_folds__goes_by_the_seed_and_not_by_the_order():
    counts = draw_counts(0)
    backwards = dict(reversed(counts.items()))
    assert deal_folds(backwards, [], 5, 1) == deal_folds(counts, [], 5, 1) != deal_folds(counts, [], 5, 2)


def test_deal_folds__every_fold_gets_a_scene():
    counts = {name: np.array([1, name == "a"]) for name in "abcde"}
    assert sorted(map(len, deal_folds(counts, [["a", "b"]], 4))) == [1, 1, 1, 2]
    with pytest.raises(DataError, match="at least 5 scenes for 5 folds; found 5 frames in 4 scenes"):
        deal_folds(counts, [["a", "b"]], 5)


def test_find_lacking__classes_that_a_fold_has_no_pixel_of():
    counts = {"a": np.array([1, 1, 0]), "b": np.array([1, 0, 0]), "c": np.array([1, 0, 0])}
    assert find_lacking(counts, [["a"], ["b"], ["c"]], ["road", "bus", "train"]) == {"bus": [1, 2]}


def test_write_folds__is_a_split_file(tmp_path):
    file = tmp_path / "folds.yaml"
    write_folds(file, [["000", "001"], ["1e3"]], [["000", "001"]], ["t"])
    names = ["000", "001", "1e3", "t"]
    assert read_folds(file) == ([["000", "001"], ["1e3"]], [["000", "001"]])
    assert _read_split_file(file, names, 1) == {"train": ["000", "001"], "test": ["1e3"]}
    assert _read_split_file(file, names, None) == {"train": ["000", "001", "1e3"], "test": ["t"]}
    with pytest.raises(DataError, match=r"folds.yaml: expected a `fold` of 0..1; found 2"):
        _read_split_file(file, names, 2)
    write_folds(file, [["000"], ["000"]], [], [])
    with pytest.raises(DataError, match="each frame in one split"):
        _read_split_file(file, names, 0)


def test_read_split_file__fold_without_folds(tmp_path):
    (tmp_path / "splits.yaml").write_text("train: [a]\n")
    with pytest.raises(DataError, match="expected a list `folds` with `fold`; found train"):
        _read_split_file(tmp_path / "splits.yaml", ["a"], 0)
