import pytest
import torch
from baseline_models import Weights, build, draw_images, measure_spread, resize

from hf_urbanseg.models.baselines.unet import UNetConfig, UNetForSemanticSegmentation


def compute_logits(weights, images):
    """Ronneberger et al. 2015 as MMSegmentation's `UNet` with `InterpConv`: upsampled, then convolved."""
    x, skipped = images, []
    for n in range(5):
        x = pair(weights, f"backbone.stages.{n}", pool(x) if skipped else x)
        skipped.append(x)
    maps = [skipped.pop()]
    for n, skip in enumerate(reversed(skipped)):
        larger = weights.conv(f"backbone.projections.{n}", resize(maps[-1], skip.shape[2:]))
        larger = weights.norm(f"backbone.norms.{n}", larger).clamp(min=0)
        maps.append(pair(weights, f"backbone.fusions.{n}", torch.cat([skip, larger], dim=1)))
    hidden = weights.block("decode_head.block", maps[-1], padding=1)
    return maps, weights.conv("decode_head.classifier", hidden)


def pair(weights, name, x):
    return weights.block(f"{name}.1", weights.block(f"{name}.0", x, padding=1), padding=1)


def pool(x):
    height, width = (side // 2 * 2 for side in x.shape[2:])
    return x[..., :height, :width].unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(32, 48), (37, 59)])
def test_unet__logits_and_gradients_of_the_original_order(size, training):
    model = build("unet", classifier_dropout_prob=0.0).double().train(training)
    images = draw_images(2, 3, *size, dtype=torch.float64)
    weights = Weights(model, training)
    maps, expected = compute_logits(weights, images)
    outputs = model(images, output_hidden_states=True)
    assert measure_spread(expected) > 0.1
    assert outputs.logits.shape == (2, 19, *size)
    assert (outputs.logits - expected).abs().max() < 1e-12
    for one, two in zip(outputs.hidden_states, maps, strict=True):
        assert (one - two).abs().max() < 1e-12
    towards = draw_images(*expected.shape, dtype=torch.float64, seed=1)
    for logits in (outputs.logits, expected):
        (logits * towards).mean().backward()
    largest = max(one.grad.abs().max() for one in model.parameters())
    assert largest > 1e-3
    for name, parameter in model.named_parameters():
        assert (parameter.grad - weights.tensors[name].grad).abs().max() < 1e-12 * largest, name


def test_unet__widths_of_mmsegmentation():
    with torch.device("meta"):
        model = UNetForSemanticSegmentation(UNetConfig(num_labels=19))
    assert [stage[0].conv.weight.shape[:2] for stage in model.backbone.stages] == [
        (64, 3), (128, 64), (256, 128), (512, 256), (1024, 512),
    ]  # fmt: skip
    assert [one.weight.shape for one in model.backbone.projections] == [
        (512, 1024, 1, 1), (256, 512, 1, 1), (128, 256, 1, 1), (64, 128, 1, 1),
    ]  # fmt: skip
    assert [one[0].conv.weight.shape[:2] for one in model.backbone.fusions] == [
        (512, 1024), (256, 512), (128, 256), (64, 128),
    ]  # fmt: skip
    assert model.decode_head.block.conv.weight.shape == (64, 64, 3, 3)
