from dataclasses import replace

import numpy as np
import pytest

from hf_urbanseg.errors import DataError
from hf_urbanseg.inference.plan import PLAIN
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.reports.comparison import compare_runs
from hf_urbanseg.runs.measured import MeasuredRun


def count_drawn(seed, right):
    """Six images of four of the 19 classes, each pixel found with the probability `right`."""
    labels = np.random.default_rng(0).integers(0, 4, (6, 600))
    rng = np.random.default_rng(seed)
    predictions = np.where(rng.random(labels.shape) < right, labels, rng.integers(0, 4, labels.shape))
    one_hot = np.eye(19, dtype=np.int64)
    labelled, predicted = one_hot[labels], one_hot[predictions]
    names = tuple(f"frame{i}" for i in range(6))
    return ImageCounts(names, CITYSCAPES.names, (labelled * predicted).sum(1), labelled.sum(1), predicted.sum(1))


def make_run(tmp_path, name, counts):
    return MeasuredRun(name, tmp_path / name, counts, "single scale", "kitti", PLAIN, 1000, 10**9)


def test_compare_runs__order_of_images_does_not_matter(tmp_path):
    first, second = (make_run(tmp_path, str(seed), count_drawn(seed, right)) for seed, right in ((1, 0.5), (2, 0.7)))
    shuffled = replace(second, counts=second.counts.select([3, 0, 5, 1, 4, 2]))
    (plain,), (turned,) = (compare_runs([first, run], "test").changes for run in (second, shuffled))
    np.testing.assert_array_equal(turned.images, plain.images)
    np.testing.assert_array_equal(turned.images, second.counts.mean_iou - first.counts.mean_iou)
    np.testing.assert_array_equal(turned.iou[:4], (second.iou - first.iou)[:4])
    assert turned.bootstrap == plain.bootstrap
    assert plain.bootstrap.difference == pytest.approx(second.mean_iou - first.mean_iou, abs=1e-15)
    assert plain.bootstrap.difference > 0.1
    assert plain.bootstrap.p_value < 0.01


def test_compare_runs__equal_runs_have_no_difference(tmp_path):
    counts = count_drawn(1, 0.6)
    comparison = compare_runs([make_run(tmp_path, name, counts) for name in "ab"], "test")
    (change,) = comparison.changes
    assert change.bootstrap.difference == 0
    assert change.bootstrap.p_value == 1
    assert change.most_changed(3, True) == change.most_changed(3, False) == []
    assert comparison.intervals[0].low < comparison.runs[0].mean_iou < comparison.intervals[0].high


def test_compare_runs__refuses_what_cannot_be_compared(tmp_path):
    counts = count_drawn(1, 0.6)
    first = make_run(tmp_path, "first", counts)
    other_classes = ImageCounts(
        counts.names, ("street", *counts.classes[1:]), counts.hits, counts.labelled, counts.predicted
    )
    renamed = ImageCounts(("x", *counts.names[1:]), counts.classes, counts.hits, counts.labelled, counts.predicted)
    labelled = counts.labelled.copy()
    labelled[[2, 4], 0] += 1
    relabelled = ImageCounts(counts.names, counts.classes, counts.hits, labelled, counts.predicted)
    for changed, message in (
        (other_classes, "expected the 19 classes of {}; found 1 missing (road) and 1 others (street); measure both"),
        (renamed, "expected the 6 images of {}; found 1 missing (frame0) and 1 others (x); measure both"),
        (counts.select(range(4)), "expected the 6 images of {}; found 2 missing (frame4, ...); measure both"),
        (relabelled, "expected the labels of {}; found others in 2 of 6 images, first frame2; measure both"),
    ):
        with pytest.raises(DataError) as caught:
            compare_runs([first, make_run(tmp_path, "second", changed)], "test")
        assert str(caught.value).startswith(f"{tmp_path / 'second'}: {message.format(tmp_path / 'first')}")


def test_change__most_changed_images_by_hand(tmp_path):
    """Two classes; per image, hits of 10 labelled pixels of class 0 with no false ones: its IoU is hits / 10."""

    def build(hits):
        wide = np.zeros((len(hits), 2), np.int64)
        wide[:, 0] = hits
        labelled = np.zeros_like(wide)
        labelled[:, 0] = [10] * (len(hits) - 1) + [0]
        return ImageCounts(tuple("abcde"[: len(hits)]), ("x", "y"), wide, labelled, wide.copy())

    before, after = build([5, 5, 5, 5, 0]), build([6, 9, 2, 5, 0])  # the last one has no labelled pixel
    (change,) = compare_runs([make_run(tmp_path, "a", before), make_run(tmp_path, "b", after)], "test").changes
    np.testing.assert_allclose(change.images, [0.1, 0.4, -0.3, 0, np.nan], atol=1e-12)
    assert change.most_changed(5, True) == [1, 0]
    assert change.most_changed(1, True) == [1]
    assert change.most_changed(5, False) == [2]
