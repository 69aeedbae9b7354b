"""The dataclasses behind a recipe: every option with its default, help and limits."""

from dataclasses import dataclass, field
from typing import Annotated

from hf_urbanseg.data.column_names import IMAGE_COLUMNS, LABEL_COLUMNS
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.inference.plan import PIXELS, RATIO, REPORT_RATIOS, PredictionPlan
from hf_urbanseg.palettes import PALETTES
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
    Size,
    Steps,
    Whole,
    Width,
    Workers,
    check_options,
)


def option(default, help_text: str, **metadata):
    """A dataclass field with its help; lists are copied per instance."""
    metadata["help"] = help_text
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def required(help_text: str, **metadata):
    """A dataclass field without a default."""
    return field(metadata={"help": help_text, **metadata})


class Options:
    """What all dataclasses of options are: checked when they are made."""

    def __post_init__(self):
        check_options(self)


def device_option():
    """`--device`, which `check_device` checks."""
    return option(None, "`cpu`, `cuda`, ...; default: the GPU if there is one.")


def palette_option():
    """`--palette`, a word of `palettes.PALETTES`."""
    help_text = (
        "Colours of the classes in pictures: `cityscapes`, or `colorblind`, which people of any colour vision can tell "
        "apart. Default: those that the run, the model or the data has."
    )
    return option(None, help_text, choices=list(PALETTES))


def architecture_option():
    """`--architecture`, a word of `models.build.ARCHITECTURES`."""
    names = ["segformer", "encoder_decoder", "unet", "deeplabv3plus", "pspnet", "swin_segformer"]
    return option("segformer", "SegFormer, or a network that the report compares it with.", choices=names)


_STOCK_DECODE_HEAD = "Compute the decode head as transformers does; default: the same function, several times faster."


@dataclass
class DataArguments(Options):
    """Where the images and labels come from and how they are split. Plain values: `load_data(**asdict(this))`."""

    data_dir: str | None = option(
        None,
        "Folder or .zip in the official KITTI or Cityscapes layout, a set saved by `urbanseg prepare-data`, or a "
        "folder whose --label_space file says where images and labels are.",
    )
    dataset: str | None = option(
        None,
        "Hub id of a data set, or `synthetic` for the rendered streets inside the package. Anybody's set will do that "
        "has a column of images, one of lossless label pictures (8-bit PNG of label ids), and its classes in "
        "a label_space file, in id2label.json (unlabeled, void and the like are void by name; a warning says which) or "
        "in --label_space.",
    )
    label_space: str | None = option(
        None,
        "Classes of the label files: `cityscapes` (labelIds), `cityscapes_train_ids`, another name in "
        "hf_urbanseg/data/label_spaces, or a YAML or JSON file, also with `id2label` and `void`. Default: what the "
        "layout or the set implies.",
    )
    image_column: str | None = option(
        None, f"Image column of a Hub or saved set. Default: the first of {', '.join(IMAGE_COLUMNS)} that holds images."
    )
    label_column: str | None = option(
        None, f"Label column of a Hub or saved set. Default: the first of {', '.join(LABEL_COLUMNS)} that holds images."
    )
    split_file: str | None = option(None, "YAML file that lists the frame names of train, validation and test.")
    keep_together: list[str] | None = option(
        None, "Groups of frames that must stay in one split: names joined by commas, one word per group."
    )
    test_fraction: ShareBelowOne = option(0.25, "Share cut off as test where the data has none (report: 50 of 200).")
    validation_fraction: ShareBelowOne = option(0.1, "Share of train cut off for model selection where there is none.")
    split_seed: Seed = option(0, "Seed of those cuts.")
    dataset_revision: str | None = option(None, "Branch, tag or commit of the data set on the Hub.")
    dataset_config: str | None = option(
        None,
        "Configuration of a data set that has several; of `synthetic` a town: riverside, hillside, harbour.",
    )
    streaming: bool = option(
        False,
        "Read the Hub data set over the network once and hold its files, encoded as they are, in the memory of each "
        "process (about 1 MB a KITTI frame) instead of downloading it to disk. The pixels are the same.",
    )
    palette: str | None = palette_option()


@dataclass
class RunArguments(Options):
    """Which recipe, and what the run leaves behind."""

    recipe: str = option("demo", "Recipe inside the package, or a YAML file; options on the command line win.")
    num_overlays: Count = option(
        6, "Pictures of prediction beside label, evenly picked from the held-out split; 0: none, nor of failures."
    )
    random_baseline: bool = option(
        False,
        "Train the same from random weights, too, into random_baseline/ of the run's folder, and say how far it got.",
    )
    show: bool = option(False, "Print the recipe with all its options, and train nothing.")


@dataclass
class ModelArguments(Options):
    """Which model to start from."""

    architecture: str = architecture_option()
    model_name_or_path: str | None = option(
        None, "Hub id or folder to start from, or `tiny-streets`, the small SegFormer inside the package."
    )
    model_revision: str | None = option(None, "Branch, tag or commit of the Hub id.")
    init: str = option("pretrained", "`pretrained` or `random` weights.", choices=["pretrained", "random"])
    size: str = option(
        "b0",
        "Which, of a recipe for several sizes, or with --init random: tiny, b0 ... b5; tiny, resnet18, resnet50, "
        "resnet101 of DeepLabV3+ and PSPNet; `urbanseg profile-model --help` lists all.",
    )
    decoder_hidden_size: Width | None = option(
        None, "Width of SegFormer's decode head for --init random. The report's have 256 at every size."
    )
    drop_path_rate: ShareBelowOne = option(0.1, "Stochastic depth, where there is any (report: 0.1; Swin 0.3).")
    classifier_dropout_prob: ShareBelowOne = option(0.1, "Dropout before the classifier (report: 0.1).")
    lora_rank: Annotated[int, Range(0, 1024)] = option(
        0,
        "LoRA: train adapters of this rank on the encoder's attention in place of the encoder. What is exported has "
        "them merged. Needs the package's extra `lora`. 0: off.",
    )
    lora_alpha: Annotated[float, Range(0, 10**6, above=True)] | None = option(
        None, "They are multiplied by this over their rank. Default: the rank."
    )
    lora_dropout: ShareBelowOne = option(0.0, "Dropout on what enters them.")
    stock_decode_head: bool = option(False, _STOCK_DECODE_HEAD)
    eval_size: Size | None = option(
        None,
        "Height and width to which the saved image processor resizes, in multiples of 32. "
        "Default: the commonest training size, rounded.",
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.lora_rank and (self.lora_alpha or self.lora_dropout):
            found = "`lora_alpha` or `lora_dropout` alone"
            raise ConfigError("a `lora_rank` above 0 with them", found, "add for example 8, or leave them out")


@dataclass
class AugmentationArguments(Options):
    """Training augmentation; the defaults are the report's."""

    train_scales: list[str] = option(
        ["0.5", "0.75", "1.0", "1.25", "1.5", "1.75"],
        "Scales to choose from, uniformly: 375x1242 (fit into height x width), 0.75 (ratio) or 0.5-2.0 (range).",
    )
    crop_size: Size = option([368, 368], "Height and width of the crop.")
    max_class_share: Share = option(0.75, "A crop with one class over this share is redrawn; 1 turns it off.")
    flip: Share = option(0.5, "Probability of a horizontal flip.")
    photometric: bool = option(True, "Photometric distortion.")

    def __post_init__(self):
        super().__post_init__()
        from hf_urbanseg.data.transforms import parse_scales  # here, because `--help` has no need of it

        parse_scales(self.train_scales)


@dataclass
class LossArguments(Options):
    """What is minimised."""

    loss: str = option(
        "cross_entropy",
        "Main loss: cross_entropy, ohem, focal, dice or lovasz.",
        choices=["cross_entropy", "ohem", "focal", "dice", "lovasz"],
    )
    add_losses: list[str] = option([], "Further losses with weights, such as dice=0.5 lovasz=1.")
    normalizer: str = option(
        "valid_pixels",
        "Divide by the labelled pixels (report) or by their summed weights.",
        choices=["valid_pixels", "weight_sum"],
    )
    class_weights: str = option(
        "inverse_log",
        "none, inverse_log (report), effective_number, enet, median_frequency, or a JSON file written by "
        "`urbanseg class-weights`. Schemes count the pixels of the training split.",
    )
    ohem_threshold: ShareAboveZero | None = option(
        None,
        "Keep pixels whose true-class probability is below it (report: 0.5); none: largest losses (code).",
    )
    ohem_min_kept: Annotated[int, Range(0, 10**9)] = option(
        100_000, "Pixels kept at least, per image, pooled (report: 10,000; code: 100,000)."
    )
    loss_scope: str = option(
        "process",
        "Over what ohem selects and dice sums: a process's micro-batch (the field's convention), or `global`: all "
        "ranks and micro-batches of the step, for one more forward pass where there are several.",
        choices=["process", "global"],
    )
    focal_gamma: Amount = option(2.0, "Exponent of the focal loss.")
    auxiliary_head: bool = option(False, "Train an FCN head on an encoder stage beside the main one; not exported.")
    auxiliary_stage: Annotated[int, Range(1, 4)] = option(3, "Stage it looks at, from 1 (report's code: 3; text: 2).")
    auxiliary_channels: Width = option(256, "Its width (report's code: 256).")
    auxiliary_weight: Amount = option(0.4, "Weight of its cross-entropy (report: 0.4).")

    def __post_init__(self):
        super().__post_init__()
        from hf_urbanseg.data.class_weights import SCHEMES  # here, because `--help` has no need of it

        if self.class_weights not in SCHEMES and not self.class_weights.endswith(".json"):
            expected = f"`class_weights` of {', '.join(SCHEMES)}, or a .json file"
            raise ConfigError(expected, f"`{self.class_weights}`", "choose one of them")
        self.build(num_labels=2)

    def build(self, num_labels: int, class_weights=None, further=None):
        """The loss these options describe, which checks them; `further` as in `build_loss`."""
        from hf_urbanseg.losses.build import build_loss

        auxiliary_weight = self.auxiliary_weight if self.auxiliary_head else None
        return build_loss(
            self.loss, num_labels, class_weights, self.normalizer, self.add_losses, auxiliary_weight,
            self.ohem_threshold, self.ohem_min_kept, self.loss_scope, self.focal_gamma, further,
        )  # fmt: skip


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
        "licence is known to forbid it (Cityscapes).", nargs="?", const=True
    )  # fmt: skip
    hub_timeout: Seconds = option(600.0, "Seconds that the end of a run waits for its pushes; what is left is owed.")


RARE_TRAINING_OPTIONS = (
    "accept_changes", "auxiliary_channels", "cpu_threads", "dataloader_persistent_workers",
    "ddp_find_unused_parameters", "decay_biases", "decay_norms", "early_stopping_threshold", "greater_is_better",
    "hub_pictures", "hub_tensorboard", "hub_timeout", "logging_nan_inf_filter", "lora_alpha", "lora_dropout",
    "lr_cycle_decay", "lr_end", "lr_power", "max_skipped_steps", "metric_for_best_model", "stock_decode_head",
    "sync_batch_norm", "teacher_revision", "warmup_start",
)  # fmt: skip
"""Of a training's options, those that few people change: the short help leaves them out."""


@dataclass
class PlanArguments(Options):
    """How a model predicts; the default is one pass over each image."""

    multi_scale: bool = option(
        False, "The report's 12 passes: six scales, with and without flip, their probabilities averaged."
    )
    ratios: Annotated[list[float], RATIO] | None = option(
        None,
        "Scales of the image processor's size (with a sliding window, of the image's own), such as 0.75 1 1.25. "
        "Default: 1, or with --multi_scale 0.5 to 1.75 in steps of 0.25.",
    )
    flip: bool | None = option(
        None,
        "Also predict every scale mirrored (`--flip false`: don't). Default: as --multi_scale.",
        nargs="?",
        const=True,
    )
    sliding_window: Size | None = option(
        None, "Height and width of a window that slides over images at their own size. Default: the whole image."
    )
    stride: Size | None = option(None, "Steps of the window, height and width. Default: two thirds of it.")
    max_batch_pixels: Annotated[int, PIXELS] = option(
        PredictionPlan.max_batch_pixels,
        "Input pixels per forward pass at most (one image or window at least): lower it if memory runs out.",
    )
    stock_decode_head: bool = option(False, _STOCK_DECODE_HEAD)
    batch_size: Batch = option(4, "Images or frames in memory at a time, per process.")
    device: str | None = device_option()

    def __post_init__(self):
        super().__post_init__()
        check_device(self.device)
        self.build_plan()

    def build_plan(self) -> PredictionPlan:
        """The plan these options describe, which checks them."""
        return PredictionPlan(
            ratios=self.ratios or (REPORT_RATIOS if self.multi_scale else PredictionPlan.ratios),
            flip=self.multi_scale if self.flip is None else self.flip,
            window=self.sliding_window,
            stride=self.stride,
            max_batch_pixels=self.max_batch_pixels,
        )


def check_device(device: str | None) -> None:
    """Refuses a `--device` that this machine doesn't have; None is the choice of the command."""
    if device is None:
        return
    import torch  # here, because options are also read where only `--help` is wanted

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = f"{device} ({str(error).splitlines()[0].rstrip('.')})"
        raise ConfigError("a `--device` of this machine", reason, "leave it out or say `cpu`") from error
