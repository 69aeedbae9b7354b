"""Classes as other tools list them beside the data: classes.txt, label_colors.txt, labelmap.txt, data.yaml, ..."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hf_urbanseg.data.id2label import label_space_from_names
from hf_urbanseg.data.label_space_files import read_label_space
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import read_bytes
from hf_urbanseg.json_yaml import MOST_YAML, read_mapping
from hf_urbanseg.labels import LabelSpace, pack_color

CLASS_FILES = (
    "label_space.yaml", "label_space.yml", "label_space.json",  # the first of these that is there, alone
    "id2label.json", "data.yaml", "dataset.yaml", "labelmap.txt", "label_colors.txt", "class_dict.csv", "classes.txt",
    "labels.txt", "class_names.txt",
)  # fmt: skip
_COLOR = r"(?P<r>\d{1,3})[\s,]+(?P<g>\d{1,3})[\s,]+(?P<b>\d{1,3})"
_LINES = tuple(
    re.compile(line)
    for line in (
        rf"(?P<name>[^:]+):{_COLOR}:.*",  # CVAT's labelmap.txt, name:red,green,blue:parts:actions
        rf"{_COLOR}[\s,]+(?P<name>\S.*)",  # CamVid's label_colors.txt
        rf"(?P<name>[^,]*[^,\d\s][^,]*?)[\s,]+{_COLOR}",  # class_dict.csv, and the like with spaces
        r"(?P<id>\d+)[\s,:]+(?P<name>\S.*)",
        r"(?P<name>.+)",
    )
)
_HEADER = re.compile(r"(name|class|label)\w*\W.*\b(r|red)\b.*", re.IGNORECASE)


class MissingClassesError(DataError):
    """Labels whose classes nobody lists."""


def find_class_file(folder: Path) -> Path | None:
    """The file beside the data that lists its classes; several are an error, unless one is a label space of ours."""
    found = [folder / name for name in CLASS_FILES if (folder / name).is_file()]
    if len(found) > 1 and not found[0].name.startswith("label_space."):
        fix = "keep one, or name the one you mean by `--label_space`"
        raise DataError("one file that lists the classes", ", ".join(path.name for path in found), fix, folder)
    return found[0] if found else None


def read_class_file(path: Path) -> tuple[LabelSpace, dict[int, tuple[int, ...]]]:
    """Label space for files of ids of any of `CLASS_FILES` but our own, and the ids' colours where they are listed.

    A line is `name`, `id name`, `red green blue name`, `name,red,green,blue` or `name:red,green,blue::`, the same form
    in all lines; lines that are empty or begin with # count for nothing. Without ids they are the lines' numbers from
    0, or from -1 below labelme's `__ignore__`.

    Raises:
        DataError: Unreadable, lines of several forms, or none.
        ConfigError: Names or colours that don't fit together.
    """
    if path.name == "id2label.json":
        return read_label_space(str(path))
    if path.suffix in (".yaml", ".yml"):
        return label_space_from_names(_read_names(path), path.parent.name, path), {}
    try:
        text = read_bytes(path, MOST_YAML).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("a readable file of class names", str(error), "correct it", path) from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if lines and _HEADER.fullmatch(lines[0][1]):
        lines = lines[1:]
    if not lines:
        raise DataError("a class name in every line", "no lines", "list the classes", path)
    form = next(form for form in _LINES if form.fullmatch(lines[0][1]))
    first = -1 if lines[0][1] == "__ignore__" else 0
    names: dict[int, str] = {}
    colors: dict[int, tuple[int, ...]] = {}
    for place, (number, line) in enumerate(lines, first):
        match = form.fullmatch(line)
        fix = f"write it as line {lines[0][0]} is"
        if match is None or next(one for one in _LINES if one.fullmatch(line)) != form:
            raise DataError("lines of one form", f"`{line}` in line {number}", fix, path)
        parts = match.groupdict()
        label_id = int(parts.get("id") or place)
        if label_id in names:
            raise DataError("every id once", f"{label_id} again in line {number}", "correct it", path)
        names[label_id] = parts["name"].strip()
        if "r" in parts:
            colors[label_id] = tuple(int(parts[channel]) for channel in "rgb")
            if max(colors[label_id]) > 255:
                raise DataError("colours of 0..255", f"`{line}` in line {number}", "correct it", path)
            if list(colors.values()).count(colors[label_id]) > 1:
                raise DataError("a colour of its own for every class", f"`{line}` in line {number}", "correct it", path)
    space = label_space_from_names(names, path.parent.name, path)
    if colors:
        by_train_id = {train_id: colors[i] for i, train_id in space.label_ids.items() if i in colors}
        space = replace(space, colors=tuple(by_train_id[train_id] for train_id in range(space.num_labels)))
    return space, colors


def _read_names(path: Path) -> dict[int, str]:
    """`names` of ultralytics' data.yaml: a list, or a mapping of ids."""
    names = read_mapping(path, "data").get("names")
    if isinstance(names, Sequence) and not isinstance(names, str):
        return dict(enumerate(names))
    if not isinstance(names, Mapping):
        raise DataError("`names`, a list or `id: name` pairs", f"{names!r}", "add them", path)
    return dict(names)


def read_class_words(words: Sequence[str]) -> LabelSpace:
    """The label space of `--classes road kerb` (ids from 0), or `--classes 0=rest 255=road`."""
    pairs = [re.fullmatch(r"(?:(-?\d+)=)?(.*)", word, re.DOTALL).groups() for word in words]
    with_ids = sum(label_id is not None for label_id, _ in pairs)
    if with_ids not in (0, len(pairs)):
        raise DataError("`classes` all with an id, such as 7=road, or none", " ".join(words), "give every one its id")
    names: dict[str, str] = {}
    for place, (label_id, name) in enumerate(pairs):
        key = str(place) if label_id is None else label_id
        if key in names:
            raise DataError("every id once in `classes`", f"{key} again", "correct it")
        names[key] = name
    return label_space_from_names(names, "data", Path("--classes"))


def by_colors(space: LabelSpace, colors: Mapping[int, Sequence[int]]) -> LabelSpace:
    """The same classes for label files of the `colors` that the label ids have."""
    label_ids = {pack_color(color): space.label_ids[label_id] for label_id, color in colors.items() if label_id >= 0}
    return replace(space, label_ids=label_ids, encoding="color")
