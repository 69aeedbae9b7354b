"""`finetune`: a recipe and data in, the folder of a finished run out. The command of that name does the same."""

import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import set_seed
from transformers.trainer_utils import TrainOutput

from hf_urbanseg.data.checked_frames import list_skipped
from hf_urbanseg.data.normalization import channel_statistics
from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.data.transforms import parse_scales
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.files import check_place, follow_umask
from hf_urbanseg.hub.client import clean_token
from hf_urbanseg.hub.publish import check_target
from hf_urbanseg.hub.training import push_end, start_publisher, write_card
from hf_urbanseg.launch import count_local_processes
from hf_urbanseg.models.build import build_image_processor
from hf_urbanseg.models.sizes import choose_eval_size, explain_misfit, find_commonest
from hf_urbanseg.options.finetune_arguments import FinetuneArguments, parse_finetuning
from hf_urbanseg.options.stock_options import check_effects, check_reporters
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.ranges import check_range
from hf_urbanseg.reports.progress import use_compact_progress
from hf_urbanseg.reports.run_report import write_run_report
from hf_urbanseg.reports.tracker_pictures import TrackerPictures
from hf_urbanseg.runs.first_process import by_first_process, held_by_first_process, refusing_together
from hf_urbanseg.runs.folder import RunFolder
from hf_urbanseg.runs.inputs import compare_options, find_differences
from hf_urbanseg.training.checkpoints import check_export, find_newest_checkpoint, list_checkpoints
from hf_urbanseg.training.early_stopping import explain_stop
from hf_urbanseg.training.inputs import (
    Prepared,
    check_channels,
    check_streaming,
    check_teacher,
    describe,
    describe_defaults,
    prepare,
)
from hf_urbanseg.training.interruption import Interruption
from hf_urbanseg.training.keeper import Keeper, check_inputs, write_inputs
from hf_urbanseg.training.network import build_network, check_network
from hf_urbanseg.training.random_baseline import start_from_random
from hf_urbanseg.training.train_dataset import build_train_dataset
from hf_urbanseg.training.trainer import UrbanSegTrainer

logger = logging.getLogger(__name__)


def finetune(recipe: str | Path | None = None, **options) -> RunFolder:
    """Fine-tunes a SegFormer: data, checks, class weights, model, training, measurement, pictures.

    Does what `urbanseg finetune` does, with the same options by the same names:
    `finetune("segformer_b0_kitti", data_dir="data_semantics.zip", max_steps=2000)`.

    Args:
        recipe: Name inside the package (`urbanseg recipes` lists them), or a YAML file. Default: `own_data` where data
            is named, else `demo`.
        options: Fields of the groups in `FinetuneArguments`, such as `DataArguments`; they win over the recipe.

    Returns:
        The run's folder, with the model that `from_pretrained` loads and `read_metrics()`.

    Raises:
        UrbanSegError: Data, options or a model that can't be used, named in one line; nothing was written then.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # by which Python refuses it further processes
        fix = 'put the call under `if __name__ == "__main__":`, or load with `dataloader_num_workers=0`'
        raise ConfigError("a script that trains once", "it run again by the workers that it has spawned", fix)
    named = {} if recipe is None else {"recipe": str(recipe)}
    return run_finetuning(parse_finetuning(options=options | named))


def run_finetuning(arguments: FinetuneArguments) -> RunFolder:
    """`finetune` with options that are parsed already. Every process of a launch calls it.

    Raises:
        Interrupted: SIGTERM, SIGINT or SIGUSR1 came; training has then saved a checkpoint behind the step it was in.
    """
    wanted = arguments.run.random_baseline and arguments.model.init != "random"
    baseline = start_from_random(arguments) if wanted else None
    run = _run_alone(arguments, is_last=baseline is None)
    if baseline is not None:
        logger.info("the same from random weights, in %s", baseline.training.output_dir)
        _run_alone(baseline)
    return run


def _run_alone(arguments: FinetuneArguments, is_last: bool = True) -> RunFolder:
    with Interruption("training had not begun; start it again") as interruption:
        check_reporters(arguments.training)
        _prepare_process(arguments.training)
        with held_by_first_process(arguments.training.output_dir) as check_folder:
            return _run(arguments, interruption, check_folder, is_last)


def _run(
    arguments: FinetuneArguments, interruption: Interruption, check_folder: Callable[[], None], is_last: bool
) -> RunFolder:
    start = time.time()
    args = arguments.training
    check_effects(args)
    check_channels(arguments)
    check_teacher(arguments)
    check_streaming(arguments)
    run = RunFolder(args.output_dir)
    differences = find_differences(run, args, compare_options(run, arguments, args.world_size))
    checkpoint = by_first_process(lambda: _check_output(run, args))
    pushes, args.push_to_hub = args.push_to_hub, False  # by our own publisher; see UrbanSegTrainer
    if pushes:
        # On every process, so that a wrong word stops them all.
        check_target(args.hub_model_id, args.hub_revision)
        clean_token(args.hub_token)
    prepared = prepare(arguments, run, differences)
    trainer, held_out = _build_trainer(arguments, prepared)
    trainer.interruption = interruption
    use_compact_progress(trainer)
    if args.report_pictures:
        rows = prepared.data.splits.get("validation")
        trainer.add_callback(TrackerPictures(trainer, rows, prepared.data.label_space, args.report_pictures))

    def begin(step: int) -> None:
        by_first_process(lambda: write_inputs(run, arguments, prepared, step))
        interruption.situation = f"training is complete; the same command with `--resume` exports {run.path}"

    def check() -> None:
        check_folder()
        by_first_process(lambda: check_inputs(run))

    trainer.add_callback(Keeper(begin, check))
    publisher = start_publisher(trainer, run.path) if pushes and args.should_save else None
    if arguments.run.recipe is None and prepared.data.name != "synthetic":
        describe_defaults(arguments, prepared.augmentation)
    parameters = describe(prepared, trainer.model, trainer.processing_class)
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    check()
    trainer.settle()
    # In fp32, whatever training used, so that anyone who loads the folder measures the same. And before the export,
    # which a model that can't be measured doesn't get.
    measured = {split: trainer.measure(dataset, boundary=True) for split, dataset in held_out.items()}
    exported = _export(trainer, run.path)
    with refusing_together():  # its pictures are of frames that are read once more
        if args.should_save:
            seconds = round(time.time() - start, 1)  # of this process, which may have resumed another's work
            training = {"seconds": seconds, **_describe_training(run, trainer, trained, prepared), **parameters}
            constant = int(np.argmax(prepared.counts))
            pictures = arguments.run.num_overlays
            write_run_report(run, trainer, prepared.data, measured, constant, exported, training, pictures)
            write_card(run.path, args.hub_model_id if pushes else None, args.hub_pictures)
    trainer.accelerator.wait_for_everyone()  # processes that leave at other times were seen to abort (torch 2.13, gloo)
    if is_last:
        trainer.accelerator.end_training()  # takes the processes apart
    if publisher is not None:
        push_end(publisher, trainer, run.path)
    return run


def _build_trainer(arguments: FinetuneArguments, prepared: Prepared) -> tuple[UrbanSegTrainer, dict[str, EvalDataset]]:
    """The trainer, and the splits that are measured at the end."""
    args, data, sizes = arguments.training, prepared.data, prepared.inspection.sizes("train")
    teaching, unlabelled, augmentation = prepared.teaching, prepared.unlabelled, prepared.augmentation
    set_seed(args.seed)
    model = build_network(arguments.model, arguments.loss, data.label_space, teaching.feature_channels, data.channels)
    eval_size = tuple(arguments.model.eval_size or choose_eval_size(sizes))
    check_network(model, args, tuple(augmentation.crop_size), eval_size)
    ratios = [scale.find_ratios(find_commonest(sizes)) for scale in parse_scales(augmentation.train_scales)]
    if misfit := explain_misfit(eval_size, ratios, sizes):
        logger.warning(misfit)
    statistics = channel_statistics(data.channels) if data.channels > 3 else None
    image_processor = build_image_processor(eval_size, statistics)
    held_out = {
        split: EvalDataset(data.splits[split], data.label_space, image_processor)
        for split in ("validation", "test")
        if split in data.splits
    }
    train_dataset = build_train_dataset(prepared, arguments.sampling, args)
    trainer = UrbanSegTrainer(
        model,
        args,
        arguments.loss.build(data.label_space.num_labels, prepared.weights, teaching.parts),
        unlabelled.join(train_dataset) if unlabelled else train_dataset,
        held_out.get("validation"),  # selection never sees test
        image_processor,
        teacher=teaching.teacher,
    )
    if unlabelled:
        unlabelled.attach(trainer)
    return trainer, held_out


def _describe_training(run: RunFolder, trainer: UrbanSegTrainer, trained: TrainOutput, prepared: Prepared) -> dict:
    """How training went, for the run's metrics; what there was nothing of is left out."""
    args, state = trainer.args, trainer.state
    found = {
        "resumed_from_step": trainer.first_step,
        "changes": run.read_changes(),
        "stopped": explain_stop(args, state),
        "skipped_frames": len(list_skipped(run.skipped_frames)),
        "teacher": prepared.teaching.record,
        "unlabelled": prepared.unlabelled and prepared.unlabelled.describe(),
        "class_counts": trainer.class_log and trainer.class_log.describe(),
    }
    return {
        **{key: value for key, value in found.items() if value},
        "steps": trained.global_step,
        "skipped_steps": sum(entry.get("skipped_steps", 0) for entry in state.log_history),
        "train_loss": trained.training_loss,
        "train_samples_per_second": trained.metrics.get("train_samples_per_second"),
        "processes": args.world_size,
        "seed": args.seed,
    }


def _prepare_process(args: UrbanSegTrainingArguments) -> None:
    """Logging from the first process only; the cores shared among the processes of a machine."""
    logging.getLogger("hf_urbanseg").setLevel(logging.INFO if args.should_log else logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    if args.device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        check_range(0, os.cpu_count() or 1, cpu_threads=args.cpu_threads)
        # accelerate and torchrun set OMP_NUM_THREADS=1 for every process, a single one on a large machine included.
        torch.set_num_threads(args.cpu_threads or max(1, cores // count_local_processes()))


def _check_output(run: RunFolder, args: UrbanSegTrainingArguments) -> str | None:
    """The checkpoint to resume from, if that is asked for."""
    check_place(run.path, folder=True)
    if args.resume:
        return str(find_newest_checkpoint(run.path))
    checkpoints = list_checkpoints(run.path)
    if not args.overwrite and (checkpoints or run.is_finished):
        fix = "add `--resume` to continue it, `--overwrite`" if checkpoints else "add `--overwrite`"
        fix += " to replace it, or name another `--output_dir`"
        raise ConfigError("an `output_dir` without a run", "one", fix, run.path)
    return None


def _export(trainer: UrbanSegTrainer, output: Path) -> str | None:
    """Model and image processor into the run's folder, file by file replaced when complete and read back.

    Returns the sha256 of the weights, on the process that saves.
    """
    staged, weights = output / ".staging-export", None
    with trainer.writing(output / "model.safetensors", staged):
        trainer.save_model(str(staged), _internal_call=True)
        if trainer.args.should_save:
            follow_umask(staged)
            weights = check_export(trainer.model, staged)
            for path in staged.iterdir():
                os.replace(path, output / path.name)
            staged.rmdir()
    return weights
