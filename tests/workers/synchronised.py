"""A step with synchronised BatchNorm, on two processes that share one GPU; run under torchrun."""

import gc
import os
import sys
from pathlib import Path

import torch
from compiled import compute_gradients
from torch import nn

STEP = {"ddp_backend": "gloo"}  # NCCL refuses two processes on one device


def main(folder: Path) -> None:
    os.environ["LOCAL_RANK"] = "0"  # which GPU of the machine a process takes
    torch.backends.cudnn.allow_tf32 = False
    gradients, trainer = compute_gradients(folder, "auxiliary", per_device_train_batch_size=4, **STEP)
    layers = sum(isinstance(module, nn.SyncBatchNorm) for module in trainer.model.modules())
    if torch.distributed.get_rank() == 0:
        buffers = dict(trainer.model.named_buffers())
        torch.save({"gradients": gradients, "buffers": buffers, "layers": layers}, folder / "step.pt")
    del trainer
    gc.collect()  # a trainer that outlives the group can end in an abort
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
