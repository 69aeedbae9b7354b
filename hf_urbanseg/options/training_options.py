"""How it is trained: the options that are ours, or have our defaults."""

from dataclasses import dataclass
from typing import Annotated

from hf_urbanseg.options.fields import option
from hf_urbanseg.ranges import (
    Amount,
    Batch,
    Count,
    Range,
    Seconds,
    Seed,
    Share,
    ShareAboveZero,
    ShareBelowOne,
    Steps,
    Whole,
    Workers,
)


@dataclass
class TrainingOptions:
    """How it is trained: the options of `UrbanSegTrainingArguments` that are ours, or have our defaults."""

    output_dir: str = option("runs/finetune", "Folder of the run: checkpoints while it trains, the model at the end.")
    resume: bool = option(False, "Continue from the newest complete checkpoint in --output_dir.")
    overwrite: bool = option(False, "Replace an earlier run in --output_dir.")
    accept_changes: bool = option(
        False,
        "With --resume, go on although data or options are others than at the start; the run's metrics say so, and "
        "frames that it was ever trained on are left out of validation and test.",
    )
    learning_rate: Amount = option(1e-5, "Peak learning rate of the encoder (report: 1e-5).")
    head_lr_multiplier: Amount = option(10.0, "Factor on the learning rate of everything but the encoder (report: 10).")
    stage_lr_decay: Annotated[float, Range(0, 1, above=True)] = option(
        1.0, "Each stage of the encoder learns at this share of the rate of the one behind it, such as 0.8. 1: alike."
    )
    weight_decay: Amount = option(0.01, "AdamW's weight decay, not on normalisation layers (report: 0.01).")
    max_steps: Annotated[int, Range(1, 10**9, also=-1)] = option(
        10_000, "Optimiser steps (report: 10,000 for B0, 20,000 for B2 and B5)."
    )
    num_train_epochs: Annotated[float, Range(0, 10**9, above=True)] | None = option(
        None, "Length in epochs instead, with --max_steps -1; default there: 3."
    )
    lr_scheduler_type: str = option("polynomial", "`polynomial` is the report's; others are stock transformers'.")
    lr_power: Amount = option(1.0, "Power of the polynomial (report: 1.0).")
    lr_end: Share = option(0.0, "Share of the learning rate that is left at the end (report: 0).")
    lr_cycles: Whole = option(1, "Warm restarts: equal cycles of the polynomial (report's text; its code has 1).")
    lr_cycle_decay: ShareAboveZero = option(1.0, "Peak of each cycle as a share of the one before.")
    decay_norms: bool = option(False, "Weight decay on normalisation layers too.")
    decay_biases: bool = option(True, "Weight decay on biases (as in the report's code).")
    warmup_steps: Amount = option(1500, "Linear warm-up steps; below 1, a share of all steps (report: 1500; B5 5000).")
    warmup_start: Share = option(1e-5, "Share of the learning rate at step 0 (report: 1e-5).")
    max_grad_norm: Amount = option(0.0, "Gradient clipping; 0, as in the report, is none.")
    max_skipped_steps: Count = option(
        10,
        "A step whose gradient is NaN or infinite is skipped and counted; after so many in a row training stops. "
        "0: never.",
    )
    sync_batch_norm: bool = option(True, "SyncBatchNorm where there are several GPUs; elsewhere without effect.")
    ema_decay: ShareBelowOne = option(
        0.0, "Average the weights over steps with this decay and measure them too; 0 is off."
    )
    ema_start: Count = option(0, "Begin to average at this step.")
    export_ema: bool = option(False, "Select by and export the averaged weights.")
    freeze_batch_norm: bool = option(False, "Keep the running statistics of BatchNorm as they are.")
    freeze_encoder: bool = option(
        False, "Train what is behind the encoder alone: it stays as it is, in evaluation mode, and costs no backward."
    )
    freeze_stages: Count = option(0, "Keep the encoder's first so many stages like that.")
    torch_compile: bool = option(
        False,
        "Compile the training step: minutes at the start, faster on a GPU. Evaluation and saved files stay the same.",
    )
    gradient_checkpointing: bool = option(
        False, "Compute the encoder's blocks again for their gradients instead of keeping what they need: less memory."
    )
    per_device_train_batch_size: Batch = option(8, "Crops per process and micro-batch.")
    per_device_eval_batch_size: Batch = option(4, "Images per process in evaluation.")
    eval_strategy: str = option("steps", "When the validation split is measured.")
    eval_steps: Steps | None = option(500, "Steps between evaluations (report: 500).")
    save_steps: Steps = option(500, "Steps between checkpoints; with a best model to export, as many as --eval_steps.")
    save_total_limit: Whole | None = option(2, "Checkpoints kept, besides the best one.")
    load_best_model_at_end: bool | None = option(True, "Export the checkpoint with the best validation mIoU.")
    metric_for_best_model: str | None = option("mean_iou", "What selects it.")
    greater_is_better: bool | None = option(True, "Larger is better.")
    early_stopping_patience: Count = option(
        0, "End training after so many evaluations in a row without a better --metric_for_best_model. 0: never."
    )
    early_stopping_threshold: Amount = option(0.0, "By how much a better one must be better than the best before.")
    logging_steps: Steps = option(50, "Steps between log lines.")
    logging_nan_inf_filter: bool = option(False, "Hide NaN losses in the log. Off: they are a fault to be seen.")
    report_to: list[str] | None = option(["none"], "`tensorboard`, `wandb`, ... or `none`.")
    report_pictures: Count = option(
        0,
        "Also report so many validation images at each evaluation, as image, prediction and label; to tensorboard, "
        "trackio and wandb. Default: none, for a tracker may be anybody's server.",
    )
    seed: Seed = option(42, "Seed of weights, order and augmentation.")
    ddp_find_unused_parameters: bool | None = option(False, "Every parameter takes part in every step.")
    dataloader_num_workers: Workers = option(2, "Worker processes that load and augment, per training process.")
    cache_images: str = option(
        "auto",
        "Keep decoded training frames in memory, 4 bytes a pixel, shared by the workers: `true`, `false`, or `auto`: "
        "if they take up to a quarter of what is free.",
        choices=["auto", "true", "false"],
    )
    dataloader_persistent_workers: bool = option(True, "Keep them from epoch to epoch; samples carry their epoch.")
    cpu_threads: Workers = option(0, "Threads of a process on CPU; 0 shares the cores among the processes.")
    push_to_hub: bool = option(False, "Push to --hub_model_id while training and at the end; never costs the run.")
    hub_model_id: str | None = option(None, "Repository on the Hub, as user/name.")
    hub_strategy: str = option(
        "every_save",
        "`every_save` pushes each saved model and the end; `end` the end alone.",
        choices=["every_save", "end"],  # stock's others push optimiser states, too
    )
    hub_tensorboard: bool = option(False, "Push TensorBoard's logs, too.")
    hub_pictures: bool | None = option(
        None, "Push what shows images of the data, too (overlays, failures, the report). Default: unless the data's "
        "licence forbids it (Cityscapes) or may do so (the known street sets of docs/data.md).", nargs="?", const=True
    )  # fmt: skip
    hub_timeout: Seconds = option(600.0, "Seconds that the end of a run waits for its pushes; what is left is owed.")


RARE_TRAINING_OPTIONS = (
    "accept_changes", "add_data", "auxiliary_channels", "background", "bad_frames", "channels", "cpu_threads",
    "dataloader_persistent_workers", "ddp_find_unused_parameters", "decay_biases", "decay_norms",
    "distill_temperature", "distill_void", "early_stopping_threshold", "ema_start", "fold", "format",
    "greater_is_better", "hub_pictures", "hub_tensorboard", "hub_timeout", "logging_nan_inf_filter", "lora_alpha",
    "lora_dropout", "lr_cycle_decay", "lr_end", "lr_power", "max_skipped_steps", "metric_for_best_model",
    "new_classifier", "palette", "paste_classes", "paste_share", "preflight_frames", "rare_class_min_pixels",
    "rare_class_share", "rare_class_temperature", "scenes", "shuffle_buffer", "stage_lr_decay", "stock_decode_head",
    "sync_batch_norm", "teacher_revision", "unlabelled_cutmix", "unlabelled_share", "unlabelled_teacher",
    "unlabelled_threshold", "unlabelled_weight", "warmup_start",
)  # fmt: skip
"""Of a training's options, those that few people change: the short help leaves them out."""
