from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.models.freezing import list_stages
from hf_urbanseg.optim import build_parameter_groups, build_polynomial_schedule, compute_polynomial_factor


@pytest.fixture
def model() -> SegformerForSemanticSegmentation:
    config = SegformerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16, num_labels=3)
    return SegformerForSemanticSegmentation(config)


def group_of(model, groups) -> dict[str, dict]:
    """Parameter name -> its group."""
    owner = {id(parameter): group for group in groups for parameter in group["params"]}
    return {name: owner[id(p)] for name, p in model.named_parameters() if id(p) in owner}


def test_build_parameter_groups__every_trainable_parameter_exactly_once(model):
    groups = build_parameter_groups(model, 1e-5)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in model.parameters()}


def test_build_parameter_groups__four_groups_with_the_reports_rates(model):
    groups = {group["name"]: (group["lr"], group["weight_decay"]) for group in build_parameter_groups(model, 1e-5)}
    assert groups == {
        "encoder": (1e-5, 0.01),
        "encoder_no_decay": (1e-5, 0.0),
        "head": (pytest.approx(1e-4), 0.01),
        "head_no_decay": (pytest.approx(1e-4), 0.0),
    }


def test_build_parameter_groups__rates_by_stage(model):
    groups = build_parameter_groups(model, 1e-5, stages=list_stages(model), stage_lr_decay=0.5)
    expected = {"decode_head": 1e-4} | {f"segformer.stages.{i}": 1e-5 * 0.5 ** (3 - i) for i in range(4)}
    owners = group_of(model, groups)
    assert len(owners) == len(list(model.parameters()))
    for name, group in owners.items():
        (rate,) = (rate for start, rate in expected.items() if name.startswith(start))
        assert group["lr"] == pytest.approx(rate, rel=1e-12), name
    plain = group_of(model, build_parameter_groups(model, 1e-5))
    assert {name: group["weight_decay"] for name, group in owners.items()} == {
        name: group["weight_decay"] for name, group in plain.items()
    }


def test_build_parameter_groups__norms_are_not_decayed_and_nothing_else(model):
    owners = group_of(model, build_parameter_groups(model, 1e-5))
    norms = {
        f"{name}.{leaf}"
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for leaf, _ in module.named_parameters(recurse=False)
    }
    # Two per transformer block, one per stage, patch embedding and spatial reduction, and the head's BatchNorm.
    assert len(norms) == 2 * (4 * 2 + 4 + 4 + 3 + 1)
    for name, group in owners.items():
        assert (group["weight_decay"] == 0.0) == (name in norms), name


def test_build_parameter_groups__batch_norm_of_the_head(model):
    owners = group_of(model, build_parameter_groups(model, 1e-5))
    for leaf in ("weight", "bias"):
        assert owners[f"decode_head.batch_norm.{leaf}"]["name"] == "head_no_decay"


def test_build_parameter_groups__biases_elsewhere_are_decayed(model):
    owners = group_of(model, build_parameter_groups(model, 1e-5))
    assert owners["decode_head.classifier.bias"]["name"] == "head"
    biases = [n for n, module in model.segformer.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for name in biases:
        assert owners[f"segformer.{name}.bias"]["name"] == "encoder"


@pytest.mark.parametrize("decay_norms", [False, True])
@pytest.mark.parametrize("decay_biases", [False, True])
def test_build_parameter_groups__decay_is_selectable(model, decay_norms, decay_biases):
    groups = build_parameter_groups(model, 1e-5, decay_norms=decay_norms, decay_biases=decay_biases)
    owners = group_of(model, groups)
    assert len(owners) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    modules = dict(model.named_modules())
    kinds = set()
    for name, group in owners.items():
        module, leaf = name.rsplit(".", 1)
        kind = "norm" if "norm" in type(modules[module]).__name__.lower() else leaf
        decayed = {"norm": decay_norms, "bias": decay_biases, "weight": True}[kind]
        part = "encoder" if name.startswith("segformer.") else "head"
        assert (group["weight_decay"], group["name"]) == ((0.01, part) if decayed else (0.0, f"{part}_no_decay")), name
        kinds.add((kind, part))
    assert len(kinds) == 6


def test_build_parameter_groups__biases_of_any_module(model):
    model.decode_head.attention = nn.MultiheadAttention(4, 2)  # its bias is called in_proj_bias
    owners = group_of(model, build_parameter_groups(model, 1e-5, decay_biases=False))
    assert owners["decode_head.attention.in_proj_bias"]["name"] == "head_no_decay"
    assert owners["decode_head.attention.in_proj_weight"]["name"] == "head"


def test_build_parameter_groups__everything_outside_the_encoder_is_a_head(model):
    model.auxiliary_head = nn.Sequential(nn.Conv2d(24, 8, 3), nn.SyncBatchNorm(8), nn.GroupNorm(2, 8))
    owners = group_of(model, build_parameter_groups(model, 1e-3, head_lr_multiplier=4.0, weight_decay=0.5))
    assert owners["auxiliary_head.0.weight"] == owners["decode_head.classifier.weight"]
    assert owners["auxiliary_head.0.weight"]["lr"] == 4e-3
    for name in ("auxiliary_head.1.weight", "auxiliary_head.2.bias"):
        assert owners[name]["name"] == "head_no_decay"
    for name, group in owners.items():
        assert group["name"].startswith("encoder") == name.startswith("segformer."), name


def test_build_parameter_groups__frozen_parameters_are_left_out(model):
    for parameter in model.segformer.parameters():
        parameter.requires_grad_(False)
    model.decode_head.classifier.bias.requires_grad_(False)
    groups = build_parameter_groups(model, 1e-5)
    assert {group["name"] for group in groups} == {"head", "head_no_decay"}
    assert set(group_of(model, groups)) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_build_parameter_groups__a_shared_parameter_is_in_one_group(model):
    model.decode_head.twin = model.decode_head.classifier
    groups = build_parameter_groups(model, 1e-5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_build_parameter_groups__step_moves_the_head_ten_times_as_far(model):
    # AdamW's first step without decay is lr * sign(gradient).
    optimizer = torch.optim.AdamW(build_parameter_groups(model, 1e-5, weight_decay=0.0))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: (before[name] - p.detach()).abs().max().item() for name, p in model.named_parameters()}
    assert moved["decode_head.classifier.bias"] == pytest.approx(1e-4, rel=1e-3)
    encoder_bias = next(name for name in moved if name.startswith("segformer.") and name.endswith("proj.bias"))
    assert moved[encoder_bias] == pytest.approx(1e-5, rel=1e-3)


def test_compute_polynomial_factor__hand_computed():
    values = [compute_polynomial_factor(step, 10, 4, 1.0, 0.0, 0.2) for step in (0, 1, 2, 3, 4, 5, 9, 10, 11)]
    # Decay 1, .9, .8, .7 times warm-up .2, .4, .6, .8; then the decay alone.
    assert values == pytest.approx([0.2, 0.36, 0.48, 0.56, 0.6, 0.5, 0.1, 0.0, 0.0], abs=1e-15)


def test_compute_polynomial_factor__power_and_end():
    assert compute_polynomial_factor(5, 10, power=2.0) == 0.25
    assert compute_polynomial_factor(5, 10, power=2.0, end=0.2) == pytest.approx(0.25 * 0.8 + 0.2)
    assert compute_polynomial_factor(10, 10, end=0.2) == pytest.approx(0.2)
    assert compute_polynomial_factor(99, 10, end=0.2) == pytest.approx(0.2)


def test_compute_polynomial_factor__the_reports_b0():
    assert compute_polynomial_factor(0, 10_000, 1500) == pytest.approx(1e-5)
    assert compute_polynomial_factor(750, 10_000, 1500) == pytest.approx(0.925 * (1e-5 + 0.5 * (1 - 1e-5)))
    assert compute_polynomial_factor(1500, 10_000, 1500) == pytest.approx(0.85)  # the peak, below 1
    assert max(compute_polynomial_factor(step, 10_000, 1500) for step in range(10_000)) == pytest.approx(0.85)


def loop_factors(steps, warmup, power, end, start, cycles, decay) -> list[float]:
    """Every factor from a walk through the cycles in exact fractions of a step."""
    factors = []
    length, begin, peak = Fraction(steps, cycles), Fraction(0), 1.0
    for step in range(steps):
        if step >= begin + length:
            begin, peak = begin + length, peak * decay
        left = 1 - (step - begin) / length
        rate = peak * end + (peak - peak * end) * float(left) ** power
        factors.append(rate * (start + (1 - start) * step / warmup) if step < warmup else rate)
    return factors


@pytest.mark.parametrize("cycles", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("steps", "warmup", "power", "end", "start", "decay"),
    [
        (210, 30, 1.0, 0.0, 1e-5, 1.0),
        (210, 30, 0.9, 0.1, 0.1, 0.5),
        (200, 0, 2.0, 0.0, 1e-5, 0.7),
        (97, 13, 1.0, 0.25, 0.5, 1.0),
    ],
)
def test_compute_polynomial_factor__every_step_with_restarts(steps, warmup, power, end, start, cycles, decay):
    options = (steps, warmup, power, end, start, cycles, decay)
    factors = [compute_polynomial_factor(step, *options) for step in range(steps)]
    assert factors == pytest.approx(loop_factors(*options), rel=1e-12, abs=1e-15)
    starts = [-(-k * steps // cycles) for k in range(cycles)] + [steps]  # ceil(k T / n)
    for k in range(cycles):
        cycle = factors[starts[k] if k else warmup : starts[k + 1]]
        assert all(a > b for a, b in pairwise(cycle))
        peak, last = decay**k, decay**k * end
        assert all(last < value <= peak for value in cycle)
        if k:
            assert factors[starts[k]] > factors[starts[k] - 1]
            if (k * steps) % cycles == 0:
                assert factors[starts[k]] == peak
    for step in (steps, steps + 1, 10 * steps):
        assert compute_polynomial_factor(step, *options) == pytest.approx(decay ** (cycles - 1) * end, abs=1e-15)


def test_compute_polynomial_factor__restarts_by_hand():
    values = [compute_polynomial_factor(step, 8, 2, 1.0, 0.0, 0.5, 2, 0.5) for step in range(10)]
    # 1 .75 .5 .25 times .5 .75 of the warm-up; then half of that without a warm-up; then the end.
    assert values == pytest.approx([0.5, 0.5625, 0.5, 0.25, 0.5, 0.375, 0.25, 0.125, 0, 0], abs=1e-15)


def test_compute_polynomial_factor__a_remainder_is_spread():
    # 10 steps in 3 cycles of 3 1/3: they begin at 0, 3.33 and 6.67, so their first steps are 0, 4 and 7.
    values = [compute_polynomial_factor(step, 10, cycles=3) for step in range(10)]
    assert values == pytest.approx([1.0, 0.7, 0.4, 0.1, 0.8, 0.5, 0.2, 0.9, 0.6, 0.3], abs=1e-12)


def test_compute_polynomial_factor__the_reports_text_with_one_warm_restart():
    def factor(step):
        return compute_polynomial_factor(step, 20_000, 1500, cycles=2)

    assert factor(1500) == pytest.approx(0.85)
    assert factor(9_999) == pytest.approx(1e-4)
    assert factor(10_000) == 1.0
    assert factor(19_999) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cycles": 0}, "expected `lr_cycles` of 1 or more; found 0;"),
        ({"cycles": -1}, "expected `lr_cycles` of 1 or more; found -1;"),
        ({"cycle_decay": 0.0}, "expected `lr_cycle_decay` above 0, up to 1; found 0.0;"),
        ({"cycle_decay": 1.1}, "expected `lr_cycle_decay` above 0, up to 1; found 1.1;"),
        ({"cycle_decay": float("nan")}, "expected `lr_cycle_decay` above 0, up to 1; found nan;"),
        ({"cycles": 3, "warmup_steps": 4}, "a warm-up within the first of 3 cycles (3.33333 steps); found 4 warm-up"),
    ],
)
def test_build_polynomial_schedule__refuses_when_built(options, words):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    with pytest.raises(ConfigError) as caught:
        build_polynomial_schedule(optimizer, 10, **options)
    assert words in str(caught.value)


def test_build_polynomial_schedule__passes_every_option_on():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=2.0)
    options = (20, 3, 0.9, 0.1, 0.2, 4, 0.5)
    schedule = build_polynomial_schedule(optimizer, *options)
    rates = []
    for _ in range(25):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([2.0 * compute_polynomial_factor(step, *options) for step in range(25)], rel=1e-12)


def mmcv_rates(base, steps, warmup, power, minimum, ratio) -> list[float]:
    """Learning rates as mmcv's hooks set them before each iteration: regular rate first, warm-up scales it."""
    rates = []
    for iteration in range(steps):
        coefficient = (1 - iteration / steps) ** power
        rate = (base - minimum) * coefficient + minimum
        if iteration < warmup:
            k = (1 - iteration / warmup) * (1 - ratio)
            rate = rate * (1 - k)
        rates.append(rate)
    return rates


@pytest.mark.parametrize(
    ("steps", "warmup", "power", "end", "ratio"),
    [(200, 30, 1.0, 0.0, 1e-5), (200, 0, 1.0, 0.0, 1e-5), (97, 13, 0.9, 0.01, 0.1), (50, 80, 2.0, 0.1, 0.5)],
)
def test_build_polynomial_schedule__every_step_equals_mmcv(steps, warmup, power, end, ratio):
    base = 3e-4
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": base}])
    schedule = build_polynomial_schedule(optimizer, steps, warmup, power, end, ratio)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(mmcv_rates(base, steps, warmup, power, end * base, ratio), rel=1e-12)


def test_build_polynomial_schedule__groups_keep_their_ratio(model):
    optimizer = torch.optim.AdamW(build_parameter_groups(model, 1e-5))
    schedule = build_polynomial_schedule(optimizer, 20, 5)
    for _ in range(20):
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates["head"] == pytest.approx(10 * rates["encoder"], rel=1e-12)
        assert rates["head"] == rates["head_no_decay"]
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("cycles", [1, 2, 3])
def test_build_polynomial_schedule__resumes_where_it_was(cycles):
    def build():
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-3)
        return optimizer, build_polynomial_schedule(optimizer, 12, 4, cycles=cycles)

    optimizer, schedule = build()
    rates = []
    for step in range(12):
        if step == 7:
            states = optimizer.state_dict(), schedule.state_dict()
            optimizer, schedule = build()
            optimizer.load_state_dict(states[0])
            schedule.load_state_dict(states[1])
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [1e-3 * compute_polynomial_factor(step, 12, 4, cycles=cycles) for step in range(12)]
    assert rates == pytest.approx(expected, rel=1e-12)
