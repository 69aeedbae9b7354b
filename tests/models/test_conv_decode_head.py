import importlib.util
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import SIZES, load_pretrained_model
from hf_urbanseg.models.conv_decode_head import (
    SegformerConvDecodeHead,
    SegformerConvDecoderConfig,
    SegformerConvDecoderForSemanticSegmentation,
)
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.models.loading import load_complete, quiet_transformers

_spec = importlib.util.spec_from_file_location(
    "segformer_references", Path(__file__).parent / "convert" / "segformer_references.py"
)
references = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(references)

# The width of every decoder of MMSegmentation, and transformers' default: shapes alone don't tell the two heads apart.
WIDTH = 256


def build_model(**overrides):
    config = SegformerConvDecoderConfig(
        **SIZES["tiny"]
        | {"decoder_hidden_size": WIDTH, "num_labels": 19, "semantic_loss_ignore_index": 255}
        | overrides
    )
    return references.randomize(SegformerConvDecoderForSemanticSegmentation(config), seed=4)


def draw_images(dtype=torch.float32):
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.fixture
def folder(tmp_path):
    with quiet_transformers():
        build_model().save_pretrained(tmp_path)
    return tmp_path


def test_conv_decode_head__logits_of_the_reference():
    widths = SIZES["tiny"]["hidden_sizes"]
    reference = references.randomize(references.MmsegHead(widths, 24, 5)).double()
    head = SegformerConvDecodeHead(build_model(decoder_hidden_size=24, num_labels=5).config).double().eval()
    for ours, theirs in (
        *((ours.proj, theirs.conv) for ours, theirs in zip(head.linear_c, reference.convs, strict=True)),
        *((ours.batch_norm, theirs.bn) for ours, theirs in zip(head.linear_c, reference.convs, strict=True)),
        (head.linear_fuse, reference.fusion_conv.conv),
        (head.batch_norm, reference.fusion_conv.bn),
        (head.classifier, reference.conv_seg),
    ):
        ours.load_state_dict(theirs.state_dict(), strict=True)
    generator = torch.Generator().manual_seed(1)
    # Sizes that don't halve: 17x25 -> 9x13 -> 5x7 -> 3x4.
    stages = [
        torch.randn(2, width, *size, generator=generator, dtype=torch.float64)
        for width, size in zip(widths, ((17, 25), (9, 13), (5, 7), (3, 4)), strict=True)
    ]
    with torch.no_grad():
        expected = reference(stages)
        assert expected.abs().max() > 0.1
        assert (head(stages) - expected).abs().max() < 1e-12
        head.train(), reference.train()  # the batch's own statistics; no mask drawn
        head.dropout.p = 0.0
        assert (head(stages) - reference(stages)).abs().max() < 1e-12


def test_conv_decode_head__dropout_of_whole_channels():
    head = build_model(classifier_dropout_prob=0.5).decode_head
    assert head.dropout.p == 0.5
    seen = []
    head.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    stages = [
        torch.randn(2, width, 8 >> n, 8 >> n) for n, width in enumerate(SIZES["tiny"]["hidden_sizes"])
    ]  # 8, 4, 2, 1
    torch.manual_seed(0)
    head.train()(stages)
    silent = (seen[0] == 0).flatten(2).all(-1)
    assert 0.3 < silent.float().mean() < 0.7


def test_conv_decoder_model__encoder_is_transformers_with_the_epsilons_of_the_configuration():
    model = build_model(layer_norm_eps=1e-3).double()
    stock = SegformerForSemanticSegmentation(SegformerConfig(**SIZES["tiny"])).double().eval()
    stock.segformer.load_state_dict(model.segformer.state_dict(), strict=True)
    for module in stock.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-3
    images = draw_images(torch.float64)
    with torch.no_grad():
        hidden = model(images, output_hidden_states=True).hidden_states
        expected = stock(images, output_hidden_states=True).hidden_states
        assert all(torch.equal(one, two) for one, two in zip(hidden, expected, strict=True))
        assert torch.equal(model(images).logits, model.decode_head(expected))
    assert {module.eps for module in build_model().modules() if isinstance(module, nn.LayerNorm)} == {1e-6}


def test_conv_decoder_model__outputs_and_loss_as_stock():
    model = build_model()
    images, labels = draw_images(), torch.randint(0, 19, (2, 64, 96), generator=torch.Generator().manual_seed(2))
    labels[:, :20] = 255
    output = model(images, labels=labels)
    assert output.logits.shape == (2, 19, 16, 24)
    assert output.hidden_states is None
    full = F.interpolate(output.logits, (64, 96), mode="bilinear", align_corners=False)
    picked = full.log_softmax(1).gather(1, labels.clamp(max=18)[:, None])[:, 0]
    assert torch.allclose(output.loss, -picked[labels != 255].mean(), rtol=1e-6)
    assert isinstance(model(images, return_dict=False), tuple)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_conv_decoder_model__folder_comes_back(folder):
    model = build_model()
    with quiet_transformers():
        loaded = [AutoModelForSemanticSegmentation, SegformerConvDecoderForSemanticSegmentation]
        loaded = [kind.from_pretrained(folder) for kind in loaded]
    for one in (*loaded, load_complete(AutoModelForSemanticSegmentation, folder)):
        assert type(one) is SegformerConvDecoderForSemanticSegmentation
        state = one.state_dict()
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        with torch.no_grad():
            assert torch.equal(one(draw_images()).logits, model(draw_images()).logits)
    assert type(AutoConfig.from_pretrained(folder)) is SegformerConvDecoderConfig
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["layer_norm_eps"]) == ("segformer_conv_decoder", 1e-6)
    # The names of the encoder that every supported version of transformers reads and writes.
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in load_file(folder / "model.safetensors")


def test_conv_decoder_model__stock_refuses_the_folder(folder):
    with quiet_transformers(), pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        SegformerForSemanticSegmentation.from_pretrained(folder)
    with pytest.raises(ModelError, match=r"of another shape \(decode_head\.linear_projections\.0\.proj\.weight"):
        load_complete(SegformerForSemanticSegmentation, folder)
    with pytest.raises(ModelError, match="found model type `segformer_conv_decoder`"):  # as training does
        load_pretrained_model(str(folder), CITYSCAPES)


def test_conv_decoder_model__refuses_the_folder_of_a_stock_model(tmp_path):
    # The other way round: the Hub's head in a model that wants MMSegmentation's.
    with quiet_transformers():
        SegformerForSemanticSegmentation(SegformerConfig(**SIZES["tiny"])).save_pretrained(tmp_path)
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            SegformerConvDecoderForSemanticSegmentation.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["linear_c.2.batch_norm.running_var", "linear_fuse.weight"])
def test_conv_decoder_model__incomplete_folder(folder, name):
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"decode_head.{name}"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"1 missing \(decode_head\.{name}\)"):
        load_complete(AutoModelForSemanticSegmentation, folder)


def test_conv_decoder_model__is_left_alone_by_the_fast_decode_head():
    model = build_model()
    assert not apply_fast_decode_head(model)
    assert type(model.decode_head) is SegformerConvDecodeHead
