from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from hf_urbanseg.data.collator import stack_views
from hf_urbanseg.data.preprocessing import build_views
from hf_urbanseg.errors import OutOfMemoryError
from hf_urbanseg.inference import multi_scale
from hf_urbanseg.inference.multi_scale import predict_probabilities, predict_views
from hf_urbanseg.inference.plan import PLAIN, REPORT_RATIOS, PredictionPlan
from hf_urbanseg.inference.upsampling import upsample_argmax
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_image_processor, build_random_model

torch.set_num_threads(1)
BASE = (64, 96)
SIZES = [(75, 124), (40, 33), (64, 96), (75, 124)]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_random_model("tiny", CITYSCAPES)
    # Random weights barely react to the input; larger ones give maps of several classes.
    nn.init.normal_(model.decode_head.classifier.weight, std=1.0)
    return model.eval()


@pytest.fixture(scope="module")
def processor():
    return build_image_processor(BASE)


def _images(sizes=SIZES):
    rng = np.random.default_rng(0)
    small = (rng.integers(0, 256, (6, 9, 3), dtype=np.uint8) for _ in sizes)
    return [Image.fromarray(pixels).resize((w, h)) for pixels, (h, w) in zip(small, sizes, strict=True)]


def _views(images, processor, plan):
    sizes = partial(plan.input_sizes, None if plan.window else BASE)
    return stack_views([build_views(image, processor, sizes) for image in images])


def _sizes(images):
    return [(image.height, image.width) for image in images]


@torch.no_grad()
def _naive(model, image, plan, autocast=nullcontext):
    """The definition, pass by pass: PIL resize, forward, interpolate, softmax, unflip, mean."""
    dtype, size, total = next(model.parameters()).dtype, (image.height, image.width), 0
    for ratio in plan.ratios:
        height, width = (max(32, int(side * ratio + 16) // 32 * 32) for side in BASE)
        pixels = torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.BILINEAR)))
        pixels = ((pixels / 255 - MEAN) / STD).permute(2, 0, 1)[None].to(dtype)
        for flip in (False, True)[: 1 + plan.flip]:
            with autocast():
                logits = model(pixel_values=pixels.flip(-1) if flip else pixels).logits
            logits = logits if dtype == torch.float64 else logits.float()
            scores = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0].softmax(0)
            total = total + (scores.flip(-1) if flip else scores)
    return total / plan.passes


def _disagreement(prediction, probabilities):
    """By how much the chosen class is below the best at most: 0 where it is the best, tiny where rounding decided."""
    chosen = probabilities.gather(0, prediction.long()[None])[0]
    return float((probabilities.amax(0) - chosen).max())


TWELVE = PredictionPlan(REPORT_RATIOS, flip=True)


@pytest.mark.parametrize(
    ("plan", "dtype", "tolerance"),
    [(TWELVE, torch.float32, 1e-5)]
    + [(PredictionPlan((0.5, 1.3), False), *how) for how in ((torch.float64, 2e-6), (torch.float32, 1e-5))]
    + [(PredictionPlan((1.0,), True), *how) for how in ((torch.float64, 2e-6), (torch.float32, 1e-5))],
)
def test_predict_probabilities__equals_the_definition(model, processor, plan, dtype, tolerance):
    # 2e-6 because the pixels of both are fp32.
    model = build_random_model("tiny", CITYSCAPES).to(dtype).eval().requires_grad_(True)
    torch.manual_seed(1)
    nn.init.normal_(model.decode_head.classifier.weight, std=1.0)
    images = _images()
    views = _views(images, processor, plan)
    found = list(predict_probabilities(model, views, _sizes(images), plan))
    predictions = predict_views(model, views, _sizes(images), plan)
    for image, one, prediction in zip(images, found, predictions, strict=True):
        expected = _naive(model, image, plan)
        assert one.dtype == dtype
        assert not one.requires_grad
        torch.testing.assert_close(one, expected, rtol=0, atol=tolerance)
        assert (prediction.shape, prediction.dtype) == (expected.shape[1:], torch.uint8)
        assert _disagreement(prediction, expected) <= 2 * tolerance
        assert len(prediction.unique()) > 2  # a constant map would agree with anything


def test_predict_views__one_plain_pass_is_bitwise_the_argmax_of_its_logits(model, processor):
    images = _images()
    pixel_values = processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = upsample_argmax(model(pixel_values=pixel_values).logits, _sizes(images))
    for views in ([pixel_values], _views(images, processor, PLAIN)):
        found = predict_views(model, views, _sizes(images))
        assert all(torch.equal(a.long(), b) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def expected_of_twelve(model):
    return [_naive(model, image, TWELVE) for image in _images()]


@pytest.mark.parametrize(("max_batch_pixels", "batch_size"), [(1024, 4), (20_000, 3), (60_000, 4), (10**9, 1)])
def test_predict_probabilities__batching_changes_nothing(
    model, processor, expected_of_twelve, max_batch_pixels, batch_size
):
    images, expected = _images(), expected_of_twelve
    plan = PredictionPlan(REPORT_RATIOS, flip=True, max_batch_pixels=max_batch_pixels)
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        found = predict_probabilities(model, _views(batch, processor, plan), _sizes(batch), plan)
        for one, other in zip(found, expected[start : start + batch_size], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


class _Recorder(nn.Module):
    """Remembers the shapes it was given; logits are the pixels of each 4 x 4 patch."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, pixel_values):
        self.shapes.append(tuple(pixel_values.shape))
        return SimpleNamespace(logits=F.avg_pool2d(pixel_values, 4))


def test_predict_views__few_batches_within_the_pixel_limit(processor):
    images, recorder = _images([(64, 96)] * 3), _Recorder()
    pixels = 64 * 96
    plan = PredictionPlan((0.5, 1.0, 2.0), flip=True, max_batch_pixels=4 * pixels)
    predict_views(recorder, _views(images, processor, plan), _sizes(images), plan)
    # Six views (three images, each with its mirror image) at every scale.
    assert recorder.shapes == [(6, 3, 32, 64)] + [(4, 3, 64, 96), (2, 3, 64, 96)] + [(1, 3, 128, 192)] * 6


def test_predict_views__unequal_views_share_a_batch_where_they_can():
    images = [torch.rand(3, *size) for size in ((32, 64), (64, 32), (32, 64))]
    recorder = _Recorder()
    found = predict_views(recorder, [images], [(16, 32), (16, 16), (20, 20)])
    assert sorted(recorder.shapes) == [(1, 3, 64, 32), (2, 3, 32, 64)]
    for one, image, size in zip(found, images, [(16, 32), (16, 16), (20, 20)], strict=True):
        assert torch.equal(one.long(), upsample_argmax(F.avg_pool2d(image[None], 4), [size])[0])


def test_predict_views__waiting_logits_are_bounded(model, processor, monkeypatch):
    images, plan = _images(), PredictionPlan((1.0, 2.0), flip=True, max_batch_pixels=64 * 96)
    expected = predict_views(model, _views(images, processor, plan), _sizes(images), plan)
    # 10 image areas wait per image: one image at a time, and 4 forward passes of 1 + 8 batches each.
    monkeypatch.setattr(multi_scale, "_WAITING_PASSES", 12)
    groups = list(multi_scale._group_images(_views(images, processor, plan), plan))
    assert groups == [[0], [1], [2], [3]]
    monkeypatch.setattr(multi_scale, "_WAITING_PASSES", 20)
    assert list(multi_scale._group_images(_views(images, processor, plan), plan)) == [[0, 1], [2, 3]]
    found = predict_views(model, _views(images, processor, plan), _sizes(images), plan)
    assert all((a == b).float().mean() > 0.999 for a, b in zip(found, expected, strict=True))


class _Symmetric(nn.Module):
    """A model that commutes with mirroring: its kernel is its own mirror image."""

    def __init__(self):
        super().__init__()
        kernel = torch.randn(7, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.kernel = nn.Parameter(kernel + kernel.flip(-1))

    def forward(self, pixel_values):
        logits = F.conv2d(F.pad(pixel_values, (0, 0, 1, 0)), self.kernel, stride=4)
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("flip", [False, True])
def test_predict_views__a_mirrored_image_gives_the_mirrored_prediction(processor, model, flip):
    # With flip any model does; without, only one that is symmetric itself.
    model = model if flip else _Symmetric()
    plan = PredictionPlan((0.5, 1.0, 1.5), flip=flip)
    (image,) = _images([(75, 125)])
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, other = (
        next(predict_probabilities(model, _views([view], processor, plan), [(75, 125)], plan))
        for view in (image, mirrored)
    )
    torch.testing.assert_close(one, other.flip(-1), rtol=0, atol=1e-5)
    assert (one - other).abs().max() > 0.1


def test_predict_views__flip_of_a_symmetric_model_changes_nothing(processor):
    images, model = _images(), _Symmetric()
    found = []
    for flip in (False, True):
        plan = PredictionPlan((0.5, 1.0), flip=flip)
        found.append(list(predict_probabilities(model, _views(images, processor, plan), _sizes(images), plan)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_predict_probabilities__autocast(model, processor):
    def autocast():
        return torch.autocast("cpu", torch.bfloat16)

    images = _images([(75, 124)])
    views = _views(images, processor, TWELVE)
    (found,) = predict_probabilities(model, views, _sizes(images), TWELVE, autocast=autocast)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(0), torch.ones(75, 124))
    plain = _naive(model, images[0], TWELVE)
    # Other batches round other sums to bf16: the difference is within what bf16 itself changes.
    noise = (_naive(model, images[0], TWELVE, autocast) - plain).abs()
    assert noise.max() > 1e-4
    assert (found - plain).abs().max() < 3 * noise.max()
    assert (found - plain).abs().mean() < 1.5 * noise.mean()


def test_predict_probabilities__large_logits_don_t_overflow():
    class Loud(nn.Module):
        def forward(self, pixel_values):
            sign = F.avg_pool2d(pixel_values, 4)[:, :1].sign() * 1e4
            return SimpleNamespace(logits=torch.cat([sign, -sign], 1))

    views = [torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))] * 2
    (found,) = predict_probabilities(Loud(), views, [(50, 50)], PredictionPlan((1.0, 2.0)))
    torch.testing.assert_close(found.sum(0), torch.ones(50, 50))
    assert 0 < found[0].mean() < 1


def test_predict_views__no_probabilities_of_a_whole_image(allocations):
    plan, size = PredictionPlan(REPORT_RATIOS, True, max_batch_pixels=2**18), (384, 640)
    views = [torch.zeros(2, 3, *one) for one in plan.input_sizes(size, size)]

    class Cheap(nn.Module):
        def forward(self, pixel_values):
            return SimpleNamespace(logits=F.avg_pool2d(pixel_values, 4)[:, :1].repeat(1, 19, 1, 1))

    with allocations() as made:
        predict_views(Cheap(), views, [size] * 2, plan, visit=lambda index, rows, columns, logits: logits.softmax(0))
    at_native_size = 19 * 4 * size[0] * size[1]
    waiting = sum(19 * 4 * 4 * (view.shape[-2] // 4) * (view.shape[-1] // 4) for view in views)
    batch = 4 * views[-1][0].numel()  # one image at the largest scale, above `max_batch_pixels`
    assert made.largest <= batch
    assert made.peak < waiting + 2 * batch + at_native_size / 8
    assert waiting < sum(4 * view.numel() for view in views)  # less than the input


@pytest.mark.parametrize(
    ("plan", "what", "window"),
    [
        (PLAIN, "", True),
        (PredictionPlan(REPORT_RATIOS, flip=True), " in 12 passes", True),
        (PredictionPlan(window=(32, 32)), "", False),
    ],
)
def test_predict_views__memory_that_runs_out(model, processor, plan, what, window):
    def fail(module, args, kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    images = _images()
    handle = model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(OutOfMemoryError) as found:
        predict_views(model, _views(images, processor, plan), _sizes(images), plan)
    handle.remove()
    largest = {"": "64x96", " in 12 passes": "128x160"}[what] if window else "75x124"
    text = str(found.value)
    assert text.startswith(
        f"expected memory for predicting 4 images of up to {largest} (height x width){what}; found CUDA"
    )
    assert "`--batch_size` (`--per_device_eval_batch_size` in training), or `--max_batch_pixels`" in text
    assert ("`--sliding_window`" in text) == window
