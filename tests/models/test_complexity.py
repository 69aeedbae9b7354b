import itertools

import pytest
import torch
import torch.nn.functional as F
from baseline_models import SMALL
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.baselines.unet import UNet
from hf_urbanseg.models.build import build_config, build_random_model
from hf_urbanseg.models.complexity import (
    CONVENTIONS,
    count_flops,
    count_macs,
    count_operations,
    count_parameters,
)

torch.set_num_threads(1)

ODD = {"hidden_sizes": [8, 24, 32, 40], "depths": [1, 2, 0, 1], "num_attention_heads": [1, 2, 4, 5], "num_labels": 7}


def _config(size, width=None):
    return build_config(size, CITYSCAPES, **({"decoder_hidden_size": width} if width else {}))


def _expected(config, height, width):
    """The formula of the paper's architecture, layer by layer: conventions -> operations, and stage positions."""
    plain = norms = positions = 0
    channels, size = config.num_channels, (height, width)
    stages = []
    for stage, hidden in enumerate(config.hidden_sizes):
        stride, kernel = config.strides[stage], config.patch_sizes[stage]
        size = tuple(-(-side // stride) for side in size)  # both strides divide so, with kernels 7/4 and 3/2
        tokens = size[0] * size[1]
        stages.append(tokens)
        plain += tokens * hidden * channels * kernel**2
        norms += 2 * tokens * hidden  # behind the patch embedding and behind the stage
        ratio, mlp = config.sr_ratios[stage], int(hidden * config.mlp_ratios[stage])
        reduced = (size[0] // ratio) * (size[1] // ratio)
        for _ in range(config.depths[stage]):
            norms += 2 * tokens * hidden
            if ratio > 1:
                plain += reduced * hidden * hidden * ratio**2
                norms += reduced * hidden
            plain += 2 * tokens * hidden**2 + 2 * reduced * hidden**2  # query, output; key, value
            plain += 2 * tokens * reduced * hidden  # scores and their use, over all heads
            plain += 2 * tokens * hidden * mlp + tokens * mlp * 9
        channels = hidden
        positions += tokens
    decoder, first = config.decoder_hidden_size, stages[0]
    plain += sum(tokens * hidden * decoder for tokens, hidden in zip(stages, config.hidden_sizes, strict=True))
    plain += first * len(stages) * decoder**2 + first * decoder * config.num_labels
    resizes = 4 * (len(stages) * first * decoder + height * width * config.num_labels)
    fvcore = plain + 5 * norms + 2 * first * decoder + resizes
    return {"plain": plain, "fvcore": fvcore, "report": fvcore + 2 * decoder * positions}


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (_config("tiny"), (64, 96)),
        (_config("b0"), (375, 1242)),
        (_config("b3", 512), (101, 67)),
        (SegformerConfig(**ODD, mlp_ratios=[2, 3, 4, 4], decoder_hidden_size=20), (65, 130)),
        (SegformerConfig(**ODD, num_channels=5, sr_ratios=[4, 2, 2, 1], decoder_hidden_size=20), (33, 47)),
    ],
)
def test_count_operations__equals_the_layers_written_out(config, size):
    assert {convention: count_macs(config, size, convention) for convention in CONVENTIONS} == _expected(config, *size)


# By fvcore 0.1.5.post20221221 on the model, eager attention, and `F.interpolate` to the input size behind it:
#   FlopCountAnalysis(wrapped, torch.zeros(1, 3, height, width)).total()
# `report`: the same with a BatchNorm1d around each of `decode_head.linear_projections`.
@pytest.mark.parametrize(
    ("size", "width", "image_size", "fvcore", "report"),
    [
        ("tiny", None, (101, 67), 48064084, 48219220),
        ("b0", 256, (375, 1242), 15559488456, 15579408328),
        ("b2", 256, (375, 1242), 50613514376, 50633434248),
        ("b2", 768, (375, 1242), 114343306376, None),
        ("b5", 256, (375, 1242), None, 149964459912),
        ("b5", 768, (375, 1242), 213674332040, None),
    ],
)
def test_count_operations__equals_fvcore(size, width, image_size, fvcore, report):
    counts = count_operations(_config(size, width), image_size)
    if fvcore:
        assert sum(counts["fvcore"].values()) == fvcore
    if report:
        assert sum(counts["report"].values()) == report


@pytest.mark.parametrize(
    ("size", "width", "convention", "giga"),
    [
        # the report's table
        ("b0", 256, "report", "15.579"),
        ("b2", 256, "report", "50.633"),
        # the Hub's architecture without MMSegmentation's four norms
        ("b0", 256, "fvcore", "15.559"),
        ("b2", 256, "fvcore", "50.614"),
        # the Hub's decoders
        ("b2", 768, "plain", "113.7"),
        ("b5", 768, "plain", "212.8"),
        ("b5", 256, "report", "150"),
    ],
)
def test_count_macs__gives_the_known_figures(size, width, convention, giga):
    digits = len(giga.partition(".")[2])
    assert f"{count_macs(_config(size, width), (375, 1242), convention) / 1e9:.{digits}f}" == giga


def test_count_macs__default_is_the_reports_table():
    assert count_macs(_config("b0")) == 15579408328


def test_count_operations__parts():
    config = _config("b0")
    first, positions = 94 * 311, 94 * 311 + 47 * 156 + 24 * 78 + 12 * 39
    plain, fvcore, report = count_operations(config).values()
    assert list(plain) == ["encoder", "decode_head", "classifier_resize"]
    assert fvcore["classifier_resize"] == 4 * 19 * 375 * 1242
    assert plain["classifier_resize"] == 0
    assert fvcore["decode_head"] - plain["decode_head"] == 4 * 4 * 256 * first + 2 * 256 * first
    assert report["decode_head"] - fvcore["decode_head"] == 2 * 256 * positions
    assert report["encoder"] == fvcore["encoder"]
    assert config == _config("b0")


def test_count_operations__attention_grows_with_the_square_of_the_area():
    config = _config("b0")
    small, large = (count_macs(config, (side, 2 * side), "plain") for side in (256, 512))
    attention = sum(
        2 * (256 * 512 / stride**2) ** 2 / ratio**2 * hidden * depth
        for stride, ratio, hidden, depth in zip(
            (4, 8, 16, 32), config.sr_ratios, config.hidden_sizes, config.depths, strict=True
        )
    )
    assert large == 4 * small + 12 * attention


@pytest.mark.parametrize("size", ["tiny", "b0", "b4"])
def test_count_flops__is_two_per_plain_multiply_accumulate(size):
    assert count_flops(_config(size), (97, 161)) == 2 * count_macs(_config(size), (97, 161), "plain")


def test_count_parameters__by_part():
    model = SegformerForSemanticSegmentation(_config("tiny"))
    assert count_parameters(model.config) == {
        "encoder": sum(p.numel() for p in model.segformer.parameters()),
        "decode_head": sum(p.numel() for p in model.decode_head.parameters()),
        "total": sum(p.numel() for p in model.parameters()),
    }
    # Xie et al. 2021, tables 1 and 6: 3.7 M for B0 (decoder 0.4), 84.7 M for B5, with 150 and 19 classes
    assert [round(count_parameters(_config(size))["total"] / 1e6, 1) for size in ("b0", "b5")] == [3.7, 84.6]


@pytest.mark.parametrize(
    ("architecture", "size", "giga"),
    [
        ("encoder_decoder", "transposed", 67.003),
        ("deeplabv3plus", "resnet18", 97.193),
        ("deeplabv3plus", "resnet50", 316),
        ("deeplabv3plus", "resnet101", 455),
        ("pspnet", "resnet18", 97.213),
        ("pspnet", "resnet101", 459),
        ("swin_segformer", "swin-tiny", 79.472),
    ],
)
def test_count_macs__baselines_of_the_reports_table(architecture, size, giga):
    assert count_macs(build_config(size, CITYSCAPES, architecture)) / 1e9 == pytest.approx(giga, rel=0.005)


def _upsample_first(self, pixel_values):
    """`UNet.forward` in the original order."""
    hidden, skipped = pixel_values, []
    for stage in self.stages:
        hidden = stage(F.max_pool2d(hidden, 2) if skipped else hidden)
        skipped.append(hidden)
    maps = [skipped.pop()]
    for projection, norm, fusion in zip(self.projections, self.norms, self.fusions, strict=True):
        skip = skipped.pop()
        hidden = projection(F.interpolate(maps[-1], skip.shape[2:], mode="bilinear", align_corners=False))
        maps.append(fusion(torch.cat([skip, norm(hidden).relu()], dim=1)))
    return maps


def test_count_operations__unet_saves_three_quarters_of_its_1x1_convolutions(monkeypatch):
    config = build_config("s5-d16", CITYSCAPES, "unet")
    even = (384, 1248)
    ours, ours_even = count_macs(config), count_operations(config, even)
    assert ours / 1e9 == pytest.approx(346.2, abs=0.05)
    monkeypatch.setattr(UNet, "forward", _upsample_first)
    # The report's table. The original takes multiples of 16 alone, and these are the nearest to 375x1242.
    assert f"{count_macs(config, (368, 1248)) / 1e9:.0f}" == "356"
    original = count_operations(config, even)
    widths = config.hidden_sizes
    steps = [(384 * 1248 // 4**n, deep, wide) for n, (wide, deep) in enumerate(itertools.pairwise(widths))]
    convs = sum(positions * deep * wide for positions, deep, wide in steps)
    assert 4 * (original["plain"]["encoder"] - ours_even["plain"]["encoder"]) == 3 * convs
    assert original["plain"]["decode_head"] == ours_even["plain"]["decode_head"]
    # fvcore counts 4 of each upsampled value, too, of which the original has twice as many.
    resizes = sum(4 * positions * (deep - wide) for positions, deep, wide in steps)
    assert 4 * (original["fvcore"]["encoder"] - ours_even["fvcore"]["encoder"] - resizes) == 3 * convs


def test_count_operations__encoder_decoder_written_out():
    config = build_config("transposed", CITYSCAPES, "encoder_decoder")
    counts = count_operations(config)
    stages = [375 * 1242, 188 * 621, 94 * 311, 47 * 156]
    encoder = 9 * sum((stages[0] * (3 + 64) * 64, stages[1] * 64 * 128, stages[2] * 128 * 256, stages[3] * 256 * 512))
    head = 22 * 76 * (9 * 512 * 2048 + 2048 * 2048 + 2048 * 19)
    # A transposed convolution multiplies each value that it takes, not each that it gives.
    head += 19 * 19 * 16 * (22 * 76 + 47 * 155 + 96 * 312)
    assert counts["plain"] == {"encoder": encoder, "decode_head": head, "classifier_resize": 0}
    # Once to the input's size by the model, once by the measurement, as by MMSegmentation's.
    assert counts["fvcore"] == {"encoder": encoder, "decode_head": head, "classifier_resize": 8 * 19 * 375 * 1242}
    assert counts["report"] == counts["fvcore"]


@pytest.mark.parametrize("name", SMALL)
def test_count_flops__baselines_are_two_per_plain_multiply_accumulate(name):
    architecture, size, fields = SMALL[name]
    config = build_config(size, CITYSCAPES, architecture, **fields)
    assert count_flops(config, (97, 161)) == 2 * count_macs(config, (97, 161), "plain")


@pytest.mark.parametrize("name", SMALL)
def test_count_parameters__baselines_by_part(name):
    architecture, size, fields = SMALL[name]
    model = build_random_model(size, CITYSCAPES, architecture, **fields)
    assert count_parameters(model.config) == {
        "encoder": sum(p.numel() for p in model.backbone.parameters()),
        "decode_head": sum(p.numel() for p in model.decode_head.parameters()),
        "total": sum(p.numel() for p in model.parameters()),
    }
