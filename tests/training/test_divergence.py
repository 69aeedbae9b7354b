"""Whatever is no finite number in a step: nothing of the step stays, it is counted, and many in a row end training."""

import json
import math
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from noise import SMALL, Samples
from transformers import TrainerCallback, TrainingArguments

from hf_urbanseg.data.sampling import EpochSampler
from hf_urbanseg.errors import DivergenceError, ModelError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.losses.ohem import OhemCrossEntropyLoss
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.training.checkpoints import list_checkpoints
from hf_urbanseg.training.divergence import DivergenceGuard
from hf_urbanseg.training.trainer import UrbanSegTrainer

VALUES = (math.nan, -math.nan, math.inf, -math.inf)
IMAGE, NORM, CLASSIFIER = "segformer.stages.0.patch_embeddings.proj", "decode_head.batch_norm", "decode_head.classifier"
PLACES = (
    "loss", f"into {IMAGE}", f"into {NORM}", f"out of {CLASSIFIER}", f"{IMAGE}.weight", f"{NORM}.bias",
    f"{CLASSIFIER}.bias",
)  # fmt: skip


class Watch(TrainerCallback):
    """Calls `act` before each step, from 1, and copies all that a step can change after it."""

    def __init__(self, trainer, act):
        self.trainer, self.act, self.states = trainer, act, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.act(self.trainer, state.global_step + 1)

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        moments = [value for entry in optimizer.state_dict()["state"].values() for value in entry.values()]
        averages = self.trainer.ema.state_dict().values() if self.trainer.ema else []
        tensors = [*model.state_dict().values(), *moments, *averages]
        self.states.append([tensor.clone() for tensor in tensors])


@pytest.fixture
def build(worker, tmp_path):
    """A trainer of a very small model, and what watches it."""

    def make(act=lambda trainer, step: None, loss=None, **options):
        torch.manual_seed(0)
        options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 2} | options
        args = worker.build_arguments(tmp_path, **{"max_steps": 4, "ema_decay": 0.9, "weight_decay": 0.1} | options)
        model = build_random_model("tiny", CITYSCAPES, **SMALL)
        trainer = UrbanSegTrainer(model, args, loss or CrossEntropyLoss(19), Samples(), Samples())
        watch = Watch(trainer, act)
        trainer.add_callback(watch)
        return trainer, watch

    return make


def ruin(place: str, values):
    """Puts a value into one number of a place in each micro-batch of a step; `values` by step."""

    def act(trainer, step):
        while undo:
            undo.pop()()
        if step not in values:
            return
        value = values[step]

        def bad(tensor):
            tensor = tensor.clone()
            tensor[(0,) * tensor.ndim] = value
            return tensor

        kind, _, name = place.rpartition(" ")
        if place == "loss":  # whose gradient stays finite
            forward = trainer.loss.forward
            trainer.loss.forward = lambda *args: {key: part + value for key, part in forward(*args).items()}
            undo.append(lambda: trainer.loss.__dict__.pop("forward"))
        elif kind == "into":
            hook = trainer.model.get_submodule(name).register_forward_pre_hook(lambda module, args: bad(args[0]))
            undo.append(hook.remove)
        elif kind == "out of":
            hook = trainer.model.get_submodule(name).register_forward_hook(lambda module, args, output: bad(output))
            undo.append(hook.remove)
        else:
            undo.append(trainer.model.get_parameter(name).register_hook(bad).remove)

    undo = []
    return act


def skipped_steps(trainer) -> list[int]:
    return [entry["step"] for entry in trainer.state.log_history if entry.get("skipped_steps")]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_train__nothing_of_a_step_that_is_not_finite_stays(build, caplog, place, bf16):
    steps = (2, 4, 5, 8)
    trainer, watch = build(ruin(place, dict(zip(steps, VALUES, strict=True))), bf16=bf16, max_steps=9)
    trainer.train()
    assert all(torch.isfinite(tensor).all() for state in watch.states for tensor in state)
    for step, (before, after) in enumerate(pairwise(watch.states), 2):
        same = sum(torch.equal(*pair) for pair in zip(before, after, strict=True))
        assert same == len(before) if step in steps else same < len(before) / 10
    # What is logged is the mean of the other steps, and goes on behind it.
    assert skipped_steps(trainer) == list(steps)
    *entries, last = trainer.state.log_history
    assert [entry["step"] for entry in entries if math.isnan(entry["loss"])] == [5]  # nothing else since step 4
    parts = [entry.get("loss_cross_entropy", math.nan) for entry in entries]
    assert [entry["loss"] for entry in entries] == pytest.approx(parts, nan_ok=True)
    assert last["train_loss"] == pytest.approx(2.9, abs=0.2)
    warnings = [record.message for record in caplog.records if "skipped" in record.message]
    assert warnings == [
        f"step {step} is skipped, its gradient is not finite; its images: "
        + ", ".join(map(str, trainer.train_sampler.list_step(step - 1)))
        for step in steps
    ]


def test_list_step__is_what_the_loader_reads():
    for length in (11, 3):
        sampler = EpochSampler(length, 4, seed=5)
        read = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            read += [index for _, index in sampler]
        assert [index for step in range(len(read) // 4) for index in sampler.list_step(step)] == read


def test_train__names_the_images_of_a_skipped_step(worker, tmp_path, caplog):
    trainer = worker.build_trainer(worker.build_arguments(tmp_path, max_steps=3, per_device_train_batch_size=4))
    trainer.add_callback(Watch(trainer, ruin(f"{CLASSIFIER}.bias", {3: math.inf})))  # the second epoch's first
    trainer.train()
    trainer.train_sampler.set_epoch(1)
    names = trainer.train_dataset.rows["name"]
    assert caplog.messages[-1].endswith("its images: " + ", ".join(names[i] for _, i in [*trainer.train_sampler][:4]))


def test_train__names_the_image_that_is_to_blame(build, monkeypatch, caplog):
    """And what it took to find out leaves no trace: dropout, BatchNorm and a loss that knows the whole step."""
    states, bad = [], {"pixel_values": torch.full((3, 32, 32), math.nan)}
    plain = Samples.__getitem__
    monkeypatch.setattr(Samples, "__getitem__", lambda self, i: plain(self, i) | (bad if i == 5 else {}))
    for judge in (DivergenceGuard._judge_alone, lambda guard: [False] * 4):
        trainer, watch = build(loss=OhemCrossEntropyLoss(19, min_kept=100, scope="global"), max_steps=6)
        monkeypatch.setattr(DivergenceGuard, "_judge_alone", judge)
        trainer.train()
        states.append(watch.states[-1])
    steps = [step for step in range(6) if 5 in trainer.train_sampler.list_step(step)]
    assert len(steps) == 3
    said = [", ".join(map(str, trainer.train_sampler.list_step(step))) for step in steps]
    lines = [message.partition("its images: ")[2] for message in caplog.messages if "skipped" in message]
    assert lines == [f"{one}; alone, too: 5" for one in said] + said
    assert all(torch.equal(*pair) for pair in zip(*states, strict=True))


@pytest.mark.parametrize("value", VALUES)
def test_train__global_selection_meets_a_number_that_is_not_finite(build, value):
    loss = OhemCrossEntropyLoss(19, min_kept=100, scope="global")
    trainer, _ = build(ruin(f"out of {CLASSIFIER}", {2: value}), loss)
    trainer.train()
    assert skipped_steps(trainer) == [2]


def test_train__stops_and_resumes_at_a_lower_rate(build, tmp_path):
    options = {"max_steps": 12, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "logging_steps": 1}
    trainer, _ = build(ruin("loss", dict.fromkeys(range(4, 12), math.nan)), max_skipped_steps=3, **options)
    with pytest.raises(DivergenceError) as caught:
        trainer.train()
    assert str(caught.value) == (
        f"{tmp_path}: expected gradients that are finite numbers; found NaN or infinity in each of the last 3 steps, "
        "up to 6; try a lower `--learning_rate`, more `--warmup_steps`, `--max_grad_norm 1`; "
        "`--resume --accept_changes` goes on from checkpoint-3."
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    resumed, _ = build(learning_rate=5e-4, weight_decay=0.3, **options)
    resumed.train(resume_from_checkpoint=True)
    rates = {entry["step"]: entry["learning_rate"] for entry in resumed.state.log_history if "loss" in entry}
    assert rates == pytest.approx({step: (1e-3 if step < 4 else 5e-4) * (13 - step) / 12 for step in range(1, 13)})
    assert {group["weight_decay"] for group in resumed.optimizer.param_groups} == {0.3, 0.0}


def test_train__puts_off_what_is_due_while_steps_are_skipped(build, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 5}
    trainer, _ = build(ruin("loss", {2: math.nan, 3: math.nan}), load_best_model_at_end=True, **options)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_mean_iou" in entry] == [4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-5"]


def test_train__never_stops_if_told_so(build):
    trainer, watch = build(ruin("loss", dict.fromkeys(range(1, 13), math.nan)), max_steps=12, max_skipped_steps=0)
    trainer.train()
    assert skipped_steps(trainer) == [*range(1, 13)]
    assert all(torch.equal(*pair) for pair in zip(watch.states[0], watch.states[-1], strict=True))


def scale(trainer, monkeypatch, init_scale: float) -> None:
    """As fp16 trains on a GPU."""
    monkeypatch.setattr(type(trainer.accelerator), "mixed_precision", "fp16")
    monkeypatch.setattr(trainer.accelerator, "native_amp", True)
    monkeypatch.setattr(trainer, "compute_loss_context_manager", nullcontext)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)


def test_train__a_scaler_that_looks_for_its_scale_is_no_fault(build, monkeypatch, caplog):
    trainer, watch = build(max_steps=10, max_skipped_steps=2, save_strategy="steps", save_steps=3, save_total_limit=2)
    scale(trainer, monkeypatch, 2.0**14)
    bias = trainer.model.get_parameter(f"{CLASSIFIER}.bias")
    bias.register_hook(lambda gradient: torch.where(gradient.abs() > 2**6, torch.inf, gradient))
    trainer.train()
    skipped = skipped_steps(trainer)
    assert skipped == [*range(1, len(skipped) + 1)]
    assert 3 < len(skipped) < 10
    assert all(torch.isfinite(tensor).all() for state in watch.states for tensor in state)
    assert not torch.equal(watch.states[-2][0], watch.states[-1][0])
    assert "skipped" not in caplog.text
    assert [path.name for path in list_checkpoints(trainer.args.output_dir)] == ["checkpoint-9", "checkpoint-10"]


def test_train__a_scaler_at_its_end_stops(build, monkeypatch):
    trainer, _ = build(ruin("loss", dict.fromkeys(range(1, 13), math.nan)), max_steps=12, max_skipped_steps=4)
    scale(trainer, monkeypatch, 8.0)  # three steps from 1
    with pytest.raises(DivergenceError, match="in each of the last 4 steps, up to 7"):
        trainer.train()


def test_train__a_scalers_state_is_verified_and_not_needed_without_fp16(build, monkeypatch, caplog):
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 9}
    trainer, _ = build(**options)
    scale(trainer, monkeypatch, 2.0**14)
    trainer.train()
    one, two = list_checkpoints(trainer.args.output_dir)
    (two / "scaler.pt").write_bytes((two / "scaler.pt").read_bytes()[:-1] + b"x")
    monkeypatch.undo()
    resumed, _ = build(**options)
    resumed.train(resume_from_checkpoint=True)
    assert f"passed over: {two}: expected a checkpoint as it was saved; found scaler.pt with another" in caplog.text
    assert (resumed.first_step, resumed.state.global_step) == (1, 2)
    assert [(checkpoint / "scaler.pt").exists() for checkpoint in (one, two)] == [True, False]


def test_train__averages_select_once_a_step_was_taken_into_them(build, monkeypatch):
    """Until then they aren't measured."""
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer, _ = build(
        ruin("loss", {1: math.nan, 2: math.nan}), max_steps=3, metric_for_best_model="ema_mean_iou",
        load_best_model_at_end=True, **options,
    )  # fmt: skip
    scale(trainer, monkeypatch, 2.0**14)
    trainer.train()
    assert trainer.state.best_global_step == 3


def test_train__stock_arguments(tmp_path):
    args = TrainingArguments(tmp_path, max_steps=30, use_cpu=True, save_strategy="no", report_to="none", bf16=False)
    trainer = UrbanSegTrainer(build_random_model("tiny", CITYSCAPES, **SMALL), args, CrossEntropyLoss(19), Samples())
    trainer.add_callback(Watch(trainer, ruin("loss", dict.fromkeys(range(2, 40), math.nan))))
    with pytest.raises(DivergenceError, match="in each of the last 10 steps, up to 11"):
        trainer.train()


@pytest.mark.parametrize("where", ["weight", "statistic", "average"])
def test_save__weights_that_an_update_ruined(build, tmp_path, where):
    def act(trainer, step):
        if step == 2:
            tensors = trainer.ema.state_dict() if where == "average" else trainer.model.state_dict()
            name = {"weight": f"{CLASSIFIER}.bias", "statistic": f"{NORM}.running_var"}.get(where)
            tensors[name or f"parameters.{CLASSIFIER}.bias"][0] = math.inf

    trainer, _ = build(act, save_strategy="steps", save_steps=1)
    with pytest.raises(DivergenceError, match=r"found NaN or infinity in `\S+` at step [12]; .*from checkpoint-1\."):
        trainer.train()
    with pytest.raises(DivergenceError):
        trainer.save_model(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_evaluate__logits_that_are_not_finite(build):
    trainer, _ = build()
    trainer.model.get_submodule(CLASSIFIER).register_forward_hook(
        lambda module, args, output: torch.where(torch.arange(len(output))[:, None, None, None] == 1, math.nan, output)
    )
    with pytest.raises(ModelError, match="expected logits that are finite numbers; found NaN or infinity for 1; "):
        trainer.evaluate()


def test_save__state_is_json(build, tmp_path):
    trainer, _ = build(ruin("loss", {2: math.nan, 3: math.nan}), max_steps=4, save_strategy="steps", save_steps=4)
    trainer.train()

    def refuse(word):
        raise AssertionError(word)

    text = (tmp_path / "checkpoint-4" / "trainer_state.json").read_text()
    logged = json.loads(text, parse_constant=refuse)["log_history"]
    for key, missing in (("loss", [3]), ("grad_norm", [2, 3])):
        assert [entry["step"] for entry in logged if entry[key] is None] == missing
