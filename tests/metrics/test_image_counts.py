import json

import numpy as np
import pytest
import torch

from hf_urbanseg.errors import DataError
from hf_urbanseg.metrics.boundary_iou import compute_boundary_counts
from hf_urbanseg.metrics.confusion_matrix import ConfusionMatrix
from hf_urbanseg.metrics.image_counts import ImageCounts, ImageCountsBuilder
from hf_urbanseg.metrics.mean_iou import compute_scores

CLASSES = ("road", "car", "sky")


def build_counts(**changes):
    """Two images: road 3 of 4 and car 1 of 2 right, no sky; then only sky, half of it taken for road."""
    given = {
        "names": ("a", "b"),
        "classes": CLASSES,
        "hits": np.array([[3, 1, 0], [0, 0, 5]]),
        "labelled": np.array([[4, 2, 0], [0, 0, 10]]),
        "predicted": np.array([[4, 2, 0], [5, 0, 5]]),
    }
    return ImageCounts(**given | changes)


def build_random(seed, images=6, with_boundary=True):
    rng = np.random.default_rng(seed)
    builder, matrix = ImageCountsBuilder(CLASSES), ConfusionMatrix(3)
    for index in range(images):
        size = rng.integers(20, 40, 2)
        label = rng.integers(0, 3, size).astype(np.uint8)
        prediction = np.where(rng.random(size) < 0.7, label, rng.integers(0, 3, size)).astype(np.uint8)
        label[rng.random(size) < 0.1] = 255
        counts = matrix.update(torch.from_numpy(prediction), torch.from_numpy(label))
        boundary = compute_boundary_counts(prediction, label, 3) if with_boundary else None
        builder.add(f"{index:03d}", counts, boundary)
    return builder.build(), matrix.matrix


def test_image_counts__scores_hand_computed():
    images = build_counts()
    np.testing.assert_array_equal(images.iou, [[3 / 5, 1 / 3, np.nan], [0, np.nan, 5 / 10]])
    np.testing.assert_allclose(images.mean_iou, [(3 / 5 + 1 / 3) / 2, 0.25], rtol=1e-15)
    np.testing.assert_array_equal(images.overall_accuracy, [4 / 6, 0.5])
    assert len(images) == 2
    assert images.boundary_iou is images.mean_boundary_iou is None


def test_image_counts__an_image_of_void_has_nan_scores():
    zeros = np.zeros((1, 3), int)
    images = build_counts(names=("a",), hits=zeros, labelled=zeros, predicted=zeros)
    assert np.isnan(images.iou).all()
    assert np.isnan(images.mean_iou).all()
    assert np.isnan(images.overall_accuracy).all()


def test_boundary_iou__hand_computed():
    boundary = np.array([[[2, 0, 0], [4, 1, 0], [3, 0, 0]], [[0, 0, 0], [0, 0, 0], [0, 0, 6]]])
    images = build_counts(boundary=boundary)
    np.testing.assert_array_equal(images.boundary_iou, [[2 / 5, 0, np.nan], [np.nan, np.nan, 0]])
    np.testing.assert_array_equal(images.mean_boundary_iou, [0.2, 0])


def test_total__is_the_split_not_the_mean_of_images():
    images, matrix = build_random(0)
    total, scores = images.total(), compute_scores(matrix)
    assert total.names == ("all images",)
    np.testing.assert_allclose(total.iou[0], scores["iou"], rtol=1e-15)
    assert total.mean_iou[0] == pytest.approx(scores["mean_iou"], rel=1e-15)
    assert total.overall_accuracy[0] == scores["overall_accuracy"]
    assert total.mean_iou[0] != pytest.approx(images.mean_iou.mean(), rel=1e-6)
    hits, labelled, predicted = images.boundary.sum(0)
    np.testing.assert_allclose(total.boundary_iou[0], hits / (labelled + predicted - hits), rtol=1e-15)


def test_builder__rows_from_a_matrix():
    builder = ImageCountsBuilder(CLASSES)
    builder.add("first", np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    builder.add("second", torch.tensor([[0, 0, 0], [0, 0, 0], [5, 0, 5]]))
    images = builder.build()
    assert images.names == ("first", "second")
    assert images.hits.tolist() == [[3, 2, 0], [0, 0, 5]]
    assert images.labelled.tolist() == [[4, 2, 0], [0, 0, 10]]
    assert images.predicted.tolist() == [[3, 3, 0], [5, 0, 5]]
    assert images.boundary is None
    assert images.hits.dtype == np.int64


def test_builder__without_images():
    images = ImageCountsBuilder(CLASSES).build()
    assert len(images) == 0
    assert images.iou.shape == (0, 3)


def test_builder__keeps_no_mask_alive():
    # The row must be a copy: a view would keep what it came from.
    builder, counts = ImageCountsBuilder(CLASSES), np.eye(3, dtype=np.int64)
    bands = np.ones((3, 3), np.int64)
    builder.add("a", counts, bands)
    counts[:], bands[:] = 7, 7
    images = builder.build()
    assert images.hits.tolist() == [[1, 1, 1]]
    assert images.boundary.tolist() == [[[1, 1, 1]] * 3]


def test_image_counts__refuses_a_name_twice():
    with pytest.raises(DataError, match="each image once; found a twice"):
        build_counts(names=("a", "a"))


@pytest.mark.parametrize("with_boundary", [True, False])
def test_to_dict__reads_back_through_json(with_boundary):
    images, _ = build_random(1, with_boundary=with_boundary)
    again = ImageCounts.from_dict(json.loads(json.dumps(images.to_dict())))
    assert (again.names, again.classes) == (images.names, images.classes)
    for key in ("hits", "labelled", "predicted", "boundary"):
        np.testing.assert_array_equal(getattr(again, key), getattr(images, key))
    assert (again.boundary is None) is not with_boundary


@pytest.mark.parametrize(
    "description",
    [
        {}, [], None, build_counts().to_dict() | {"hits": [1]}, build_counts().to_dict() | {"boundary": [1]},
        *(build_counts().to_dict() | {"hits": np.full_like(build_counts().hits, n, object).tolist()}
          for n in (-1, 10**9, 10**30)),
    ],
)  # fmt: skip
def test_from_dict__says_what_is_wrong_and_where(description):
    with pytest.raises(
        DataError, match=r"^run/images\.json: expected counts per image as `urbanseg evaluate` writes them"
    ):
        ImageCounts.from_dict(description, "run/images.json")


def test_select_and_concatenate__give_back_the_whole():
    images, _ = build_random(2)
    parts = [images.select([4, 0]), images.select(range(1, 4)), images.select([5])]
    joined = ImageCounts.concatenate(parts)
    assert joined.names == ("004", "000", "001", "002", "003", "005")
    for key in ("hits", "labelled", "predicted", "boundary"):
        np.testing.assert_array_equal(getattr(joined, key), getattr(images, key)[[4, 0, 1, 2, 3, 5]])
