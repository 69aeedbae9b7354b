import itertools
import math

import loss_cases
import numpy as np
import pytest
import torch

from hf_urbanseg.losses.lovasz import LovaszSoftmaxLoss


def build_case(*options, **more):
    return loss_cases.build_case(*options, **more)[:2]


def jaccard_loss(foreground, wrong) -> float:
    """1 - IoU of a class when just the pixels in `wrong` are predicted wrongly: the set function that is extended."""
    foreground = set(foreground)
    return 1 - len(foreground - wrong) / len(foreground | wrong)


def loop_loss(logits, labels) -> float:
    """The Lovász extension from its definition: jaccard_loss on the growing sets of worst pixels."""
    logits, labels = logits.detach().numpy(), labels.numpy()
    images = []
    for image, label in zip(logits, labels, strict=True):
        pixels = [index for index in np.ndindex(label.shape) if label[index] != 255]
        losses = []
        for wanted in sorted({label[index] for index in pixels}):
            foreground = {index for index in pixels if label[index] == wanted}
            errors = {}
            for row, column in pixels:
                values = image[:, row, column]
                exps = [math.exp(v - values.max()) for v in values]
                prob = exps[wanted] / math.fsum(exps)
                errors[row, column] = 1 - prob if (row, column) in foreground else prob
            wrong, loss = set(), 0.0
            for index in sorted(pixels, key=errors.get, reverse=True):
                before = jaccard_loss(foreground, wrong)
                wrong.add(index)
                loss += errors[index] * (jaccard_loss(foreground, wrong) - before)
            losses.append(loss)
        if losses:
            images.append(sum(losses) / len(losses))
    return sum(images) / len(images)


def test_lovasz__hand_computed():
    # One image, two classes, three pixels of true class 0, 0, 1 with p(class 0) = 3/4, 1/4, 1/4, and a void one.
    logits = torch.tensor([[[3.0, 1.0], [1.0, 9.0]], [[1.0, 3.0], [3.0, 1.0]]]).log().double()[None]
    labels = torch.tensor([[[0, 0], [1, 255]]])
    # Class 0: errors 1/4, 3/4, 1/4. The worst first: one of two lost, 1/2; then in either order up to 1 in all.
    # Class 1: errors 1/4, 3/4, 1/4. Background first: union 2, IoU 1/2, then up to 1 in all.
    expected = 0.75 * 0.5 + 0.25 * 0.5
    assert LovaszSoftmaxLoss(2)(logits, labels).item() == pytest.approx(expected, rel=1e-12)


def test_lovasz__at_certain_predictions_it_is_one_minus_iou():
    # All predictions of a 2 x 2 image with three classes: the extension is exact at the corners of the cube.
    labels = torch.tensor([[[0, 1], [1, 2]]])
    for predicted in itertools.product(range(3), repeat=4):
        guess = torch.tensor(predicted).reshape(1, 2, 2)
        logits = 2e3 * torch.nn.functional.one_hot(guess, 3).permute(0, 3, 1, 2).double()
        ious = [((guess == c) & (labels == c)).sum() / ((guess == c) | (labels == c)).sum().double() for c in range(3)]
        assert LovaszSoftmaxLoss(3)(logits, labels).item() == pytest.approx(1 - sum(ious).item() / 3, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("void", [0.0, 0.3, 0.9])
def test_lovasz__equals_its_definition(seed, void):
    logits, labels = build_case(seed, void=void)
    labels[labels == 3] = 1  # a class that is absent
    labels[1] = 255  # an image without labels
    loss = LovaszSoftmaxLoss(5)(logits, labels)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(loop_loss(logits, labels), rel=1e-12)


@pytest.mark.parametrize("count", [1, 2])
def test_lovasz__one_or_two_labelled_pixels(count):
    logits, labels = build_case(void=0.0)
    labels.flatten(1)[:, count:] = 255
    assert LovaszSoftmaxLoss(5)(logits, labels).item() == pytest.approx(loop_loss(logits, labels), rel=1e-12)


def test_lovasz__single_precision_keeps_its_digits_on_many_pixels():
    # Steps of the Jaccard loss are about 1/pixels; as differences of numbers near 1 they would keep two digits.
    logits, labels = build_case(images=1, classes=3, size=(256, 256), void=0.1)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        own = logits.detach().to(torch.float32).to(dtype).requires_grad_()
        gradients.append(torch.autograd.grad(LovaszSoftmaxLoss(3)(own, labels), own)[0].double())
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-5
