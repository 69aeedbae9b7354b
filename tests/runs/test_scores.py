import json

import numpy as np
import pytest
import torch

from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.metrics.bootstrap import bootstrap_mean_iou
from hf_urbanseg.metrics.image_counts import ImageCountsBuilder
from hf_urbanseg.runs.scores import describe_scores

SPACE = LabelSpace("three", ("road", "car", "sky"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)), {0: 0, 1: 1, 2: 2})
# Row = label: 6 road (4 right), 4 car (3 right), no sky anywhere.
MATRIX = [[4, 2, 0], [1, 3, 0], [0, 0, 0]]


def build_images(with_boundary=False):
    """Two images whose counts add up to MATRIX."""
    builder = ImageCountsBuilder(SPACE.names)
    bands = [np.array([[1, 0, 0], [3, 1, 0], [2, 1, 0]]), np.array([[1, 2, 0], [1, 2, 0], [2, 3, 0]])]
    matrices = [[3, 0, 0], [1, 1, 0], [0, 0, 0]], [[1, 2, 0], [0, 2, 0], [0, 0, 0]]
    for name, matrix, band in zip("ab", matrices, bands, strict=True):
        builder.add(name, np.array(matrix), band if with_boundary else None)
    return builder.build()


@pytest.mark.parametrize("convert", [np.array, torch.tensor])
def test_describe_scores__hand_computed(convert):
    scores = describe_scores(convert(MATRIX), SPACE, constant_class=0)
    assert scores == {
        "mean_iou": pytest.approx((4 / 7 + 3 / 6) / 2),
        "mean_accuracy": pytest.approx((4 / 6 + 3 / 4) / 2),
        "mean_precision": pytest.approx((4 / 5 + 3 / 5) / 2),
        "mean_dice": pytest.approx((8 / 11 + 6 / 9) / 2),
        "overall_accuracy": 0.7,
        "frequency_weighted_iou": pytest.approx(0.6 * 4 / 7 + 0.4 * 3 / 6),
        "iou": {"road": pytest.approx(4 / 7), "car": 0.5, "sky": None},
        "accuracy": {"road": pytest.approx(4 / 6), "car": 0.75, "sky": None},
        "precision": {"road": 0.8, "car": 0.6, "sky": None},
        "dice": {"road": pytest.approx(8 / 11), "car": pytest.approx(6 / 9), "sky": None},
        "support": {"road": 6, "car": 4, "sky": 0},
        "absent_classes": ["sky"],
        # Everything called road: 6 of 10 right, IoU 0.6 and 0.
        "constant_guess": {"class": "road", "mean_iou": 0.3, "mean_accuracy": 0.5, "overall_accuracy": 0.6},
        "confusion_matrix": MATRIX,
    }


def test_describe_scores__categories_of_the_label_space():
    space = LabelSpace(SPACE.name, SPACE.names, SPACE.colors, SPACE.label_ids, ("flat", "flat", "sky"))
    scores = describe_scores(np.array(MATRIX), space, constant_class=0)
    assert scores["category_iou"] == {"flat": 1.0, "sky": None}
    assert scores["mean_category_iou"] == 1.0


def test_describe_scores__images_add_interval_and_boundary_iou():
    images = build_images(with_boundary=True)
    scores = describe_scores(np.array(MATRIX), SPACE, constant_class=0, images=images)
    # Bands add up to hits 2 2 0, labelled 4 3 0, predicted 4 4 0.
    assert scores["boundary_iou"] == {"road": pytest.approx(2 / 6), "car": pytest.approx(2 / 5), "sky": None}
    assert scores["mean_boundary_iou"] == pytest.approx((2 / 6 + 2 / 5) / 2)
    assert scores["confidence_interval"] == bootstrap_mean_iou(images).to_dict()
    assert set(scores["confidence_interval"]) == {"low", "high", "confidence", "resamples", "seed"}
    assert scores["confidence_interval"]["low"] <= scores["mean_iou"] <= scores["confidence_interval"]["high"]
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_describe_scores__without_boundary_or_with_one_image():
    scores = describe_scores(np.array(MATRIX), SPACE, constant_class=0, images=build_images())
    assert "boundary_iou" not in scores
    one = build_images().total()
    assert describe_scores(np.array(MATRIX), SPACE, constant_class=0, images=one)["confidence_interval"] is None


def test_describe_scores__is_json_even_without_a_labelled_pixel():
    images = ImageCountsBuilder(SPACE.names)
    for name in "ab":
        images.add(name, np.zeros((3, 3), int), np.zeros((3, 3), int))
    scores = describe_scores(np.zeros((3, 3), int), SPACE, constant_class=1, images=images.build())
    assert scores["confidence_interval"] is scores["mean_boundary_iou"] is None
    assert scores["mean_iou"] is None
    assert scores["absent_classes"] == ["road", "car", "sky"]
    assert scores["constant_guess"]["mean_iou"] is None
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_describe_scores__constant_guess_of_a_class_that_is_not_labelled():
    guess = describe_scores(np.array(MATRIX), SPACE, constant_class=2)["constant_guess"]
    assert guess == {"class": "sky", "mean_iou": 0.0, "mean_accuracy": 0.0, "overall_accuracy": 0.0}
