from pathlib import Path

import pytest
import segformer_references as references
import torch
from safetensors.torch import load_file, save_file
from transformers import SegformerForImageClassification, SegformerForSemanticSegmentation, SegformerModel

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import SIZES, build_config, build_random_model
from hf_urbanseg.models.convert.files import CheckpointFile, read_checkpoint_file
from hf_urbanseg.models.convert.from_hub import convert_from_hub, load_hub_model, save_checkpoint_file
from hf_urbanseg.models.convert.to_hub import build_converted_model, convert_to_hub
from hf_urbanseg.models.loading import quiet_transformers

TINY = (SIZES["tiny"]["hidden_sizes"], SIZES["tiny"]["depths"])
SAME = (1e-5, 1e-5)  # the Hub's epsilons, so that nothing but the tensors is compared


def build_hub_model(**overrides):
    return references.randomize(build_random_model("tiny", CITYSCAPES, decoder_hidden_size=24, **overrides), seed=2)


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_convert_from_hub__nvlabs_and_back_is_bit_identical(tmp_path):
    model = build_hub_model()
    converted = convert_from_hub(model, "nvlabs")
    save_checkpoint_file(converted, tmp_path / "model.pth", CITYSCAPES.colors)
    again = convert_to_hub(read_checkpoint_file(tmp_path / "model.pth"))
    assert equal(again.tensors, model.state_dict())
    assert again.config.id2label == model.config.id2label
    assert again.dropped == {"classifier that NVlabs' forward never reads": 2}


@pytest.mark.parametrize("layout", ["nvlabs", "mmsegmentation"])
def test_convert_from_hub__encoder_and_back_is_bit_identical(layout):
    model = build_hub_model()
    converted = convert_from_hub(model, layout, decoder="drop")
    assert converted.dropped == {"decoder": 16}
    assert converted.used + 16 == len(model.state_dict())
    again = convert_to_hub(CheckpointFile(Path("mit.pth"), converted.tensors, None))
    assert equal(again.tensors, model.segformer.state_dict())
    from_encoder = convert_from_hub(build_converted_model(again), layout)
    assert equal(from_encoder.tensors, converted.tensors)


@pytest.mark.parametrize("layout", ["nvlabs", "mmsegmentation"])
def test_convert_from_hub__computes_the_same_over_there(layout):
    model = build_hub_model().double()
    encoder, head = {
        "nvlabs": (references.NvlabsEncoder, references.NvlabsHead),
        "mmsegmentation": (references.MmsegEncoder, references.MmsegHead),
    }[layout]
    reference = references.Segmentor(encoder(*TINY, SAME), head(TINY[0], 24, 19)).double().eval()
    reference.load_state_dict(convert_from_hub(model, layout).tensors, strict=True)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images).logits
        assert expected.abs().max() > 0.1
        assert (reference(images) - expected).abs().max() < 1e-12
        # Images far from what a network sees: the bound holds for everything.
        for extreme in (1e4 * images, torch.zeros_like(images), images.sign() * 255):
            assert torch.allclose(reference(extreme), model(extreme).logits, rtol=1e-10, atol=1e-10)


def test_convert_from_hub__mmsegmentation_decoder_comes_back():
    model = build_hub_model()
    file = CheckpointFile(Path("model.pth"), convert_from_hub(model, "mmsegmentation").tensors, CITYSCAPES.names)
    again = build_converted_model(convert_to_hub(file))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(again(images).logits, model(images).logits, atol=1e-5)


def build_kept_model(**overrides):
    reference = references.randomize(
        references.Segmentor(references.MmsegEncoder(*TINY), references.MmsegHead(TINY[0], 24, 19)), seed=5
    )
    file = CheckpointFile(Path("model.pth"), reference.state_dict(), CITYSCAPES.names)
    model = build_converted_model(convert_to_hub(file, decoder="keep"))
    for name, value in overrides.items():
        setattr(model.config, name, value)
    return model, reference


def test_convert_from_hub__kept_decoder_and_back_is_bit_identical(tmp_path):
    model, reference = build_kept_model()
    with quiet_transformers():
        model.save_pretrained(tmp_path / "run")
    converted = convert_from_hub(load_hub_model(tmp_path / "run"), "mmsegmentation")
    assert equal(converted.tensors, reference.state_dict())
    assert converted.has_conv_decoder
    assert converted.used == len(model.state_dict())
    save_checkpoint_file(converted, tmp_path / "model.pth", CITYSCAPES.colors)
    again = convert_to_hub(read_checkpoint_file(tmp_path / "model.pth"), decoder="keep")
    assert equal(again.tensors, model.state_dict())
    encoder = convert_from_hub(model, "mmsegmentation", decoder="drop")
    assert equal(encoder.tensors, reference.backbone.state_dict())
    assert encoder.dropped == {"decoder": 32}
    assert not encoder.has_conv_decoder


def test_convert_from_hub__kept_decoder_is_not_nvlabs():
    model, _ = build_kept_model()
    with pytest.raises(ModelError, match=r"runs/x: expected a decoder that NVlabs can compute.*--to mmsegmentation"):
        convert_from_hub(model, "nvlabs", path="runs/x")
    assert not convert_from_hub(model, "nvlabs", decoder="drop").has_decoder


def test_convert_from_hub__kept_decoder_with_other_epsilons():
    model, _ = build_kept_model(layer_norm_eps=1e-5)
    with pytest.raises(ModelError, match="runs/x: expected `layer_norm_eps` 1e-06"):
        convert_from_hub(model, "mmsegmentation", path="runs/x")
    assert convert_from_hub(build_hub_model(layer_norm_eps=1e-5), "mmsegmentation")  # where it means nothing


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sr_ratios", [4, 4, 2, 1]),
        ("num_attention_heads", [1, 2, 4, 8]),
        ("hidden_act", "relu"),
        ("mlp_ratios", [4, 4, 4, 2]),
        ("num_channels", 4),
    ],
)
def test_convert_from_hub__another_function(field, value):
    with pytest.raises(ModelError, match=f"runs/x: expected `{field}`"):
        convert_from_hub(build_hub_model(**{field: value}), "nvlabs", path="runs/x")


def test_convert_from_hub__another_size():
    with pytest.raises(ModelError, match=r"depths \[1, 1, 1, 1\]"):
        convert_from_hub(build_hub_model(depths=[1, 1, 1, 1]), "nvlabs")


def test_save_checkpoint_file__is_plain(tmp_path):
    save_checkpoint_file(convert_from_hub(build_hub_model(), "mmsegmentation"), tmp_path / "m.pth", CITYSCAPES.colors)
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    assert content["meta"]["CLASSES"] == CITYSCAPES.names
    assert content["meta"]["dataset_meta"]["classes"] == CITYSCAPES.names
    assert content["meta"]["PALETTE"][0] == [128, 64, 128]
    assert content["state_dict"]["backbone.layers.0.1.0.attn.attn.in_proj_bias"].shape == (48,)


def test_load_hub_model__every_kind_of_folder(tmp_path):
    whole, encoder = build_hub_model(), SegformerModel(build_config("tiny", CITYSCAPES))
    classifier = SegformerForImageClassification(build_config("tiny", CITYSCAPES))
    with quiet_transformers():
        for name, model in (("whole", whole.half()), ("encoder", encoder), ("classifier", classifier)):
            model.save_pretrained(tmp_path / name)
    loaded = load_hub_model(tmp_path / "whole")
    assert type(loaded) is SegformerForSemanticSegmentation
    assert equal(loaded.state_dict(), whole.state_dict())
    assert loaded.dtype == torch.float16
    assert equal(load_hub_model(tmp_path / "encoder").state_dict(), encoder.state_dict())
    assert equal(load_hub_model(tmp_path / "classifier").state_dict(), classifier.segformer.state_dict())


def test_load_hub_model__incomplete(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        load_hub_model(tmp_path)
    with quiet_transformers():
        build_hub_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: t for name, t in tensors.items() if name != "decode_head.classifier.bias"}, weights)
    with pytest.raises(ModelError, match=r"1 missing \(decode_head\.classifier\.bias\)"):
        load_hub_model(tmp_path)
    save_file(tensors | {"decode_head.classifier.bias": torch.zeros(3)}, weights)
    with pytest.raises(ModelError, match=r"of another shape"):
        load_hub_model(tmp_path)
    save_file(tensors | {"more": torch.zeros(3)}, weights)
    with pytest.raises(ModelError, match=r"1 unexpected \(more\)"):
        load_hub_model(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="a readable model"):
        load_hub_model(tmp_path)
