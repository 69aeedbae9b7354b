"""Trains two steps on two processes, so that BatchNorm statistics differ by rank, then measures and saves."""

import json
import sys
from pathlib import Path

import torch
from gradients import build_arguments, build_trainer

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    trainer = build_trainer(build_arguments(folder, max_steps=2, per_device_train_batch_size=2))
    trainer.train()
    measurement = trainer.measure(trainer.eval_dataset, boundary=True)
    trainer.save_model(str(folder / "model"), _internal_call=True)
    torch.save(measurement.matrix, folder / f"matrix_{torch.distributed.get_rank()}.pt")
    if torch.distributed.get_rank() == 1:
        (folder / "images.json").write_text(json.dumps(measurement.images.to_dict()))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
