import pytest
import torch
import torch.nn.functional as F
from baseline_models import Weights, calibrate, draw_images, measure_spread
from segformer_references import randomize
from transformers import ResNetBackbone, ResNetConfig

from hf_urbanseg.models.baselines.resnet import DilatedResNet, DilatedResNetConfig

FIELDS = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [2, 2, 3, 2]}


def build(layer_type="basic", deep_stem=True, **fields):
    config = DilatedResNetConfig(**{**FIELDS, "layer_type": layer_type, "deep_stem": deep_stem, **fields})
    return calibrate(randomize(DilatedResNet(config)), draw_images(2, 3, 61, 90)).double()


def compute_features(weights, config, images):
    """He et al. 2016 with MMSegmentation's stem, strides and dilations, `contract_dilation` of its `ResLayer`."""
    if config.deep_stem:
        x = images
        for n, stride in enumerate((2, 1, 1)):
            x = weights.block(f"embedder.embedder.{n}", x, stride=stride, padding=1)
    else:
        x = compute_layer(weights, "embedder.embedder", images, stride=2, padding=3).clamp(min=0)
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    maps = []
    for stage, (depth, stride, dilation) in enumerate(zip(config.depths, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
        for n in range(depth):
            contracted = dilation // 2 if n == 0 and dilation > 1 else dilation
            options = {"stride": stride if n == 0 else 1, "padding": contracted, "dilation": contracted}
            x = compute_block(weights, f"encoder.stages.{stage}.layers.{n}", x, config.layer_type, options)
        maps.append(x)
    return maps


def compute_block(weights, name, x, layer_type, options):
    steps = [options, {"padding": 1}] if layer_type == "basic" else [{}, options, {}]
    hidden = x
    for n, step in enumerate(steps):
        hidden = compute_layer(weights, f"{name}.layer.{n}", hidden, **step)
        if n < len(steps) - 1:
            hidden = hidden.clamp(min=0)
    if f"{name}.shortcut.convolution.weight" in weights.tensors:
        x = compute_layer(weights, f"{name}.shortcut", x, stride=options["stride"])
    return (hidden + x).clamp(min=0)


def compute_layer(weights, name, x, **options):
    return weights.norm(f"{name}.normalization", weights.conv(f"{name}.convolution", x, **options))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("deep_stem", [True, False])
@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_dilated_resnet__maps_of_the_reference(layer_type, deep_stem, training):
    model = build(layer_type, deep_stem).train(training)
    images = draw_images(2, 3, 61, 90, dtype=torch.float64)  # maps of 16x23 and 8x12: larger than every dilation
    with torch.no_grad():
        expected = compute_features(Weights(model, training), model.config, images)
        maps = model(images)
    assert [one.shape[2:] for one in maps] == [(16, 23), (8, 12), (8, 12), (8, 12)]
    for one, two in zip(maps, expected, strict=True):
        assert one.shape == two.shape
        assert measure_spread(two) > 0.1
        assert (one - two).abs().max() < 1e-12 * two.abs().max()


def test_dilated_resnet__downsampling_in_the_first_convolution_of_a_bottleneck():
    # A field of the Hub's configurations; it moves the stride, which must go from the dilated stages wherever it is.
    model = build("bottleneck", downsample_in_bottleneck=True)
    sizes = [one.shape[2:] for one in model(draw_images(1, 3, 61, 90, dtype=torch.float64))]
    assert sizes == [(16, 23), (8, 12), (8, 12), (8, 12)]


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_dilated_resnet__first_two_stages_are_transformers(layer_type):
    model = build(layer_type, deep_stem=False)
    names = ["stage1", "stage2", "stage3", "stage4"]
    stock = ResNetBackbone(ResNetConfig(**FIELDS, layer_type=layer_type, out_features=names)).double().eval()
    stock.load_state_dict(model.state_dict(), strict=True)
    images = draw_images(2, 3, 61, 90, dtype=torch.float64)
    with torch.no_grad():
        maps, expected = model(images), stock(images).feature_maps
    assert all(torch.equal(*pair) for pair in zip(maps[:2], expected[:2], strict=True))
    assert [one.shape[2:] for one in expected[2:]] == [(4, 6), (2, 3)]


@pytest.mark.parametrize(
    ("layer_type", "widths", "depths"),
    [("basic", [64, 128, 256, 512], [2, 2, 2, 2]), ("bottleneck", [256, 512, 1024, 2048], [3, 4, 6, 3])],
)
def test_dilated_resnet__tensors_of_the_hubs(layer_type, widths, depths):
    fields = {"layer_type": layer_type, "hidden_sizes": widths, "depths": depths}
    with torch.device("meta"):
        model, stock = DilatedResNet(DilatedResNetConfig(**fields)), ResNetBackbone(ResNetConfig(**fields))
    assert [(name, one.shape) for name, one in model.state_dict().items()] == [
        (name, one.shape) for name, one in stock.state_dict().items()
    ]


def test_dilated_resnet__deep_stem_starts_as_the_rest():
    torch.manual_seed(0)
    model = DilatedResNet(DilatedResNetConfig(**FIELDS | {"embedding_size": 64}, deep_stem=True))
    convs = [block.conv for block in model.embedder.embedder]
    assert [tuple(one.weight.shape) for one in convs] == [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3)]
    for one in convs:  # Kaiming normal, fan out
        assert one.weight.std().item() == pytest.approx((2 / (one.out_channels * 9)) ** 0.5, rel=0.05)


def test_dilated_resnet_config__width_of_the_head():
    assert [DilatedResNetConfig(hidden_sizes=[8, 8, 8, last]).head_width for last in (512, 2048)] == [128, 512]
    assert DilatedResNetConfig(head_channels=40).head_width == 40
