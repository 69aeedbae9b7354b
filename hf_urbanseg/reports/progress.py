"""What a person sees while training runs."""

from transformers import ProgressCallback


class CompactProgress(ProgressCallback):
    """transformers' progress bar with one short line per log entry instead of a dictionary of every class."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None:
            return
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
            self.training_bar.write(f"{step}  {'  '.join(words)}")
        for key, value in logs.items():
            if key.endswith("_mean_iou"):
                prefix = key.removesuffix("_mean_iou")
                overall = logs.get(f"{prefix}_overall_accuracy", float("nan"))
                split = "validation" if prefix == "eval" else prefix.removeprefix("eval_")
                self.training_bar.write(f"{step}  {split}: mIoU {value:.2%}, overall accuracy {overall:.2%}")
