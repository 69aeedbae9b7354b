import logging

import pytest
import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from hf_urbanseg.models.auxiliary_head import attach_auxiliary_head
from hf_urbanseg.models.batch_norm import (
    convert_sync_batch_norm,
    keep_batch_norm_statistics,
    recalibrate_batch_norm,
)


def build() -> SegformerForSemanticSegmentation:
    torch.manual_seed(0)
    config = SegformerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16, num_labels=3)
    model = SegformerForSemanticSegmentation(config)
    attach_auxiliary_head(model, 2, channels=8)
    return model


def batch_norms(model) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


NAMES = ["decode_head.batch_norm", "auxiliary_head.batch_norm"]


@pytest.mark.parametrize("training", [True, False])
def test_convert_sync_batch_norm__several_gpus(training, caplog):
    model = build().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()(x).logits
    model.train(training)
    with caplog.at_level(logging.INFO):
        convert_sync_batch_norm(model, 4, "cuda:0")
    assert "BatchNorm layers are synchronised over 4 processes" in caplog.text
    assert {name: type(module) for name, module in batch_norms(model).items()} == dict.fromkeys(NAMES, nn.SyncBatchNorm)
    assert all(module.training == training for module in model.modules())
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    assert model.state_dict().keys() == before.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    with torch.no_grad():
        assert torch.equal(model.eval()(x).logits, expected)


@pytest.mark.parametrize(
    ("world_size", "device", "reason"),
    [(1, "cuda", "one process"), (2, "cpu", "on cpu, which it does not support"), (1, "cpu", "one process")],
)
def test_convert_sync_batch_norm__otherwise_a_logged_no_op(world_size, device, reason, caplog):
    model = build()
    modules = list(model.modules())
    with caplog.at_level(logging.INFO):
        convert_sync_batch_norm(model, world_size, torch.device(device))
    assert [record.getMessage() for record in caplog.records] == [f"BatchNorm is not synchronised: {reason}"]
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))


def test_keep_batch_norm_statistics__kept_while_the_rest_trains():
    model = build().train()
    keep_batch_norm_statistics(model)
    assert {name for name, module in model.named_modules() if not module.training} == set(NAMES)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    outputs = model(torch.randn(2, 3, 64, 64))
    (outputs.logits.square().sum() + outputs.auxiliary_logits.square().sum()).backward()
    assert before
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
    for module in batch_norms(model).values():
        assert module.weight.grad.abs().max() > 0
        assert module.bias.grad.abs().max() > 0


def test_keep_batch_norm_statistics__uses_the_running_ones():
    norm = nn.BatchNorm2d(1, eps=0.0).train()
    norm.running_mean.fill_(2.0)
    norm.running_var.fill_(4.0)
    keep_batch_norm_statistics(nn.Sequential(norm))
    assert norm(torch.tensor([[[[4.0, 0.0]]]])).flatten().tolist() == [1.0, -1.0]


def test_keep_batch_norm_statistics__synchronised_ones_too():
    model = build().train()
    convert_sync_batch_norm(model, 2, "cuda")
    keep_batch_norm_statistics(model)
    assert not any(module.training for module in batch_norms(model).values())


def test_recalibrate_batch_norm__is_the_mean_over_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.9), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).double()
    batches = [torch.randn(2, 3, 5, 7, dtype=torch.float64) + number for number in range(4)]
    recalibrate_batch_norm(model, batches)
    inputs = [model[0](batch).detach().transpose(0, 1).flatten(1) for batch in batches]
    torch.testing.assert_close(model[2].running_mean, torch.stack([one.mean(1) for one in inputs]).mean(0))
    torch.testing.assert_close(model[2].running_var, torch.stack([one.var(1) for one in inputs]).mean(0))
    assert not any(module.training for module in model.modules())
    assert model[2].momentum == 0.1
