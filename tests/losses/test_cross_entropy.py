import math

import numpy as np
import pytest
import torch
from loss_cases import build_case
from torch import nn

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss

NORMALIZERS = ("valid_pixels", "weight_sum")


def loop_loss(logits, labels, weights, normalizer) -> float:
    """Cross-entropy pixel by pixel, in plain fp64."""
    logits, labels, weights = logits.detach().numpy(), labels.numpy(), np.asarray(weights)
    total = denominator = 0.0
    for image, row, column in np.ndindex(labels.shape):
        label = labels[image, row, column]
        if label == 255:
            continue
        values = logits[image, :, row, column]
        log_sum = values.max() + math.log(sum(math.exp(v - values.max()) for v in values))
        total += weights[label] * (log_sum - values[label])
        denominator += 1.0 if normalizer == "valid_pixels" else weights[label]
    return total / denominator


@pytest.mark.parametrize(("normalizer", "denominator"), [("valid_pixels", 3.0), ("weight_sum", 1.0 + 3.0 + 3.0)])
def test_cross_entropy__hand_computed_two_by_two(normalizer, denominator):
    # Two classes; probabilities of the true class 1/2, 3/4 and 1/4; one pixel void. Class 1 weighs three times as much.
    logits = torch.tensor([[[[0.0, 0.0], [0.0, 7.0]], [[0.0, math.log(3)], [-math.log(3), -7.0]]]])
    labels = torch.tensor([[[0, 1], [1, 255]]])
    loss = CrossEntropyLoss(2, [1.0, 3.0], normalizer)
    expected = (math.log(2) + 3 * math.log(4 / 3) + 3 * math.log(4)) / denominator
    assert float(loss(logits, labels)) == pytest.approx(expected, rel=1e-6)
    assert float(loss.compute_normalizer(labels)) == denominator


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_cross_entropy__equals_a_plain_loop(seed, normalizer):
    logits, labels, weights = build_case(seed)
    loss = CrossEntropyLoss(5, weights, normalizer)(logits, labels)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(loop_loss(logits, labels, weights, normalizer), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_cross_entropy__weight_sum_is_torchs_own_mean(seed):
    logits, labels, weights = build_case(seed)
    (ours,) = torch.autograd.grad(CrossEntropyLoss(5, weights, "weight_sum")(logits, labels), logits)
    reference = nn.CrossEntropyLoss(weights, ignore_index=255)(logits, labels)
    (theirs,) = torch.autograd.grad(reference, logits)
    assert CrossEntropyLoss(5, weights, "weight_sum")(logits, labels).item() == pytest.approx(
        reference.item(), rel=1e-12
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_cross_entropy__valid_pixels_is_torchs_sum_over_labelled_pixels(seed):
    logits, labels, weights = build_case(seed)
    (ours,) = torch.autograd.grad(CrossEntropyLoss(5, weights, "valid_pixels")(logits, labels), logits)
    reference = nn.CrossEntropyLoss(weights, ignore_index=255, reduction="sum")(logits, labels) / (labels != 255).sum()
    (theirs,) = torch.autograd.grad(reference, logits)
    assert CrossEntropyLoss(5, weights)(logits, labels).item() == pytest.approx(reference.item(), rel=1e-12)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_cross_entropy__weights_of_one_are_no_weights(normalizer):
    logits, labels, _ = build_case()
    plain = CrossEntropyLoss(5, None, normalizer)(logits, labels)
    assert torch.equal(CrossEntropyLoss(5, torch.ones(5), normalizer)(logits, labels), plain)
    assert plain.item() == pytest.approx(nn.CrossEntropyLoss(ignore_index=255)(logits, labels).item(), rel=1e-12)


def test_cross_entropy__scale_of_the_weights_matters_to_one_normaliser_only():
    logits, labels, weights = build_case()
    once, thrice = ([CrossEntropyLoss(5, k * weights, n)(logits, labels) for n in NORMALIZERS] for k in (1, 3))
    torch.testing.assert_close(thrice[0], 3 * once[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(thrice[1], once[1], rtol=1e-12, atol=0)


def test_cross_entropy__upsamples_the_logits_not_the_labels():
    logits, _, weights = build_case(size=(3, 4))
    labels = build_case(1, size=(13, 17))[1]
    large = nn.functional.interpolate(logits, (13, 17), mode="bilinear", align_corners=False)
    loss = CrossEntropyLoss(5, weights)
    assert torch.equal(loss(logits, labels), loss(large, labels))
    assert loss(logits, labels).item() == pytest.approx(loop_loss(large, labels, weights, "valid_pixels"), rel=1e-12)


def test_cross_entropy__autocast_does_not_lower_a_model_in_single_precision():
    logits, _, weights = build_case(size=(6, 6), dtype=torch.float32)
    labels = build_case(1, size=(24, 24))[1]
    loss = CrossEntropyLoss(5, weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(logits, labels), loss(logits, labels).float())
        inside = loss(logits, labels)
    assert torch.equal(inside, loss(logits, labels))


@pytest.mark.parametrize("ignore_index", [0, 2, 4, 5, 254, -1, -100])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_cross_entropy__any_ignore_index(ignore_index, normalizer):
    logits, labels, weights = build_case()
    labels = torch.where(labels == 255, ignore_index, labels)
    loss = CrossEntropyLoss(5, weights, normalizer, ignore_index)
    counted = weights[labels[labels != ignore_index]] if normalizer == "weight_sum" else labels != ignore_index
    expected = nn.CrossEntropyLoss(weights, ignore_index=ignore_index, reduction="sum")(logits, labels) / counted.sum()
    assert loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-12)
    assert loss.compute_normalizer(labels).item() == pytest.approx(counted.sum().item(), rel=1e-12)
    labels[1, 2, 3] = 6
    with pytest.raises(ValueError, match=r"found \[6\]"):
        loss(logits, labels)


def test_cross_entropy__normaliser_counts_beyond_single_precision():
    # 2**24 + 1 pixels: fp32 can't count them one by one, and a global batch has more.
    labels = torch.zeros(2**24 + 1, dtype=torch.uint8)
    assert float(CrossEntropyLoss(2).compute_normalizer(labels)) == 2**24 + 1


@pytest.mark.parametrize("wrong", [5, 254, -1, -100])
def test_cross_entropy__wrong_labels_raise_and_say_which(wrong):
    logits, labels, _ = build_case()
    labels[0, 0, 0] = wrong
    with pytest.raises(ValueError, match=rf"found \[{wrong}\]"):
        CrossEntropyLoss(5)(logits, labels)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0] * 4, "expected 5 class weights; found 4"),
        ([1.0] * 6, "expected 5 class weights; found 6"),
        ([[1.0] * 5], "expected 5 class weights; found 5"),
        ([1, 1, 0, 1, 1], "expected positive, finite class weights"),
        ([1, 1, -0.5, 1, 1], "-0.5"),
        ([1, 1, math.nan, 1, 1], "nan"),
        ([1, 1, math.inf, 1, 1], "inf"),
    ],
)
def test_cross_entropy__refuses_weights(weights, words):
    with pytest.raises(ConfigError) as caught:
        CrossEntropyLoss(5, weights)
    assert words in str(caught.value)


def test_cross_entropy__refuses_an_unknown_normaliser():
    with pytest.raises(ConfigError, match="expected `normalizer` valid_pixels or weight_sum; found 'mean'"):
        CrossEntropyLoss(5, None, "mean")


def test_cross_entropy__weights_are_not_in_the_state_dict_but_move_with_the_module():
    loss = CrossEntropyLoss(5, [1.0] * 5)
    assert not loss.state_dict()
    assert loss.to("meta").class_weights.device.type == "meta"
