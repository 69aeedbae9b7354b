"""What a run trains on: samples, class weights, and what is said of them."""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain

import numpy as np

from hf_urbanseg.data.added_data import AddedData
from hf_urbanseg.data.checked_frames import CheckedFrames
from hf_urbanseg.data.class_weights import compute_class_weights, load_class_weights
from hf_urbanseg.data.decoded_cache import build_decoded_cache
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.pasting import ObjectPaste, choose_pasted, list_movable
from hf_urbanseg.data.preflight.checks import Inspection
from hf_urbanseg.data.preprocessing import JoinedDataset, TrainDataset
from hf_urbanseg.data.rare_classes import RareClasses
from hf_urbanseg.data.shards import ShardedRows
from hf_urbanseg.data.teacher_cache import is_teacher_cache
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.models.freezing import count_trained
from hf_urbanseg.models.sizes import find_commonest
from hf_urbanseg.options.config import AugmentationArguments
from hf_urbanseg.options.finetune_arguments import OWN_DATA, FinetuneArguments
from hf_urbanseg.options.sampling import SamplingArguments
from hf_urbanseg.options.stock_options import choose_data_seed
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.options.unlabelled import OWN_AVERAGES
from hf_urbanseg.runs.folder import RunFolder

logger = logging.getLogger(__name__)

LOCAL_PROCESSES = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def weigh_classes(choice: str, inspection: Inspection, space: LabelSpace) -> tuple[np.ndarray | None, np.ndarray]:
    """Weights by scheme or file, and the training pixels per class: of a streamed set as it says, or a sample has."""
    per_image, rows = inspection.train_id_counts("train", space), inspection.streamed.get("train")
    counted = rows and rows.pixels.get(space.mapping_digest)
    if counted and choice != "median_frequency":  # which asks frames
        per_image = np.array([counted], np.int64)
    elif rows:
        _describe_sample(per_image, len(rows), space)
        per_image = np.rint(per_image * (len(rows) / len(per_image))).astype(np.int64)
    if choice.endswith(".json"):
        return load_class_weights(choice, space), per_image.sum(0)
    return None if choice == "none" else compute_class_weights(per_image, choice), per_image.sum(0)


def _describe_sample(per_image: np.ndarray, frames: int, space: LabelSpace) -> None:
    """Says how far the classes' shares can be off that some frames were counted for."""
    count = len(per_image)
    if count == frames:
        return
    labelled = per_image.sum(1)
    shares = per_image.sum(0) / labelled.sum()
    # Of a ratio of two means over frames drawn alike, without those that were counted.
    spread = (per_image - shares * labelled[:, None]).std(0, ddof=min(1, count - 1))
    errors = spread * np.sqrt(1 / count - 1 / frames) / labelled.mean()
    told = (
        f"{name} {share:.2%} +- {error:.2%}" if share else f"{name} not seen"
        for name, share, error in zip(space.names, shares, errors, strict=True)
    )
    logger.info("classes were counted in %d of %d frames (standard error): %s", count, frames, ", ".join(told))


def check_streaming(arguments: FinetuneArguments) -> None:
    """Refuses what reads every frame of the training data before the first step, or goes by the names of all."""
    if not arguments.data.streaming:
        return
    teacher = arguments.distillation.teacher
    unfit = {
        "rare_class_share": arguments.sampling.rare_class_share, "paste_share": arguments.sampling.paste_share,
        "add_data": arguments.added.add_data, "unlabelled": arguments.unlabelled.unlabelled,
        "cache_images": arguments.training.cache_images == "true", "accept_changes": arguments.training.accept_changes,
        "teacher": teacher if teacher is not None and is_teacher_cache(teacher) else None,
    }  # fmt: skip
    if found := next((name for name, value in unfit.items() if value), None):
        fix = f"leave `--streaming` out, which downloads the set, or `--{found}`"
        raise ConfigError(f"a local set with `{found}`, which needs to know every frame", "one that is streamed", fix)


def build_train_dataset(
    augmentation: AugmentationArguments,
    sampling: SamplingArguments,
    args: UrbanSegTrainingArguments,
    data: LoadedData,
    inspection: Inspection,
    teacher,
    added: Sequence[AddedData] = (),
) -> TrainDataset | JoinedDataset:
    """Of further data, frames are brought to the main data's commonest size first, where scales are ratios."""
    sets = [(data.splits["train"], data.label_space, inspection.pairs["train"])]
    sets += [(one.rows, one.label_space, one.pairs) for one in added]
    rare, paste = _show_more_often(sampling, augmentation, inspection, data.label_space)
    parts, cached = [], 0
    for number, (rows, space, pairs) in enumerate(sets):
        base = find_commonest(inspection.sizes("train")) if number else None
        transforms = build_train_transforms(**asdict(augmentation), base=base)
        sizes = [pair.size for pair in pairs]
        if isinstance(rows, ShardedRows):
            skipped = RunFolder(args.output_dir).skipped_frames if sampling.bad_frames == "skip" else None
            rows = replace(rows, buffer=sampling.shuffle_buffer)
            cache = CheckedFrames(rows, space, skipped)
        else:
            cache = build_decoded_cache(rows, space, sizes, args.cache_images, LOCAL_PROCESSES, data.channels, cached)
            cached += 0 if cache is None else cache.memory.nbytes
        first = sum(map(len, parts))
        seed, pasted = choose_data_seed(args), None if number else paste
        options = {"rare": rare, "paste": pasted, "shuffle_buffer": sampling.shuffle_buffer}
        parts.append(TrainDataset(rows, space, transforms, seed, cache, teacher, first, **options))
    if not added:
        return parts[0]
    shares = [one.share for one in added]
    return JoinedDataset(
        parts, [1 - sum(shares), *shares], [*parts[0].names, *chain.from_iterable(one.frames for one in added)]
    )


def _show_more_often(
    sampling: SamplingArguments, augmentation: AugmentationArguments, inspection: Inspection, space: LabelSpace
) -> tuple[RareClasses | None, ObjectPaste | None]:
    share, paste_share = sampling.rare_class_share, sampling.paste_share
    if not share and not paste_share:
        return None, None
    counts = inspection.train_id_counts("train", space)
    rare = RareClasses(counts, share, sampling.rare_class_temperature, sampling.rare_class_min_pixels)
    if share:
        shown = [one for one in np.argsort(-rare.probabilities, kind="stable") if rare.probabilities[one] >= 0.01]
        told = (f"{space.names[one]} {100 * rare.probabilities[one]:.0f} % ({len(rare.images[one])})" for one in shown)
        told = ", ".join(told)
        logger.info("drawn by class: %.0f %% of the samples, of them (from so many frames) %s", 100 * share, told)
    if not paste_share:
        return rare, None
    pasted = choose_pasted(sampling.paste_classes, rare, space)
    told = ", ".join(space.names[one] for one in pasted)
    logger.info("pasted: an object of %s, into %.0f %% of the samples", told, 100 * paste_share)
    movable, flip = list_movable(space), augmentation.flip
    return rare, ObjectPaste(rare, pasted, movable, paste_share, flip, augmentation.photometric)


def describe_defaults(arguments: FinetuneArguments, augmentation: AugmentationArguments) -> None:
    """What was taken where data was named and no recipe, and what to try next."""
    start = arguments.model.model_name_or_path if arguments.model.init == "pretrained" else "random weights"
    args, crop, scales = arguments.training, augmentation.crop_size, augmentation.train_scales
    logger.info(
        "no `--recipe` was named, so this is `%s`: %d steps from %s at learning rate %g, crops of %dx%d at scales %s",
        OWN_DATA, args.max_steps, start, args.learning_rate, *crop, " ".join(scales),
    )  # fmt: skip
    if start == "tiny-streets":
        logger.info(
            "  next: `--size b0` starts from SegFormer-B0 on the Hub (a GPU helps), `--max_steps` trains longer"
        )


def describe(data: LoadedData, inspection: Inspection, model, eval_size: tuple[int, int]) -> dict[str, int]:
    sizes = ", ".join(f"{split} {len(rows)}" for split, rows in data.splits.items())
    logger.info("data: %s (%s images), %d classes", data.name, sizes, data.label_space.num_labels)
    for note in data.notes:
        logger.info("  %s", note)
    size = "their own size" if data.channels > 3 else "{}x{} (height x width)".format(*eval_size)
    void = 100 * inspection.void_share("train", data.label_space)
    logger.info("void pixels in train: %.1f %%; images measured at %s, scores at native size", void, size)
    parameters = count_trained(model)
    logger.info("model: %.2f M parameters, %.2f M of them trained", *(count / 1e6 for count in parameters.values()))
    return parameters


def check_channels(arguments: FinetuneArguments) -> None:
    """Refuses what would leave the channels behind RGB unlearned, or can't take them."""
    channels, model, args = arguments.data.channels, arguments.model, arguments.training
    labeller = arguments.unlabelled.unlabelled_teacher
    unfit = {
        "freeze_encoder": args.freeze_encoder, "freeze_stages": args.freeze_stages, "lora_rank": model.lora_rank,
        "teacher": arguments.distillation.teacher, "unlabelled_teacher": None if labeller == OWN_AVERAGES else labeller,
    }  # fmt: skip
    if channels > 3 and (found := [name for name, value in unfit.items() if value]):
        raise ConfigError(f"`channels` {channels} without `{found[0]}`", f"`{unfit[found[0]]}`", "leave it out")


def check_teacher(arguments: FinetuneArguments) -> None:
    """Refuses scores that were written down of the main data's frames alone."""
    teacher = arguments.distillation.teacher
    if arguments.added.add_data and teacher is not None and is_teacher_cache(teacher):
        expected, fix = "a teacher that is asked itself with `add_data`", "name the model that wrote it as `--teacher`"
        raise ConfigError(expected, "what one wrote down of the main data's frames", fix, teacher)
