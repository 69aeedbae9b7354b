import copy
import math
import pickle

import pytest
import torch

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.losses.composition import WeightedSumLoss
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss

LOGITS = torch.tensor([[[[0.0, 2.0], [1.0, -1.0]], [[0.0, 0.0], [3.0, 1.0]]]], dtype=torch.float64)
LABELS = torch.tensor([[[0, 1], [1, 255]]])


def build_loss(main=1.0, second=0.4) -> WeightedSumLoss:
    return WeightedSumLoss(
        {
            "cross_entropy": (CrossEntropyLoss(2, [1.0, 3.0]), main),
            "balanced": (CrossEntropyLoss(2, [1.0, 3.0], "weight_sum"), second),
        }
    )


def test_weighted_sum__hand_computed():
    # -log softmax: ln 2; ln(1 + e^2) for class 1 against 2; ln(1 + e^-2) for 3 against 1.
    total = math.log(2) + 3 * (math.log(1 + math.e**2) + math.log(1 + math.e**-2))
    parts = build_loss()(LOGITS, LABELS)
    assert list(parts) == ["cross_entropy", "balanced"]
    assert float(parts["cross_entropy"]) == pytest.approx(total / 3, rel=1e-12)
    assert float(parts["balanced"]) == pytest.approx(0.4 * total / 7, rel=1e-12)


def test_compute_normalizer__one_per_part():
    normalizer = build_loss().compute_normalizer(LABELS)
    assert {name: float(value) for name, value in normalizer.items()} == {"cross_entropy": 3.0, "balanced": 7.0}
    assert {value.dtype for value in normalizer.values()} == {torch.float64}


def test_weighted_sum__given_normalisers_are_used_by_name():
    parts = build_loss()(LOGITS, LABELS, {"balanced": torch.tensor(14.0), "cross_entropy": torch.tensor(3.0)})
    own = build_loss()(LOGITS, LABELS)
    assert float(parts["cross_entropy"]) == pytest.approx(float(own["cross_entropy"]), rel=1e-12)
    assert float(parts["balanced"]) == pytest.approx(float(own["balanced"]) / 2, rel=1e-12)


def test_weighted_sum__partition_with_common_normalisers_is_the_whole():
    logits, labels = torch.cat([LOGITS, LOGITS.flip(1), LOGITS + 1]), torch.cat([LABELS, LABELS, LABELS * 0 + 255])
    loss = build_loss()
    common = loss.compute_normalizer(labels)
    added = [sum(loss(x[None], y[None], common).values()) for x, y in zip(logits, labels, strict=True)]
    assert float(sum(added)) == pytest.approx(float(sum(loss(logits, labels).values())), rel=1e-12)


def test_weighted_sum__weight_of_zero_is_logged_but_has_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    parts = build_loss(second=0)(logits, LABELS)
    assert parts["balanced"].item() == 0.0
    (both,) = torch.autograd.grad(sum(parts.values()), logits, retain_graph=True)
    (first,) = torch.autograd.grad(parts["cross_entropy"], logits)
    assert torch.equal(both, first)


@pytest.mark.parametrize("weight", [-0.1, math.nan])
def test_weighted_sum__refuses_a_weight(weight):
    with pytest.raises(ConfigError, match=f"expected loss weights of 0 or more; found {weight} for `balanced`"):
        build_loss(second=weight)


def test_weighted_sum__copied_and_pickled():
    loss = build_loss()
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert (other.weights, other.outputs) == (loss.weights, loss.outputs)
