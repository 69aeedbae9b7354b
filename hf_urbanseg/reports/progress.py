"""What a person sees while training runs."""

import logging
from collections.abc import Iterator, Mapping

from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.utils import is_in_notebook

logger = logging.getLogger(__name__)


def use_compact_progress(trainer) -> None:
    """Puts one of the three below in place of transformers' own, which show the scores of every class."""
    if trainer.pop_callback(DEFAULT_PROGRESS_CALLBACK):
        trainer.add_callback(NotebookProgress if is_in_notebook() else CompactProgress)
    elif trainer.pop_callback(PrinterCallback):
        trainer.add_callback(LoggedProgress)


class CompactProgress(ProgressCallback):
    """transformers' progress bar with one short line per log entry instead of a dictionary of every class."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None:
            for line in _describe(state, logs):
                self.training_bar.write(line)


class LoggedProgress(TrainerCallback):
    """The same lines without a bar (`--disable_tqdm`), as part of the log."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            for line in _describe(state, logs):
                logger.info("%s", line)


class NotebookProgress(TrainerCallback):
    """transformers' bar and table for a notebook, whose columns are loss and means instead of every class's scores."""

    def on_train_begin(self, args, state, control, **kwargs):
        from transformers.utils.notebook import NotebookTrainingTracker  # here, because it needs IPython

        self.tracker = NotebookTrainingTracker(state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        self.tracker.update(state.global_step)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        row = {"step": state.global_step, "training loss": f"{losses[-1]:.4f}" if losses else "-"}
        for key, value in metrics.items():
            if key.endswith(("_mean_iou", "_overall_accuracy")):
                split = key.replace("_mean_iou", " mIoU").replace("_overall_accuracy", " overall accuracy")
                row[split.replace("eval", "validation").replace("_", " ")] = f"{value:.2%}"
        self.tracker.write_line(row)

    def on_train_end(self, args, state, control, **kwargs):
        self.tracker.update(state.global_step, force_update=True)


def _describe(state: TrainerState, logs: Mapping) -> Iterator[str]:
    step = f"step {state.global_step}/{state.max_steps}"
    if "loss" in logs:
        parts = [f"{key.removeprefix('loss_')} {value:.4f}" for key, value in logs.items() if key[:5] == "loss_"]
        words = [f"loss {logs['loss']:.4f}", f"lr {logs['learning_rate']:.2e}"]
        if len(parts) > 1:
            words.insert(1, f"({', '.join(parts)})")
        if logs.get("void_batches"):
            words.append(f"{logs['void_batches']:.0f} batches without a labelled pixel")
        if logs.get("skipped_steps"):
            words.append("skipped, its gradient is not finite")
        yield f"{step}  {'  '.join(words)}"
    for key, value in logs.items():
        if key.endswith("_mean_iou"):
            prefix = key.removesuffix("_mean_iou")
            overall = logs.get(f"{prefix}_overall_accuracy", float("nan"))
            split = "validation" if prefix == "eval" else prefix.removeprefix("eval_")
            yield f"{step}  {split}: mIoU {value:.2%}, overall accuracy {overall:.2%}"
