"""What decides a run's numbers: recorded when it starts, and compared before it is resumed."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import yaml
from datasets import DatasetDict

from hf_urbanseg.data.added_data import AddedData
from hf_urbanseg.data.label_space_files import parse_label_space
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.preflight.checks import Inspection
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments, resolve_recipe
from hf_urbanseg.runs.folder import (
    ADDED,
    ADDED_DATA,
    CLASS_WEIGHTS,
    FRAMES,
    LABEL_SPACE,
    RECIPE,
    SPLITS,
    TEACHER,
    TRAINED_BEFORE,
    TRAINING_ARGUMENTS,
    UNLABELLED,
    RunFolder,
)

_FREE = {
    # their effects are compared: frames, splits, classes, weights and who teaches
    *(f.name for f in fields(DataArguments)), "add_data", "class_weights", "teacher", "teacher_revision",
    "unlabelled", "unlabelled_teacher",
    # where things go, and what is said and shown
    "output_dir", "num_overlays", "random_baseline", "report_to", "report_pictures", "run_name", "project",
    "disable_tqdm", "log_level",
    "log_level_replica", "log_on_each_node", "logging_strategy", "logging_steps", "logging_first_step",
    "logging_nan_inf_filter", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    # what is kept (with a best model to export, `eval_steps` decides the candidates)
    "save_strategy", "save_steps", "save_total_limit", "save_on_each_node", "max_skipped_steps",
    # what a frame does that none of the run's steps has met
    "bad_frames",
    # when it ends, which changes no step before
    "early_stopping_patience", "early_stopping_threshold",
    # how the same numbers come about: processes that read, and memory
    "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_prefetch_factor", "cache_images",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "per_device_eval_batch_size", "torch_empty_cache_steps",
    "skip_memory_metrics", "ddp_timeout", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "remove_unused_columns",
    "label_names",
}  # fmt: skip
"""Options that may be others when a run is resumed. One that isn't here is taken to decide numbers."""


_OF_THE_STATE = tuple(
    f"`{name}` " for name in ("optim", "lr_scheduler_type", "freeze_encoder", "freeze_stages", "lora_rank")
)
"""What can't be another, whatever is accepted: the optimiser's state would not fit."""


class Difference(NamedTuple):
    """What a run was started with (as `file` in its folder records) and what it would be resumed with."""

    file: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.expected}, then {self.found} ({self.file})"


def find_differences(
    run: RunFolder, args: UrbanSegTrainingArguments, compared: Iterable[Difference]
) -> list[Difference]:
    """Of a run that is resumed, what was compared and is different; a ConfigError unless it is to be accepted."""
    differences = list(compared) if args.resume else []
    for one in differences:
        if one.expected.startswith(_OF_THE_STATE):
            fix = "resume with it, or train anew in another `--output_dir`: another can't go on from its state"
            raise ConfigError(f"{one.expected}, as the run was started", one.found, fix, run.path / one.file)
    if differences and not args.accept_changes:
        first, others = differences[0], len(differences) - 1
        more = f" (and {others} more difference{'s' if others > 1 else ''})" if others else ""
        fix = "resume with what it was started with, or go on all the same with `--accept_changes`"
        expected = f"{first.expected}, as the run was started"
        raise ConfigError(expected, f"{first.found}{more}", fix, run.path / first.file)
    return differences


def list_defaults(arguments: Iterable) -> dict:
    """Of options, which stand for what a recipe doesn't say: an older version may not have had them."""
    return {
        f.name: f.default_factory() if f.default_factory is not MISSING else f.default
        for one in arguments
        for f in fields(one)
    }


def compare_options(run: RunFolder, arguments: Iterable, processes: int) -> Iterator[Difference]:
    """Options that decide numbers, and the number of processes, which multiplies the batch."""
    arguments = list(arguments)
    defaults = list_defaults(arguments)
    before, now = run.read_recipe(), yaml.safe_load(yaml.safe_dump(resolve_recipe(*arguments)))
    ignored = set(_FREE)
    if now.get("init") == "random":
        ignored |= {"model_name_or_path", "model_revision"}
    if "validation" not in (run.read_splits() or run.read_frames() or {"validation": ()}):
        ignored |= {"eval_strategy", "load_best_model_at_end"}  # training turns them off then, and records that
    for key in sorted((before.keys() & defaults.keys()) | now.keys()) if before else ():
        # A stock option at its default isn't recorded, nor is one that an older version didn't have.
        one, other = (content.get(key, defaults.get(key)) for content in (before, now))
        if key not in ignored and one != other:
            yield Difference(RECIPE, f"`{key}` {one}", f"{other}")
    recorded = (run.read_training_arguments() or {}).get("world_size", processes)
    if recorded != processes:
        yield Difference(TRAINING_ARGUMENTS, f"{recorded} process(es)", f"{processes}")


def compare_classes(run: RunFolder, now: LabelSpace) -> Iterator[Difference]:
    """Classes, and how label files spell them."""
    yield from _compare_spaces(LABEL_SPACE, run.read_label_space() or now, now)


def _compare_spaces(file: str, before: LabelSpace, now: LabelSpace) -> Iterator[Difference]:
    for train_id, (one, other) in enumerate(zip_longest(before.names, now.names)):
        if one != other:
            yield Difference(file, f"class {train_id} `{one}`", f"`{other}`")
    meanings = [
        {label_id: "void" if train_id == IGNORE_INDEX else f"`{space.names[train_id]}`"
         for label_id, train_id in space.label_ids.items()}
        for space in (before, now)
    ]  # fmt: skip
    for label_id in sorted({**meanings[0], **meanings[1]}):
        one, other = (meaning.get(label_id, "none of the classes' ids, nor void") for meaning in meanings)
        if one != other:
            yield Difference(file, f"label id {now.spell(label_id)} as {one}", other)
    for key in ("encoding", "edge_tolerance", "lossy"):
        if (one := getattr(before, key)) != (other := getattr(now, key)):
            yield Difference(file, f"`{key}` {one}", f"{other}")
    groups = [dict(zip(space.names, space.categories, strict=False)) for space in (before, now)]
    for name, one in groups[0].items():
        if (other := groups[1].get(name, one)) != one:
            yield Difference(file, f"`{name}` in the category `{one}`", f"`{other}`")


def compare_added(run: RunFolder, added: Sequence[AddedData]) -> Iterator[Difference]:
    """Further data sets, their shares, and how their label files spell the classes."""
    if not run.has(RECIPE):
        return
    for before, now in zip_longest(run.read_added(), added):
        one = f"{before['share']:.6g} of the samples from `{before['name']}`" if before else "no further data"
        other = f"{now.share:.6g} from `{now.name}`" if now else "none"
        if before is None or now is None or (before["name"], before["share"]) != (now.name, now.share):
            yield Difference(ADDED_DATA, one, other)
        else:
            space = parse_label_space(before["label_space"], str(run.path / ADDED_DATA))
            yield from _compare_spaces(ADDED_DATA, space, now.label_space)


def compare_frames(run: RunFolder, frames: Mapping[str, Mapping]) -> Iterator[Difference]:
    """Which frame is in which split, and what its files hold, which an older version didn't record."""
    recorded = run.read_frames() or {}
    listed = run.read_splits() or ({split: list(found) for split, found in recorded.items()} or None)
    if listed is not None and ADDED in recorded:
        listed[ADDED] = list(recorded[ADDED])
    for split in {**listed, **frames} if listed is not None else ():
        file = FRAMES if split == ADDED else SPLITS
        before, now = list(listed.get(split) or ()), frames.get(split, {})
        elsewhere = {name: other for other, names in frames.items() if other != split for name in names}
        for name in before:
            if name not in now:
                where = f"it in {elsewhere[name]}" if name in elsewhere else "no such frame"
                yield Difference(file, f"frame `{name}` in {split}", where)
        for name in sorted(now.keys() - set(before)):
            if not any(name in names for names in listed.values()):  # else it was told where it was
                yield Difference(file, f"{len(before)} frames in {split}", f"`{name}` beside them")
    for split, found in frames.items():
        for name, digests in found.items():
            before = recorded.get(split, {}).get(name, digests)
            for kind, one, other in zip(("image", "label"), before, digests, strict=True):
                if one != other:
                    yield Difference(FRAMES, f"the {kind} of `{name}` with SHA-256 {one:.12}...", f"{other:.12}...")


def compare_weights(
    run: RunFolder, space: LabelSpace, weights: np.ndarray | None, counts: np.ndarray
) -> Iterator[Difference]:
    """Weights of the classes, whatever file or scheme they come from, and the pixels that were counted."""
    if not run.has(RECIPE):
        return
    before, now = run.read_class_weights() or {}, _describe_weights(space, weights, counts)
    for key, what in (("weights", "a weight"), ("counts", "pixels")):
        one, other = before.get(key) or {}, now.get(key) or {}
        for name in {**one, **other}:
            pair = one.get(name), other.get(name)
            if not all(isinstance(value, int | float) for value in pair) or not math.isclose(*pair, rel_tol=1e-9):
                yield Difference(CLASS_WEIGHTS, f"{what} of `{name}` {pair[0]}", f"{pair[1]}")


def compare_teacher(run: RunFolder, now: Mapping | None) -> Iterator[Difference]:
    """Who teaches, by the bytes of its weights or of what it wrote down."""
    if not run.has(RECIPE):
        return
    one, other = (
        f"a teacher with SHA-256 {record.get('sha256')!s:.12}..." if record else "no teacher"
        for record in (run.read_teacher(), now)
    )
    if one != other:
        yield Difference(TEACHER, one, other)


def compare_unlabelled(run: RunFolder, now: Mapping | None) -> Iterator[Difference]:
    """Which frames without labels, by the bytes of their files and in which order, and who labels them."""
    if not run.has(RECIPE):
        return
    before, now = run.read_unlabelled() or {}, now or {}
    one, other = ([*record.get("frames", {}).items()] for record in (before, now))
    if len(one) != len(other):
        yield Difference(UNLABELLED, f"{len(one)} unlabelled frames", f"{len(other)}")
    elif unlike := next((pair for pair in zip(one, other, strict=True) if pair[0][1] != pair[1][1]), None):
        first, second = (f"`{name}` with SHA-256 {digest:.12}..." for name, digest in unlike)
        yield Difference(UNLABELLED, f"an unlabelled frame {first}", second)
    first, second = ((record.get("teacher") or {}).get("sha256") for record in (before, now))
    if before and now and first != second:
        spelled = (f"a model with SHA-256 {one:.12}..." if one else "its own averages" for one in (first, second))
        yield Difference(UNLABELLED, f"unlabelled frames labelled by {next(spelled)}", next(spelled))


def describe_frames(inspection: Inspection, added: Sequence[AddedData] = ()) -> dict[str, dict[str, list[str]]]:
    """By split and frame name, the SHA-256 of the image's and of the label's file; further data's under `ADDED`.

    Of what is streamed, by split and the file that frames are in, twice the SHA-256 of its footer.
    """
    frames = {
        split: {pair.name: list(pair.file_digests) for pair in pairs}
        for split, pairs in inspection.pairs.items()
        if split not in inspection.streamed
    } | {split: rows.list_files() for split, rows in inspection.streamed.items()}
    further = {name: digests for one in added for name, digests in one.frames.items()}
    return frames | ({ADDED: further} if further else {})


def leave_out_trained(run: RunFolder, data: LoadedData, inspection: Inspection) -> tuple[LoadedData, Inspection]:
    """Other data without the frames, in validation and test, that the run was ever trained on.

    A frame is known by the bytes of its image, or by its name, unless the run had it in that split from the start.

    Raises:
        ConfigError: Nothing would be left of a split.
    """
    listed, trained = run.read_splits() or {}, _list_trained(run)
    images = {digests[0] for digests in trained.values() if digests}
    splits, pairs, notes = dict(data.splits), dict(inspection.pairs), list(data.notes)
    for split in splits.keys() - {"train"}:
        known = trained.keys() - set(listed.get(split) or ())
        kept = [
            index
            for index, pair in enumerate(pairs[split])
            if pair.name not in known and pair.file_digests[0] not in images
        ]
        if not kept:
            fix = "name others in `--split_file`, or train anew in another `--output_dir`"
            raise ConfigError(f"frames in {split} that the run was not trained on", "none", fix, run.path / SPLITS)
        if left := len(pairs[split]) - len(kept):
            notes.append(f"{split}: {left} frames left out, because the run was trained on them before it was resumed")
            splits[split] = splits[split].select(kept)
            pairs[split] = tuple(pairs[split][index] for index in kept)
    return replace(data, splits=DatasetDict(splits), notes=tuple(notes)), replace(inspection, pairs=pairs)


def remember_trained(run: RunFolder, frames: Mapping[str, Mapping], unlabelled: Mapping | None = None) -> dict:
    """`frames`, and under `TRAINED_BEFORE` those that the run was trained on and is no longer, labelled or not."""
    train = frames["train"] | frames.get(ADDED, {})
    still = set((unlabelled or {}).get("frames", {}).values())
    left = {
        name: digests
        for name, digests in _list_trained(run).items()
        if (name not in train or (digests and digests != train[name])) and not still.intersection(digests)
    }
    return {**frames, TRAINED_BEFORE: left} if left else dict(frames)


def _list_trained(run: RunFolder) -> dict[str, list[str]]:
    """Frames that the run was ever trained on; without digests those of an older version.

    Those without a label are `unlabelled/<name>`, so that they are known by their bytes alone.
    """
    recorded, listed = run.read_frames() or {}, run.read_splits() or {}
    names = {name: [] for name in listed.get("train") or ()}
    unlabelled = (run.read_unlabelled() or {}).get("frames", {})
    unlabelled = {f"unlabelled/{name}": [digest, ""] for name, digest in unlabelled.items()}
    recorded_now = recorded.get("train", {}) | recorded.get(ADDED, {})
    return names | recorded_now | recorded.get(TRAINED_BEFORE, {}) | unlabelled


def _describe_weights(label_space: LabelSpace, weights: np.ndarray | None, counts: np.ndarray) -> dict:
    """`weights` and `counts` by class name; nothing of an unweighted loss."""
    pairs = {} if weights is None else {"weights": weights, "counts": counts}
    return {key: dict(zip(label_space.names, values.tolist(), strict=True)) for key, values in pairs.items()}
