"""Measuring a model on a split: one confusion matrix at native resolution."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.utils.data import DataLoader, Subset

from hf_urbanseg.data.collator import collate_eval
from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.inference.predictor import upsample_argmax
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.metrics.confusion_matrix import ConfusionMatrix


def build_eval_loader(
    dataset: EvalDataset, batch_size: int, num_workers: int = 0, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """This rank's share of a split: every image on exactly one rank, none padded, none repeated."""
    return DataLoader(
        Subset(dataset, range(rank, len(dataset), world_size)),
        batch_size=batch_size,
        collate_fn=collate_eval,
        num_workers=num_workers,
        # A generator of its own: measuring must not advance the random numbers of training.
        generator=torch.Generator().manual_seed(0),
    )


def compute_confusion_matrix(
    model: torch.nn.Module,
    loader: DataLoader,
    num_classes: int,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    on_batch: Callable[[], None] = lambda: None,
) -> ConfusionMatrix:
    """Predicts every image of `loader` at its native size and counts pixels.

    Logits are upsampled in fp32 (bilinear, corners free) to the label's size before the argmax. The model is left in
    the mode it was in. With several ranks, the caller sums the matrices (`ConfusionMatrix.all_reduce`).

    Args:
        model: Gives `.logits` (N, C, h, w) for `pixel_values`.
        loader: From `build_eval_loader`.
        num_classes: C.
        device: Of the model.
        autocast: Context for the forward pass.
        on_batch: Called after each batch, for a progress bar.
    """
    matrix = ConfusionMatrix(num_classes, IGNORE_INDEX, device=device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in loader:
                with autocast():
                    logits = model(pixel_values=batch["pixel_values"].to(device)).logits
                labels = batch["labels"]
                predictions = upsample_argmax(logits, [tuple(label.shape) for label in labels])
                for prediction, label in zip(predictions, labels, strict=True):
                    matrix.update(prediction, label.to(device))
                on_batch()
    finally:
        model.train(was_training)
    return matrix
