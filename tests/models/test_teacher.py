import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BeitConfig,
    BeitForSemanticSegmentation,
    EomtConfig,
    EomtForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SwinConfig,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from hf_urbanseg.errors import ModelError, UrbanSegError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.models.teacher import Teacher, load_teacher
from hf_urbanseg.models.training_branch import attach_feature_adapter

TINY = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
TINY |= {"decoder_hidden_size": 16}


def labels(names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def segformer(names, **options):
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(SegformerConfig(**TINY, **labels(names), **options)).eval()
    torch.nn.init.normal_(model.decode_head.classifier.weight)
    return model


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_teacher__columns_by_name(pixels):
    names = ["sky", "Traffic_Light", "curb", "road, route"]
    model = segformer(names)
    teacher = Teacher(model, names, CITYSCAPES.names)
    assert teacher.taught == (0, 6, 10)
    assert teacher.names == ("road", "traffic light", "sky")
    with torch.no_grad():
        expected = model(pixels).logits[:, [3, 1, 0]]
    assert torch.equal(teacher(pixels).logits, expected)


def test_teacher__frozen_and_in_evaluation_mode_whatever_is_asked(pixels):
    teacher = Teacher(segformer(["road"], classifier_dropout_prob=0.5), ["road"], CITYSCAPES.names).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    first, second = teacher(pixels).logits, teacher(pixels.requires_grad_()).logits
    assert torch.equal(first, second)
    assert not second.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher(pixels).logits, first)


@pytest.mark.parametrize(
    "processor",
    [
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"do_normalize": False},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "do_flip_channel_order": True},
    ],
)
def test_load_teacher__sees_images_as_its_own_processor_shows_them(tmp_path, processor):
    names = list(CITYSCAPES.names)
    model = segformer(names)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    plain = {key: value for key, value in processor.items() if key != "do_flip_channel_order"}
    theirs = SegformerImageProcessorPil(do_resize=False, **plain)
    ours = SegformerImageProcessorPil(do_resize=False)
    theirs, ours = (one(image, return_tensors="pt")["pixel_values"] for one in (theirs, ours))
    theirs = theirs.flip(1) if "do_flip_channel_order" in processor else theirs
    with torch.no_grad():
        expected, unlike = model(theirs).logits, model(ours).logits
    found = load_teacher(str(tmp_path), names)(ours).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (unlike - expected).abs().max() > 1e-2


@pytest.fixture(scope="module")
def mask2former(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mask2former")
    torch.manual_seed(0)
    backbone = SwinConfig(
        embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16}
    sizes |= {"dim_feedforward": 16, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2}
    config = Mask2FormerConfig(backbone_config=backbone, num_queries=12, **sizes, **labels(CITYSCAPES.names))
    model = Mask2FormerForUniversalSegmentation(config).eval()
    for parameter in model.parameters():  # else all queries are alike
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    SegformerImageProcessorPil().save_pretrained(folder)
    return folder


def test_load_teacher__queries_as_transformers_sums_them(mask2former, pixels):
    model = Mask2FormerForUniversalSegmentation.from_pretrained(mask2former).eval()
    with torch.no_grad():
        outputs = model(pixels)
    expected = Mask2FormerImageProcessorPil().post_process_semantic_segmentation(outputs, [(64, 96)] * 2)
    teacher = load_teacher(str(mask2former), CITYSCAPES.names)
    logits = teacher(pixels).logits
    assert logits.shape == (2, 19, 16, 24)
    full = torch.nn.functional.interpolate(logits.exp(), (64, 96), mode="bilinear", align_corners=False)
    agree = (full.argmax(1) == torch.stack(expected)).float().mean()
    assert agree > 0.95  # theirs enlarges masks before their sigmoid
    assert len(full.argmax(1).unique()) > 1
    assert teacher.try_out((64, 96)) > 1e6


def test_load_teacher__index_tables_that_older_versions_saved(mask2former, tmp_path, pixels):
    """As the Hub's Swin Mask2Former has them; transformers computes them now, and calls them unexpected."""
    shutil.copytree(mask2former, tmp_path / "old")
    tensors = load_file(mask2former / "model.safetensors")
    old = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self.relative_position_index"
    assert any(name.startswith(old.partition(".layers")[0]) for name in tensors)
    save_file(
        tensors | {old: torch.zeros(16, 16, dtype=torch.long)}, tmp_path / "old" / "model.safetensors", {"format": "pt"}
    )
    first, second = (load_teacher(str(one), CITYSCAPES.names)(pixels).logits for one in (mask2former, tmp_path / "old"))
    assert torch.equal(first, second)


def test_load_teacher__what_its_processors_file_leaves_out(tmp_path, pixels):
    """MobileViT's class doesn't normalise and turns red and blue round, and its files say nothing of either."""
    names = list(CITYSCAPES.names)
    segformer(names).save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    for kind in ("image_processor_type", "feature_extractor_type"):
        for name in ("MobileViTImageProcessor", "MobileViTImageProcessorFast", "MobileViTFeatureExtractor"):
            file.write_text(json.dumps({kind: name, "image_mean": [0.5] * 3}))
            teacher = load_teacher(str(tmp_path), names)
            assert teacher.flips_channels
            assert teacher.scale.flatten().tolist() == pytest.approx(IMAGENET_DEFAULT_STD)
            assert teacher.shift.flatten().tolist() == pytest.approx(IMAGENET_DEFAULT_MEAN)
    file.write_text(json.dumps({"image_processor_type": "DPTImageProcessor"}))
    assert load_teacher(str(tmp_path), names).scale.flatten().tolist() == pytest.approx([0.458, 0.448, 0.45])
    for other in ({"do_rescale": False}, {"rescale_factor": 1.0}, {"rescale_factor": "x"}):
        file.write_text(json.dumps(other))
        with pytest.raises(ModelError, match=r"a teacher of images in 0\.\.1"):
            load_teacher(str(tmp_path), names)


def test_load_teacher__one_that_takes_one_size_only(tmp_path, pixels, caplog):
    config = EomtConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_blocks=1, num_queries=6, image_size=32,
        patch_size=8, num_upscale_blocks=1, **labels(CITYSCAPES.names),
    )  # fmt: skip
    EomtForUniversalSegmentation(config).save_pretrained(tmp_path)
    teacher = load_teacher(str(tmp_path), CITYSCAPES.names)
    assert teacher.try_out((64, 96)) > 1e4
    assert "takes 32x32 alone: 64x96 is stretched to it" in caplog.text
    assert "no preprocessor_config.json" in caplog.text
    assert teacher(pixels).logits.shape == (2, 19, 8, 8)
    teacher = load_teacher(str(tmp_path), CITYSCAPES.names)
    teacher.try_out((32, 32), (64, 64))  # its own size first
    assert teacher(pixels).logits.shape == (2, 19, 8, 8)
    teacher = load_teacher(str(tmp_path), CITYSCAPES.names)
    teacher.try_out((32, 32))
    assert teacher.input_size is None


def test_try_out__feature_maps(mask2former, pixels, tmp_path):
    """The last of an encoder's stages, of whatever model has maps; a transformer's tokens are none."""
    names = list(CITYSCAPES.names)
    model = segformer(names)
    teacher = Teacher(model, names, names)
    teacher.with_features = True
    teacher.try_out((64, 96))
    assert teacher.feature_channels == 16
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(teacher(pixels).hidden_states[-1], expected)
    unet = build_random_model("tiny", CITYSCAPES, "unet")
    teacher = Teacher(unet, names, names)
    teacher.with_features = True
    teacher.try_out((64, 96))
    assert teacher.feature_channels == unet.feature_channels[0] == max(unet.feature_channels)
    attach_feature_adapter(unet, 7)
    assert unet.train()(pixels).adapted_features.shape == (2, 7, *teacher(pixels).hidden_states[-1].shape[2:])
    teacher = load_teacher(str(mask2former), names)
    teacher.with_features = True
    teacher.try_out((64, 96))
    assert teacher(pixels).hidden_states[-1].shape[:2] == (2, teacher.feature_channels)
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    config = BeitConfig(**sizes, image_size=64, out_indices=[1, 2, 3, 4], **labels(names))
    teacher = Teacher(BeitForSemanticSegmentation(config), names, names)
    assert teacher.try_out((64, 64)) > 0
    teacher.with_features = True
    with pytest.raises(ModelError, match="no feature map of its encoder"):
        teacher.try_out((64, 64))


def test_load_teacher__half_precision(tmp_path, pixels):
    segformer(CITYSCAPES.names).save_pretrained(tmp_path)
    whole, half = (load_teacher(str(tmp_path), CITYSCAPES.names, precision=one) for one in ("fp32", "bf16"))
    assert half.model.dtype == torch.bfloat16
    assert half.describe()["precision"] == "bf16"
    first, second = whole(pixels).logits, half(pixels).logits
    assert second.dtype == torch.float32
    assert 0 < (first - second).abs().max() < 0.1 * first.abs().max()


def test_describe__tells_weights_apart():
    def describe(value):
        model = build_random_model("tiny", CITYSCAPES)
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, 0.5)
        model.segformer.stages[0].blocks[0].layernorm_before.bias.data[3] = value
        return Teacher(model, CITYSCAPES.names, CITYSCAPES.names).describe()["sha256"]

    assert describe(0.5) == describe(0.5) != describe(0.5000001)


def test_load_teacher__refuses(tmp_path):
    def save(name, model, change=None):
        if change is not None:
            change(model)
        model.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    def fails(name, *words):
        with pytest.raises(UrbanSegError) as caught:
            load_teacher(name, CITYSCAPES.names).try_out((64, 96))
        assert all(word in str(caught.value) for word in words), str(caught.value)

    fails(str(tmp_path / "none"), "none", "found nothing there")
    strangers = save("strangers", segformer(["curb", "wagon"]))
    fails(
        strangers, "strangers", "a teacher with classes of the data's (road, sidewalk, building, ...), by name", "curb"
    )
    double = save("double", segformer(["road", "Road", "sky"]))
    fails(double, "one class of the teacher's for `road`", "`road` and `Road`")
    config = SegformerConfig(**TINY, **labels(CITYSCAPES.names))
    fails(save("classifier", SegformerForImageClassification(config)), "weights for every tensor", "missing")
    with torch.no_grad():
        nan = save("nan", segformer(CITYSCAPES.names), lambda model: model.decode_head.classifier.bias[2].fill_(np.nan))
    fails(nan, "finite weights", "decode_head.classifier.bias")
    for processor in (
        {"image_std": [0, 1, 1]},
        {"image_mean": "x"},
        {"image_std": [1]},
        {"image_mean": [float("nan")] * 3},
    ):
        (tmp_path / "double" / "preprocessor_config.json").write_text(json.dumps(processor))
        save("double", segformer(CITYSCAPES.names))
        fails(double, "`image_mean` and `image_std` of three numbers", "correct preprocessor_config.json")
