"""What is frozen stays bit for bit, in whatever a step could change, and costs nothing."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.models.freezing import freeze_encoder, keep_frozen, list_stages

STEM = {
    "segformer": ("segformer.stages.0.",),
    "encoder_decoder": ("backbone.stages.0.",),
    "unet": ("backbone.stages.0.",),
    "deeplabv3plus": ("backbone.embedder.", "backbone.encoder.stages.0."),
    "pspnet": ("backbone.embedder.", "backbone.encoder.stages.0."),
    "swin_segformer": (
        "backbone.swin.embeddings.", "backbone.swin.encoder.layers.0.", "backbone.hidden_states_norms.stage1.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("architecture", STEM)
def test_list_stages__hold_the_whole_encoder_once(architecture):
    model = build_random_model("tiny", CITYSCAPES, architecture)
    listed = [id(p) for stage in list_stages(model) for part in stage for p in part.parameters()]
    expected = [p for name, p in model.base_model.named_parameters() if architecture != "unet" or "stages." in name]
    assert sorted(listed) == sorted(map(id, expected))
    frozen = freeze_encoder(model, 1)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        name for name, _ in model.named_parameters() if name.startswith(STEM[architecture])
    }
    model.train()
    keep_frozen(frozen)
    inside = {name for name, module in model.named_modules() if f"{name}.".startswith(STEM[architecture])}
    assert inside == {name for name, module in model.named_modules() if not module.training}


def test_freeze_encoder__a_stage_that_is_not_there():
    for architecture, stages in (("segformer", 4), ("unet", 5)):
        model = build_random_model("tiny", CITYSCAPES, architecture)
        with pytest.raises(ModelError) as caught:
            freeze_encoder(model, 6)
        assert str(caught.value) == (
            f"expected `freeze_stages` of 0..{stages} for this encoder; found 6; "
            "choose as many, or `--freeze_encoder true`."
        )


@pytest.mark.parametrize("stages", [None, 3])
def test_freeze_encoder__keeps_no_activations(stages):
    """Of a forward pass, what autograd keeps is what the trained part alone would keep."""
    torch.manual_seed(0)
    model = build_random_model("tiny", CITYSCAPES)
    frozen = freeze_encoder(model, stages)
    maps, kept = [], []
    for stage in model.segformer.stages:
        stage.register_forward_hook(lambda module, args, output: maps.append((output, len(kept))))
    model.train()
    keep_frozen(frozen)
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        model(pixel_values=torch.randn(2, 3, 64, 64)).logits.sum().backward()
    assert [(one.requires_grad, count > 0) for one, count in maps] == [(stages == 3 and i == 3,) * 2 for i in range(4)]


@pytest.mark.parametrize(
    ("architecture", "options", "prefixes"),
    [
        ("segformer", {"freeze_encoder": True, "gradient_checkpointing": True}, ("segformer.",)),
        ("segformer", {"freeze_stages": 3}, tuple(f"segformer.stages.{i}." for i in range(3))),
        ("deeplabv3plus", {"freeze_stages": 1}, STEM["deeplabv3plus"]),  # with BatchNorm's statistics
    ],
)
def test_train__what_is_frozen_stays(worker, tmp_path, architecture, options, prefixes):
    """With drop path, weight decay, averages and an auxiliary head on a stage that may be frozen."""
    args = worker.build_arguments(
        tmp_path, max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2, weight_decay=0.5,
        ema_decay=0.5, **options,
    )  # fmt: skip
    trainer = worker.build_trainer(args, "auxiliary", architecture=architecture)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    averages = trainer.ema.state_dict()
    frozen = {name for name in before if name.startswith(prefixes)}
    assert {name for name, p in trainer.model.named_parameters() if not p.requires_grad} <= frozen
    for name, tensor in trainer.model.state_dict().items():
        average = averages.get(f"parameters.{name}", averages.get(f"buffers.{name}"))
        if name in frozen:
            assert torch.equal(tensor, before[name]), name
            assert torch.equal(average, before[name]), name
        else:
            assert not torch.equal(tensor, before[name]), name
    trained = {id(p) for name, p in trainer.model.named_parameters() if name not in frozen}
    assert {id(p) for group in trainer.optimizer.param_groups for p in group["params"]} == trained
    assert len(trainer.optimizer.state) == len(trained)
    assert all(p.grad is None for p in trainer.model.parameters() if not p.requires_grad)


def test_train__frozen_features_are_those_of_evaluation(worker, tmp_path):
    """Every step sees the encoder as evaluation does: a step that looks at the whole of it first, too."""
    worker.LOSSES["looked"] = {"loss": "ohem", "ohem_min_kept": 700, "loss_scope": "global"}
    args = worker.build_arguments(
        tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, freeze_encoder=True
    )
    trainer = worker.build_trainer(args, "looked", drop_path_rate=0.9)
    del worker.LOSSES["looked"]
    seen = []
    trainer.model.segformer.register_forward_hook(
        lambda module, args, output: seen.append((args[0], output.last_hidden_state, trainer.model.training)),
    )
    trainer.train()
    assert [training for *_, training in seen] == [True] * 4
    trainer.model.eval()
    for pixels, features, _ in seen[:4]:
        assert torch.equal(features, trainer.model.segformer(pixels).last_hidden_state)
