"""One split measured by all processes of a launch, each image by one of them."""

import os

import accelerate
import torch

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
) -> Measurement:
    """Counts of a whole split, on every process, with boundaries; the first one shows a progress bar.

    `dataset` was made with the input sizes of `predictor`; `batch_size` and `num_workers` are per process.
    """
    rank, world_size = (0, 1) if processes is None else (processes.process_index, processes.num_processes)
    device = predictor.model.device
    loader = build_eval_loader(dataset, batch_size, num_workers, rank, world_size, device)
    passes_of = None if predictor.plan.is_plain else predictor.model
    with show_progress(len(loader.dataset), title, "image", rank > 0, passes_of) as bar:
        share = measure(
            predictor.model, loader, dataset.names, classes, predictor.plan, device, boundary=True, on_batch=bar.update
        )
    return share.gather(dataset.names)
