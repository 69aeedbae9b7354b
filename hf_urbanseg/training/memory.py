"""What a training step needs memory for, and what would take less."""

from pathlib import Path

from torch import Tensor
from transformers import TrainingArguments

from hf_urbanseg.training.checkpoints import list_checkpoints


def describe_step(args: TrainingArguments, batches: list[dict[str, Tensor]]) -> tuple[str, list[str], str]:
    """Of this process, for `explaining_shortage`.

    Args:
        batches: Of the step, as the loader gave them; none where no step has begun.
    """
    size, steps = args.train_batch_size, args.gradient_accumulation_steps
    crops = f"{size} crop{'s' if size > 1 else ''}"
    if batches:
        crops += " of {}x{} (height x width)".format(*batches[0]["pixel_values"].shape[-2:])
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    checkpointing = "with" if args.gradient_checkpointing else "without"
    fixes = [] if args.gradient_checkpointing else ["add `--gradient_checkpointing true` (the same gradients)"]
    if size > 1:
        parts = 2 if size % 2 == 0 else size
        smaller = f"`--per_device_train_batch_size {size // parts} --gradient_accumulation_steps {parts * steps}`"
        fixes.append(f"{smaller} (the same crops in each step)")
    if precision == "fp32" and args.device.type != "cpu":
        fixes.append("`--bf16 true`")
    fixes.append("a smaller `--crop_size`")
    kept = list_checkpoints(Path(args.output_dir))
    note = f"; `--resume` goes on from {kept[-1].name}" if kept else ""
    return f"a step of {crops} in {precision} on {args.device}, {checkpointing} gradient checkpointing", fixes, note
