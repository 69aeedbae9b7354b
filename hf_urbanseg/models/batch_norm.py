"""BatchNorm across processes, and BatchNorm that keeps its statistics."""

import logging

import torch
from torch import nn

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
