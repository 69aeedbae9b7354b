"""What went into a run, written into its folder and kept there while it trains."""

import shutil
from collections.abc import Callable, Mapping

from transformers import TrainerCallback

from hf_urbanseg.data.class_weights import save_class_weights
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.inference.calibration_file import CALIBRATION
from hf_urbanseg.options.finetune_arguments import FinetuneArguments
from hf_urbanseg.options.training_arguments import resolve_recipe, resolve_training_arguments
from hf_urbanseg.reports.plots import plot_class_distribution
from hf_urbanseg.runs.folder import (
    ADDED_DATA,
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


def write_inputs(
    run: RunFolder, arguments: FinetuneArguments, data: LoadedData, frames, counts, weights, records: Mapping
) -> None:
    """What went into the run, before its first step."""
    args = arguments.training
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
    further = records[ADDED_DATA] is not None
    if weights is None:
        (run.path / CLASS_WEIGHTS).unlink(missing_ok=True)
    else:
        save_class_weights(
            run.path / CLASS_WEIGHTS, weights, data.label_space, scheme=arguments.loss.class_weights, counts=counts,
            source=f"{data.name}, train, {len(data.splits['train'])} images{', without further data' * further}",
        )  # fmt: skip
    plot_class_distribution(counts, data.label_space, run.path / CLASS_DISTRIBUTION, weights=weights)
