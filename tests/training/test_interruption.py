"""SIGTERM, SIGINT and SIGUSR1: the step ends, a checkpoint is written, and the resumed run is the same to the bit."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from transformers import TrainerCallback

from hf_urbanseg.command_line import command
from hf_urbanseg.training.checkpoints import list_checkpoints
from hf_urbanseg.training.interruption import SIGNALS, Interrupted, Interruption

OPTIONS = {
    "max_steps": 6, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2,
    "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 2, "load_best_model_at_end": True,
}  # fmt: skip


class Send(TrainerCallback):
    """Sends a signal to this process, and to the loaders' workers as schedulers do, at one moment of the run."""

    def __init__(self, number: int, moment: str, step: int):
        self.number, self.moment, self.step, self.sent = number, moment, step, False

    def _send(self, moment, state):
        if (moment, state.global_step, self.sent) == (self.moment, self.step, False):
            self.sent = True
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, self.number)
            signal.raise_signal(self.number)

    def on_step_begin(self, args, state, control, **kwargs):
        self._send("step", state)

    def on_prediction_step(self, args, state, control, **kwargs):
        self._send("evaluation", state)

    def on_save(self, args, state, control, **kwargs):
        self._send("saving", state)


@pytest.fixture(scope="module")
def whole(worker, tmp_path_factory):
    """The weights of a run that nobody interrupts, and its scores."""
    trainer = worker.build_trainer(worker.build_arguments(tmp_path_factory.mktemp("whole"), **OPTIONS))
    trainer.train()
    return trainer.model.state_dict(), scores(trainer)


def scores(trainer) -> list[float]:
    return [entry["eval_mean_iou"] for entry in trainer.state.log_history if "eval_mean_iou" in entry]


def run(worker, folder, *callbacks, resume=False, **options):
    trainer = worker.build_trainer(worker.build_arguments(folder, **OPTIONS | options))
    for callback in callbacks:
        trainer.add_callback(callback)
    with Interruption("training is complete") as interruption:
        trainer.interruption = interruption
        trainer.train(resume_from_checkpoint=resume or None)
    return trainer


@pytest.mark.parametrize(
    ("number", "moment", "step", "stopped", "options"),
    [
        (signal.SIGUSR1, "step", 2, 3, {}),
        (signal.SIGINT, "evaluation", 2, 3, {}),
        (signal.SIGTERM, "saving", 4, 5, {"dataloader_num_workers": 2, "dataloader_persistent_workers": False}),
        (signal.SIGTERM, "step", 1, 2, {"save_strategy": "epoch", "eval_strategy": "epoch"}),
    ],
)
def test_train__ends_behind_the_step_and_resumes_exactly(
    worker, whole, tmp_path, capfd, number, moment, step, stopped, options
):
    before = [signal.getsignal(one) for one in SIGNALS]
    said = f"stopped by {number.name}: after step {stopped} of 6; .* goes on from checkpoint-{stopped}"
    with pytest.raises(Interrupted, match=said) as caught:
        run(worker, tmp_path, Send(number, moment, step), **options)
    assert caught.value.status == 128 + number
    assert [signal.getsignal(one) for one in SIGNALS] == before
    assert capfd.readouterr().err.count(f"{number.name}: a checkpoint follows this step") == 1
    assert list_checkpoints(tmp_path)[-1].name == f"checkpoint-{stopped}"
    resumed = run(worker, tmp_path, resume=True, **options)
    weights, measured = whole
    if options.get("eval_strategy") == "epoch":  # so that others are measured, of which the last is the best
        assert len(scores(resumed)) == 2
    else:
        assert [key for key, value in resumed.model.state_dict().items() if not torch.equal(value, weights[key])] == []
        assert scores(resumed) == measured


def test_train__in_the_last_evaluation_nothing_is_left_to_train(worker, whole, tmp_path):
    with pytest.raises(Interrupted, match="stopped by SIGTERM: training is complete"):
        run(worker, tmp_path, Send(signal.SIGTERM, "evaluation", 6))
    resumed = run(worker, tmp_path, resume=True)
    assert all(torch.equal(value, whole[0][key]) for key, value in resumed.model.state_dict().items())


def test_interruption__outside_of_training_it_raises_at_once():
    with pytest.raises(Interrupted, match="stopped by SIGUSR1: nothing yet") as caught, Interruption("nothing yet"):
        signal.raise_signal(signal.SIGUSR1)
    assert caught.value.status == 138


def receive_twice(first: int, second: int, seconds_between: float = 0) -> None:
    with Interruption("") as interruption, interruption.deferring():
        signal.raise_signal(first)
        interruption._time -= seconds_between
        signal.raise_signal(second)


@pytest.mark.parametrize(("processes", "seconds"), [(1, 0), (2, 4)])
def test_interruption__a_second_signal_is_not_held_back(monkeypatch, processes, seconds):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else ignored if pytest is in the background
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            receive_twice(signal.SIGTERM, signal.SIGINT, seconds)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not isinstance(caught.value, Interrupted)


def test_interruption__a_second_signal_stops_what_the_shell_keeps_from_it():
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        receive_twice(signal.SIGTERM, signal.SIGINT)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGINT


def test_interruption__launchers_send_it_twice(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Interrupted):
        receive_twice(signal.SIGINT, signal.SIGINT)


def test_interruption__children_still_end_when_python_ends_them():
    with Interruption("") as interruption:
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, interruption._receive)
            time.sleep(30)
            os._exit(1)
        time.sleep(0.1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_command__exits_with_the_signals_status(capsys):
    @command
    def main(argv):
        with Interruption("go on with `--resume`"):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 143
    assert capsys.readouterr().err == "stopped by SIGTERM: go on with `--resume`\n"
