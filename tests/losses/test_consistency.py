import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_urbanseg.losses.consistency import label_confidently
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss

TAUGHT = [4, 0, 3]  # of 5 classes, in the order of the teacher's scores


def draw():
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(2, 3, 4, 6, generator=generator, dtype=torch.float64)
    logits = torch.randn(2, 5, 3, 6, generator=generator, dtype=torch.float64)
    inside = torch.ones(2, 13, 17, dtype=torch.bool)
    inside[1, 9:], inside[1, :, 12:] = False, False
    return scores, logits.requires_grad_(), inside


def upsample(low):
    return F.interpolate(low.detach(), (13, 17), mode="bilinear", align_corners=False).numpy()


@pytest.mark.parametrize("threshold", [0, 0.6, 0.95, 1])
def test_label_confidently__loss_and_gradient_equal_numbers_pixel_by_pixel(threshold):
    scores, logits, inside = draw()
    labels, probability = label_confidently(scores, inside, threshold, TAUGHT)
    found = CrossEntropyLoss(5)(logits, labels.long(), inside.sum().double())
    (gradient,) = torch.autograd.grad(found, logits)

    total, most, sure, slopes = 0.0, 0.0, 0, np.zeros((2, 5, 13, 17))
    theirs, own = upsample(scores), upsample(logits)
    for image, row, column in np.argwhere(inside.numpy()):
        p, q = (np.exp(one[image, :, row, column]) for one in (theirs, own))
        p, q = p / p.sum(), q / q.sum()
        most += p.max()
        if p.max() > threshold:
            label, sure = TAUGHT[int(p.argmax())], sure + 1
            assert labels[image, row, column] == label
            total -= math.log(q[label])
            slopes[image, :, row, column] = q - np.eye(5)[label]
    count = int(inside.sum())
    assert int((labels != 255).sum()) == sure
    assert {0: sure == count, 1: sure == 0}.get(threshold, 0 < sure < count)
    assert float(probability) == pytest.approx(most, rel=1e-12)
    assert float(found.detach()) == pytest.approx(total / count, abs=1e-12)
    low = torch.zeros_like(logits, requires_grad=True)
    wide = F.interpolate(low, (13, 17), mode="bilinear", align_corners=False)
    (expected,) = torch.autograd.grad(wide, low, torch.from_numpy(slopes / count))
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-12)


def test_label_confidently__the_threshold_itself_is_not_sure():
    """So that 1 learns nothing even where scores leave no doubt."""
    scores, _, inside = draw()
    labels, probability = label_confidently(1e6 * scores, inside, 1, TAUGHT)
    assert float(probability) == pytest.approx(float(inside.sum()), rel=1e-3)
    assert (labels == 255).all()
