"""What a run trains on: samples, class weights, and what is said of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain

import numpy as np
from transformers import PreTrainedModel

from hf_urbanseg.data.added_data import AddedData, describe_shares, load_added_data
from hf_urbanseg.data.class_weights import compute_class_weights, load_class_weights
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.preflight.checks import Inspection, inspect_pairs
from hf_urbanseg.data.teacher_cache import is_teacher_cache
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.models.freezing import count_trained
from hf_urbanseg.options.config import AugmentationArguments
from hf_urbanseg.options.finetune_arguments import OWN_DATA, FinetuneArguments
from hf_urbanseg.options.unlabelled import OWN_AVERAGES
from hf_urbanseg.runs.first_process import refusing_together
from hf_urbanseg.runs.folder import ADDED_DATA, TEACHER, UNLABELLED, RunFolder
from hf_urbanseg.runs.inputs import (
    Difference,
    compare_added,
    compare_classes,
    compare_frames,
    compare_teacher,
    compare_unlabelled,
    compare_weights,
    describe_frames,
    find_differences,
    leave_out_trained,
)
from hf_urbanseg.training.teaching import Teaching, prepare_teaching
from hf_urbanseg.training.unlabelled import UnlabelledTraining, prepare_unlabelled, read_unlabelled

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What a run trains with: read, checked, and compared with what it began with.

    Args:
        augmentation: Fitted to the frames' sizes.
        frames: By split and name, the SHA-256 of image and label; see `describe_frames`.
        weights: Of the classes; None of an unweighted loss.
        counts: Pixels of train by class.
        differences: From what a run that is resumed began with, which are accepted.
    """

    data: LoadedData
    inspection: Inspection
    added: Sequence[AddedData]
    augmentation: AugmentationArguments
    frames: Mapping[str, Mapping[str, list[str]]]
    weights: np.ndarray | None
    counts: np.ndarray
    teaching: Teaching
    unlabelled: UnlabelledTraining | None
    differences: Sequence[Difference] = ()

    @property
    def records(self) -> dict[str, Mapping | None]:
        """By file of the run's folder, what else it learns from."""
        return {
            TEACHER: self.teaching.record,
            UNLABELLED: self.unlabelled and self.unlabelled.record,
            ADDED_DATA: {"sets": [one.describe() for one in self.added]} if self.added else None,
        }


def prepare(arguments: FinetuneArguments, run: RunFolder, differences: Sequence[Difference]) -> Prepared:
    """Reads and checks all that a run is made from. Every process of a launch calls it; nothing is written.

    Args:
        differences: That were found already.
    """
    args, differences = arguments.training, list(differences)
    # The first process reads and checks everything; the others then find the result in the cache.
    with refusing_together(), args.main_process_first(local=False, desc="preflight"):
        data = load_data(**asdict(arguments.data))
        if "train" not in data.splits:
            raise ConfigError("a split `train`", f"{', '.join(data.splits)}", "name it in `--split_file`", data.name)
        differences += find_differences(run, args, compare_classes(run, data.label_space))  # the preflight goes by them
        inspection = inspect_pairs(
            data.splits, data.label_space, args.should_save, data.channels,
            sampled=True, skip_bad=arguments.sampling.bad_frames == "skip",
        )  # fmt: skip
        main = arguments.data.data_dir or arguments.data.dataset
        added = load_added_data(arguments.added.add_data, main, data, inspection, args.should_save)
        unlabelled_frames = read_unlabelled(arguments.unlabelled, inspection, args.should_save, data.channels)
    if added:
        data = replace(data, notes=(*data.notes, describe_shares(data, added)))
    if args.accept_changes or (args.resume and run.read_changes()):
        data, inspection = leave_out_trained(run, data, inspection)
    weights, counts = weigh_classes(arguments.loss.class_weights, inspection, data.label_space)
    frames = describe_frames(inspection, added)
    augmentation = arguments.augmentation.fit(inspection.sizes("train"))
    teaching = prepare_teaching(
        arguments.distillation, data.label_space, frames["train"], tuple(augmentation.crop_size), args.device,
        arguments.model.stock_decode_head,
    )  # fmt: skip
    unlabelled = prepare_unlabelled(arguments, unlabelled_frames, augmentation, data.label_space)
    found = Prepared(data, inspection, added, augmentation, frames, weights, counts, teaching, unlabelled)
    differences += find_differences(
        run, args,
        chain(
            compare_added(run, added),
            compare_frames(run, frames),
            compare_weights(run, data.label_space, weights, counts),
            compare_teacher(run, teaching.record),
            compare_unlabelled(run, found.records[UNLABELLED]),
        ),
    )  # fmt: skip
    return replace(found, differences=differences)


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


def describe(prepared: Prepared, model: PreTrainedModel, image_processor) -> dict[str, int]:
    """Says what is trained on what; returns the numbers of parameters."""
    data = prepared.data
    sizes = ", ".join(f"{split} {len(rows)}" for split, rows in data.splits.items())
    logger.info("data: %s (%s images), %d classes", data.name, sizes, data.label_space.num_labels)
    for note in data.notes:
        logger.info("  %s", note)
    size = (
        "their own size"
        if data.channels > 3
        else "{height}x{width} (height x width)".format(**dict(image_processor.size))
    )
    void = 100 * prepared.inspection.void_share("train", data.label_space)
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
