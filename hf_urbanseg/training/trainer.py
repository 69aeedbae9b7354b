"""`UrbanSegTrainer`: transformers' Trainer with exact losses, whole checkpoints and streaming evaluation."""

import math
from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from hf_urbanseg.data.collator import collate_train
from hf_urbanseg.data.loader_start import explain_start
from hf_urbanseg.data.normalization import normalize_batch
from hf_urbanseg.data.preprocessing import EvalDataset, JoinedDataset, TrainDataset
from hf_urbanseg.data.sampling import EpochSampler, IndexSampler
from hf_urbanseg.data.unlabelled import WithUnlabelled
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.losses.composition import WeightedSumLoss
from hf_urbanseg.losses.log import LossLog
from hf_urbanseg.models.batch_norm import convert_sync_batch_norm, keep_batch_norm_statistics
from hf_urbanseg.models.compilation import check_compiler, run_once
from hf_urbanseg.models.ema import ExponentialMovingAverage
from hf_urbanseg.models.freezing import freeze_encoder, keep_frozen, list_stages
from hf_urbanseg.models.lora import list_adapted, merge_lora
from hf_urbanseg.models.teacher import Teacher
from hf_urbanseg.optim import build_parameter_groups
from hf_urbanseg.options.stock_options import build_schedule, check_supported, choose_data_seed
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments, adapt_arguments
from hf_urbanseg.runs.first_process import find_first
from hf_urbanseg.training.checkpointing import CheckpointingTrainer
from hf_urbanseg.training.class_log import ClassLog, count_classes
from hf_urbanseg.training.divergence import DivergenceGuard
from hf_urbanseg.training.early_stopping import EarlyStopping
from hf_urbanseg.training.evaluating import EvaluatingTrainer
from hf_urbanseg.training.hooks import TrainerHooks

_OWN_DATA = (TrainDataset, JoinedDataset, WithUnlabelled)  # which know of epochs


class _BatchMissing(Exception):
    """A rank could not read its part of a step."""


class UrbanSegTrainer(CheckpointingTrainer, EvaluatingTrainer):
    """Trains a segmentation model with a loss that is exact under any split of the batch.

    Differs from `transformers.Trainer` in what silently goes wrong there:
    - the loss is `sum over all pixels of the optimiser step / global normaliser`, whatever the number of ranks and
      micro-batches (the stock loss is inflated by accumulation and processes, and averages means of unequal batches);
    - samples depend on (seed, epoch, index) alone, so a run resumed in mid-epoch continues bit for bit;
    - checkpoints appear whole or not at all, and are loaded strictly through the key conversion;
    - evaluation keeps a confusion matrix at native resolution and sees every image once.

    With `args.ema_decay`, averaged weights are measured beside the raw ones (`eval_ema_mean_iou`). An auxiliary head
    (`attach_auxiliary_head`) is saved in checkpoints and never exported.

    Args:
        model: Built, of `logits` (N, C, h, w).
        args: Ours, or stock's: then what our options would add is off, and optimiser and schedule are stock's own.
        loss: Named parts, whose weighted sum is minimised, or one of our losses.
        train_dataset: Augmented samples, or any map-style data set of them; see Shape. An epoch is cut to whole
            optimiser steps.
        eval_dataset: Images with labels of native size, or any data set as for training; a dict of them is measured one
            by one. None switches off the evaluation and the choice of the best that are on by default.
        processing_class: Image processor saved with the model.
        teacher: Asked about every batch that doesn't bring scores of a teacher itself, for a part of the loss that
            reads `teacher`. In no checkpoint.

    Shape:
        Samples of a data set of one's own, each image of its own size in evaluation:
        pixel_values: (3, H, W) float, as the model takes it. labels: (H, W) integer, classes or 255.

    Example:
        args = TrainingArguments("runs/mine", max_steps=1000)
        trainer = UrbanSegTrainer(model, args, loss=OhemCrossEntropyLoss(19), train_dataset=my_torch_dataset)
        trainer.train()
    """

    args: TrainingArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        loss: WeightedSumLoss | nn.Module,
        train_dataset: TrainDataset | JoinedDataset | Dataset | None = None,
        eval_dataset: EvalDataset | Dataset | dict[str, EvalDataset | Dataset] | None = None,
        processing_class=None,
        callbacks: list[TrainerCallback] | None = None,
        teacher: Teacher | None = None,
    ):
        if args.push_to_hub:
            # Stock's push needs the Hub at start, hides failures, can hang at the end, and uploads the token.
            raise ConfigError("no `push_to_hub` in the trainer", "it", "add a `hub.callback.PublishCallback` instead")
        if not isinstance(args, UrbanSegTrainingArguments):  # which check themselves
            check_supported(args)
        loss = loss if isinstance(loss, WeightedSumLoss) else WeightedSumLoss(loss)
        if teacher is not None and not any(loss.reads.values()):
            raise ConfigError("a part of the loss that reads `teacher`", "none", "add one, or leave the teacher out")
        adapt_arguments(args, model.config.id2label.values(), eval_dataset is not None)
        if getattr(args, "sync_batch_norm", False):
            convert_sync_batch_norm(model, args.world_size, args.device)
        self.frozen: list[nn.Module] = []
        if getattr(args, "freeze_encoder", False) or getattr(args, "freeze_stages", 0):
            self.frozen = freeze_encoder(model, args.freeze_stages or None)
        if args.torch_compile:
            check_compiler(args.device, args.torch_compile_backend, args.torch_compile_mode)
        super().__init__(
            model=model,
            args=args,
            data_collator=collate_train,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
        )
        # `compute_loss` divides by the global normaliser itself; this keeps Trainer from dividing once more by the
        # number of micro-batches.
        self.model_accepts_loss_kwargs = True
        self.loss = loss.to(self.args.device)
        self.teacher = None if teacher is None else teacher.to(self.args.device)
        self.train_sampler: EpochSampler | None = None
        self.loss_log = LossLog(self.args.device)
        names = self.model.config.id2label.values()
        counted = isinstance(train_dataset, _OWN_DATA) and train_dataset.rare is not None
        self.class_log = ClassLog(names, self.args.device) if counted else None
        ema_decay = getattr(args, "ema_decay", 0)
        self.ema = ExponentialMovingAverage(self.model, ema_decay, self.args.ema_start) if ema_decay else None
        self.guard = DivergenceGuard(self)
        self.step_batches: list[dict[str, Tensor]] = []  # of the present step, this rank's
        self.first_step = 0  # that training began at, a checkpoint's if it was resumed
        self._stop: Tensor | None = None
        if args.torch_compile:
            run_once(self.model)
        self.add_callback(TrainerHooks(self))
        if getattr(args, "early_stopping_patience", 0):
            self.add_callback(EarlyStopping(eval_dataset))

    # Data

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        # A generator of its own: starting workers would draw from the one that dropout uses, and a resumed run starts
        # them at other points.
        base = getattr(loader, "base_dataloader", loader)
        base.generator = torch.Generator().manual_seed(self.args.seed)
        if self.interruption is not None:
            self.interruption.guard_workers(base)
        explain_start(base)
        return loader

    def _get_train_sampler(self, train_dataset=None):
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        step_size = self._train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        seed = choose_data_seed(self.args)
        if isinstance(dataset, _OWN_DATA):
            self.train_sampler = dataset.build_sampler(step_size, seed)
        else:
            self.train_sampler = IndexSampler(len(dataset), step_size, seed)
        return self.train_sampler

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        refusal = None
        try:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        except DataError as error:
            refusal = error
            with suppress(_BatchMissing):
                self._sum_step(None, None, device)
        except _BatchMissing:
            pass
        error = find_first(refusal)
        if self.args.save_strategy != "no" and self.state.global_step:
            if self._saved_step != self.state.global_step > self.first_step:
                self._save_checkpoint(self.model, None)
            fix = f"{error.fix}; `--resume` goes on behind step {self.state.global_step}"
            error = type(error)(error.expected, error.found, fix, error.path)
        raise error from refusal

    def _prepare_inputs(self, inputs):
        inputs = normalize_batch(super()._prepare_inputs(inputs))
        return inputs | {"labels": inputs["labels"].long()}

    def _keep_frozen(self) -> None:
        keep_frozen(self.frozen)
        if getattr(self.args, "freeze_batch_norm", False):
            keep_batch_norm_statistics(self.model)

    # Loss

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        """Global normalisers of an optimiser step, one per part of the loss: fp64 (number of parts,)."""
        if not batch_samples:
            return None
        labels = [batch["labels"].long() for batch in batch_samples]
        per_batch = [torch.stack([*self.loss.compute_normalizer(one).values()]) for one in labels]
        self.step_batches, counts = batch_samples, None
        if self.class_log is not None:
            counts = sum(count_classes(batch, self.model.config.num_labels) for batch in batch_samples)
        return self._sum_step(torch.stack(per_batch).sum(0), counts, device)

    def _sum_step(self, normalizers: Tensor | None, counts: Tensor | None, device: torch.device) -> Tensor:
        """The message that every step sends, of a rank that has no batch, too.

        Raises:
            _BatchMissing: A rank has none.
        """
        missing = normalizers is None
        if missing:
            normalizers = torch.zeros(len(self.loss.weights), dtype=torch.float64)
            counts = None if self.class_log is None else torch.zeros_like(self.class_log.counts)
        stop = self.interruption is not None and self.interruption.received is not None
        sums = [normalizers, *(normalizers.new_full((1,), one) for one in (stop, missing))]  # a GPU fills them itself
        sums += [] if counts is None else [counts.to(normalizers.device).flatten()]
        normalizers, stop, absent, *counts = self.sum_over_ranks(torch.cat(sums).to(device)).split([*map(len, sums)])
        if self.args.world_size > 1:
            self._stop = None if self.interruption is None else stop[0]
            missing = bool(absent)  # waits for a GPU, which one process alone has no need to
        if missing:
            raise _BatchMissing
        if self.class_log is not None:
            self.class_log.add(*counts)
        return normalizers

    def is_asked_to_stop(self) -> bool:
        """Whether training ends behind the present step; the same answer on every rank."""
        if self._stop is None:
            return self.interruption is not None and self.interruption.received is not None
        return bool(self._stop)

    @torch.no_grad()
    def collect_step(self) -> None:
        """Shows all micro-batches of the coming step to losses that need the whole of it (one extra forward each).

        The passes leave no trace: random numbers and BatchNorm's statistics are put back, so that the real passes
        draw the same dropout masks and see the same logits. A compiled model therefore runs compiled here, and with
        gradients: eager code rounds and (against inductor) draws differently, and without gradients it would be
        compiled once more.
        """
        batches = self.step_batches
        if not self.loss.needs_collection or len(batches) * self.args.world_size < 2:
            return  # a loss knows its only batch
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        device, compiled = self.args.device, self.args.torch_compile
        model = self.model_wrapped if compiled else self.model
        self.model.train()
        self._keep_frozen()
        with torch.random.fork_rng([] if device.type == "cpu" else [device]):
            for batch in batches:
                batch = self._prepare_inputs(batch)
                with (
                    self.compute_loss_context_manager(),
                    self.accelerator.no_sync(model),
                    torch.set_grad_enabled(compiled),
                ):
                    outputs = model(pixel_values=batch["pixel_values"])
                self.loss.collect(outputs, batch["labels"])
        for buffer, saved in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(saved)
        self.loss.settle(self.sum_over_ranks)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        self._keep_frozen()
        outputs = model(pixel_values=inputs["pixel_values"])
        normalizer = None
        if num_items_in_batch is not None:
            normalizer = dict(zip(self.loss.weights, num_items_in_batch, strict=True))
        parts = self.loss(self.add_teacher(outputs, inputs), labels, normalizer)
        self.loss_log.add(parts, self.loss.diagnostics, void=(labels == IGNORE_INDEX).all())
        loss = sum(parts.values())
        if num_items_in_batch is not None:
            # DDP averages gradients over ranks; the global normaliser calls for their sum.
            loss = loss * self.accelerator.num_processes
        # A loss that isn't finite has no finite gradient, so that every rank learns of it.
        loss = loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)
        return (loss, outputs) if return_outputs else loss

    def add_teacher(self, outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The outputs, and the scores that the batch brings or the teacher gives."""
        if "teacher" in inputs:
            said = {"teacher": inputs["teacher"]}
        elif self.teacher is not None:
            answer = self.teacher(inputs["pixel_values"])
            said = {"teacher": answer.logits}
            if answer.hidden_states:
                said["teacher_features"] = answer.hidden_states[-1]
        else:
            return outputs
        return {**outputs, **said} | {key: inputs[key] for key in ("inside",) if key in inputs}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.loss_log.drain(self.state.global_step, self.sum_over_ranks)
            if self.guard.skips:
                logs["skipped_steps"] = 1
            if self.class_log is not None:
                logs |= self.class_log.drain()
        if "train_loss" in logs:  # stock counts the steps since a resume
            logs["train_loss"] = self._total_loss_scalar / max(1, self.state.global_step)
        super().log(logs, start_time)

    # Optimiser

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        self.guard.inspect(norm)
        return norm

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if not isinstance(self.args, UrbanSegTrainingArguments):
            return super().create_optimizer(model)
        if self.optimizer is None:
            args, model = self.args, self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, model)
            groups = build_parameter_groups(
                model, args.learning_rate, args.head_lr_multiplier, args.weight_decay,
                decay_norms=args.decay_norms, decay_biases=args.decay_biases,
                stages=list_stages(model) if args.stage_lr_decay != 1 else (), stage_lr_decay=args.stage_lr_decay,
            )  # fmt: skip
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if not isinstance(self.args, UrbanSegTrainingArguments):
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = build_schedule(self.args, optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def settle(self) -> None:
        """Makes the model what is measured and exported, for good: averaged if so chosen, adapters merged."""
        if getattr(self.args, "export_ema", False):
            self.ema.use()
        if list_adapted(self.model):
            merge_lora(self.model)
            self.ema = None  # the averages are of the adapters
