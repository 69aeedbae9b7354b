"""A run's folder as a type: the names of its files, once, and one way to read them back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import SAFE_WEIGHTS_NAME as WEIGHTS

from hf_urbanseg.data.label_space_files import describe_label_space, parse_label_space
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.own_files import LABEL_SPACE_FILE
from hf_urbanseg.data.shards import ShardedRows
from hf_urbanseg.data.splits import SPLITS_FILE, write_split_file
from hf_urbanseg.errors import DataError, ModelError
from hf_urbanseg.files import hash_file
from hf_urbanseg.json_yaml import read_json, read_mapping, write_json, write_yaml
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.metrics.image_counts import ImageCounts

# What went into a run, before its first step.
RECIPE = "recipe.yaml"
TRAINING_ARGUMENTS = "training_arguments.json"
SPLITS = SPLITS_FILE
LABEL_SPACE = LABEL_SPACE_FILE
CLASS_WEIGHTS = "class_weights.json"
CLASS_DISTRIBUTION = "class_distribution.png"
FRAMES = "frames.json"
TRAINED_BEFORE = "trained_before"
"""In `FRAMES`, beside the splits: frames of earlier starts that are no longer in train."""
ADDED = "added"
"""In `FRAMES`, beside the splits: frames of further data sets."""
ADDED_DATA = "added_data.json"
TEACHER = "teacher.json"
UNLABELLED = "unlabelled.json"
CHANGES = "changes.json"
MEASURED = "measured.json"
"""Which model and data were measured, in a folder that holds its numbers alone."""
# What came out of it.
METRICS = "metrics.json"
LOG_HISTORY = "log_history.json"
TRAINING_CURVES = "training_curves.png"
CARD = "README.md"
REPORT = "report.html"
OVERLAYS, FAILURES = "overlays", "failures"
RANDOM_BASELINE = "random_baseline"

WEIGHTS_SHA256 = "weights_sha256"  # in the metrics of a split: of the model that has these scores


def per_image(split: str) -> str:
    """Pixel counts of each image of a split."""
    return f"per_image_{split}.json"


def per_class(split: str, suffix: str) -> str:
    """Table (`.md`, `.csv`) or chart (`.png`) of the classes of a split."""
    return f"per_class_{split}{suffix}"


@dataclass(frozen=True)
class RunFolder:
    """What training, or measuring a model with `--output`, left in a folder.

    Every reader gives None (or nothing) where the file is not there: a model measured later has no recipe, and a run
    under way no metrics. What is there and damaged is a `DataError` that names the file.

    Args:
        path: The folder; needn't exist before something is written.
    """

    path: Path

    def __post_init__(self):
        object.__setattr__(self, "path", Path(self.path))

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    @property
    def is_finished(self) -> bool:
        """The metrics are written last."""
        return self.has(METRICS)

    @property
    def skipped_frames(self) -> Path:
        """A line on each frame of a streamed set that couldn't be trained on (`--bad_frames skip`)."""
        return self.path / "skipped_frames.txt"

    @property
    def random_baseline(self) -> "RunFolder":
        """The same run from random weights, if there is one (`--random_baseline`)."""
        return RunFolder(self.path / RANDOM_BASELINE)

    def read_metrics(self) -> dict | None:
        """`splits` (scores by split) and, of a run that was trained here, `training`, `selection`, `environment`,
        `data`."""
        metrics = read_json(self.path / METRICS)
        splits = {} if metrics is None else metrics.get("splits")
        if not isinstance(splits, dict) or not all(isinstance(scores, dict) for scores in splits.values()):
            fix = "restore it, or move it away and measure again"
            raise DataError("the metrics of a run, with `splits`", "something else", fix, self.path / METRICS)
        return metrics

    def hash_weights(self) -> str | None:
        """sha256 of the model's file of weights; None without one."""
        return hash_file(self.path / WEIGHTS) if self.has(WEIGHTS) else None

    def check_weights(self, *splits: str) -> None:
        """Refuses (ModelError) scores of `splits`, by default of all, that other weights have than those here."""
        here, measured = self.hash_weights(), (self.read_metrics() or {}).get("splits") or {}
        for split in splits or measured:
            there = measured[split].get(WEIGHTS_SHA256) or here
            if here and there != here:
                expected, found = f"the weights that {split} was measured with ({there:.8}...)", f"{here:.8}..."
                fix = f"put them back, or measure again: `urbanseg evaluate {self.path} --output {self.path}"
                raise ModelError(expected, found, f"{fix} --split {split}`", self.path / WEIGHTS)

    def read_recipe(self) -> dict | None:
        return self._read_yaml(RECIPE, "recipe")

    def read_splits(self) -> dict[str, list[str]] | None:
        """Frame names by split; words all of them, 000001 too."""
        return self._read_yaml(SPLITS, "split", words=True)

    def read_training_arguments(self) -> dict | None:
        return read_json(self.path / TRAINING_ARGUMENTS)

    def read_frames(self) -> dict[str, dict[str, list[str]]] | None:
        """By split and frame name, the SHA-256 of the image's and of the label's file."""
        frames = read_json(self.path / FRAMES)
        for split, names in (frames or {}).items():
            counts = (0, 2) if split == TRAINED_BEFORE else (2,)  # of an older version's frames names alone are known
            if not isinstance(names, dict) or not all(_are_digests(one, counts) for one in names.values()):
                fix = "restore it, or delete it: then names alone are compared"
                raise DataError("frames of each split with two digests", "something else", fix, self.path / FRAMES)
        return frames

    def read_changes(self) -> list[dict]:
        """What was changed each time the run was resumed with `--accept_changes`: `step` and `differences`."""
        return (read_json(self.path / CHANGES) or {}).get("changes", [])

    def read_label_space(self) -> LabelSpace | None:
        """The classes, and how label files spell them."""
        content = read_json(self.path / LABEL_SPACE)
        return None if content is None else parse_label_space(content, str(self.path / LABEL_SPACE))

    def read_class_weights(self) -> dict | None:
        """`weights` and `counts` by class, `scheme`, `source`; None for an unweighted loss."""
        return read_json(self.path / CLASS_WEIGHTS)

    def read_teacher(self) -> dict | None:
        """Who taught the run, and what tells that teacher from others; None of a run without."""
        return read_json(self.path / TEACHER)

    def read_added(self) -> list[dict]:
        """Further data sets that the run was trained on: `name`, `share`, `images`, `classes`, `label_space`."""
        sets = (read_json(self.path / ADDED_DATA) or {"sets": []}).get("sets")
        kinds = {"name": str, "share": int | float, "images": int, "classes": list, "label_space": dict}
        sound = isinstance(sets, list) and all(
            isinstance(one, dict) and all(isinstance(one.get(key), kind) for key, kind in kinds.items()) for one in sets
        )
        if not sound:
            fix = "restore it, or train anew in another folder"
            raise DataError("the further data of a run", "something else", fix, self.path / ADDED_DATA)
        return sets

    def read_unlabelled(self) -> dict | None:
        """`frames` without labels that the run is trained on, name -> SHA-256 of the file, in their order; `teacher`,
        and how they are learnt from."""
        record = read_json(self.path / UNLABELLED)
        frames = {} if record is None else record.get("frames")
        if not isinstance(frames, dict) or not all(isinstance(one, str) for one in frames.values()):
            raise DataError("`frames` with a digest each", "something else", "restore it", self.path / UNLABELLED)
        return record

    def read_source(self) -> dict | None:
        """What `describe_source` told; None of a run that was trained here."""
        source = read_json(self.path / MEASURED) or {}
        words = [source.get("model"), *(source.get(key) or "" for key in ("revision", WEIGHTS_SHA256))]
        sound = all(isinstance(word, str) for word in words) and isinstance(source.get("data"), dict)
        if self.has(MEASURED) and not sound:
            raise DataError("`model` and `data` that were measured", "others", "measure again", self.path / MEASURED)
        return source or None

    def read_counts(self, split: str) -> tuple[ImageCounts, dict] | None:
        """Pixels of each image of a split, and what `write_counts` was told about them."""
        path = self.path / per_image(split)
        content = read_json(path)
        return None if content is None else (ImageCounts.from_dict(content, str(path)), content)

    def list_counted_splits(self) -> list[str]:
        return sorted(file.stem.removeprefix("per_image_") for file in self.path.glob(per_image("*")))

    def write_inputs(
        self,
        recipe: Mapping,
        training_arguments: Mapping,
        data: LoadedData,
        frames: Mapping[str, Mapping],
        records: Mapping[str, Mapping | None],
    ) -> None:
        """What went into a run, so that it can be repeated, and a resume be compared with it.

        Args:
            records: Of `TEACHER`, `UNLABELLED` and `ADDED_DATA`; None where the run has none.
        """
        write_yaml(self.path / RECIPE, recipe)
        write_json(self.path / TRAINING_ARGUMENTS, training_arguments)
        self._write_splits(data)
        write_json(self.path / LABEL_SPACE, describe_label_space(data.label_space))
        write_json(self.path / FRAMES, frames, indent=None)
        for name, record in records.items():
            if record:
                write_json(self.path / name, record)
            else:
                (self.path / name).unlink(missing_ok=True)

    def write_source(self, source: Mapping, data: LoadedData, frames: Mapping[str, Mapping]) -> None:
        """What was measured, so that it is found again, and known for the same; see `describe_source`."""
        write_json(self.path / MEASURED, source)
        write_json(self.path / LABEL_SPACE, describe_label_space(data.label_space))
        write_json(self.path / FRAMES, frames, indent=None)
        self._write_splits(data)

    def _write_splits(self, data: LoadedData) -> None:
        streamed = any(isinstance(rows, ShardedRows) for rows in data.splits.values())  # whose splits are its own
        if "train" in data.splits and not streamed:  # a split file has one
            write_split_file(self.path / SPLITS, data.splits)
        else:
            (self.path / SPLITS).unlink(missing_ok=True)

    def write_changes(self, step: int, differences: Sequence[str]) -> None:
        changes = [*self.read_changes(), {"step": step, "differences": list(differences)}]
        write_json(self.path / CHANGES, {"changes": changes})

    def write_counts(self, split: str, counts: ImageCounts, said: Mapping) -> None:
        """`said`: `protocol`, in words; `plan` and `inputs` (height, width, how many), in numbers; `data`."""
        content = {"split": split, **said, **counts.to_dict()}
        # Rows of numbers, not a number a line: for 50 images, 20 kB instead of 100.
        write_json(self.path / per_image(split), content, indent=None)

    def write_metrics(self, metrics: Mapping) -> None:
        write_json(self.path / METRICS, metrics)

    def write_log(self, history: list[dict]) -> None:
        write_json(self.path / LOG_HISTORY, {"log_history": history})

    def _read_yaml(self, name: str, kind: str, words: bool = False) -> dict | None:
        return read_mapping(self.path / name, kind, words) if self.has(name) else None


def _are_digests(value: object, counts: Sequence[int]) -> bool:
    return isinstance(value, list) and len(value) in counts and all(isinstance(one, str) for one in value)


def describe_data(data: LoadedData) -> dict:
    """What a run was trained and measured on, for its metrics."""
    return {
        "name": data.name,
        "images": {split: len(rows) for split, rows in data.splits.items()},
        "notes": list(data.notes),
    }
