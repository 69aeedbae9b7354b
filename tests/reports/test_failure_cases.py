import numpy as np

from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.reports.failure_cases import (
    choose_card_failures,
    choose_failure_cases,
    describe_rule,
    find_confusions,
)

SPACE = LabelSpace("three", ("road", "bus", "person"), ((128, 64, 128), (0, 60, 100), (220, 20, 60)), {})


def _counts(*rows, classes=SPACE.names):
    """Images from rows of (hits, labelled, predicted) per class."""
    counts = np.array(rows, np.int64)
    names = tuple(f"frame {index}" for index in range(len(counts)))
    return ImageCounts(names, tuple(classes), counts[..., 0], counts[..., 1], counts[..., 2])


def test_choose_failure_cases__worst_mean_iou_first():
    images = _counts(
        [(900, 1000, 1000), (0, 0, 0), (0, 0, 0)],  # 900 / 1100
        [(100, 1000, 1000), (0, 0, 0), (0, 0, 0)],  # 100 / 1900
        [(500, 1000, 1000), (0, 0, 0), (0, 0, 0)],  # 500 / 1500
    )
    chosen = choose_failure_cases(images, overall=2, per_class=0)
    assert list(chosen) == [1, 2]
    assert list(chosen.values()) == [["lowest mIoU of 3 images"], ["2nd lowest mIoU of 3 images"]]


def test_choose_failure_cases__all_reasons_of_one_image():
    images = _counts([(200, 1000, 900), (100, 200, 100), (0, 0, 200)], [(1000, 1000, 1000), (200, 200, 200), (0, 0, 0)])
    assert choose_failure_cases(images, overall=1) == {
        0: [
            "lowest mIoU of 2 images",
            "worst for road: IoU 11.8 %, 800 pixels missed, 700 claimed falsely",
            "worst for bus: IoU 50.0 %, 100 pixels missed, 0 claimed falsely",
            "worst for person: IoU 0.0 %, 0 pixels missed, 200 claimed falsely",
        ]
    }


def test_choose_failure_cases__neither_three_pixels_nor_a_rim():
    images = _counts(
        [(9_000, 9_000, 9_003), (0, 3, 0), (0, 0, 0)],  # three missed pixels of a bus: IoU 0
        [(2_000, 2_100, 2_600), (9_400, 10_000, 9_500), (0, 0, 0)],  # a large bus found, its rim not: 700 pixels, 0.93
        [(8_000, 8_000, 8_500), (0, 500, 0), (0, 0, 0)],  # a small bus, missed altogether: 500 pixels
    )
    chosen = choose_failure_cases(images, overall=0)
    assert [index for index, why in chosen.items() if any("for bus" in reason for reason in why)] == [2]


def test_choose_failure_cases__a_handful_of_pixels_is_no_failure():
    few = [(99_990, 99_990, 99_999), (0, 9, 0), (0, 0, 0)]
    assert choose_failure_cases(_counts(few), overall=0) == {}
    enough = [(99_980, 99_980, 100_000), (0, 20, 0), (0, 0, 0)]
    (reasons,) = choose_failure_cases(_counts(enough), overall=0).values()
    assert [reason.split(":")[0] for reason in reasons] == ["worst for road", "worst for bus"]


def test_choose_failure_cases__several_per_class_in_order_of_their_weight():
    images = _counts(*([(1000, 1000, 1000 + missed), (0, missed, 0), (0, 0, 0)] for missed in (50, 200, 100)))
    chosen = choose_failure_cases(images, overall=0, per_class=2)
    assert list(chosen) == [1, 2]
    assert chosen[2][-1] == "2nd worst for bus: IoU 0.0 %, 100 pixels missed, 0 claimed falsely"


def test_choose_failure_cases__unlabelled_images_and_perfect_ones():
    void, perfect = [(0, 0, 0)] * 3, [(100, 100, 100), (0, 0, 0), (0, 0, 0)]
    assert choose_failure_cases(_counts(void)) == {}
    assert choose_failure_cases(_counts(void, perfect)) == {1: ["lowest mIoU of 1 image"]}


def test_choose_failure_cases__equal_images_in_their_order():
    images = _counts(*[[(50, 100, 100), (0, 0, 0), (0, 0, 0)]] * 30)
    assert list(choose_failure_cases(images, overall=4)) == [0, 1, 2, 3]
    reasons = [why[0].split()[0] for why in choose_failure_cases(images, overall=23, per_class=0).values()]
    assert [reasons[i] for i in (0, 1, 2, 3, 10, 11, 12, 20, 21, 22)] == [
        "lowest", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd",
    ]  # fmt: skip


def test_choose_card_failures__three_of_lowest_miou_then_classes_eight_at_most():
    classes = [f"class {index}" for index in range(9)]
    rows = np.zeros((12, 9, 3), np.int64)
    for index in range(3):  # road of images 0 to 2: IoU 0.3, 0.1, 0.2
        rows[index, 0] = [(300, 100, 200)[index], 1000, (300, 100, 200)[index]]
    for index in range(9):  # image 3 + i is the worst for class i, with an IoU of at least 0.4
        rows[3 + index, index] = [400 + index, 1000, 400 + index]
    images = _counts(*rows.tolist(), classes=classes)
    # Image 1 is the worst for class 0, too, so image 3 is none; 4 to 8 are the worst for classes 1 to 5.
    assert list(choose_card_failures(images)) == [1, 2, 0, 4, 5, 6, 7, 8]
    assert choose_card_failures(images.select([3, 4]))[0][0] == "lowest mIoU of 2 images"


def test_describe_rule__names_the_numbers():
    assert "The 8 images of lowest mIoU. For every class the image with" in describe_rule(8, 1)
    assert describe_rule(1, 0).startswith("The 1 image of lowest mIoU. An image")
    assert describe_rule(0, 3).startswith("For every class the 3 images with")


def test_find_confusions__largest_first_without_the_diagonal():
    matrix = np.array([[900, 30, 70], [5, 0, 15], [0, 0, 0]])
    assert find_confusions(matrix, 3) == [
        (0, 2, 70, 0.07), (0, 1, 30, 0.03), (1, 2, 15, 0.75),
    ]  # fmt: skip
    assert len(find_confusions(matrix, 100)) == 4
    assert find_confusions(np.diag([3, 4, 0]), 5) == []
