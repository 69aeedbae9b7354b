"""Trains two steps on two processes, so that BatchNorm statistics differ by rank, then measures and saves.

Between the two, one rank has a step of NaN, which both must skip. Another training, of half a network, stops early.
"""

import json
from pathlib import Path

import torch
from gradients import build_arguments, build_trainer


def main(folder: Path) -> None:
    trainer = build_trainer(build_arguments(folder, max_steps=3, per_device_train_batch_size=2, logging_steps=1))
    rank = trainer.args.process_index

    def ruin(module, args, output):
        return output * torch.nan if rank == 1 and trainer.state.global_step == 1 and module.training else output

    trainer.model.decode_head.register_forward_hook(ruin)
    trainer.train()
    skipped = [entry["step"] for entry in trainer.state.log_history if entry.get("skipped_steps")]
    torch.save({"skipped": skipped, "state": trainer.model.state_dict()}, folder / f"trained_{rank}.pt")
    measurement = trainer.measure(trainer.eval_dataset, boundary=True)
    trainer.save_model(str(folder / "model"), _internal_call=True)
    torch.save(measurement.matrix, folder / f"matrix_{rank}.pt")
    if rank == 1:
        (folder / "images.json").write_text(json.dumps(measurement.images.to_dict()))
    # One whose scores stay as they are, and which both must end behind its second.
    stopped = build_trainer(
        build_arguments(
            folder / "stopped", max_steps=9, eval_strategy="steps", eval_steps=1, early_stopping_patience=1,
            learning_rate=0.0, freeze_batch_norm=True, per_device_train_batch_size=1, freeze_stages=3,
        )
    )  # fmt: skip
    stopped.train()
    (folder / f"stopped_{rank}.txt").write_text(str(stopped.state.global_step))
