import pytest
import torch
import torch.nn.functional as F
from baseline_models import Weights, build, calibrate, draw_images, measure_spread, resize
from segformer_references import randomize

from hf_urbanseg.models.baselines.deeplabv3plus import (
    DeepLabV3PlusConfig,
    DeepLabV3PlusHead,
    DepthwiseConv2d,
    DepthwiseSeparableBlock,
)


def compute_logits(weights, dilations, first, last, prefix=""):
    """Chen et al. 2018 as MMSegmentation's `DepthwiseSeparableASPPHead`."""
    pooled = weights.block(f"{prefix}image_pool", last.flatten(2).mean(-1)[..., None, None])
    parts = [resize(pooled, last.shape[2:])]
    for n, dilation in enumerate(dilations):
        name = f"{prefix}aspp.{n}"
        parts.append(weights.block(name, last) if dilation == 1 else weights.separable(name, last, dilation))
    hidden = weights.block(f"{prefix}bottleneck", torch.cat(parts, dim=1), padding=1)
    hidden = torch.cat([resize(hidden, first.shape[2:]), weights.block(f"{prefix}low_level", first)], dim=1)
    for n in range(2):
        hidden = weights.separable(f"{prefix}refinement.{n}", hidden)
    return weights.conv(f"{prefix}classifier", hidden)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("dilations", "size"), [((1, 2, 3, 5), (7, 9)), ((2, 1), (1, 4)), ((1, 12, 24, 36), (13, 26))])
def test_deeplabv3plus_head__logits_of_the_reference(dilations, size, training):
    config = DeepLabV3PlusConfig(
        hidden_sizes=[16, 4, 4, 12], num_labels=5, head_dilations=dilations, classifier_dropout_prob=0.0
    )
    first = draw_images(3, 16, 2 * size[0] - 1, 2 * size[1], dtype=torch.float64)
    last = draw_images(3, 12, *size, dtype=torch.float64, seed=1)
    head = calibrate(randomize(DeepLabV3PlusHead(config)).double(), [first, last]).train(training)
    with torch.no_grad():
        expected = compute_logits(Weights(head, training), dilations, first, last)
        logits = head([first, torch.zeros(1), last])
    assert measure_spread(expected) > 0.1
    assert logits.shape == (3, 5, *first.shape[2:])
    assert (logits - expected).abs().max() < 1e-12


def test_depthwise_separable_block__by_hand():
    block = DepthwiseSeparableBlock(1, 1, dilation=2).double().eval()
    weight = torch.arange(1.0, 10.0, dtype=torch.float64).view(3, 3)
    block[0].conv.weight.data[0, 0], block[1].conv.weight.data[:] = weight, 2.0
    image = torch.zeros(1, 1, 5, 6, dtype=torch.float64)
    image[0, 0, 2, 3], image[0, 0, 1, 1] = 1.0, -1.0
    expected = torch.zeros(5, 6, dtype=torch.float64)
    # Around the 1, two pixels apart, the weights backwards; around the -1 they are negative and cut off.
    expected[0::2, 1::2] = torch.tensor([[9.0, 8, 7], [6, 5, 4], [3, 2, 1]], dtype=torch.float64)
    # Two BatchNorms divide by sqrt(1 + 1e-5) each.
    assert (block(image)[0, 0] * (1 + 1e-5) - 2 * expected).abs().max() < 1e-12


@pytest.mark.parametrize(("widths", "low_level", "width"), [((64, 512), 12, 128), ((256, 2048), 48, 512)])
def test_deeplabv3plus_head__widths_of_mmsegmentation(widths, low_level, width):
    first, last = widths
    config = DeepLabV3PlusConfig(hidden_sizes=[first, 128, 256, last], num_labels=19)
    assert config.head_dilations == (1, 12, 24, 36)
    with torch.device("meta"):
        head = DeepLabV3PlusHead(config)
    assert [getattr(one, "conv", None) is not None for one in head.aspp] == [True, False, False, False]
    assert head.low_level.conv.weight.shape == (low_level, first, 1, 1)
    assert head.bottleneck.conv.weight.shape == (width, 5 * width, 3, 3)
    assert head.refinement[0][1].conv.weight.shape == (width, width + low_level, 1, 1)
    assert head.classifier.weight.shape == (19, width, 1, 1)


def test_deeplabv3plus__is_its_head_on_the_first_and_last_map():
    model = build("deeplabv3plus").double()
    images = draw_images(2, 3, 61, 90, dtype=torch.float64)
    with torch.no_grad():
        maps = model.backbone(images)
        expected = compute_logits(Weights(model), (1, 2, 3), maps[0], maps[-1], "decode_head.")
        logits = model(images).logits
    assert logits.shape == (2, 19, 16, 23)
    assert (logits - expected).abs().max() < 1e-12


@pytest.mark.parametrize("size", [(7, 9), (1, 4), (2, 3), (13, 26)])
@pytest.mark.parametrize("dilation", [1, 2, 3, 12])
def test_depthwise_conv__output_and_gradients_of_torchs(dilation, size):
    torch.manual_seed(0)
    conv = DepthwiseConv2d(5, dilation).double().train()
    x = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 5, *size, dtype=torch.float64)
    results = []
    for compute in (conv, lambda x: F.conv2d(x, conv.weight, padding=dilation, dilation=dilation, groups=5)):
        out = compute(x)
        results.append([out, *torch.autograd.grad(out, [x, conv.weight], grad)])
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-12
    assert results[0][0].abs().max() > 0.1


def test_depthwise_conv__autocast_and_channels_last():
    torch.manual_seed(0)
    conv = DepthwiseConv2d(5, 4).train()
    x = torch.randn(3, 5, 9, 9)
    out = conv(x)
    torch.testing.assert_close(conv(x.to(memory_format=torch.channels_last)), out)
    with torch.autocast("cpu", torch.bfloat16):
        half = conv(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), out, atol=3e-2, rtol=3e-2)
    torch.testing.assert_close(conv.eval()(x), out)
