"""What went into a run, written into its folder and kept there while it trains."""

import shutil
from collections.abc import Callable

from transformers import TrainerCallback

from hf_urbanseg.data.class_weights import save_class_weights
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.inference.calibration_file import CALIBRATION
from hf_urbanseg.options.finetune_arguments import FinetuneArguments
from hf_urbanseg.options.training_arguments import resolve_recipe, resolve_training_arguments
from hf_urbanseg.reports.plots import plot_class_distribution
from hf_urbanseg.runs.folder import (
    CHANGES,
    CLASS_DISTRIBUTION,
    CLASS_WEIGHTS,
    METRICS,
    RECIPE,
    UNLABELLED,
    RunFolder,
)
from hf_urbanseg.runs.inputs import remember_trained
from hf_urbanseg.training.checkpoints import list_checkpoints
from hf_urbanseg.training.inputs import Prepared


def check_inputs(run: RunFolder) -> None:
    if not run.has(RECIPE):
        raise ConfigError(f"the run's {RECIPE}", "it deleted meanwhile", "start anew in another folder", run.path)


class Keeper(TrainerCallback):
    """Writes what went into the run before its first step, when nothing can refuse it any more, and looks after it."""

    def __init__(self, write: Callable[[int], None], check: Callable[[], None]):
        self.write, self.check = write, check

    def on_train_begin(self, args, state, control, **kwargs):
        self.write(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save or control.should_log:
            self.check()


def write_inputs(run: RunFolder, arguments: FinetuneArguments, prepared: Prepared, step: int) -> None:
    """What went into the run, before its first step, or before it goes on behind `step`."""
    args, data, frames, records = arguments.training, prepared.data, prepared.frames, prepared.records
    if prepared.differences:
        run.write_changes(step, [str(one) for one in prepared.differences])
    if args.resume:
        frames = remember_trained(run, frames, records[UNLABELLED])
    else:
        for checkpoint in list_checkpoints(run.path):
            shutil.rmtree(checkpoint)
        for name in (METRICS, CHANGES, CALIBRATION):
            (run.path / name).unlink(missing_ok=True)
        run.skipped_frames.unlink(missing_ok=True)
    training_arguments = resolve_training_arguments(args) | {"world_size": args.world_size}
    run.write_inputs(resolve_recipe(*arguments), training_arguments, data, frames, records)
    weights, counts = prepared.weights, prepared.counts
    if weights is None:
        (run.path / CLASS_WEIGHTS).unlink(missing_ok=True)
    else:
        alone = ", without further data" if prepared.added else ""
        save_class_weights(
            run.path / CLASS_WEIGHTS, weights, data.label_space, scheme=arguments.loss.class_weights, counts=counts,
            source=f"{data.name}, train, {len(data.splits['train'])} images{alone}",
        )  # fmt: skip
    plot_class_distribution(counts, data.label_space, run.path / CLASS_DISTRIBUTION, weights=weights)
