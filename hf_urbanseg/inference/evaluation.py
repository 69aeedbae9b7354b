"""Measuring a model on a split at native resolution: one confusion matrix, and counts image by image."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import accelerate
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from hf_urbanseg.data.collator import collate_eval
from hf_urbanseg.data.loader_start import explain_start
from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.inference.multi_scale import predict_views
from hf_urbanseg.inference.plan import PLAIN, PredictionPlan
from hf_urbanseg.inference.upsampling import Span
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.launch import count_processes
from hf_urbanseg.metrics.boundary_iou import compute_boundary_counts
from hf_urbanseg.metrics.calibration import BINS, count_calibration
from hf_urbanseg.metrics.confusion_matrix import ConfusionMatrix
from hf_urbanseg.metrics.image_counts import ImageCounts, ImageCountsBuilder
from hf_urbanseg.progress import show_progress

if TYPE_CHECKING:
    from hf_urbanseg.inference.predictor import Predictor

# Images whose boundaries may wait to be counted: bounds memory, and is more than any batch.
_WAITING = 32


@dataclass(frozen=True)
class Measurement:
    """What a pass over a split leaves; every score is computed from it.

    Args:
        matrix: (C, C) int64 on the CPU; row = label, column = prediction.
        images: The same pixels image by image.
        sizes: How many images have each (height, width).
        calibration: By temperature what `count_calibration` counts, of the same pixels.
    """

    matrix: torch.Tensor
    images: ImageCounts
    sizes: Counter
    calibration: Mapping[float, torch.Tensor] = field(default_factory=dict)

    def gather(self, order: Sequence[str]) -> "Measurement":
        """Brings the shares of all processes together, on every process; images in the order of `order`."""
        parts = gather_parts(self)
        # A process without images doesn't know whether boundaries were counted.
        images = ImageCounts.concatenate([part.images for part in parts if len(part.images)] or [self.images])
        row = {name: index for index, name in enumerate(images.names)}
        matrix, sizes = sum(part.matrix for part in parts), sum((part.sizes for part in parts), Counter())
        calibration = {one: sum(part.calibration[one] for part in parts) for one in self.calibration}
        return Measurement(matrix, images.select(row[name] for name in order), sizes, calibration)


def gather_parts(part) -> list:
    """The parts of all processes, on every process, in order of rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [part]
    parts = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return parts


class TensorEvalDataset(Dataset):
    """Any data set of `pixel_values` (3, h, w) and `labels` (H, W), as `EvalDataset` gives them; names are numbers."""

    def __init__(self, dataset: Dataset):
        self.dataset, self.names = dataset, [*map(str, range(len(dataset)))]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, list[torch.Tensor] | torch.Tensor | int]:
        sample = self.dataset[index]
        return {"views": [sample["pixel_values"]], "labels": sample["labels"], "index": index}


def build_eval_loader(
    dataset: EvalDataset | TensorEvalDataset,
    batch_size: int,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> DataLoader:
    """This rank's share of a split: every image on exactly one rank, none padded, none repeated.

    `num_workers` processes read ahead while a GPU works, into memory that it copies from by itself. None on a CPU,
    where they would take cores from the model and leave its other threads waiting: its own threads read each batch,
    which costs a quarter.
    """
    kind = torch.device(device).type
    loader = DataLoader(
        Subset(dataset, range(rank, len(dataset), world_size)),
        batch_size=batch_size,
        collate_fn=collate_eval,
        num_workers=0 if kind == "cpu" else num_workers,
        pin_memory=kind == "cuda",
        # A generator of its own: measuring must not advance the random numbers of training.
        generator=torch.Generator().manual_seed(0),
    )
    explain_start(loader)
    return loader


def measure(
    model: torch.nn.Module,
    loader: DataLoader,
    names: Sequence[str],
    classes: Sequence[str],
    plan: PredictionPlan = PLAIN,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    boundary: bool = False,
    temperatures: Sequence[float] = (),
    on_batch: Callable[[int], object] = lambda images: None,
) -> Measurement:
    """Predicts every image of `loader` at its native size and counts pixels.

    Logits are upsampled in fp32 (bilinear, corners free) to the label's size before the argmax. The model is left in
    the mode it was in. Memory doesn't grow with the number of images, but for half a kilobyte of counts each. With
    several ranks, this is the rank's share; see `Measurement.gather`.

    Args:
        loader: From `build_eval_loader`; its data set was made with the input sizes of `plan`.
        names: Of all images of the data set. `classes`: names in train-id order.
        boundary: Also count for boundary IoU (a few milliseconds an image, beside the model's work).
        temperatures: Also count for calibration with the logits divided by each of these.
        on_batch: Called after each batch with the number of its images, for a progress bar.
    """
    matrix = ConfusionMatrix(len(classes), IGNORE_INDEX, device=device)
    builder, seen = ImageCountsBuilder(classes), Counter()
    waiting: deque[tuple[str, torch.Tensor, Future | None]] = deque()

    calibration = {one: torch.zeros(5, BINS, dtype=torch.int64, device=device) for one in temperatures}

    def calibrate(labels: list[torch.Tensor], index: int, rows: Span, columns: Span, logits: torch.Tensor) -> None:
        label = labels[index][slice(*rows), slice(*columns)].to(logits.device)
        for temperature, counts in calibration.items():
            counts += count_calibration((logits / temperature).softmax(0), label)

    def finish(limit: int) -> None:
        while len(waiting) > limit:
            name, counts, bands = waiting.popleft()
            builder.add(name, counts, bands.result() if bands else None)

    was_training = model.training
    model.eval()
    try:
        # OpenCV lets go of the interpreter, so the model goes on meanwhile.
        with torch.no_grad(), ThreadPoolExecutor(1) as pool:
            for batch in loader:
                labels = batch["labels"]
                sizes = [tuple(label.shape) for label in labels]
                seen.update(sizes)
                shown = [names[index] for index in batch["index"]]
                visit = partial(calibrate, labels) if calibration else None
                predictions = predict_views(model, batch["views"], sizes, plan, device, autocast, shown, visit)
                for index, prediction, label in zip(batch["index"], predictions, labels, strict=True):
                    there = label.to(prediction.device, non_blocking=label.is_pinned())
                    counts = matrix.update(prediction, there)
                    bands = pool.submit(_count_boundary, prediction, label, len(classes)) if boundary else None
                    waiting.append((names[index], counts, bands))
                finish(_WAITING)
                on_batch(len(labels))
            finish(0)
    finally:
        model.train(was_training)
    counts = {one: found.cpu() for one, found in calibration.items()}
    return Measurement(matrix.matrix.cpu(), builder.build(), seen, counts)


def _count_boundary(prediction: torch.Tensor, label: torch.Tensor, num_labels: int) -> np.ndarray:
    return compute_boundary_counts(prediction.cpu().numpy(), label.numpy(), num_labels)


def join_processes(device: str | None) -> accelerate.PartialState | None:
    """The group that `accelerate launch` or torchrun asks for; None for a single process."""
    if count_processes() == 1:
        return None
    on_cpu = not torch.accelerator.is_available() or (device or "").startswith("cpu")
    return accelerate.PartialState(cpu=True, backend="gloo") if on_cpu else accelerate.PartialState()


def measure_shared(
    predictor: "Predictor",
    dataset: EvalDataset,
    classes: tuple[str, ...],
    batch_size: int,
    num_workers: int,
    title: str,
    processes: accelerate.PartialState | None = None,
    temperatures: Sequence[float] = (),
) -> Measurement:
    """Counts of a whole split, on every process, with boundaries; the first one shows a progress bar.

    `dataset` was made with the input sizes of `predictor`; `batch_size` and `num_workers` are per process. With
    `temperatures` as in `measure`.
    """
    with open_share(predictor, dataset, batch_size, num_workers, title, processes) as (loader, bar):
        share = measure(
            predictor.model, loader, dataset.names, classes, predictor.plan, predictor.model.device, boundary=True,
            temperatures=temperatures, on_batch=bar.update,
        )  # fmt: skip
    return share.gather(dataset.names)


@contextmanager
def open_share(
    predictor: "Predictor",
    dataset: EvalDataset,
    batch_size: int,
    num_workers: int,
    title: str,
    processes: accelerate.PartialState | None = None,
) -> Iterator[tuple[DataLoader, tqdm]]:
    """The batches that this process has of a split, and the progress bar; arguments as of `measure_shared`."""
    rank, world_size = (0, 1) if processes is None else (processes.process_index, processes.num_processes)
    loader = build_eval_loader(dataset, batch_size, num_workers, rank, world_size, predictor.model.device)
    passes_of = None if predictor.plan.is_plain else predictor.model
    with show_progress(len(loader.dataset), title, "image", rank > 0, passes_of) as bar:
        yield loader, bar
