"""Adapters train alone in the encoder, come back bit for bit, and are gone in what is exported."""

import sys

import pytest
import torch
from interruptions import Stop
from run_options import fails
from transformers import SegformerForSemanticSegmentation

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.auxiliary_head import attach_auxiliary_head
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.models.freezing import freeze_encoder
from hf_urbanseg.models.loading import load_complete
from hf_urbanseg.models.lora import attach_lora, list_adapted, merge_lora, merge_state_dict
from hf_urbanseg.training.checkpoints import check_export, load_weights


def build(architecture="segformer", **options):
    torch.manual_seed(0)
    model = build_random_model("tiny", CITYSCAPES, architecture)
    attach_lora(model, **{"rank": 4, "alpha": 6.0, "dropout": 0.2} | options)
    return model


def stir(model) -> None:
    """As if it had been trained: B starts from zero."""
    for layer in list_adapted(model).values():
        torch.nn.init.normal_(layer.lora_B["default"].weight)


@pytest.mark.parametrize("architecture", ["segformer", "swin_segformer"])
def test_attach_lora__trains_adapters_and_what_is_behind_the_encoder(architecture):
    plain, model = build_random_model("tiny", CITYSCAPES, architecture), build(architecture)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    encoder = f"{model.base_model_prefix}."
    assert {name for name in trained if not name.startswith(encoder)} == {
        name for name, _ in plain.named_parameters() if not name.startswith(encoder)
    }
    adapters = {name for name in trained if name.startswith(encoder)}
    layers = [name for name, _ in plain.named_modules() if name.endswith(("q_proj", "k_proj", "v_proj", "o_proj"))]
    assert adapters == {f"{name}.lora_{one}.default.weight" for name in layers for one in "AB"}
    pixels = torch.randn(1, 3, 64, 96)
    torch.manual_seed(0)
    same = build_random_model("tiny", CITYSCAPES, architecture).eval()
    assert torch.allclose(model.eval()(pixels).logits, same(pixels).logits, atol=1e-6)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_merge_lora__is_the_plain_model_with_the_same_logits(dtype, error):
    model = build().to(dtype).eval()
    stir(model)
    layer = model.segformer.stages[0].blocks[0].attention.q_proj
    by_hand = layer.base_layer.weight + 6 / 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    pixels = torch.randn(1, 3, 64, 96, dtype=dtype)
    expected, state = model(pixels).logits, merge_state_dict(model)
    merge_lora(model)
    difference = (model(pixels).logits - expected).abs().max() / expected.abs().max()
    assert 0 < difference < error
    plain = build_random_model("tiny", CITYSCAPES)
    assert [*model.state_dict()] == [*plain.state_dict()]
    assert str(model) == str(plain)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.allclose(state["segformer.stages.0.blocks.0.attention.q_proj.weight"], by_hand, rtol=error)


def test_train__checkpoints_are_plain_and_go_on_bit_for_bit(worker, tmp_path, monkeypatch):
    options = {
        "max_steps": 5, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2, "ema_decay": 0.5,
        "export_ema": True, "gradient_checkpointing": True,
    }  # fmt: skip

    def start(name):
        monkeypatch.setattr(worker, "build_random_model", lambda *_, **__: build())
        return worker.build_trainer(worker.build_arguments(tmp_path / name, **options), "auxiliary")

    whole = start("whole")
    before = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    whole.train()
    changed = {name for name, tensor in whole.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name for name in changed if name.startswith("segformer.")} == {name for name in before if ".lora_" in name}
    cut = start("cut")
    cut.add_callback(Stop(3))
    with pytest.raises(RuntimeError, match="power cut"):
        cut.train()
    resumed = start("cut")
    resumed.train(resume_from_checkpoint=True)
    for one, other in ((whole.model, resumed.model), (whole.ema, resumed.ema)):
        state = other.state_dict()
        assert [name for name, tensor in one.state_dict().items() if not torch.equal(tensor, state[name])] == []

    pixels = torch.randn(1, 3, 64, 96)
    expected = resumed.model.eval()(pixels).logits
    plain = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "cut" / "checkpoint-5")
    assert torch.allclose(plain(pixels).logits, expected, atol=1e-5)
    without = build_random_model("tiny", CITYSCAPES)
    attach_auxiliary_head(without, stage=3, channels=16)
    with pytest.raises(ModelError, match="expected a model with the lora that was saved; found one without"):
        load_weights(without, tmp_path / "cut" / "checkpoint-5")

    with resumed.ema.swap():
        averaged = resumed.model.eval()(pixels).logits
    resumed.settle()
    resumed.save_model(str(tmp_path / "export"), _internal_call=True)
    check_export(resumed.model, tmp_path / "export")
    exported = load_complete(SegformerForSemanticSegmentation, tmp_path / "export")
    assert torch.allclose(exported(pixels).logits, averaged, atol=1e-5)
    assert not torch.allclose(averaged, expected, atol=1e-3)


def test_attach_lora__refuses(monkeypatch):
    with pytest.raises(
        ModelError, match=r"^expected an encoder with attention for `lora_rank`; found a `urbanseg_unet`; "
    ):
        build("unet")
    with pytest.raises(ModelError, match=r"^expected either `lora_rank` or a frozen encoder; found both; drop one\.$"):
        freeze_encoder(build(), 1)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError) as caught:
        build()
    assert str(caught.value) == (
        'expected the package `peft` for `lora_rank`; found none; `pip install "hf-urbanseg[lora]"`, or leave it out.'
    )
    assert fails("--lora_alpha", 8).startswith("expected a `lora_rank` above 0 with them; ")
