"""Every part that two processes have in tests/training, each in a folder of its name; run under a launcher."""

import gc
import sys
from pathlib import Path

import compiled
import evaluation
import full_disk
import gradients
import interrupted
import torch
import unread

if __name__ == "__main__":
    gc.freeze()  # what is imported, which the collection of each training would go through
    for part in (gradients, evaluation, compiled, interrupted, full_disk, unread):
        folder = Path(sys.argv[1], part.__name__)
        folder.mkdir(exist_ok=True)
        part.main(folder)
        # Trainers collected after the group, or a process still at work, can end in an abort (torch 2.13, gloo).
        gc.collect()
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()
