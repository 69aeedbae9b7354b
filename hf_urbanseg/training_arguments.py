"""`UrbanSegTrainingArguments`: transformers' TrainingArguments with our options, defaults and checks."""

import os
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from hf_urbanseg.config import option
from hf_urbanseg.errors import ConfigError


@dataclass
class UrbanSegTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the report's values as defaults and the options of `UrbanSegTrainer`."""

    output_dir: str = option("runs/finetune", "Folder of the run: checkpoints while it trains, the model at the end.")
    resume: bool = option(False, "Continue from the newest complete checkpoint in --output_dir.")
    overwrite: bool = option(False, "Replace an earlier run in --output_dir.")
    learning_rate: float = option(1e-5, "Peak learning rate of the encoder (report: 1e-5).")
    head_lr_multiplier: float = option(10.0, "Factor on the learning rate of everything but the encoder (report: 10).")
    weight_decay: float = option(0.01, "AdamW's weight decay, not on normalisation layers (report: 0.01).")
    max_steps: int = option(10_000, "Optimiser steps (report: 10,000 for B0, 20,000 for B2 and B5).")
    lr_scheduler_type: str = option("polynomial", "`polynomial` is the report's; others are stock transformers'.")
    lr_power: float = option(1.0, "Power of the polynomial (report: 1.0).")
    lr_end: float = option(0.0, "Share of the learning rate that is left at the end (report: 0).")
    lr_cycles: int = option(1, "Warm restarts: equal cycles of the polynomial (report's text; its code has 1).")
    lr_cycle_decay: float = option(1.0, "Peak of each cycle as a share of the one before.")
    decay_norms: bool = option(False, "Weight decay on normalisation layers too.")
    decay_biases: bool = option(True, "Weight decay on biases (as in the report's code).")
    warmup_steps: float = option(1500, "Linear warm-up steps; below 1, a share of all steps (report: 1500; B5 5000).")
    warmup_start: float = option(1e-5, "Share of the learning rate at step 0 (report: 1e-5).")
    max_grad_norm: float = option(0.0, "Gradient clipping; 0, as in the report, is none.")
    sync_batch_norm: bool = option(True, "SyncBatchNorm where there are several GPUs; elsewhere without effect.")
    ema_decay: float = option(0.0, "Average the weights over steps with this decay and measure them too; 0 is off.")
    export_ema: bool = option(False, "Select by and export the averaged weights.")
    freeze_batch_norm: bool = option(False, "Keep the running statistics of BatchNorm as they are.")
    torch_compile: bool = option(
        False,
        "Compile the training step: minutes at the start, faster on a GPU. Evaluation and saved files stay the same.",
    )
    gradient_checkpointing: bool = option(
        False, "Compute the encoder's blocks again for their gradients instead of keeping what they need: less memory."
    )
    per_device_train_batch_size: int = option(8, "Crops per process and micro-batch.")
    per_device_eval_batch_size: int = option(4, "Images per process in evaluation.")
    eval_strategy: str = option("steps", "When the validation split is measured.")
    eval_steps: float | None = option(500, "Steps between evaluations (report: 500).")
    save_steps: float = option(500, "Steps between checkpoints; with a best model to export, as many as --eval_steps.")
    save_total_limit: int | None = option(2, "Checkpoints kept, besides the best one.")
    load_best_model_at_end: bool | None = option(True, "Export the checkpoint with the best validation mIoU.")
    metric_for_best_model: str | None = option("mean_iou", "What selects it.")
    greater_is_better: bool | None = option(True, "Larger is better.")
    logging_steps: float = option(50, "Steps between log lines.")
    logging_nan_inf_filter: bool = option(False, "Hide NaN losses in the log. Off: they are a fault to be seen.")
    report_to: list[str] | None = option(["none"], "`tensorboard`, `wandb`, ... or `none`.")
    remove_unused_columns: bool | None = option(False, "Not used: the data sets here are already tensors.")
    label_names: list[str] | None = option(["labels"], "Not used: as above.")
    seed: int = option(42, "Seed of weights, order and augmentation.")
    ddp_find_unused_parameters: bool | None = option(False, "Every parameter takes part in every step.")
    dataloader_num_workers: int = option(2, "Worker processes that load and augment, per training process.")
    cache_images: str = option(
        "auto",
        "Keep decoded training frames in memory, 4 bytes a pixel, shared by the workers: `true`, `false`, or `auto`: "
        "if they take up to a quarter of what is free.",
        choices=["auto", "true", "false"],
    )
    dataloader_persistent_workers: bool = option(True, "Keep them from epoch to epoch; samples carry their epoch.")
    cpu_threads: int = option(0, "Threads of a process on CPU; 0 shares the cores among the processes.")
    push_to_hub: bool = option(False, "Push to --hub_model_id while training and at the end; never costs the run.")
    hub_model_id: str | None = option(None, "Repository on the Hub, as user/name.")
    hub_strategy: str = option("every_save", "`every_save` pushes each saved model and the end; `end` the end alone.")
    hub_tensorboard: bool = option(False, "Push TensorBoard's logs, too.")
    hub_pictures: bool | None = option(
        None, "Push what shows images of the data, too (overlays, failures, the report). Default: unless the data's "
        "licence is known to forbid it (Cityscapes).", nargs="?", const=True
    )  # fmt: skip
    hub_timeout: float = option(600.0, "Seconds that the end of a run waits for its pushes; what is left is owed.")

    def __post_init__(self):
        # Without a GPU, accelerate would start N unconnected runs (no process group) and give each one thread.
        if not torch.accelerator.is_available():
            self.use_cpu = True
        self.dataloader_persistent_workers &= self.dataloader_num_workers > 0
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if self.use_cpu and processes > 1 and self.ddp_backend is None:
            self.ddp_backend = "gloo"
        for name, instead in (
            ("deepspeed", "use data parallelism; SegFormer fits on one GPU"),
            ("fsdp", "use data parallelism; SegFormer fits on one GPU"),
        ):
            if getattr(self, name):
                raise ConfigError(f"no `{name}`, which this trainer doesn't support", "it", instead)
        if self.push_to_hub:
            _check_push(self)
        if self.torch_compile and self.tf32 is None:
            self.tf32 = False  # else transformers would lower the precision of fp32 with it
        # transformers 5.23 has a new name for checkpointing, and warns of the old one; 5.17 knows the old one alone.
        if "activation_checkpointing" in type(self).__dataclass_fields__:
            self.gradient_checkpointing |= bool(self.activation_checkpointing)
            self.activation_checkpointing = self.gradient_checkpointing
        if self.gradient_checkpointing and self.torch_compile_backend == "eager":
            # torch leaves the random state of compiled checkpoints to the backend, and this one does nothing.
            fix = "use `inductor` or `aot_eager`: blocks computed again would draw other dropout masks"
            raise ConfigError("no `torch_compile_backend` eager with `gradient_checkpointing`", "both", fix)
        if not 0 <= self.ema_decay < 1:
            raise ConfigError("`ema_decay` of 0 to below 1", f"{self.ema_decay}", "use for example 0.999")
        if self.export_ema:
            if not self.ema_decay:
                raise ConfigError("`ema_decay` with `export_ema`", "0", "use for example 0.999")
            self.metric_for_best_model = "ema_mean_iou"
        if self.resume and self.overwrite:
            raise ConfigError("either `resume` or `overwrite`", "both", "drop one")
        for name, upper in (
            ("lr_end", 1),
            ("warmup_start", 1),
            ("lr_power", None),
            ("head_lr_multiplier", None),
            ("warmup_steps", None),
        ):
            value = getattr(self, name)
            if not (value >= 0 and (upper is None or value <= upper)):
                bound = "0 or more" if upper is None else f"0..{upper}"
                raise ConfigError(f"`{name}` of {bound}", f"{value}", "correct it")
        if self.num_train_epochs != TrainingArguments.num_train_epochs and self.max_steps > 0:
            raise ConfigError(
                "a length in steps or in epochs",
                f"`num_train_epochs` {self.num_train_epochs} and `max_steps` {self.max_steps}, which would win",
                "add `--max_steps -1` to train by epochs",
            )
        super().__post_init__()
        if self.load_best_model_at_end and self.eval_strategy == "steps" and self.save_steps != self.eval_steps:
            raise ConfigError(
                "`save_steps` equal to `eval_steps` with `load_best_model_at_end`",
                f"{self.save_steps} and {self.eval_steps}",
                "make them equal: a best step that was not saved could not be exported",
            )
        # Several GPUs in one process would mean DataParallel, which splits batches behind the loss's back.
        if self._n_gpu > 1:
            self._n_gpu = 1


def _check_push(args: "UrbanSegTrainingArguments") -> None:
    # Stock would ask the Hub for the user's name, and stop where the Hub is away.
    if not args.hub_model_id or args.hub_model_id.count("/") != 1:
        fix = "add for example `--hub_model_id you/segformer-b0-kitti`"
        raise ConfigError("`hub_model_id` as user/name with `push_to_hub`", f"{args.hub_model_id or 'none'}", fix)
    strategy = getattr(args.hub_strategy, "value", args.hub_strategy)
    if strategy not in ("every_save", "end"):
        fix = "choose one; optimiser states stay at home"
        raise ConfigError("`hub_strategy` of every_save or end", f"`{strategy}`", fix)
    if not args.hub_timeout >= 0:
        raise ConfigError("`hub_timeout` of 0 or more seconds", f"{args.hub_timeout}", "correct it")
