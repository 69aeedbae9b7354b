"""Temperature scaling: one number that makes a model's confidence honest, fitted on validation; classes stay."""

from functools import partial

import numpy as np
import torch
from accelerate import PartialState

from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.inference.evaluation import gather_parts, open_share
from hf_urbanseg.inference.multi_scale import predict_views
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.inference.upsampling import Span
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.metrics.calibration import compute_likelihood, fit_temperature

# Pixels of a whole split: 40 MB of logits of 19 classes in fp64.
_PIXELS = 2**18


def fit_shared(
    predictor: Predictor, dataset: EvalDataset, batch_size: int, num_workers: int, processes: PartialState | None = None
) -> dict:
    """Fits the temperature of a predictor's plan on a split, by all processes of a launch; each gets the same.

    Of each image as many labelled pixels, drawn by its number in the split; they weigh what its pixels weigh in the
    split.

    Returns:
        `temperature`, `images`, `pixels` and the mean negative log-likelihood of those pixels before and after, `nll`.

    Raises:
        DataError: No temperature is the best.
    """
    most, samples = max(1, _PIXELS // max(1, len(dataset))), {}

    def keep(chosen: list[torch.Tensor], labels: list[torch.Tensor], found: list[list], index: int, rows: Span,
             columns: Span, logits: torch.Tensor) -> None:  # fmt: skip
        part = slice(*rows), slice(*columns)
        taken = chosen[index][part]
        picked = logits[:, taken.to(logits.device)].T.cpu().double()
        found[index].append((picked, labels[index][part][taken].long()))

    with open_share(predictor, dataset, batch_size, num_workers, "temperature", processes) as (loader, bar):
        predictor.model.eval()
        for batch in loader:
            labels, found = batch["labels"], [[] for _ in batch["index"]]
            chosen = [_choose_pixels(one, most, index) for one, index in zip(labels, batch["index"], strict=True)]
            sizes, names = [tuple(one.shape) for one in labels], [dataset.names[index] for index in batch["index"]]
            visit, device = partial(keep, chosen, labels, found), predictor.model.device
            with torch.no_grad():
                predict_views(predictor.model, batch["views"], sizes, predictor.plan, device, names=names, visit=visit)
            for index, label, parts in zip(batch["index"], labels, found, strict=True):
                samples[index] = *map(torch.cat, zip(*parts, strict=True)), int((label != IGNORE_INDEX).sum())
            bar.update(len(labels))
    samples = {index: sample for part in gather_parts(samples) for index, sample in part.items()}
    # In the order of the split, so that every number of processes sums the same.
    ordered = [samples[index] for index in sorted(samples)]
    logits, labels = (torch.cat(one) for one in list(zip(*ordered, strict=True))[:2])
    weights = torch.cat([torch.full((len(one),), total / max(1, len(one))).double() for _, one, total in ordered])
    weights /= weights.sum()
    temperature = fit_temperature(logits, labels, weights)
    nll = [compute_likelihood(logits, labels, weights, one) for one in (1.0, temperature)]
    return {"temperature": temperature, "images": len(dataset), "pixels": len(labels), "nll": nll}


def _choose_pixels(label: torch.Tensor, most: int, seed: int) -> torch.Tensor:
    """(H, W) bool: `most` of the labelled pixels, or all."""
    chosen, labelled = torch.zeros(label.shape, dtype=torch.bool), np.flatnonzero(label.numpy() != IGNORE_INDEX)
    drawn = np.random.default_rng(seed).choice(labelled, min(most, len(labelled)), replace=False, shuffle=False)
    chosen.view(-1)[drawn] = True
    return chosen
