"""How words and mappings become dataclasses of options."""

import argparse
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.ranges import check_options


def parse_arguments(
    dataclass_types: Sequence[type],
    argv: Sequence[str] = (),
    recipe: Mapping | None = None,
    recipe_path: str = "recipe",
    options: Mapping | None = None,
) -> tuple:
    """Command line over options over recipe over defaults, as instances of `dataclass_types` in their order.

    Unknown keys and options are refused; errors about the recipe name `recipe_path`.
    """
    parser = build_parser(dataclass_types)
    known = [f.name for dataclass_type in dataclass_types for f in fields(dataclass_type) if f.init]
    recipe, options = recipe or {}, options or {}
    for content, source in ((recipe, recipe_path), (options, None)):
        parser.source = source
        if words := list(_to_words(content, known, source, parser)):
            values = parser.parse_args(words)  # alone first, so that a wrong value is blamed on its file
            for dataclass_type in dataclass_types:
                check_options(values, dataclass_type, source)
    words = [*_to_words({**recipe, **options}, known, None, parser), *argv]
    parser.source = None
    if strange := next((word for word in words if re.search("[\ud800-\udfff]", word)), None):
        raise ConfigError("options in UTF-8", f"`{strange}`", "rename the file or folder")
    *arguments, unknown = parser.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        name = unknown[0].partition("=")[0].lstrip("-").replace("-", "_")
        near = difflib.get_close_matches(name, known, 1, 0.7) or [one for one in known if name and one.startswith(name)]
        fix = f"did you mean `--{near[0]}`" if near else "see `--help`"
        raise ConfigError("known options", f"`{unknown[0]}`", fix)
    return tuple(arguments)


def find_option(argv: Sequence[str], name: str) -> str | None:
    """The last value of an option, before the rest is parsed."""
    found = None
    for index, word in enumerate(argv):
        if word == f"--{name}":
            found = next(iter(argv[index + 1 :]), None)
        elif word.startswith(f"--{name}="):
            found = word.partition("=")[2]
    return found


def _to_words(content: Mapping, known: Sequence[str], source: str | None, parser) -> Iterator[str]:
    """Options as words, so that all of them go through the same checks of type."""
    for key, value in content.items():
        if key in ("reduce_labels", "do_reduce_labels"):
            found = f"`{key}`, which would shift every class by one"
            fix = "remove it and list the unlabelled id under `void` in `--label_space`"
            raise ConfigError("label ids mapped by a label space", found, fix, source)
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            fix = f"did you mean `{near[0]}`" if near else "remove it"
            raise ConfigError("known recipe keys" if source else "known options", f"`{key}`", fix, source)
        if value is None or value == []:  # argparse has no word for these
            parser.set_defaults(**{key: value})
        elif isinstance(value, (list, tuple)):
            yield from (f"--{key}", *map(str, value))
        else:  # TrainingArguments reads JSON
            yield from (f"--{key}", json.dumps(value) if isinstance(value, dict) else str(value))


def build_parser(dataclass_types: Sequence[type]):
    # Here, because the library takes a second to import, and `--help` has no need of it.
    from transformers import HfArgumentParser

    hidden = {name for dataclass_type in dataclass_types for name in getattr(dataclass_type, "HIDDEN", ())}

    class OneLineParser(HfArgumentParser):
        """Its complaints are `ConfigError`s instead of a usage page; help leaves out the `HIDDEN` of a dataclass."""

        source: str | None = None  # of the words, if not the command line

        def error(self, message: str):
            raise ConfigError("valid options", message, "see `--help`", self.source)

        def add_argument(self, *names, **options):
            if names[0].lstrip("-").removeprefix("no_") in hidden:
                options["help"] = argparse.SUPPRESS
            return super().add_argument(*names, **options)

    return OneLineParser(list(dataclass_types), allow_abbrev=False)
