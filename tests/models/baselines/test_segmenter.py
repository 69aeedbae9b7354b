import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from baseline_models import SMALL, build, draw_images
from safetensors.torch import load_file
from torch import nn

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.baselines.segmenter import ConvBlock
from hf_urbanseg.models.build import ARCHITECTURES, build_random_model
from hf_urbanseg.models.loading import quiet_transformers

SMALLEST = {"transposed": 33, "unet": 16}

LOAD = """
import sys
from pathlib import Path

import torch

import hf_urbanseg.models
from transformers import AutoModelForSemanticSegmentation

for folder in Path(sys.argv[1]).iterdir():
    model, report = AutoModelForSemanticSegmentation.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.set_(tensor.clone())  # the last bits depend on how memory is aligned, and in a file it is not
        torch.save(model(torch.load(folder / "images.pt")).logits, folder / "logits.pt")
"""


@pytest.fixture(scope="module")
def models():
    return {name: build(name) for name in SMALL}


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    """Saved models with logits computed by another process, which has imported no more than the package's models."""
    root = tmp_path_factory.mktemp("saved")
    for name, model in models.items():
        with quiet_transformers():
            model.save_pretrained(root / name)
        torch.save(draw_images(2, 3, 37, 50), root / name / "images.pt")
    subprocess.run([sys.executable, "-c", LOAD, str(root)], check=True)
    return root


def test_conv_block__by_hand():
    block = ConvBlock(1, 1, 3, stride=2).eval()
    nn.init.ones_(block.conv.weight)
    block.batch_norm.running_mean.fill_(1.0), block.batch_norm.running_var.fill_(4 - 1e-5)
    image = torch.tensor([[1.0, 0, 2, 0, 3], [9, 9, 9, 9, 9], [4, 0, -5, 0, 6], [9, 9, 9, 9, 9], [7, 0, 8, 0, -30]])
    # Sums of nine around every second value, less 1, halved, and negative ones cut off.
    sums = torch.tensor([[19.0, 29, 21], [40, 49, 42], [25, 35, -12]])
    assert torch.equal(block(image[None, None])[0, 0], ((sums - 1) / 2).clamp(min=0))
    assert block.conv.bias is None


@pytest.mark.parametrize("name", SMALL)
def test_save_pretrained__logits_come_back_bit_by_bit(models, folders, name):
    with torch.no_grad():
        expected = models[name](draw_images(2, 3, 37, 50)).logits
    assert torch.equal(torch.load(folders / name / "logits.pt"), expected)
    # By its own class as well, which is what training does.
    with quiet_transformers():
        again, report = type(models[name]).from_pretrained(folders / name, output_loading_info=True)
    assert not any(report.values())
    state = again.state_dict()
    assert state.keys() == models[name].state_dict().keys() == load_file(folders / name / "model.safetensors").keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in models[name].state_dict().items())


@pytest.mark.parametrize("name", SMALL)
def test_save_pretrained__configuration(folders, name):
    config = json.loads((folders / name / "config.json").read_text())
    assert config["model_type"] == ARCHITECTURES[SMALL[name][0]].model_type
    assert config["semantic_loss_ignore_index"] == 255
    assert list(config["id2label"].values()) == list(CITYSCAPES.names)
    assert {key: config[key] for key in SMALL[name][2]} == {
        key: list(value) if isinstance(value, tuple) else value for key, value in SMALL[name][2].items()
    }


@pytest.mark.parametrize("name", SMALL)
def test_forward__any_size(models, name):
    least = SMALLEST.get(name, 1)
    for size in ((least, least), (least, 70), (70, least), (53, 37), (64, 96)):
        with torch.no_grad():
            outputs = models[name](draw_images(1, 3, *size))
        stride = {"deeplabv3plus": 4, "pspnet": 8, "swin_segformer": 4}.get(name, 1)
        assert outputs.logits.shape == (1, 19, *(-(-side // stride) for side in size))
        assert outputs.logits.isfinite().all()


@pytest.mark.parametrize("name", SMALLEST)
def test_forward__too_small(models, name):
    least = SMALLEST[name]
    for size in ((least - 1, 70), (70, least - 1)):
        with pytest.raises(ModelError) as caught:
            models[name](draw_images(1, 3, *size))
        line = f"expected inputs of {least} pixels a side at least; found {size[0]}x{size[1]}; take larger images"
        assert str(caught.value).startswith(line)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SMALL)
def test_forward__an_image_has_the_logits_it_has_alone(models, name):
    images = draw_images(3, 3, 61, 47)
    images[1] *= 100  # statistics of the batch would carry it over
    with torch.no_grad():
        together = models[name](images).logits
        alone = torch.cat([models[name](one[None]).logits for one in images])
    for one, two in zip(together, alone, strict=True):
        assert (one - two).abs().max() < 1e-5 * two.abs().max()


@pytest.mark.parametrize("name", SMALL)
def test_forward__outputs_and_loss(models, name):
    model, images = models[name], draw_images(2, 3, 48, 64)
    labels = torch.randint(0, 19, (2, 50, 70), generator=torch.Generator().manual_seed(2))
    labels[:, :20] = 255
    with torch.no_grad():
        outputs = model(images, labels=labels)
        full = F.interpolate(outputs.logits, (50, 70), mode="bilinear", align_corners=False)
        picked = full.log_softmax(1).gather(1, labels.clamp(max=18)[:, None])[:, 0]
        assert torch.allclose(outputs.loss, -picked[labels != 255].mean(), rtol=1e-5)
        assert outputs.hidden_states is None
        plain = model(images)
        assert list(plain.keys()) == ["logits"]
        maps = model(images, output_hidden_states=True).hidden_states
        assert tuple(one.shape[1] for one in maps) == model.feature_channels
        (logits,) = model(images, return_dict=False)
        assert torch.equal(logits, plain.logits)
        loss, logits, hidden = model(images, labels=labels, output_hidden_states=True, return_dict=False)
        assert (len(hidden), logits.shape, loss) == (len(maps), plain.logits.shape, outputs.loss)


@pytest.mark.parametrize("name", SMALL)
def test_forward__everything_that_trains_has_a_gradient(name):
    """Each process waits for the gradient of every parameter of the others."""
    model = build(name).train()
    model(draw_images(2, 3, 70, 70)).logits.square().mean().backward()
    assert [key for key, one in model.named_parameters() if one.grad is None] == []


@pytest.mark.parametrize("name", [name for name in SMALL if name != "swin_segformer"])
def test_random_weights__are_those_of_mmsegmentation(name):
    """Kaiming normal over the fan out, and a classifier of std 0.01, which leaves all classes equally likely."""
    torch.manual_seed(0)
    architecture, size, _ = SMALL[name]
    model = build_random_model(size, CITYSCAPES, architecture)
    for key, module in model.named_modules():
        if key == "decode_head.classifier":
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.1)
            assert not module.bias.any()
        elif isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.weight[0, 0].numel()  # torch's, which knows of no groups
            rel = 6 / module.weight.numel() ** 0.5
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=rel), key
            assert module.bias is None or not module.bias.any(), key
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all(), key
            assert not module.bias.any(), key


def test_random_weights__swin_as_transformers():
    torch.manual_seed(0)
    model = build_random_model("tiny", CITYSCAPES, "swin_segformer")
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(linear) > 30
    assert all(one.weight.std().item() == pytest.approx(0.02, rel=0.15) for one in linear)
    assert model.decode_head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
