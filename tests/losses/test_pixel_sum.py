import copy
import gc
import math

import pytest
import torch
import torch.nn.functional as F
from allocated import Allocations
from torch.utils.flop_counter import FlopCounterMode

from hf_urbanseg.losses import _blocks, _pixel_sum
from hf_urbanseg.losses._pixel_sum import compute_cross_entropy, sum_pixel_losses
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.losses.focal import FocalLoss
from hf_urbanseg.losses.ohem import OhemCrossEntropyLoss

SIZES = [
    ((2, 19, 7, 9), (28, 36)),
    ((1, 2, 94, 5), (375, 21)),
    ((3, 150, 5, 1), (17, 3)),
    ((1, 5, 4, 311), (15, 1242)),
    ((1, 5, 9, 9), (9, 9)),
    ((2, 5, 6, 9), (6, 30)),
    ((2, 3, 20, 30), (7, 11)),
    ((1, 19, 1, 6), (1, 24)),
    ((1, 2, 1, 1), (3, 2)),
]


@pytest.fixture(params=["rows", "few rows", "images"])
def _cut(request, monkeypatch):
    if request.param == "few rows":
        for name, value in {"CPU_BLOCK": 200, "ROWS": 2, "COLUMNS": 5}.items():
            monkeypatch.setattr(_blocks, name, value)
    if request.param == "images":
        monkeypatch.setattr(_blocks, "DEVICE_BLOCK", 2000)
        monkeypatch.setattr(_blocks, "_build_row_blocks", _blocks._build_image_blocks)


def build_case(shape=(2, 5, 6, 9), size=(23, 36), dtype=torch.float64, seed=0, void=0.2):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=generator, dtype=dtype)
    labels = torch.randint(0, shape[1], (shape[0], *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < void] = 255
    labels[0, 0, 0] = 0
    weights = torch.rand(shape[1], generator=generator, dtype=torch.float64) + 0.25
    return logits.requires_grad_(), labels, weights


def upsample(logits, labels):
    return F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)


def plain_cross_entropy(logits, labels, weights, ignore_index=255):
    weights = None if weights is None else weights.to(logits.dtype)
    return F.cross_entropy(
        upsample(logits, labels), labels, weights, ignore_index=ignore_index, reduction="sum"
    )  # fmt: skip


def plain_ohem(min_kept, threshold):
    def loss(logits, labels, weights):
        log_probs = upsample(logits, labels).log_softmax(1)
        losses = F.nll_loss(log_probs, labels, weights.to(logits.dtype), ignore_index=255, reduction="none")
        valid = labels != 255
        k = min(min_kept * len(labels), int(valid.sum()))
        if threshold is None:
            kept = losses >= losses[valid].sort(descending=True).values[k - 1]
        else:
            probs = F.nll_loss(log_probs, labels, ignore_index=255, reduction="none").neg().exp()
            kept = probs <= max(probs[valid].sort().values[k - 1], threshold - 1e-15)
        return losses[kept & valid].sum()

    return loss


def plain_focal(logits, labels, weights):
    losses = F.cross_entropy(upsample(logits, labels), labels, ignore_index=255, reduction="none")
    valid = labels != 255
    return (weights.to(logits.dtype)[labels[valid]] * (1 - (-losses[valid]).exp()) ** 2 * losses[valid]).sum()


def weigh(cross_entropy, weight):
    return cross_entropy * weight, weight


def ours(logits, labels, weights, ignore_index=255):
    return sum_pixel_losses(logits, labels, weights, ignore_index, weigh)


def relative_error(found, expected):
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-300))


def compare(found, expected, logits, tolerance):
    gradients = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    assert relative_error(found.detach(), expected.detach()) < tolerance
    assert relative_error(*gradients) < tolerance


@pytest.mark.usefixtures("_cut")
@pytest.mark.parametrize(("shape", "size"), SIZES, ids=str)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sum_pixel_losses__equals_the_plain_formulation(shape, size, weighted, dtype):
    logits, labels, weights = build_case(shape, size, dtype)
    weights = weights if weighted else None
    expected = plain_cross_entropy(logits, labels, weights)
    compare(ours(logits, labels, weights), expected, logits, 1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.usefixtures("_cut")
@pytest.mark.parametrize(
    ("loss", "plain"),
    [
        (FocalLoss(5, gamma=2), plain_focal),
        (OhemCrossEntropyLoss(5, min_kept=100), plain_ohem(100, None)),
        (OhemCrossEntropyLoss(5, min_kept=400, threshold=0.3), plain_ohem(400, 0.3)),
        (OhemCrossEntropyLoss(5, min_kept=1, threshold=0.3), plain_ohem(1, 0.3)),
        (OhemCrossEntropyLoss(5, min_kept=10**6, threshold=0.3), plain_ohem(10**6, 0.3)),
    ],
    ids=["focal", "ohem", "ohem min_kept", "ohem threshold", "ohem all"],
)
def test_losses__equal_the_plain_formulation_whatever_the_blocks(loss, plain):
    logits, labels, weights = build_case()
    loss = copy.deepcopy(loss)
    loss.class_weights = weights
    compare(loss(logits, labels, 1.0), plain(logits, labels, weights), logits, 1e-12)


@pytest.mark.usefixtures("_cut")
@pytest.mark.parametrize(("shape", "size"), SIZES, ids=str)
def test_compute_cross_entropy__every_pixel(shape, size):
    logits, labels, weights = build_case(shape, size)
    found = compute_cross_entropy(logits, labels, weights, 255)
    expected = F.cross_entropy(upsample(logits, labels), labels, weights, ignore_index=255, reduction="none")
    assert not found.requires_grad
    assert not found[labels == 255].any()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("ignore_index", [0, 2, 5, 254, -1, -100])
def test_sum_pixel_losses__any_ignore_index(ignore_index):
    logits, labels, weights = build_case()
    labels = torch.where(labels == 255, ignore_index, labels)
    compare(
        ours(logits, labels, weights, ignore_index), plain_cross_entropy(logits, labels, weights, ignore_index),
        logits, 1e-12,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_sum_pixel_losses__other_integer_labels(dtype):
    logits, labels, weights = build_case()
    assert torch.equal(ours(logits, labels.to(dtype), weights), ours(logits, labels, weights))


def test_sum_pixel_losses__changes_neither_logits_nor_labels():
    for size in ((6, 9), (24, 36)):
        logits, labels, weights = build_case(size=size)
        before = logits.detach().clone(), labels.clone(), weights.clone()
        ours(logits, labels, weights).backward()
        assert all(torch.equal(*pair) for pair in zip(before, (logits.detach(), labels, weights), strict=True))


def test_sum_pixel_losses__large_logits_stay_finite():
    logits, labels, _ = build_case(dtype=torch.float32)
    logits = (logits.detach() * 1e3).requires_grad_()  # losses of thousands of nats
    compare(ours(logits, labels, None), plain_cross_entropy(logits, labels, None), logits, 1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_sum_pixel_losses__a_models_lower_precision_of_products_is_not_its_own(threads):
    torch.set_num_threads(threads)
    logits, labels, weights = build_case()
    seen = set()

    def note(cross_entropy, weight):
        seen.add(torch.backends.mkldnn.matmul.fp32_precision)
        return cross_entropy * weight, weight

    torch.set_float32_matmul_precision("medium")
    try:
        sum_pixel_losses(logits, labels, weights, 255, note)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == {"ieee"}


def test_sum_pixel_losses__blocks_are_added_in_double_precision(monkeypatch):
    monkeypatch.setattr(_blocks, "CPU_BLOCK", 1)  # a row each
    logits = torch.zeros(1, 2, 3000, 1)
    logits[0, 0, 0] = -(2.0**25)  # beside which single precision sees no loss below 2
    total = ours(logits, torch.zeros(1, 3000, 1, dtype=torch.int64), None)
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(2**25 + 2999 * math.log(2), abs=4)


@pytest.mark.parametrize("scale", [1.0, 2.5, -3.0, 0.0])
def test_sum_pixel_losses__gradient_scales_with_what_comes_from_above(scale):
    logits, labels, weights = build_case()
    (once,) = torch.autograd.grad(ours(logits, labels, weights), logits)
    (scaled,) = torch.autograd.grad(ours(logits, labels, weights) * scale, logits)
    assert torch.equal(scaled, once * scale)


def test_sum_pixel_losses__fp16_gradient_is_scaled_before_it_is_rounded():
    logits, labels, weights = build_case(dtype=torch.float32)
    weights *= 2.0**-30  # their gradient is below what fp16 can hold: a loss scaler's factor is to save it
    half = logits.detach().half().requires_grad_()
    single = half.detach().float().requires_grad_()
    (exact,) = torch.autograd.grad(ours(single, labels, weights), single)
    (ours(half, labels, weights) * 2.0**28).backward()
    assert half.grad.dtype == torch.float16
    assert torch.equal(half.grad, (exact * 2.0**28).half())
    assert half.grad.abs().max() > 0.1
    assert not torch.autograd.grad(ours(half, labels, weights), half)[0].any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sum_pixel_losses__gradient_has_the_layout_of_the_logits(layout):
    logits, labels, weights = build_case()
    expected = torch.autograd.grad(ours(logits, labels, weights), logits)[0]
    logits = logits.detach().contiguous(memory_format=layout).requires_grad_()
    (gradient,) = torch.autograd.grad(ours(logits, labels, weights), logits)
    assert gradient.is_contiguous(memory_format=layout)
    assert torch.equal(gradient, expected)


def test_sum_pixel_losses__views_and_expanded_logits():
    logits, labels, weights = build_case()
    wide = torch.cat([logits.detach(), logits.detach()], 1).requires_grad_()
    part = wide[:, 5:]
    compare(ours(part, labels, weights), plain_cross_entropy(part, labels, weights), wide, 1e-12)
    one = logits.detach()[:1].requires_grad_()
    both = one.expand(2, -1, -1, -1)
    compare(ours(both, labels, weights), plain_cross_entropy(both, labels, weights), one, 1e-12)


def test_sum_pixel_losses__no_gradient_is_formed_that_nobody_asks_for(monkeypatch):
    logits, labels, weights = build_case()
    expected = ours(logits, labels, weights).detach()
    monkeypatch.setattr(_pixel_sum._Pixels, "compute_gradient", None)
    with torch.no_grad():
        assert torch.equal(ours(logits, labels, weights), expected)
    with torch.inference_mode():
        assert torch.equal(ours(logits, labels, weights), expected)
    value = ours(logits.detach(), labels, weights)
    assert torch.equal(value, expected)
    assert not value.requires_grad
    with pytest.raises(TypeError):
        ours(logits, labels, weights)


def test_sum_pixel_losses__backward_twice_over_a_kept_graph():
    logits, labels, weights = build_case()
    value = ours(logits, labels, weights)
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    assert torch.equal(torch.autograd.grad(value, logits)[0], first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


def test_sum_pixel_losses__a_second_derivative_is_refused():
    logits, labels, weights = build_case()
    with pytest.raises(RuntimeError, match="expected a loss that is differentiated once; found create_graph=True"):
        torch.autograd.grad(ours(logits, labels, weights), logits, create_graph=True)


@pytest.mark.parametrize(
    "loss",
    [CrossEntropyLoss(5), FocalLoss(5), OhemCrossEntropyLoss(5, min_kept=100, threshold=0.3)],
    ids=lambda loss: loss.name,
)
def test_losses__do_not_depend_on_the_number_of_threads(loss, monkeypatch):
    monkeypatch.setattr(_blocks, "CPU_BLOCK", 1000)
    logits, labels, _ = build_case(dtype=torch.float32)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        value = loss(logits, labels)
        shares = [*getattr(loss, "diagnostics", {}).values()]
        results.append([value.detach(), *torch.autograd.grad(value, logits), *shares])
        with torch.inference_mode():
            assert torch.equal(loss(logits, labels), value.detach())
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("wrong", [5, 254, 256, -1])
def test_sum_pixel_losses__a_wrong_label_is_an_error(threads, wrong):
    torch.set_num_threads(threads)
    logits, labels, weights = build_case()
    labels[1, 4, 3] = wrong
    with pytest.raises((RuntimeError, IndexError), match="out of"):
        ours(logits, labels, weights)


@pytest.mark.parametrize(
    ("shape", "size", "classes", "words"),
    [
        ((2, 5, 4, 4), (3, 8, 8), 5, r"found \(2, 5, 4, 4\) and \(3, 8, 8\)"),
        ((2, 5, 4, 4), (2, 1, 8, 8), 5, r"expected logits \(N, C, h, w\) and labels \(N, H, W\)"),
        ((5, 4, 4), (5, 8, 8), 5, r"found \(5, 4, 4\)"),
        ((2, 5, 4, 4), (2, 8, 8), 4, "expected a weight for each of 5 classes; found 4"),
    ],
)
def test_sum_pixel_losses__refuses_shapes(shape, size, classes, words):
    with pytest.raises(ValueError, match=words):
        ours(torch.zeros(shape), torch.zeros(size, dtype=torch.int64), torch.ones(classes))


def test_losses__under_torch_compile():
    logits, labels, weights = build_case(dtype=torch.float32)
    loss = OhemCrossEntropyLoss(5, weights, min_kept=100, threshold=0.3)
    expected = loss(logits, labels) * 2
    (gradient,) = torch.autograd.grad(expected, logits)
    value = torch.compile(lambda x: 2 * loss(x * 1, labels), backend="aot_eager")(logits)
    assert torch.equal(value.detach(), expected.detach())
    assert torch.equal(torch.autograd.grad(value, logits)[0], gradient)


def measure_bytes(compute, logits):
    """Largest allocation and peak of forward and backward, and what is kept between the two."""
    saved = []
    gc.collect()
    with Allocations() as seen, torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        compute(logits).backward()
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in saved}
    storages.pop(logits.untyped_storage().data_ptr(), None)
    return seen.largest, seen.peak, sum(storages.values())


# Twice a block, the logits' gradient and a handful of pixel maps, against whole upsampled logits.
BIG = {"shape": (4, 19, 96, 128), "size": (384, 512), "dtype": torch.float32}


@pytest.mark.parametrize(
    ("loss", "maps"),
    [
        (CrossEntropyLoss(19), 0),
        (FocalLoss(19), 0),
        (OhemCrossEntropyLoss(19, min_kept=20_000), 4),
        (OhemCrossEntropyLoss(19, min_kept=20_000, threshold=0.5), 4),
    ],
    ids=["cross_entropy", "focal", "ohem", "ohem threshold"],
)
def test_losses__bytes(loss, maps):
    logits, labels, weights = build_case(**BIG)
    loss.class_weights = weights
    normalizer = loss.compute_normalizer(labels)
    low, full, pixel_map = 4 * logits.numel(), 4 * 19 * labels.numel(), 4 * labels.numel()
    largest, peak, saved = measure_bytes(lambda x: loss(x, labels, normalizer), logits)
    assert largest <= max(low, 4 * _blocks.CPU_BLOCK, pixel_map)
    assert saved <= low + 64  # and a few scalars
    assert peak <= 2 * low + 3 * 4 * _blocks.CPU_BLOCK + (maps + 0.5) * pixel_map
    plain = measure_bytes(lambda x: plain_cross_entropy(x, labels, weights), logits)
    assert plain[0] == full
    assert plain[1] > 3 * full
    if not maps:
        assert plain[1] > 8 * peak


def count_addmm(total, first, second, *, out_shape=None, **_):
    return 2 * first[0] * first[1] * second[1]


def test_sum_pixel_losses__flops_of_the_upsampling():
    logits, labels, weights = build_case(**BIG)
    # The counter has no entry for products that are added in place.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: count_addmm}) as counter:
        ours(logits, labels, weights).backward()
    # Both ways 2 x 4 for the rows and, for a quarter of them and some more, 2 x 34 for the columns. Dense matrices
    # would take three times that here, and the more the larger the image.
    assert 40 < counter.get_total_flops() / (19 * labels.numel()) < 70


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "size"), SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses__on_a_gpu(shape, size, dtype):
    logits, labels, weights = build_case(shape, size, dtype)
    for loss in (
        CrossEntropyLoss(shape[1], weights),
        FocalLoss(shape[1], weights),
        OhemCrossEntropyLoss(shape[1], weights, min_kept=5),
        OhemCrossEntropyLoss(shape[1], weights, min_kept=5, threshold=0.3),
    ):
        expected = loss(logits, labels)
        (gradient,) = torch.autograd.grad(expected, logits)
        there = logits.detach().cuda().requires_grad_()
        found = loss.cuda()(there, labels.cuda())
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        assert relative_error(found.detach().cpu(), expected.detach()) < tolerance
        assert relative_error(torch.autograd.grad(found, there)[0].cpu(), gradient) < tolerance
