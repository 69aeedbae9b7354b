import numpy as np
import pytest
import torch

from hf_urbanseg.metrics import confusion_matrix
from hf_urbanseg.metrics.confusion_matrix import ConfusionMatrix, count_byte_pairs

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


@pytest.mark.parametrize("stored", [torch.int8, torch.uint16, torch.uint32, torch.uint64])
def test_update__types_torch_can_barely_compare(stored):
    matrix = ConfusionMatrix(19)
    matrix.update(torch.full((3, 4), 18).to(stored), torch.full((3, 4), 17).to(stored))
    assert int(matrix.matrix[17, 18]) == 12
    with pytest.raises(ValueError, match=r"expected predictions of 0\.\.18; found \[100\]"):
        matrix.update(torch.full((3, 4), 100).to(stored), torch.full((3, 4), 17).to(stored))


def count_plainly(prediction, label, classes, ignore_index=255):
    counts = np.zeros((classes, classes), int)
    seen = label != ignore_index
    np.add.at(counts, (label[seen], prediction[seen]), 1)
    return counts


# 1 to 256 copies of the table fit beside 1..255 classes, and a row of bytes ends anywhere within a word of eight.
@pytest.mark.parametrize("classes", [1, 2, 16, 17, 19, 32, 33, 64, 65, 128, 129, 254, 255, 300])
@pytest.mark.parametrize("pixels", [0, 1, 7, 8, 9, 1000, 1003])
def test_update__every_number_of_classes_and_any_number_of_pixels(classes, pixels):
    rng = np.random.default_rng(classes)
    prediction, label = rng.integers(0, classes, (2, pixels))
    label[rng.random(pixels) < 0.2] = 255
    expected = count_plainly(prediction, label, classes)
    kinds = (np.uint8, np.int64) if classes <= 255 else (np.int64,)
    for kind in kinds:
        matrix = ConfusionMatrix(classes)
        returned = matrix.update(torch.from_numpy(prediction.astype(kind)), torch.from_numpy(label.astype(kind)))
        assert matrix.matrix.tolist() == returned.tolist() == expected.tolist()


@pytest.mark.parametrize("ignore_index", [255, -100, 3, 77])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
def test_update__any_ignore_index_even_a_class(kind, ignore_index):
    rng = np.random.default_rng(2)
    prediction, label = rng.integers(0, 6, (2, 40, 50))
    if ignore_index >= 0 or kind != np.uint8:
        label[rng.random(label.shape) < 0.3] = ignore_index
    matrix = ConfusionMatrix(6, ignore_index)
    matrix.update(torch.from_numpy(prediction.astype(kind)), torch.from_numpy(label.astype(kind)))
    assert matrix.matrix.tolist() == count_plainly(prediction, label, 6, ignore_index).tolist()


def test_update__returns_the_counts_of_this_image_alone():
    matrix = ConfusionMatrix(6)
    rows = [matrix.update(prediction, label).clone() for prediction, label in build_images(3)]
    for (prediction, label), row in zip(build_images(3), rows, strict=True):
        assert row.tolist() == count_plainly(prediction.numpy(), label.numpy(), 6).tolist()
    assert matrix.matrix.tolist() == sum(rows).tolist()


def test_update__what_it_returned_stays_when_more_is_added():
    matrix = ConfusionMatrix(2)
    first = matrix.update(torch.tensor([1]), torch.tensor([0]))
    matrix.update(torch.tensor([1]), torch.tensor([0]))
    assert first.tolist() == [[0, 1], [0, 0]]


def test_update__views_and_transposed_masks():
    rng = np.random.default_rng(4)
    prediction, label = (torch.from_numpy(rng.integers(0, 5, (30, 41)).astype(np.uint8)) for _ in range(2))
    matrix = ConfusionMatrix(5)
    counts = matrix.update(prediction.T[::2, 3:], label.T[::2, 3:])
    expected = count_plainly(prediction.numpy().T[::2, 3:], label.numpy().T[::2, 3:], 5)
    assert counts.tolist() == expected.tolist()


def test_count_byte_pairs__pieces_do_not_matter(monkeypatch):
    rng = np.random.default_rng(5)
    label, prediction = rng.integers(0, 256, 1003, np.uint8), rng.integers(0, 19, 1003, np.uint8)
    whole = count_byte_pairs(label, prediction, 19, 19)
    monkeypatch.setattr(confusion_matrix, "_PIECE", 64)
    assert count_byte_pairs(label, prediction, 19, 19).tolist() == whole.tolist()
    assert whole[0].sum() == (label == 255).sum()
    assert whole[1 + 7, 3] == ((label == 7) & (prediction == 3)).sum()
    assert whole.sum() == ((label < 19) | (label == 255)).sum()


def test_count_byte_pairs__more_pixels_than_single_precision_counts():
    # Eight copies of one class hold an eighth each; a ninth of 2**24 + 9 pixels in one float32 would be rounded.
    label = np.zeros(2**24 + 9, np.uint8)
    assert count_byte_pairs(label, label, 200, 200)[1, 0] == 2**24 + 9


def test_update__does_not_change_its_inputs():
    prediction, label = torch.tensor([[0, 1]]), torch.tensor([[255, 1]])
    ConfusionMatrix(2).update(prediction, label)
    assert (prediction.tolist(), label.tolist()) == ([[0, 1]], [[255, 1]])


def test_update__only_void_counts_nothing():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[2, 1]]), torch.tensor([[255, 255]]))
    assert not matrix.matrix.any()


# 256 and 257 are 0 and 1 in their lowest byte.
@pytest.mark.parametrize("wrong", [19, 20, 254, 256, 257, -1, -100])
def test_update__a_label_that_is_no_class_raises_instead_of_being_void(wrong):
    matrix = ConfusionMatrix(19)
    with pytest.raises(ValueError, match=rf"expected labels of 0\.\.18; found \[{wrong}\]"):
        matrix.update(torch.tensor([[0, 1]]), torch.tensor([[0, wrong]]))
    assert not matrix.matrix.any()


@pytest.mark.parametrize("label", [0, 255])
@pytest.mark.parametrize("wrong", [19, 255, 256, -1])
def test_update__a_prediction_that_is_no_class_raises_even_under_void(wrong, label):
    with pytest.raises(ValueError, match=rf"expected predictions of 0\.\.18; found \[{wrong}\]"):
        ConfusionMatrix(19).update(torch.tensor([[wrong]]), torch.tensor([[label]]))


@pytest.mark.parametrize("classes", [16, 19, 32, 64, 128])
def test_update__the_first_value_that_is_no_class(classes):
    # Where the classes fill a power of two, it would fall into the next copy of the table.
    masks = torch.full((2, 8), classes, dtype=torch.uint8), torch.zeros(2, 8, dtype=torch.uint8)
    for kind, pair in (("predictions", masks), ("labels", masks[::-1])):
        with pytest.raises(ValueError, match=rf"expected {kind} of 0\.\.{classes - 1}; found \[{classes}\]"):
            ConfusionMatrix(classes).update(*pair)


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
