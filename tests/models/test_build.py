import json
import logging
import shutil

import numpy as np
import pytest
import torch
from baseline_models import RESNET, SMALL, SWIN, build, draw_images
from PIL import Image
from safetensors.torch import load_file, save_file
from segformer_references import randomize
from transformers import (
    BertConfig,
    ResNetBackbone,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SwinBackbone,
    SwinConfig,
    SwinForImageClassification,
)

from hf_urbanseg.errors import ConfigError, ModelError
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace
from hf_urbanseg.models.build import (
    ARCHITECTURES,
    SIZES,
    build_config,
    build_image_processor,
    build_random_model,
    find_size,
    load_pretrained_model,
)
from hf_urbanseg.models.conv_decode_head import SegformerConvDecoderConfig
from hf_urbanseg.models.loading import quiet_transformers

TWO = LabelSpace("two", ("road", "rest"), ((1, 1, 1), (2, 2, 2)), {0: 0, 1: 1})
SEGFORMER = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, tensors by their live names) of a model with 19 classes and no two equal tensors."""
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(build_config("tiny", CITYSCAPES, **SEGFORMER))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor))
            else:
                tensor.fill_(7)
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder, {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def altered(saved, tmp_path):
    """Copies the saved model with its tensors passed through `change(tensors)` and its config updated."""

    def alter(change=lambda tensors: None, **config):
        folder = tmp_path / "altered"
        shutil.copytree(saved[0], folder)
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return str(folder)

    return alter


def fails(*arguments, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load_pretrained_model(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_equal_tensors(model, expected, but=()):
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert name in but or torch.equal(found[name], tensor), name
    for name in but:
        assert found[name].shape != expected[name].shape or not torch.equal(found[name], expected[name]), name


def test_load_pretrained_model__old_layout_comes_back_completely(saved):
    folder, tensors = saved
    keys = set(load_file(folder / WEIGHTS))
    # What the Hub's checkpoints look like; if transformers ever writes new names, this test must get a fixed file.
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in keys
    assert "segformer.encoder.patch_embeddings.3.proj.weight" in keys
    assert "decode_head.linear_c.0.proj.weight" in keys
    assert len(keys) == len(tensors)
    model = load_pretrained_model(str(folder), CITYSCAPES)
    assert_equal_tensors(model, tensors)
    assert model.config.id2label == CITYSCAPES.id2label
    assert model.config.semantic_loss_ignore_index == IGNORE_INDEX


def test_load_pretrained_model__same_classes_log_nothing(saved, caplog):
    with caplog.at_level(logging.INFO):
        load_pretrained_model(str(saved[0]), CITYSCAPES)
    assert not [record for record in caplog.records if record.name.startswith("hf_urbanseg")]


def test_load_pretrained_model__overrides_reach_the_model(saved):
    model = load_pretrained_model(str(saved[0]), CITYSCAPES, classifier_dropout_prob=0.0, drop_path_rate=0.3)
    assert model.decode_head.dropout.p == 0.0
    assert model.config.drop_path_rate == 0.3


def test_load_pretrained_model__is_deterministic_where_nothing_is_new(saved):
    torch.manual_seed(1)
    first = load_pretrained_model(str(saved[0]), CITYSCAPES)
    torch.manual_seed(2)
    assert_equal_tensors(load_pretrained_model(str(saved[0]), CITYSCAPES), first.state_dict())


@pytest.mark.parametrize(
    ("key", "live"),
    [
        ("segformer.encoder.block.2.0.mlp.dense1.weight", "segformer."),
        ("decode_head.batch_norm.running_mean", "decode_head.batch_norm.running_mean"),
        ("decode_head.classifier.bias", "decode_head.classifier.bias"),
    ],
)
def test_load_pretrained_model__missing_tensor_is_named(altered, key, live):
    folder = altered(lambda tensors: tensors.pop(key))
    line = fails(folder, CITYSCAPES)
    assert line.startswith(f"{folder}: expected weights for every tensor of the model and no others; found 1 missing (")
    assert live in line
    assert key.rsplit(".", 1)[1] in line


def test_load_pretrained_model__extra_tensor_is_named(altered):
    folder = altered(lambda tensors: tensors.update({"decode_head.extra.weight": torch.zeros(3)}))
    assert "found 1 unexpected (decode_head.extra.weight)" in fails(folder, CITYSCAPES)


def test_load_pretrained_model__tensor_of_another_shape_is_named(altered):
    folder = altered(lambda tensors: tensors.update({"decode_head.linear_fuse.weight": torch.zeros(4, 4, 1, 1)}))
    assert "found 1 of another shape (decode_head.linear_fuse.weight)" in fails(folder, CITYSCAPES)


def test_load_pretrained_model__classifier_that_belies_its_config_is_an_error(altered):
    # The names say nothing has to be made anew, so new weights would be silent ones.
    folder = altered(lambda tensors: tensors.update({"decode_head.classifier.bias": torch.zeros(3)}))
    assert "found 1 of another shape (decode_head.classifier.bias)" in fails(folder, CITYSCAPES)


@pytest.mark.parametrize("size", [0, 7, 1000, -1])
def test_load_pretrained_model__truncated_file(saved, tmp_path, size):
    folder = tmp_path / "cut"
    shutil.copytree(saved[0], folder)
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:size])
    assert fails(str(folder), CITYSCAPES).startswith(f"{folder}: expected a readable model")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_load_pretrained_model__half_precision_arrives_in_single(saved, altered, dtype):
    def halve(tensors):
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensors[name] = tensor.to(dtype)

    model = load_pretrained_model(altered(halve, dtype=str(dtype).removeprefix("torch.")), CITYSCAPES)
    floating = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    assert {tensor.dtype for tensor in floating.values()} == {torch.float32}
    for name, tensor in floating.items():
        assert torch.equal(tensor, saved[1][name].to(dtype).float()), name


def test_load_pretrained_model__a_class_that_both_have_keeps_its_row(saved, caplog):
    three = LabelSpace("three", ("sky", "rest", "Traffic_Light"), (*TWO.colors, (3, 3, 3)), {0: 0, 1: 1, 2: 2})
    model = load_pretrained_model(str(saved[0]), three)
    parts = ("decode_head.classifier.weight", "decode_head.classifier.bias")
    assert_equal_tensors(model, saved[1], but=parts)
    assert model.config.id2label == three.id2label
    assert model.config.num_labels == 3
    for part in parts:
        tensor = model.get_parameter(part)
        assert torch.equal(tensor[[0, 2]], saved[1][part][[10, 6]])
    # Zero bias and the initial spread of SegFormer, not what happened to be in memory.
    assert model.decode_head.classifier.bias[1] == 0
    assert 0.01 < model.decode_head.classifier.weight[1].detach().std().item() < 0.04
    assert "predicts 19 classes (road, ...), the data has 3 (sky, ...): rest start from random weights" in caplog.text
    assert "kept by name: sky, Traffic_Light" in caplog.text


def test_load_pretrained_model__no_class_in_common_or_none_wanted_makes_a_new_classifier(saved, caplog):
    other = LabelSpace("other", ("left", "right"), TWO.colors, TWO.label_ids)
    for space, wanted in ((other, False), (CITYSCAPES, True)):
        caplog.clear()
        model = load_pretrained_model(str(saved[0]), space, new_classifier=wanted)
        assert not model.decode_head.classifier.bias.any()
        assert "the classifier starts from random weights" in caplog.text
        assert "kept" not in caplog.text


@pytest.mark.parametrize("spell", [str.title, lambda name: name.replace(" ", "_"), lambda name: f" {name} "])
def test_load_pretrained_model__spelling_of_names_is_no_other_class(saved, altered, spell):
    folder = altered(id2label={str(key): spell(name) for key, name in CITYSCAPES.id2label.items()})
    model = load_pretrained_model(folder, CITYSCAPES)
    assert_equal_tensors(model, saved[1])
    assert model.config.id2label == CITYSCAPES.id2label


def test_load_pretrained_model__placeholder_names_of_the_right_number_are_trusted_aloud(saved, altered, caplog):
    folder = altered(id2label={str(key): f"LABEL_{key}" for key in range(19)})
    model = load_pretrained_model(folder, CITYSCAPES)
    assert_equal_tensors(model, saved[1])
    assert model.config.id2label == CITYSCAPES.id2label
    assert "have no names (LABEL_0, ...): its classifier is kept row by row, in the data's order (road" in caplog.text


def test_load_pretrained_model__encoder_only_keeps_the_encoder(tmp_path, caplog):
    # nvidia/mit-b0: an image classifier on ImageNet.
    torch.manual_seed(3)
    classifier = SegformerForImageClassification(SegformerConfig(**SEGFORMER, num_labels=10))
    classifier.save_pretrained(tmp_path)
    model = load_pretrained_model(str(tmp_path), CITYSCAPES)
    expected = classifier.segformer.state_dict()
    found = model.segformer.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert model.decode_head.classifier.weight.shape[0] == 19
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert "holds an encoder only: the decode head starts from random weights" in caplog.text


def test_load_pretrained_model__encoder_only_must_be_complete_too(tmp_path):
    SegformerForImageClassification(SegformerConfig(**SEGFORMER, num_labels=10)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors.pop("segformer.encoder.block.1.0.layer_norm_1.weight")
    save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
    assert "found 1 missing (segformer." in fails(str(tmp_path), CITYSCAPES)


def test_load_pretrained_model__another_architecture(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    assert fails(str(tmp_path), CITYSCAPES).startswith(f"{tmp_path}: expected a SegFormer; found model type `bert`")


def test_load_pretrained_model__path_that_does_not_exist(tmp_path):
    line = fails(str(tmp_path / "missing"), CITYSCAPES)
    assert line.startswith(f"{tmp_path / 'missing'}: expected ")


def test_load_pretrained_model__hub_id_without_network():
    assert fails("nobody/segformer-nowhere", CITYSCAPES).startswith("nobody/segformer-nowhere: expected ")


def test_load_pretrained_model__folder_without_a_model(tmp_path):
    assert "config.json: expected config.json in a model folder; found none" in fails(str(tmp_path), CITYSCAPES)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "nonsense"}'])
def test_load_pretrained_model__damaged_config(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert fails(str(tmp_path), CITYSCAPES).startswith(f"{tmp_path / 'config.json'}: expected the configuration of")


@pytest.mark.parametrize(
    ("size", "millions"), [("b0", 3.72), ("b1", 13.68), ("b2", 27.36), ("b3", 47.24), ("b4", 64.01), ("b5", 84.61)]
)
def test_build_random_model__parameters_of_the_published_sizes(size, millions):
    # Xie et al. 2021, table 1 (encoder + decoder): 3.8, 13.7, 27.5, 47.3, 64.1, 84.7.
    with torch.device("meta"):
        model = build_random_model(size, CITYSCAPES)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def test_build_random_model__decoder_of_the_report():
    with torch.device("meta"):
        model = build_random_model("b2", CITYSCAPES, decoder_hidden_size=256)
    assert model.decode_head.classifier.weight.shape == (19, 256, 1, 1)


def test_build_random_model__same_seed_same_weights():
    models = []
    for _ in range(2):
        torch.manual_seed(5)
        models.append(build_random_model("tiny", CITYSCAPES).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_build_config__classes_and_unknown_size():
    config = build_config("tiny", TWO, drop_path_rate=0.25)
    assert (config.id2label, config.label2id, config.num_labels) == ({0: "road", 1: "rest"}, {"road": 0, "rest": 1}, 2)
    assert (config.drop_path_rate, config.hidden_sizes) == (0.25, SIZES["tiny"]["hidden_sizes"])
    with pytest.raises(ModelError, match="expected a size of tiny, b0, b1, b2, b3, b4, b5; found `b6`"):
        build_config("b6", CITYSCAPES)


def test_build_image_processor__size_and_normalisation():
    processor = build_image_processor((64, 96))
    image = Image.fromarray(np.full((30, 50, 3), (124, 0, 255), np.uint8))
    values = processor(image, return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 64, 96)
    expected = [(124 - 123.675) / 58.395, (0 - 116.28) / 57.12, (255 - 103.53) / 57.375]
    assert values[0, :, 10, 20].tolist() == pytest.approx(expected, abs=1e-5)
    assert processor.do_reduce_labels is False
    assert type(processor).__name__ == "SegformerImageProcessorPil"


@pytest.mark.parametrize("size", [(375, 1242), (384, 1241), (0, 32), (-32, 32), (16, 32)])
def test_build_image_processor__refuses_other_than_multiples_of_32(size):
    with pytest.raises(ConfigError) as caught:
        build_image_processor(size)
    assert f"in multiples of 32; found {list(size)}; give for example " in str(caught.value)


def test_load_pretrained_model__a_kept_decoder_is_not_trained(tmp_path):
    SegformerConvDecoderConfig(**SEGFORMER).save_pretrained(tmp_path)
    text = fails(str(tmp_path), CITYSCAPES)
    assert "found model type `segformer_conv_decoder`; convert its .pth file with `--decoder drop`" in text


def replace_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    """Folder and tensors of each of the small baselines."""
    root, saved = tmp_path_factory.mktemp("baselines"), {}
    for name in SMALL:
        model = build(name)
        with quiet_transformers():
            model.save_pretrained(root / name)
        saved[name] = root / name, model.state_dict()
    return saved


@pytest.mark.parametrize("name", SMALL)
def test_load_pretrained_model__baseline_comes_back_completely(baselines, caplog, name):
    folder, tensors = baselines[name]
    model = load_pretrained_model(str(folder), CITYSCAPES, architecture=SMALL[name][0], classifier_dropout_prob=0.25)
    assert_equal_tensors(model, tensors)
    assert model.config.id2label == CITYSCAPES.id2label
    assert model.decode_head.dropout.p == 0.25
    assert not [record for record in caplog.records if record.name.startswith("hf_urbanseg")]


@pytest.mark.parametrize("name", SMALL)
def test_load_pretrained_model__baseline_with_tensors_that_do_not_fit(baselines, tmp_path, name):
    for part in ("backbone.", "decode_head."):
        key = next(key for key in baselines[name][1] if key.startswith(part) and key.endswith("weight"))
        for word, change in (
            ("missing", lambda tensors: tensors.pop(key)),  # noqa: B023
            ("unexpected", lambda tensors: tensors.update({f"{key}_old": torch.ones(1)})),  # noqa: B023
            ("of another shape", lambda tensors: tensors.update({key: torch.ones(1)})),  # noqa: B023
        ):
            folder = shutil.copytree(baselines[name][0], tmp_path / part / word)
            replace_tensors(folder, change)
            line = fails(str(folder), CITYSCAPES, architecture=SMALL[name][0])
            assert line.startswith(f"{folder}: expected weights for every tensor of the model and no others; found 1 ")
            assert f"found 1 {word} ({key}" in line


@pytest.mark.parametrize("name", SMALL)
def test_load_pretrained_model__baseline_for_other_classes(baselines, caplog, name):
    folder, tensors = baselines[name]
    new = [key for key in tensors if key.startswith(("decode_head.classifier.", "decode_head.upsamplings."))]
    assert len(new) == (5 if name == "transposed" else 2)
    other = LabelSpace("other", ("left", "right"), TWO.colors, TWO.label_ids)
    model = load_pretrained_model(str(folder), other, architecture=SMALL[name][0])
    assert_equal_tensors(model, tensors, but=new)
    assert "the classifier starts from random weights" in caplog.text
    head = model.decode_head
    assert head.classifier.out_channels == 2
    assert not head.classifier.bias.any()
    assert 0 < head.classifier.weight.abs().max() < 0.1
    for layer in getattr(head, "upsamplings", ()):
        assert layer.weight.shape == (2, 2, 4, 4)
        assert 0.9 < layer.weight.abs().max() * (16 * 2) ** 0.5 <= 1  # torch's own
    with torch.no_grad():
        assert model(draw_images(1, 3, 40, 40)).logits.shape[1] == 2


@pytest.mark.parametrize("name", SMALL)
def test_load_pretrained_model__the_same_classes_in_another_order_are_the_same_model(baselines, caplog, name):
    folder, _ = baselines[name]
    swapped = LabelSpace("swapped", CITYSCAPES.names[::-1], CITYSCAPES.colors, CITYSCAPES.label_ids)
    caplog.set_level("INFO")
    models = [load_pretrained_model(str(folder), one, architecture=SMALL[name][0]) for one in (CITYSCAPES, swapped)]
    with torch.no_grad():
        first, second = (model.eval()(draw_images(1, 3, 40, 40)).logits for model in models)
    assert (first - second.flip(1)).abs().max() < 1e-5 * first.abs().max()
    assert "classes of the data in another order: each keeps its weights" in caplog.text


@pytest.mark.parametrize("name", SMALL)
def test_load_pretrained_model__baseline_as_another_architecture(baselines, name):
    folder, own = baselines[name][0], SMALL[name][0]
    for architecture in ARCHITECTURES.keys() - {own}:
        line = fails(str(folder), CITYSCAPES, architecture=architecture)
        assert f"found model type `urbanseg_{own}`; choose another model or `--architecture {own}`" in line


@pytest.fixture(scope="module", params=["basic", "bottleneck"])
def resnet(request, tmp_path_factory):
    """An image classifier, as microsoft/resnet-18 and resnet-50 are."""
    config = ResNetConfig(**RESNET, layer_type=request.param, num_labels=10)
    classifier = randomize(ResNetForImageClassification(config))
    folder = tmp_path_factory.mktemp(request.param)
    with quiet_transformers():
        classifier.save_pretrained(folder)
    keys = load_file(folder / WEIGHTS).keys()
    # The names of the Hub's files.
    assert {"resnet.embedder.embedder.convolution.weight", "classifier.1.bias"} <= keys
    assert "resnet.encoder.stages.3.layers.0.layer.1.normalization.running_var" in keys
    return folder, classifier


@pytest.mark.parametrize("architecture", ["deeplabv3plus", "pspnet"])
def test_load_pretrained_model__starts_from_a_resnet(resnet, caplog, architecture):
    folder, classifier = resnet
    torch.manual_seed(0)
    model = load_pretrained_model(str(folder), CITYSCAPES, architecture=architecture).eval()
    assert_equal_tensors(model.backbone, {
        name.removeprefix("resnet."): tensor
        for name, tensor in classifier.state_dict().items() if name.startswith("resnet.")
    })  # fmt: skip
    assert type(model) is ARCHITECTURES[architecture].model_class
    assert (model.config.deep_stem, model.config.layer_type) == (False, classifier.config.layer_type)
    assert (model.config.num_labels, model.config.id2label) == (19, CITYSCAPES.id2label)
    assert model.config.semantic_loss_ignore_index == IGNORE_INDEX
    assert model.decode_head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert "holds an encoder only: the decode head starts from random weights" in caplog.text
    images = draw_images(2, 3, 61, 90)
    with quiet_transformers():
        stock = ResNetBackbone.from_pretrained(folder, out_features=["stage1", "stage2"]).eval()
    with torch.no_grad():
        maps, expected = model.backbone(images), stock(images).feature_maps
    assert [one.shape[2:] for one in maps] == [(16, 23), (8, 12), (8, 12), (8, 12)]
    # Behind them, dilation plays a part.
    assert all(torch.equal(*pair) for pair in zip(maps[:2], expected, strict=True))


@pytest.fixture(scope="module")
def swin():
    return randomize(SwinForImageClassification(SwinConfig(**SWIN, image_size=48, num_labels=10)))


@pytest.fixture(params=["old", "new"])
def swin_folder(swin, request, tmp_path):
    """With its tensors as the Hub's files name them, which hold indices too, or as the live model does."""
    with quiet_transformers():
        swin.save_pretrained(tmp_path)
    if request.param == "new":
        save_file(swin.state_dict(), tmp_path / WEIGHTS, {"format": "pt"})
        return tmp_path
    block = "swin.encoder.layers.2.blocks.1"
    indices = {f"{block}.attention.self.relative_position_index": torch.zeros(9, 9, dtype=torch.int64)}
    replace_tensors(tmp_path, lambda tensors: tensors.update(indices))
    keys = load_file(tmp_path / WEIGHTS).keys()
    assert {f"{block}.attention.self.query.weight", f"{block}.attention.output.dense.bias"} <= keys
    assert {f"{block}.attention.self.relative_position_bias_table", f"{block}.intermediate.dense.weight"} <= keys
    assert {f"{block}.output.dense.weight", "swin.layernorm.weight", "classifier.weight"} <= keys
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"path_norm": True}))
    return tmp_path


def test_load_pretrained_model__starts_from_a_swin(swin, swin_folder, caplog):
    fields = {"architecture": "swin_segformer", "decoder_hidden_size": 24, "drop_path_rate": 0.3}
    model = load_pretrained_model(str(swin_folder), CITYSCAPES, **fields).eval()
    expected = {name: tensor for name, tensor in swin.state_dict().items() if not name.startswith("classifier.")}
    norms = {name for name in model.backbone.state_dict() if name.startswith("hidden_states_norms.")}
    found = {name: tensor for name, tensor in model.backbone.state_dict().items() if name not in norms}
    # The norm behind the last stage is for the classifier.
    assert expected.keys() - found.keys() == {"swin.layernorm.weight", "swin.layernorm.bias"}
    assert found.keys() <= expected.keys()
    assert all(torch.equal(expected[name], tensor) for name, tensor in found.items())
    # Norms of the maps, which segmentation brings along, start as such.
    assert len(norms) == 8
    assert all((model.backbone.state_dict()[name] == name.endswith("weight")).all() for name in norms)
    assert (model.config.decoder_hidden_size, model.config.drop_path_rate, model.config.num_labels) == (24, 0.3, 19)
    drops = [float(one.drop_prob) for one in model.modules() if type(one).__name__ == "SwinDropPath"]
    assert drops == pytest.approx([0.3 * n / 4 for n in range(1, 5)])
    assert "holds an encoder only: the decode head starts from random weights" in caplog.text
    with quiet_transformers():
        stock = SwinBackbone.from_pretrained(swin_folder, out_features=["stage1", "stage2", "stage3", "stage4"])
    images = draw_images(2, 3, 61, 90)
    with torch.no_grad():
        maps = zip(model.backbone(images), stock.eval()(images).feature_maps, strict=True)
    assert all(torch.allclose(one, two, rtol=0, atol=1e-5) for one, two in maps)


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("missing", lambda tensors, key: tensors.pop(key)),
        ("unexpected", lambda tensors, key: tensors.update({f"{key}_old": torch.ones(1)})),
        ("of another shape", lambda tensors, key: tensors.update({key: torch.ones(1)})),
    ],
)
def test_load_pretrained_model__encoders_must_be_complete(resnet, swin, tmp_path, word, change):
    folder = shutil.copytree(resnet[0], tmp_path / "resnet")
    key = "resnet.encoder.stages.2.layers.1.layer.0.convolution.weight"
    replace_tensors(folder, lambda tensors: change(tensors, key))
    line = fails(str(folder), CITYSCAPES, architecture="pspnet")
    assert f"found 1 {word} (" in line
    assert key.removeprefix("resnet.") in line
    with quiet_transformers():
        swin.save_pretrained(tmp_path / "swin")
    norm = "swin.encoder.layers.2.downsample.norm.weight"
    replace_tensors(tmp_path / "swin", lambda tensors: change(tensors, norm))
    line = fails(str(tmp_path / "swin"), CITYSCAPES, architecture="swin_segformer")
    assert f"found 1 {word} (" in line
    assert norm.removeprefix("swin.") in line


@pytest.mark.parametrize("architecture", ["segformer", "encoder_decoder", "unet", "swin_segformer"])
def test_load_pretrained_model__encoder_of_another_architecture(resnet, architecture):
    line = fails(str(resnet[0]), CITYSCAPES, architecture=architecture)
    expected = {"segformer": "a SegFormer", "swin_segformer": "a `swin_segformer`, or a `swin` as its encoder"}
    assert f"expected {expected.get(architecture, f'a `{architecture}`')}; found model type `resnet`; choose" in line


def test_build_config__of_a_baseline():
    config = build_config("resnet50", TWO, "pspnet", classifier_dropout_prob=0.2)
    assert (config.model_type, config.layer_type, config.depths) == ("urbanseg_pspnet", "bottleneck", [3, 4, 6, 3])
    assert (config.num_labels, config.id2label, config.classifier_dropout_prob) == (2, {0: "road", 1: "rest"}, 0.2)
    assert (config.semantic_loss_ignore_index, config.deep_stem) == (IGNORE_INDEX, True)
    assert build_config("swin-tiny", TWO, "swin_segformer", drop_path_rate=0.3).drop_path_rate == 0.3
    with pytest.raises(ModelError, match="a size of tiny, resnet18, resnet50, resnet101; found `b0`"):
        build_config("b0", CITYSCAPES, "pspnet")
    with pytest.raises(ModelError, match=r"an architecture of segformer, encoder_decoder, .*; found `fcn`; choose one"):
        build_config("b0", CITYSCAPES, "fcn")
    with pytest.raises(ModelError, match="found `drop_path_rate` with `unet`; leave `drop_path_rate` out"):
        build_config("tiny", CITYSCAPES, "unet", drop_path_rate=0.1)


@pytest.mark.parametrize(
    ("architecture", "size", "millions"),
    [
        # He et al. 2016 by torchvision: 11.18, 23.51, 42.50 without the classifier. The deep stem has 0.02 more.
        ("pspnet", "resnet18", 11.20), ("pspnet", "resnet50", 23.53), ("pspnet", "resnet101", 42.52),
        ("swin_segformer", "swin-tiny", 27.52),  # Liu et al. 2021: 28.3 with 0.77 of the classifier
    ],
)  # fmt: skip
def test_build_random_model__parameters_of_the_published_encoders(architecture, size, millions):
    with torch.device("meta"):
        model = build_random_model(size, CITYSCAPES, architecture)
    assert sum(one.numel() for one in model.backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.012)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_find_size__is_the_size_that_was_built(architecture):
    for size in ARCHITECTURES[architecture].sizes:
        assert find_size(build_config(size, CITYSCAPES, architecture).to_dict()) == size
    odd = build_config(size, CITYSCAPES, architecture).to_dict() | {"hidden_sizes": [7], "embed_dim": 7}
    assert find_size(odd) is None
