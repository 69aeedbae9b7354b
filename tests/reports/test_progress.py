from types import SimpleNamespace

import pytest

from hf_urbanseg.reports.progress import CompactProgress


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
