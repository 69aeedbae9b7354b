from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_urbanseg.inference import multi_scale
from hf_urbanseg.inference.multi_scale import predict_probabilities, predict_views
from hf_urbanseg.inference.plan import PLAIN, PredictionPlan
from hf_urbanseg.inference.sliding_window import compute_window_starts
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_random_model

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_random_model("tiny", CITYSCAPES)
    # Random weights barely react to the input; larger ones give maps of several classes.
    nn.init.normal_(model.decode_head.classifier.weight, std=1.0)
    return model.eval()


def _image(height, width):
    generator = torch.Generator().manual_seed(0)
    return F.interpolate(torch.randn(1, 3, height // 9 + 2, width // 9 + 2, generator=generator), (height, width))[0]


@torch.no_grad()
def _naive_logits(model, image, plan, size):
    """MMSegmentation's slide_inference: padded logits of every window summed at full size, divided by their count."""
    (height, width), (window_height, window_width), (step_y, step_x) = image.shape[-2:], plan.window, plan.steps
    total, count = 0, torch.zeros(height, width)
    for row in range(max(height - window_height + step_y - 1, 0) // step_y + 1):
        for column in range(max(width - window_width + step_x - 1, 0) // step_x + 1):
            bottom, right = min(row * step_y + window_height, height), min(column * step_x + window_width, width)
            top, left = max(bottom - window_height, 0), max(right - window_width, 0)
            logits = model(pixel_values=image[None, :, top:bottom, left:right]).logits
            logits = F.interpolate(logits, (bottom - top, right - left), mode="bilinear", align_corners=False)
            total = total + F.pad(logits, (left, width - right, top, height - bottom))
            count[top:bottom, left:right] += 1
    assert count.min() >= 1
    return F.interpolate(total / count, size, mode="bilinear", align_corners=False)[0]


def _naive(model, views, plan, size):
    total = 0
    for image in views:
        total = total + _naive_logits(model, image, plan, size).softmax(0)
        if plan.flip:
            total = total + _naive_logits(model, image.flip(-1), plan, size).softmax(0).flip(-1)
    return total / plan.passes


def test_compute_window_starts__last_one_is_shifted_in():
    assert compute_window_starts(10, 4, 3) == [0, 3, 6]
    assert compute_window_starts(11, 4, 3) == [0, 3, 6, 7]
    assert compute_window_starts(4, 4, 3) == compute_window_starts(3, 4, 3) == [0]
    assert compute_window_starts(5, 4, 4) == [0, 1]


def test_count_inputs__is_what_the_model_is_shown(model):
    plan = PredictionPlan((0.5, 1.0), flip=True, window=(48, 64), stride=(32, 40))
    size, seen = (70, 100), Counter()
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update([tuple(kwargs["pixel_values"].shape[-2:])] * len(kwargs["pixel_values"])),
        with_kwargs=True,
    )
    predict_views(model, [_image(*one)[None] for one in plan.input_sizes(None, size)], [size], plan)
    hook.remove()
    assert seen == plan.count_inputs(None, {size: 1})


@pytest.mark.parametrize("length", range(1, 60))
def test_compute_window_starts__cover_everything(length):
    for window, stride in ((7, 7), (7, 3), (16, 10)):
        starts = compute_window_starts(length, window, stride)
        covered = {position for start in starts for position in range(start, start + window)}
        assert covered >= set(range(length))
        if length >= window:
            assert covered == set(range(length))
            assert starts == sorted(set(starts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((70, 150), (64, 64), None),
        ((150, 70), (64, 64), (32, 64)),
        ((130, 131), (64, 96), (33, 40)),
        ((64, 200), (64, 64), (64, 64)),  # no overlap but the last
        ((40, 100), (64, 64), None),  # higher than the image
    ],
)
def test_predict_probabilities__windows_equal_a_full_size_sum(model, size, window, stride, dtype):
    model = build_random_model("tiny", CITYSCAPES).eval().to(dtype)
    nn.init.normal_(model.decode_head.classifier.weight, std=1.0)
    image = _image(*size).to(dtype)
    for plan in (PredictionPlan(window=window, stride=stride), PredictionPlan((1.0,), True, window, stride)):
        (found,) = predict_probabilities(model, [image[None]], [size], plan)
        expected = _naive(model, [image], plan, size)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-9)
        (prediction,) = predict_views(model, [image[None]], [size], plan)
        chosen = expected.gather(0, prediction.long()[None])[0]
        assert prediction.dtype == torch.uint8
        assert (expected.amax(0) - chosen).max() < 1e-5
        assert len(prediction.unique()) > 2


@pytest.mark.parametrize("block", [2**14, 2**18])
def test_predict_probabilities__windows_of_several_scales(model, block, monkeypatch):
    monkeypatch.setattr(multi_scale, "_CPU_BLOCK", block)
    monkeypatch.setattr(multi_scale, "_STRIPE_WINDOWS", 1.2)
    plan = PredictionPlan((1.0, 1.75, 0.9), True, (64, 64), max_batch_pixels=64 * 64 * 3)
    size = (80, 170)
    views = [_image(*one) for one in plan.input_sizes(None, size)]
    assert [tuple(view.shape[1:]) for view in views] == [(80, 170), (140, 298), (72, 153)]
    (found,) = predict_probabilities(model, [view[None] for view in views], [size], plan)
    torch.testing.assert_close(found, _naive(model, views, plan, size), rtol=0, atol=1e-5)


def test_predict_probabilities__a_scale_that_fits_the_window_is_predicted_whole(model):
    plan, size = PredictionPlan((1.0, 0.5), window=(64, 96)), (80, 170)
    views = [_image(80, 170), _image(40, 85)]
    (found,) = predict_probabilities(model, [view[None] for view in views], [size], plan)
    with torch.no_grad():
        small = F.interpolate(model(views[1][None]).logits, size, mode="bilinear", align_corners=False)[0]
    expected = (_naive_logits(model, views[0], plan, size).softmax(0) + small.softmax(0)) / 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [(64, 96), (70, 100), (4096, 4096)])
def test_predict_views__window_as_large_as_the_image_is_the_plain_prediction(model, window):
    image, size = _image(64, 96), (64, 96)
    (found,) = predict_views(model, [image[None]], [size], PredictionPlan(window=window))
    (expected,) = predict_views(model, [image[None]], [size], PLAIN)
    assert torch.equal(found, expected)


def test_predict_probabilities__batches_of_windows_change_nothing(model):
    images, sizes = [_image(130, 170), _image(40, 90), _image(150, 64)], [(130, 170), (40, 90), (150, 64)]
    found = []
    for pixels in (1024, 3 * 64 * 64, 10**8):
        plan = PredictionPlan((1.0,), True, (64, 64), max_batch_pixels=pixels)
        found.append(list(predict_probabilities(model, [images], sizes, plan)))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


class _Recorder(nn.Module):
    """Remembers the shapes it was given; logits are the pixels of each 4 x 4 patch."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, pixel_values):
        self.shapes.append(tuple(pixel_values.shape))
        return SimpleNamespace(logits=F.avg_pool2d(pixel_values, 4))


def test_predict_views__each_window_once_in_full_batches():
    recorder = _Recorder()
    plan = PredictionPlan(window=(64, 64), stride=(32, 32), max_batch_pixels=5 * 64 * 64)
    predict_views(recorder, [_image(160, 192)[None]], [(160, 192)], plan)  # 4 x 5 windows
    assert recorder.shapes == [(5, 3, 64, 64)] * 4
    recorder.shapes.clear()
    plan = PredictionPlan(window=(64, 64), stride=(32, 32), max_batch_pixels=7 * 64 * 64)
    predict_views(recorder, [_image(160, 192)[None]], [(160, 192)], plan)
    assert recorder.shapes == [(7, 3, 64, 64)] * 2 + [(6, 3, 64, 64)]


def test_predict_probabilities__a_mirrored_image_gives_the_mirrored_prediction(model):
    # 151 columns: the last window, shifted in, is on the other side in the mirror.
    plan, image = PredictionPlan((1.0,), True, (64, 64)), _image(70, 151)
    (one,) = predict_probabilities(model, [image[None]], [(70, 151)], plan)
    (other,) = predict_probabilities(model, [image.flip(-1)[None]], [(70, 151)], plan)
    torch.testing.assert_close(one, other.flip(-1), rtol=0, atol=1e-5)
    assert (one - other).abs().max() > 0.1


class _Cheap(nn.Module):
    """19 classes from the pixels of each 4 x 4 patch, in next to no memory of its own."""

    def forward(self, pixel_values):
        logits = F.avg_pool2d(pixel_values, 4)[:, :1].repeat(1, 19, 1, 1)
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("plan", [PredictionPlan(window=(128, 128)), PredictionPlan((0.9,), True, (128, 128))])
@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_predict_views__memory_of_windows_is_flat_in_image_size(allocations, plan, shape):
    plan = replace(plan, max_batch_pixels=4 * 128 * 128)
    peaks = []
    for length in (1024, 2048):
        size = (length, 160) if shape == "tall" else (160, length)
        views = [torch.zeros(1, 3, *one) for one in plan.input_sizes(None, size)]
        with allocations() as made:
            predict_views(_Cheap(), views, [size], plan)
        # Besides the input, the label map alone grows.
        peaks.append(made.peak - size[0] * size[1])
        assert made.largest <= max(4 * multi_scale._CPU_BLOCK, size[0] * size[1])
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 19 * 4 * size[0] * size[1] / 2  # a map of logits at the image's size would be twice this


def test_predict_views__memory_of_windows_does_not_grow_to_the_crop_of_several_scales(allocations):
    plan, size = PredictionPlan((1.0, 4.0), window=(128, 128), max_batch_pixels=4 * 128 * 128), (96, 160)
    views = [torch.zeros(1, 3, *one) for one in plan.input_sizes(None, size)]
    with allocations() as made:
        predict_views(_Cheap(), views, [size], plan)
    # A block of the result comes from one 16 times larger, which stays within the limit (and its border).
    assert made.largest <= 2 * 4 * multi_scale._CPU_BLOCK
