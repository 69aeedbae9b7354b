import math

import loss_cases
import numpy as np
import pytest
import torch

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.losses.dice import DiceLoss


def build_case(*options, **more):
    return loss_cases.build_case(*options, **more)[:2]


def loop_loss(logits, labels, smooth=0.0) -> float:
    logits, labels = logits.detach().numpy(), labels.numpy()
    losses = []
    for label in sorted(set(labels.flat) - {255}):
        overlap = probability = pixels = 0.0
        for image, row, column in np.ndindex(labels.shape):
            if labels[image, row, column] == 255:
                continue
            values = logits[image, :, row, column]
            exps = [math.exp(v - values.max()) for v in values]
            prob = exps[label] / math.fsum(exps)
            probability += prob
            if labels[image, row, column] == label:
                overlap, pixels = overlap + prob, pixels + 1
        losses.append(1 - (2 * overlap + smooth) / (probability + pixels + smooth))
    return sum(losses) / len(losses)


# Three classes, the last never labelled; probabilities (1/2, 1/4, 1/4), (1/4, 1/2, 1/4), (1/4, 1/4, 1/2), one void.
HAND_LOGITS = torch.tensor([[2.0, 1, 1], [1, 2, 1], [1, 1, 2], [1, 99, 99]]).double().log().T.reshape(1, 3, 2, 2)
HAND_LABELS = torch.tensor([[[0, 1], [1, 255]]])


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice__hand_computed(smooth):
    # Class 0: I = 1/2, P = 1, L = 1. Class 1: I = 1/2 + 1/4, P = 1, L = 2. Class 2 is in no label.
    expected = 1 - ((1.0 + smooth) / (2 + smooth) + (1.5 + smooth) / (3 + smooth)) / 2
    assert DiceLoss(3, smooth)(HAND_LOGITS, HAND_LABELS).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("smooth", [0.0, 2.5])
def test_dice__equals_a_plain_loop(seed, smooth):
    logits, labels = build_case(seed)
    labels[labels == 3] = 255  # a class that is absent
    loss = DiceLoss(5, smooth)(logits, labels)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(loop_loss(logits, labels, smooth), rel=1e-12)


def test_dice__perfect_is_zero_and_all_wrong_is_one():
    labels = torch.tensor([[[0, 1], [1, 255]]])
    right = torch.nn.functional.one_hot(labels.clamp_max(1), 2).permute(0, 3, 1, 2) * 2e3
    assert DiceLoss(2)(right.double(), labels).item() == 0.0
    assert DiceLoss(2)(-right.double(), labels).item() == 1.0


def test_dice__logits_of_ignored_pixels_change_nothing():
    logits, labels = build_case()
    wild = torch.where((labels == 255).unsqueeze(1), math.nan, logits.detach())
    assert torch.equal(DiceLoss(5)(wild, labels), DiceLoss(5)(logits.detach(), labels))


def test_dice__process_scope_is_the_mean_over_batches_with_labels():
    logits, labels = build_case(images=4)
    labels[2] = 255
    loss = DiceLoss(5)
    batches = [*zip(logits.detach().split(1), labels.split(1), strict=True)]
    common = sum(loss.compute_normalizer(y) for _, y in batches)
    assert common.item() == 3
    expected = sum(loop_loss(*batch) for index, batch in enumerate(batches) if index != 2) / 3
    assert sum(loss(*batch, common) for batch in batches).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("layout", loss_cases.LAYOUTS, ids=str)
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dice_global__any_layout_is_the_whole_batch(layout, smooth, dtype):
    logits, labels = build_case(images=8, dtype=dtype)
    labels[5] = 255  # a micro-batch without labels
    labels[:4][labels[:4] == 2] = 255  # a class that is on one side only
    labels[labels == 4] = 1  # and one that is nowhere
    value = DiceLoss(5, smooth)(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    added, gradients, _ = loss_cases.run_step(lambda: DiceLoss(5, smooth, "global"), logits, labels, layout)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert added.item() == pytest.approx(value.item(), rel=tolerance)
    assert float((gradients - gradient).norm() / gradient.norm()) < tolerance
    torch.testing.assert_close(gradients, gradient, rtol=tolerance, atol=tolerance * float(gradient.abs().max()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"smooth": -1.0}, "expected `smooth` of 0 or more; found -1.0"),
        ({"smooth": math.nan}, "found nan"),
        ({"scope": "rank"}, "expected `scope` process or global; found 'rank'"),
    ],
)
def test_dice__refuses(options, words):
    with pytest.raises(ConfigError) as caught:
        DiceLoss(5, **options)
    assert words in str(caught.value)
