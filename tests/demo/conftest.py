import pytest
import torch
from PIL import Image
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.inference.plan import PLAIN
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_random_model


@pytest.fixture
def build_predictor():
    """A small model that takes several classes for seen; the same one for the same seed."""

    def build(seed: int = 0, plan=PLAIN) -> Predictor:
        torch.manual_seed(seed)
        model = build_random_model("tiny", CITYSCAPES)
        torch.nn.init.normal_(model.decode_head.classifier.weight, std=1.0)
        return Predictor(model, SegformerImageProcessorPil(size={"height": 64, "width": 96}), plan=plan)

    return build


@pytest.fixture
def street(tmp_path):
    path = tmp_path / "street.png"
    Image.fromarray(render_scene(1, (80, 120))[0]).save(path)
    return path
