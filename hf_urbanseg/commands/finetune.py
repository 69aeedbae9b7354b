"""Fine-tunes a SegFormer by a recipe: data, checks, weights, model, training, measurement, pictures."""

import argparse
import logging
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import ProgressCallback, TrainerCallback, set_seed
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from hf_urbanseg.checkpoints import list_checkpoints
from hf_urbanseg.commands._finetune_report import write_report
from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import (
    AugmentationArguments,
    DataArguments,
    LossArguments,
    ModelArguments,
    RunArguments,
)
from hf_urbanseg.data.class_weights import compute_class_weights, load_class_weights, save_class_weights
from hf_urbanseg.data.decoded_cache import build_decoded_cache
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.preflight.checks import Inspection, inspect_pairs
from hf_urbanseg.data.preprocessing import EvalDataset, TrainDataset
from hf_urbanseg.data.splits import write_split_file
from hf_urbanseg.data.transforms import build_train_transforms, parse_scales
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.hub.client import clean_token
from hf_urbanseg.hub.publish import check_target
from hf_urbanseg.hub.training import push_end, start_publisher, write_card
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.losses.build import build_loss
from hf_urbanseg.models.auxiliary_head import attach_auxiliary_head
from hf_urbanseg.models.build import (
    build_image_processor,
    build_random_model,
    choose_eval_size,
    load_pretrained_model,
)
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.recipe import load_recipe, parse_arguments, resolve_recipe, resolve_training_arguments
from hf_urbanseg.reports.plots import plot_class_distribution
from hf_urbanseg.reports.progress import CompactProgress
from hf_urbanseg.reports.run_files import write_json, write_yaml
from hf_urbanseg.trainer import UrbanSegTrainer
from hf_urbanseg.training_arguments import UrbanSegTrainingArguments

logger = logging.getLogger(__name__)

ARGUMENT_TYPES = (
    RunArguments,
    DataArguments,
    ModelArguments,
    AugmentationArguments,
    LossArguments,
    UrbanSegTrainingArguments,
)


def main() -> None:
    """Entry point of `urbanseg-finetune` and scripts/finetune.py."""
    run_command(_finetune)


def _finetune() -> None:
    start = time.time()
    run, data_args, model_args, augmentation, loss_args, args = arguments = _parse()
    _check_reporters(args)
    _prepare_process(args)
    _check_output(args)
    pushes, args.push_to_hub = args.push_to_hub, False  # by our own publisher; see UrbanSegTrainer
    if pushes:
        # On every process, so that a wrong word stops them all.
        check_target(args.hub_model_id, args.hub_revision)
        clean_token(args.hub_token)

    # The first process reads and checks everything; the others then find the result in the cache.
    with args.main_process_first(local=False, desc="preflight"):
        data = load_data(**asdict(data_args))
        if "train" not in data.splits:
            raise ConfigError("a split `train`", f"{', '.join(data.splits)}", "name it in `--split_file`", data.name)
        inspection = inspect_pairs(data.splits, data.label_space, progress=args.should_save)
    if "validation" not in data.splits:
        logger.warning("there is no validation split: the last step is exported, nothing is selected")
        args.eval_strategy, args.load_best_model_at_end = transformers.IntervalStrategy.NO, False

    space = data.label_space
    weights, counts = _class_weights(loss_args.class_weights, inspection, space)
    set_seed(args.seed)
    model = _build_model(model_args, space)
    eval_size = model_args.eval_size or choose_eval_size(inspection.sizes("train"))
    image_processor = build_image_processor(tuple(eval_size))
    loss = build_loss(
        loss_args.loss, space.num_labels, weights, loss_args.normalizer, loss_args.add_losses,
        loss_args.auxiliary_weight if loss_args.auxiliary_head else None,
        loss_args.ohem_threshold, loss_args.ohem_min_kept, loss_args.loss_scope, loss_args.focal_gamma,
    )  # fmt: skip
    if loss_args.auxiliary_head:
        attach_auxiliary_head(model, loss_args.auxiliary_stage, loss_args.auxiliary_channels)
    transforms = build_train_transforms(
        tuple(augmentation.crop_size),
        parse_scales(augmentation.train_scales),
        augmentation.max_class_share,
        augmentation.flip,
        augmentation.photometric,
    )
    sizes = [pair.size for pair in inspection.pairs["train"]]
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cache = build_decoded_cache(data.splits["train"], space, sizes, args.cache_images, local_processes)
    held_out = {
        split: EvalDataset(data.splits[split], space, image_processor)
        for split in ("validation", "test")
        if split in data.splits
    }
    trainer = UrbanSegTrainer(
        model,
        args,
        loss,
        TrainDataset(data.splits["train"], space, transforms, args.seed, cache),
        held_out.get("validation"),  # selection never sees test
        image_processor,
    )
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(CompactProgress)

    trainer.add_callback(first := _FirstStep())

    output = Path(args.output_dir)
    if args.should_save:
        output.mkdir(parents=True, exist_ok=True)
        _write_inputs(output, arguments, data, counts, weights, loss_args.class_weights)
    publisher = start_publisher(trainer, output) if pushes and args.should_save else None
    _describe(data, inspection, model, eval_size)
    trained = trainer.train(resume_from_checkpoint=args.resume)
    if args.export_ema:
        trainer.use_averaged_weights()
    _export(trainer, output)

    # In fp32, whatever training used, so that anyone who loads the folder measures the same.
    measured = {split: trainer.measure(dataset, boundary=True) for split, dataset in held_out.items()}
    if args.should_save:
        write_report(trainer, output, data, measured, int(np.argmax(counts)), run, {
            "seconds": round(time.time() - start, 1),  # of this process, which may have resumed another's work
            **({"resumed_from_step": first.step} if first.step else {}),
            "steps": trained.global_step,
            "train_loss": trained.training_loss,
            "train_samples_per_second": trained.metrics.get("train_samples_per_second"),
            "processes": args.world_size,
            "seed": args.seed,
        })  # fmt: skip
        write_card(output, args.hub_model_id if pushes else None, args.hub_pictures)
    trainer.accelerator.wait_for_everyone()  # processes that leave at other times were seen to abort (torch 2.13, gloo)
    trainer.accelerator.end_training()
    if publisher is not None:
        print(push_end(publisher, trainer, output))


class _FirstStep(TrainerCallback):
    """The step that training began at: 0, or a checkpoint's."""

    step = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.step = state.global_step


def _parse() -> tuple:
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("--recipe", default=RunArguments.recipe)
    name = chosen.parse_known_args()[0].recipe
    return parse_arguments(ARGUMENT_TYPES, recipe=load_recipe(name), recipe_path=name, description=__doc__)


def _check_reporters(args: UrbanSegTrainingArguments) -> None:
    """Here and not with the other options: a recorded recipe is also read where nothing is reported."""
    for name in args.report_to or ():
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise ConfigError("a known `report_to`", name, f"one of {known} or none")
        if name not in get_available_reporting_integrations():
            raise ConfigError(f"the package of `--report_to {name}`", "none", "install it, or drop the option")


def _prepare_process(args: UrbanSegTrainingArguments) -> None:
    """Logging from the first process only; the cores shared among the processes of a machine."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("hf_urbanseg").setLevel(logging.INFO if args.should_log else logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    if args.device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        # accelerate and torchrun set OMP_NUM_THREADS=1 for every process, a single one on a large machine included.
        torch.set_num_threads(args.cpu_threads or max(1, cores // processes))


def _check_output(args: UrbanSegTrainingArguments) -> None:
    output = Path(args.output_dir)
    checkpoints = list_checkpoints(output)
    if args.resume and not checkpoints:
        raise ConfigError("a checkpoint to resume from", "none", "start without `--resume`, or correct it", output)
    if not args.resume and not args.overwrite and (checkpoints or (output / "metrics.json").exists()):
        raise ConfigError(
            "an `output_dir` without a run",
            "one",
            "add `--resume` to continue it, `--overwrite` to replace it, or name another `--output_dir`",
            output,
        )


def _class_weights(choice: str, inspection: Inspection, space: LabelSpace) -> tuple[np.ndarray | None, np.ndarray]:
    """Weights by scheme or file, and the training pixels per class."""
    per_image = inspection.train_id_counts("train", space)
    if choice == "none":
        weights = None
    elif choice.endswith(".json"):
        weights = load_class_weights(choice, space)
    else:
        weights = compute_class_weights(per_image, choice)
    return weights, per_image.sum(0)


def _build_model(args: ModelArguments, space: LabelSpace):
    model = _build_stock_model(args, space)
    if not args.stock_decode_head:
        apply_fast_decode_head(model)
    return model


def _build_stock_model(args: ModelArguments, space: LabelSpace):
    overrides = {"drop_path_rate": args.drop_path_rate, "classifier_dropout_prob": args.classifier_dropout_prob}
    if args.init == "random":
        if args.decoder_hidden_size is not None:
            overrides["decoder_hidden_size"] = args.decoder_hidden_size
        return build_random_model(args.size, space, **overrides)
    if args.model_name_or_path is None:
        raise ConfigError("`model_name_or_path`", "none", "name a Hub id or folder, or add `--init random`")
    return load_pretrained_model(args.model_name_or_path, space, args.model_revision, **overrides)


def _describe(data: LoadedData, inspection: Inspection, model, eval_size) -> None:
    sizes = ", ".join(f"{split} {len(rows)}" for split, rows in data.splits.items())
    logger.info("data: %s (%s images), %d classes", data.name, sizes, data.label_space.num_labels)
    for note in data.notes:
        logger.info("  %s", note)
    logger.info(
        "void pixels in train: %.1f %%; images measured at %dx%d (height x width), scores at native size",
        100 * inspection.void_share("train", data.label_space), *eval_size,
    )  # fmt: skip
    logger.info("model: %.2f M parameters", sum(p.numel() for p in model.parameters()) / 1e6)


def _write_inputs(output: Path, arguments: tuple, data: LoadedData, counts, weights, choice: str) -> None:
    """What went into the run, before its first step."""
    args = arguments[-1]
    if args.overwrite:
        for checkpoint in list_checkpoints(output):
            shutil.rmtree(checkpoint)
        (output / "metrics.json").unlink(missing_ok=True)
    recipe = resolve_recipe(*arguments)
    if args.resume and (output / "recipe.yaml").is_file():
        before = load_recipe(str(output / "recipe.yaml"))
        changed = [key for key in sorted(before.keys() | recipe.keys()) if before.get(key) != recipe.get(key)]
        if changed:
            logger.warning("resumed with other options than it was started with: %s", ", ".join(changed))
    write_yaml(output / "recipe.yaml", recipe)
    write_json(output / "training_arguments.json", resolve_training_arguments(args))
    write_split_file(output / "splits.yaml", data.splits)
    write_json(output / "label_space.json", data.label_space.to_dict())
    if weights is not None:
        save_class_weights(
            output / "class_weights.json", weights, data.label_space,
            scheme=choice, counts=counts, source=f"{data.name}, train, {len(data.splits['train'])} images",
        )  # fmt: skip
    plot_class_distribution(counts, data.label_space, output / "class_distribution.png", weights=weights)


def _export(trainer: UrbanSegTrainer, output: Path) -> None:
    """Model and image processor into the run's folder, file by file replaced when complete."""
    staged = output / ".staging-export"
    trainer.save_model(str(staged), _internal_call=True)
    if trainer.args.should_save:
        for path in staged.iterdir():
            os.replace(path, output / path.name)
        staged.rmdir()
    trainer.accelerator.wait_for_everyone()
