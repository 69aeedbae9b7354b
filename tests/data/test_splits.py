import hashlib

import pytest
from datasets import Dataset, DatasetDict

from hf_urbanseg.data.splits import _cut_names, _read_split_file, arrange_splits, merge_groups, write_split_file
from hf_urbanseg.errors import DataError

KITTI_NAMES = [f"{index:06d}_10" for index in range(200)]


def rows(names):
    return Dataset.from_dict({"name": list(names)})


def arrange(found, split_file=None, keep_together=None, scenes=(), test=0.25, validation=0.1, seed=0, fold=None):
    return arrange_splits(
        found, split_file, keep_together, lambda rows: (scenes, None), test, validation, seed, "the data", fold
    )


def cut_names(names, fraction, seed, groups=()):
    return _cut_names(names, fraction, seed, groups, "the data")


def names_of(splits):
    return {split: list(dataset["name"]) for split, dataset in splits.items()}


def test_cut_names__is_the_lowest_sha256_ranks():
    ranked = sorted("abcdefgh", key=lambda name: hashlib.sha256(f"3/{name}".encode()).hexdigest())
    assert cut_names("abcdefgh", 0.25, 3) == set(ranked[:2])


def test_cut_names__goes_by_the_seed_and_not_by_the_order_of_names():
    assert cut_names(KITTI_NAMES[::-1], 0.25, 0) == cut_names(KITTI_NAMES, 0.25, 0) != cut_names(KITTI_NAMES, 0.25, 1)


@pytest.mark.parametrize(("count", "fraction", "expected"), [(200, 0.25, 50), (150, 0.1, 15), (48, 0.25, 12)])
def test_cut_names__size(count, fraction, expected):
    assert len(cut_names(KITTI_NAMES[:count], fraction, 0)) == expected


@pytest.mark.parametrize(("count", "fraction"), [(2, 0.01), (2, 0.99), (3, 0.5)])
def test_cut_names__leaves_one_on_each_side(count, fraction):
    assert 1 <= len(cut_names(KITTI_NAMES[:count], fraction, 0)) < count


def test_cut_names__a_new_frame_moves_at_most_one_other():
    before = cut_names(KITTI_NAMES, 0.25, 0)
    for new in range(200, 240):
        after = cut_names([*KITTI_NAMES, f"{new:06d}_10"], 0.25, 0)
        assert len((before ^ after) - {f"{new:06d}_10"}) <= 1


@pytest.mark.parametrize("seed", range(8))
def test_cut_names__keeps_groups_whole_and_the_size_exact(seed):
    group = KITTI_NAMES[43:48]
    cut = cut_names(KITTI_NAMES, 0.25, seed, [group])
    assert len(cut) == 50
    assert len(cut & set(group)) in (0, 5)


def test_cut_names__group_that_would_overshoot_is_passed_over():
    assert cut_names(KITTI_NAMES[:8], 0.25, 0, [KITTI_NAMES[:7]]) == {KITTI_NAMES[7]}


def test_cut_names__only_groups_takes_the_nearest_size():
    # 30 frames wanted; scenes of 50, 60 and 90: the nearest to 30 is 50.
    scenes = [KITTI_NAMES[:50], KITTI_NAMES[50:110], KITTI_NAMES[110:]]
    assert cut_names(KITTI_NAMES, 0.15, 0, scenes) == set(KITTI_NAMES[:50])


def test_cut_names__a_scene_too_many_is_nearer_than_one_too_few():
    # 5 frames wanted, in scenes of 3: two scenes miss by 1, one scene by 2.
    assert len(cut_names(KITTI_NAMES[:12], 0.4, 0, [KITTI_NAMES[start : start + 3] for start in range(0, 12, 3)])) == 6


def test_cut_names__one_scene_is_refused():
    with pytest.raises(DataError, match="at least two frames or scenes to split; found 3 frames in 1 scene"):
        cut_names("abc", 0.5, 0, ["abc"])


def test_merge_groups__shared_name_joins_and_unknown_names_are_left_out():
    assert sorted(merge_groups("abcde", [["c", "b"], ["d", "c", "z"]])) == [["a"], ["b", "c", "d"], ["e"]]


def test_arrange_splits__200_frames_give_135_15_50():
    splits, notes = arrange({"all": rows(KITTI_NAMES)})
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 135, "validation": 15, "test": 50}
    assert sorted(name for names in names_of(splits).values() for name in names) == KITTI_NAMES
    assert notes == ["test: 50 of 200 frames, seed 0", "validation: 15 of 150 training frames, seed 0"]


def test_arrange_splits__sorts_by_name():
    splits, _ = arrange({"all": rows(KITTI_NAMES[::-1])})
    assert all(names == sorted(names) for names in names_of(splits).values())


def test_arrange_splits__validation_fraction_leaves_test_alone():
    few, many = (arrange({"all": rows(KITTI_NAMES)}, validation=share)[0] for share in (0.1, 0.4))
    assert names_of(few)["test"] == names_of(many)["test"]
    assert set(names_of(few)["validation"]) < set(names_of(many)["validation"])


def test_arrange_splits__own_splits_stay_and_validation_comes_from_train():
    splits, notes = arrange({"train": rows(KITTI_NAMES[:100]), "test": rows(KITTI_NAMES[100:])})
    assert names_of(splits)["test"] == KITTI_NAMES[100:]
    assert len(splits["validation"]) == 10
    assert set(names_of(splits)["validation"]) | set(names_of(splits)["train"]) == set(KITTI_NAMES[:100])
    assert notes == ["validation: 10 of 100 training frames, seed 0"]


def test_arrange_splits__fraction_zero_leaves_the_split_out():
    splits, notes = arrange({"all": rows("ab")}, test=0, validation=0)
    assert names_of(splits) == {"train": ["a", "b"]}
    assert notes == ["validation: none", "test: none"]


def test_arrange_splits__test_only_set():
    splits, notes = arrange({"test": rows("ab")})
    assert names_of(splits) == {"test": ["a", "b"]}
    assert notes == ["train: none", "validation: none"]


def test_arrange_splits__scenes_are_cut_whole():
    scenes = [KITTI_NAMES[start : start + 20] for start in range(0, 200, 20)]
    splits, _ = arrange({"train": rows(KITTI_NAMES)}, scenes=scenes)
    assert names_of(splits)["validation"] in scenes


def test_arrange_splits__keep_together():
    group = KITTI_NAMES[:6]
    for seed in range(10):
        splits, _ = arrange({"all": rows(KITTI_NAMES)}, keep_together=[" , ".join(group)], seed=seed)
        assert sum(bool(set(group) & set(names)) for names in names_of(splits).values()) == 1


def test_arrange_splits__keep_together_names_an_unknown_frame():
    with pytest.raises(DataError, match=r"the data: .*`keep_together`; found `bad`; correct or remove it"):
        arrange({"all": rows("abc")}, keep_together=["a,bad"])


def test_arrange_splits__keep_together_against_own_splits():
    with pytest.raises(DataError, match=r"group in one split; found a in train but c in test"):
        arrange({"train": rows("ab"), "test": rows("cd")}, keep_together=["a,c"], validation=0)


def test_arrange_splits__empty_own_split():
    with pytest.raises(DataError, match="the data: expected frames in every split; found none in test"):
        arrange({"train": rows("ab"), "test": rows([])})


def test_arrange_splits__split_file_replaces_own_splits(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: [d, a]\nvalidation: [b]\ntest: [c]\n")
    splits, notes = arrange({"train": rows("abc"), "test": rows("def")}, split_file=str(file))
    assert names_of(splits) == {"train": ["a", "d"], "validation": ["b"], "test": ["c"]}
    assert notes == ["splits: as listed in mine.yaml", "split file: 2 of 6 frames are not listed and not used"]


def test_arrange_splits__split_file_without_validation_cuts_train(tmp_path):
    file = tmp_path / "mine.yaml"
    write_split_file(file, {"train": KITTI_NAMES[:20], "test": KITTI_NAMES[20:]})
    splits, _ = arrange({"all": rows(KITTI_NAMES)}, split_file=file)
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 18, "validation": 2, "test": 180}
    assert names_of(splits)["test"] == KITTI_NAMES[20:]


def test_read_split_file__unquoted_numbers_stay_names(tmp_path):
    # As YAML numbers they would be 8, 9 and 1000.0.
    file = tmp_path / "splits.yaml"
    file.write_text("train: [000000_10, 1e3]\ntest:\n- 000000_11\n")
    assert _read_split_file(file, ["000000_10", "000000_11", "1e3"], None) == {
        "train": ["000000_10", "1e3"],
        "test": ["000000_11"],
    }


def test_write_split_file__reads_back(tmp_path):
    file = tmp_path / "splits.yaml"
    listed = {"train": ["000000_10", "a b"], "validation": ["no"], "test": ["x: y"]}
    write_split_file(file, DatasetDict({split: rows(names) for split, names in listed.items()}))
    assert _read_split_file(file, ["000000_10", "a b", "no", "x: y", "unused"], None) == listed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [a, bb]", "found `bb` in train; did you mean `b`"),
        ("train: [a]\ntest: [a]", "found `a` in both train and test"),
        ("train: [a, a]", "found `a` in train twice"),
        ("train: [a]\ntest: []", "a list of frame names under `test`"),
        ("train: a", "a list of frame names under `train`"),
        ("train: [a]\nval: [b]", "splits train, validation, test; found `val`"),
        ("test: [a]", "a list `train`; found test"),
        ("- a", "a split file of `key: value` lines; found list"),
        ("", "a split file of `key: value` lines"),
        ("train: [a", "a split file in YAML"),
    ],
)
def test_read_split_file__bad_content_names_the_file(tmp_path, text, message):
    file = tmp_path / "splits.yaml"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        _read_split_file(file, ["a", "b"], None)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_split_file__missing_or_binary(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        _read_split_file(tmp_path / "none.yaml", ["a"], None)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="a split file in YAML"):
        _read_split_file(tmp_path / "binary.yaml", ["a"], None)


def test_read_split_file__ambiguous_names(tmp_path):
    file = tmp_path / "splits.yaml"
    file.write_text("train: [a]")
    with pytest.raises(DataError, match="unique in the whole data set; found a twice"):
        _read_split_file(file, ["a", "b", "a"], None)
