"""Parameter groups and the learning-rate schedule of the report."""

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.ranges import Range, check_range

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def build_parameter_groups(
    model: nn.Module,
    learning_rate: float,
    head_lr_multiplier: float = 10.0,
    weight_decay: float = 0.01,
    decay_norms: bool = False,
    decay_biases: bool = True,
    stages: Sequence[Sequence[nn.Module]] = (),
    stage_lr_decay: float = 1.0,
) -> list[dict]:
    """Parameter groups for AdamW: decayed and not, encoder and heads, stages of the encoder.

    Everything outside the encoder (`base_model_prefix`) is a head. Groups follow modules, not key strings: both
    spellings of SegFormer's keys exist.

    Args:
        learning_rate: Of the encoder.
        decay_norms: Decay scale and shift of normalisation layers.
        decay_biases: Decay the biases of all other layers.
        stages: The encoder's, the first first.
        stage_lr_decay: Each stage learns at this share of the rate of the one behind it; the last, and what of the
            encoder is in no stage, at `learning_rate`.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name` (`encoder`, `encoder_no_decay`, `head`, `head_no_decay`;
        with a decay below 1 `encoder_stage1` ... in place of the first two). Frozen parameters are in none.

    Source: the report's code, `paramwise_cfg` with `norm` (decay_mult 0) and `head` (lr_mult 10), biases decayed. It
        matches strings in names, which misses two kinds of normalisation layers and decays them: the one at the end of
        each encoder stage (`layers.0.2`) and the heads' BatchNorm (`head` wins over `norm`, and its name is `bn`).
        Here the defaults decay no normalisation layer. Rates by depth: Clark et al. 2020 (ELECTRA), by layers; here by
        stages, as a stage's layers are few.
    """
    encoder = getattr(model, getattr(model, "base_model_prefix", ""), None)
    in_encoder = {id(parameter) for parameter in encoder.parameters()} if encoder is not None else set()
    stage_of = {}
    if stage_lr_decay != 1:
        numbered = ((number, module) for number, modules in enumerate(stages, 1) for module in modules)
        stage_of = {id(parameter): number for number, module in numbered for parameter in module.parameters()}
    undecayed = set()
    for module in model.modules():
        if isinstance(module, _NORMS):
            if not decay_norms:
                undecayed |= {id(parameter) for parameter in module.parameters()}
        elif not decay_biases:
            named = module.named_parameters(recurse=False)
            undecayed |= {id(parameter) for name, parameter in named if name.endswith("bias")}
    groups: dict[str, dict] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        part, rate = ("encoder", 1.0) if id(parameter) in in_encoder else ("head", head_lr_multiplier)
        if stage := stage_of.get(id(parameter)):
            part, rate = f"encoder_stage{stage}", stage_lr_decay ** (len(stages) - stage)
        name, decay = (f"{part}_no_decay", 0.0) if id(parameter) in undecayed else (part, weight_decay)
        group = {"params": [], "lr": learning_rate * rate, "weight_decay": decay, "name": name}
        groups.setdefault(name, group)["params"].append(parameter)
    return list(groups.values())


def compute_polynomial_factor(
    step: int,
    num_steps: int,
    warmup_steps: int = 0,
    power: float = 1.0,
    end: float = 0.0,
    warmup_start: float = 1e-5,
    cycles: int = 1,
    cycle_decay: float = 1.0,
) -> float:
    """Learning rate at `step` as a share of the initial one: polynomial decay, warm restarts, a linear warm-up.

    `d^k * ((1 - p)^power * (1 - end) + end) * (warmup_start + (1 - warmup_start) * t / T_w  while t < T_w)`, with
    `k = floor(t n / T)` and `p = t n / T - k`: cycle k of n, and the progress within it. One cycle is plain decay.

    Cycles are exactly T / n long. Where that isn't whole, nothing is left over at the end; a cycle begins at the first
    step inside it, less than a step below its peak, and cycles differ by one step at most.

    Args:
        step: t, from 0; past `num_steps` the end value of the last cycle stays.
        num_steps: T.
        warmup_steps: T_w, within the first cycle if there are several.
        power: 1.0 in the report.
        end: Share that is left at the end of a cycle, of that cycle's rate.
        warmup_start: Share at step 0.
        cycles: n. The report's text has "a warm restart", which are 2; its code has none.
        cycle_decay: d, rate of a cycle as a share of the rate of the cycle before.

    Source: mmcv's `PolyLrUpdaterHook` with `warmup='linear'`, as the report's code uses it (the decay runs from step
        0, so the peak, just after the warm-up, is below the nominal rate). Restarts as in Loshchilov and Hutter 2017,
        with cycles of equal length.
    """
    check_range(1, lr_cycles=cycles)
    Range(0, 1, above=True).check("lr_cycle_decay", cycle_decay)
    if cycles > 1 and warmup_steps * cycles > num_steps > 0:
        expected = f"a warm-up within the first of {cycles} cycles ({num_steps / cycles:g} steps)"
        raise ConfigError(expected, f"{warmup_steps} warm-up steps", "shorten it or take fewer cycles")
    if step >= num_steps:
        cycle, progress = cycles - 1, 1.0
    else:
        cycle, rest = divmod(step * cycles, num_steps)  # whole numbers: no restart is a step late by rounding
        progress = rest / num_steps
    factor = cycle_decay**cycle * ((1.0 - progress) ** power * (1.0 - end) + end)
    if step < warmup_steps:
        factor *= warmup_start + (1.0 - warmup_start) * step / warmup_steps
    return factor


def build_polynomial_schedule(optimizer: Optimizer, num_steps: int, *options, **named_options) -> LambdaLR:
    """`compute_polynomial_factor(step, num_steps, ...)` as a scheduler stepped once per optimiser step."""
    return LambdaLR(optimizer, lambda step: compute_polynomial_factor(step, num_steps, *options, **named_options))
