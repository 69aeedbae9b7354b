import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.losses.dice import DiceLoss


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def build_case(seed=0, images=3, classes=5, size=(7, 9), dtype=torch.float64, void=0.3):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, *size, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (images, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < void] = 255
    return logits.requires_grad_(), labels


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


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice__gradcheck(smooth):
    logits, _ = build_case(images=2, size=(2, 3))
    labels = build_case(1, images=2, size=(4, 5))[1]
    labels[labels == 2] = 255
    loss = DiceLoss(5, smooth)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (logits,), eps=1e-6, atol=1e-7)


def test_dice__upsamples_the_logits():
    logits, _ = build_case(size=(3, 4))
    labels = build_case(1, size=(13, 17))[1]
    large = torch.nn.functional.interpolate(logits, (13, 17), mode="bilinear", align_corners=False)
    assert torch.equal(DiceLoss(5)(logits, labels), DiceLoss(5)(large, labels))


@pytest.mark.parametrize("scope", ["process", "global"])
def test_dice__ignored_pixels_get_exactly_no_gradient(scope):
    logits, labels = build_case()
    loss = DiceLoss(5, scope=scope)
    if loss.needs_collection:
        loss.collect(logits, labels)
        loss.settle(lambda tensor: tensor)
    loss(logits, labels).backward()
    ignored = (labels == 255).unsqueeze(1).expand_as(logits)
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].all()


def test_dice__logits_of_ignored_pixels_change_nothing():
    logits, labels = build_case()
    wild = torch.where((labels == 255).unsqueeze(1), math.nan, logits.detach())
    assert torch.equal(DiceLoss(5)(wild, labels), DiceLoss(5)(logits.detach(), labels))


@pytest.mark.parametrize("scope", ["process", "global"])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("given", [None, 0.0, 3.0])
def test_dice__void_batch_is_zero_with_gradient(scope, smooth, given):
    logits, labels = build_case(void=1.1, size=(2, 3))
    loss = DiceLoss(5, smooth, scope)
    if loss.needs_collection:
        loss.collect(logits, labels)
        if given:  # other batches of the step have labels
            loss.collect(*build_case(1))
        loss.settle(lambda tensor: tensor)
    value = loss(logits, labels, given)
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    assert loss.compute_normalizer(labels).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_dice__half_precision_logits_are_computed_in_single(dtype, autocast):
    logits, _ = build_case(size=(6, 6), dtype=torch.float32)
    labels = build_case(1, size=(24, 24))[1]
    half = logits.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = DiceLoss(5)(half, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value.detach(), DiceLoss(5)(half.detach().float(), labels))
    value.backward()
    assert half.grad.dtype == dtype


def test_dice__process_scope_is_the_mean_over_batches_with_labels():
    logits, labels = build_case(images=4)
    labels[2] = 255
    loss = DiceLoss(5)
    batches = [*zip(logits.detach().split(1), labels.split(1), strict=True)]
    common = sum(loss.compute_normalizer(y) for _, y in batches)
    assert common.item() == 3
    expected = sum(loop_loss(*batch) for index, batch in enumerate(batches) if index != 2) / 3
    assert sum(loss(*batch, common) for batch in batches).item() == pytest.approx(expected, rel=1e-12)


class Ranks:
    """Stands in for a process group: `reduce` of each rank waits for the others and sums in rank order."""

    def __init__(self, count):
        self.slots, self.barrier = [None] * count, threading.Barrier(count, timeout=30)

    def build_reduce(self, rank):
        def reduce(tensor):
            self.slots[rank] = tensor
            self.barrier.wait()
            total = sum(self.slots)
            self.barrier.wait()
            return total

        return reduce


def run_step(build_loss, logits, labels, layout):
    """Loss and gradient of one optimiser step; `layout` gives each rank's micro-batch sizes."""
    ranks, shares = Ranks(len(layout)), [sum(sizes) for sizes in layout]
    every = [size for sizes in layout for size in sizes]
    common = sum(build_loss().compute_normalizer(part) for part in labels.split(every))

    def work(rank, own_logits, own_labels):
        loss, own_logits = build_loss(), own_logits.detach().clone().requires_grad_()
        batches = [*zip(own_logits.split(layout[rank]), own_labels.split(layout[rank]), strict=True)]
        for batch in batches:
            loss.collect(*batch)
        loss.settle(ranks.build_reduce(rank))
        value = sum(loss(*batch, common) for batch in batches)
        return value.detach(), *torch.autograd.grad(value, own_logits)

    with ThreadPoolExecutor(len(layout)) as pool:
        values, gradients = zip(
            *pool.map(work, range(len(layout)), logits.split(shares), labels.split(shares)), strict=True
        )
    return sum(values), torch.cat(gradients)


@pytest.mark.parametrize("layout", [[[8]], [[4, 4]], [[1] * 8], [[4], [4]], [[2, 2], [2, 2]], [[1, 6], [1]]], ids=str)
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dice_global__any_layout_is_the_whole_batch(layout, smooth, dtype):
    logits, labels = build_case(images=8, dtype=dtype)
    labels[5] = 255  # a micro-batch without labels
    labels[:4][labels[:4] == 2] = 255  # a class that is on one side only
    labels[labels == 4] = 1  # and one that is nowhere
    value = DiceLoss(5, smooth)(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    added, gradients = run_step(lambda: DiceLoss(5, smooth, "global"), logits, labels, layout)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert added.item() == pytest.approx(value.item(), rel=tolerance)
    assert float((gradients - gradient).norm() / gradient.norm()) < tolerance
    torch.testing.assert_close(gradients, gradient, rtol=tolerance, atol=tolerance * float(gradient.abs().max()))


def test_dice_global__released_it_goes_by_its_own_batch():
    logits, labels = build_case()
    loss, own = DiceLoss(5, scope="global"), DiceLoss(5)(logits, labels)
    assert torch.equal(loss(logits, labels), own)
    loss.collect(*build_case(1))
    loss.settle(lambda tensor: tensor)
    assert not torch.equal(loss(logits, labels), own)
    loss.release()
    assert torch.equal(loss(logits, labels), own)


def test_dice_global__steps_do_not_leak_into_each_other():
    loss = DiceLoss(5, scope="global")
    for seed in (1, 2):
        logits, labels = build_case(seed)
        loss.collect(logits, labels)
        loss.settle(lambda tensor: tensor)
        assert loss(logits, labels).item() == pytest.approx(loop_loss(logits, labels), rel=1e-12)


def test_needs_collection__only_the_global_scope():
    assert DiceLoss(5, scope="global").needs_collection
    assert not DiceLoss(5).needs_collection


def test_dice__wrong_labels_raise_and_say_which():
    logits, labels = build_case()
    labels[0, 0, 0] = 5
    with pytest.raises(ValueError, match=r"found \[5\]"):
        DiceLoss(5)(logits, labels)


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
