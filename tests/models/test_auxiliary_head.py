import copy
import gc
import pickle
import weakref

import pytest
import torch
from baseline_models import SMALL as BASELINES
from baseline_models import build as build_baseline
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import SegformerForSemanticSegmentation

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.auxiliary_head import AuxiliaryHead, attach_auxiliary_head
from hf_urbanseg.models.build import build_config
from hf_urbanseg.models.training_branch import load_branches, save_branches, split_state_dict
from hf_urbanseg.optim import build_parameter_groups

AUXILIARY_WEIGHTS = "auxiliary_head.safetensors"
SIZES = [8, 16, 24, 32]
SMALL = {"hidden_sizes": SIZES, "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
HEAD_KEYS = {
    "auxiliary_head.conv.weight",
    "auxiliary_head.batch_norm.weight",
    "auxiliary_head.batch_norm.bias",
    "auxiliary_head.batch_norm.running_mean",
    "auxiliary_head.batch_norm.running_var",
    "auxiliary_head.batch_norm.num_batches_tracked",
    "auxiliary_head.classifier.weight",
    "auxiliary_head.classifier.bias",
}


def build(stage: int | None = 3, **config) -> SegformerForSemanticSegmentation:
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(build_config("tiny", CITYSCAPES, **SMALL | config))
    if stage:
        attach_auxiliary_head(model, stage, channels=12)
    return model


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.randn(2, 3, 64, 128, generator=torch.Generator().manual_seed(1))


def without_dropout(model):
    """Training mode in which the same input gives the same output: no dropout, BatchNorm statistics kept."""
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d, nn.BatchNorm2d)) or "DropPath" in type(module).__name__:
            module.eval()
    return model


def encoder_stage(name: str) -> int | None:
    """1..4 for a live parameter name of the encoder."""
    return int(name.split(".")[2]) + 1 if name.startswith("segformer.stages.") else None


def refuses(call, *arguments, **options) -> str:
    with pytest.raises(ModelError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_auxiliary_head__is_the_reports_fcn_head():
    head = AuxiliaryHead(320, 19)
    shapes = {name: tuple(parameter.shape) for name, parameter in head.named_parameters()}
    assert shapes == {
        "conv.weight": (256, 320, 3, 3),
        "batch_norm.weight": (256,),
        "batch_norm.bias": (256,),
        "classifier.weight": (19, 256, 1, 1),
        "classifier.bias": (19,),
    }
    assert head.dropout.p == 0.1


def test_auxiliary_head__initial_weights_are_those_of_mmsegmentation():
    torch.manual_seed(0)
    head = AuxiliaryHead(320, 19)
    # Kaiming normal over the fan out: std sqrt(2 / (256 * 9)); 737,280 and 4,864 draws.
    assert head.conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.005)
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head.classifier.bias.any()


def test_auxiliary_head__forward_by_hand():
    torch.manual_seed(0)
    head = AuxiliaryHead(2, 3, channels=4).double().eval()
    head.batch_norm.running_mean.uniform_(-1, 1)
    head.batch_norm.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    hidden = nn.functional.conv2d(x, head.conv.weight, padding=1)
    shift, scale = head.batch_norm.running_mean, (head.batch_norm.running_var + 1e-5).sqrt()
    hidden = ((hidden - shift[:, None, None]) / scale[:, None, None]).clamp(min=0)
    expected = torch.einsum("oc,nchw->nohw", head.classifier.weight[:, :, 0, 0], hidden)
    torch.testing.assert_close(head(x), expected, rtol=0, atol=1e-12)


def test_auxiliary_head__dropout_drops_whole_channels():
    head = AuxiliaryHead(2, 3, channels=8, dropout=0.5).train()
    seen = []
    head.classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    torch.manual_seed(0)
    head(torch.rand(4, 2, 6, 6))
    dropped = (seen[0] == 0).all((2, 3))  # after BatchNorm and ReLU, no channel is all zero by itself
    assert 4 <= dropped.sum() <= 28  # of 32


@pytest.mark.parametrize(("stage", "stride"), [(1, 4), (2, 8), (3, 16), (4, 32)])
def test_attach_auxiliary_head__logits_of_the_chosen_stage(pixel_values, stage, stride):
    model = without_dropout(build(stage))
    outputs = model(pixel_values, output_hidden_states=True)
    assert outputs.auxiliary_logits.shape == (2, 19, 64 // stride, 128 // stride)
    assert model.auxiliary_head.conv.in_channels == SIZES[stage - 1]
    torch.testing.assert_close(
        outputs.auxiliary_logits, model.auxiliary_head(outputs.hidden_states[stage - 1]), rtol=0, atol=0
    )


@pytest.mark.parametrize("stage", [2, 3])
def test_attach_auxiliary_head__gradient_reaches_the_stage_and_earlier_ones_only(pixel_values, stage):
    model = without_dropout(build(stage))
    model(pixel_values).auxiliary_logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        reached = name.startswith("auxiliary_head.") or (encoder_stage(name) or 99) <= stage
        assert (parameter.grad is not None) == reached, name
        # A key's bias shifts all scores alike: its gradient is zero up to rounding.
        if reached and "k_proj.bias" not in name and "key.bias" not in name:
            assert parameter.grad.abs().max() > 0, name


def test_attach_auxiliary_head__main_logits_and_their_gradient_are_untouched(pixel_values):
    plain, model = without_dropout(build(None)), without_dropout(build(3))
    expected, outputs = plain(pixel_values), model(pixel_values)
    assert torch.equal(outputs.logits, expected.logits)
    for logits in (outputs.logits, expected.logits):
        logits.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in plain.named_parameters():
        assert torch.equal(gradients[name], parameter.grad), name
    assert all(gradients[name] is None for name in gradients if name.startswith("auxiliary_head."))


def test_attach_auxiliary_head__evaluation_is_unchanged(pixel_values):
    plain, model = build(None).eval(), build(3).eval()
    expected, outputs = plain(pixel_values), model(pixel_values)
    assert type(outputs) is type(expected)
    assert list(outputs.keys()) == list(expected.keys()) == ["logits"]
    assert not hasattr(outputs, "auxiliary_logits")
    assert torch.equal(outputs.logits, expected.logits)
    model.train()
    assert model(pixel_values).auxiliary_logits is not None


def test_attach_auxiliary_head__keeps_the_class_and_the_mode():
    model = SegformerForSemanticSegmentation(build_config("tiny", CITYSCAPES, **SMALL)).eval()
    attach_auxiliary_head(model)
    assert type(model) is SegformerForSemanticSegmentation
    assert not model.auxiliary_head.training
    assert model.auxiliary_head.conv.out_channels == 256


def test_attach_auxiliary_head__as_a_tuple(pixel_values):
    model = without_dropout(build(3))
    logits, auxiliary = model(pixel_values, return_dict=False)
    outputs = model(pixel_values)
    assert torch.equal(logits, outputs.logits)
    assert torch.equal(auxiliary, outputs.auxiliary_logits)
    assert outputs.to_tuple()[1] is outputs.auxiliary_logits


def test_attach_auxiliary_head__output_can_be_taken_apart_and_rebuilt(pixel_values):
    # What DDP does with outputs when it looks for unused parameters.
    outputs = build(3).train()(pixel_values)
    leaves, structure = torch.utils._pytree.tree_flatten(outputs)
    assert any(leaf is outputs.auxiliary_logits for leaf in leaves)
    rebuilt = torch.utils._pytree.tree_unflatten(leaves, structure)
    assert rebuilt.auxiliary_logits is outputs.auxiliary_logits


def test_attach_auxiliary_head__without_gradients(pixel_values):
    model = without_dropout(build(3))
    expected = model(pixel_values).auxiliary_logits
    with torch.no_grad():
        outputs = model(pixel_values)
    assert not outputs.auxiliary_logits.requires_grad
    assert torch.equal(outputs.auxiliary_logits, expected)


def test_attach_auxiliary_head__holds_no_activations_afterwards(pixel_values):
    model = build(3).train()
    outputs = model(pixel_values)
    kept = weakref.ref(outputs.auxiliary_logits)
    assert model.auxiliary_head._result is None
    del outputs
    gc.collect()
    assert kept() is None


def test_attach_auxiliary_head__holds_no_activations_after_an_error(pixel_values):
    model = build(3).train()

    def fail(module, args):
        assert model.auxiliary_head._result is not None
        raise ArithmeticError

    handle = model.decode_head.register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError):
        model(pixel_values)
    assert model.auxiliary_head._result is None
    handle.remove()
    assert model(pixel_values).auxiliary_logits is not None


def test_attach_auxiliary_head__the_encoder_alone_does_not_run_the_head(pixel_values):
    model = build(3).train()
    model.segformer(pixel_values)
    assert model.auxiliary_head._result is None
    assert model.auxiliary_head.batch_norm.num_batches_tracked == 0


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_attach_auxiliary_head__copies_are_independent(pixel_values, way):
    model = without_dropout(build(3))
    other = way(model)
    with torch.no_grad():
        other.auxiliary_head.classifier.bias.add_(1.0)
    mine, theirs = model(pixel_values), other(pixel_values)
    torch.testing.assert_close(theirs.auxiliary_logits, mine.auxiliary_logits + 1.0)
    theirs.auxiliary_logits.sum().backward()
    assert other.auxiliary_head.classifier.bias.grad is not None
    assert model.auxiliary_head.classifier.bias.grad is None


def test_attach_auxiliary_head__autocast(pixel_values):
    model = without_dropout(build(3))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(pixel_values)
    assert outputs.auxiliary_logits.dtype == outputs.logits.dtype == torch.bfloat16
    outputs.auxiliary_logits.float().square().sum().backward()
    assert model.auxiliary_head.conv.weight.grad.dtype == torch.float32


def test_attach_auxiliary_head__autocast_inside_forward_as_accelerate_wraps_it(pixel_values):
    model = without_dropout(build(3))
    expected = model(pixel_values).auxiliary_logits
    inner, seen = model.forward, []

    def forward(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = inner(*args, **kwargs)
        outputs["logits"] = outputs.logits.float()
        return outputs

    model.forward = forward
    model.auxiliary_head.conv.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    outputs = model(pixel_values)
    assert seen == [torch.bfloat16]
    assert outputs.auxiliary_logits.dtype == torch.float32
    torch.testing.assert_close(outputs.auxiliary_logits, expected, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("reentrant", [False, True])
def test_attach_auxiliary_head__gradient_checkpointing(pixel_values, reentrant):
    model, recomputing = without_dropout(build(3)), without_dropout(build(3))
    recomputing.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for each in (model, recomputing):
        each.auxiliary_head.batch_norm.train()
        outputs = each(pixel_values)
        (outputs.logits.square().sum() + outputs.auxiliary_logits.square().sum()).backward()
        assert each.auxiliary_head.batch_norm.num_batches_tracked == 1
    gradients = {name: parameter.grad for name, parameter in recomputing.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("stage", [0, 5, -1])
def test_attach_auxiliary_head__wrong_stage(stage):
    model = build(None)
    line = refuses(attach_auxiliary_head, model, stage)
    assert line == f"expected an encoder stage of 1..4; found {stage}; choose one of them."
    assert not hasattr(model, "auxiliary_head")


def test_attach_auxiliary_head__parameters_are_head_parameters():
    model = build(3)
    groups = build_parameter_groups(model, 1e-5)
    owner = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, parameter in model.auxiliary_head.named_parameters():
        group = owner[id(parameter)]
        assert group["lr"] == pytest.approx(1e-4, rel=1e-12), name
        assert group["weight_decay"] == (0.0 if name.startswith("batch_norm.") else 0.01), name


def test_split_state_dict__plain_and_auxiliary():
    plain, auxiliary = split_state_dict(build(3))
    assert set(auxiliary) == HEAD_KEYS
    assert plain.keys() == build(None).state_dict().keys()
    assert split_state_dict(build(None))[1] == {}


@pytest.mark.parametrize("given", [True, False])
def test_split_state_dict__exports_a_plain_segformer(pixel_values, tmp_path, given):
    model = build(3).train()
    model(pixel_values)  # moves the statistics of BatchNorm
    model.save_pretrained(tmp_path / "with", **({"state_dict": split_state_dict(model)[0]} if given else {}))
    build(None).save_pretrained(tmp_path / "plain")
    exported = load_file(tmp_path / "with" / "model.safetensors")
    assert exported.keys() == load_file(tmp_path / "plain" / "model.safetensors").keys()
    assert [path.name for path in sorted((tmp_path / "with").iterdir())] == ["config.json", "model.safetensors"]
    assert (tmp_path / "with" / "config.json").read_text() == (tmp_path / "plain" / "config.json").read_text()
    loaded, info = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "with", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded.eval()(pixel_values).logits, model.eval()(pixel_values).logits)


def test_save_branches__comes_back_exactly(pixel_values, tmp_path):
    model = build(3).train()
    model(pixel_values)
    save_branches(model, tmp_path)
    torch.manual_seed(9)
    other = SegformerForSemanticSegmentation(model.config)
    attach_auxiliary_head(other, 3, channels=12)
    load_branches(other, tmp_path)
    assert set(load_file(tmp_path / AUXILIARY_WEIGHTS)) == {key.removeprefix("auxiliary_head.") for key in HEAD_KEYS}
    expected = split_state_dict(model)[1]
    for name, tensor in split_state_dict(other)[1].items():
        assert torch.equal(tensor, expected[name]), name
    assert other.auxiliary_head.batch_norm.num_batches_tracked == 1


def test_save_branches__nothing_without_a_head(tmp_path):
    model = build(None)
    save_branches(model, tmp_path)
    load_branches(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_load_branches__on_one_side_only(tmp_path):
    path = tmp_path / AUXILIARY_WEIGHTS
    line = refuses(load_branches, build(3), tmp_path)
    assert line.startswith(f"{path}: expected the weights of the auxiliary head; found FileNotFoundError")
    save_branches(build(3), tmp_path)
    line = refuses(load_branches, build(None), tmp_path)
    assert line.startswith(f"{path}: expected a model with the auxiliary head that was saved; found one without")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("classifier.bias"), "`classifier.bias` missing"),
        (lambda tensors: tensors["classifier.bias"].fill_(torch.nan), "inf or NaN in `classifier.bias`"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "`extra` left over"),
        (
            lambda tensors: tensors.update({"classifier.bias": torch.ones(1)}),
            "`classifier.bias` (1,) instead of (19,)",
        ),
        (
            lambda tensors: tensors.update({"classifier.bias": tensors["classifier.bias"].half()}),
            "`classifier.bias` as torch.float16",
        ),
    ],
)
def test_load_branches__different_tensors_change_nothing(tmp_path, change, words):
    model = build(3)
    before = {name: tensor.clone() for name, tensor in split_state_dict(model)[1].items()}
    tensors = {name: tensor + 1 for name, tensor in model.auxiliary_head.state_dict().items()}
    change(tensors)
    save_file(tensors, tmp_path / AUXILIARY_WEIGHTS, {"format": "pt", "stage": "3"})
    assert words in refuses(load_branches, model, tmp_path)
    for name, tensor in split_state_dict(model)[1].items():
        assert torch.equal(tensor, before[name]), name


def test_load_branches__another_stage(tmp_path):
    # The same shapes at both stages: only the record tells them apart.
    wide = {"hidden_sizes": [8, 24, 24, 32], "num_attention_heads": [1, 2, 2, 4]}
    save_branches(build(2, **wide), tmp_path)
    assert "the auxiliary head of stage 3; found that of stage 2" in refuses(load_branches, build(3, **wide), tmp_path)


def test_load_branches__damaged_file(tmp_path):
    save_branches(build(3), tmp_path)
    path = tmp_path / AUXILIARY_WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    assert refuses(load_branches, build(3), tmp_path).startswith(
        f"{path}: expected the weights of the auxiliary head; found"
    )


def build_baseline_with_head(name, stage):
    model = build_baseline(name)
    attach_auxiliary_head(model, stage, channels=12)
    return model


@pytest.mark.parametrize("name", BASELINES)
def test_attach_auxiliary_head__stages_of_a_baseline(pixel_values, name):
    for stage in range(1, len(build_baseline(name).taps) + 1):
        model = without_dropout(build_baseline_with_head(name, stage))
        outputs = model(pixel_values, output_hidden_states=True)
        feature_map = outputs.hidden_states[stage - 1]
        assert model.auxiliary_head.conv.in_channels == feature_map.shape[1] == model.feature_channels[stage - 1]
        assert torch.equal(outputs.auxiliary_logits, model.auxiliary_head(feature_map))
        assert outputs.auxiliary_logits.shape == (2, 19, *feature_map.shape[2:])
        assert torch.equal(model.eval()(pixel_values).logits, outputs.logits)
    line = refuses(attach_auxiliary_head, build_baseline(name), stage + 1)
    assert line == f"expected an encoder stage of 1..{stage}; found {stage + 1}; choose one of them."


@pytest.mark.parametrize("name", BASELINES)
def test_attach_auxiliary_head__gradient_of_a_baseline_reaches_the_backbone_alone(pixel_values, name):
    first, third = (without_dropout(build_baseline_with_head(name, stage)) for stage in (1, 3))
    reached = []
    for model in (first, third):
        model(pixel_values).auxiliary_logits.square().sum().backward()
        keys = {key for key, one in model.named_parameters() if one.grad is not None and one.grad.abs().max() > 0}
        assert {key for key, _ in model.named_parameters() if key.startswith("auxiliary_head.")} < keys
        assert not any(key.startswith("decode_head.") for key in keys)
        # Swin's norm of a stage's map is that map's alone.
        reached.append({key for key in keys if key.startswith("backbone.") and "hidden_states_norms" not in key})
    assert reached[0] < reached[1]  # what comes later has none
    assert reached[1] < {key for key, _ in third.named_parameters()}
    entry = next(key for key, _ in third.backbone.named_parameters())
    assert f"backbone.{entry}" in reached[0]


@pytest.mark.parametrize("name", BASELINES)
def test_attach_auxiliary_head__evaluation_of_a_baseline_is_unchanged(pixel_values, name):
    plain, model = build_baseline(name), build_baseline_with_head(name, 3)
    with torch.no_grad():
        expected, outputs = plain(pixel_values), model(pixel_values)
    assert list(outputs.keys()) == list(expected.keys()) == ["logits"]
    assert type(outputs) is type(expected)
    assert torch.equal(outputs.logits, expected.logits)


@pytest.mark.parametrize("name", BASELINES)
def test_save_branches__beside_a_plain_baseline(pixel_values, tmp_path, name):
    model = build_baseline_with_head(name, 3).train()
    model(pixel_values)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == build_baseline(name).state_dict().keys()
    save_branches(model, tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    torch.manual_seed(9)
    attach_auxiliary_head(loaded, 3, channels=12)
    load_branches(loaded, tmp_path)
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    assert loaded.auxiliary_head.batch_norm.num_batches_tracked == 1
