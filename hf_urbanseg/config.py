"""The dataclasses behind a recipe, and how a YAML file and the command line become them."""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from hf_urbanseg.errors import ConfigError


@dataclass
class DataArguments:
    """Where the images and labels come from and how they are split. Plain values: `load_data(**asdict(this))`."""

    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder or .zip in the official KITTI or Cityscapes layout, a set saved by prepare_data, or "
                          "any folder described by --label_space with `splits`."},
    )  # fmt: skip
    dataset: str | None = field(
        default=None,
        metadata={"help": "Hub id of a data set, or `synthetic` for the rendered streets inside the package."},
    )
    label_space: str | None = field(
        default=None,
        metadata={"help": "Classes of the label files: `cityscapes` (labelIds), `cityscapes_train_ids`, another name "
                          "in hf_urbanseg/data/label_spaces, or a YAML file. Default: what the layout implies."},
    )  # fmt: skip
    image_column: str | None = field(default=None, metadata={"help": "Image column of a Hub or saved set."})
    label_column: str | None = field(default=None, metadata={"help": "Label column of a Hub or saved set."})
    split_file: str | None = field(
        default=None, metadata={"help": "YAML file that lists the frame names of train, validation and test."}
    )
    keep_together: list[str] | None = field(
        default=None,
        metadata={"help": "Comma-separated frame names that show one scene and must stay in one split; repeatable."},
    )
    test_fraction: float = field(
        default=0.25, metadata={"help": "Share cut off as test where the data has none (the report: 50 of 200)."}
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training frames cut off for model selection where there is none."}
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of those cuts."})


def recipe_names() -> list[str]:
    """Names of the recipes inside the package."""
    folder = resources.files("hf_urbanseg") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_path: str) -> dict:
    """Reads a recipe: a name inside the package or a path to a YAML file.

    Raises:
        ConfigError: No such recipe, or not a YAML mapping.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_path not in recipe_names():
            raise ConfigError(
                f"a recipe of {', '.join(recipe_names())}, or a .yaml file",
                f"`{name_or_path}`",
                "choose one with `--recipe`",
            )
        path = Path(str(resources.files("hf_urbanseg") / "recipes" / f"{name_or_path}.yaml"))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("a readable recipe", error.strerror or str(error), "check `--recipe`", path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("valid YAML", " ".join(str(error).split()), "correct the file", path) from error
    if not isinstance(content, dict):
        raise ConfigError("a mapping of options", type(content).__name__, "write `key: value` lines", path)
    return content


class _OneLineParser(HfArgumentParser):
    """An `HfArgumentParser` whose complaints are `ConfigError`s instead of a usage page."""

    def error(self, message: str):
        raise ConfigError("valid options", message, "see `--help`")


def parse_arguments(
    dataclass_types: Sequence[type],
    argv: Sequence[str] | None = None,
    recipe: dict | None = None,
    recipe_path: str = "recipe",
    description: str | None = None,
) -> tuple:
    """Command line over recipe over defaults, as instances of `dataclass_types` in their order.

    Args:
        dataclass_types: Dataclasses whose fields are the options.
        argv: Words of the command line; None takes `sys.argv[1:]`.
        recipe: Options by name; every key must be a field.
        recipe_path: Named in errors about the recipe.

    Raises:
        ConfigError: An unknown key or option, or a value of the wrong type.
    """
    parser = _OneLineParser(list(dataclass_types), description=description, allow_abbrev=False)
    known = {f.name: f for dataclass_type in dataclass_types for f in fields(dataclass_type) if f.init}
    words = []
    for key, value in (recipe or {}).items():
        if key in ("reduce_labels", "do_reduce_labels"):
            raise ConfigError(
                "label ids mapped by a label space",
                f"`{key}`, which would shift every class by one",
                "remove it and list the unlabelled id under `void` in `--label_space`",
                recipe_path,
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            fix = f"did you mean `{near[0]}`" if near else "remove it"
            raise ConfigError("known recipe keys", f"`{key}`", fix, recipe_path)
        # The recipe becomes words in front of the command line, so both go through the same type checks.
        if value is None:
            parser.set_defaults(**{key: None})
        elif isinstance(value, (list, tuple)):
            words += [f"--{key}", *map(str, value)]
        elif isinstance(value, dict):
            words += [f"--{key}", yaml.safe_dump(value, default_flow_style=True).strip()]
        else:
            words += [f"--{key}", str(value)]
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return parser.parse_args_into_dataclasses([*words, *argv], look_for_args_file=False)
    except ConfigError:
        raise
    except (ValueError, ImportError, TypeError) as error:
        # Dataclasses check themselves in __post_init__; TrainingArguments speaks in ValueErrors.
        raise ConfigError("a valid combination of options", " ".join(str(error).split()), "correct it") from error
