"""`urbanseg export`, and its files in place of a model's folder."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_urbanseg.__main__ import main as urbanseg
from hf_urbanseg.commands import evaluate, export, predict, profile_model
from hf_urbanseg.data.label_space_files import write_label_space
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_image_processor, build_random_model
from hf_urbanseg.runs.folder import RunFolder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder as training leaves it, but for the training."""
    folder = tmp_path_factory.mktemp("runs") / "model"
    torch.manual_seed(0)
    network = build_random_model("tiny", CITYSCAPES)
    torch.nn.init.normal_(network.decode_head.classifier.weight, std=1.0)
    network.save_pretrained(folder)
    build_image_processor((64, 192)).save_pretrained(folder)
    write_label_space(folder / "label_space.json", CITYSCAPES)
    return folder


@pytest.fixture(scope="module")
def exported(model, kitti):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    urbanseg(["export", str(model), "--data_dir", str(kitti), "--frames", "2"])
    return model / "model.onnx"


def test_export__a_file_of_label_maps_has_no_confidence(model, kitti, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    file = tmp_path / "map.onnx"
    urbanseg(["export", str(model), "--data_dir", str(kitti), "--frames", "1", "--takes_bytes", "--output", str(file)])
    image = next((kitti / "training" / "image_2").iterdir())
    for words in (["predict", file, image, "--confidence", "png8"], ["evaluate", file, "--calibration"]):
        with pytest.raises(SystemExit) as end:
            urbanseg([*map(str, words), "--output", str(tmp_path / "out")])
        said = (
            "expected a model that gives logits, for confidence; found one of label maps; export it without `--takes_b"
        )
        assert (end.value.code, said in capsys.readouterr().err) == (2, True)


def test_export__a_temperature_of_the_folder_is_not_the_files(exported, caplog):
    calibration = exported.parent / "calibration.json"
    for there in (False, True):
        if there:
            calibration.write_text("{}")
        Predictor.from_pretrained(exported)
        assert ("isn't used for this file" in caplog.text) is there
    calibration.unlink()


def test_export__its_file_is_measured_and_predicts_as_the_folder(exported, model, kitti, tmp_path, capsys):
    scores, ids = [], []
    for number, name in enumerate((model, exported)):
        output = tmp_path / f"{number}"
        urbanseg(["evaluate", str(name), "--data_dir", str(kitti), "--output", str(output / "numbers")])
        scores.append(RunFolder(output / "numbers").read_metrics()["splits"]["test"]["mean_iou"])
        image = next((kitti / "training" / "image_2").iterdir())
        urbanseg(["predict", str(name), str(image), "--ids", "label_id", "--output", str(output)])
        with Image.open(next(output.glob("*label_id*.png"))) as picture:
            ids.append(np.asarray(picture))
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert (ids[0] == ids[1]).mean() > 0.999
    assert {*np.unique(ids[1])} <= {*CITYSCAPES.label_ids}
    source = json.loads((tmp_path / "1" / "numbers" / "measured.json").read_text())
    assert source["model"] == str(exported)
    comparison = json.loads(Path(f"{exported}.json").read_text())["comparison"]
    assert comparison["compared_on"] == "2 frames of kitti, test"
    assert comparison["mean_iou"][0] > 0
    urbanseg(["profile-model", "--model", str(exported), "--image_size", "32", "64", "--repeats", "1", "--warmup", "1"])
    assert "exported files as they are" in capsys.readouterr().out


def test_export__for_tensorrt_says_what_to_run(model, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path, image = tmp_path / "engine.onnx", tmp_path / "street.png"
    Image.new("RGB", (80, 60), (90, 120, 60)).save(image)
    words = ["--to", "tensorrt", "--precision", "fp16", "--images", str(image), "--output", str(path)]
    urbanseg(["export", str(model), *words])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("On the machine with the GPU (not run here): trtexec --onnx=")
    assert line.endswith("--maxShapes=pixel_values:8x3x64x192 --fp16")
    assert json.loads(Path(f"{path}.json").read_text())["precision"] == "fp32"  # TensorRT makes the rest of it


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "torch", "--precision", "int8"], "`--precision` of fp32, fp16, bf16 with `--to torch`"),
        (["--to", "onnx", "--precision", "bf16"], "`--precision` of fp32, fp16, int8 with `--to onnx`"),
        (["--output", "x.xml"], "expected a .onnx file as `--output`; found x.xml"),
        (["--precision", "int8"], "expected training frames to calibrate int8 on; found none"),
        (["--most_loss", "-1"], "`most_loss` of 0..100"),
    ],
)
def test_export__refuses(words, said, model, tmp_path, monkeypatch, fails):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    assert said in fails(export.main, model, *(["--output", "y.onnx"] if "x.xml" not in words else []), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("to", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_export__a_runtime_that_is_missing_names_its_extra(to, package, model, fails, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    line = fails(export.main, model, "--to", to)
    assert line == f'error: expected the package `{package}`; found none; `pip install "hf-urbanseg[{to}]"`.'


def test_exported__other_files_are_refused(exported, tmp_path, fails):
    onnx = pytest.importorskip("onnx")
    foreign, damaged, text = (tmp_path / name for name in ("foreign.onnx", "damaged.onnx", "text.pt2"))
    shutil.copy(exported, foreign)
    content = onnx.load(foreign)
    del content.metadata_props[:]
    onnx.save(content, foreign)
    damaged.write_bytes(exported.read_bytes()[:5000])
    text.write_text("no archive")
    street = tmp_path / "street.png"
    Image.new("RGB", (80, 60)).save(street)
    output = tmp_path / "pictures"
    for path, said in (
        (foreign, "expected a file that `urbanseg export` wrote; found one without its metadata"),
        (damaged, "expected a readable .onnx file; found "),
        (text, "expected a readable .pt2 file; found "),
        (tmp_path / "nowhere.onnx", "expected an exported model; found nothing there"),
    ):
        assert said in fails(predict.main, path, street, "--output", output)
        assert said in fails(evaluate.main, path, "--dataset", "synthetic")
    assert said in fails(profile_model.main, "--model", path)
    line = fails(predict.main, exported, street, "--output", output, "--stock_decode_head", "true")
    assert "expected an exported file as it is, on the CPU; found `stock_decode_head`" in line
    assert "expected a model's folder to export" in fails(export.main, exported)
    assert not Path(output).exists()
