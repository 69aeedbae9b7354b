"""`EvaluatingTrainer`: a Trainer that measures every image once at native resolution, on all ranks."""

import math
import time

import torch
from torch.utils.data import Dataset
from transformers import Trainer
from transformers.trainer_utils import speed_metrics

from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.inference.evaluation import Measurement, TensorEvalDataset, build_eval_loader, measure
from hf_urbanseg.metrics.mean_iou import compute_scores
from hf_urbanseg.models.ema import ExponentialMovingAverage
from hf_urbanseg.runs.first_process import refusing_together
from hf_urbanseg.training.interruption import Interruption


class EvaluatingTrainer(Trainer):
    """`transformers.Trainer` whose evaluation keeps a confusion matrix; of averaged weights beside the raw ones."""

    ema: ExponentialMovingAverage | None
    interruption: Interruption | None

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
        args, id2label = self.args, self.model.config.id2label
        loader = build_eval_loader(
            dataset, args.eval_batch_size, args.dataloader_num_workers, args.process_index, args.world_size, args.device
        )
        if self.interruption is not None:
            self.interruption.guard_workers(loader)
        self.callback_handler.eval_dataloader = loader
        with refusing_together():
            names = dataset.names
            share = measure(
                self.model,
                loader,
                names,
                [id2label[train_id] for train_id in range(self.model.config.num_labels)],
                device=args.device,
                **({"autocast": self.compute_loss_context_manager} if autocast else {}),
                boundary=boundary,
                on_batch=lambda images: self.callback_handler.on_prediction_step(args, self.state, self.control),
            )
        self.callback_handler.on_predict(args, self.state, self.control, {})  # closes the progress bar
        return share.gather(names)
