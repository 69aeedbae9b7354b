"""What a run trains on: samples, class weights, and what is said of them."""

import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch

from hf_urbanseg.data.class_weights import compute_class_weights, load_class_weights
from hf_urbanseg.data.collator import collate_train
from hf_urbanseg.data.decoded_cache import build_decoded_cache
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.preflight.checks import Inspection, inspect_pairs
from hf_urbanseg.data.preprocessing import TrainDataset
from hf_urbanseg.data.sampling import EpochSampler
from hf_urbanseg.data.transforms import build_train_transforms, normalize_batch
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.models.freezing import count_trained
from hf_urbanseg.options.config import AugmentationArguments, DataArguments
from hf_urbanseg.options.finetune_arguments import OWN_DATA, FinetuneArguments
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.options.stock_options import choose_data_seed
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.runs.folder import RECIPE, RunFolder
from hf_urbanseg.runs.recorded_data import load_recorded_data

logger = logging.getLogger(__name__)

LOCAL_PROCESSES = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def weigh_classes(choice: str, inspection: Inspection, space: LabelSpace) -> tuple[np.ndarray | None, np.ndarray]:
    """Weights by scheme or file, and the training pixels per class."""
    per_image = inspection.train_id_counts("train", space)
    if choice.endswith(".json"):
        return load_class_weights(choice, space), per_image.sum(0)
    return None if choice == "none" else compute_class_weights(per_image, choice), per_image.sum(0)


def build_train_dataset(
    augmentation: AugmentationArguments,
    args: UrbanSegTrainingArguments,
    data: LoadedData,
    inspection: Inspection,
    teacher,
) -> TrainDataset:
    transforms = build_train_transforms(**asdict(augmentation))
    rows, sizes = data.splits["train"], [pair.size for pair in inspection.pairs["train"]]
    cache = build_decoded_cache(rows, data.label_space, sizes, args.cache_images, LOCAL_PROCESSES, data.channels)
    return TrainDataset(rows, data.label_space, transforms, choose_data_seed(args), cache, teacher)


def describe_defaults(arguments: FinetuneArguments, augmentation: AugmentationArguments) -> None:
    """What was taken where data was named and no recipe, and what to try next."""
    start = arguments.model.model_name_or_path if arguments.model.init == "pretrained" else "random weights"
    args, crop, scales = arguments.training, augmentation.crop_size, augmentation.train_scales
    logger.info(
        "no `--recipe` was named, so this is `%s`: %d steps from %s at learning rate %g, crops of %dx%d at scales %s",
        OWN_DATA, args.max_steps, start, args.learning_rate, *crop, " ".join(scales),
    )  # fmt: skip
    if start == "tiny-streets":
        logger.info(
            "  next: `--size b0` starts from SegFormer-B0 on the Hub (a GPU helps), `--max_steps` trains longer"
        )


def describe(data: LoadedData, inspection: Inspection, model, eval_size: tuple[int, int]) -> dict[str, int]:
    sizes = ", ".join(f"{split} {len(rows)}" for split, rows in data.splits.items())
    logger.info("data: %s (%s images), %d classes", data.name, sizes, data.label_space.num_labels)
    for note in data.notes:
        logger.info("  %s", note)
    size = "their own size" if data.channels > 3 else "{}x{} (height x width)".format(*eval_size)
    void = 100 * inspection.void_share("train", data.label_space)
    logger.info("void pixels in train: %.1f %%; images measured at %s, scores at native size", void, size)
    parameters = count_trained(model)
    logger.info("model: %.2f M parameters, %.2f M of them trained", *(count / 1e6 for count in parameters.values()))
    return parameters


def check_channels(arguments: FinetuneArguments) -> None:
    """Refuses what would leave the channels behind RGB unlearned, or can't take them."""
    channels, model, args = arguments.data.channels, arguments.model, arguments.training
    unfit = {
        "freeze_encoder": args.freeze_encoder, "freeze_stages": args.freeze_stages, "lora_rank": model.lora_rank,
        "teacher": arguments.distillation.teacher,
    }  # fmt: skip
    if channels > 3 and (found := [name for name, value in unfit.items() if value]):
        raise ConfigError(f"`channels` {channels} without `{found[0]}`", f"`{unfit[found[0]]}`", "leave it out")


def draw_training_crops(
    data_args: DataArguments, run: str, seed: int, batch_size: int, batches: int
) -> Iterator[torch.Tensor]:
    """So many batches of a run's training crops, (N, C, h, w) float32 as its model takes them.

    Raises:
        UrbanSegError: The run's data isn't there, or has no training frames.
    """
    data = load_recorded_data(data_args, run)
    rows, inspection = data.get_split("train"), inspect_pairs(data.splits, data.label_space, channels=data.channels)
    recorded = RunFolder(run).read_recipe() or {}
    known = {key: recorded[key] for key in (f.name for f in fields(AugmentationArguments)) if key in recorded}
    (augmentation,) = parse_arguments((AugmentationArguments,), [], known, str(Path(run) / RECIPE))
    transforms = build_train_transforms(**asdict(augmentation.fit(inspection.sizes("train"))))
    dataset = TrainDataset(rows, data.label_space, transforms, seed)
    sampler = EpochSampler(len(dataset), batch_size, seed)
    steps = len(sampler) // batch_size
    for number in range(batches):
        epoch, step = divmod(number, steps)
        sampler.set_epoch(epoch)
        keys = list(sampler)[step * batch_size :][:batch_size]
        yield normalize_batch(collate_train([dataset[key] for key in keys]))["pixel_values"]
