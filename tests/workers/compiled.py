"""Gradients of one step, compiled or with activations computed again, on two processes; run under a launcher."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from gradients import KeepGradients, build_arguments, build_trainer

from hf_urbanseg.models.decode_head import restore_stock_decode_head

# As small as a SegFormer with all its parts can be: compiling takes the time.
SMALL = {
    "hidden_sizes": [8, 16, 16, 24],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}
DETERMINISTIC = {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0, "auxiliary_dropout": 0.0}
_STEP = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "freeze_batch_norm": True}
LAYOUTS = {
    "compiled": _STEP | {"torch_compile": True, "torch_compile_backend": "eager"},
    "computed_again": _STEP | {"gradient_checkpointing": True},
}


def compute_gradients(folder, loss: str, stock: bool = False, model_options=None, **options):
    """Gradients of the first step, and the trainer."""
    args = build_arguments(folder, **options)
    trainer = build_trainer(args, loss, **SMALL, **(DETERMINISTIC if model_options is None else model_options))
    if stock:
        restore_stock_decode_head(trainer.model)
    keep = KeepGradients()
    trainer.add_callback(keep)
    trainer.train()
    return keep.gradients, trainer


def main(folder: Path) -> None:
    for name, options in LAYOUTS.items():
        gradients, _ = compute_gradients(folder, "auxiliary", **options)
        if torch.distributed.get_rank() == 0:
            torch.save(gradients, folder / f"{name}.pt")
