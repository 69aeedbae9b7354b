import pytest
import torch
import torch.nn.functional as F

from hf_urbanseg.models.convert.decoder import conv_to_linear_decoder, linear_to_conv_decoder

WIDTHS, CHANNELS = (6, 8, 10, 12), 5


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def build_norms():
    return [(draw(width), draw(width, seed=1)) for width in WIDTHS]


def build_linear(dtype=torch.float64):
    linear = {f"batch_norm.{kind}": draw(CHANNELS, seed=n) for n, kind in enumerate(("weight", "bias", "running_mean"))}
    linear["batch_norm.running_var"] = draw(CHANNELS).square() + 0.5
    for stage, width in enumerate(WIDTHS):
        linear[f"linear_projections.{stage}.proj.weight"] = draw(CHANNELS, width)
        linear[f"linear_projections.{stage}.proj.bias"] = draw(CHANNELS, seed=stage)
    linear["linear_fuse.weight"] = draw(CHANNELS, 4 * CHANNELS, 1, 1)
    linear["classifier.weight"], linear["classifier.bias"] = draw(3, CHANNELS, 1, 1), draw(3)
    linear = {name: tensor.to(dtype) for name, tensor in linear.items()}
    return linear | {"batch_norm.num_batches_tracked": torch.tensor(9)}


def inner_values(conv, norms, stage, normalized):
    """What the ReLU of a stage sees for a LayerNorm's output before its weight and bias."""
    weight, bias = norms[stage]
    bn = [conv[f"convs.{stage}.bn.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")]
    projected = F.linear(normalized * weight + bias, conv[f"convs.{stage}.conv.weight"].flatten(1))
    return F.batch_norm(projected, *bn)


def test_linear_to_conv_decoder__no_relu_ever_cuts_and_hardly_any_lift_is_wasted():
    norms = build_norms()
    conv = linear_to_conv_decoder(build_linear(), norms)
    for stage, width in enumerate(WIDTHS):
        values = inner_values(conv, norms, stage, F.layer_norm(draw(100_000, width), (width,), eps=0.0))
        assert values.min() > 0
        # The worst input of each channel: opposite to its weights, as long as LayerNorm lets it be.
        slope = conv[f"convs.{stage}.conv.weight"].flatten(1) * norms[stage][0]
        worst = F.layer_norm(-slope, (width,), eps=0.0)
        lowest = inner_values(conv, norms, stage, worst).diagonal()
        lifted = conv[f"convs.{stage}.bn.bias"] != build_linear()[f"linear_projections.{stage}.proj.bias"]
        assert lifted.any()
        assert (lowest > 0).all()
        assert (lowest[lifted] < 0.002 * width**0.5 * slope.norm(dim=1)[lifted]).all()


def test_conv_to_linear_decoder__inverts_what_was_lifted():
    linear, norms = build_linear(), build_norms()
    again, share = conv_to_linear_decoder(linear_to_conv_decoder(linear, norms), norms)
    assert share == 0
    assert again.keys() == linear.keys()
    for name in linear:
        if "proj.bias" not in name and "running_mean" not in name:
            assert torch.allclose(again[name], linear[name], rtol=1e-12), name
    # A lift that the running mean takes off: the two change together.
    fusion = linear["linear_fuse.weight"].flatten(1).chunk(4, dim=1)[::-1]
    lifts = [again[f"linear_projections.{s}.proj.bias"] - linear[f"linear_projections.{s}.proj.bias"] for s in range(4)]
    taken = sum(weight @ lift for weight, lift in zip(fusion, lifts, strict=True))
    assert torch.allclose(again["batch_norm.running_mean"] - linear["batch_norm.running_mean"], taken, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conv_to_linear_decoder__one_channel_that_can_be_cut(dtype):
    norms = [(weight.to(dtype), bias.to(dtype)) for weight, bias in build_norms()]
    conv = linear_to_conv_decoder(build_linear(dtype), norms)
    assert {tensor.dtype for name, tensor in conv.items() if "tracked" not in name} == {dtype}
    assert conv_to_linear_decoder(conv, norms)[1] == 0
    radius = (conv["convs.2.conv.weight"][3].flatten() * norms[2][0]).norm() * WIDTHS[2] ** 0.5
    conv["convs.2.bn.bias"][3] -= 0.01 * radius
    converted, share = conv_to_linear_decoder(conv, norms)
    assert converted is None
    assert share == 1 / (4 * CHANNELS)


def test_conv_to_linear_decoder__folds_batch_norm():
    norms = build_norms()
    conv = linear_to_conv_decoder(build_linear(), norms)
    for stage in range(4):
        for kind, tensor in (("weight", 1.5), ("running_var", 0.25), ("running_mean", -0.75)):
            conv[f"convs.{stage}.bn.{kind}"] = torch.full((CHANNELS,), tensor, dtype=torch.float64)
        conv[f"convs.{stage}.bn.bias"] += 100
    linear, _ = conv_to_linear_decoder(conv, norms)
    for stage, width in enumerate(WIDTHS):
        normalized = F.layer_norm(draw(50, width), (width,))
        x = normalized * norms[stage][0] + norms[stage][1]
        projected = F.linear(x, *(linear[f"linear_projections.{stage}.proj.{kind}"] for kind in ("weight", "bias")))
        assert torch.allclose(projected, inner_values(conv, norms, stage, normalized), rtol=1e-12)
