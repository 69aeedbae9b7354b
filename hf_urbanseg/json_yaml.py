"""JSON and YAML: written whole, and what others wrote read within bounds."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import yaml

from hf_urbanseg.errors import DataError, UrbanSegError
from hf_urbanseg.files import explain_missing, read_bytes, write_text

MOST_JSON = 64 << 20
"""Bytes: the pixel counts of 100,000 images."""
MOST_YAML = 4 << 20
_MOST_NODES, _MOST_DEPTH = 1 << 18, 50  # of YAML: the names of 250,000 frames; the package's own files nest 4 deep


def write_json(path: str | Path, content: Mapping, indent: int | None = 1) -> None:
    """Writes JSON, in which NaN and infinity are null; `indent` None is one long line."""
    text = json.dumps(replace_non_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def replace_non_finite(content):
    """`content` with None for NaN and infinity, for which JSON has no words; mappings, lists and tuples anew."""
    if isinstance(content, Mapping):
        return {key: replace_non_finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [replace_non_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_yaml(path: str | Path, content: Mapping) -> None:
    """Writes YAML in the given order."""
    write_text(path, yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def read_json(
    path: str | Path, error_class: type[UrbanSegError] = DataError, most: int = MOST_JSON, kind: type = dict
) -> dict | list | None:
    """The object in a JSON file; None if there is no such file. NaN, which is not JSON, is read as None.

    Args:
        error_class: Raised if it can't be read, is none, or is larger than `most` bytes.
        kind: `list` for a file that holds one.
    """

    def build(pairs: list[tuple]) -> dict:
        content = dict(pairs)
        if len(content) < len(pairs):  # the last one would win
            seen: set = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))
            raise error_class("every name in an object once", f"`{twice}` again", "keep one", path)
        return content

    try:
        # Some editors on Windows put a mark in front.
        text = read_bytes(path, most, error_class).decode("utf-8-sig")
        content = json.loads(text, parse_constant=lambda _: None, object_pairs_hook=build)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise error_class("a readable file", error.strerror or str(error), "check it", path) from error
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8; nested without end
        raise error_class("JSON", str(error).rstrip("."), "restore the file or make it anew", path) from error
    if not isinstance(content, kind):
        expected = "a JSON object" if kind is dict else "a JSON list"
        raise error_class(expected, type(content).__name__, "restore the file or make it anew", path)
    return content


def read_mapping(
    path: str | Path,
    kind: str,
    words: bool = False,
    error_class: type[UrbanSegError] = DataError,
    fix: str = "check it",
) -> dict:
    """The mapping in a YAML or JSON file, of bounded size and depth and without aliases.

    Args:
        kind: What errors call the file, such as `recipe`.
        words: Keep every value a string: YAML reads an unquoted 000000_10 as the octal number 8.
        error_class: Raised if it is unreadable, not YAML, no mapping, or has a key twice.
        fix: What to do where there is no readable file.
    """
    try:
        text = read_bytes(path, MOST_YAML, error_class).decode("utf-8-sig")
        content = yaml.load(text, _Words if words else _Values)
    except OSError as error:
        why = explain_missing(path) if isinstance(error, FileNotFoundError) else ""
        raise error_class(f"a readable {kind} file", f"{error.strerror or error}{why}", fix, path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        found = str(error)
        if mark := getattr(error, "problem_mark", None):  # without the line itself: it may hold a secret
            found = f"{error.problem or error.context} in line {mark.line + 1}, column {mark.column + 1}"
        raise error_class(f"a {kind} file in YAML", found, "correct it", path) from error
    if not isinstance(content, dict):
        raise error_class(f"a {kind} file of `key: value` lines", type(content).__name__, "correct it", path)
    return content


class _Bounded:
    """Ends what a small file could make endless, and says where."""

    nodes = depth = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        self.nodes, self.depth = self.nodes + 1, self.depth + 1
        if isinstance(event, yaml.AliasEvent):  # ten lines of them stand for billions of values
            _refuse("an alias (write its values out)", event)
        if self.depth > _MOST_DEPTH or self.nodes > _MOST_NODES:
            _refuse(f"more than {_MOST_DEPTH} levels or {_MOST_NODES:,} values", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.value in seen or seen.add(key.value)):
                _refuse(f"the key `{key.value}` again", key)  # the last would win, and a class be gone
        return node

    def construct_object(self, node, deep=False):
        try:
            # Some spellings of numbers take time by the square of their length, and none is meant.
            if isinstance(node, yaml.ScalarNode) and node.tag != self.DEFAULT_SCALAR_TAG and len(node.value) > 100:
                raise ValueError(f"a number or date of {len(node.value):,} characters")
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML's constructors raise nearly anything: `2001-99-99`, `!!int x`
            _refuse(str(error), node)


def _refuse(problem: str, at: yaml.Node | yaml.Event) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


class _Values(_Bounded, yaml.SafeLoader):
    pass


class _Words(_Bounded, yaml.BaseLoader):
    pass


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True
