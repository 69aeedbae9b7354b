"""The second of two processes can't write its part of a checkpoint; what each of them is told goes to `said_<rank>`."""

import errno
import os
from pathlib import Path

from gradients import build_arguments, build_trainer

from hf_urbanseg.errors import CheckpointError


def main(folder: Path) -> None:
    options = {"max_steps": 6, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = build_trainer(build_arguments(folder / "run", **options))
    save = trainer._save_rng_state

    def fail(output_dir):
        if trainer.args.process_index == 1 and trainer.state.global_step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(output_dir)

    trainer._save_rng_state = fail
    try:
        trainer.train()
    except CheckpointError as error:
        (folder / f"said_{trainer.args.process_index}").write_text(str(error).partition(" (")[0])
