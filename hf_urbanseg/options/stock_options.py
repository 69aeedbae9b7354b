"""What becomes of transformers' own options here: their ranges, those that are refused, an optimiser that can't be."""

import copy
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer_pt_utils import AcceleratorConfig

from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.optim import build_polynomial_schedule
from hf_urbanseg.ranges import Range, check_range

logger = logging.getLogger(__name__)

_REASONS = {
    "the losses here have none": "label_smoothing_factor",
    "it is for language models": (
        "neftune_noise_alpha include_num_input_tokens_seen use_liger_kernel liger_kernel_config use_cache"
    ),
    "every step has whole batches in the order of the seed, whatever the processes": (
        "train_sampling_strategy length_column_name dataloader_drop_last dataloader_in_order ignore_data_skip "
        "average_tokens_across_devices accelerator_config auto_find_batch_size"
    ),
    "evaluation counts the pixels of each image as it goes": (
        "prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps batch_eval_metrics "
        "include_for_metrics bf16_full_eval fp16_full_eval label_names remove_unused_columns"
    ),
    "a run trains, then measures; `urbanseg evaluate` and `urbanseg predict` do one alone": (
        "do_train do_eval do_predict"
    ),
    "a run goes on by `--resume`, with all its state": (
        "resume_from_checkpoint restore_callback_states_from_checkpoint enable_jit_checkpoint"
    ),
    "SegFormer fits on one GPU: use data parallelism": "deepspeed fsdp fsdp_config parallelism_config",
    "`--gradient_checkpointing` is exact as it is": "gradient_checkpointing_kwargs activation_checkpointing_kwargs",
    "the optimiser's groups are ours": "optim_target_modules",
    "nothing here reports it": "skip_memory_metrics debug",
    "pushes wait for each other, and the last one is never lost": "hub_always_push",
}
REFUSED: Mapping[str, str] = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""Options that would change nothing here, or break what we promise, and why. All others are transformers' to honour,
those of a later release, too."""

_LEFT_TO_STOCK = {"do_train", "do_eval", "do_predict", "remove_unused_columns", "label_names", "fsdp_config"}
"""Of arguments of stock's own class: changed by stock itself, or without effect there, too."""

STOCK_RANGES: Mapping[str, Range] = {
    **dict.fromkeys(("adam_beta1", "adam_beta2"), Range(0, 1, below=True)),
    **dict.fromkeys(("adam_epsilon", "eval_delay"), Range(0)),
    "gradient_accumulation_steps": Range(1, 4096),
    "torch_empty_cache_steps": Range(1, 10**9),
    "data_seed": Range(0, 2**32 - 1),
    "dataloader_prefetch_factor": Range(1, 1024),
    "ddp_bucket_cap_mb": Range(1, 10**6),
    "ddp_timeout": Range(1, 10**7),
}

_WITH_PICTURES = ("tensorboard", "trackio", "wandb")
_PACKAGES = {"azure_ml": "azureml-mlflow", "comet_ml": "comet-ml", "flyte": "flytekit"}
"""Of trackers that aren't named like their package."""
_POLYNOMIAL = ("lr_power", "lr_end", "lr_cycles", "lr_cycle_decay", "warmup_start")
_OFF = {"None", "False", "", "[]", "{}", "no"}
_WITHOUT_KWARGS = ("polynomial", "constant", "constant_with_warmup")


def find_chosen(options, names: Collection[str]) -> dict[str, tuple]:
    """Those of the options of a dataclass that aren't at their default: value and default, by name."""
    chosen = {}
    for f in fields(options):
        value, default = getattr(options, f.name), f.default if f.default_factory is MISSING else f.default_factory()
        # Stock turns some None into False, "" into [] and "no" into False: still off, so not what anybody set.
        if f.name in names and value != default and not {str(value), str(default)} <= _OFF:
            chosen[f.name] = value, default
    return chosen


def check_supported(args: TrainingArguments) -> None:
    """Refuses an option of `REFUSED` that was set, in arguments of our class or of stock's."""
    names = REFUSED.keys() - (set() if hasattr(args, "HIDDEN") else _LEFT_TO_STOCK)
    for name, (value, default) in find_chosen(args, names).items():
        if isinstance(value, AcceleratorConfig) and vars(value).items() <= vars(AcceleratorConfig()).items():
            continue  # stock makes one of None
        expected = f"`{name}` left at {default}" if default else f"no `{name}`"
        raise ConfigError(expected, f"{value}", f"leave it out: {REFUSED[name]}")


def check_launcher(args: TrainingArguments) -> None:
    """Refuses what `accelerate launch` was told of training and this run was not: stock would do it, unrecorded."""
    own = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
    precision, compiler = (_read_launcher(name) for name in ("MIXED_PRECISION", "DYNAMO_BACKEND"))
    if precision not in ("no", own):
        fix = "add `--bf16 true` or `--fp16 true` here, or start by `accelerate launch --mixed_precision no`"
        raise ConfigError(f"accelerate's `mixed_precision` {own}, as of this run", f"`{precision}`", fix)
    if compiler != "no" and not args.torch_compile:
        fix = "add `--torch_compile true` here, or start by `accelerate launch --dynamo_backend no`"
        raise ConfigError("accelerate's `dynamo_backend` no, as of this run", f"`{compiler}`", fix)
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if _read_launcher(f"USE_{name}") == "true":
            raise ConfigError("accelerate without ways to split a model", name, f"leave it out: {REFUSED['fsdp']}")


def _read_launcher(name: str) -> str:
    return (os.environ.get(f"ACCELERATE_{name}") or "no").lower()


def choose_data_seed(args: TrainingArguments) -> int:
    """Of order and augmentation: `data_seed`, else `seed`, which is that of everything else."""
    return args.seed if args.data_seed is None else args.data_seed


def build_schedule(args: TrainingArguments, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """The learning-rate schedule of arguments of our class: the report's polynomial, or stock's by its name."""
    warmup_steps = args.get_warmup_steps(num_steps)
    if args.lr_scheduler_type != "polynomial":
        return get_scheduler(args.lr_scheduler_type, optimizer, warmup_steps, num_steps, args.lr_scheduler_kwargs)
    options = args.lr_power, args.lr_end, args.warmup_start, args.lr_cycles, args.lr_cycle_decay
    return build_polynomial_schedule(optimizer, num_steps, warmup_steps, *options)


def check_optimizer(args: TrainingArguments) -> None:
    """Builds optimiser and schedule of one number, so that what is missing, wrong or ignored shows before the work."""
    kind = args.lr_scheduler_type
    ignored = find_chosen(args, _POLYNOMIAL) if kind != "polynomial" else {}
    if kind in _WITHOUT_KWARGS:
        ignored |= find_chosen(args, ("lr_scheduler_kwargs",))
    try:
        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args)
        chosen = find_chosen(args, ("optim_args", "adam_beta1", "adam_beta2", "adam_epsilon"))
        for name, (value, default) in chosen.items():
            without = copy.copy(args)
            setattr(without, name, default)
            if Trainer.get_optimizer_cls_and_kwargs(without)[1] == options:
                ignored[name] = value, default
        optimizer = optimizer_class([torch.nn.Parameter(torch.zeros(1, device=args.device))], **options)
        if hasattr(optimizer, "eval"):
            raise ConfigError(
                "an optimiser whose weights are the model's", f"{args.optim.value}", "take another `optim`"
            )
        steps = args.max_steps if args.max_steps > 0 else 1000
        for factor in getattr(build_schedule(args, optimizer, steps), "lr_lambdas", ()):
            check_range(0, **{"learning rate's factor": [factor(step) for step in (0, steps // 2, steps)]})
    except UrbanSegError:
        raise
    except Exception as error:  # of any library behind `optim`
        fix = "correct `optim`, `optim_args`, `lr_scheduler_type` or `lr_scheduler_kwargs`"
        found = f"{type(error).__name__}: {error}"
        raise ConfigError("an optimiser and a schedule that can be built", found, fix) from error
    for name, (value, _) in ignored.items():
        by = "lr_scheduler_type" if name in (*_POLYNOMIAL, "lr_scheduler_kwargs") else "optim"
        raise ConfigError(f"no `{name}`, which this `{by}` ignores", f"{value}", f"leave it out or take another `{by}`")


def check_reporters(args: TrainingArguments) -> None:
    """Asked where a run starts alone: a recorded recipe is also read where nothing is reported."""
    if args.report_pictures and not set(_WITH_PICTURES) & set(args.report_to or ()):
        found = ", ".join(args.report_to or ["none"])
        raise ConfigError(
            f"`report_to` of {', '.join(_WITH_PICTURES)} with `report_pictures`", found, "name one of them"
        )
    for name in args.report_to or ():
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise ConfigError("a known `report_to`", name, f"one of {known} or none")
        if name not in get_available_reporting_integrations():
            package = _PACKAGES.get(name, name)
            fix = f"`pip install {package}`, or drop the option"
            raise ConfigError(f"the package `{package}` for `--report_to {name}`", "none", fix)


def check_effects(args: TrainingArguments) -> None:
    """What would not do what it says: on this machine, or in so short a run."""
    if args.fp16 and args.device.type == "cpu":
        raise ConfigError("a GPU for `fp16`", "a CPU, which would compute in fp32", "take `--bf16`, or leave it out")
    if 0 < args.max_steps < args.warmup_steps:
        logger.warning(
            "the warm-up of %g steps is longer than the %d of the run: the learning rate stays below its peak; lower "
            "`--warmup_steps`", args.warmup_steps, args.max_steps,
        )  # fmt: skip
