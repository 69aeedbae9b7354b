"""BatchNorm across processes, BatchNorm that keeps its statistics, and BatchNorm that finds them anew."""

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_BATCH_NORM = nn.modules.batchnorm._BatchNorm  # also the base of SyncBatchNorm


def convert_sync_batch_norm(model: nn.Module, world_size: int, device: torch.device | str) -> None:
    """Makes every BatchNorm of `model` compute its statistics over the batches of all processes.

    Before the model is wrapped by DDP. Parameters, buffers and key names stay. Without several processes on
    accelerators there is nothing to do, or nothing that works (SyncBatchNorm refuses CPU), and the log says so.
    """
    device = torch.device(device)
    if world_size <= 1 or device.type in ("cpu", "mps"):
        reason = "one process" if world_size <= 1 else f"on {device.type}, which it does not support"
        logger.info("BatchNorm is not synchronised: %s", reason)
        return
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    logger.info("BatchNorm layers are synchronised over %d processes", world_size)


def keep_batch_norm_statistics(model: nn.Module) -> None:
    """Puts the BatchNorm layers of `model` into evaluation mode: running statistics are used and stay as they are.

    Scale and shift still train. To be called after every `model.train()`, which undoes it.
    """
    for module in model.modules():
        if isinstance(module, _BATCH_NORM):
            module.eval()


def list_batch_norms(model: nn.Module) -> list[nn.Module]:
    """Its BatchNorm layers that keep running statistics."""
    found = [module for module in model.modules() if isinstance(module, _BATCH_NORM)]
    return [module for module in found if module.track_running_stats]


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Makes the running statistics of `model` the plain means over `batches`; it is in evaluation mode afterwards.

    For averaged weights, whose statistics aren't the average of the others' statistics. Dropout and drop path are off,
    as where the statistics will be used.

    Args:
        batches: Inputs of the model, (N, C, H, W) float.

    Source: Izmailov et al. 2018 (stochastic weight averaging), section 3.2; torch's `swa_utils.update_bn` leaves
        dropout on.
    """
    model.eval()
    layers = {module: module.momentum for module in list_batch_norms(model)}
    for module in layers:
        module.reset_running_stats()
        module.momentum = None  # a cumulative mean
        module.train()
    for pixel_values in batches:
        model(pixel_values)
    for module, momentum in layers.items():
        module.momentum = momentum
    model.eval()
