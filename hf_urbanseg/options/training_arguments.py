"""`UrbanSegTrainingArguments`: transformers' TrainingArguments with our options, defaults and checks."""

import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from typing import ClassVar

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.launch import count_processes, forget_launch_of_one
from hf_urbanseg.options.stock_options import (
    REFUSED,
    STOCK_RANGES,
    check_launcher,
    check_optimizer,
    check_supported,
    find_chosen,
)
from hf_urbanseg.options.training_options import TrainingOptions
from hf_urbanseg.ranges import check_options

logger = logging.getLogger(__name__)


@dataclass
class UrbanSegTrainingArguments(TrainingOptions, TrainingArguments):
    """`transformers.TrainingArguments` with the report's values as defaults and the options of `UrbanSegTrainer`.

    Stock's options that would be ignored are refused.
    """

    RANGES: ClassVar = STOCK_RANGES
    HIDDEN: ClassVar = REFUSED
    # What holds for every run, as one may say it.
    do_train: bool = True
    do_eval: bool = True
    remove_unused_columns: bool | None = False
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])

    def __post_init__(self):
        check_options(self)
        check_supported(self)
        check_launcher(self)
        # Without a GPU, accelerate would start N unconnected runs (no process group) and give each one thread.
        if not torch.accelerator.is_available():
            self.use_cpu = True
        self.dataloader_persistent_workers &= self.dataloader_num_workers > 0
        forget_launch_of_one()
        if self.use_cpu and count_processes() > 1 and self.ddp_backend is None:
            self.ddp_backend = "gloo"
        if self.push_to_hub and not self.hub_model_id:
            fix = "add for example `--hub_model_id you/segformer-b0-kitti`"
            raise ConfigError("`hub_model_id` as user/name with `push_to_hub`", "none", fix)
        if self.torch_compile and self.tf32 is None:
            self.tf32 = False  # else transformers would lower the precision of fp32 with it
        # transformers 5.23 has a new name for checkpointing, and warns of the old one; 5.22 knows the old one alone.
        if "activation_checkpointing" in type(self).__dataclass_fields__:
            self.gradient_checkpointing |= bool(self.activation_checkpointing)
            self.activation_checkpointing = self.gradient_checkpointing
        if self.gradient_checkpointing and self.torch_compile_backend == "eager":
            # torch leaves the random state of compiled checkpoints to the backend, and this one does nothing.
            fix = "use `inductor` or `aot_eager`: blocks computed again would draw other dropout masks"
            raise ConfigError("no `torch_compile_backend` eager with `gradient_checkpointing`", "both", fix)
        metric = "mean_iou" if self.metric_for_best_model is None else self.metric_for_best_model.removeprefix("eval_")
        if not re.fullmatch("(ema_)?(mean_iou|mean_accuracy|overall_accuracy|iou_.+)", metric):
            expected = "`metric_for_best_model` of mean_iou, mean_accuracy, overall_accuracy or iou_<class>"
            raise ConfigError(expected, metric, "correct it")
        if self.export_ema:
            metric = f"ema_{metric.removeprefix('ema_')}"
        if metric.startswith("ema_") and not self.ema_decay:
            raise ConfigError("`ema_decay` with averaged weights", "0", "use for example 0.999")
        if self.ema_start and not self.ema_decay:
            raise ConfigError("`ema_decay` with `ema_start`", "0", "use for example 0.999, or leave the other out")
        self.metric_for_best_model = metric
        if self.resume and self.overwrite:
            raise ConfigError("either `resume` or `overwrite`", "both", "drop one")
        if self.accept_changes and not self.resume:
            raise ConfigError("`resume` with `accept_changes`", "none", "add it or leave the other out")
        if self.freeze_encoder and self.freeze_stages:
            raise ConfigError("either `freeze_encoder` or `freeze_stages`", "both", "drop one")
        if self.early_stopping_threshold and not self.early_stopping_patience:
            fix = "add for example 5, or leave the other out"
            raise ConfigError("`early_stopping_patience` with `early_stopping_threshold`", "none", fix)
        if self.early_stopping_patience and self.eval_strategy == "no":
            fix = "choose another `eval_strategy`, or leave it out"
            raise ConfigError("evaluations with `early_stopping_patience`", "`eval_strategy` no", fix)
        if self.num_train_epochs is None:  # our default, so that 3 epochs aren't nobody's wish
            self.num_train_epochs = TrainingArguments.num_train_epochs
        elif self.max_steps > 0:
            found = f"`num_train_epochs` {self.num_train_epochs} and `max_steps` {self.max_steps}, which would win"
            raise ConfigError("a length in steps or in epochs", found, "add `--max_steps -1` to train by epochs")
        try:
            super().__post_init__()
        except Exception as error:  # it raises what it likes, and so do the libraries that it asks
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise ConfigError("valid training arguments", f"{kind}{error}", "correct them") from error
        if self.world_size == 1 < count_processes():
            # On a GPU accelerate goes by LOCAL_RANK: each process would train by itself, on a part of the batch.
            fix = "start by `accelerate launch` or torchrun (of srun, `LOCAL_RANK=$SLURM_LOCALID`), or unset WORLD_SIZE"
            raise ConfigError(f"LOCAL_RANK for each of WORLD_SIZE {count_processes()} processes", "none", fix)
        check_optimizer(self)
        if self.load_best_model_at_end and self.eval_strategy == "steps" and self.save_steps != self.eval_steps:
            expected = "`save_steps` equal to `eval_steps` with `load_best_model_at_end`"
            fix = "make them equal: a best step that was not saved could not be exported"
            raise ConfigError(expected, f"{self.save_steps} and {self.eval_steps}", fix)


_NOT_RECORDED = {
    # secrets
    "hub_token", "push_to_hub_token",
    # whoever repeats a run pushes to their own repository, if at all
    "push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_revision", "hub_always_push",
    "hub_tensorboard", "hub_pictures", "hub_timeout",
    # of this start and machine, not of the recipe
    "recipe", "show", "resume", "overwrite", "accept_changes", "use_cpu", "ddp_backend", "local_rank", "logging_dir",
    "cpu_threads", "deepspeed_plugin", "distributed_state", "dataloader_pin_memory", "fsdp_config",
    # naming one switches `torch_compile` on, whatever the command line says
    "torch_compile_backend", "torch_compile_mode",
    # the new name of `gradient_checkpointing`, which transformers 5.22 doesn't know
    "activation_checkpointing",
}  # fmt: skip


def resolve_recipe(*arguments) -> dict:
    """The options of a run as a recipe that repeats it: ours always, stock transformers' where not at their default.

    Secrets and what belongs to one start (`--resume`, devices) are left out.
    """
    stock = {f.name for f in fields(TrainingArguments)} - {f.name for f in fields(TrainingOptions)}
    recipe = {}
    for instance in arguments:
        chosen = find_chosen(instance, stock - REFUSED.keys())
        for f, value in _plain_values(instance):
            if f.name == "num_train_epochs" and instance.max_steps > 0:
                continue  # whatever it is, steps count
            if f.name not in _NOT_RECORDED and (f.name not in stock or f.name in chosen):
                recipe[f.name] = value
    return recipe


def resolve_training_arguments(args: TrainingArguments) -> dict:
    """Every training argument as it was in effect, transformers' defaults included, secrets left out; for the record.

    A recipe repeats a run with the defaults of the day; this says what they were.
    """
    return dict(sorted((f.name, value) for f, value in _plain_values(args) if "token" not in f.name))


def _plain_values(instance) -> Iterator[tuple[Field, object]]:
    """Options and their values, as far as YAML has a word for them."""
    for f in fields(instance):
        value = getattr(instance, f.name)
        value = [_plain(item) for item in value] if isinstance(value, list | tuple) else _plain(value)
        if f.init and (value is None or isinstance(value, int | float | str | list | dict)):
            yield f, value


def _plain(value):
    return value.value if isinstance(value, Enum) else value


def adapt_arguments(args: TrainingArguments, class_names: Collection[str], can_evaluate: bool) -> None:
    """Settings that stock or our defaults have and that can't hold here."""
    if isinstance(args, UrbanSegTrainingArguments) and args.eval_strategy != "no" and not can_evaluate:
        logger.warning("there is no `eval_dataset`: nothing is measured or selected, the last step is what stays")
        args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
    if args.metric_for_best_model in ("loss", "eval_loss"):  # stock's default
        logger.info("no loss is computed in evaluation: the best checkpoint is that of the highest mean IoU")
        args.metric_for_best_model, args.greater_is_better = "mean_iou", True
    metric = (args.metric_for_best_model or "").removeprefix("eval_").removeprefix("ema_")
    if metric.startswith("iou_") and metric.removeprefix("iou_") not in class_names:
        fix = "choose one with `--metric_for_best_model`"
        raise ConfigError(f"a class of {', '.join(class_names)}", f"`{metric}`", fix)
    args.remove_unused_columns = False  # by the names of the model's arguments, of which `extent` is none
    if args.n_gpu > 1:
        # Several GPUs in one process would mean DataParallel, which splits batches behind the loss's back.
        logger.warning("one of %d GPUs is used; start with `accelerate launch` to use all", args.n_gpu)
        args._n_gpu = 1
