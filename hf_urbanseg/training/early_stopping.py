"""Ending a run whose evaluations get no better."""

import logging
import math

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import SaveStrategy

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.training.checkpointing import list_scores

logger = logging.getLogger(__name__)


def explain_stop(args: TrainingArguments, state: TrainerState) -> str | None:
    """Why training ends at the state's step and before its last, in a line; None if it doesn't.

    It does after `early_stopping_patience` evaluations in a row none of which was better than the best before by more
    than `early_stopping_threshold`. All of it is read from the state's log, so that a resumed run, and every rank,
    decides alike. An evaluation without the score (of a class that nobody labelled or predicted) doesn't count.

    Source: transformers' `EarlyStoppingCallback`, whose counter starts anew on resume and which looks at saved steps
        alone.
    """
    patience, sign = getattr(args, "early_stopping_patience", 0), 1 if args.greater_is_better else -1
    best, best_step, waited = -math.inf, 0, 0
    for step, score in list_scores(args, state).items() if patience else ():
        gain = sign * score - best
        waited = 0 if gain > args.early_stopping_threshold else waited + 1
        if gain > 0:
            best, best_step = sign * score, step
    if not patience or waited < patience or state.global_step >= state.max_steps:
        return None
    than = f" by more than {args.early_stopping_threshold:g}" if args.early_stopping_threshold else ""
    return (
        f"stopped early, at step {state.global_step} of {state.max_steps}: no better {args.metric_for_best_model}{than}"
        f" in {waited} evaluation{'s in a row' * (waited > 1)}; the best is {sign * best:.2%}, of step {best_step}"
    )


class EarlyStopping(TrainerCallback):
    """Ends training when `explain_stop` says so, with a checkpoint; a run that ended so takes no step when resumed."""

    def __init__(self, eval_dataset):
        if eval_dataset is None or isinstance(eval_dataset, dict):
            expected, found = "one validation split with `early_stopping_patience`", "none"
            raise ConfigError(expected, found if eval_dataset is None else "several", "name one, or leave it out")

    def on_train_begin(self, args, state, control, **kwargs):
        if line := explain_stop(args, state):
            logger.info(line)
            control.should_training_stop = True

    def on_evaluate(self, args, state, control, **kwargs):
        if not control.should_training_stop and (line := explain_stop(args, state)):
            logger.info(line)
            control.should_training_stop = True
            control.should_save |= args.save_strategy != SaveStrategy.NO
