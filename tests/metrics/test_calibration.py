"""Calibration against the definitions, pixel by pixel in plain Python."""

import math

import numpy as np
import pytest
import torch

from hf_urbanseg.errors import DataError
from hf_urbanseg.metrics.calibration import count_calibration, describe_calibration, fit_temperature


def _pixels(seed=0, shape=(7, 40, 50), noise=1.5):
    """Logits, and labels that follow their own softmax; a tenth of them void."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, noise, shape))
    labels = np.array([rng.choice(7, p=p) for p in logits.softmax(0).flatten(1).T.numpy()]).reshape(shape[1:])
    labels[rng.random(shape[1:]) < 0.1] = 255
    return logits, torch.from_numpy(labels)


def test_describe_calibration__equals_the_definition():
    logits, labels = _pixels()
    probabilities = (2 * logits).softmax(0)
    found = describe_calibration(count_calibration(probabilities.float(), labels.to(torch.uint8)))
    members, nll, brier = [[] for _ in range(15)], [], []
    for p, label in zip(probabilities.flatten(1).T.tolist(), labels.flatten().tolist(), strict=True):
        if label != 255:
            members[math.ceil(max(p) * 15) - 1].append((max(p), p.index(max(p)) == label))
            nll.append(-math.log(p[label]))
            brier.append(sum((one - (c == label)) ** 2 for c, one in enumerate(p)))
    means = [np.mean(one, 0) if one else (math.nan, math.nan) for one in members]
    ece = sum(len(one) * abs(c - a) for one, (c, a) in zip(members, means, strict=True) if one) / len(nll)
    assert found["ece"] == pytest.approx(ece, abs=1e-6)
    assert found["ece"] > 0.1  # twice the logits are too sure
    assert found["nll"] == pytest.approx(np.mean(nll), abs=1e-6)
    assert found["brier"] == pytest.approx(np.mean(brier), abs=1e-6)
    assert found["bins"]["pixels"] == [len(one) for one in members]
    bins = np.array([found["bins"]["confidence"], found["bins"]["accuracy"]]).T
    np.testing.assert_allclose(bins, means, atol=1e-6)


def test_count_calibration__parts_in_any_order_sum_to_the_same_numbers():
    logits, labels = _pixels(1)
    probabilities = logits.float().softmax(0)
    whole = count_calibration(probabilities, labels)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(7)
    parts = sum(count_calibration(probabilities[:, one], labels[one]) for one in rows)
    assert torch.equal(parts[:3], whole[:3])
    assert ((parts - whole).abs() <= 4 * whole[0]).all()  # torch's logarithm at the end of a vector: fp32's last bit
    nothing = describe_calibration(count_calibration(probabilities, torch.full_like(labels, 255)))
    assert np.isnan([nothing["ece"], nothing["nll"], nothing["brier"]]).all()


def test_count_calibration__ends_of_bins_and_certain_pixels():
    sure = torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.4, 1.0]], dtype=torch.float64)
    found = describe_calibration(count_calibration(sure, torch.tensor([0, 1, 0])))
    assert {b: n for b, n in enumerate(found["bins"]["pixels"]) if n} == {8: 1, 14: 2}  # 0.6 = 9 / 15 ends its bin
    assert found["ece"] == pytest.approx((0.6 + 1) / 3, abs=1e-7)
    assert found["brier"] == pytest.approx((2 * 0.6**2 + 2) / 3, abs=1e-7)


def test_fit_temperature__finds_the_factor():
    logits, labels = _pixels(2, (7, 100, 100))
    valid = labels.flatten() != 255
    logits, labels = logits.flatten(1).T[valid], labels.flatten()[valid]
    weights = torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
    own = fit_temperature(logits, labels, weights)
    assert own == pytest.approx(1, abs=0.05)  # the labels were drawn from these very probabilities
    for factor in (0.3, 2.5):
        assert fit_temperature(factor * logits, labels, weights) == pytest.approx(factor * own, rel=1e-9)
    # The least of all on a grid, and a pixel of twice the weight is one that is there twice.
    twice = torch.cat([logits, logits[:99]]), torch.cat([labels, labels[:99]])
    heavy = torch.ones(len(labels), dtype=torch.float64)
    heavy[:99] = 2
    equal = torch.full((len(twice[1]),), 1 / len(twice[1]), dtype=torch.float64)
    assert fit_temperature(logits, labels, heavy / heavy.sum()) == pytest.approx(fit_temperature(*twice, equal))
    scale = np.linspace(0.8, 1.25, 46)
    losses = [torch.nn.functional.cross_entropy(logits / (own * one), labels) for one in scale]
    assert abs(scale[int(np.argmin(losses))] - 1) < 0.011


def test_fit_temperature__nothing_to_fit():
    logits, labels = torch.eye(3, dtype=torch.float64), torch.arange(3)
    for wrong in (labels, (labels + 1) % 3):  # all right: ever surer is ever better; all wrong: ever less sure
        with pytest.raises(DataError, match=r"a best temperature of 0.01..100; found none, of 3 labelled pixels"):
            fit_temperature(logits, wrong, torch.full((3,), 1 / 3, dtype=torch.float64))
