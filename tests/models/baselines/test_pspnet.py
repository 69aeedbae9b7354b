import pytest
import torch
from baseline_models import Weights, build, calibrate, draw_images, measure_spread, resize
from segformer_references import randomize

from hf_urbanseg.models.baselines.pspnet import PSPHead, PSPNetConfig


def pool(x, side):
    """Means over `side` x `side` parts, which overlap where the map does not divide."""
    height, width = x.shape[2:]
    rows = []
    for row in range(side):
        top, bottom = row * height // side, -(-(row + 1) * height // side)
        parts = []
        for column in range(side):
            left, right = column * width // side, -(-(column + 1) * width // side)
            parts.append(x[:, :, top:bottom, left:right].sum((2, 3)) / ((bottom - top) * (right - left)))
        rows.append(torch.stack(parts, dim=-1))
    return torch.stack(rows, dim=-2)


def compute_logits(weights, scales, last, prefix=""):
    """Zhao et al. 2017 as MMSegmentation's `PSPHead`."""
    parts = [last]
    for n, scale in enumerate(scales):
        parts.append(resize(weights.block(f"{prefix}pools.{n}", pool(last, scale)), last.shape[2:]))
    hidden = weights.block(f"{prefix}bottleneck", torch.cat(parts, dim=1), padding=1)
    return weights.conv(f"{prefix}classifier", hidden)


def build_head(**fields):
    config = PSPNetConfig(hidden_sizes=[4, 4, 4, 12], num_labels=5, classifier_dropout_prob=0.0, **fields)
    return calibrate(randomize(PSPHead(config)), [draw_images(2, 12, 12, 18)]).double()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(12, 18), (7, 11), (2, 5), (1, 1)])  # multiples of the grids, not, and less
def test_psp_head__logits_of_the_reference(size, training):
    head = build_head().train(training)
    last = draw_images(3, 12, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = compute_logits(Weights(head, training), (1, 2, 3, 6), last)
        logits = head([torch.zeros(1), last])
    assert measure_spread(expected) > 0.1
    assert logits.shape == (3, 5, *size)
    assert (logits - expected).abs().max() < 1e-12


def test_psp_head__means_by_hand():
    head = build_head(pool_scales=(1, 2))
    seen = []
    for block in head.pools:
        block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0, 0].tolist()))
    last = torch.zeros(1, 12, 3, 3, dtype=torch.float64)
    last[0, 0] = torch.arange(9.0).view(3, 3)
    head([last])
    assert seen == [[[4.0]], [[2.0, 3.0], [5.0, 6.0]]]  # of three rows, the middle one is in both halves


@pytest.mark.parametrize(("last", "width"), [(512, 128), (2048, 512)])
def test_psp_head__widths_of_mmsegmentation(last, width):
    with torch.device("meta"):
        head = PSPHead(PSPNetConfig(hidden_sizes=[64, 128, 256, last], num_labels=19))
    assert {tuple(block.conv.weight.shape) for block in head.pools} == {(width, last, 1, 1)}
    assert head.bottleneck.conv.weight.shape == (width, last + 4 * width, 3, 3)
    assert head.classifier.weight.shape == (19, width, 1, 1)


def test_pspnet__is_its_head_on_the_last_map():
    model = build("pspnet").double()
    images = draw_images(2, 3, 61, 90, dtype=torch.float64)
    with torch.no_grad():
        last = model.backbone(images)[-1]
        expected = compute_logits(Weights(model), (1, 2, 3, 6), last, "decode_head.")
        logits = model(images).logits
    assert logits.shape == (2, 19, 8, 12)
    assert (logits - expected).abs().max() < 1e-12
