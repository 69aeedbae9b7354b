"""The training crops of a finished run, for what is found anew on them."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path

import torch

from hf_urbanseg.data.collator import collate_train
from hf_urbanseg.data.normalization import normalize_batch
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.preprocessing import TrainDataset
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.options.config import AugmentationArguments, DataArguments
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.runs.folder import RECIPE, RunFolder
from hf_urbanseg.runs.recorded_data import load_recorded_data


def draw_training_crops(
    data_args: DataArguments, run: str, seed: int, batch_size: int, batches: int
) -> Iterator[torch.Tensor]:
    """So many batches of a run's training crops, (N, C, h, w) float32 as its model takes them.

    Raises:
        UrbanSegError: The run's data isn't there, or has no training frames.
    """
    data = load_recorded_data(data_args, run)
    rows = data.get_split("train")
    inspection = inspect_pairs(data.splits, data.label_space, channels=data.channels, sampled=True)
    recorded = RunFolder(run).read_recipe() or {}
    known = {key: recorded[key] for key in (f.name for f in fields(AugmentationArguments)) if key in recorded}
    (augmentation,) = parse_arguments((AugmentationArguments,), [], known, str(Path(run) / RECIPE))
    transforms = build_train_transforms(**asdict(augmentation.fit(inspection.sizes("train"))))
    dataset = TrainDataset(rows, data.label_space, transforms, seed)
    sampler = dataset.build_sampler(batch_size, seed)
    steps = len(sampler) // batch_size
    for number in range(batches):
        epoch, step = divmod(number, steps)
        sampler.set_epoch(epoch)
        keys = islice(sampler, step * batch_size, (step + 1) * batch_size)
        yield normalize_batch(collate_train([dataset[key] for key in keys]))["pixel_values"]
