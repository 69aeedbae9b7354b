import math

import numpy as np
import pytest
import torch
from loss_cases import LAYOUTS, build_case, run_step

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.losses.ohem import OhemCrossEntropyLoss, find_kth_largest

MODES = (None, 0.5)


def reference(logits, labels, weights, normalizer, min_kept, threshold):
    """Loss, gradient and kept pixels, pixel by pixel, straight from the definition."""
    logits, labels = logits.detach().numpy(), labels.numpy()
    pixels = [index for index in np.ndindex(labels.shape) if labels[index] != 255]
    prob, loss, weight, softmax = {}, {}, {}, {}
    for image, row, column in pixels:
        index, values = (image, row, column), logits[image, :, row, column]
        label = labels[index]
        scale = values.max() + math.log(math.fsum(math.exp(v - values.max()) for v in values))
        softmax[index] = np.array([math.exp(v - scale) for v in values])
        prob[index], weight[index] = math.exp(values[label] - scale), weights[label]
        loss[index] = weights[label] * (scale - values[label])
    k = min_kept * len(labels)
    if threshold is None:
        cut = sorted(loss.values(), reverse=True)[min(k, len(pixels)) - 1] if pixels else 0
        kept = {index for index in pixels if loss[index] >= cut}
    else:
        cut = sorted(prob.values())[min(k, len(pixels)) - 1] if pixels and k else -1
        kept = {index for index in pixels if prob[index] < threshold or prob[index] <= cut}
    denominator = (len(pixels) if normalizer == "valid_pixels" else math.fsum(weight.values())) or 1
    gradient = np.zeros_like(logits)
    for image, row, column in kept:
        index = (image, row, column)
        gradient[image, :, row, column] = weight[index] * softmax[index] / denominator
        gradient[image, labels[index], row, column] -= weight[index] / denominator
    return math.fsum(loss[index] for index in kept) / denominator, gradient, kept


def draw_random_case(seed):
    """Small sizes; half have many exact ties, and the awkward corners come up often."""
    rng = np.random.default_rng(seed)
    images, classes, height, width = rng.integers(1, 4), rng.integers(2, 5), rng.integers(1, 6), rng.integers(1, 7)
    pixels = images * height * width
    vectors = 2 * rng.standard_normal((pixels, classes))
    labels = rng.integers(0, classes, pixels)
    if seed % 2 == 0:  # few distinct pixels, repeated
        drawn = rng.integers(0, min(4, pixels), pixels)
        vectors, labels = vectors[drawn], labels[drawn]
    void = rng.choice([0.0, 0.3, 0.8])
    labels = np.where(rng.random(pixels) < void, 255, labels)
    if seed % 20 == 1:
        labels[:] = 255
    if seed % 20 == 2:
        keep = rng.integers(pixels)
        labels[:keep], labels[keep + 1 :] = 255, 255
    logits = torch.from_numpy(vectors.reshape(images, height, width, classes)).permute(0, 3, 1, 2).contiguous()
    weights = rng.uniform(0.25, 2, classes) if rng.random() < 0.6 else np.ones(classes)
    threshold = None if rng.random() < 0.5 else float(rng.choice([0.05, 0.3, 0.5, 0.9, 1.0]))
    min_kept = int(rng.integers(threshold is None, height * width + 2))
    normalizer = str(rng.choice(["valid_pixels", "weight_sum"]))
    return logits.requires_grad_(), torch.from_numpy(labels.reshape(images, height, width)), (
        weights, normalizer, min_kept, threshold
    )  # fmt: skip


def test_ohem__equals_a_plain_loop_on_random_cases():
    seen = dict.fromkeys(["void", "one", "ties", "all", "some", "beyond", "threshold", "loss"], 0)
    for seed in range(400):
        logits, labels, (weights, normalizer, min_kept, threshold) = draw_random_case(seed)
        loss = OhemCrossEntropyLoss(logits.shape[1], weights, normalizer, min_kept, threshold)
        value = loss(logits, labels)
        (gradient,) = torch.autograd.grad(value, logits)
        expected, expected_gradient, kept = reference(logits, labels, weights, normalizer, min_kept, threshold)
        assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-15), seed
        np.testing.assert_allclose(gradient.numpy(), expected_gradient, rtol=1e-11, atol=1e-15, err_msg=str(seed))
        valid = int((labels != 255).sum())
        assert loss.diagnostics["kept_share"].item() == pytest.approx(len(kept) / max(valid, 1), rel=1e-6)
        k = min_kept * len(labels)
        seen["void"] += valid == 0
        seen["one"] += valid == 1
        seen["beyond"] += k > valid > 0
        seen["all"] += len(kept) == valid > 0
        seen["some"] += 0 < len(kept) < valid
        seen["ties"] += threshold is None and k < len(kept) < valid
        seen["loss" if threshold is None else "threshold"] += 1
    assert min(seen.values()) >= 12, seen


# True-class probabilities of a 1 x 5 image with two classes, all labelled 0: 0.1, 0.5, 0.8, 0.5, 0.9, then one void.
PROBS = [0.1, 0.5, 0.8, 0.5, 0.9]


def build_row():
    logits = torch.tensor([[[[*(math.log(p / (1 - p)) for p in PROBS), -9.0]], [[0.0] * 6]]], dtype=torch.float64)
    return logits.requires_grad_(), torch.tensor([[[0] * 5 + [255]]])


@pytest.mark.parametrize(
    ("min_kept", "threshold", "kept", "cut"),
    [
        (1, None, [0.1], -math.log(0.1)),
        (2, None, [0.1, 0.5, 0.5], -math.log(0.5)),  # a tie with the second
        (4, None, [0.1, 0.5, 0.8, 0.5], -math.log(0.8)),
        (5, None, PROBS, -math.log(0.9)),
        (6, None, PROBS, 0.0),
        (0, 0.5, [0.1], 0.5),  # 0.5 is not below 0.5
        (0, 0.6, [0.1, 0.5, 0.5], 0.6),
        (1, 0.5, [0.1], 0.5),
        (2, 0.5, [0.1, 0.5, 0.5], 0.5),
        (4, 0.5, [0.1, 0.5, 0.8, 0.5], 0.8),
        (3, 0.85, [0.1, 0.5, 0.8, 0.5], 0.85),  # more than min_kept are below the threshold
        (5, 0.5, PROBS, 0.9),  # MMSegmentation would leave out the easiest here
        (9, 0.5, PROBS, 1.0),
        (0, 0.05, [], 0.05),
    ],
)
def test_ohem__hand_computed_row(min_kept, threshold, kept, cut):
    logits, labels = build_row()
    loss = OhemCrossEntropyLoss(2, None, "valid_pixels", min_kept, threshold)
    value = loss(logits, labels)
    assert value.item() == pytest.approx(sum(-math.log(p) for p in kept) / 5, rel=1e-12)
    assert loss.diagnostics["kept_share"].item() == pytest.approx(len(kept) / 5, rel=1e-6)
    assert loss.diagnostics["cut"].item() == pytest.approx(cut, rel=1e-12)
    assert not any(entry.requires_grad for entry in loss.diagnostics.values())


def test_ohem__k_is_pooled_over_the_images():
    # One pixel per image is asked for; both hardest lie in the first.
    logits = torch.tensor([[[[-3.0, -2.0]], [[0.0, 0.0]]], [[[4.0, 5.0]], [[0.0, 0.0]]]], requires_grad=True)
    OhemCrossEntropyLoss(2, min_kept=1)(logits, torch.zeros(2, 1, 2, dtype=torch.int64)).backward()
    assert logits.grad.abs().sum(1).bool().tolist() == [[[True, True]], [[False, False]]]


def test_ohem__weights_choose_without_a_threshold_but_not_with_one():
    # The second pixel is the harder one, the first one's class weighs more.
    logits = torch.tensor([[[[0.5, -1.0]], [[0.0, 0.0]]]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[[0, 1]]])
    logits = logits * torch.tensor([1.0, -1.0])
    for threshold, hardest in ((None, 0), (0.01, 1)):
        loss = OhemCrossEntropyLoss(2, [8.0, 1.0], "valid_pixels", 1, threshold)
        (gradient,) = torch.autograd.grad(loss(logits, labels), logits, retain_graph=True)
        assert gradient.abs().sum(1).bool().tolist() == [[[hardest == 0, hardest == 1]]]


@pytest.mark.parametrize("normalizer", ["valid_pixels", "weight_sum"])
@pytest.mark.parametrize(("min_kept", "threshold"), [(63, None), (10**9, None), (63, 0.5), (10**9, 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ohem__keeping_every_pixel_is_cross_entropy(normalizer, min_kept, threshold, dtype):
    logits, labels, weights = build_case(dtype=dtype, void=0.0)
    labels[0, 0, 0] = 255
    ours = OhemCrossEntropyLoss(5, weights, normalizer, min_kept, threshold)(logits, labels)
    plain = CrossEntropyLoss(5, weights, normalizer)(logits, labels)
    assert torch.equal(ours, plain)
    assert torch.equal(*(torch.autograd.grad(each, logits)[0] for each in (ours, plain)))


@pytest.mark.parametrize(("min_kept", "threshold"), [(5, None), (10**6, None), (0, 0.5), (5, 0.5), (10**6, 0.5)])
def test_ohem__a_nan_stays_in_the_loss(min_kept, threshold):
    """Left out as not hard, it would go unnoticed until the weights are lost."""
    logits, labels, weights = build_case()
    labels[1, 2, 3] = 0
    broken = logits.detach().clone()
    broken[1, :, 2, 3] = math.nan
    assert math.isnan(OhemCrossEntropyLoss(5, weights, min_kept=min_kept, threshold=threshold)(broken, labels))


@pytest.mark.parametrize("threshold", MODES)
def test_ohem__ignored_and_easy_pixels_get_exactly_no_gradient(threshold):
    logits, labels, weights = build_case()
    loss = OhemCrossEntropyLoss(5, weights, min_kept=10, threshold=threshold)
    loss(logits, labels).backward()
    touched = logits.grad.abs().sum(1).bool()
    assert not touched[labels == 255].any()
    assert touched.sum() == round(float(loss.diagnostics["kept_share"]) * int((labels != 255).sum())) >= 30
    assert touched.sum() < (labels != 255).sum()
    assert logits.grad.bool().all(1).sum() == touched.sum()


@pytest.mark.parametrize("threshold", MODES)
def test_ohem__upsamples_the_logits_and_gradcheck_with_everything_kept(threshold):
    logits, _, weights = build_case(images=2, size=(2, 3))
    labels = build_case(1, images=2, size=(4, 5))[1]
    loss = OhemCrossEntropyLoss(5, weights, min_kept=20, threshold=threshold)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (logits,), eps=1e-6, atol=1e-7)
    assert loss.diagnostics["kept_share"] == 1


@pytest.mark.parametrize("threshold", MODES)
def test_ohem__gradcheck_where_the_choice_holds_still(threshold):
    logits, labels, weights = build_case(images=2, size=(3, 4))
    loss = OhemCrossEntropyLoss(5, weights, min_kept=4, threshold=threshold)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (logits,), eps=1e-6, atol=1e-7)
    assert loss.diagnostics["kept_share"] < 1


@pytest.mark.parametrize("threshold", MODES)
@pytest.mark.parametrize("count", [1, 40])
def test_ohem__a_diverged_model_is_not_mistaken_for_an_easy_one(threshold, count):
    logits, labels, weights = build_case(void=0.0)
    with torch.no_grad():
        logits[0].flatten(1)[:, :count] = math.nan
    for scope in ("process", "global"):
        loss = OhemCrossEntropyLoss(5, weights, min_kept=2, threshold=threshold, scope=scope)
        if loss.needs_collection:
            loss.collect(logits, labels)
            loss.settle(lambda tensor: tensor)
        assert loss(logits, labels).isnan()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("min_kept", "threshold"), [(5, None), (5, 0.5), (30, 0.5), (1000, None), (0, 0.7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ohem_global__any_layout_is_the_whole_batch(layout, min_kept, threshold, dtype):
    logits, labels, weights = build_case(images=8, dtype=dtype)
    labels[5] = 255  # a micro-batch without labels
    labels[0, 3:] = 255

    def build_loss(scope="global"):
        return OhemCrossEntropyLoss(5, weights, "valid_pixels", min_kept, threshold, scope)

    whole = build_loss("process")
    value = whole(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    added, gradients, cuts = run_step(build_loss, logits, labels, layout)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert float(added) == pytest.approx(value.item(), rel=tolerance)
    torch.testing.assert_close(gradients, gradient, rtol=tolerance, atol=0)
    assert torch.equal(gradients.bool(), gradient.bool())
    assert all(torch.equal(cut, whole.diagnostics["cut"]) for cut in cuts)


def test_ohem_global__a_rank_without_labels_takes_part():
    logits, labels, weights = build_case(images=4)
    labels[2:] = 255
    _, gradients, _ = run_step(lambda: OhemCrossEntropyLoss(5, weights, min_kept=5, scope="global"), logits, labels,
                               [[2], [2]])  # fmt: skip
    # K counts the images without labels too.
    assert gradients.abs().sum(1).bool().sum() == 4 * 5
    assert not gradients[2:].any()


def test_ohem_process__choice_depends_on_the_micro_batch():
    logits, labels, weights = build_case(images=2)
    logits = logits.detach() * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)  # most hard pixels are in the second image
    loss = OhemCrossEntropyLoss(5, weights, min_kept=5)
    common = loss.compute_normalizer(labels)
    parts = sum(float(loss(x[None], y[None], common)) for x, y in zip(logits, labels, strict=True))
    assert parts < float(loss(logits, labels)) * (1 - 1e-6)


def test_ohem_global__collecting_keeps_four_bytes_a_labelled_pixel_and_no_graph():
    logits, labels, weights = build_case(dtype=torch.float32)
    loss = OhemCrossEntropyLoss(5, weights, min_kept=5, scope="global")
    loss.collect(logits, labels)
    (stored,) = loss._collected
    assert stored.untyped_storage().nbytes() == 4 * int((labels != 255).sum())
    assert not stored.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_find_kth_largest__equals_sorting(dtype):
    generator = torch.Generator().manual_seed(0)
    for case in range(60):
        values = torch.randn(int(torch.randint(1, 50, (), generator=generator)), generator=generator, dtype=dtype).exp()
        if case % 3 == 0:
            values = values.round()  # ties, and zeros
        if case % 5 == 0:
            values[0] = math.inf
        for k in {1, 2, len(values) // 2, len(values)} - {0}:
            expected = values.sort(descending=True).values[k - 1] if k <= len(values) else torch.zeros(())
            assert torch.equal(find_kth_largest(values, k), expected.to(dtype)), (case, k)


def test_find_kth_largest__tiny_and_neighbouring_values():
    tiny = torch.tensor([0.0, 1e-45, 1e-40, 1.0, 1.0000001, 3e38])
    found = [find_kth_largest(tiny, k).item() for k in range(1, 8)]
    assert found == [*tiny.flip(0).tolist(), 0.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_kept": -1}, "expected `min_kept` of 0 or more; found -1"),
        ({"min_kept": 0}, "expected `min_kept` above 0 or a `threshold`"),
        ({"threshold": 0.0}, "expected `threshold` above 0, up to 1; found 0.0"),
        ({"threshold": 1.5}, "found 1.5"),
        ({"threshold": -0.5}, "found -0.5"),
        ({"threshold": math.nan}, "found nan"),
        ({"scope": "rank"}, "expected `scope` process or global; found 'rank'"),
        ({"normalizer": "mean"}, "expected `normalizer`"),
        ({"class_weights": [1.0]}, "expected 5 class weights"),
    ],
)
def test_ohem__refuses(options, words):
    with pytest.raises(ConfigError) as caught:
        OhemCrossEntropyLoss(5, **options)
    assert words in str(caught.value)
