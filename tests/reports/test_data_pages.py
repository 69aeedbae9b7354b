import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_urbanseg.data.preprocessing import TrainDataset
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX
from hf_urbanseg.reports.data_pages import (
    choose_frames,
    describe_cover,
    draw_labels,
    label_legend,
    show_sample,
    stack,
)
from hf_urbanseg.reports.overlays import blend

SPACE = CITYSCAPES.with_train_ids()


def test_choose_frames__by_hand():
    counts = np.array(
        [
            # 0, 1 (rarest), 2, 3 (nowhere)
            [90, 0, 0, 0],
            [90, 1, 9, 0],  # 1 in passing: a twentieth of the most it has
            [0, 20, 0, 0],
            [90, 18, 40, 0],  # shows 1 and 2 well
            [80, 0, 10, 0],
        ]
    )
    frames = choose_frames(counts, 5)
    assert frames[3] == [1, 2, 0]
    assert list(frames) == [3, 0, 1, 2, 4]
    assert frames[0] == []


def test_choose_frames__a_class_in_passing_is_not_shown():
    counts = np.array([[90, 1, 40], [0, 20, 0]])
    assert list(choose_frames(counts, 2).items()) == [(1, [1]), (0, [2, 0])]


def test_choose_frames__takes_the_largest_of_equals():
    counts = np.array([[25, 4], [25, 9], [25, 8]])
    assert list(choose_frames(counts, 1)) == [1]


@pytest.mark.parametrize("seed", range(5))
def test_choose_frames__every_class_in_as_many_frames_as_classes(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 1000, (40, 12)) * (rng.random((40, 12)) < rng.random(12) ** 3)
    counts[:, 7] = 0
    frames = choose_frames(counts, 12)
    assert len(frames) == 12
    assert ((counts[list(frames)].sum(0) > 0) == (counts.sum(0) > 0)).all()
    named = [train_id for found in frames.values() for train_id in found]
    assert sorted(named) == np.flatnonzero(counts.sum(0)).tolist()
    rarest = min(np.flatnonzero(counts.sum(0)), key=lambda c: counts[:, c].sum())
    assert named[0] == rarest


def test_choose_frames__no_more_than_there_are():
    assert list(choose_frames(np.ones((3, 2)), 10)) == [0, 1, 2]
    assert choose_frames(np.zeros((4, 2)), 2) == {0: [], 3: []}


def test_describe_cover__names_what_has_no_room():
    counts = np.zeros((2, 19), int)
    counts[0, 13], counts[1, [0, 17]] = 5, 9
    frames = choose_frames(counts, 1)
    assert frames == {0: [13]}
    assert describe_cover(frames, counts, SPACE) == "no room for road, motorcycle"
    assert describe_cover(choose_frames(counts, 2), counts, SPACE).startswith("every class of the split is shown")


def test_draw_labels__stripes_where_there_is_no_class():
    image = np.full((60, 200, 3), 200, np.uint8)
    train_ids = np.zeros((60, 200), np.uint8)
    train_ids[:, 100:] = IGNORE_INDEX
    drawn = draw_labels(image, train_ids, SPACE)
    np.testing.assert_array_equal(drawn[:, :100], blend(image, train_ids, SPACE, 0.6)[:, :100])
    striped = (drawn[:, 100:] == 40).all(-1)
    assert 0.1 < striped.mean() < 0.5
    assert (drawn[:, 100:][~striped] == 177).all()
    assert (image == 200).all()


def test_show_sample__is_the_crop_itself_and_marks_padding():
    rng = np.random.default_rng(3)
    image, label = rng.integers(0, 256, (40, 64, 3), np.uint8), rng.integers(0, 3, (40, 64)).astype(np.uint8)
    label[:4] = 255
    rows = Dataset.from_list(
        [{"image": Image.fromarray(image), "label": Image.fromarray(label), "name": "a"}],
        Features({"image": ImageFeature(), "label": ImageFeature(), "name": Value("string")}),
    )
    transforms = build_train_transforms((64, 96), ["1.0"], 1.0, 0.0, False)
    picture, labelled = show_sample(TrainDataset(rows, SPACE, transforms, 0)[0, 0], SPACE)
    np.testing.assert_array_equal(picture[:40, :64], image)
    np.testing.assert_array_equal(labelled[4:40, :64], blend(image, label, SPACE, 0.6)[4:])
    for shown in (picture, labelled):
        padding = np.concatenate([shown[40:].reshape(-1, 3), shown[:40, 64:].reshape(-1, 3)])
        assert {tuple(color) for color in padding.tolist()} == {(226, 226, 226), (188, 188, 188)}
    assert (labelled[:4, :64] == 40).all(-1).any()


def test_show_sample__black_and_white_are_no_padding():
    sample = {
        "pixel_values": torch.tensor([[0, 255, 0]] * 3, dtype=torch.uint8)[:, None].contiguous(),
        "labels": torch.tensor([[0, 0, 255]], dtype=torch.uint8),
        "extent": torch.tensor([1, 2]),
    }
    picture, _ = show_sample(sample, SPACE)
    assert picture[0, 0, 0] == 0
    assert picture[0, 1, 0] == 255
    assert tuple(picture[0, 2]) in {(226, 226, 226), (188, 188, 188)}


def test_label_legend__classes_that_occur():
    counts = np.zeros(19)
    counts[[0, 13]] = 4
    assert [name for name, _ in label_legend(SPACE, counts)] == ["road", "car", "no class (ignored)"]
    assert label_legend(SPACE, counts, padding=True)[-1][0] == "padding"
    assert label_legend(SPACE, counts)[1][1] == (0, 0, 142)


def test_stack__white_between():
    one, two = np.zeros((3, 5, 3), np.uint8), np.full((3, 5, 3), 9, np.uint8)
    stacked = stack((one, two), gap=2)
    assert stacked[:, 0, 0].tolist() == [0, 0, 0, 255, 255, 9, 9, 9]


def test_stack__upright_pictures_side_by_side():
    one, two = np.zeros((5, 3, 3), np.uint8), np.full((5, 3, 3), 9, np.uint8)
    assert stack((one, two), gap=2)[0, :, 0].tolist() == [0, 0, 0, 255, 255, 9, 9, 9]
