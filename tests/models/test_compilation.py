"""The pass that every model makes before it is compiled."""

import pytest
import torch
from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import ARCHITECTURES, build_random_model
from hf_urbanseg.models.compilation import run_once


def build_upernet():
    stages = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "embedding_size": 8}
    backbone = ResNetConfig(**stages, out_features=["stage1", "stage2", "stage3", "stage4"])
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone, hidden_size=8, auxiliary_in_channels=8)
    )


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "upernet"])
def test_run_once__leaves_every_model_as_it_was(architecture):
    torch.manual_seed(0)
    model = build_upernet() if architecture == "upernet" else build_random_model("tiny", CITYSCAPES, architecture)
    model.train()
    passes, state = [], {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Conv2d))
    frozen.eval()
    model.register_forward_hook(lambda module, *_: passes.append(module.training))
    random = torch.get_rng_state()
    run_once(model)
    assert passes == [False]
    assert [module for module in model.modules() if not module.training] == [frozen]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
