"""One split measured by all processes of a launch, each image by one of them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import accelerate
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.inference.evaluation import Measurement, build_eval_loader, measure
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.progress import show_progress


def join_processes(device: str | None) -> accelerate.PartialState | None:
    """The group that `accelerate launch` or torchrun asks for; None for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    on_cpu = not torch.accelerator.is_available() or (device or "").startswith("cpu")
    return accelerate.PartialState(cpu=True, backend="gloo") if on_cpu else accelerate.PartialState()


def measure_shared(
    predictor: Predictor,
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
    predictor: Predictor,
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
