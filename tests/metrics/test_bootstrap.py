import numpy as np
import pytest

from hf_urbanseg.errors import DataError
from hf_urbanseg.metrics import bootstrap
from hf_urbanseg.metrics.bootstrap import Interval, bootstrap_mean_iou, paired_bootstrap
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.metrics.mean_iou import compute_scores


def build_images(seed, images=12, classes=4, right=0.7, rare=0.5):
    """Counts of random images; the last class is in a share `rare` of them."""
    rng = np.random.default_rng(seed)
    matrices = rng.integers(0, 50, (images, classes, classes))
    matrices += np.eye(classes, dtype=int) * rng.integers(0, int(300 * right), (images, 1, classes))
    absent = rng.random(images) >= rare
    matrices[absent, -1], matrices[absent, :, -1] = 0, 0
    return matrices, as_counts(matrices)


def as_counts(matrices, names=None):
    names = tuple(names or (f"{index:03d}" for index in range(len(matrices))))
    classes = tuple("abcdefgh"[: matrices.shape[1]])
    return ImageCounts(names, classes, np.einsum("nii->ni", matrices), matrices.sum(2), matrices.sum(1))


def resample_plainly(matrices, resamples, seed):
    """One image at a time, through the score's own function."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(matrices), (resamples, len(matrices)))
    return np.array([compute_scores(sum(matrices[index] for index in row))["mean_iou"] for row in drawn])


@pytest.mark.parametrize("rare", [1.0, 0.5, 0.1])
def test_bootstrap_mean_iou__equals_a_plain_loop(rare):
    matrices, images = build_images(1, rare=rare)
    interval = bootstrap_mean_iou(images, confidence=0.9, resamples=300, seed=5)
    expected = np.quantile(resample_plainly(matrices, 300, 5), [0.05, 0.95])
    np.testing.assert_allclose([interval.low, interval.high], expected, rtol=1e-12)
    assert interval.estimate == pytest.approx(compute_scores(matrices.sum(0))["mean_iou"], rel=1e-14)
    assert interval.low < interval.estimate < interval.high


def test_bootstrap_mean_iou__pieces_do_not_matter(monkeypatch):
    _, images = build_images(2)
    whole = bootstrap_mean_iou(images, resamples=500, seed=3)
    monkeypatch.setattr(bootstrap, "_PIECE", 12 * 7)
    assert bootstrap_mean_iou(images, resamples=500, seed=3) == whole


def test_bootstrap_mean_iou__same_seed_same_interval():
    _, images = build_images(3)
    first = bootstrap_mean_iou(images, resamples=400, seed=1)
    assert bootstrap_mean_iou(images, resamples=400, seed=1) == first
    assert bootstrap_mean_iou(images, resamples=400, seed=2).low != first.low
    expected = {"low": first.low, "high": first.high, "confidence": 0.95, "resamples": 400, "seed": 1}
    assert first.to_dict() == expected


def test_bootstrap_mean_iou__equal_images_have_no_width():
    matrices = np.repeat(build_images(4, images=1, rare=1.0)[0], 9, 0)
    interval = bootstrap_mean_iou(as_counts(matrices), resamples=100)
    assert interval.low == interval.high == pytest.approx(interval.estimate, rel=1e-14)


def test_bootstrap_mean_iou__width_falls_with_the_root_of_the_images():
    matrices, images = build_images(5, images=20, rare=1.0)
    few = bootstrap_mean_iou(images, resamples=4000)
    many = bootstrap_mean_iou(as_counts(np.tile(matrices, (16, 1, 1))), resamples=1000)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.15)


def test_bootstrap_mean_iou__a_resample_of_void_is_left_out():
    # Of two images one is void: a quarter of the resamples has no pixel at all.
    matrices = np.zeros((2, 2, 2), int)
    matrices[0] = [[3, 1], [0, 4]]
    interval = bootstrap_mean_iou(as_counts(matrices), resamples=200)
    assert interval.low == interval.high == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_bootstrap_mean_iou__needs_two_images_and_labels():
    matrices, images = build_images(7)
    with pytest.raises(DataError, match="two images or more to resample; found 1"):
        bootstrap_mean_iou(images.select([0]))
    with pytest.raises(DataError, match="found only void"):
        bootstrap_mean_iou(as_counts(np.zeros_like(matrices)))


def build_pair(seed, images=15, better=20):
    """Two models on the same labels; b has `better` more pixels of each class right in about each image."""
    rng = np.random.default_rng(seed)
    a = rng.integers(20, 60, (images, 3, 3)) + np.eye(3, dtype=int) * 100
    b = a.copy()
    for image in b:
        for row in range(3):
            moved = min(int(rng.integers(better - 15, better + 16)), int(image[row, row - 1]))
            image[row, row] += moved
            image[row, row - 1] -= moved
    return a, b


def test_paired_bootstrap__equals_a_plain_loop():
    a, b = build_pair(1, better=1)
    result = paired_bootstrap(as_counts(a), as_counts(b), confidence=0.8, resamples=250, seed=9)
    drawn = resample_plainly(b, 250, 9) - resample_plainly(a, 250, 9)
    np.testing.assert_allclose([result.interval.low, result.interval.high], np.quantile(drawn, [0.1, 0.9]), rtol=1e-10)
    difference = compute_scores(b.sum(0))["mean_iou"] - compute_scores(a.sum(0))["mean_iou"]
    assert result.difference == result.interval.estimate == pytest.approx(difference, rel=1e-12)
    assert result.p_value == min(1, 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / 251)
    assert 2 / 251 < result.p_value < 1
    assert type(result.p_value) is float


def test_paired_bootstrap__clear_difference_reaches_the_floor():
    a, b = build_pair(2)
    result = paired_bootstrap(as_counts(a), as_counts(b), resamples=999)
    assert result.p_value == 2 / 1000
    assert 0 < result.interval.low < result.difference < result.interval.high


def test_paired_bootstrap__turned_round_only_the_sign_changes():
    a, b = build_pair(3, better=5)
    there = paired_bootstrap(as_counts(a), as_counts(b), resamples=300)
    back = paired_bootstrap(as_counts(b), as_counts(a), resamples=300)
    assert back.difference == -there.difference
    assert back.p_value == there.p_value
    assert (back.interval.low, back.interval.high) == pytest.approx((-there.interval.high, -there.interval.low))


def test_paired_bootstrap__equal_models():
    a, _ = build_pair(4)
    result = paired_bootstrap(as_counts(a), as_counts(a), resamples=100)
    assert result.p_value == 1.0
    assert result.interval == Interval(0.0, 0.0, 0.0, 0.95, 100, 0)


def test_paired_bootstrap__images_are_matched_by_name():
    a, b = build_pair(5, better=5)
    expected = paired_bootstrap(as_counts(a), as_counts(b), resamples=200)
    shuffled = as_counts(b).select([3, 1, 0, 2, *range(4, 15)])
    assert paired_bootstrap(as_counts(a), shuffled, resamples=200) == expected


def test_paired_bootstrap__says_what_differs():
    a, b = build_pair(6)
    a, full = as_counts(a), as_counts(b)
    with pytest.raises(DataError, match=r"same images in both; found 1 in one only \(014 only in the first\)"):
        paired_bootstrap(a, full.select(range(14)))
    with pytest.raises(DataError, match=r"2 in one only \(013 only in the second\)"):
        paired_bootstrap(a.select(range(13)), full)
    b[7, 0, 1] += 1
    with pytest.raises(DataError, match="same labels in both; found others for 007"):
        paired_bootstrap(a, as_counts(b))
    other = ImageCounts(a.names, ("x", "y", "z"), a.hits, a.labelled, a.predicted)
    with pytest.raises(DataError, match="same classes"):
        paired_bootstrap(a, other)


def test_paired_bootstrap__false_alarms_are_about_as_rare_as_the_level_says():
    # 200 pairs of equally good models: at level 0.05 about 10 alarms; 24 would be beyond four standard deviations.
    alarms = sum(
        paired_bootstrap(*map(as_counts, build_pair(seed, images=30, better=0)), resamples=200).p_value < 0.05
        for seed in range(1000, 1200)
    )
    assert 1 <= alarms < 24


def test_paired_bootstrap__seeds_and_scenes_equal_a_plain_loop():
    """Scenes and seeds drawn with replacement, one at a time, through the score's own function."""
    a, b = ([build_images(seed + 10 * model)[0] for seed in range(3)] for model in range(2))
    for matrices in (*a, *b):
        matrices[...] = matrices if matrices is a[0] else np.where(np.eye(4, dtype=bool), matrices, a[0])
    for model in (a, b):  # the same labels everywhere
        for matrices in model:
            moved = np.minimum(np.einsum("nii->ni", matrices), np.einsum("nii->ni", a[0]))
            rest = a[0].sum(2) - moved
            matrices[...] = 0
            matrices[:, range(4), range(4)] = moved
            matrices[:, range(4), (1, 2, 3, 0)] = rest
    scenes = [["000", "001", "002"], ["005", "007"]]
    units = [[0, 1, 2], [3], [4], [5, 7], [6], [8], [9], [10], [11]]
    random, picks = np.random.default_rng(4), np.random.default_rng((4, 1)).integers(0, 3, (60, 3))
    expected = []
    for drawn, seeds in zip(random.integers(0, len(units), (60, len(units))), picks, strict=True):
        images = [image for unit in drawn for image in units[unit]]
        score = [[compute_scores(model[s][images].sum(0))["mean_iou"] for s in seeds] for model in (a, b)]
        expected.append(np.mean(score[1]) - np.mean(score[0]))
    counts = [[as_counts(matrices) for matrices in model] for model in (a, b)]
    found = paired_bootstrap(*counts, confidence=0.9, resamples=60, seed=4, scenes=scenes)
    np.testing.assert_allclose(
        [found.interval.low, found.interval.high], np.quantile(expected, [0.05, 0.95]), rtol=1e-10
    )
    means = [np.mean([compute_scores(matrices.sum(0))["mean_iou"] for matrices in model]) for model in (a, b)]
    assert found.difference == pytest.approx(means[1] - means[0], rel=1e-12)
    single = bootstrap_mean_iou(counts[0][:1], resamples=60, seed=4)
    assert single == bootstrap_mean_iou(counts[0][0], resamples=60, seed=4)
    with pytest.raises(DataError, match="two scenes or more to resample; found 1"):
        bootstrap_mean_iou(counts[0], scenes=[counts[0][0].names])
