import math

import numpy as np
import pytest
import torch
from loss_cases import build_case

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.losses.focal import FocalLoss

NORMALIZERS = ("valid_pixels", "weight_sum")


def loop_loss(logits, labels, weights, normalizer, gamma) -> float:
    logits, labels = logits.detach().numpy(), labels.numpy()
    total = denominator = 0.0
    for image, row, column in np.ndindex(labels.shape):
        if (label := labels[image, row, column]) == 255:
            continue
        values = logits[image, :, row, column]
        exps = [math.exp(v - values.max()) for v in values]
        prob = exps[label] / math.fsum(exps)
        others = math.fsum(e for c, e in enumerate(exps) if c != label) / math.fsum(exps)
        total -= float(weights[label]) * others**gamma * math.log(prob)
        denominator += 1.0 if normalizer == "valid_pixels" else float(weights[label])
    return total / denominator


def test_focal__hand_computed():
    # True-class probabilities 1/2, 3/4 and 1/4; the second and third are of the class that weighs three times as much.
    logits = torch.tensor([[[[0.0, 0.0], [0.0, 7.0]], [[0.0, math.log(3)], [-math.log(3), -7.0]]]])
    labels = torch.tensor([[[0, 1], [1, 255]]])
    expected = (math.log(2) / 4 + 3 * math.log(4 / 3) / 16 + 3 * math.log(4) * 9 / 16) / 3
    assert FocalLoss(2, [1.0, 3.0])(logits, labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_focal__equals_a_plain_loop(gamma, normalizer):
    logits, labels, weights = build_case()
    loss = FocalLoss(5, weights, normalizer, gamma)(logits, labels)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(loop_loss(logits, labels, weights, normalizer, gamma), rel=1e-12)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal__gamma_of_zero_is_cross_entropy(normalizer, dtype):
    logits, labels, weights = build_case(dtype=dtype)
    ours = FocalLoss(5, weights, normalizer, 0)(logits, labels)
    plain = CrossEntropyLoss(5, weights, normalizer)(logits, labels)
    assert torch.equal(ours, plain)
    assert torch.equal(*(torch.autograd.grad(each, logits)[0] for each in (ours, plain)))
    nearly = FocalLoss(5, weights, normalizer, 1e-9)(logits, labels)
    assert nearly.item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal__certain_pixels_have_no_loss_and_a_finite_gradient(gamma, dtype):
    # Right beyond rounding (p = 1), right to 1 - p = e^-12, wrong beyond underflow.
    logits = torch.tensor([[[[1e3, 12.0, -1e3]], [[0.0, 0.0, 0.0]]]], dtype=dtype, requires_grad=True)
    value = FocalLoss(2, gamma=gamma)(logits, torch.zeros(1, 1, 3, dtype=torch.int64))
    value.backward()
    other = 1 / (1 + math.exp(12))
    assert value.item() == pytest.approx((1e3 - other**gamma * math.log1p(-other)) / 3, rel=1e-6)
    # d/dz of (1-p)^g (-log p) is -(1-p)^g ((1-p) - g p log p).
    slope = -(other**gamma) * (other - gamma * (1 - other) * math.log1p(-other)) / 3
    # log_softmax takes the logarithm of 1 + e^-12, of which single precision has two digits behind the 1.
    rel = 0.03 if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(logits.grad[0, 0, 0], [0.0, slope, -1 / 3], rtol=rel, atol=1e-30)


def test_focal__keeps_the_digits_of_a_small_cross_entropy():
    """1 - p of -log p = 1e-10 is 1e-10; subtracted in single precision it would be 0."""
    loss, slope = FocalLoss(2, gamma=1.0)._fade(torch.tensor([1e-10]), torch.tensor([1.0]))
    assert loss.item() == pytest.approx(1e-20, rel=1e-6)
    assert slope.item() == pytest.approx(2e-10, rel=1e-6)


@pytest.mark.parametrize("gamma", [-1.0, math.nan, math.inf])
def test_focal__refuses_a_gamma(gamma):
    with pytest.raises(ConfigError, match=f"expected `gamma` of 0 or more; found {gamma}"):
        FocalLoss(5, gamma=gamma)
