"""Gradient of one optimiser step over the same eight samples, for any layout; run directly or under a launcher."""

import sys
from pathlib import Path

import torch
from datasets import DatasetDict
from transformers import TrainerCallback, set_seed

from hf_urbanseg.config import UrbanSegTrainingArguments
from hf_urbanseg.data.preprocessing import EvalDataset, TrainDataset
from hf_urbanseg.data.synthetic import build_synthetic_splits
from hf_urbanseg.data.transforms import build_train_transforms, parse_scales
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.losses.composition import WeightedSumLoss
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.models.build import build_image_processor, build_random_model
from hf_urbanseg.trainer import UrbanSegTrainer

NORMALIZERS = ("valid_pixels", "weight_sum")
TWO_PROCESS_LAYOUTS = ((4, 1), (2, 2))


class KeepGradients(TrainerCallback):
    def __init__(self):
        self.gradients = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def build_arguments(output_dir, **options) -> UrbanSegTrainingArguments:
    defaults = {
        "max_steps": 1,
        "warmup_steps": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "dataloader_num_workers": 0,
        "disable_tqdm": True,
        "learning_rate": 1e-3,
        "seed": 3,
    }
    return UrbanSegTrainingArguments(output_dir=str(output_dir), **defaults | options)


def build_trainer(args, normalizer="valid_pixels", num_images=8, num_eval_images=5, **model_options) -> UrbanSegTrainer:
    """A tiny trainer on rendered streets; crops reach beyond the image, so void differs between samples."""
    torch.set_num_threads(1)
    set_seed(0)
    rows: DatasetDict = build_synthetic_splits(train=num_images, validation=num_eval_images, test=1, size=(64, 96))
    transforms = build_train_transforms((64, 64), parse_scales(["0.5-1.0"]))
    loss = CrossEntropyLoss(CITYSCAPES.num_labels, torch.linspace(0.5, 1.5, CITYSCAPES.num_labels), normalizer)
    image_processor = build_image_processor((64, 96))
    return UrbanSegTrainer(
        build_random_model("tiny", CITYSCAPES, **model_options),
        args,
        WeightedSumLoss({"cross_entropy": (loss, 1.0)}),
        TrainDataset(rows["train"], CITYSCAPES, transforms, args.seed),
        EvalDataset(rows["validation"], CITYSCAPES, image_processor),
        image_processor,
    )


def compute_gradients(output_dir, batch_size: int, accumulation: int, normalizer: str) -> dict[str, torch.Tensor]:
    args = build_arguments(
        output_dir,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        freeze_batch_norm=True,
    )
    # The same seed draws other dropout masks in other layouts; that is not what is compared here.
    trainer = build_trainer(args, normalizer, drop_path_rate=0.0, classifier_dropout_prob=0.0)
    keep = KeepGradients()
    trainer.add_callback(keep)
    trainer.train()
    return keep.gradients


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for normalizer in NORMALIZERS:
        for batch_size, accumulation in TWO_PROCESS_LAYOUTS:
            gradients = compute_gradients(folder, batch_size, accumulation, normalizer)
            if torch.distributed.get_rank() == 0:
                torch.save(gradients, folder / f"{normalizer}_{batch_size}_{accumulation}.pt")
    torch.distributed.destroy_process_group()
