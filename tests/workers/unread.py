"""The second of two processes can't read a frame to train on, or one to measure on; what each is told and does then."""

from pathlib import Path

import torch
from gradients import build_arguments, build_trainer

from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.errors import DataError
from hf_urbanseg.training.trainer import UrbanSegTrainer


def build(folder: Path) -> UrbanSegTrainer:
    options = {"max_steps": 4, "per_device_train_batch_size": 1, "save_strategy": "steps", "save_steps": 4}
    return build_trainer(build_arguments(folder, **options))


class Unread(EvalDataset):
    def __getitems__(self, indices):
        raise DataError("a file that can be read", "none", "bring it back", "test-0.parquet")


def main(folder: Path) -> None:
    whole = build(folder / "whole")
    whole.train()
    cut = build(folder / "cut")  # draws as the other did
    rank = cut.args.process_index
    read, indices = cut.train_dataset._read, []

    def read_three(index):
        indices.append(index)
        if rank == 1 and len(indices) > 3:
            raise DataError("a file that can be read", "none", "bring it back", "train-3.parquet")
        return read(index)

    cut.train_dataset._read = read_three
    if rank == 1:
        cut.eval_dataset.__class__ = Unread
    said = []
    for call in (cut.train, cut.evaluate):
        try:
            call()
        except DataError as error:
            said.append(str(error))
    resumed = build(folder / "cut")
    resumed.train(resume_from_checkpoint=True)
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    said.append(f"from step {resumed.first_step}: {all(torch.equal(one, other) for one, other in pairs)}")
    (folder / f"said_{rank}").write_text("\n".join(said))
