import pytest
import torch
from baseline_models import Weights, build, draw_images, measure_spread, resize

from hf_urbanseg.models.baselines.encoder_decoder import (
    EncoderDecoderConfig,
    EncoderDecoderForSemanticSegmentation,
    UnpoolingDecodeHead,
)


def pool(x):
    """(maxima of 2x2 parts, where in `x` each is); what is missing at an odd side's end is never the maximum."""
    height, width = (-(-side // 2) for side in x.shape[2:])
    values, places = x.new_empty(*x.shape[:2], height, width), {}
    for index in [(n, c, row, column) for n, c in _pairs(*x.shape[:2]) for row, column in _pairs(height, width)]:
        n, c, row, column = index
        part = x[n, c, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        place = divmod(int(part.argmax()), part.shape[1])
        values[index], places[index] = part[place], (2 * row + place[0], 2 * column + place[1])
    return values, places


def _pairs(first, second):
    return [(one, two) for one in range(first) for two in range(second)]


def unpool(x, places, size):
    larger = x.new_zeros(*x.shape[:2], *size)
    for (n, c, row, column), (top, left) in places.items():
        larger[n, c, top, left] = x[n, c, row, column]
    return larger


def transpose(x, weight, padding=0, output_padding=0):
    """A 4x4 transposed convolution of stride 2: each value adds its multiple of the weights."""
    height, width = x.shape[2:]
    larger = x.new_zeros(len(x), weight.shape[1], 2 * height + 2 + output_padding, 2 * width + 2 + output_padding)
    for row, column in _pairs(height, width):
        values = torch.einsum("ni,iokl->nokl", x[:, :, row, column], weight)
        larger[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += values
    return larger[:, :, padding : larger.shape[2] - padding, padding : larger.shape[3] - padding]


def compute_encoder(weights, images):
    x, maps, all_places = images, [], []
    for stage, convs in enumerate((2, 1, 1, 1)):
        for n in range(convs):
            x = weights.conv(f"backbone.stages.{stage}.{n}", x, padding=1).clamp(min=0)
        maps.append(x)
        x, places = pool(x)
        all_places.append(places)
    return maps, all_places, x


def compute_wide(weights, x, padding):
    for n, options in enumerate(({"padding": padding}, {})):
        x = weights.conv(f"decode_head.convs.{n}", x, **options).clamp(min=0)
    return x


def test_encoder_decoder__transposed_logits_of_the_reference():
    model = build("transposed").double()
    images = draw_images(2, 3, 37, 50, dtype=torch.float64)
    weights = Weights(model)
    with torch.no_grad():
        maps, _, x = compute_encoder(weights, images)
        x = weights.conv("decode_head.classifier", compute_wide(weights, x, padding=0))
        for n, options in enumerate(({"output_padding": 1}, {}, {"padding": 1})):
            x = transpose(x, weights.tensors[f"decode_head.upsamplings.{n}.weight"], **options)
        assert x.shape == (2, 19, 24, 32)
        outputs = model(images, output_hidden_states=True)
        expected = resize(x, (37, 50), align_corners=True)
    assert all((one - two).abs().max() < 1e-12 for one, two in zip(outputs.hidden_states, maps, strict=True))
    assert measure_spread(expected) > 0.01
    assert (outputs.logits - expected).abs().max() < 1e-12


@pytest.mark.parametrize("size", [(32, 48), (37, 50)])
def test_encoder_decoder__unpooling_logits_of_the_reference(size):
    model = build("unpooling").double()
    images = draw_images(2, 3, *size, dtype=torch.float64)
    weights = Weights(model)
    with torch.no_grad():
        maps, all_places, x = compute_encoder(weights, images)
        x = weights.conv("decode_head.projection", compute_wide(weights, x, padding=1)).clamp(min=0)
        for n in range(4):
            x = unpool(x, all_places[-1 - n], maps[-1 - n].shape[2:])
            last = n == 3
            x = weights.conv(f"decode_head.{'classifier' if last else f'refinements.{n}'}", x, padding=1)
            x = x if last else x.clamp(min=0)
        logits = model(images).logits
    assert measure_spread(x) > 0.01
    assert logits.shape == (2, 19, *size)
    assert (logits - x).abs().max() < 1e-12


def test_encoder_decoder__sizes_of_the_reports_code():
    sizes = []

    def note(module, inputs, output):
        sizes.append(tuple(output.shape[2:]))

    with torch.device("meta"):
        model = EncoderDecoderForSemanticSegmentation(EncoderDecoderConfig(num_labels=19)).eval()
        assert [tuple(conv.weight.shape[:2]) for stage in model.backbone.stages for conv in stage] == [
            (64, 3), (64, 64), (128, 64), (256, 128), (512, 256),
        ]  # fmt: skip
        for module in (*model.taps, *model.decode_head.convs, *model.decode_head.upsamplings, model.decode_head):
            module.register_forward_hook(note)
        logits = model(torch.empty(1, 3, 375, 1242)).logits
    # Pooled to 24x78 by rounding up; 2 s - 2 p + output_padding + 2 of a transposed convolution.
    assert sizes == [
        (375, 1242), (188, 621), (94, 311), (47, 156), (22, 76), (22, 76), (47, 155), (96, 312), (192, 624), (192, 624),
    ]  # fmt: skip
    assert logits.shape == (1, 19, 375, 1242)


def test_unpooling_decode_head__unpools_to_where_the_maximum_was():
    """One stage of one channel, 3x5 and so pooled to 2x3, and convolutions that only pass on."""
    config = EncoderDecoderConfig(hidden_sizes=[1], bottleneck_channels=1, num_labels=1, upsampling="unpooling")
    head = UnpoolingDecodeHead(config).eval()
    for conv in (*head.convs, head.projection, head.classifier):
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    head.projection.weight.data *= 10
    feature = torch.tensor([[1.0, 2, 0, 5, 3], [4, 3, 6, 1, 2], [7, 8, 2, 0, 9]])
    expected = torch.tensor([[0.0, 0, 0, 0, 30], [40, 0, 60, 0, 0], [0, 80, 20, 0, 90]])
    assert torch.equal(head([feature[None, None]])[0, 0], expected)


def test_encoder_decoder__dropout_of_whole_channels_behind_both_convolutions():
    model = build("transposed", classifier_dropout_prob=0.5, bottleneck_channels=64)
    head, seen = model.decode_head.train(), []
    head.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    head.convs[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for conv in head.convs:
        conv.bias.data += 99.0  # above zero everywhere, so that what is zero was left out
    torch.manual_seed(0)
    head([draw_images(2, 10, 12, 12).abs()])
    for one in seen:
        assert (one == 0).flatten(2).any(-1).equal((one == 0).flatten(2).all(-1))
        assert 0.3 < (one == 0).float().mean() < 0.7


def test_encoder_decoder__transposed_convolutions_start_as_torchs():
    torch.manual_seed(0)
    config = EncoderDecoderConfig(hidden_sizes=[4, 4, 4, 4], bottleneck_channels=4, num_labels=19)
    model = EncoderDecoderForSemanticSegmentation(config)
    for layer in model.decode_head.upsamplings:
        assert 0.99 < layer.weight.abs().max() * (19 * 16) ** 0.5 <= 1
        assert layer.weight.std().item() == pytest.approx((3 * 19 * 16) ** -0.5, rel=0.05)


def test_encoder_decoder_config__refuses_other_upsamplings():
    with pytest.raises(ValueError, match="`upsampling` bilinear is not one of transposed, unpooling"):
        EncoderDecoderConfig(upsampling="bilinear")
