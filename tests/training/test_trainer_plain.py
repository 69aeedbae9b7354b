"""A torch data set, a model and a loss of one's own, with stock's arguments or ours."""

import logging

import pytest
import torch
import torch.nn.functional as F
from interruptions import Stop
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, TrainerCallback, TrainingArguments

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.inference.evaluation import TensorEvalDataset
from hf_urbanseg.losses.composition import WeightedSumLoss
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.losses.dice import DiceLoss
from hf_urbanseg.losses.ohem import OhemCrossEntropyLoss
from hf_urbanseg.metrics.mean_iou import MeanIoU
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.training.trainer import UrbanSegTrainer

CLASSES = 5


class Streets(torch.utils.data.Dataset):
    """Noise, with more void in each image than in the one before; labels for evaluation have sizes of their own."""

    def __init__(self, count=8, native=False, dtype=torch.int64):
        self.count, self.native, self.dtype = count, native, dtype

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(range(self.count)[index])
        size = (64, 64 + 8 * index) if self.native else (64, 64)
        labels = torch.randint(0, CLASSES, size, generator=generator)
        labels[: 4 * index] = 255
        return {"pixel_values": torch.randn(3, 64, 64, generator=generator), "labels": labels.to(self.dtype)}


def build_model(**options):
    torch.manual_seed(0)
    config = SegformerConfig(
        num_labels=CLASSES, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, decoder_hidden_size=16, **options
    )
    return SegformerForSemanticSegmentation(config)


def build_arguments(kind, folder, **options):
    defaults = {"max_steps": 4, "per_device_train_batch_size": 2, "seed": 3, "use_cpu": True, "disable_tqdm": True}
    if kind is UrbanSegTrainingArguments:
        defaults |= {"warmup_steps": 0, "dataloader_num_workers": 0}
    return kind(str(folder), **defaults | options)


KINDS = pytest.mark.parametrize("kind", [TrainingArguments, UrbanSegTrainingArguments])


@KINDS
@pytest.mark.parametrize(
    "loss",
    [
        OhemCrossEntropyLoss(CLASSES, min_kept=500, scope="global"),
        WeightedSumLoss({"cross_entropy": (CrossEntropyLoss(CLASSES), 1.0), "dice": (DiceLoss(CLASSES), 0.5)}),
    ],
    ids=["bare", "sum"],
)
def test_train__a_loss_and_a_torch_dataset(kind, loss, tmp_path):
    args = build_arguments(kind, tmp_path, gradient_accumulation_steps=2, logging_steps=1)
    trainer = UrbanSegTrainer(build_model(), args, loss=loss, train_dataset=Streets(dtype=torch.uint8))
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 4
    for entry in entries:
        parts = sum(value for name, value in entry.items() if name.startswith("loss_"))
        assert parts == pytest.approx(entry["loss"], rel=1e-5)


def test_train__stock_arguments_and_our_augmented_samples(worker, tmp_path):
    """Their `extent` is no argument of a model's, and stock would drop it."""
    trainer = worker.build_trainer(build_arguments(TrainingArguments, tmp_path, max_steps=1))
    assert trainer.train().global_step == 1


class Gradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (2, 4), (1, 8)])
def test_gradient__is_torchs_own_over_the_whole_step(batch_size, accumulation, tmp_path):
    """Stock's arguments; void differs between micro-batches, where stock's means of means would be off by a third."""
    args = build_arguments(
        TrainingArguments, tmp_path, max_steps=1, per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation, save_strategy="no",
    )  # fmt: skip
    model = build_model(drop_path_rate=0.0, classifier_dropout_prob=0.0)
    model.decode_head.batch_norm.train = lambda mode=True: None  # its statistics are those of a micro-batch
    model.decode_head.batch_norm.training = False
    weights = torch.linspace(0.5, 1.5, CLASSES)
    batch = torch.utils.data.default_collate([*Streets()])
    logits = model.train()(pixel_values=batch["pixel_values"]).logits
    logits = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
    F.cross_entropy(logits, batch["labels"], weights, ignore_index=255).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    loss = CrossEntropyLoss(CLASSES, weights, "weight_sum")
    trainer = UrbanSegTrainer(model, args, loss, Streets(), callbacks=[keep := Gradients()])
    trainer.train()
    found = torch.cat([keep.gradients[name].flatten() for name, _ in model.named_parameters()])
    assert float((found - expected).norm() / expected.norm()) < 2e-6


def test_train__stock_arguments_have_stocks_optimiser_and_schedule(tmp_path):
    args = build_arguments(TrainingArguments, tmp_path, lr_scheduler_type="cosine", learning_rate=1e-3)
    trainer = UrbanSegTrainer(build_model(), args, CrossEntropyLoss(CLASSES), Streets())
    trainer.create_optimizer_and_scheduler(4)
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [args.weight_decay, 0.0]
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {1e-3}
    assert "cosine" in trainer.lr_scheduler.lr_lambdas[0].func.__name__
    assert trainer.ema is None


def test_train__no_eval_dataset_switches_selection_off_and_says_so(tmp_path, caplog):
    args = build_arguments(UrbanSegTrainingArguments, tmp_path)
    assert (args.eval_strategy, args.load_best_model_at_end) == ("steps", True)
    with caplog.at_level(logging.WARNING, "hf_urbanseg"):
        UrbanSegTrainer(build_model(), args, CrossEntropyLoss(CLASSES), Streets()).train()
    assert (args.eval_strategy, args.load_best_model_at_end) == ("no", False)
    assert [record.message for record in caplog.records if "eval_dataset" in record.message] == [
        "there is no `eval_dataset`: nothing is measured or selected, the last step is what stays"
    ]


@KINDS
def test_resume__bit_identical(kind, tmp_path):
    """Dropout on; 4 steps an epoch, saved every 3: the resume starts in mid-epoch."""

    def run(folder, resume=False):
        args = build_arguments(kind, tmp_path / folder, max_steps=7, save_steps=3, eval_steps=3, logging_steps=1)
        trainer = UrbanSegTrainer(build_model(), args, OhemCrossEntropyLoss(CLASSES, min_kept=500), Streets())
        if not resume:
            trainer.add_callback(Stop(5 if folder == "cut" else 99))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    with pytest.raises(RuntimeError, match="power cut"):
        run("cut")
    resumed = run("cut", resume=True)
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    losses = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 7


@KINDS
def test_evaluate__each_image_once_at_the_size_of_its_labels(kind, tmp_path):
    args = build_arguments(kind, tmp_path, per_device_eval_batch_size=3)
    data, model = Streets(5, native=True), build_model()
    trainer = UrbanSegTrainer(model, args, CrossEntropyLoss(CLASSES), eval_dataset={"a": data, "b": Streets(2)})
    metric = MeanIoU(CLASSES)
    model.eval()
    for sample in data:
        with torch.no_grad():
            logits = model(pixel_values=sample["pixel_values"][None]).logits
        logits = F.interpolate(logits, sample["labels"].shape, mode="bilinear", align_corners=False)
        metric.add(prediction=logits[0].argmax(0), reference=sample["labels"])
    scores, found = metric.compute(), trainer.evaluate()
    assert found["eval_a_mean_iou"] == scores["mean_iou"]
    assert found["eval_a_iou_LABEL_2"] == scores["iou"][2]
    assert found["eval_b_mean_iou"] != scores["mean_iou"]
    measured = trainer.measure(data, boundary=True)
    assert measured.images.names == ("0", "1", "2", "3", "4")
    assert int(measured.matrix.sum()) == sum(int((sample["labels"] != 255).sum()) for sample in data)
    assert TensorEvalDataset(data)[1]["index"] == 1


def test_load_best_model__stock_arguments_select_by_mean_iou(tmp_path):
    """Stock's default is the loss of an evaluation that has none; a best step may go unsaved here."""
    options = {
        "eval_strategy": "steps", "eval_steps": 1, "save_steps": 2, "load_best_model_at_end": True,
        "learning_rate": 1e-2,
    }  # fmt: skip

    def run(steps, scores, resume=False, folder="run"):
        args = build_arguments(TrainingArguments, tmp_path / folder, max_steps=steps, **options)
        data = Streets()
        trainer = UrbanSegTrainer(build_model(), args, CrossEntropyLoss(CLASSES), data, eval_dataset=data)
        saved, scores = {}, iter(scores)

        def compute_metrics(dataset):
            saved[trainer.state.global_step] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
            return {"mean_iou": next(scores)}

        trainer._compute_metrics = compute_metrics
        trainer.train(resume_from_checkpoint=resume)
        return trainer, saved

    trainer, saved = run(6, [0.1, 0.3, 0.2, 0.5, 0.1, 0.4])
    assert (trainer.args.metric_for_best_model, trainer.state.best_global_step) == ("mean_iou", 4)
    loaded = trainer.model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in saved[4].items())
    # The best since, at 7, is not saved; 8 and 9 are no better.
    trainer, _ = run(9, [0.6, 0.5, 0.5], resume=True)
    loaded = trainer.model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in saved[4].items())
    # A run of which no best step is saved goes on, too.
    run(2, [0.9, 0.1], folder="unsaved")
    assert run(4, [0.1, 0.1], resume=True, folder="unsaved")[0].state.global_step == 4


def test_trainer__several_gpus_in_one_process_do_not_split_batches(tmp_path, caplog):
    args = build_arguments(TrainingArguments, tmp_path)
    args._n_gpu = 3
    with caplog.at_level(logging.WARNING, "hf_urbanseg"):
        trainer = UrbanSegTrainer(build_model(), args, CrossEntropyLoss(CLASSES), Streets())
    assert "one of 3 GPUs is used" in caplog.text
    assert trainer.train().global_step == 4
    assert (trainer.args.n_gpu, trainer._train_batch_size) == (1, 2)
    assert not isinstance(trainer.model_wrapped, nn.DataParallel)


def test_trainer__a_loss_without_a_normaliser_is_refused(tmp_path):
    args = build_arguments(TrainingArguments, tmp_path)
    with pytest.raises(ConfigError, match="expected a loss with `compute_normalizer`; found a CrossEntropyLoss"):
        UrbanSegTrainer(build_model(), args, nn.CrossEntropyLoss(ignore_index=255), Streets())
