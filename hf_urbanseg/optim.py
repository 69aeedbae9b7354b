"""Parameter groups and the learning-rate schedule of the report."""

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def build_parameter_groups(
    model: nn.Module, learning_rate: float, head_lr_multiplier: float = 10.0, weight_decay: float = 0.01
) -> list[dict]:
    """Parameter groups for AdamW: decayed and not, encoder and heads.

    Normalisation layers are not decayed; biases elsewhere are, as in the report's code. Everything outside the
    encoder (`base_model_prefix`) is a head. Groups follow modules, not key strings: both spellings of SegFormer's
    keys exist.

    Returns:
        Up to four groups with `params`, `lr`, `weight_decay` and `name` (`encoder`, `encoder_no_decay`, `head`,
        `head_no_decay`). Frozen parameters are in none.
    """
    encoder = getattr(model, getattr(model, "base_model_prefix", ""), None)
    in_encoder = {id(parameter) for parameter in encoder.parameters()} if encoder is not None else set()
    norm = {id(p) for module in model.modules() if isinstance(module, _NORMS) for p in module.parameters()}
    groups: dict[str, dict] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        part = "encoder" if id(parameter) in in_encoder else "head"
        decayed = id(parameter) not in norm
        name = part if decayed else f"{part}_no_decay"
        group = groups.setdefault(
            name,
            {
                "params": [],
                "lr": learning_rate * (1.0 if part == "encoder" else head_lr_multiplier),
                "weight_decay": weight_decay if decayed else 0.0,
                "name": name,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def compute_polynomial_factor(
    step: int, num_steps: int, warmup_steps: int = 0, power: float = 1.0, end: float = 0.0, warmup_start: float = 1e-5
) -> float:
    """Learning rate at `step` as a share of the initial one: polynomial decay, multiplied by a linear warm-up.

    `((1 - t/T)^power * (1 - end) + end) * (warmup_start + (1 - warmup_start) * t / T_w  while t < T_w)`

    Args:
        step: t, from 0; past `num_steps` the end value stays.
        num_steps: T.
        warmup_steps: T_w.
        power: 1.0 in the report.
        end: Share that is left at the end.
        warmup_start: Share at step 0.

    Source: mmcv's `PolyLrUpdaterHook` with `warmup='linear'`, as the report's code uses it (the decay runs from step
        0, so the peak, just after the warm-up, is below the nominal rate).
    """
    progress = min(step / num_steps, 1.0) if num_steps > 0 else 1.0
    factor = (1.0 - progress) ** power * (1.0 - end) + end
    if step < warmup_steps:
        factor *= warmup_start + (1.0 - warmup_start) * step / warmup_steps
    return factor


def build_polynomial_schedule(
    optimizer: Optimizer,
    num_steps: int,
    warmup_steps: int = 0,
    power: float = 1.0,
    end: float = 0.0,
    warmup_start: float = 1e-5,
) -> LambdaLR:
    """`compute_polynomial_factor` as a scheduler stepped once per optimiser step."""
    return LambdaLR(
        optimizer,
        lambda step: compute_polynomial_factor(step, num_steps, warmup_steps, power, end, warmup_start),
    )
