"""The part `processes` of scaling.py: starts steps of UrbanSegTrainer under torchrun, and is what runs there.

A started process gets a job in JSON; the first of its group writes what it found beside it: the times of some steps,
and the gradient of one step.
"""

import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measuring import spread
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainerCallback

from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX
from hf_urbanseg.losses.build import build_loss
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.training.trainer import UrbanSegTrainer


def measure_processes(args) -> dict:
    threads, batch = torch.get_num_threads(), args.train_batch_size
    on_gpu = args.device.startswith("cuda")
    layouts = {"1 process": (1, threads, batch)}
    for count in args.processes:
        if count > 1:
            share = max(1, threads // count)
            layouts[f"{count}, same batch"] = (count, share, batch // count)
            layouts[f"{count}, batch each"] = (count, share, batch)
            if not on_gpu:  # where a process alone has all of its GPU anyway
                layouts[f"1 of {count}, same batch"] = (1, share, batch // count)
                layouts[f"1 of {count}, batch each"] = (1, share, batch)
    times, gradients = {name: [] for name in layouts}, {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.launches):
            for processes, share in dict.fromkeys(layout[:2] for layout in layouts.values()):
                names = [name for name, layout in layouts.items() if layout[:2] == (processes, share)]
                exact = batch // processes if turn == 0 and (processes > 1 or share == threads or on_gpu) else 0
                found = launch(args, Path(folder), processes, share, [layouts[name][2] for name in names], exact)
                for name in names:
                    times[name] += found["seconds"][str(layouts[name][2])]
                if exact:
                    gradients[processes] = found["gradients"]
    rates = {name: [layouts[name][0] * layouts[name][2] / one for one in own] for name, own in times.items()}
    # By as many threads as suit it: two that share a core with another program are slower than one.
    one = max(max(rates[name]) for name, layout in layouts.items() if layout[0] == 1 and layout[2] == batch)
    height, width = args.crop
    print(f"\nsteps of UrbanSegTrainer, {height}x{width}, images/s")
    print(f"{'':<18}{'threads each':>13}{'batch':>9}{'images/s':>24}{'speed-up':>10}{'efficiency':>12}")
    result = {}
    for name, (processes, share, own) in layouts.items():
        fastest = max(rates[name])
        result[name] = {"processes": processes, "threads": share, "batch_size": own, "images_per_second": rates[name]}
        line = f"{name:<18}{share:>13}{f'{processes} x {own}':>9}{spread(rates[name], 2):>24}"
        if processes > 1:
            alone = "1 process" if on_gpu else f"1 of {name}"
            result[name] |= {"speed_up": fastest / one, "efficiency": fastest / processes / max(rates[alone])}
            line += f"{result[name]['speed_up']:>10.2f}{result[name]['efficiency']:>11.0%}"
        print(line)
    differences = {str(count): compare(own, gradients[1]) for count, own in gradients.items() if count > 1}
    for count, difference in differences.items():
        print(f"gradient of {count} processes against one, same {batch} samples, fp64: {difference:.1e}", flush=True)
    return {"layouts": result, "gradient_difference": differences}


def launch(args, folder: Path, processes: int, threads: int, batch_sizes: list[int], exact: int) -> dict:
    path = folder / f"job_{processes}_{threads}.json"
    job = {name: getattr(args, name) for name in ("size", "device", "precision", "crop", "steps")}
    job |= {"folder": str(folder), "threads": threads, "batch_sizes": batch_sizes, "exact_batch_size": exact}
    path.write_text(json.dumps(job | {"exact_crop": [64, 64]}), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [*command, __file__, str(path)],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{processes} processes failed:\n{done.stderr[-3000:]}")
    found = json.loads(path.with_suffix(".found").read_text(encoding="utf-8"))
    if found["processes"] != processes:
        sys.exit(f"expected a group of {processes} processes, found {found['processes']}")
    return found | ({"gradients": torch.load(path.with_suffix(".pt"))} if exact else {})


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference relative to a tensor's largest value; gradients that are zero by mathematics left out."""
    size = max(float(one.abs().max()) for one in expected.values())
    pairs = [(found[name], one) for name, one in expected.items() if one.abs().max() > 1e-9 * size]
    return max(float((own - one).abs().max() / one.abs().max()) for own, one in pairs)


class Samples(Dataset):
    """`count` samples in memory, repeated to `length`; each with another share of void pixels."""

    def __init__(self, count: int, length: int, crop: tuple[int, int], dtype: torch.dtype = torch.float32):
        self.length, generator = length, torch.Generator().manual_seed(0)
        self.pixel_values = torch.randn(count, 3, *crop, generator=generator, dtype=torch.float64).to(dtype)
        labels = torch.randint(0, CITYSCAPES.num_labels, (count, crop[0] // 8, crop[1] // 8), generator=generator)
        self.labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
        for number, label in enumerate(self.labels):
            label[: crop[0] * number // (2 * count)] = IGNORE_INDEX

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        index %= len(self.labels)
        return {"pixel_values": self.pixel_values[index], "labels": self.labels[index]}


class Watch(TrainerCallback):
    def __init__(self, device: str):
        self.device, self.ends, self.gradients = device, [], {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if not self.gradients:
            self.gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}

    def on_step_end(self, *args, **kwargs):
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def train(job: dict, batch_size: int, steps: int, exact: bool = False) -> Watch:
    """`exact`: fp64, without what differs between processes by design: random masks, BatchNorm's batch statistics."""
    args = UrbanSegTrainingArguments(
        output_dir=job["folder"], max_steps=steps, per_device_train_batch_size=batch_size, learning_rate=0.0,
        freeze_batch_norm=exact, bf16=job["precision"] == "bf16" and not exact, use_cpu=job["device"] == "cpu",
        warmup_steps=0, dataloader_num_workers=0, eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
        disable_tqdm=True, logging_steps=10**6,
    )  # fmt: skip
    dtype = torch.float64 if exact else torch.float32
    overrides = {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0} if exact else {}
    torch.manual_seed(0)
    model = build_random_model(job["size"], CITYSCAPES, **overrides).to(dtype)
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=0.3)
    apply_fast_decode_head(model)
    total = batch_size * args.world_size
    samples = Samples(total, total * steps, tuple(job["exact_crop"] if exact else job["crop"]), dtype)
    trainer = UrbanSegTrainer(model, args, build_loss("cross_entropy", CITYSCAPES.num_labels), samples)
    watch = Watch(job["device"])
    trainer.add_callback(watch)
    trainer.train()
    return watch


def work() -> None:
    path = Path(sys.argv[1])
    job = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    found = {}
    for batch_size in job["batch_sizes"]:
        ends = train(job, batch_size, job["steps"] + 1).ends  # the first step warms up
        found[str(batch_size)] = [after - before for before, after in itertools.pairwise(ends)]
    if job["exact_batch_size"]:
        gradients = train(job, job["exact_batch_size"], 1, exact=True).gradients
    grouped = torch.distributed.is_initialized()
    if not grouped or torch.distributed.get_rank() == 0:
        if job["exact_batch_size"]:
            torch.save(gradients, path.with_suffix(".pt"))
        result = {"seconds": found, "processes": torch.distributed.get_world_size() if grouped else 1}
        path.with_suffix(".found").write_text(json.dumps(result), encoding="utf-8")
    if grouped:
        # With several trainers left to be collected after it, one start in three ended in an abort (torch 2.13).
        gc.collect()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    work()
