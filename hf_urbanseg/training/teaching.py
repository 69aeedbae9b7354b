"""From the options of distillation to a teacher, or what it wrote down, and the part of the loss that listens."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from hf_urbanseg.data.teacher_cache import TeacherCache, is_teacher_cache
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.losses.composition import LossPart
from hf_urbanseg.losses.distillation import DISTILLATION_LOSSES, READS
from hf_urbanseg.models.teacher import Teacher, load_teacher
from hf_urbanseg.models.training_branch import FeatureAdapter
from hf_urbanseg.options.distillation import DistillationArguments

logger = logging.getLogger(__name__)

_RECORDED = ("name", "classes", "parameters", "precision", "sha256", "scores_of", "top_k", "bits")
"""Of what a teacher wrote down."""


@dataclass(frozen=True)
class Teaching:
    """What a run needs to be taught; nothing of it if nobody teaches.

    Args:
        teacher: Asked about every batch; None if `cache` answers.
        cache: What it said of the frames.
        feature_channels: Of its feature maps that the student's are to be made alike; 0 where its output is.
        parts: Of the loss.
        record: Who teaches what, for the run's folder; its `sha256` tells a teacher from others.
    """

    teacher: Teacher | None = None
    cache: TeacherCache | None = None
    feature_channels: int = 0
    parts: Mapping[str, LossPart] | None = None
    record: Mapping | None = None


def prepare_teaching(
    args: DistillationArguments,
    space: LabelSpace,
    frames: Mapping[str, list[str]],
    crop_size: tuple[int, int],
    device,
    stock_decode_head: bool = False,
) -> Teaching:
    """Loads and tries the teacher, before anything of a run is written.

    Args:
        frames: Of the training split, name -> SHA-256 of image and label.
        crop_size: (height, width) that the teacher will be shown.
    """
    if args.teacher is None:
        return Teaching()
    teacher = cache = None
    if is_teacher_cache(args.teacher):
        for name, usual in (("teacher_revision", None), ("teacher_precision", None), ("distill_from", "output")):
            if getattr(args, name) not in (None, usual):
                expected = f"no `{name}` with what a teacher wrote down"
                fix = "leave it out, or name the teacher itself"
                raise ConfigError(expected, f"`{getattr(args, name)}`", fix, args.teacher)
        cache = TeacherCache(args.teacher, space.names, {name: digests[0] for name, digests in frames.items()})
        if args.kind == "cwd" and cache.description.get("averaged"):
            expected, found = "scores of one pass for cwd", "the mean of several passes' probabilities"
            fix = "run `urbanseg teach` without `--multi_scale`, `--ratios`, `--flip` and windows"
            raise ConfigError(expected, found, fix, args.teacher)
        if not cache.is_whole and (args.kind == "cwd" or args.temperature != 1):
            expected = f"scores of all classes for {args.kind} at temperature {args.temperature:g}"
            found, fix = f"{cache.description['top_k']} at each place", "run `urbanseg teach` without `--top_k`"
            raise ConfigError(expected, found, fix, args.teacher)
        taught, record = cache.taught, {"cached": True} | {key: cache.description.get(key) for key in _RECORDED}
        cost = "its scores come with the frames"
    else:
        precision = args.teacher_precision or "fp32"
        teacher = load_teacher(args.teacher, space.names, args.teacher_revision, precision, device, stock_decode_head)
        teacher.with_features = args.source == "features"
        macs = teacher.try_out(crop_size)
        taught, record = teacher.taught, {"cached": False, **teacher.describe(), "gmac_per_crop": macs / 1e9}
        cost = f"{macs / 1e9:.1f} G multiply-accumulates a crop, in {precision}"
    logger.info("teacher: %s, %.2f M parameters; %s", record["name"], record["parameters"] / 1e6, cost)
    untaught = [name for train_id, name in enumerate(space.names) if train_id not in taught]
    if untaught:
        logger.warning(
            "the teacher has %d of %d classes; it says nothing of %s",
            len(taught),
            space.num_labels,
            ", ".join(untaught),
        )
    channels = teacher.feature_channels if args.source == "features" else 0
    heard, output = (range(channels), FeatureAdapter.field) if channels else (taught, "logits")
    loss = DISTILLATION_LOSSES[args.kind](space.num_labels, heard, args.temperature, teach_void=args.distill_void)
    parts = {"distillation": LossPart(loss, args.weight, output, READS[args.source])}
    record |= {"loss": args.kind, "from": args.source, "weight": args.weight, "temperature": args.temperature}
    return Teaching(teacher, cache, channels, parts, record | {"void": args.distill_void})
