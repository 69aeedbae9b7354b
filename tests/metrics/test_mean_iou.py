import math
import pickle
import sys

import evaluate
import numpy as np
import pytest
import torch

from hf_urbanseg.metrics.mean_iou import MeanIoU, compute_scores

SIZES = [(5, 9), (14, 3), (8, 8), (1, 30)]


def build_images(seed, classes=5, void=0.2, sizes=SIZES):
    rng = np.random.default_rng(seed)
    labels = [rng.integers(0, classes, size).astype(np.uint8) for size in sizes]
    # Mostly right, so that the scores spread over (0, 1).
    predictions = [np.where(rng.random(y.shape) < 0.6, y, rng.integers(0, classes, y.shape)) for y in labels]
    for label in labels:
        label[rng.random(label.shape) < void] = 255
    return [prediction.astype(np.uint8) for prediction in predictions], labels


def test_compute_scores__hand_computed_two_by_two():
    # Class 0: 3 of 4 right, 2 taken from class 1. Class 1: 4 of 6 right, 1 taken from class 0.
    scores = compute_scores(torch.tensor([[3, 1], [2, 4]]))
    assert scores == {
        "mean_iou": pytest.approx((3 / 6 + 4 / 7) / 2, rel=1e-15),
        "mean_accuracy": pytest.approx((3 / 4 + 4 / 6) / 2, rel=1e-15),
        "mean_precision": pytest.approx((3 / 5 + 4 / 5) / 2, rel=1e-15),
        "mean_dice": pytest.approx((6 / 9 + 8 / 11) / 2, rel=1e-15),
        "overall_accuracy": 0.7,
        "frequency_weighted_iou": pytest.approx((4 * 3 / 6 + 6 * 4 / 7) / 10, rel=1e-15),
        "iou": [3 / 6, 4 / 7],
        "accuracy": [3 / 4, 4 / 6],
        "precision": [3 / 5, 4 / 5],
        "dice": [6 / 9, 8 / 11],
        "support": [4, 6],
    }


def test_compute_scores__categories_hand_computed():
    # Groups g = {0, 2} and h = {1}: g has 4 + 3 labelled, 5 + 1 hits within it, 1 taken from h. k occurs nowhere.
    matrix = [[2, 1, 1, 0], [1, 4, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0]]
    scores = compute_scores(np.array(matrix), ("g", "h", "g", "k"))
    assert list(scores["category_iou"]) == ["g", "h", "k"]
    assert scores["category_iou"]["g"] == 6 / 8
    assert scores["category_iou"]["h"] == 4 / 6
    assert math.isnan(scores["category_iou"]["k"])
    assert scores["mean_category_iou"] == pytest.approx((6 / 8 + 4 / 6) / 2, rel=1e-15)
    assert "category_iou" not in compute_scores(np.array(matrix))


def test_compute_scores__categories_of_one_class_each_are_the_classes():
    matrix = np.random.default_rng(0).integers(0, 9, (5, 5))
    scores = compute_scores(matrix, tuple("edcba"))
    np.testing.assert_allclose(list(scores["category_iou"].values()), scores["iou"], rtol=1e-15)
    assert scores["mean_category_iou"] == pytest.approx(scores["mean_iou"], rel=1e-15)


def test_compute_scores__nan_rule():
    # 0: labelled and predicted. 1: labelled, never predicted. 2: predicted, never labelled. 3: neither.
    scores = compute_scores(np.array([[2, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert scores["iou"][:3] == [2 / 4, 0.0, 0.0]
    assert math.isnan(scores["iou"][3])
    assert scores["accuracy"][:2] == [2 / 3, 0.0]
    assert all(math.isnan(value) for value in scores["accuracy"][2:])
    assert scores["precision"][0] == 2 / 3
    assert math.isnan(scores["precision"][1])
    assert scores["precision"][2] == 0
    assert math.isnan(scores["precision"][3])
    assert scores["dice"][:3] == [4 / 6, 0.0, 0.0]
    assert math.isnan(scores["dice"][3])
    assert scores["mean_dice"] == pytest.approx(4 / 6 / 3, rel=1e-15)
    assert scores["mean_precision"] == pytest.approx(1 / 3, rel=1e-15)
    # 3 pixels of class 0, 1 of class 1 with IoU 0; the others have no weight.
    assert scores["frequency_weighted_iou"] == pytest.approx(3 * 0.5 / 4, rel=1e-15)
    assert scores["mean_iou"] == pytest.approx(0.5 / 3, rel=1e-15)
    assert scores["mean_accuracy"] == pytest.approx(1 / 3, rel=1e-15)
    assert scores["overall_accuracy"] == 0.5
    assert scores["support"] == [3, 1, 0, 0]


def test_compute_scores__without_a_labelled_pixel_the_means_are_nan():
    scores = compute_scores(torch.zeros(3, 3, dtype=torch.int64))
    floats = [key for key, value in scores.items() if isinstance(value, float)]
    assert len(floats) == 6
    assert all(math.isnan(scores[key]) for key in floats)
    assert scores["support"] == [0, 0, 0]


def test_compute_scores__counts_beyond_single_precision():
    # 2**24 + 1 hits and one miss; fp32 would say 1.0.
    scores = compute_scores(torch.tensor([[2**24 + 1, 1], [0, 0]]))
    assert scores["iou"][0] == (2**24 + 1) / (2**24 + 2)


def test_compute_scores__perfect():
    scores = compute_scores(np.diag([4, 5]))
    assert (scores["mean_iou"], scores["mean_accuracy"], scores["overall_accuracy"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("seed", range(4))
def test_mean_iou__equals_sklearn(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    predictions, labels = build_images(seed)
    scores = MeanIoU(num_labels=5).compute(predictions=predictions, references=labels)
    prediction, label = (np.concatenate([mask.ravel() for mask in masks]) for masks in (predictions, labels))
    prediction, label = prediction[label != 255], label[label != 255]
    np.testing.assert_allclose(scores["iou"], sklearn.jaccard_score(label, prediction, average=None), rtol=1e-14)
    assert scores["mean_iou"] == pytest.approx(sklearn.jaccard_score(label, prediction, average="macro"), rel=1e-14)
    assert scores["overall_accuracy"] == pytest.approx(np.mean(label == prediction), rel=1e-14)
    precision, recall, dice, support = sklearn.precision_recall_fscore_support(label, prediction)
    for key, expected in (("precision", precision), ("accuracy", recall), ("dice", dice)):
        np.testing.assert_allclose(scores[key], expected, rtol=1e-14)
    assert scores["mean_dice"] == pytest.approx(sklearn.f1_score(label, prediction, average="macro"), rel=1e-14)
    assert scores["support"] == support.tolist()
    weighted = sklearn.jaccard_score(label, prediction, average="weighted")
    assert scores["frequency_weighted_iou"] == pytest.approx(weighted, rel=1e-14)


def test_mean_iou__classes_that_do_not_occur_are_left_out_as_in_sklearn():
    sklearn = pytest.importorskip("sklearn.metrics")
    # jaccard_score takes its classes from the data, so the two absent ones are in neither mean.
    predictions, labels = build_images(5)
    scores = MeanIoU(num_labels=7).compute(predictions=predictions, references=labels)
    label, prediction = (np.concatenate([mask.ravel() for mask in masks]) for masks in (labels, predictions))
    reference = sklearn.jaccard_score(label[label != 255], prediction[label != 255], average="macro")
    assert scores["mean_iou"] == pytest.approx(reference, rel=1e-14)
    assert np.isnan(scores["iou"][5:]).all()


def test_mean_iou__over_the_whole_split_not_the_mean_of_images():
    metric = MeanIoU(num_labels=2)
    metric.add(prediction=np.zeros((1, 2), int), reference=np.zeros((1, 2), int))
    metric.add(prediction=np.zeros((1, 2), int), reference=np.ones((1, 2), int))
    assert metric.compute()["iou"] == [2 / 4, 0.0]


def test_mean_iou__all_ways_to_add_agree():
    predictions, labels = build_images(6)
    metric = MeanIoU(num_labels=5)
    at_once = metric.compute(predictions=predictions, references=labels)
    for prediction, label in zip(predictions, labels, strict=True):
        metric.add(prediction=prediction, reference=label)
    assert metric.compute() == at_once
    metric.add_batch(predictions=predictions[:1], references=labels[:1])
    metric.add_batch(predictions=predictions[1:3], references=labels[1:3])
    assert metric.compute(predictions=predictions[3:], references=labels[3:]) == at_once
    assert not math.isnan(at_once["mean_iou"])


@pytest.mark.parametrize("convert", [np.stack, lambda masks: torch.from_numpy(np.stack(masks)), lambda m: m.tolist()])
def test_mean_iou__arrays_tensors_and_lists(convert):
    predictions, labels = build_images(7, sizes=[(4, 6)] * 3)
    expected = MeanIoU(num_labels=5).compute(predictions=predictions, references=labels)
    given = [convert(np.stack(masks)) for masks in (predictions, labels)]
    assert MeanIoU(num_labels=5).compute(predictions=given[0], references=given[1]) == expected


def test_mean_iou__order_and_batches_do_not_matter():
    predictions, labels = build_images(8)
    metric = MeanIoU(num_labels=5)
    expected = metric.compute(predictions=predictions, references=labels)
    assert metric.compute(predictions=predictions[::-1], references=labels[::-1]) == expected


def test_compute__starts_afresh():
    metric = MeanIoU(num_labels=2)
    metric.add(prediction=[[0]], reference=[[1]])
    assert metric.compute()["mean_iou"] == 0.0
    assert math.isnan(metric.compute()["mean_iou"])
    assert metric.compute(predictions=[[[1]]], references=[[[1]]])["mean_iou"] == 1.0


def test_mean_iou__is_an_evaluate_metric():
    metric = MeanIoU(num_labels=3)
    assert isinstance(metric, evaluate.Metric)
    assert set(metric.features) == {"predictions", "references"}
    assert "intersection over union" in metric.description


def test_mean_iou__label_beyond_the_classes_raises():
    with pytest.raises(ValueError, match=r"found \[19\]"):
        MeanIoU(num_labels=19).add(prediction=[[0]], reference=[[19]])


def test_mean_iou__refuses_logits_and_lists_of_different_length():
    with pytest.raises(ValueError, match="take the argmax first"):
        MeanIoU(num_labels=2).add(prediction=np.zeros((2, 2)), reference=np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="found 1, 2"):
        MeanIoU(num_labels=2).add_batch(predictions=[[[0]]], references=[[[0]], [[0]]])


def reachable_bytes(thing) -> int:
    """Bytes of arrays, tensors and buffers reachable from the metric's own attributes."""
    seen, total, todo = set(), 0, [thing]
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type) or type(item).__name__ == "module":
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            total += item.untyped_storage().nbytes()
        elif isinstance(item, (np.ndarray, bytes, bytearray)):
            total += sys.getsizeof(item)
        elif isinstance(item, dict):
            todo += item.values()
        elif isinstance(item, (list, tuple, set)):
            todo += item
        elif type(item).__module__.startswith("hf_urbanseg"):  # not by gc.get_referents, which misses these in 3.13
            todo += vars(item).values()
    return total


def test_mean_iou__memory_does_not_grow_with_the_images(tmp_path):
    # `evaluate`'s own add_batch keeps every mask: 844 MB after 40 images of 375x1242.
    metric = MeanIoU(num_labels=19, cache_dir=str(tmp_path))
    rng = np.random.default_rng(0)
    sizes = []
    for count in range(200):
        label = rng.integers(0, 19, (20, 30 + count % 7)).astype(np.uint8)
        metric.add_batch(predictions=[label], references=[label])
        sizes.append(reachable_bytes(metric))
    assert sizes[0] == sizes[-1] == 19 * 19 * 8
    assert metric.writer is None
    assert metric.data is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 0]
    assert metric.compute()["overall_accuracy"] == 1.0


def test_compute_scores__result_is_plain_numbers():
    scores = compute_scores(torch.eye(2, dtype=torch.int64))
    assert type(scores["mean_iou"]) is float
    assert {type(value) for key in ("iou", "accuracy", "precision", "dice") for value in scores[key]} == {float}
    assert {type(value) for value in scores["support"]} == {int}
    assert pickle.loads(pickle.dumps(scores)) == scores
