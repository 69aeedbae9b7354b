"""Training on frames without labels: the student learns under strong augmentation what a teacher is sure of.

The unlabelled crops of a step have passes of their own, before the labelled ones, whose gradients then come on top.
There BatchNorm goes by its running statistics, which are those of labelled crops, and leaves them: the student sees
with the same ones as the teacher, pictures in distorted colours don't get into what is measured with, and the gradient
is the same for any layout, BatchNorm included. Dropout draws from a generator of the pass's own, so that the labelled
passes are those of a run without unlabelled frames.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback

from hf_urbanseg.data.normalization import find_inside, normalize_pixels
from hf_urbanseg.data.preflight.checks import Inspection
from hf_urbanseg.data.preflight.pair_files import PairInspection
from hf_urbanseg.data.preflight.unlabelled import inspect_unlabelled
from hf_urbanseg.data.teacher_cache import is_teacher_cache
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.data.unlabelled import UnlabelledDataset, WithUnlabelled, list_unlabelled
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.losses.consistency import label_confidently
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.models.batch_norm import keep_batch_norm_statistics
from hf_urbanseg.models.freezing import keep_frozen
from hf_urbanseg.models.teacher import Teacher, load_teacher
from hf_urbanseg.options.config import AugmentationArguments
from hf_urbanseg.options.finetune_arguments import FinetuneArguments
from hf_urbanseg.options.stock_options import choose_data_seed
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.options.unlabelled import OWN_AVERAGES, UnlabelledArguments

if TYPE_CHECKING:
    from hf_urbanseg.training.trainer import UrbanSegTrainer

logger = logging.getLogger(__name__)


class UnlabelledStep(TrainerCallback):
    """The passes over a step's unlabelled crops; a callback of the trainer whose data set brings them along.

    Args:
        teacher: None for the trainer's own averaged weights.
        threshold: A pixel is learnt if its best class is more probable than this.
        weight: Of the cross-entropy, which is the sum over those pixels divided by all pixels of the step's unlabelled
            crops, over all ranks and micro-batches, that are not padding.
    """

    def __init__(
        self, trainer: "UrbanSegTrainer", teacher: Teacher | None = None, threshold: float = 0.95, weight: float = 1.0
    ):
        self.trainer, self.teacher, self.threshold, self.weight = trainer, teacher, threshold, weight
        self.loss = CrossEntropyLoss(trainer.model.config.num_labels)

    def on_step_begin(self, args, state, control, **kwargs):
        trainer, device = self.trainer, args.device
        brought = [batch["unlabelled"] for batch in trainer.step_batches if "unlabelled" in batch]
        crops = {key: torch.cat([one[key] for one in brought]).to(device) for key in brought[0]}
        inside = find_inside(crops["extent"], crops["weak"].shape[2:])
        normalizer = trainer.sum_over_ranks(inside.sum().double())
        with torch.random.fork_rng([] if device.type == "cpu" else [device]):
            seeds = np.random.SeedSequence([args.seed, state.global_step, args.process_index])
            torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
            labels, probability = self._ask(crops["weak"], inside)
            exchanged = find_exchanged(crops["box"], inside.shape[1:])
            strong, labels, inside = (exchange(one, exchanged) for one in (crops["strong"], labels, inside))
            loss = self._learn(strong, labels, inside, normalizer)
        # The log divides diagnostics by the number of micro-batches, of all ranks; these are shares of the whole step.
        count = len(trainer.step_batches) * args.world_size
        shares = {"confident": (labels != self.loss.ignore_index).sum(), "confidence": probability}
        shares = {f"unlabelled_{name}": one * count / normalizer.clamp_min(1) for name, one in shares.items()}
        trainer.loss_log.add({"unlabelled": loss}, shares)

    def _ask(self, weak: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        labels, total = [], 0.0
        for pixels, where in self._split(weak, inside):
            values = normalize_pixels(pixels, where)
            if self.teacher is None:
                with self.trainer.compute_loss_context_manager():
                    scores, taught = self.trainer.ema.predict(values), None
            else:
                scores, taught = self.teacher(values).logits, self.teacher.taught
            found, probability = label_confidently(scores, where, self.threshold, taught)
            labels.append(found)
            total = total + probability
        return torch.cat(labels), total

    def _learn(self, strong: Tensor, labels: Tensor, inside: Tensor, normalizer: Tensor) -> Tensor:
        trainer, total = self.trainer, 0.0
        # Not the wrapper of several processes: the labelled passes will reduce what is left in the gradients here.
        model = trainer.model_wrapped if trainer.args.torch_compile else trainer.model
        model.train()
        keep_frozen(trainer.frozen)
        keep_batch_norm_statistics(model)
        for pixels, label, where in self._split(strong, labels, inside):
            with trainer.accelerator.no_sync(trainer.model_wrapped), trainer.compute_loss_context_manager():
                logits = model(pixel_values=normalize_pixels(pixels, where))["logits"]
                loss = self.weight * self.loss(logits, label.long(), normalizer)
                whole = loss * trainer.accelerator.num_processes  # as in `UrbanSegTrainer.compute_loss`
                trainer.accelerator.backward(whole * torch.where(whole.detach().isfinite(), 1.0, math.nan))
            trainer._tr_loss += whole.detach()
            total = total + loss.detach()
        return total

    def _split(self, *tensors: Tensor):
        return zip(*(one.split(self.trainer.args.train_batch_size) for one in tensors), strict=True)


def find_exchanged(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Shape: boxes: (N, 4) int64, top, bottom, left, right; returns (N, *size) bool."""
    top, bottom, left, right = boxes.T[..., None]
    rows, columns = (torch.arange(side, device=boxes.device) for side in size)
    return ((top <= rows) & (rows < bottom))[:, :, None] & ((left <= columns) & (columns < right))[:, None, :]


def exchange(crops: Tensor, exchanged: Tensor) -> Tensor:
    """Crops, two by two, with each other's pixels where `exchanged` says so (CutMix, Yun et al. 2019).

    Shape: crops: (N, h, w) or (N, C, h, w), N even; exchanged: (N, h, w) bool.
    """
    others = crops.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return torch.where(exchanged if crops.ndim == 3 else exchanged[:, None], others, crops)


@dataclass(frozen=True)
class UnlabelledTraining:
    """What a run trains on without labels, ready to be joined to the rest.

    Args:
        dataset: Its crops.
        crops_per_step: An even number.
        teacher: None for the run's own averages.
        record: For the run's folder: `frames`, name -> SHA-256 of its file, in their order; `teacher`; the options.
    """

    dataset: UnlabelledDataset
    crops_per_step: int
    teacher: Teacher | None
    record: Mapping

    def join(self, train_dataset: torch.utils.data.Dataset) -> WithUnlabelled:
        return WithUnlabelled(train_dataset, self.dataset, self.crops_per_step)

    def attach(self, trainer: "UrbanSegTrainer") -> None:
        threshold, weight = self.record["threshold"], self.record["weight"]
        trainer.add_callback(UnlabelledStep(trainer, self.teacher, threshold, weight))

    def describe(self) -> dict:
        """For the metrics: how many frames, and how they are learnt from."""
        return {**self.record, "frames": len(self.record["frames"])}


class UnlabelledFrames(NamedTuple):
    """Pictures that were looked at: rows of `image` and `name`, and what the preflight found."""

    rows: Dataset
    found: Sequence[PairInspection]


def read_unlabelled(
    options: UnlabelledArguments, labelled: Inspection, progress: bool = True, channels: int = 3
) -> UnlabelledFrames | None:
    """The frames that the options name, each checked; None where they name none."""
    if not options.unlabelled:
        return None
    rows = list_unlabelled(options.unlabelled, channels)
    return UnlabelledFrames(rows, inspect_unlabelled(rows, labelled, progress, channels))


def prepare_unlabelled(
    arguments: FinetuneArguments,
    frames: UnlabelledFrames | None,
    augmentation: AugmentationArguments,
    space: LabelSpace,
) -> UnlabelledTraining | None:
    """Checks that a step has pairs of crops, and loads and tries the teacher, before anything of a run is written."""
    if frames is None:
        return None
    options, args = arguments.unlabelled, arguments.training
    count, teacher = _count_crops(options.unlabelled_share, args), None
    if options.unlabelled_teacher != OWN_AVERAGES:
        teacher = _load_teacher(arguments, tuple(augmentation.crop_size), space)
    elif not args.ema_decay:
        expected, fix = "`ema_decay` with the run's own averages as teacher", "add for example `--ema_decay 0.999`"
        raise ConfigError(expected, "0", f"{fix}, or name another `--unlabelled_teacher`")
    logger.info("unlabelled: %d frames, %d crops a step", len(frames.rows), count)
    record = {
        "frames": {one.name: one.file_digests[0] for one in frames.found},
        "teacher": teacher.describe() if teacher else {"name": OWN_AVERAGES},
        "threshold": options.unlabelled_threshold,
        "weight": options.unlabelled_weight,
        "share": options.unlabelled_share,
        "cutmix": options.unlabelled_cutmix,
    }
    transforms = build_train_transforms(**asdict(replace(augmentation, max_class_share=1, photometric=False)))
    dataset = UnlabelledDataset(frames.rows, transforms, choose_data_seed(args), options.unlabelled_cutmix)
    return UnlabelledTraining(dataset, count, teacher, record)


def _load_teacher(arguments: FinetuneArguments, crop_size: tuple[int, int], space: LabelSpace) -> Teacher:
    name = arguments.unlabelled.unlabelled_teacher
    if is_teacher_cache(name):
        fix = "name the model that wrote it"
        raise ConfigError("a model, which sees the unlabelled crops", "what one wrote down of others", fix, name)
    stock, device = arguments.model.stock_decode_head, arguments.training.device
    teacher = load_teacher(name, space.names, device=device, stock_decode_head=stock)
    teacher.try_out(crop_size)
    if untaught := [one for train_id, one in enumerate(space.names) if train_id not in teacher.taught]:
        logger.warning("the unlabelled frames' teacher has no %s: it takes it for something else", ", ".join(untaught))
    return teacher


def _count_crops(share: float, args: UrbanSegTrainingArguments) -> int:
    """Unlabelled crops of an optimiser step: whole pairs, on each process as many as on others."""
    batch, where = args.train_batch_size, "a micro-batch" if args.world_size > 1 else "a step"
    batches = args.gradient_accumulation_steps * args.world_size
    crops = round(share * batch * (1 if args.world_size > 1 else batches), 6)
    if crops % 2 or not crops:
        fix = "change `--unlabelled_share`, of which 2 always fits, or the batch"
        raise ConfigError(f"an even number of unlabelled crops in {where}", f"{crops:g}", fix)
    return round(share * batch * batches)
