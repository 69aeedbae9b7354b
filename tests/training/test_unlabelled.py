"""Passes over frames without labels: their gradient, and that they touch nothing else."""

import pytest
import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from hf_urbanseg.data.collator import collate_train
from hf_urbanseg.data.normalization import find_inside, normalize_pixels
from hf_urbanseg.training.unlabelled import UnlabelledStep


def build(worker, folder, unlabelled=None, dropout=False, **options):
    """A trainer of two steps; without `unlabelled` (threshold and weight) one that makes no passes over the crops."""
    options = {"max_steps": 2, "per_device_train_batch_size": 4, "ema_decay": 0.9, "logging_steps": 1} | options
    none = {} if dropout else {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
    trainer = worker.build_trainer(worker.build_arguments(folder, **options), "unlabelled", **none)
    (step,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, UnlabelledStep))
    if unlabelled is None:
        trainer.remove_callback(step)
    else:
        step.threshold, step.weight = unlabelled
    return trainer


class Grab(TrainerCallback):
    """The gradients that are there before the labelled passes, and the trainer's state around."""

    def __init__(self, trainer):
        self.trainer, self.found = trainer, []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
        averages = {name: one.clone() for name, one in self.trainer.ema.state_dict().items()}
        self.found.append((gradients, averages, torch.get_rng_state()))


def test_unlabelled_step__gradient_is_that_of_plain_autograd(worker, tmp_path):
    """Crop by crop and pixel by pixel, boxes exchanged in a loop, over crops that reach beyond their pictures."""
    trainer = build(worker, tmp_path, (0.12, 2.0), max_steps=1, gradient_accumulation_steps=2)
    grab = Grab(trainer)
    trainer.add_callback(grab)
    model = trainer.model
    keys = list(trainer._get_train_sampler())[:8]
    crops = collate_train([trainer.train_dataset[key] for key in keys])["unlabelled"]
    assert len(crops["weak"]) == 8
    inside = find_inside(crops["extent"], (64, 64))
    assert not inside.all()
    weak, strong = (normalize_pixels(crops[name], inside) for name in ("weak", "strong"))
    model.eval()
    with torch.no_grad():
        scores = F.interpolate(model(pixel_values=weak).logits, (64, 64), mode="bilinear", align_corners=False)
    probability, best = scores.softmax(1).max(1)
    labels = torch.where(inside & (probability > 0.12), best, 255)
    mixed, targets = strong.clone(), labels.clone()
    for number, (top, bottom, left, right) in enumerate(crops["box"].tolist()):
        other = number + 1 - 2 * (number % 2)
        mixed[number, :, top:bottom, left:right] = strong[other, :, top:bottom, left:right]
        targets[number, top:bottom, left:right] = labels[other, top:bottom, left:right]
    assert not torch.equal(targets, labels)
    logits = F.interpolate(model(pixel_values=mixed).logits, (64, 64), mode="bilinear", align_corners=False)
    loss = 2.0 * F.cross_entropy(logits, targets, ignore_index=255, reduction="sum") / inside.sum()
    loss.backward()
    expected = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()

    trainer.train()
    gradients, _, _ = grab.found[0]
    assert worker.relative_error(gradients, expected) < 1e-6
    log = trainer.state.log_history[0]
    assert log["loss_unlabelled"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert log["loss"] == pytest.approx(log["loss_unlabelled"] + log["loss_cross_entropy"], rel=1e-5)
    assert log["unlabelled_confident"] == pytest.approx(float((labels != 255).sum() / inside.sum()))
    assert 0.1 < log["unlabelled_confident"] < 0.9
    assert log["unlabelled_confidence"] == pytest.approx(float(probability[inside].mean()), rel=1e-5)


def test_unlabelled_step__that_teaches_nothing_changes_nothing(worker, tmp_path):
    """Nor does it draw the labelled passes' dropout, touch BatchNorm's statistics or train the teacher."""
    trainers, grabs = [], []
    for name, how in (("with", (1.0, 1.0)), ("without", None)):
        trainers.append(build(worker, tmp_path / name, how, dropout=True))  # which sets the seed
        grabs.append(Grab(trainers[-1]))
        trainers[-1].add_callback(grabs[-1])
        trainers[-1].train()
    one, other = (trainer.model.state_dict() for trainer in trainers)
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    for (gradients, averages, state), (_, others, expected) in zip(*(grab.found for grab in grabs), strict=True):
        assert gradients
        assert not any(gradient.any() for gradient in gradients.values())
        assert all(torch.equal(averages[name], others[name]) for name in averages)
        assert torch.equal(state, expected)
    assert trainers[0].state.log_history[0]["unlabelled_confident"] == 0


def test_unlabelled_step__a_teacher_that_is_no_average(worker, tmp_path):
    """Its classes are found by name, and it gets no gradient and stays as it was."""
    trainer = build(worker, tmp_path, (0.05, 1.0), max_steps=1)
    (step,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, UnlabelledStep))
    step.teacher = worker.build_teacher()  # without the first class
    before = {name: one.clone() for name, one in step.teacher.state_dict().items()}
    labels, _ = step._ask(torch.full((4, 3, 64, 64), 90, dtype=torch.uint8), torch.ones(4, 64, 64, dtype=torch.bool))
    scores = step.teacher(torch.full((1, 3, 64, 64), 90 / 255) * 1.0).logits
    assert scores.shape[1] == 18
    assert 0 not in labels.unique()
    trainer.train()
    assert all(torch.equal(before[name], one) for name, one in step.teacher.state_dict().items())
    assert all(one.grad is None for one in step.teacher.parameters())
    assert trainer.state.log_history[0]["unlabelled_confident"] > 0.5
