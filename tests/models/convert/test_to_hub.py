import copy
import re
from collections import Counter
from pathlib import Path

import pytest
import segformer_references as references
import torch
from torch import nn
from transformers import SegformerForSemanticSegmentation, SegformerModel

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import SIZES, load_pretrained_model
from hf_urbanseg.models.conv_decode_head import SegformerConvDecoderForSemanticSegmentation
from hf_urbanseg.models.convert.files import CheckpointFile, read_checkpoint_file
from hf_urbanseg.models.convert.to_hub import build_converted_model, convert_to_hub
from hf_urbanseg.models.loading import quiet_transformers

TINY = (SIZES["tiny"]["hidden_sizes"], SIZES["tiny"]["depths"])
ENCODERS = {"nvlabs": references.NvlabsEncoder, "mmsegmentation": references.MmsegEncoder}
EPSILONS = {"nvlabs": (1e-5, 1e-6), "mmsegmentation": (1e-6, 1e-6)}


def build_reference(layout, size=TINY, channels=24, num_labels=19, head=references.NvlabsHead, auxiliary=None):
    """A segmentor in float64; NVlabs' decoder, which both encoders can feed, unless told otherwise."""
    encoder = ENCODERS[layout](*size)
    return references.randomize(
        references.Segmentor(encoder, head(size[0], channels, num_labels), auxiliary).double(), seed=1
    )


def as_file(module, class_names=None):
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return CheckpointFile(Path("model.pth"), tensors, class_names)


def with_epsilons(model, layout):
    """The Hub's model with the epsilons of a layout, which its configuration can't express."""
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-5  # transformers', whatever `layer_norm_eps` says; if this changes, read to_hub.py
            inner = "patch_embeddings" in name or "sequence_reduction" in name
            module.eps = EPSILONS[layout][0 if inner else 1]
    return model


@torch.no_grad()
def difference(reference, model):
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = reference(images)
    assert expected.abs().max() > 0.1
    return (model(images).logits - expected).abs().max().item()


@pytest.mark.parametrize("layout", ENCODERS)
def test_convert_to_hub__logits_of_b0(layout):
    reference = build_reference(layout, (SIZES["b0"]["hidden_sizes"], SIZES["b0"]["depths"]), channels=48)
    converted = convert_to_hub(as_file(reference))
    model = build_converted_model(converted)
    assert (converted.size, converted.layout) == ("b0", layout)
    assert difference(reference, with_epsilons(model, layout)) < 1e-12
    # The epsilons alone: small, but not rounding.
    assert 1e-9 < difference(reference, model) < 1e-4


@pytest.mark.parametrize("layout", ENCODERS)
@pytest.mark.parametrize("auxiliary", [None, 80])
def test_convert_to_hub__counts_every_tensor(layout, auxiliary):
    reference = build_reference(layout, auxiliary=auxiliary)
    converted = convert_to_hub(as_file(reference))
    assert converted.used + sum(converted.dropped.values()) == len(reference.state_dict())
    assert converted.dropped.pop("classifier that NVlabs' forward never reads") == 2
    assert converted.dropped == ({"auxiliary head": 8} if auxiliary else {})
    assert set(converted.tensors) == set(SegformerForSemanticSegmentation(converted.config).state_dict())


@pytest.mark.parametrize("layout", ENCODERS)
@pytest.mark.parametrize("size", SIZES)
def test_convert_to_hub__sizes(layout, size):
    widths, depths = SIZES[size]["hidden_sizes"], SIZES[size]["depths"]
    with torch.device("meta"):
        names = references.Segmentor(ENCODERS[layout](widths, depths), references.NvlabsHead(widths, 768, 5))
    # One value per tensor, expanded: 85 M parameters in no memory.
    tensors = {
        name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in names.state_dict().items()
    }
    converted = convert_to_hub(CheckpointFile(Path("model.pth"), tensors, tuple("abcde")))
    assert converted.size == size
    config = converted.config
    assert (config.hidden_sizes, config.depths, config.decoder_hidden_size) == (widths, depths, 768)
    assert config.id2label == {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}
    assert config.label2id["e"] == 4
    assert config.semantic_loss_ignore_index == 255


def test_convert_to_hub__projections_as_convolutions():
    # As wide as the last stage, as in B0: a transposed matrix would fit.
    reference = build_reference("nvlabs", channels=128)
    file = as_file(reference)
    for name in list(file.tensors):
        if ".linear_c" in name and name.endswith("weight"):
            file.tensors[name] = file.tensors[name][..., None, None]
    assert difference(reference, with_epsilons(build_converted_model(convert_to_hub(file)), "nvlabs")) < 1e-12


@pytest.mark.parametrize("layout", ENCODERS)
def test_convert_to_hub__saved_folder(tmp_path, layout):
    model = build_converted_model(convert_to_hub(as_file(build_reference(layout, num_labels=3).float(), tuple("xyz"))))
    with quiet_transformers():
        model.save_pretrained(tmp_path)
        loaded, report = SegformerForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)
    assert loaded.config.id2label == {0: "x", 1: "y", 2: "z"}


@pytest.mark.parametrize("layout", ENCODERS)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_convert_to_hub__encoder_alone(tmp_path, caplog, layout, prefix):
    reference = references.randomize(ENCODERS[layout](*TINY))
    tensors = {prefix + name: tensor for name, tensor in reference.state_dict().items()}
    if not prefix:
        tensors |= {"head.weight": torch.zeros(1000, 128), "head.bias": torch.zeros(1000)}
    converted = convert_to_hub(CheckpointFile(Path("mit.pth"), tensors, None))
    assert not converted.has_decoder
    assert converted.dropped == ({} if prefix else {"ImageNet classifier": 2})
    model = build_converted_model(converted)
    assert type(model) is SegformerModel
    images = torch.randn(1, 3, 64, 64)
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    loaded = load_pretrained_model(str(tmp_path), CITYSCAPES)  # as training does
    assert "encoder only" in caplog.text
    with torch.no_grad():
        stages = loaded.eval().segformer(images, output_hidden_states=True).hidden_states
        for stage, expected in zip(stages[-4:], reference(images), strict=True):
            assert torch.allclose(stage, expected, atol=1e-4)


def test_convert_to_hub__mmsegmentation_decoder_is_refused():
    reference = build_reference("mmsegmentation", head=references.MmsegHead)
    choices = r"model\.pth.*ReLU can cut off values in \d+% of channels.*--decoder keep.*--decoder drop"
    with pytest.raises(ModelError, match=choices):
        convert_to_hub(as_file(reference))
    converted = convert_to_hub(as_file(reference), decoder="drop")
    assert converted.dropped == {"decoder": 32}
    assert type(build_converted_model(converted)) is SegformerModel


@pytest.mark.parametrize("auxiliary", [None, 80])
def test_convert_to_hub__mmsegmentation_decoder_is_kept(auxiliary):
    reference = build_reference("mmsegmentation", head=references.MmsegHead, auxiliary=auxiliary)
    converted = convert_to_hub(as_file(reference, tuple(f"class {n}" for n in range(19))), decoder="keep")
    assert converted.has_decoder
    assert converted.has_conv_decoder
    assert converted.dropped == ({"auxiliary head": 8} if auxiliary else {})
    assert converted.used + sum(converted.dropped.values()) == len(reference.state_dict())
    model = build_converted_model(converted)
    assert type(model) is SegformerConvDecoderForSemanticSegmentation
    assert model.config.id2label[18] == "class 18"
    assert model.config.semantic_loss_ignore_index == 255
    assert difference(reference, model) < 1e-12  # epsilons included: this type has MMSegmentation's


def test_convert_to_hub__kept_although_the_hub_could_compute_it():
    # As written by `convert_from_hub`, here by large biases: no ReLU ever cuts.
    reference = build_reference("mmsegmentation", head=references.MmsegHead)
    for module in reference.decode_head.convs:
        module.bn.bias.data += 1000
    plain, kept = (convert_to_hub(as_file(reference), CITYSCAPES.names, decoder) for decoder in (None, "keep"))
    assert type(build_converted_model(plain)) is SegformerForSemanticSegmentation
    assert not plain.has_conv_decoder
    assert difference(reference, with_epsilons(build_converted_model(plain), "mmsegmentation")) < 1e-9
    assert kept.has_conv_decoder
    assert difference(reference, build_converted_model(kept)) < 1e-12


def test_convert_to_hub__keeping_a_linear_decoder_is_plain():
    reference = build_reference("nvlabs")
    model = build_converted_model(convert_to_hub(as_file(reference), decoder="keep"))
    assert type(model) is SegformerForSemanticSegmentation
    assert difference(reference, with_epsilons(model, "nvlabs")) < 1e-12


def test_convert_to_hub__mmsegmentation_decoder_behind_another_encoder():
    reference = build_reference("nvlabs", head=references.MmsegHead)
    with pytest.raises(ModelError, match=r"found NVlabs' encoder.*--decoder drop"):
        convert_to_hub(as_file(reference), decoder="keep")


def test_convert_to_hub__every_tensor_of_a_kept_decoder_is_needed():
    file = as_file(build_reference("mmsegmentation", head=references.MmsegHead).float(), CITYSCAPES.names)
    for name in sorted(name for name in file.tensors if name.startswith("decode_head.")):
        rest = {key: tensor for key, tensor in file.tensors.items() if key != name}
        wider = file.tensors | {name: torch.zeros([size + 1 for size in file.tensors[name].shape] or [1])}
        for tensors in (rest, wider):
            for decoder in ("keep", None):
                with pytest.raises(ModelError, match=r"take an unaltered checkpoint|`decode_head\.linear_c1"):
                    convert_to_hub(CheckpointFile(Path("model.pth"), tensors, CITYSCAPES.names), decoder=decoder)


@pytest.mark.parametrize("decoder", ["keep", None])
def test_convert_to_hub__convolutions_with_bias_and_unknown_activation_are_refused(decoder):
    file = as_file(build_reference("mmsegmentation", head=references.MmsegHead))
    for name in [name for name in file.tensors if ".bn." in name]:
        del file.tensors[name]
    file.tensors |= {f"decode_head.convs.{stage}.conv.bias": torch.zeros(24) for stage in range(4)}
    with pytest.raises(ModelError, match=r"whether a ReLU follows isn't in the file.*--decoder drop"):
        convert_to_hub(file, decoder=decoder)


@pytest.mark.parametrize("layout", ENCODERS)
def test_convert_to_hub__every_tensor_is_needed(layout):
    file = as_file(build_reference(layout).float())
    optional = {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"}
    for name in sorted(file.tensors.keys() - optional):
        rest = {key: tensor for key, tensor in file.tensors.items() if key != name}
        with pytest.raises(ModelError) as error:
            convert_to_hub(CheckpointFile(Path("model.pth"), rest, None))
        assert name.removeprefix("backbone.") in str(error.value)


@pytest.mark.parametrize("layout", ENCODERS)
def test_convert_to_hub__no_tensor_of_another_shape(layout):
    file = as_file(build_reference(layout).float())
    for name, tensor in file.tensors.items():
        if "conv_seg" in name:
            continue
        wider = torch.zeros([size + 1 for size in tensor.shape] or [1])
        with pytest.raises(ModelError):
            convert_to_hub(CheckpointFile(Path("model.pth"), file.tensors | {name: wider}, None))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("backbone.norm2.bias", torch.int64),
        ("decode_head.linear_fuse.bn.running_mean", torch.int32),
        ("decode_head.linear_fuse.bn.num_batches_tracked", torch.float32),
    ],
)
def test_convert_to_hub__whole_numbers_instead_of_weights_or_weights_instead(name, dtype):
    file = as_file(build_reference("nvlabs"))
    file.tensors[name] = file.tensors[name].to(dtype)
    with pytest.raises(ModelError, match=rf"`{re.escape(name)}` as {dtype}"):
        convert_to_hub(file)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.norm5.weight",
        "backbone.block1.0.attn.sr.2.weight",
        "decode_head.linear_c5.proj.weight",
        "decode_head.sr.weight",
        "ema_backbone_norm1_weight",
        "neck.weight",
    ],
)
def test_convert_to_hub__left_over(name):
    file = as_file(build_reference("nvlabs"))
    file.tensors[name] = torch.zeros(3)
    with pytest.raises(ModelError, match=rf"model\.pth: .*`{re.escape(name)}`"):
        convert_to_hub(file)


def test_convert_to_hub__layouts_are_not_mixed():
    file = as_file(build_reference("nvlabs"))
    file.tensors["backbone.layers.0.2.weight"] = file.tensors.pop("backbone.norm1.weight")
    with pytest.raises(ModelError, match=r"`backbone\.layers\.0\.2\.weight` left over"):
        convert_to_hub(file)


def test_convert_to_hub__unknown_widths_and_depths():
    with pytest.raises(ModelError, match=r"widths \[8\] and depths \[1, 1, 2, 1\]"):
        convert_to_hub(as_file(build_reference("nvlabs", ([8, 16, 40, 64], [1, 1, 2, 1]))))
    with pytest.raises(ModelError, match=r"depths \[1, 1, 1, 1\]"):
        convert_to_hub(as_file(build_reference("nvlabs", (TINY[0], [1, 1, 1, 1]))))


def test_convert_to_hub__another_network():
    tensors = {"backbone.conv1.weight": torch.zeros(3), "decode_head.conv_seg.weight": torch.zeros(3)}
    with pytest.raises(ModelError, match=r"patch_embed1\.proj\.weight.*layers\.0\.0\.projection\.weight"):
        convert_to_hub(CheckpointFile(Path("model.pth"), tensors, None))


def test_convert_to_hub__another_decoder():
    file = as_file(build_reference("nvlabs"))
    tensors = {name: tensor for name, tensor in file.tensors.items() if name.startswith("backbone")}
    tensors["decode_head.lateral_convs.0.conv.weight"] = torch.zeros(3)
    with pytest.raises(ModelError, match=r"decode_head\.lateral_convs"):
        convert_to_hub(CheckpointFile(Path("model.pth"), tensors, None))


def test_convert_to_hub__class_names(caplog):
    unnamed = as_file(build_reference("nvlabs"))
    assert convert_to_hub(unnamed).config.id2label == CITYSCAPES.id2label
    assert "Cityscapes" in caplog.text  # a guess, and said
    caplog.clear()
    named = tuple(f"class {number}" for number in range(19))
    assert convert_to_hub(as_file(build_reference("nvlabs"), named)).config.id2label[18] == "class 18"
    assert convert_to_hub(as_file(build_reference("nvlabs"), named), CITYSCAPES.names).config.id2label[0] == "road"
    assert not caplog.text
    four = build_reference("nvlabs", num_labels=4)
    for names, found in (
        (None, "no names of its 4 classes"),
        (tuple("abc"), "3 names"),
        (tuple("abca"), "3 different"),
    ):
        with pytest.raises(ModelError, match=f"{found}.*--label_space"):
            convert_to_hub(as_file(four, names))


def test_build_converted_model__keeps_the_precision_and_shares_nothing(tmp_path):
    file = as_file(build_reference("nvlabs").half())
    model = build_converted_model(convert_to_hub(file))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    places = Counter(tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values())
    assert set(places.values()) == {1}


def test_convert_to_hub__official_wrapping(tmp_path):
    reference = build_reference("nvlabs").float()
    path = tmp_path / "iter_160000.pth"
    content = {"meta": {"CLASSES": CITYSCAPES.names, "iter": 160000}, "state_dict": reference.state_dict()}
    torch.save(content | {"optimizer": {"state": {}, "param_groups": [{"lr": 6e-5}]}}, path)
    converted = convert_to_hub(read_checkpoint_file(path))
    query = converted.tensors["segformer.stages.2.blocks.1.attention.v_proj.weight"]
    assert torch.equal(query, reference.backbone.block3[1].attn.kv.weight[80:])
