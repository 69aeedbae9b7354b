import numpy as np
import pytest
import torch

from hf_urbanseg.metrics.confusion_matrix import ConfusionMatrix

SIZES = [(1, 1), (7, 5), (12, 31), (40, 3), (33, 33)]


def build_images(seed, classes=6, void=0.2, kinds=None):
    """Ragged (prediction, label) pairs; `kinds` restricts which classes occur at all."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(classes) if kinds is None else np.asarray(kinds)
    images = []
    for size in SIZES:
        prediction, label = rng.choice(kinds, size), rng.choice(kinds, size)
        label[rng.random(size) < void] = 255
        images.append((torch.from_numpy(prediction), torch.from_numpy(label)))
    return images


def test_update__hand_computed_two_by_two():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 0], [1, 255]]))
    assert matrix.matrix.tolist() == [[1, 1], [0, 1]]  # row = label, column = prediction
    assert matrix.matrix.dtype == torch.int64
    matrix.update(torch.tensor([[0, 1]]), torch.tensor([[1, 1]]))
    assert matrix.matrix.tolist() == [[1, 1], [1, 2]]


@pytest.mark.parametrize("kinds", [None, [1, 4], [3]])
@pytest.mark.parametrize("void", [0.0, 0.2, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_update__equals_sklearn_to_the_pixel(seed, void, kinds):
    sklearn = pytest.importorskip("sklearn.metrics")
    images = build_images(seed, void=void, kinds=kinds)
    matrix = ConfusionMatrix(6)
    for prediction, label in images:
        matrix.update(prediction, label)
    predictions, labels = (np.concatenate([image[k].numpy().ravel() for image in images]) for k in (0, 1))
    seen = labels != 255
    expected = sklearn.confusion_matrix(labels[seen], predictions[seen], labels=np.arange(6))
    assert np.abs(matrix.matrix.numpy() - expected).sum() == 0


@pytest.mark.parametrize("predicted", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("labelled", [torch.uint8, torch.int16, torch.int64])
def test_update__any_integer_types(predicted, labelled):
    # 18 * 19 + 18 does not fit into 8 bits.
    matrix = ConfusionMatrix(19)
    matrix.update(torch.full((3, 4), 18, dtype=predicted), torch.full((3, 4), 18, dtype=labelled))
    assert int(matrix.matrix[18, 18]) == 12
    assert int(matrix.matrix.sum()) == 12


def test_update__does_not_change_its_inputs():
    prediction, label = torch.tensor([[0, 1]]), torch.tensor([[255, 1]])
    ConfusionMatrix(2).update(prediction, label)
    assert (prediction.tolist(), label.tolist()) == ([[0, 1]], [[255, 1]])


def test_update__only_void_counts_nothing():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[2, 1]]), torch.tensor([[255, 255]]))
    assert not matrix.matrix.any()


@pytest.mark.parametrize("wrong", [19, 20, 254, -1, -100])
def test_update__a_label_that_is_no_class_raises_instead_of_being_void(wrong):
    matrix = ConfusionMatrix(19)
    with pytest.raises(ValueError, match=rf"expected labels of 0\.\.18; found \[{wrong}\]"):
        matrix.update(torch.tensor([[0, 1]]), torch.tensor([[0, wrong]]))
    assert not matrix.matrix.any()


@pytest.mark.parametrize("label", [0, 255])
@pytest.mark.parametrize("wrong", [19, 255, -1])
def test_update__a_prediction_that_is_no_class_raises_even_under_void(wrong, label):
    with pytest.raises(ValueError, match=rf"expected predictions of 0\.\.18; found \[{wrong}\]"):
        ConfusionMatrix(19).update(torch.tensor([[wrong]]), torch.tensor([[label]]))


def test_update__shapes_must_agree():
    # (4, 6) and (6, 4) have the same number of pixels.
    with pytest.raises(ValueError, match=r"found \(4, 6\) and \(6, 4\)"):
        ConfusionMatrix(2).update(torch.zeros(4, 6, dtype=torch.int64), torch.zeros(6, 4, dtype=torch.int64))


def test_update__another_ignore_index():
    matrix = ConfusionMatrix(2, ignore_index=-100)
    matrix.update(torch.tensor([0, 1, 1]), torch.tensor([0, -100, 1]))
    assert matrix.matrix.tolist() == [[1, 0], [0, 1]]


def test_reset__starts_afresh():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([1]), torch.tensor([0]))
    matrix.reset()
    assert matrix.matrix.tolist() == [[0, 0], [0, 0]]


def test_all_reduce__without_processes_changes_nothing():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([1]), torch.tensor([0]))
    matrix.all_reduce()
    assert matrix.matrix.tolist() == [[0, 1], [0, 0]]
