import logging
from types import SimpleNamespace

import pytest
from transformers import PrinterCallback, ProgressCallback

from hf_urbanseg.reports.progress import CompactProgress, LoggedProgress, NotebookProgress, use_compact_progress


@pytest.fixture
def write():
    """Feeds logs to the callback; returns the lines a person sees."""

    def run(logs, first=True, bar=True):
        lines = []
        callback = CompactProgress()
        callback.training_bar = SimpleNamespace(write=lines.append) if bar else None
        state = SimpleNamespace(is_world_process_zero=first, global_step=40, max_steps=400)
        callback.on_log(None, state, None, logs=logs)
        return lines

    return run


def test_compact_progress__one_line_per_training_log(write):
    logs = {"loss": 1.23456, "learning_rate": 1e-5, "grad_norm": 3.0, "loss_cross_entropy": 1.23456, "epoch": 0.1}
    assert write(logs) == ["step 40/400  loss 1.2346  lr 1.00e-05"]


def test_compact_progress__parts_when_there_are_several_and_void_batches(write):
    logs = {"loss": 1.5, "loss_main": 1.1, "loss_auxiliary": 0.4, "learning_rate": 2e-4, "void_batches": 3.0}
    assert write(logs) == [
        "step 40/400  loss 1.5000  (main 1.1000, auxiliary 0.4000)  lr 2.00e-04  3 batches without a labelled pixel"
    ]


def test_compact_progress__evaluation_in_percent_without_every_class(write):
    logs = {"eval_mean_iou": 0.2567, "eval_overall_accuracy": 0.75, "eval_iou_road": 0.9, "eval_mean_accuracy": 0.3}
    assert write(logs) == ["step 40/400  validation: mIoU 25.67%, overall accuracy 75.00%"]
    assert write({"eval_test_mean_iou": 0.5}) == ["step 40/400  test: mIoU 50.00%, overall accuracy nan%"]


def test_compact_progress__silent_for_other_ranks_and_without_a_bar(write):
    logs = {"loss": 1.0, "learning_rate": 1.0}
    assert write(logs, first=False) == []
    assert write(logs, bar=False) == []


def test_compact_progress__summary_at_the_end_has_no_line(write):
    assert write({"train_runtime": 3.0, "train_loss": 1.0}) == []


@pytest.mark.parametrize(("own", "ours"), [(ProgressCallback, CompactProgress), (PrinterCallback, LoggedProgress)])
def test_use_compact_progress__in_place_of_transformers_own(own, ours):
    callbacks = [own]

    def pop(kind):
        return callbacks.pop() if kind in callbacks else None

    use_compact_progress(SimpleNamespace(pop_callback=pop, add_callback=callbacks.append))
    assert callbacks == [ours]


def test_logged_progress__the_same_lines_in_the_log(caplog):
    caplog.set_level(logging.INFO)
    state = SimpleNamespace(is_world_process_zero=True, global_step=40, max_steps=400)
    LoggedProgress().on_log(None, state, None, logs={"eval_mean_iou": 0.2567, "eval_overall_accuracy": 0.75})
    assert caplog.messages == ["step 40/400  validation: mIoU 25.67%, overall accuracy 75.00%"]


def test_notebook_progress__a_row_of_means_per_evaluation():
    callback = NotebookProgress()
    state = SimpleNamespace(global_step=50, max_steps=400, log_history=[{"loss": 2.0}, {"loss": 1.23456}, {"x": 1}])
    callback.on_train_begin(None, state, None)
    scores = {"eval_mean_iou": 0.2567, "eval_iou_road": 0.9, "eval_overall_accuracy": 0.75, "eval_ema_mean_iou": 0.5}
    callback.on_evaluate(None, state, None, metrics=scores)
    heads, row = callback.tracker.inner_table
    assert dict(zip(heads, row, strict=True)) == {
        "step": 50, "training loss": "1.2346", "validation mIoU": "25.67%", "validation overall accuracy": "75.00%",
        "validation ema mIoU": "50.00%",
    }  # fmt: skip
