"""Label spaces by name or from files: the classes of a data set, and where its folders are."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from hf_urbanseg.data.id2label import label_space_from_names
from hf_urbanseg.errors import ConfigError, DataError, refuse_all
from hf_urbanseg.escaping import is_plain
from hf_urbanseg.files import expand_home, written_whole
from hf_urbanseg.json_yaml import read_mapping, write_json
from hf_urbanseg.labels import (
    CITYSCAPES,
    IGNORE_INDEX,
    QUOTE,
    LabelSpace,
    build_check,
    check_class_names,
    pack_color,
    unpack_color,
)
from hf_urbanseg.palettes import choose_colors

BUILT_IN = {"cityscapes": CITYSCAPES, "cityscapes_train_ids": CITYSCAPES.with_train_ids()}
FOLDER_KEYS = (
    "splits", "images", "labels", "image_suffix", "label_suffix", "unlabelled_images", "note", "recognised_by",
)  # fmt: skip
_FILE_KEYS = ("encoding", "edge_tolerance", "lossy")
_KEYS = ("name", "classes", "id2label", "label_ids", "void", *_FILE_KEYS, *FOLDER_KEYS)
_MEANT = {
    "ignore": "void", "ignore_index": "void", "ignore_label": "void", "ignored": "void", "unlabeled": "void",
    "id_to_label": "id2label", "names": "id2label", "palette": "classes", "format": "encoding", "masks": "labels",
    "tolerance": "edge_tolerance", "jpeg": "lossy", "train": "splits", "val": "splits", "validation": "splits",
}  # fmt: skip


def shipped_label_spaces() -> dict[str, Path]:
    """The YAML files of this package by name."""
    folder = Path(str(resources.files("hf_urbanseg") / "data" / "label_spaces"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_label_space(name_or_path: str) -> tuple[LabelSpace, dict]:
    """A label space and what its file says about folders (keys of `FOLDER_KEYS`; empty for the built-in ones).

    Args:
        name_or_path: `cityscapes`, `cityscapes_train_ids`, a name in hf_urbanseg/data/label_spaces, or a YAML or JSON
            file with the keys of `parse_label_space` and optionally those of `sources.described_folders`. In place of
            `classes` it may say `id2label: {id: name}`, with or without `void`: see `label_space_from_names`. A file
            that is nothing but such a mapping, as `id2label.json` on the Hub, is read so too. `classes` may be the name
            of a label space: its classes and label values, or with `label_ids: {name: [ids]}` and `void` others.

    Raises:
        DataError: No such name or file, not YAML, or an unknown key.
        ConfigError: Classes, colours or ids that don't fit together.
    """
    if name_or_path in BUILT_IN:
        return BUILT_IN[name_or_path], {}
    shipped = shipped_label_spaces()
    path = shipped.get(name_or_path) or expand_home(name_or_path)
    if path.suffix not in (".yaml", ".yml", ".json"):
        expected = f"`label_space` of {', '.join([*BUILT_IN, *shipped])}, or a .yaml file"
        raise DataError(expected, f"`{name_or_path}`", "choose one or write a file")
    description = read_mapping(path, "label space")
    if description and all(re.fullmatch(r"-?\d+", str(key)) for key in description):
        description = {"id2label": description}
    faults = [_refuse_key(str(key), path) for key in description if key not in _KEYS]
    folders = {key: description[key] for key in FOLDER_KEYS if key in description}
    if "classes" in description and "id2label" in description:
        faults.append(DataError("either `classes` or `id2label`", "both", "keep one of them", path))
    if "label_ids" in description and not isinstance(description.get("classes"), str):
        fix = "write them beside the classes' names"
        faults.append(DataError("`label_ids` only with the name of a label space as `classes`", "them", fix, path))
    refuse_all(faults, "fault")
    if isinstance(description.get("classes"), str):
        description = _take_classes(description, path)
    if "id2label" not in description:
        return parse_label_space(description, str(path)), folders
    space = label_space_from_names(description["id2label"], path.stem, path, description.get("void"))
    how = {key: description[key] for key in ("name", *_FILE_KEYS) if key in description}
    if how.get("encoding") == "color":
        fix = "list `classes` with their `color`"
        raise DataError("`encoding` of files of ids with `id2label`", "`color`", fix, path)
    return parse_label_space(describe_label_space(space) | how, str(path)), folders


def _take_classes(description: Mapping, path: Path) -> dict:
    """The description with the classes of the label space that it names."""
    name, ids = description["classes"], description.get("label_ids")
    if name not in BUILT_IN and name not in shipped_label_spaces():  # so no file leads to itself
        fix = f"list them, or choose one of {', '.join([*BUILT_IN, *shipped_label_spaces()])}"
        raise DataError("a list `classes`, or the name of a label space", f"`{name}`", fix, path)
    taken = describe_label_space(read_label_space(name)[0])
    del taken["name"]
    if ids is not None:
        known = [entry["name"] for entry in taken["classes"]]
        unknown = [f"`{key}`" for key in ids if key not in known] if isinstance(ids, Mapping) else [repr(ids)]
        if unknown:
            expected = f"`label_ids: {{name: [ids]}}` of {', '.join(known)}"
            raise DataError(expected, ", ".join(unknown), "correct or remove it", path)
        own = [entry | {"label_ids": ids.get(entry["name"], [])} for entry in taken["classes"]]
        taken |= {"classes": own, "void": []}
    return taken | {key: value for key, value in description.items() if key not in ("classes", "label_ids")}


def _refuse_key(key: str, path: Path) -> DataError:
    near = [_MEANT[key.lower()]] if key.lower() in _MEANT else difflib.get_close_matches(key, _KEYS, 1)
    fix = f"did you mean `{near[0]}`" if near else "remove it"
    if "reduce" in key:
        fix = "remove it and list the unlabelled id under `void`"
    return DataError(f"keys {', '.join(_KEYS)}", f"`{key}`", fix, path)


def write_label_space(path: Path, label_space: LabelSpace) -> None:
    """Writes JSON that `read_label_space` reads back."""
    write_json(path, describe_label_space(label_space))


def write_label_space_to_edit(path: Path, space: LabelSpace, comments: Sequence[str]) -> None:
    """Writes YAML that `read_label_space` reads back, a line for each class and then for void, with a comment each."""
    described = describe_label_space(space)
    classes, void = described.pop("classes"), described.pop("void")
    lines = [f"{key}: {json.dumps(value)}" for key, value in described.items()]
    lines += ["# Of each class its name, its colour in pictures, and what label files hold for it. Delete a line and",
              "# put its values under `void` where pixels are to be in no loss and no score.", "classes:"]  # fmt: skip
    rows = ["{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in entry.items()) + "}" for entry in classes]
    lines += [f"  - {row}  # {comment.strip()}" for row, comment in zip(rows, comments, strict=False)]
    lines.append(f"void: {json.dumps(void)}  # {comments[-1].strip()}")
    with written_whole(path) as staged:
        staged.write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe_label_space(space: LabelSpace) -> dict:
    """A JSON- and YAML-ready description that `parse_label_space` reads back."""
    is_color = space.encoding == "color"
    values = {train_id: [] for train_id in (*range(space.num_labels), IGNORE_INDEX)}
    for value, train_id in sorted(space.label_ids.items()):
        values[train_id].append(list(unpack_color(value)) if is_color else value)
    key = "label_colors" if is_color else "label_ids"
    classes = [
        {"name": name, "color": list(color), key: values[train_id]}
        for train_id, (name, color) in enumerate(zip(space.names, space.colors, strict=True))
    ]
    for entry, category in zip(classes, space.categories, strict=False):
        entry["category"] = category
    how = {key: getattr(space, key) for key in _FILE_KEYS if getattr(space, key) != getattr(LabelSpace, key)}
    return {"name": space.name, **how, "classes": classes, "void": values[IGNORE_INDEX]}


def parse_label_space(description: Mapping, source: str = "label space") -> LabelSpace:
    """Reads `{name, classes: [{name, color, label_ids, category}], void: [ids], encoding, ...}`.

    Only the names are needed: a class without `color` gets one of `choose_colors`, one without `label_ids` its
    position. With `encoding: color` classes have `label_colors` in their place, by default their `color`, and `void`
    lists colours. Other keys of `read_label_space` are ignored.

    Raises:
        ConfigError: A key is missing or unknown, a value of another shape, or an id is mapped twice; the first fault,
            of which further ones have been logged.
    """
    check = build_check(source)
    fix = "list each class with name, color, label_ids"
    check(isinstance(description, Mapping), "a mapping with `classes`", repr(description), fix)
    classes, is_color = description.get("classes"), description.get("encoding") == "color"
    check(classes and isinstance(classes, (list, tuple)), "a list `classes`", repr(classes), fix)
    key, other = ("label_colors", "label_ids") if is_color else ("label_ids", "label_colors")
    label_ids: dict[int, int] = {}
    faults: list[ConfigError] = []
    for train_id, entry in enumerate(classes):
        with _collecting(faults):
            check(isinstance(entry, Mapping) and "name" in entry, "a `name` for every class", repr(entry), "add it")
            unknown = ", ".join(map(str, entry.keys() - {"name", "color", key, "category"}))
            fix = "say `encoding: color` for label files of colours" if unknown == "label_colors" else "remove it"
            fix = f"write `{key}`, or leave `encoding: color` out" if unknown == other == "label_ids" else fix
            check(not unknown, f"keys name, color, {key}, category", unknown, fix)
            name, color = entry["name"], entry.get("color")
            check_class_names([name], source)
            _check_color(color, f"for {name}", check, "`color`", optional=not is_color)
            values = entry.get(key, [color if is_color else train_id])
            _assign(label_ids, values, train_id, str(name), is_color, check)
    void, name = description.get("void"), description.get("name")
    with _collecting(faults):
        _assign(label_ids, [] if void is None else void, IGNORE_INDEX, "void", is_color, check)
    with _collecting(faults):
        right = name is None or (isinstance(name, str) and is_plain(name))
        check(right, "a `name` on one line", repr(name), QUOTE)
    refuse_all(faults, "fault")
    names, how = tuple(entry["name"] for entry in classes), {k: description[k] for k in _FILE_KEYS if k in description}
    chosen = choose_colors(names)
    colors = tuple(tuple(entry.get("color") or color) for entry, color in zip(classes, chosen, strict=True))
    categories = tuple(entry["category"] for entry in classes if entry.get("category") is not None)
    return LabelSpace(source if name is None else name, names, colors, label_ids, categories, **how)


@contextmanager
def _collecting(faults: list[ConfigError]) -> Iterator[None]:
    try:
        yield
    except ConfigError as fault:
        faults.append(fault)


def _assign(
    label_ids: dict[int, int], values: Iterable, train_id: int, owner: str, is_color: bool, check: Callable
) -> None:
    kind = "colour" if is_color else "label id"
    example = "[[red, green, blue]]" if is_color else f"[{values}]"
    check(isinstance(values, (list, tuple)), f"a list of {kind}s", f"{values!r} in {owner}", f"write {example}")
    for value in values:
        if is_color:
            _check_color(value, f"in {owner}", check, "colours")
        check(is_color or type(value) is int, "whole-number label ids", f"{value!r} in {owner}", "correct it")
        number = pack_color(value) if is_color else value
        check(number not in label_ids, f"each {kind} in one class", f"{value} again in {owner}", "keep it once")
        label_ids[number] = train_id


def _check_color(color, where: str, check: Callable, what: str, optional: bool = False) -> None:
    triple = isinstance(color, (list, tuple)) and len(color) == 3
    right = triple and all(type(channel) is int and 0 <= channel <= 255 for channel in color)
    expected = f"{what} as three whole numbers of 0..255"
    check(right or (optional and color is None), expected, f"{color!r} {where}", "write [red, green, blue]")
