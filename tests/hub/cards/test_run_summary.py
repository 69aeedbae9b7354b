"""What a run's folder says about itself, and what older or broken ones leave out."""

import json
from dataclasses import replace

import pytest
from card_pages import build_card_run, edit_metrics

from hf_urbanseg.errors import DataError, ModelError
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.json_yaml import write_json
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import SIZES, build_config


def test_read__what_a_run_has(tmp_path):
    run = build_card_run(tmp_path / "run")
    summary = RunSummary.read(str(run))
    assert list(summary.splits) == ["test", "validation"]
    assert summary.size == (64, 192)
    assert summary.label_space.names == CITYSCAPES.names[:4]
    assert (summary.data_name, summary.data_kind, summary.data_title) == (
        "kitti",
        "kitti",
        "KITTI semantic segmentation",
    )
    assert not summary.data_is_hub
    assert summary.list_pictures("overlays") == ["overlays/000000_10.png", "overlays/000001_10.png"]
    assert summary.read_images("test").names == tuple(f"{i:06d}_10" for i in range(5))
    assert summary.read_images("train") is None


def test_read__nan_in_jsons_of_others_is_no_number(tmp_path):
    run = build_card_run(tmp_path / "run")
    text = (run / "metrics.json").read_text()
    (run / "metrics.json").write_text(text.replace('"mean_iou": 0', '"mean_iou": NaN, "x": 0'))
    assert RunSummary.read(run).splits["test"]["mean_iou"] is None


@pytest.mark.parametrize("name", ["metrics.json", "config.json"])
def test_read__not_finished(tmp_path, name):
    run = build_card_run(tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(ModelError, match=f"found no {name}; let `urbanseg finetune` finish"):
        RunSummary.read(run)
    if name == "metrics.json":
        (run / "checkpoint-4").mkdir()
        (run / "config.json").rename(run / "checkpoint-4" / "config.json")
        summary = RunSummary.read(run, "checkpoint-4")
        assert (summary.model_name, summary.metrics) == ("SegFormer-B0", {})


@pytest.mark.parametrize("name", ["metrics.json", "class_weights.json", "recipe.yaml", "config.json"])
def test_read__broken_files_are_named(tmp_path, name):
    run = build_card_run(tmp_path / "run")
    (run / name).write_bytes(b"[")
    with pytest.raises(DataError, match=rf"{name}: expected "):
        RunSummary.read(run)


@pytest.mark.parametrize("size", SIZES)
def test_model_name__by_the_shape_of_the_encoder(tmp_path, size):
    summary = RunSummary.read(build_card_run(tmp_path / "run"))
    shape = {key: list(SIZES[size][key]) for key in ("hidden_sizes", "depths")}
    assert replace(summary, config=shape).model_name == f"SegFormer-{size if size == 'tiny' else size.upper()}"
    assert replace(summary, config=shape | {"depths": [1, 1, 1, 1]}).model_name == "SegFormer"


@pytest.mark.parametrize(
    ("architecture", "size", "name"),
    [
        ("encoder_decoder", "unpooling", "Encoder-decoder baseline"),
        ("unet", "s5-d16", "UNet"),
        ("deeplabv3plus", "resnet50", "DeepLabV3+ (ResNet-50)"),
        ("pspnet", "resnet18", "PSPNet (ResNet-18)"),
        ("pspnet", "resnet101", "PSPNet (ResNet-101)"),
        ("pspnet", "tiny", "PSPNet (tiny)"),
        ("swin_segformer", "swin-tiny", "Swin-T + SegFormer head"),
        ("swin_segformer", "tiny", "Swin + SegFormer head"),
    ],
)
def test_model_name__by_the_type_of_the_model(tmp_path, architecture, size, name):
    config = build_config(size, CITYSCAPES, architecture)
    summary = RunSummary.read(build_card_run(tmp_path / "run"))
    assert summary.is_stock
    summary = replace(summary, config=json.loads(config.to_json_string()))
    assert (summary.model_name, summary.architecture, summary.is_stock) == (name, architecture, False)
    config.depths = [1, 2, 3, 4]
    summary = replace(summary, config=json.loads(config.to_json_string()))
    assert summary.model_name == name.partition(" (")[0].replace("Swin-T", "Swin")


def test_size__none_where_images_keep_theirs(tmp_path):
    run = build_card_run(tmp_path / "run")
    for content in ({"do_resize": False, "size": {"height": 64, "width": 192}}, {"size": {"shortest_edge": 64}}, {}):
        write_json(run / "preprocessor_config.json", content)
        assert RunSummary.read(run).size is None


def test_data_name__from_whatever_an_older_run_left(tmp_path):
    run = build_card_run(tmp_path / "run", data="camvid")
    with edit_metrics(run) as metrics:
        del metrics["data"]
    assert RunSummary.read(run).data_name == "camvid"
    (run / "class_weights.json").unlink()
    assert RunSummary.read(run).data_name == "camvid"
    (run / "recipe.yaml").unlink()
    assert RunSummary.read(run).data_name == "data without a name"


@pytest.mark.parametrize(
    ("base", "init", "expected"),
    [
        ("nvidia/mit-b0", "pretrained", ("nvidia/mit-b0", True)),
        ("nvidia/mit-b0", "random", (None, False)),
        ("/models/a/mine", "pretrained", ("mine", False)),
        ("~/mine", "pretrained", ("mine", False)),
        ("C:\\models\\mine", "pretrained", ("mine", False)),
        ("runs/demo", "pretrained", ("demo", False)),
        ("a/b/c", "pretrained", ("c", False)),
        (None, "pretrained", (None, False)),
    ],
)
def test_base__hub_id_or_folder(tmp_path, base, init, expected):
    summary = RunSummary.read(build_card_run(tmp_path / "run", model_name_or_path=base, init=init))
    assert (summary.base, summary.base_is_hub) == expected


def test_data_is_hub__an_id_and_not_a_folder(tmp_path):
    hub = RunSummary.read(build_card_run(tmp_path / "a", data_dir=None, dataset="user/set", data="user/set"))
    assert (hub.data_is_hub, hub.data_title) == (True, "user/set")
    for options in (
        {"dataset": "synthetic", "data": "synthetic"},
        {"data_dir": "user/set", "data": "set"},
        {"data": "user/set"},
    ):
        assert not RunSummary.read(build_card_run(tmp_path / "b", **options)).data_is_hub


def test_splits__test_first_then_validation_then_the_rest(tmp_path):
    run = build_card_run(tmp_path / "run")
    with edit_metrics(run) as metrics:
        scores = metrics["splits"]["test"]
        metrics["splits"] = dict.fromkeys(("night", "train", "validation", "test"), scores)
    assert list(RunSummary.read(run).splits) == ["test", "validation", "night", "train"]
