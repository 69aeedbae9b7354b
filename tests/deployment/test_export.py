"""Exported files compute what stock transformers does, say what they are, and are there whole or not at all."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.deployment import export, network
from hf_urbanseg.deployment.check import Comparison, check_sizes
from hf_urbanseg.deployment.export import ExportPlan, export_model
from hf_urbanseg.errors import ModelError
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_image_processor
from hf_urbanseg.models.exported import load_exported

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
FRAMES = [(render_scene(seed, (48, 80))[0], None) for seed in range(2)]


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16,
        id2label=CITYSCAPES.id2label, label2id=CITYSCAPES.label2id,
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config).eval()
    head = model.decode_head
    for tensor in (head.batch_norm.running_mean, head.batch_norm.weight, head.batch_norm.bias, head.classifier.weight):
        torch.nn.init.normal_(tensor)
    head.batch_norm.running_var.uniform_(0.5, 2)
    return Predictor(model, build_image_processor((64, 96)))


@pytest.fixture(scope="module")
def write(predictor, tmp_path_factory):
    """Writes a file, once of each kind."""

    @cache
    def write(name: str, kind: str, **options):
        pytest.importorskip(RUNTIMES[kind])
        pytest.importorskip("onnx")
        path = tmp_path_factory.mktemp(kind) / name
        return path, export_model(predictor, "nowhere", path, ExportPlan(kind, **options), FRAMES, "2 streets", [])

    return write


@pytest.mark.parametrize(("kind", "name"), [("onnx", "model.onnx"), ("openvino", "model.xml")])
def test_export_model__computes_the_stock_models_logits_at_any_size(kind, name, write, predictor):
    path, found = write(name, kind)
    exported = load_exported(path)
    for shape in ((1, 3, 64, 96), (3, 3, 75, 41), (2, 3, 33, 128)):
        pixels = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = predictor.model(pixels).logits  # transformers' own head, not ours
        torch.testing.assert_close(exported(pixels).logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert found.same > 0.999
    described = json.loads(Path(f"{path}.json").read_text())
    assert described["comparison"]["same_class"] == found.same
    assert {key: described[key] for key in exported.facts} == exported.facts
    assert [entry["name"] for entry in described["label_space"]["classes"]] == list(CITYSCAPES.names)
    assert (described["input_size"], described["output"]["shape"][1]) == ([64, 96], 19)
    left = {path.name, f"{path.name}.json"} | ({"model.bin"} if kind == "openvino" else set())
    assert {one.name for one in path.parent.iterdir()} == left


def test_export_model__the_heads_products_are_constants(write):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(write("model.onnx", "onnx")[0]).graph
    weights = {one.name: list(one.dims) for one in graph.initializer}
    of_head = [weights[node.input[1]] for node in graph.node if "decode_head" in node.name and node.op_type == "Conv"]
    assert of_head == [[16, 8, 1, 1], [16, 16, 1, 1], [16, 24, 1, 1], [16, 32, 1, 1], [19, 16, 1, 1]]
    assert not [node.name for node in graph.node if "decode_head" in node.name and node.op_type in ("MatMul", "Gemm")]


def test_export_model__takes_bytes(write, predictor):
    path, found = write("model.onnx", "onnx", takes_bytes=True)
    exported = Predictor.from_pretrained(path)
    assert found.same > 0.99
    for size in ((48, 80), (91, 57)):
        image, _ = render_scene(5, size)
        expected, got = predictor.predict(image), exported.predict(image)
        assert got.shape == size
        assert (got == expected).mean() > 0.99
    assert exported.label_space.names == predictor.label_space.names


@pytest.mark.parametrize(("source", "target"), [((37, 90), (48, 120)), ((90, 150), (64, 64))])
def test_label_map_network__resizes_as_pillow_does(source, target):
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    for axis in (1, 0):  # one at a time, because the order is Pillow's own
        one = [*source]
        one[axis] = target[axis]
        weights = network._resize_matrix(source[axis], target[axis])
        resized = pixels @ weights.T if axis else weights @ pixels
        expected = np.asarray(Image.fromarray(image).resize(one[::-1], Image.Resampling.BILINEAR))
        difference = (torch.floor(resized + 0.5).permute(1, 2, 0).numpy() - expected).__abs__()
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize(("height", "width", "bins"), [(12, 18, 6), (7, 11, 3), (5, 9, 6)])
def test_known_operators__pools_are_torchs(height, width, bins):
    maps = torch.randn(2, 4, height, width)
    expected = F.adaptive_avg_pool2d(maps, bins)
    with network.KnownOperators():
        torch.testing.assert_close(F.adaptive_avg_pool2d(maps, bins), expected)


def test_export_model__what_differs_is_not_written(predictor, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path = tmp_path / "run" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"of before")

    class Wrong(network.LogitsNetwork):
        def forward(self, pixel_values):
            return super().forward(pixel_values) + pixel_values.mean() + torch.arange(19)[:, None, None]

    monkeypatch.setattr(export, "LogitsNetwork", Wrong)
    with pytest.raises(ModelError, match=r"inputs of any size; found logits that differ by .* at 64x96"):
        export_model(predictor, "nowhere", path, ExportPlan("onnx"), FRAMES, "2 streets")
    monkeypatch.setattr(export, "check_sizes", lambda *_: None)
    with pytest.raises(
        ModelError, match=r"the same class on 99.9% of the pixels; found the same class on .* 2 streets"
    ):
        export_model(predictor, "nowhere", path, ExportPlan("onnx"), FRAMES, "2 streets")
    assert [one.name for one in path.parent.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"of before"


def test_check_sizes__a_size_fixed_in_secret_is_found(predictor):
    class Fixed:
        def __init__(self):
            self.facts = {"precision": "int8"}

        def __call__(self, pixels):
            logits = predictor.model(pixels).logits.detach()
            return type("Outputs", (), {"logits": logits[..., :16, :24]})

    with pytest.raises(ModelError, match=r"found logits of \(2, 19, 16, 24\) in place of \(2, 19, 25, 33\) at 97x131"):
        check_sizes(predictor.model, Fixed())


@pytest.mark.parametrize(
    ("same", "mean_iou", "precision", "fits"),
    [
        (0.9995, None, "fp32", True),
        (0.9985, (0.5, 0.6), "fp32", False),
        (0.9, (0.5, 0.4951), "int8", True),
        (0.9, (0.5, 0.4949), "int8", False),
        (0.9951, None, "bf16", True),
        (0.9949, None, "bf16", False),
        (0.99, (0.5, float("nan")), "int8", False),
    ],
)
def test_comparison__refuses_what_lost_too_much(same, mean_iou, precision, fits):
    found, facts = Comparison("2 streets", same, mean_iou), {"precision": precision, "takes_bytes": False}
    if fits:
        found.check(facts, 0.5)
    else:
        with pytest.raises(ModelError, match=r"2 streets"):
            found.check(facts, 0.5)
