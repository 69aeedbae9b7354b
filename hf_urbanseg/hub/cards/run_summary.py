"""What a run's folder says about itself, read once and leniently: older runs and runs measured later hold less."""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import yaml

from hf_urbanseg.errors import DataError, ModelError
from hf_urbanseg.hub.cards.licence import TITLES, allows_pictures, recognise_data
from hf_urbanseg.hub.cleaning.local_paths import is_absolute, last_name, list_local_folders, remove_local_paths
from hf_urbanseg.inference.predictor import build_label_space
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.models.build import SIZES

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class RunSummary:
    """The files of a run that a card needs.

    Args:
        folder: Of the run.
        recipe: Options of `recipe.yaml`; empty if there is none.
        metrics: Of metrics.json; empty in the middle of training.
        weights: Of class_weights.json; empty if the loss was unweighted.
        config: Of the model.
        size: (height, width) that the image processor resizes to; None if it doesn't.
        label_space: The classes.
        local_folders: Paths of this machine, which are taken out of all these but the recipe.
    """

    folder: Path
    recipe: Mapping
    metrics: Mapping
    weights: Mapping
    config: Mapping
    size: tuple[int, int] | None
    label_space: LabelSpace
    local_folders: tuple[str, ...] = ()

    @classmethod
    def read(cls, run: str | Path, checkpoint: str | None = None) -> "RunSummary":
        """Reads a run's folder.

        Args:
            run: Folder of the run.
            checkpoint: Name of a folder in it whose model is meant, in the middle of training; None is the run's own
                model, which must be there and measured.

        Raises:
            ModelError: They are not there.
            DataError: A file can't be read.
        """
        run = Path(run)
        recipe = _read_recipe(run / "recipe.yaml")
        folders = tuple(list_local_folders(run, dict(recipe)))
        names = ("metrics.json", "config.json") if checkpoint is None else ()
        if missing := [name for name in names if not (run / name).is_file()]:
            fix = "let scripts/finetune.py finish (`--resume`)"
            raise ModelError("a trained and measured model", f"no {', '.join(missing)}", fix, run)
        model = run / (checkpoint or "")
        config, classes = _read_json(model / "config.json", folders), _read_json(run / "label_space.json", folders)
        if classes:
            space = LabelSpace.from_dict(classes, str(run / "label_space.json"))
        else:
            space = build_label_space(config.get("id2label") or {0: "class"}, str(run))
        processor = _read_json(model / "preprocessor_config.json", folders)
        size = (processor.get("size") if processor.get("do_resize", True) else None) or {}
        size = (size["height"], size["width"]) if {"height", "width"} <= set(size) else None
        metrics = {} if checkpoint else _read_json(run / "metrics.json", folders)
        weights = _read_json(run / "class_weights.json", folders)
        return cls(run, recipe, metrics, weights, config, size, space, folders)

    @property
    def splits(self) -> Mapping[str, Mapping]:
        """Scores by measured split, the one that counts first: test, else validation, else what there is."""
        splits = self.metrics.get("splits") or {}
        rank = {"test": 0, "validation": 1}
        return {split: splits[split] for split in sorted(splits, key=lambda split: (rank.get(split, 2), split))}

    @property
    def trained_with(self) -> str:
        version = (self.metrics.get("environment") or {}).get("hf_urbanseg")
        return f"hf_urbanseg {version}" if version else "hf_urbanseg"

    @cached_property
    def data_name(self) -> str:
        """As the run's log has it: `kitti`, or the Hub id."""
        name = (self.metrics.get("data") or {}).get("name")
        if name and str(name).strip():
            return str(name)
        if source := self.weights.get("source"):
            return str(source).split(", train")[0]
        for split in self.splits:
            if name := _read_json(self.folder / f"per_image_{split}.json", self.local_folders).get("data"):
                return str(name)
        return last_name(str(self.recipe.get("dataset") or self.recipe.get("data_dir") or "data without a name"))

    @property
    def data_is_hub(self) -> bool:
        # Data of a folder is named by its last part alone.
        return self.data_name == self.recipe.get("dataset") and bool(_HUB_ID.fullmatch(self.data_name))

    @property
    def data_kind(self) -> str | None:
        """Key of a known data set."""
        return recognise_data(self.data_name)

    def shows_pictures(self, asked: bool | None = None) -> bool:
        """Whether pictures made from the data's images are published; unless asked for, not where terms forbid it."""
        return allows_pictures(self.data_name) if asked is None else asked

    @property
    def data_title(self) -> str:
        return self.data_name if self.data_is_hub else TITLES.get(self.data_kind, self.data_name)

    @property
    def base(self) -> str | None:
        """What the weights started from, a folder by its last name; None for random ones."""
        if not self.recipe or self.recipe.get("init") == "random":
            return None
        base = self.recipe.get("model_name_or_path")
        return base if base is None or self.base_is_hub else last_name(base)

    @property
    def base_is_hub(self) -> bool:
        base = str(self.recipe.get("model_name_or_path") or "")
        if self.recipe.get("init") == "random" or is_absolute(base) or not _HUB_ID.fullmatch(base):
            return False
        # `runs/demo` is as good a Hub id as any, but it is a folder.
        return not Path(base).parent.exists() and not base.startswith("runs/")

    @property
    def model_name(self) -> str:
        """`SegFormer-B0`, by the shape of the encoder."""
        shape = {key: self.config.get(key) for key in ("hidden_sizes", "depths")}
        for size, known in SIZES.items():
            if all(known[key] == value for key, value in shape.items()):
                return f"SegFormer-{size if size == 'tiny' else size.upper()}"
        return "SegFormer"

    @cached_property
    def parameters(self) -> int | None:
        """Trained numbers in model.safetensors; None if it is not one file."""
        try:
            with (self.folder / "model.safetensors").open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                tensors = json.loads(file.read(length))
        except (OSError, ValueError, struct.error):
            return None
        buffers = ("running_mean", "running_var", "num_batches_tracked", "__metadata__")
        return sum(prod(tensor["shape"]) for name, tensor in tensors.items() if not name.endswith(buffers))

    def read_images(self, split: str) -> ImageCounts | None:
        """Counts by image; None if the run didn't leave them."""
        path = self.folder / f"per_image_{split}.json"
        content = _read_json(path, self.local_folders)
        return ImageCounts.from_dict(content, str(path)) if content else None

    def list_pictures(self, folder: str) -> list[str]:
        """Paths of the pictures in a folder of the run, as a push takes them."""
        paths = sorted((self.folder / folder).glob("*"))
        return [
            path.relative_to(self.folder).as_posix()
            for path in paths
            if path.suffix in (".png", ".jpg") and not path.name.startswith(".") and path.is_file()
        ]

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()


def _read_json(path: Path, local_folders: tuple[str, ...]) -> Mapping:
    """Its content; empty if there is no such file."""
    try:
        # Before anything is escaped: what is escaped no longer looks like a path.
        text = remove_local_paths(path.read_text(encoding="utf-8"), local_folders)
        content = json.loads(text, parse_constant=lambda _: None)  # NaN, which others' JSON may hold, is no number
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError("readable JSON", type(error).__name__, "restore the file", path) from error
    if not isinstance(content, Mapping):
        raise DataError("a JSON object", type(content).__name__, "restore the file", path)
    return content


def _read_recipe(path: Path) -> Mapping:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError("a recipe", type(error).__name__, "restore the file", path) from error
    if not isinstance(content, Mapping):
        raise DataError("a mapping of options", type(content).__name__, "restore the file", path)
    return content
