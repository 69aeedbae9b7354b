"""Training steps without a teacher, with one that wrote its scores down, and with one that is asked about every batch;
and with as many unlabelled crops as labelled ones, which the student's own averages label.

    python benchmarks/distillation_step.py --student b0 --teacher b5 --threads 2
    python benchmarks/distillation_step.py --student b0 --ways plain unlabelled

Reading, augmentation, forward pass, losses, backward pass and AdamW, as `urbanseg finetune` runs them, one step of
each in turn in one process; prints labelled images per second with quartiles of the steps, and the ratio to no teacher.
Of unlabelled crops also the ratio that their passes alone would leave: one more plain step, and a forward pass.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed

from hf_urbanseg.data.preprocessing import TrainDataset
from hf_urbanseg.data.synthetic import build_synthetic_splits
from hf_urbanseg.data.teacher_cache import TeacherCache, write_teacher_cache
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.data.unlabelled import UnlabelledDataset, WithUnlabelled
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.losses.build import build_loss
from hf_urbanseg.losses.composition import LossPart
from hf_urbanseg.losses.distillation import DISTILLATION_LOSSES, READS
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.models.teacher import Teacher
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.training.trainer import UrbanSegTrainer
from hf_urbanseg.training.unlabelled import UnlabelledStep

WAYS = ("plain", "soft, written down", "cwd, written down", "soft, asked", "cwd, asked", "unlabelled")
FORWARD = "forward alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="b0")
    parser.add_argument("--teacher", default="b5")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="`plain` is always among them")
    parser.add_argument("--crop", type=int, nargs=2, default=(368, 368))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    set_seed(args.seed)
    rows = build_synthetic_splits(train=8, validation=1, test=1, size=(376, 1240))["train"]
    model = build_random_model(args.teacher, CITYSCAPES, decoder_hidden_size=256)
    apply_fast_decode_head(model)
    with tempfile.TemporaryDirectory() as folder:
        teacher = Teacher(model, CITYSCAPES.names, CITYSCAPES.names)
        names = {name: name for name in rows["name"]}
        scores = ((name, name, torch.randn(19, 94, 310)) for name in names)
        write_teacher_cache(Path(folder) / "cache", scores, teacher.describe())
        cache = TeacherCache(Path(folder) / "cache", CITYSCAPES.names, names)
        ways = dict.fromkeys(("plain", *args.ways))
        steps = {way: _build_step(way, rows, teacher, cache, args, folder) for way in ways}
        if "unlabelled" in ways:
            steps[FORWARD] = _build_forward(args)
        times = {way: [] for way in steps}
        for repeat in range(args.repeats + 2):
            for way, step in steps.items():
                begin = time.perf_counter()
                step()
                if repeat >= 2:
                    times[way].append(time.perf_counter() - begin)
    what = f"{args.student} taught by {args.teacher}, {args.batch} crops of {args.crop}"
    print(f"{what}, torch {torch.__version__}, {args.threads} threads, {args.repeats} steps each")
    plain = statistics.median(times["plain"])
    for way, found in times.items():
        low, middle, high = statistics.quantiles(found, n=4)
        rate = f"{args.batch / middle:.2f} images/s ({args.batch / high:.2f} .. {args.batch / low:.2f})"
        print(f"{way:<20} {rate}, {plain / middle:.2f} of plain")
    if "unlabelled" in ways:
        expected = plain / (2 * plain + statistics.median(times[FORWARD]))
        print(f"unlabelled, expected of its passes: {expected:.2f} of plain")


def _build_step(way: str, rows, teacher: Teacher, cache: TeacherCache, args, folder: str):
    model = build_random_model(args.student, CITYSCAPES)
    apply_fast_decode_head(model)
    kind, _, source = way.partition(", ")
    further, unlabelled = None, way == "unlabelled"
    if source:
        loss = DISTILLATION_LOSSES[kind](19, teacher.taught)
        further = {"distillation": LossPart(loss, 1.0, reads=READS["output"])}
    transforms = build_train_transforms(args.crop, ["0.5-1.75"])
    data = TrainDataset(rows, CITYSCAPES, transforms, args.seed, teacher=cache if source == "written down" else None)
    if unlabelled:
        weak = build_train_transforms(args.crop, ["0.5-1.75"], max_class_share=1, photometric=False)
        data = WithUnlabelled(data, UnlabelledDataset(rows, weak, args.seed), args.batch)
    options = {"per_device_train_batch_size": args.batch, "dataloader_num_workers": 0, "max_steps": 1000}
    options |= {"ema_decay": 0.99 if unlabelled else 0}
    arguments = UrbanSegTrainingArguments(output_dir=folder, eval_strategy="no", save_strategy="no", **options)
    trainer = UrbanSegTrainer(
        model, arguments, build_loss("cross_entropy", 19, np.ones(19), further=further), data,
        teacher=teacher if source == "asked" else None,
    )  # fmt: skip
    trainer.create_optimizer()
    trainer._tr_loss = torch.zeros(())
    passes = UnlabelledStep(trainer)
    batches = iter(trainer.get_train_dataloader())

    def step() -> None:
        nonlocal batches
        try:
            batch = next(batches)
        except StopIteration:
            batches = iter(trainer.get_train_dataloader())
            batch = next(batches)
        if unlabelled:
            trainer.step_batches = [batch]
            passes.on_step_begin(arguments, trainer.state, trainer.control)
        trainer.current_gradient_accumulation_steps = 1
        trainer.training_step(model, batch, None)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def _build_forward(args):
    """What a teacher of the student's size takes for as many crops."""
    model = build_random_model(args.student, CITYSCAPES).eval()
    apply_fast_decode_head(model)
    pixels = torch.randn(args.batch, 3, *args.crop)

    @torch.no_grad()
    def step() -> None:
        model(pixel_values=pixels)

    return step


if __name__ == "__main__":
    main()
