"""`UrbanSegTrainer`: transformers' Trainer with exact losses, whole checkpoints and streaming evaluation."""

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, TrainerState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, speed_metrics

from hf_urbanseg.checkpoints import (
    commit_checkpoint,
    explain_failed_save,
    find_newest_checkpoint,
    load_weights,
    reading_state,
    remove_staging,
    rotate_checkpoints,
    staging_folder,
)
from hf_urbanseg.data.collator import collate_train
from hf_urbanseg.data.preprocessing import EpochSampler, EvalDataset, TrainDataset
from hf_urbanseg.data.transforms import normalize_batch
from hf_urbanseg.divergence import DivergenceGuard
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.files import write_json
from hf_urbanseg.inference.evaluation import Measurement, TensorEvalDataset, build_eval_loader, measure
from hf_urbanseg.interruption import Interruption
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.losses.composition import WeightedSumLoss
from hf_urbanseg.losses.log import LossLog
from hf_urbanseg.manifest import verify_checkpoint
from hf_urbanseg.metrics.mean_iou import compute_scores
from hf_urbanseg.models.auxiliary_head import save_auxiliary_head
from hf_urbanseg.models.batch_norm import convert_sync_batch_norm, keep_batch_norm_statistics
from hf_urbanseg.models.compilation import check_compiler, run_once
from hf_urbanseg.models.ema import ExponentialMovingAverage
from hf_urbanseg.models.loading import first_line
from hf_urbanseg.optim import build_parameter_groups
from hf_urbanseg.stock_options import build_schedule, check_supported, choose_data_seed
from hf_urbanseg.trainer_hooks import TrainerHooks, settle_best
from hf_urbanseg.training_arguments import UrbanSegTrainingArguments

logger = logging.getLogger(__name__)


class UrbanSegTrainer(Trainer):
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
        train_dataset: TrainDataset | Dataset | None = None,
        eval_dataset: EvalDataset | Dataset | dict[str, EvalDataset | Dataset] | None = None,
        processing_class=None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        if args.push_to_hub:
            # Stock's push needs the Hub at start, hides failures, can hang at the end, and uploads the token.
            raise ConfigError("no `push_to_hub` in the trainer", "it", "add a `hub.callback.PublishCallback` instead")
        if not isinstance(args, UrbanSegTrainingArguments):  # which check themselves
            check_supported(args)
        loss = loss if isinstance(loss, WeightedSumLoss) else WeightedSumLoss(loss)
        self._adapt_arguments(args, model, eval_dataset is not None)
        if getattr(args, "sync_batch_norm", False):
            convert_sync_batch_norm(model, args.world_size, args.device)
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
        self.train_sampler: EpochSampler | None = None
        self.loss_log = LossLog(self.args.device)
        ema_decay = getattr(args, "ema_decay", 0)
        self.ema = ExponentialMovingAverage(self.model, ema_decay) if ema_decay else None
        self.guard = DivergenceGuard(self)
        self._step_batches: list[dict[str, Tensor]] = []
        self.first_step = 0  # that training began at, a checkpoint's if it was resumed
        self.interruption: Interruption | None = None
        """Ends training behind the step in which it receives a signal, on all ranks, with a checkpoint."""
        self.stopping, self._saved_step = False, -1
        self._stop: tuple[Tensor, torch.Event | None] | None = None
        if args.torch_compile:
            run_once(self.model)
        self.add_callback(TrainerHooks(self))

    @staticmethod
    def _adapt_arguments(args: TrainingArguments, model: PreTrainedModel, can_evaluate: bool) -> None:
        """Settings that stock or our defaults have and that can't hold here."""
        if isinstance(args, UrbanSegTrainingArguments) and args.eval_strategy != "no" and not can_evaluate:
            logger.warning("there is no `eval_dataset`: nothing is measured or selected, the last step is what stays")
            args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
        if args.metric_for_best_model in ("loss", "eval_loss"):  # stock's default
            logger.info("no loss is computed in evaluation: the best checkpoint is that of the highest mean IoU")
            args.metric_for_best_model, args.greater_is_better = "mean_iou", True
        metric = (args.metric_for_best_model or "").removeprefix("eval_").removeprefix("ema_")
        if metric.startswith("iou_") and metric.removeprefix("iou_") not in model.config.id2label.values():
            fix = "choose one with `--metric_for_best_model`"
            raise ConfigError(f"a class of {', '.join(model.config.id2label.values())}", f"`{metric}`", fix)
        args.remove_unused_columns = False  # by the names of the model's arguments, of which `extent` is none
        if args.n_gpu > 1:
            # Several GPUs in one process would mean DataParallel, which splits batches behind the loss's back.
            logger.warning("one of %d GPUs is used; start with `accelerate launch` to use all", args.n_gpu)
            args._n_gpu = 1

    # Data

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        # A generator of its own: starting workers would draw from the one that dropout uses, and a resumed run starts
        # them at other points.
        base = getattr(loader, "base_dataloader", loader)
        base.generator = torch.Generator().manual_seed(self.args.seed)
        if self.interruption is not None:
            self.interruption.guard_workers(base)
        return loader

    def _get_train_sampler(self, train_dataset=None):
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        step_size = self._train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        sampler = EpochSampler if isinstance(dataset, TrainDataset) else _IndexSampler
        self.train_sampler = sampler(len(dataset), step_size, choose_data_seed(self.args))
        return self.train_sampler

    def _prepare_inputs(self, inputs):
        inputs = normalize_batch(super()._prepare_inputs(inputs))
        return inputs | {"labels": inputs["labels"].long()}

    def _freeze_batch_norm(self) -> None:
        if getattr(self.args, "freeze_batch_norm", False):
            keep_batch_norm_statistics(self.model)

    # Loss

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        """Global normalisers of an optimiser step, one per part of the loss: fp64 (number of parts,)."""
        if not batch_samples:
            return None
        labels = [batch["labels"].long() for batch in batch_samples]
        per_batch = [torch.stack([*self.loss.compute_normalizer(one).values()]) for one in labels]
        self._step_batches = batch_samples if self.loss.needs_collection else []
        # One more number in the message that every step sends: whether a rank was asked to stop.
        stop = self.interruption is not None and self.interruption.received is not None
        sums = torch.cat([torch.stack(per_batch).sum(0), per_batch[0].new_tensor([stop])])
        sums = self._sum_over_ranks(sums.to(device))
        if self.interruption is not None and self.args.world_size > 1:
            copied = sums[-1].to("cpu", non_blocking=True)
            self._stop = copied, None if device.type == "cpu" else torch.accelerator.current_stream().record_event()
        return sums[:-1]

    def is_asked_to_stop(self) -> bool:
        """Whether training ends behind the present step; the same answer on every rank."""
        if self._stop is None:
            return self.interruption is not None and self.interruption.received is not None
        stop, copied = self._stop
        if copied is not None:
            copied.synchronize()  # with the copy, not with the step that the device has been given since
        return bool(stop)

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        return self.accelerator.reduce(tensor, "sum")

    @torch.no_grad()
    def collect_step(self) -> None:
        """Shows all micro-batches of the coming step to losses that need the whole of it (one extra forward each).

        The passes leave no trace: random numbers and BatchNorm's statistics are put back, so that the real passes
        draw the same dropout masks and see the same logits. A compiled model therefore runs compiled here, and with
        gradients: eager code rounds and (against inductor) draws differently, and without gradients it would be
        compiled once more.
        """
        batches, self._step_batches = self._step_batches, []
        if len(batches) * self.args.world_size < 2:
            return  # a loss knows its only batch
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        device, compiled = self.args.device, self.args.torch_compile
        model = self.model_wrapped if compiled else self.model
        self.model.train()
        self._freeze_batch_norm()
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
        self.loss.settle(self._sum_over_ranks)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        self._freeze_batch_norm()
        outputs = model(pixel_values=inputs["pixel_values"])
        normalizer = None
        if num_items_in_batch is not None:
            normalizer = dict(zip(self.loss.weights, num_items_in_batch, strict=True))
        parts = self.loss(outputs, labels, normalizer)
        self.loss_log.add(parts, self.loss.diagnostics, void=(labels == IGNORE_INDEX).all())
        loss = sum(parts.values())
        if num_items_in_batch is not None:
            # DDP averages gradients over ranks; the global normaliser calls for their sum.
            loss = loss * self.accelerator.num_processes
        # A loss that isn't finite has no finite gradient, so that every rank learns of it.
        loss = loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.loss_log.drain(self.state.global_step, self._sum_over_ranks)
            if self.guard.skips:
                logs["skipped_steps"] = 1
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

    # Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Scores of a split as `<prefix>_mean_iou`, `_mean_accuracy`, `_overall_accuracy`, `_iou_<class>` in [0, 1].

        Classes that occur neither in labels nor in predictions have no `_iou_` entry; see `compute_scores`.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, dict):
            metrics = {}
            for name, part in dataset.items():
                metrics |= self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        start = time.time()
        metrics = self._compute_metrics(dataset)
        if self.ema is not None and self.ema.step:
            with self.ema.swap():
                metrics |= {f"ema_{key}": value for key, value in self._compute_metrics(dataset).items()}
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in metrics.items()}
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=len(dataset))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _compute_metrics(self, dataset: EvalDataset | Dataset) -> dict[str, float]:
        scores = compute_scores(self.measure(dataset, autocast=True).matrix)
        metrics = {key: scores[key] for key in ("mean_iou", "mean_accuracy", "overall_accuracy")}
        names = self.model.config.id2label
        return metrics | {f"iou_{names[i]}": value for i, value in enumerate(scores["iou"]) if not math.isnan(value)}

    def measure(self, dataset: EvalDataset | Dataset, autocast: bool = False, boundary: bool = False) -> Measurement:
        """Counts of a split over all ranks, each image once, at native resolution.

        Args:
            autocast: Use the precision of training; False measures in fp32, as a user of the saved model would.
            boundary: Also count for boundary IoU.
        """
        if self.args.world_size > 1:
            # Every rank takes the BatchNorm statistics of the first, which are the ones that are saved.
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        dataset = dataset if isinstance(dataset, EvalDataset) else TensorEvalDataset(dataset)
        # `self.model` and not what wraps it: under DDP, ranks may have different numbers of batches; compiled, images
        # of another size than the crops, and gradients being off, would each be compiled anew.
        args, names, id2label = self.args, dataset.names, self.model.config.id2label
        loader = build_eval_loader(
            dataset, args.eval_batch_size, args.dataloader_num_workers, args.process_index, args.world_size, args.device
        )
        if self.interruption is not None:
            self.interruption.guard_workers(loader)
        self.callback_handler.eval_dataloader = loader
        share = measure(
            self.model,
            loader,
            names,
            [id2label[train_id] for train_id in range(self.model.config.num_labels)],
            device=args.device,
            **({"autocast": self.compute_loss_context_manager} if autocast else {}),
            boundary=boundary,
            on_batch=lambda: self.callback_handler.on_prediction_step(args, self.state, self.control),
        )
        self.callback_handler.on_predict(args, self.state, self.control, {})  # closes the progress bar
        return share.gather(names)

    # Checkpoints

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(find_newest_checkpoint(self.args.output_dir))
        elif resume_from_checkpoint:
            verify_checkpoint(Path(resume_from_checkpoint))
        if resume_from_checkpoint:
            with reading_state(resume_from_checkpoint, TRAINER_STATE_NAME):
                TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
        if self.args.should_save:
            remove_staging(self.args.output_dir)
        with contextlib.nullcontext() if self.interruption is None else self.interruption.deferring():
            trained = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        return trained._replace(training_loss=trained.metrics["train_loss"])

    def _run_epoch(self, *args, **kwargs):
        if self.state.global_step >= self.state.max_steps:
            # Resumed behind its last step: stock would take one more.
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self.stopping:
            # From here and not by the loop's own end, which measures off the cadence and loads the best model.
            if self._saved_step != self.state.global_step and not self.guard.in_a_row:
                self._save_checkpoint(None, None)
            done = f"after step {self.state.global_step} of {self.state.max_steps}"
            kept = f"checkpoint-{self._saved_step}" if self._saved_step > 0 else "the newest checkpoint"
            self.interruption.end(f"{done}; the same command with `--resume` goes on from {kept}")

    def _save_checkpoint(self, model, trial) -> None:
        """Stock's parts of a checkpoint, written aside and moved into place when all ranks are done."""
        self.store_flos()
        self.state.stateful_callbacks["loss"] = self._describe_loss()
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        staged = staging_folder(checkpoint)
        if self.args.should_save:
            shutil.rmtree(staged, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with self._writing(checkpoint):
            self._stage_checkpoint(checkpoint, staged)
        with self._writing(checkpoint):
            if self.args.should_save:
                commit_checkpoint(staged, checkpoint)
                rotate_checkpoints(checkpoint, self.args.save_total_limit, self.state.best_model_checkpoint)
        self._saved_step = self.state.global_step

    @contextmanager
    def _writing(self, checkpoint: Path) -> Iterator[None]:
        """What one rank can't write ends all of them, with what is safe; also waits for all of them."""
        failure, reason = None, None
        try:
            yield
        # What torch raises on a full disk is a RuntimeError, and its errors of a device are such, too.
        except (OSError, SafetensorError, RuntimeError, DataError) as error:
            if isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError):
                raise
            said = (getattr(error, name, None) for name in ("strerror", "found"))
            failure, reason = error, next(filter(None, said), first_line(error))
        reasons = [reason]
        if self.args.world_size > 1:
            reasons = [None] * self.args.world_size
            torch.distributed.all_gather_object(reasons, reason)
        if reason := next(filter(None, reasons), None):
            if self.args.should_save:
                shutil.rmtree(staging_folder(checkpoint), ignore_errors=True)
            raise explain_failed_save(checkpoint, reason) from failure

    def _stage_checkpoint(self, checkpoint: Path, staged: Path) -> None:
        self.save_model(str(staged), _internal_call=True)
        if self.state.best_global_step:
            best = checkpoint.with_name(f"checkpoint-{self.state.best_global_step}")
            if best == checkpoint or best.exists():
                self.state.best_model_checkpoint = str(best)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(staged))
            self._save_scaler(str(staged))
            self._save_rng_state(str(staged))
        if self.args.should_save:
            save_auxiliary_head(self.model, staged)
            if self.ema is not None:
                self.ema.save(staged)
            for callback in [*self.callback_handler.callbacks, self.control]:
                if isinstance(callback, ExportableState):
                    self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            write_json(staged / TRAINER_STATE_NAME, asdict(self.state))  # stock's own way writes NaN, no JSON

    def _describe_loss(self) -> dict:
        """The loss so far, so that what a resumed run logs is as if it had never been interrupted."""

        def average(value: Tensor) -> Tensor:
            return self._sum_over_ranks(value.double()) / self.args.world_size

        return {
            "sum": self._total_loss_scalar,
            "since": float(average(self._tr_loss)),  # the last log line
            "logged": self._globalstep_last_logged,
            "log": self.loss_log.state(average),
        }

    def restore_loss(self) -> None:
        saved = self.state.stateful_callbacks.get("loss")
        if saved is not None:
            self._total_loss_scalar, self._globalstep_last_logged = saved["sum"], saved["logged"]
            self._tr_loss += saved["since"]
            self.loss_log.load(saved["log"])

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.guard.check_weights()
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        # Stock pickles all arguments here, the Hub token among them.
        if self.args.should_save:
            (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        load_weights(self.model, resume_from_checkpoint, self.ema)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Moments and step of the checkpoint with the options of this start, such as a lower learning rate."""
        groups = [{key: group[key] for key in group.keys() - {"params", "lr"}} for group in self.optimizer.param_groups]
        with reading_state(checkpoint, "optimizer.pt and scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)
        for group, options in zip(self.optimizer.param_groups, groups, strict=True):
            if group.get("initial_lr"):
                group["lr"] *= options["initial_lr"] / group["initial_lr"]  # along the schedule
            group.update(options)
        if hasattr(self.lr_scheduler, "base_lrs"):
            self.lr_scheduler.base_lrs = [group["initial_lr"] for group in self.optimizer.param_groups]
            self.lr_scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _load_scaler(self, checkpoint: str | None) -> None:
        with reading_state(checkpoint, "scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading_state(checkpoint, "random states"):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        settle_best(self.args, self.state)
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _determine_best_metric(self, metrics, trial) -> bool:
        # A better score of a step that isn't saved is of no use: stock would remember it, load another step in the
        # end, and let no saved one take its place.
        if not self.control.should_save and self.args.save_strategy != SaveStrategy.BEST:
            return False
        metric = (self.args.metric_for_best_model or "").removeprefix("eval_")
        if metric.removeprefix("ema_").startswith("iou_") and f"eval_{metric}" not in metrics:
            return False  # a class that is neither labelled nor predicted has no IoU this time
        return super()._determine_best_metric(metrics, trial)


class _IndexSampler(EpochSampler):
    """The same order without the epochs, which data sets of others don't know."""

    def __iter__(self):
        return (index for _, index in super().__iter__())
