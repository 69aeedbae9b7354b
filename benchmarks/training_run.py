"""Images a second of a whole training as `urbanseg finetune` does it, and what bounds it.

    python benchmarks/training_run.py --device cuda --size b2 --crop 512 1024 --batch_size 16 --num_workers 14
    python benchmarks/training_run.py --data_dir kitti48 --crop 368 368 --batch_size 8
    python benchmarks/training_run.py --size b0 -- --torch_compile true --loss ohem    # further options of the command

`run` is the loop of UrbanSegTrainer: workers that read and augment, bytes to the device, loss, optimiser, over
`--steps` steps behind `--warmup`. `loader` makes the same batches and puts them on the device, nothing else; `step`
trains on one batch that is there already. Where the run is slower than both, they don't overlap. Waits are counted as
in profile_step.py, in one step of the run. Without `--data_dir`, frames are rendered.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from frames import render_frames
from measuring import describe_environment, show_environment, show_table, spread, write_report
from profile_step import note_waits
from transformers import TrainerCallback

from hf_urbanseg import finetuning
from hf_urbanseg.models.build import SIZES
from hf_urbanseg.options.finetune_arguments import parse_finetuning
from hf_urbanseg.training.trainer import UrbanSegTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="b0", choices=list(SIZES))
    parser.add_argument("--data_dir", help="frames to train on; default: rendered streets")
    parser.add_argument("--image_size", type=int, nargs=2, default=(1024, 2048), help="of rendered streets")
    parser.add_argument("--images", type=int, default=48, help="rendered")
    parser.add_argument("--crop", type=int, nargs=2, default=(512, 1024), help="height and width")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=20, help="steps before")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5, help="parts of the steps, for a spread")
    parser.add_argument("--output", help="JSON file for the numbers")
    parser.add_argument("options", nargs="*", help="of `urbanseg finetune`, behind --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = args.data_dir or render_frames(Path(folder, "frames"), args.images, args.image_size)
        seconds, waits = measure(args, data_dir, Path(folder, "run"))
    rates = {name: [args.batch_size / one for one in values] for name, values in seconds.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    slower = min(("loader", "step"), key=medians.get)
    bound = slower if medians["run"] > 0.9 * medians[slower] else f"{slower}, and what doesn't overlap"
    environment, (height, width) = describe_environment(args.device), args.crop
    what = f"{args.size.upper()}, {args.batch_size} x {height}x{width}, {args.precision}, {args.num_workers} workers"
    what = " ".join([what, *args.options])
    head = ["training run, images/s", *medians, "bound by", "waits"]
    row = [what, *(spread(values, 0) for values in rates.values()), bound, sum(waits.values())]
    print(f"{show_environment(environment)}\n{show_table(head, [row])}\nwaits of a step: {waits}")
    write_report(args, environment, seconds=seconds, waits=waits, table={"head": head, "rows": [row]})


class Measured(Exception):
    """Ends the run where its numbers are known: what a run is measured and exported for is left out."""


def measure(args, data_dir: str, output: Path) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds a step in each round, of each part; where the run waits."""
    found = {}

    class MeasuredTrainer(UrbanSegTrainer):
        def train(self, *words, **options):
            clock = Clock(args)
            self.add_callback(clock)
            super().train(*words, **options)
            found["run"], found["waits"] = clock.seconds, dict(clock.waits)
            batches = repeat(self)
            found["loader"] = time_rounds(args, lambda: next(batches))
            found["step"] = time_rounds(args, partial(take_step, self, next(batches)))
            raise Measured

    words = [
        "--data_dir", data_dir, "--init", "random", "--size", args.size, "--output_dir", str(output),
        "--crop_size", *map(str, args.crop), "--per_device_train_batch_size", str(args.batch_size),
        "--max_steps", str(args.warmup + args.steps + 2), "--warmup_steps", "0",
        "--dataloader_num_workers", str(args.num_workers), "--cpu_threads", str(torch.get_num_threads()),
        "--eval_strategy", "no", "--load_best_model_at_end", "false", "--save_strategy", "no",
        *([f"--{args.precision}", "true"] if args.precision != "fp32" else []),
        *(["--use_cpu", "true"] if args.device == "cpu" else []), *args.options,
    ]  # fmt: skip
    with patch.object(finetuning, "UrbanSegTrainer", MeasuredTrainer), suppress(Measured):
        finetuning.run_finetuning(parse_finetuning(words))
    waits = found.pop("waits")
    return found, waits


class Clock(TrainerCallback):
    """Seconds a step of each round, and the waits of one step between warm-up and rounds."""

    def __init__(self, args):
        self.args, self.seconds, self.start = args, [], 0.0
        self.noting = note_waits("cuda" in args.device)

    def on_step_end(self, args, state, control, **kwargs):
        done, size = state.global_step - self.args.warmup, self.args.steps // self.args.rounds
        if done == 0:
            self.waits = self.noting.__enter__()
        elif done == 1:
            self.noting.__exit__(None, None, None)
        if done == 1 or (done > 1 and (done - 1) % size == 0):
            synchronize(self.args)
            now = time.perf_counter()
            self.seconds += [(now - self.start) / size] if done > 1 else []
            self.start = now


def time_rounds(args, work: Callable[[], object]) -> list[float]:
    """Seconds of one `work` in each round; the first round warms up."""
    size, seconds = args.steps // args.rounds, []
    for _ in range(args.rounds + 1):
        start = time.perf_counter()
        for _ in range(size):
            work()
        synchronize(args)
        seconds.append((time.perf_counter() - start) / size)
    return seconds[1:]


def repeat(trainer: UrbanSegTrainer) -> Iterator[dict]:
    loader = trainer.get_train_dataloader()
    for epoch in itertools.count():
        trainer.train_sampler.set_epoch(epoch)
        yield from loader


def take_step(trainer: UrbanSegTrainer, batch: dict) -> None:
    model = trainer.model_wrapped
    trainer.guard.begin_step()
    trainer.training_step(model, batch, trainer._get_num_items_in_batch([batch], trainer.args.device))
    trainer._get_grad_norm(model)
    trainer.optimizer.step()
    model.zero_grad()


def synchronize(args) -> None:
    if "cuda" in args.device:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
