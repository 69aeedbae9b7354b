import pytest
import torch

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.models.channels import widen_input


def test_widen_input__computes_what_it_did_whatever_the_further_channels_hold():
    model = build_random_model("tiny", CITYSCAPES).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = model(images).logits
        widen_input(model, 5)
        found = model(torch.cat([images, 100 * torch.randn(2, 2, 64, 96)], 1)).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert model.config.num_channels == 5
    weights = model.segformer.stages[0].patch_embeddings.proj.weight
    widen_input(model, 5)
    assert model.segformer.stages[0].patch_embeddings.proj.weight is weights


@pytest.mark.parametrize(
    ("architecture", "fields", "channels", "message"),
    [
        ("segformer", {"num_channels": 4}, 5, "SegFormer of 3 or 5 input channels; found a `segformer` of 4"),
        ("segformer", {"num_channels": 4}, 3, "SegFormer of 3 input channels; found a `segformer` of 4"),
        ("unet", {}, 4, "SegFormer of 3 or 4 input channels; found a `"),
    ],
)
def test_widen_input__what_it_can_not_widen(architecture, fields, channels, message):
    model = build_random_model("tiny", CITYSCAPES, architecture, **fields)
    with pytest.raises(ModelError, match=message):
        widen_input(model, channels)
