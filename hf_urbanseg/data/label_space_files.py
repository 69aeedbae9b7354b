"""Label spaces by name or from files: the classes of a data set, and where its folders are."""

import colorsys
import difflib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import yaml

from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace

BUILT_IN = {"cityscapes": CITYSCAPES, "cityscapes_train_ids": CITYSCAPES.with_train_ids()}
FOLDER_KEYS = ("splits", "images", "labels", "image_suffix", "label_suffix")


def shipped_label_spaces() -> dict[str, Path]:
    """The YAML files of this package by name."""
    folder = Path(str(resources.files("hf_urbanseg") / "data" / "label_spaces"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_label_space(name_or_path: str) -> tuple[LabelSpace, dict]:
    """A label space and what its file says about folders (keys of `FOLDER_KEYS`; empty for the built-in ones).

    Args:
        name_or_path: `cityscapes`, `cityscapes_train_ids`, a name in hf_urbanseg/data/label_spaces, or a YAML or JSON
            file with the keys of `LabelSpace.from_dict` and optionally those of `load_described_folders`.

    Raises:
        DataError: No such name or file, not YAML, or an unknown key.
        ConfigError: Classes, colours or ids that don't fit together.
    """
    if name_or_path in BUILT_IN:
        return BUILT_IN[name_or_path], {}
    shipped = shipped_label_spaces()
    path = shipped.get(name_or_path) or Path(name_or_path).expanduser()
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise DataError(
            f"`label_space` of {', '.join([*BUILT_IN, *shipped])}, or a .yaml file",
            f"`{name_or_path}`",
            "choose one or write a file",
        )
    description = read_mapping(path, "label space")
    known = ("name", "classes", "void", *FOLDER_KEYS)
    for key in description:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            fix = f"did you mean `{near[0]}`" if near else "remove it"
            if "reduce" in str(key):
                fix = "remove it and list the unlabelled id under `void`"
            raise DataError(f"keys {', '.join(known)}", f"`{key}`", fix, path)
    folders = {key: description[key] for key in FOLDER_KEYS if key in description}
    return LabelSpace.from_dict(description, str(path)), folders


def read_mapping(path: Path, kind: str, loader: type = yaml.SafeLoader) -> dict:
    """The mapping in a YAML or JSON file.

    Raises:
        DataError: Unreadable, not YAML, or no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except OSError as error:
        raise DataError(f"a readable {kind} file", error.strerror or str(error), "check the path", path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"a {kind} file in YAML", str(error), "correct the file", path) from error
    if not isinstance(content, dict):
        raise DataError(f"a {kind} file of `key: value` lines", f"{type(content).__name__}", "correct the file", path)
    return content


def write_label_space(path: Path, label_space: LabelSpace) -> None:
    """Writes JSON that `read_label_space` reads back."""
    path.write_text(json.dumps(label_space.to_dict(), indent=1) + "\n", encoding="utf-8")


def label_space_from_names(id2label: Mapping, name: str, source: Path) -> LabelSpace:
    """The label space of a set that only has an `id2label.json`: its files hold these ids, and 255 as void.

    Train ids follow the order of the ids. Colours are Cityscapes' where a name is the same, else made up.

    Raises:
        DataError: A key that is not an id of 0..255.
    """
    try:
        names = {int(label_id): str(class_name) for label_id, class_name in id2label.items()}
    except ValueError as error:
        raise DataError('"id": "name" pairs', f"{error}", "correct the file or give `--label_space`", source) from error
    names.pop(IGNORE_INDEX, None)
    official = dict(zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True))
    classes = [
        {"name": names[label_id], "color": official.get(names[label_id], _color(order)), "label_ids": [label_id]}
        for order, label_id in enumerate(sorted(names))
    ]
    return LabelSpace.from_dict({"name": name, "classes": classes, "void": [IGNORE_INDEX]}, str(source))


def _color(order: int) -> tuple[int, int, int]:
    # Steps of the golden ratio around the hue circle keep any number of colours apart.
    red, green, blue = colorsys.hsv_to_rgb(order * 0.6180339887 % 1, 0.75, 0.9 if order % 2 else 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)
