import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertConfig, SegformerConfig, SegformerForImageClassification, SegformerForSemanticSegmentation

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace
from hf_urbanseg.models.build import (
    SIZES,
    build_config,
    build_image_processor,
    build_random_model,
    choose_eval_size,
    load_pretrained_model,
)
from hf_urbanseg.models.conv_decode_head import SegformerConvDecoderConfig

TWO = LabelSpace("two", ("road", "rest"), ((1, 1, 1), (2, 2, 2)), {0: 0, 1: 1})
SMALL = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, tensors by their live names) of a model with 19 classes and no two equal tensors."""
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(build_config("tiny", CITYSCAPES, **SMALL))
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


def test_load_pretrained_model__other_class_count_makes_a_new_classifier_and_says_so(saved, caplog):
    model = load_pretrained_model(str(saved[0]), TWO)
    new = ("decode_head.classifier.weight", "decode_head.classifier.bias")
    assert_equal_tensors(model, saved[1], but=new)
    assert model.decode_head.classifier.weight.shape == (2, 16, 1, 1)
    assert model.config.id2label == {0: "road", 1: "rest"}
    assert model.config.num_labels == 2
    # Zero bias and the initial spread of SegFormer, not what happened to be in memory.
    assert not model.decode_head.classifier.bias.any()
    assert 0.01 < model.decode_head.classifier.weight.detach().std().item() < 0.04
    assert (
        "predicts 19 classes (road, ...), the data has 2 (road, ...): the classifier starts from random" in caplog.text
    )


def test_load_pretrained_model__same_count_of_other_names_makes_a_new_classifier(saved, caplog):
    swapped = LabelSpace("swapped", CITYSCAPES.names[::-1], CITYSCAPES.colors, CITYSCAPES.label_ids)
    model = load_pretrained_model(str(saved[0]), swapped)
    assert_equal_tensors(model, saved[1], but=("decode_head.classifier.weight", "decode_head.classifier.bias"))
    assert "the classifier starts from random weights" in caplog.text


@pytest.mark.parametrize("spell", [str.title, lambda name: name.replace(" ", "_"), lambda name: f" {name} "])
def test_load_pretrained_model__spelling_of_names_is_no_other_class(saved, altered, spell):
    folder = altered(id2label={str(key): spell(name) for key, name in CITYSCAPES.id2label.items()})
    model = load_pretrained_model(folder, CITYSCAPES)
    assert_equal_tensors(model, saved[1])
    assert model.config.id2label == CITYSCAPES.id2label


def test_load_pretrained_model__placeholder_names_of_the_right_number_are_trusted(saved, altered):
    folder = altered(id2label={str(key): f"LABEL_{key}" for key in range(19)})
    assert_equal_tensors(load_pretrained_model(folder, CITYSCAPES), saved[1])


def test_load_pretrained_model__encoder_only_keeps_the_encoder(tmp_path, caplog):
    # nvidia/mit-b0: an image classifier on ImageNet.
    torch.manual_seed(3)
    classifier = SegformerForImageClassification(SegformerConfig(**SMALL, num_labels=10))
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
    SegformerForImageClassification(SegformerConfig(**SMALL, num_labels=10)).save_pretrained(tmp_path)
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


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({(375, 1242): 9, (370, 1226): 3}, (384, 1248)),
        ({(370, 1226): 9, (375, 1242): 3}, (384, 1216)),
        ({(1024, 2048): 1}, (1024, 2048)),
        ({(360, 480): 1}, (352, 480)),  # 360 is 11.25 x 32
        ({(368, 368): 1}, (384, 384)),  # half-way goes up
        ({(5, 20): 1}, (32, 32)),
    ],
)
def test_choose_eval_size__commonest_brought_to_multiples_of_32(sizes, expected):
    assert choose_eval_size(sizes) == expected


def test_choose_eval_size__a_tie_does_not_depend_on_the_order():
    sizes = {(64, 96): 2, (96, 128): 2}
    assert choose_eval_size(sizes) == choose_eval_size(dict(reversed(sizes.items())))


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
    with pytest.raises(ModelError) as caught:
        build_image_processor(size)
    assert f"multiples of 32; found {size[0]} {size[1]}" in str(caught.value)


def test_load_pretrained_model__a_kept_decoder_is_not_trained(tmp_path):
    SegformerConvDecoderConfig(**SMALL).save_pretrained(tmp_path)
    text = fails(str(tmp_path), CITYSCAPES)
    assert "found model type `segformer_conv_decoder`; convert its .pth file with `--decoder drop`" in text
