import math

import cv2
import numpy as np
import pytest

from hf_urbanseg.metrics.boundary_iou import compute_boundary_counts


def find_band(mask, width):
    """The authors' definition, per class: the mask minus its erosion, beyond the edge counting as outside."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (eroded == 0)


def find_band_by_hand(mask, width):
    """The same without OpenCV: a pixel stays inside if every pixel of its square is in the mask and in the image."""
    padded = np.pad(mask, width)
    squares = np.lib.stride_tricks.sliding_window_view(padded, (2 * width + 1, 2 * width + 1))
    return mask & ~squares.all((2, 3))


def compute_reference(prediction, label, classes, ratio=0.02, band=find_band):
    prediction = np.where(label == 255, 255, prediction)
    width = max(1, round(ratio * math.hypot(*label.shape)))
    counts = []
    for train_id in range(classes):
        in_label, in_prediction = band(label == train_id, width), band(prediction == train_id, width)
        counts.append([(in_label & in_prediction).sum(), in_label.sum(), in_prediction.sum()])
    return np.array(counts).T


def build_blocks(rng, height, width, classes):
    """A map of rectangles, as large as the image down to single pixels."""
    cells = rng.integers(0, classes, rng.integers(1, 7, 2)).astype(np.uint8)
    return cv2.resize(cells, (int(width), int(height)), interpolation=cv2.INTER_NEAREST)


def test_compute_boundary_counts__hand_computed():
    # 7x7, width 1: the band of class 0 is the image's edge (24 pixels) and the ring around class 1 (8 pixels, one of
    # which the prediction calls 1); class 1 is one pixel, all band. Predicted, class 1 is 1x2.
    label, prediction = np.zeros((7, 7), int), np.zeros((7, 7), int)
    label[3, 3] = 1
    prediction[3, 3:5] = 1
    # Predicted band of class 0: the edge and what touches the 1x2 but is inside: 3x4 - 2 = 10.
    assert compute_boundary_counts(prediction, label, 2).tolist() == [[24 + 7, 1], [24 + 8, 1], [24 + 10, 2]]


@pytest.mark.parametrize("band", [find_band, find_band_by_hand])
@pytest.mark.parametrize("seed", range(12))
def test_compute_boundary_counts__equals_one_erosion_per_class(seed, band):
    rng = np.random.default_rng(seed)
    for _ in range(8):
        (height, width), classes = rng.integers(1, 60, 2), int(rng.integers(1, 20))
        ratio = float(rng.choice([0.001, 0.02, 0.06, 0.3]))
        label = build_blocks(rng, height, width, classes)
        prediction = np.roll(label, rng.integers(0, 4, 2), (0, 1))
        noisy = rng.random(label.shape) < rng.choice([0, 0.01, 0.3])
        prediction = np.where(noisy, rng.integers(0, classes, label.shape), prediction)
        label[rng.random(label.shape) < rng.choice([0, 0.01, 0.3])] = 255
        counts = compute_boundary_counts(prediction, label, classes, dilation_ratio=ratio)
        assert counts.tolist() == compute_reference(prediction, label, classes, ratio, band).tolist()


def test_compute_boundary_counts__street_sized_with_many_classes():
    rng = np.random.default_rng(3)
    label = np.kron(rng.integers(0, 19, (6, 18)), np.ones((63, 70), int))[:375, :1242]
    prediction = np.roll(label, (2, 5), (0, 1))
    label[200:260, 300:420] = 255
    counts = compute_boundary_counts(prediction, label, 19)
    assert counts.tolist() == compute_reference(prediction, label, 19).tolist()


def test_compute_boundary_counts__equal_masks_have_boundary_iou_one():
    label = build_blocks(np.random.default_rng(1), 80, 120, 5)
    hits, labelled, predicted = compute_boundary_counts(label, label, 5)
    assert hits.tolist() == labelled.tolist() == predicted.tolist()
    assert 0 < hits.sum() < label.size


def test_compute_boundary_counts__void_is_counted_nowhere_whatever_was_predicted():
    label = build_blocks(np.random.default_rng(4), 50, 70, 4)
    label[10:30, 20:40] = 255
    prediction = np.where(label == 255, 0, label)
    counts = compute_boundary_counts(prediction, label, 4)
    assert counts[0].tolist() == counts[1].tolist() == counts[2].tolist()
    prediction[label == 255] = 3
    assert compute_boundary_counts(prediction, label, 4).tolist() == counts.tolist()
    assert not compute_boundary_counts(prediction, np.full_like(label, 255), 4).any()


def test_compute_boundary_counts__other_types():
    label = build_blocks(np.random.default_rng(5), 40, 50, 6)
    prediction = np.roll(label, 2, 1)
    label[5:9] = 255
    expected = compute_boundary_counts(prediction.astype(np.uint8), label.astype(np.uint8), 6).tolist()
    assert compute_boundary_counts(prediction.astype(np.int16), label.astype(np.int64), 6).tolist() == expected


def test_compute_boundary_counts__does_not_change_its_inputs():
    label, prediction = np.array([[255, 1, 1]], np.uint8), np.array([[0, 0, 1]], np.uint8)
    compute_boundary_counts(prediction, label, 2)
    assert (label.tolist(), prediction.tolist()) == ([[255, 1, 1]], [[0, 0, 1]])
