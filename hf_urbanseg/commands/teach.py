"""Writes down what a teacher says of the training frames, so that learning from it costs a training step nothing.

Give the folder to `urbanseg finetune` as --teacher. Scores are cut, scaled and mirrored with their frames.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError, ModelError
from hf_urbanseg.files import check_place, expand_home
from hf_urbanseg.locks import locked
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.fields import Options, option, required
from hf_urbanseg.options.prediction import PlanArguments
from hf_urbanseg.ranges import InputSize, Range


@dataclass
class TeachArguments(Options):
    """Who teaches, and how exactly it is written down."""

    teacher: str = required("Folder or Hub id of the model, as --teacher of `urbanseg finetune`.")
    output: str = required("Folder to write.")
    overwrite: bool = option(False, "Replace an earlier one at --output.")
    teacher_revision: str | None = option(None, "Branch, tag or commit of the Hub id.")
    teacher_precision: str = option("fp32", "Of its weights and pass.", choices=["fp32", "bf16"])
    input_size: InputSize | None = option(
        None, "Height and width that it sees frames in. Default: the commonest size, in multiples of 32."
    )
    top_k: Annotated[int, Range(1, 255)] | None = option(
        None, "Classes kept at each place, and of the others their mean: enough for `--distill soft` at temperature 1. "
        "Default: all."
    )  # fmt: skip
    bits: Annotated[int, Range(8, 16)] = option(
        8, "Of each score, 8 or 16; finer the closer it is to the best.", choices=[8, 16]
    )


@command
def main(argv: list[str]) -> None:
    usage = "teach --teacher MODEL --data_dir FOLDER --output FOLDER [--option VALUE ...]"
    types = (TeachArguments, DataArguments, PlanArguments)
    options, data_args, plan_args = parse_command_line(types, argv, __doc__, usage)
    if options.input_size and plan_args.sliding_window:
        found, fix = "both", "leave one out: windows slide over frames of their own size"
        raise ConfigError("`input_size` or `sliding_window`", found, fix)
    output = expand_home(options.output).absolute()
    with locked(output, inside=False):
        _teach(options, data_args, plan_args, output)


def _teach(options: TeachArguments, data_args: DataArguments, plan_args: PlanArguments, output) -> None:
    import torch

    from hf_urbanseg.data.loading import load_data
    from hf_urbanseg.data.own_files import check_output
    from hf_urbanseg.data.preflight.checks import inspect_pairs
    from hf_urbanseg.data.teacher_cache import is_teacher_cache, write_teacher_cache
    from hf_urbanseg.models.build import build_image_processor
    from hf_urbanseg.models.sizes import choose_eval_size
    from hf_urbanseg.models.teacher import load_teacher

    check_output(output, options.overwrite, is_teacher_cache, "what a teacher wrote down")
    check_place(output.parent, folder=True)
    data_args.check_rgb("a teacher")
    data = load_data(**asdict(data_args))
    rows, space = data.get_split("train"), data.label_space
    inspection = inspect_pairs(data.splits, space)
    device = plan_args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_teacher(
        options.teacher, space.names, options.teacher_revision, options.teacher_precision, device,
        plan_args.stock_decode_head,
    )  # fmt: skip
    size, plan = tuple(options.input_size or choose_eval_size(inspection.sizes("train"))), plan_args.build_plan()
    processor = build_image_processor(size)
    base = None if plan.window else size
    seen = {one for frame in inspection.sizes("train") for one in plan.input_sizes(base, frame)}
    if plan.window:
        seen = {tuple(map(min, one, plan.window)) for one in seen}
    teacher.try_out(*sorted(seen))
    description = {
        **teacher.describe(), "scores_of": plan.describe(size), "averaged": not plan.is_plain,
        "frames": len(rows), "data": data.name,
    }  # fmt: skip
    digests = [pair.file_digests[0] for pair in inspection.pairs["train"]]
    frames = _score(teacher, rows, space, processor, size, plan, plan_args.batch_size, device)
    described = ((name, digest, scores) for (name, scores), digest in zip(frames, digests, strict=True))
    write_teacher_cache(output, described, description, options.top_k, options.bits)
    megabytes = sum(one.stat().st_size for one in output.iterdir()) / 1e6
    what = f"{len(rows)} frames, {len(teacher.names)} of {space.num_labels} classes"
    print(f"{what}, {megabytes:.1f} MB: {plan.describe(size)}")
    print(f"written to {options.output}; learn from it with --teacher {options.output}")


def _score(teacher, rows, space, processor, size, plan, batch_size: int, device) -> Iterator:
    """Name and scores (M, h, w) of each frame: as they come from one pass, or the logarithm of several's mean."""
    from functools import partial

    import torch.nn.functional as F

    from hf_urbanseg.data.preprocessing import EvalDataset
    from hf_urbanseg.data.teacher_cache import CELL
    from hf_urbanseg.inference.evaluation import build_eval_loader
    from hf_urbanseg.inference.multi_scale import predict_probabilities
    from hf_urbanseg.progress import show_progress

    sizes = None if plan.is_plain else partial(plan.input_sizes, None if plan.window else size)
    dataset = EvalDataset(rows, space, processor, sizes)
    names = dataset.names
    with show_progress(len(names), "teacher", "frame", passes_of=None if plan.is_plain else teacher) as bar:
        for batch in build_eval_loader(dataset, batch_size, 0, 0, 1, device):
            chosen = [names[index] for index in batch["index"]]
            if plan.is_plain:
                views, step = batch["views"][0], max(1, plan.max_batch_pixels // (size[0] * size[1]))
                results = (one for part in views.split(step) for one in teacher(part.to(device)).logits)
            else:
                targets = [tuple(one.shape) for one in batch["labels"]]
                results = predict_probabilities(teacher, batch["views"], targets, plan, device, names=chosen)
            for name, target, scores in zip(chosen, batch["labels"], results, strict=True):
                full = size if plan.is_plain else target.shape
                grid = [min(-(-side // CELL), there) for side, there in zip(full, scores.shape[1:], strict=True)]
                if tuple(grid) != tuple(scores.shape[1:]):
                    scores = F.adaptive_avg_pool2d(scores, grid)
                if not plan.is_plain:
                    scores = scores.clamp_min(1e-12).log()
                if not bool(scores.isfinite().all()):
                    raise ModelError(
                        "scores that are finite numbers", f"others for {name}", "choose another", teacher.name
                    )
                yield name, scores
                bar.update()
