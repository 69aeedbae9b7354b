"""What a run's folder says about itself, read once and leniently: runs measured later hold less."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_urbanseg.data.label_space_files import shipped_label_spaces
from hf_urbanseg.errors import ModelError
from hf_urbanseg.hub.cards.licence import TITLES, Licence, choose_licence, recognise_data
from hf_urbanseg.hub.cleaning import clean_values, is_local, last_name, list_local_folders, shorten_options
from hf_urbanseg.inference.calibration_file import find_temperature
from hf_urbanseg.inference.predictor import build_label_space
from hf_urbanseg.json_yaml import read_json
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.models.build import find_size, name_architecture
from hf_urbanseg.runs.folder import METRICS, RunFolder

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class RunSummary:
    """The files of a run that a card needs, without the paths of this machine; what isn't there is empty.

    `added` are the further data sets that it was trained on, as `RunFolder.read_added` has them. `size` is the (height,
    width) that the image processor resizes to; None if it doesn't.
    """

    folder: Path
    recipe: Mapping
    metrics: Mapping
    weights: Mapping
    added: Sequence[Mapping]
    config: Mapping
    size: tuple[int, int] | None
    label_space: LabelSpace

    @classmethod
    def read(cls, run: str | Path, checkpoint: str | None = None) -> "RunSummary":
        """Reads a run's folder, in the middle of training with the model of a `checkpoint` in it.

        Raises:
            ModelError: No model of its own, or one that was not measured.
            DataError: A file can't be read.
        """
        run = RunFolder(run)
        names = (METRICS, "config.json") if checkpoint is None else ()
        if missing := [name for name in names if not run.has(name)]:
            fix = "let `urbanseg finetune` finish (`--resume`)"
            raise ModelError("a trained and measured model", f"no {', '.join(missing)}", fix, run.path)
        recipe, model = run.read_recipe() or {}, run.path / (checkpoint or "")
        contents = [shorten_options(recipe), run.read_metrics() if checkpoint is None else {}, run.read_class_weights()]
        contents.append(run.read_added())
        contents += [read_json(model / name) for name in ("config.json", "preprocessor_config.json")]
        folders = list_local_folders(run.path, recipe)
        recipe, metrics, weights, added, config, processor = (
            clean_values(content or {}, folders) for content in contents
        )
        size = (processor.get("size") if processor.get("do_resize", True) else None) or {}
        size = (size["height"], size["width"]) if {"height", "width"} <= set(size) else None
        space = run.read_label_space() or build_label_space(config.get("id2label") or {0: "class"}, str(run.path))
        return cls(run.path, recipe, metrics, weights, added, config, size, space)

    def read_images(self, split: str) -> ImageCounts | None:
        """Counts by image; None if the run didn't leave them."""
        found = RunFolder(self.folder).read_counts(split)
        return found and found[0]

    def list_pictures(self, folder: str) -> list[str]:
        """Paths of the pictures in a folder of the run, as a push takes them."""
        found = [path for path in sorted((self.folder / folder).glob("[!.]*")) if path.suffix in (".png", ".jpg")]
        return [path.relative_to(self.folder).as_posix() for path in found]

    @property
    def splits(self) -> Mapping[str, Mapping]:
        """Scores by measured split, the one that counts first: test, else validation, else what there is."""
        splits = self.metrics.get("splits") or {}
        rank = {"test": 0, "validation": 1}
        return {split: splits[split] for split in sorted(splits, key=lambda split: (rank.get(split, 2), split))}

    @property
    def temperature(self) -> float:
        """The one fitted for the way of testing whose scores come first; 1 without."""
        scores = next(iter(self.splits.values()), {})
        return find_temperature(self.folder, None, scores.get("protocol") or "")

    @property
    def data_name(self) -> str:
        """As the run's log has it: `kitti`, or the Hub id."""
        name = (self.metrics.get("data") or {}).get("name") or str(self.weights.get("source", "")).split(", train")[0]
        return name or last_name(self.recipe.get("dataset") or self.recipe.get("data_dir") or "data without a name")

    @property
    def data_is_hub(self) -> bool:
        # Data of a folder is named by its last part alone.
        return self.data_name == self.recipe.get("dataset") and bool(_HUB_ID.fullmatch(self.data_name))

    @property
    def data_kind(self) -> str | None:
        """Key of a known data set."""
        return recognise_data(self.data_name)

    @property
    def data_title(self) -> str:
        return self.data_name if self.data_is_hub else TITLES.get(self.data_kind, self.data_name)

    def shows_pictures(self, asked: bool | None = None) -> bool:
        """Whether pictures made from the data's images are published.

        By default those of Cityscapes and of the sets whose layouts are known, but not their terms, are not; of other
        data its owner decides.
        """
        if asked is not None:
            return asked
        kind = self.data_kind
        return kind != "cityscapes" and (kind is not None or self.data_name not in shipped_label_spaces())

    @property
    def licence(self) -> Licence:
        base, added = self.base and self.recipe["model_name_or_path"], [one["name"] for one in self.added]
        return choose_licence(base, self.base_is_hub, self.data_name, self.architecture, added)

    @property
    def base(self) -> str | None:
        """What the weights started from, a folder by its last name; None for random ones."""
        base = self.recipe.get("model_name_or_path")
        if base is None or self.recipe.get("init") == "random":
            return None
        return base if self.base_is_hub else last_name(base)

    @property
    def base_is_hub(self) -> bool:
        base = self.recipe.get("model_name_or_path") or ""
        if self.recipe.get("init") == "random" or is_local(base) or not _HUB_ID.fullmatch(base):
            return False
        # `runs/demo` is as good a Hub id as any, but it is a folder.
        return not Path(base).parent.exists() and not base.startswith("runs/")

    @property
    def architecture(self) -> str:
        """The word of `--architecture`."""
        return name_architecture(self.config.get("model_type")) or "segformer"

    @property
    def is_stock(self) -> bool:
        """Whether transformers alone loads the model."""
        return self.config.get("model_type", "segformer") == "segformer"

    @property
    def channels(self) -> int:
        """Of the images that the model takes."""
        return self.config.get("num_channels", 3)

    @property
    def model_name(self) -> str:
        """`SegFormer-B0`, `PSPNet (ResNet-18)`: by the type, and the shape of the encoder."""
        size = find_size(self.config) or ""
        match self.architecture:
            case "deeplabv3plus" | "pspnet" as architecture:
                name = "PSPNet" if architecture == "pspnet" else "DeepLabV3+"
                return f"{name} ({size.replace('resnet', 'ResNet-')})" if size else name
            case "swin_segformer":
                return f"{'Swin-T' if size == 'swin-tiny' else 'Swin'} + SegFormer head"
            case "unet":
                return "UNet"
            case "encoder_decoder":
                return "Encoder-decoder baseline"
        return f"SegFormer-{size if size == 'tiny' else size.upper()}".rstrip("-")
