import hashlib

import cv2
import numpy as np
import pytest

from hf_urbanseg.data import pasting
from hf_urbanseg.data.pasting import ObjectPaste, choose_pasted, find_objects, list_movable
from hf_urbanseg.data.rare_classes import RareClasses
from hf_urbanseg.data.transforms import build_train_transforms, seed_transforms
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace

ROAD, VEGETATION, PERSON, RIDER, CAR, BICYCLE = 0, 8, 11, 12, 13, 18
SIZE = (60, 160)


def build_frames():
    """Three frames: without any object, with a cyclist at rows 20 to 39, with a person cut by the left border."""
    frames = []
    for _ in range(3):
        label = np.full(SIZE, VEGETATION, np.uint8)
        label[30:] = ROAD
        label[25:35, 100:130] = CAR
        frames.append((None, label))
    frames[1][1][20:30, 50:58] = RIDER
    frames[1][1][30] = IGNORE_INDEX  # between the two
    frames[1][1][31:40, 48:60] = BICYCLE
    frames[2][1][22:42, :6] = PERSON
    colors = np.random.default_rng(0).integers(20, 235, (256, 3))
    return [(colors[label].astype(np.uint8), label) for _, label in frames]


FRAMES = build_frames()
COUNTS = np.stack([np.bincount(label.ravel(), minlength=256)[:19] for _, label in FRAMES])


def build_paste(train_ids=(PERSON, RIDER, BICYCLE), share=1.0, temperature=0.01, photometric=False):
    rare = RareClasses(COUNTS, 0.0, temperature, min_pixels=50)
    return ObjectPaste(rare, train_ids, list_movable(CITYSCAPES), share, photometric=photometric)


def build_sample(index, seed, scale="1.0", crop=(60, 80)):
    transforms = build_train_transforms(crop, [scale], photometric=False)
    seed_transforms(transforms, (seed, 0, index))
    image, label = FRAMES[index]
    return transforms(image=image, mask=label)


def paste(paste_, index, seed, scale="1.0", crop=(60, 80)):
    before, sample = (build_sample(index, seed, scale, crop) for _ in range(2))
    found = paste_.paste(sample, (seed, 0, index), index, FRAMES.__getitem__)
    return before, sample, found


def test_find_objects__what_touches_is_one_and_void_is_none_of_it():
    table = np.isin(np.arange(256), [PERSON, RIDER, BICYCLE])
    (one,) = find_objects(*FRAMES[1], table)
    assert (one.counts[RIDER], one.counts[BICYCLE], one.cut) == (80, 108, (False, False))
    assert set(np.unique(one.train_ids)) == {RIDER, BICYCLE, IGNORE_INDEX}
    assert [len(find_objects(*FRAMES[index], table)) for index in (0, 2)] == [0, 1]


def test_paste__labels_go_with_pixels_at_their_height_and_nothing_else_changes():
    one, widths = build_paste([RIDER, BICYCLE]), set()
    for seed in range(40):
        before, sample, found = paste(one, 0, seed)
        changed = before["mask"] != sample["mask"]
        np.testing.assert_array_equal(np.sort(sample["mask"][changed]), np.sort(found))
        assert not changed[before["mask"] == CAR].any()
        assert np.array_equal(before["image"][:, ~changed], sample["image"][:, ~changed])
        for train_id, rows, whole in ((RIDER, (20, 29), 80), (BICYCLE, (31, 39), 108)):
            pasted = changed & (sample["mask"] == train_id)
            inner = cv2.erode(pasted.astype(np.uint8), np.ones((3, 3))) > 0
            color = FRAMES[1][0][rows[0] + 2, 52]
            assert (color == sample["image"][:, inner].T).all()
            if pasted.sum() > whole - 9:  # but for the corners, and not behind the car
                assert (pasted.nonzero()[0].min(), pasted.nonzero()[0].max()) == rows
                widths.add(int(pasted.nonzero()[1].min()))
    assert len(widths) > 15  # anywhere to the side


def test_paste__as_large_as_the_crops_own_frame_and_at_the_border_that_cuts_it():
    one, sides = build_paste([PERSON]), set()
    for seed in range(20):
        _, sample, found = paste(one, 0, seed, "2.0", (120, 160))
        rows, columns = (sample["mask"] == PERSON).nonzero()
        if len(found):
            assert rows.max() - rows.min() + 1 == 2 * 20
            assert rows.min() == 2 * 22
            sides.add((columns.min() <= 2, columns.max() >= 157))
    assert sides == {(True, False), (False, True)}


def test_paste__from_another_frame_by_the_key_alone():
    one = build_paste([PERSON], photometric=True)
    assert all(not len(paste(one, 2, seed)[2]) for seed in range(10))  # its own person isn't pasted
    samples = [paste(one, 0, seed)[1]["image"] for seed in range(10)]
    again = build_paste([PERSON], photometric=True)
    assert all(np.array_equal(paste(again, 0, seed)[1]["image"], samples[seed]) for seed in reversed(range(10)))
    assert len({sample.tobytes() for sample in samples}) == 10


@pytest.mark.parametrize("kept", [0, 3_500, 2**20])
def test_paste__what_a_seed_gave_it_gives_for_good_whatever_is_kept(monkeypatch, kept):
    monkeypatch.setattr(pasting, "_KEPT", kept)
    one, labels = build_paste([PERSON, RIDER, CAR], 0.8, temperature=0.5), hashlib.sha256()
    for seed in range(60):
        _, sample, found = paste(one, seed % 3, seed, "0.5-2.0")
        labels.update(sample["mask"].tobytes() + found.tobytes())
    assert labels.hexdigest()[:16] == "d267109023c7c47d"
    sizes = [cut.image.nbytes + cut.train_ids.nbytes for objects in one._kept.values() for cut in objects]
    assert one._room == kept - sum(sizes) >= 0
    assert len(one._kept) in {0: [0], 3_500: [1, 2]}.get(kept, [3])


def test_paste__as_often_as_its_share():
    one = build_paste([PERSON], share=0.25)
    assert 60 < sum(len(paste(one, 0, seed)[2]) > 0 for seed in range(400)) < 140


def test_choose_pasted__rare_people_and_vehicles_or_those_named():
    rare = RareClasses(COUNTS, 0.0)
    assert choose_pasted(None, rare, CITYSCAPES) == [PERSON, RIDER, BICYCLE]
    assert choose_pasted(["car"], rare, CITYSCAPES) == [CAR]
    plain = LabelSpace("plain", ("a", "b"), ((0, 0, 0), (9, 9, 9)), {0: 0, 1: 1})
    assert choose_pasted(None, RareClasses(np.array([[995, 5]]), 0.0), plain) == [1]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["tram"], "expected `paste_classes` of road, .*, bicycle; found `tram`"),
        (["train"], "expected `paste_classes` with pixels in train; found none of `train`; leave it out"),
    ],
)
def test_choose_pasted__a_class_that_is_not_there(names, said):
    with pytest.raises(ConfigError, match=said):
        choose_pasted(names, RareClasses(COUNTS, 0.0), CITYSCAPES)


def test_choose_pasted__nothing_is_rare():
    plain = LabelSpace("plain", ("a", "b"), ((0, 0, 0), (9, 9, 9)), {0: 0, 1: 1})
    with pytest.raises(ConfigError, match="people and vehicles below 1% of the pixels"):
        choose_pasted(None, RareClasses(np.array([[500, 500]]), 0.0), plain)
