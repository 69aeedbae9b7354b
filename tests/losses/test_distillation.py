import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.losses.distillation import ChannelWiseDistillationLoss, SoftDistillationLoss

TAUGHT = [4, 0, 3]  # of 5 classes, in the order of the teacher's scores


def draw(images=3, size=(16, 24), stride=4, teacher_size=None, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    low = tuple(-(-side // stride) for side in size)
    logits = 2 * torch.randn(images, 5, *low, generator=generator, dtype=dtype)
    teacher = 2 * torch.randn(images, 3, *(teacher_size or low), generator=generator, dtype=dtype)
    labels = torch.randint(0, 5, (images, *size), generator=generator)
    labels[torch.rand(images, *size, generator=generator) < 0.3] = 255
    return logits.requires_grad_(), teacher, labels


def compute_soft(logits, teacher, labels, inside, temperature, teach_void):
    """Pixel by pixel in plain numbers: each pixel looks at the place nearest to it."""
    total, (height, width), (low_height, low_width) = 0.0, labels.shape[1:], logits.shape[2:]
    own, scores = logits.detach().numpy(), teacher.numpy()
    for image, row, column in np.ndindex(*labels.shape):
        y, x = row * low_height // height, column * low_width // width
        label, target = int(labels[image, row, column]), scores[image, :, y, x].copy()
        if label in TAUGHT:
            own_class, best = TAUGHT.index(label), int(target.argmax())
            target[own_class], target[best] = target[best], target[own_class]
        elif not (teach_void and label == 255 and inside[image, row, column]):
            continue
        p, q = (np.exp(one / temperature) for one in (target, own[image, TAUGHT, y, x]))
        p, q = p / p.sum(), q / q.sum()
        total += temperature**2 * float((p * np.log(p / q)).sum())
    return total / (labels.numel() if teach_void else int((labels != 255).sum()))


@pytest.mark.parametrize("teach_void", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("size", "stride"), [((16, 24), 4), ((13, 22), 4), ((6, 7), 1), ((17, 9), 8)])
def test_soft__equals_numbers_pixel_by_pixel(size, stride, temperature, teach_void):
    logits, teacher, labels = draw(2, size, stride)
    inside = torch.ones_like(labels, dtype=torch.bool)
    inside[1, size[0] // 2 :] = False
    labels[~inside] = 255
    loss = SoftDistillationLoss(5, TAUGHT, temperature, teach_void=teach_void)
    found = loss(logits.detach(), labels, teacher=teacher, inside=inside)
    expected = compute_soft(logits, teacher, labels, inside, temperature, teach_void)
    assert expected > 0.05
    assert abs(float(found) - expected) < 1e-9
    best = torch.tensor(TAUGHT)[teacher.argmax(1)]
    agree = F.interpolate(best[:, None].double(), size, mode="nearest")[:, 0] == labels
    taught = torch.isin(labels, torch.tensor(TAUGHT))
    assert float(loss.diagnostics["agreement"]) == pytest.approx(float(agree.sum() / taught.sum()))


def test_soft__never_against_the_label():
    """Whatever the teacher says, no step away from the label follows from it."""
    logits, teacher, _ = draw()
    for label in TAUGHT:
        labels = torch.full((3, 16, 24), label)
        loss = SoftDistillationLoss(5, TAUGHT)(logits, labels, teacher=teacher)
        (found,) = torch.autograd.grad(loss, logits)
        best = found[:, TAUGHT].argmin(1)
        sure = logits[:, TAUGHT].softmax(1)[:, TAUGHT.index(label)] < teacher.softmax(1).amax(1) - 0.5
        assert sure.sum() > 5
        assert (best[sure] == TAUGHT.index(label)).all()
    never = torch.full_like(labels, 1)  # a class that this teacher doesn't have
    loss = SoftDistillationLoss(5, TAUGHT)(logits, never, teacher=teacher)
    assert float(loss.detach()) == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


def test_soft__untaught_classes_get_no_gradient_and_offsets_change_nothing():
    logits, teacher, labels = draw()
    loss = SoftDistillationLoss(5, TAUGHT, teach_void=True)
    value = loss(logits, labels, teacher=teacher)
    (gradient,) = torch.autograd.grad(value, logits)
    assert not gradient[:, [1, 2]].any()
    assert gradient[:, TAUGHT].abs().max() > 1e-4
    offset = torch.randn(len(logits), 1, *teacher.shape[2:], dtype=torch.float64)
    assert abs(float(loss(logits, labels, teacher=teacher + offset) - value)) < 1e-12


def test_soft__nothing_to_learn_from_oneself():
    logits, _, labels = draw()
    own = logits.detach()[:, TAUGHT]
    value = SoftDistillationLoss(5, TAUGHT, 3.0, teach_void=True)(logits, torch.full_like(labels, 255), teacher=own)
    assert abs(float(value.detach())) < 1e-12
    assert torch.autograd.grad(value, logits)[0].abs().max() < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channel_wise__equals_mmrazors_on_whole_images(temperature):
    logits, teacher, labels = draw()
    labels[0] = 255  # heard all the same
    student = logits[:, TAUGHT]
    count, channels, height, width = student.shape
    # MMRazor 1.0 `ChannelWiseDivergence.forward`, with preds_S and preds_T renamed.
    softmax_teacher = F.softmax(teacher.view(-1, width * height) / temperature, dim=1)
    logsoftmax = torch.nn.LogSoftmax(dim=1)
    expected = torch.sum(
        softmax_teacher * logsoftmax(teacher.view(-1, width * height) / temperature)
        - softmax_teacher * logsoftmax(student.reshape(-1, width * height) / temperature)
    ) * (temperature**2)
    expected = expected / (channels * count)
    loss = ChannelWiseDistillationLoss(5, TAUGHT, temperature, teach_void=True)
    found = loss(logits, labels, teacher=teacher)
    assert float(expected) > 0.1
    assert abs(float(found - expected)) < 1e-10
    gradients = [torch.autograd.grad(one, logits)[0] for one in (found, expected)]
    assert (gradients[0] - gradients[1]).abs().max() < 1e-12


def test_channel_wise__void_and_padding_are_no_places():
    """As if the image had ended before them."""
    logits, teacher, labels = draw()
    labels[labels == 255] = 0
    part = slice(0, 3)
    expected = ChannelWiseDistillationLoss(5, TAUGHT)(logits[..., part], labels[..., :12], teacher=teacher[..., part])
    labels[..., 12:] = 255
    inside = labels != 255
    for teach_void in (False, True):
        loss = ChannelWiseDistillationLoss(5, TAUGHT, teach_void=teach_void)
        found = loss(logits, labels, teacher=teacher, inside=inside)
        assert abs(float(found - expected)) < 1e-12
        assert not torch.autograd.grad(found, logits)[0][..., 3:].any()
    assert float(expected) > 0.1


@pytest.mark.parametrize("loss_class", [SoftDistillationLoss, ChannelWiseDistillationLoss])
@pytest.mark.parametrize("teach_void", [False, True])
def test_distillation__same_for_any_split_of_the_batch(loss_class, teach_void):
    logits, teacher, labels = draw(images=4)
    labels[1] = 255
    loss = loss_class(5, TAUGHT, 2.0, teach_void=teach_void)
    normalizer = sum(loss.compute_normalizer(labels[i : i + 1]) for i in range(4))
    whole = loss(logits, labels, teacher=teacher)
    parts = sum(
        loss(logits[part], labels[part], normalizer, teacher=teacher[part])
        for part in (slice(0, 1), slice(1, 2), slice(2, 4))
    )
    assert float(whole) > 0.01
    assert abs(float(whole - parts)) < 1e-12
    gradients = [torch.autograd.grad(one, logits)[0] for one in (whole, parts)]
    assert (gradients[0] - gradients[1]).abs().max() < 1e-12


@pytest.mark.parametrize("loss_class", [SoftDistillationLoss, ChannelWiseDistillationLoss])
@pytest.mark.parametrize("teach_void", [False, True])
def test_distillation__gradient_is_the_slope(loss_class, teach_void):
    logits, teacher, labels = draw(2, (8, 12), teacher_size=(3, 5))
    loss = loss_class(5, TAUGHT, 2.0, teach_void=teach_void)
    assert torch.autograd.gradcheck(lambda one: loss(one, labels, teacher=teacher), [logits])


@pytest.mark.parametrize("loss_class", [SoftDistillationLoss, ChannelWiseDistillationLoss])
@pytest.mark.parametrize("teach_void", [False, True])
def test_distillation__batch_without_labels_is_finite(loss_class, teach_void):
    logits, teacher, labels = draw()
    loss = loss_class(5, TAUGHT, teach_void=teach_void)
    value = loss(logits, torch.full_like(labels, 255), teacher=teacher)
    (gradient,) = torch.autograd.grad(value, logits)
    assert math.isfinite(float(value))
    assert gradient.isfinite().all()
    assert bool(gradient.any()) == teach_void
    nowhere = torch.zeros_like(labels, dtype=torch.bool)
    assert float(loss(logits, torch.full_like(labels, 255), teacher=teacher, inside=nowhere)) == 0


@pytest.mark.parametrize("loss_class", [SoftDistillationLoss, ChannelWiseDistillationLoss])
def test_distillation__full_precision_in_autocast(loss_class):
    logits, teacher, labels = draw(dtype=torch.float32)
    loss = loss_class(5, TAUGHT)
    expected = loss(logits, labels, teacher=teacher)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(logits, labels, teacher=teacher), expected)
        half = loss(logits.bfloat16(), labels, teacher=teacher.half())
    assert half.dtype == torch.float32
    assert abs(float(half - expected)) < 0.01 * float(expected)


@pytest.mark.parametrize("loss_class", [SoftDistillationLoss, ChannelWiseDistillationLoss])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_distillation__temperatures_that_divide_by_nothing(loss_class, temperature):
    with pytest.raises(ConfigError, match="`temperature`"):
        loss_class(5, TAUGHT, temperature)
