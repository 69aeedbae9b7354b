"""What holds for every loss."""

import math

import pytest
import torch
from loss_cases import build_case, collect

from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.losses.dice import DiceLoss
from hf_urbanseg.losses.focal import FocalLoss
from hf_urbanseg.losses.lovasz import LovaszSoftmaxLoss
from hf_urbanseg.losses.ohem import OhemCrossEntropyLoss

PIXELS = {
    "cross_entropy": lambda weights: CrossEntropyLoss(5, weights),
    "cross_entropy weight_sum": lambda weights: CrossEntropyLoss(5, weights, "weight_sum"),
    "focal": lambda weights: FocalLoss(5, weights),
    "focal weight_sum": lambda weights: FocalLoss(5, weights, "weight_sum", 0.5),
    "focal gamma 0": lambda weights: FocalLoss(5, weights, gamma=0),
}
OHEM = {
    f"ohem {threshold} {scope}": lambda weights, threshold=threshold, scope=scope: OhemCrossEntropyLoss(
        5, weights, min_kept=35, threshold=threshold, scope=scope
    )
    for threshold in (None, 0.5)
    for scope in ("process", "global")
}
DICE = {
    f"dice {smooth:g} {scope}": lambda weights, smooth=smooth, scope=scope: DiceLoss(5, smooth, scope)
    for smooth in (0.0, 1.0)
    for scope in ("process", "global")
}
LOVASZ = {"lovasz": lambda weights: LovaszSoftmaxLoss(5)}


def each(*groups):
    losses = {name: build for group in groups for name, build in group.items()}
    return pytest.mark.parametrize("build", losses.values(), ids=losses)


@each(PIXELS, OHEM, DICE, LOVASZ)
@pytest.mark.parametrize("given", [None, 0.0, 3.0, "own"])
def test_loss__void_batch_is_zero_with_gradient(build, given):
    logits, labels, weights = build_case(void=1.1, size=(2, 3))
    loss = build(weights)
    if isinstance(loss, LovaszSoftmaxLoss):
        logits.data[0, 0] = math.nan
    others = [build_case(1)[:2]] if given == 3.0 and isinstance(loss, DiceLoss) else []  # of the step, with labels
    collect(loss, (logits, labels), *others)
    own = loss.compute_normalizer(labels)
    assert own.item() == 0.0
    value = loss(logits, labels, own if given == "own" else given)
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(logits.grad[1:], torch.zeros_like(logits[1:]))
    assert isinstance(loss, LovaszSoftmaxLoss) or not logits.grad.any()
    if isinstance(loss, OhemCrossEntropyLoss):
        assert loss.diagnostics["kept_share"].item() == 0.0
        assert torch.isfinite(loss.diagnostics["cut"])


@each(PIXELS, OHEM, DICE, LOVASZ)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_loss__half_precision_logits_are_computed_in_single(build, dtype, autocast):
    logits, _, weights = build_case(size=(6, 6), dtype=torch.float32)
    labels = build_case(1, size=(24, 24))[1]
    half = logits.detach().to(dtype).requires_grad_()
    loss = build(weights)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(half, labels)
    said = dict(getattr(loss, "diagnostics", {}))
    assert value.dtype == torch.float32
    assert torch.equal(value.detach(), loss(half.detach().float(), labels))
    assert all(torch.equal(loss.diagnostics[name], one) for name, one in said.items())
    value.backward()
    assert half.grad.dtype == dtype
    assert half.grad.any()


@each(PIXELS, DICE, LOVASZ)
def test_loss__ignored_pixels_get_exactly_no_gradient(build):
    logits, labels, weights = build_case()
    loss = build(weights)
    collect(loss, (logits, labels))
    loss(logits, labels).backward()
    ignored = (labels == 255).unsqueeze(1).expand_as(logits)
    assert not logits.grad[ignored].any()
    if isinstance(loss, LovaszSoftmaxLoss):
        assert (logits.grad.abs().sum(1) > 0)[labels != 255].all()
    else:
        assert logits.grad[~ignored].all()


@each(PIXELS, OHEM, DICE, LOVASZ)
def test_loss__logits_of_ignored_pixels_change_nothing(build):
    logits, labels, weights = build_case()
    loss = build(weights)
    wild = torch.where((labels == 255).unsqueeze(1), 1e4, logits)
    assert torch.equal(loss(wild, labels), loss(logits, labels))


@each(PIXELS, LOVASZ)
@pytest.mark.parametrize("cuts", [(1, 1, 1, 1), (2, 2), (1, 3), (4,)])
def test_loss__sum_over_any_partition_is_the_whole(build, cuts):
    logits, labels, weights = build_case(images=4)
    labels[1] = 255  # one micro-batch may have nothing labelled
    loss = build(weights)
    whole = loss(logits, labels)
    common = sum(loss.compute_normalizer(part) for part in labels.split(cuts))
    parts = sum(loss(x, y, common) for x, y in zip(logits.split(cuts), labels.split(cuts), strict=True))
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)
    added, gradient = (torch.autograd.grad(each, logits)[0] for each in (parts, whole))
    torch.testing.assert_close(added, gradient, rtol=1e-12, atol=1e-16)


@each(PIXELS, DICE, LOVASZ)
def test_loss__gradcheck(build):
    logits, _, weights = build_case(images=2, size=(2, 3))
    labels = build_case(1, images=2, size=(4, 5))[1]
    labels[labels == 2] = 255  # a class that is absent
    loss = build(weights)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (logits,), eps=1e-6, atol=1e-7)


@each(PIXELS, OHEM, DICE, LOVASZ)
def test_loss__upsamples_the_logits_not_the_labels(build):
    logits, _, weights = build_case(size=(3, 4))
    labels = build_case(1, size=(13, 17))[1]
    large = torch.nn.functional.interpolate(logits, (13, 17), mode="bilinear", align_corners=False)
    assert build(weights)(logits, labels).item() == pytest.approx(build(weights)(large, labels).item(), rel=1e-12)


@each(PIXELS, OHEM, DICE, LOVASZ)
@pytest.mark.parametrize("wrong", [5, 254, -1, -100])
def test_loss__wrong_labels_raise_and_say_which(build, wrong):
    logits, labels, weights = build_case()
    labels[0, 0, 0] = wrong
    with pytest.raises((ValueError, RuntimeError, IndexError), match=rf"found \[{wrong}\]|out of"):
        build(weights)(logits, labels)
    with pytest.raises(ValueError, match=rf"found \[{wrong}\]"):
        build(weights).compute_normalizer(labels)


@each(OHEM, DICE)
def test_loss__released_it_goes_by_its_own_batch(build):
    logits, labels, weights = build_case()
    loss = build(weights)
    assert loss.needs_collection == (loss.scope == "global")
    own = loss(logits, labels)
    if not loss.needs_collection:
        return
    loss.collect(logits, logits.argmax(1))  # all of it easy
    loss.settle(lambda tensor: tensor)
    assert not torch.equal(loss(logits, labels), own)
    loss.release()
    assert torch.equal(loss(logits, labels), own)
    loss.collect(20 * logits, labels)
    loss.release()  # what was collected is forgotten, too, and so is the step before
    for seed in (1, 0):
        logits, labels, _ = build_case(seed)
        collect(loss, (logits, labels))
        assert loss(logits, labels).item() == pytest.approx(build(weights)(logits, labels).item(), rel=1e-12)
