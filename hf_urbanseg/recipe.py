"""How a YAML file and the command line become the dataclasses of a run, and back."""

import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from enum import Enum
from importlib import resources
from pathlib import Path

import yaml
from transformers import HfArgumentParser, TrainingArguments

from hf_urbanseg.errors import ConfigError


def recipe_names() -> list[str]:
    """Names of the recipes inside the package, those in folders as `folder/name` and last."""
    paths = [path.relative_to(_package_folder()) for path in _package_folder().rglob("*.yaml")]
    return [path.with_suffix("").as_posix() for path in sorted(paths, key=lambda path: (len(path.parts), path))]


def load_recipe(name_or_path: str) -> dict:
    """Reads a recipe: a name inside the package or a path to a YAML file.

    A recipe may say `base: other`, a name inside the package or the path of a YAML file relative to its own; it then
    holds everything the other holds, and its own keys win.

    Raises:
        ConfigError: No such recipe or base, not a YAML mapping, or bases that go round in a circle.
    """
    return _load_with_base(_find_recipe(name_or_path), ())


def _load_with_base(path: Path, above: tuple[Path, ...]) -> dict:
    content = _read_recipe(path, above[-1] if above else None)
    if "base" not in content:
        return content
    base = content.pop("base")
    if not isinstance(base, str):
        raise ConfigError("`base` as the name or path of one recipe", f"`{base}`", "write `base: other`", path)
    found = _find_recipe(base, path)
    above = (*above, path.resolve())
    if found.resolve() in above:
        circle = " -> ".join(entry.name for entry in [*above, found])
        raise ConfigError("bases that end somewhere", f"a circle, {circle}", "remove one `base`", path)
    return _load_with_base(found, above) | content


def _package_folder() -> Path:
    return Path(str(resources.files("hf_urbanseg") / "recipes"))


def _find_recipe(name_or_path: str, user: Path | None = None) -> Path:
    """The file of a recipe; `user` is the recipe that names it as its base."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return user.parent / path if user else path
    names = recipe_names()
    if name_or_path not in names:
        folders = {name.rsplit("/", 1)[0] for name in names if "/" in name}
        shown = [name for name in names if "/" not in name] + [f"{folder}/..." for folder in sorted(folders)]
        inside = [name for name in names if name_or_path and name_or_path in name]
        near = difflib.get_close_matches(name_or_path, names, 1) or inside
        fix = f"did you mean `{near[0]}`" if near else f"choose one with `{'base' if user else '--recipe'}`"
        raise ConfigError(f"a recipe of {', '.join(shown)}, or a .yaml file", f"`{name_or_path}`", fix, user)
    return _package_folder() / f"{name_or_path}.yaml"


def _read_recipe(path: Path, user: Path | None) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        fix = f"check `base` in {user}" if user else "check `--recipe`"
        raise ConfigError("a readable recipe", error.strerror or str(error), fix, path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("valid YAML", _describe_yaml_error(error), "correct the file", path) from error
    if not isinstance(content, dict):
        raise ConfigError("a mapping of options", type(content).__name__, "write `key: value` lines", path)
    return content


def _describe_yaml_error(error: Exception) -> str:
    """What is wrong and where, without the line itself: it may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"{error.problem or error.context} in line {mark.line + 1}, column {mark.column + 1}"


_NOT_RECORDED = {
    # secrets
    "hub_token", "push_to_hub_token",
    # whoever repeats a run pushes to their own repository, if at all
    "push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_revision", "hub_always_push",
    "hub_tensorboard", "hub_pictures", "hub_timeout",
    # of this start and machine, not of the recipe
    "recipe", "resume", "overwrite", "use_cpu", "ddp_backend", "local_rank", "logging_dir", "cpu_threads",
    "deepspeed_plugin", "distributed_state", "dataloader_pin_memory", "fsdp_config",
    # naming one switches `torch_compile` on, whatever the command line says
    "torch_compile_backend", "torch_compile_mode",
    # the new name of `gradient_checkpointing`, which transformers 5.17 doesn't know
    "activation_checkpointing",
    # follows from `eval_strategy`
    "do_eval",
}  # fmt: skip


def resolve_recipe(*arguments) -> dict:
    """The options of a run as a recipe that repeats it: ours always, stock transformers' where not at their default.

    Secrets and what belongs to one start (`--resume`, devices) are left out.
    """
    stock = {f.name for f in fields(TrainingArguments)}
    recipe = {}
    for instance in arguments:
        for f in fields(instance):
            value = getattr(instance, f.name)
            value = [_plain(item) for item in value] if isinstance(value, list) else _plain(value)
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            plain = (
                value is None
                or isinstance(value, (bool, int, float, str, dict))
                or (isinstance(value, list) and all(isinstance(item, (int, float, str)) for item in value))
            )
            ours = f.name not in stock or f.name in vars(type(instance)).get("__annotations__", {})
            # Stock turns some None into False and "" into [] when it starts: still off, so not an option anybody set.
            chosen = value != default and bool(value or default)
            if f.init and plain and f.name not in _NOT_RECORDED and (ours or chosen):
                recipe[f.name] = value
    return recipe


def resolve_training_arguments(args: TrainingArguments) -> dict:
    """Every training argument as it was in effect, transformers' defaults included, secrets left out; for the record.

    A recipe repeats a run with the defaults of the day; this says what they were.
    """
    values = {f.name: _plain(getattr(args, f.name)) for f in fields(args) if f.init and "token" not in f.name}
    return {
        name: [_plain(item) for item in value] if isinstance(value, list | tuple) else value
        for name, value in sorted(values.items())
        if value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
    }


def _plain(value):
    return value.value if isinstance(value, Enum) else value


class _OneLineParser(HfArgumentParser):
    """An `HfArgumentParser` whose complaints are `ConfigError`s instead of a usage page."""

    source: str | None = None
    """Where the words come from, if not from the command line."""

    def error(self, message: str):
        raise ConfigError("valid options", message, "see `--help`", self.source)


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
            near = difflib.get_close_matches(str(key), known, 1)
            fix = f"did you mean `{near[0]}`" if near else "remove it"
            raise ConfigError("known recipe keys", f"`{key}`", fix, recipe_path)
        # The recipe becomes words in front of the command line, so both go through the same type checks.
        if value is None or value == []:  # argparse has no word for these
            parser.set_defaults(**{key: value})
        elif isinstance(value, (list, tuple)):
            words += [f"--{key}", *map(str, value)]
        elif isinstance(value, dict):
            words += [f"--{key}", json.dumps(value)]  # TrainingArguments reads JSON
        else:
            words += [f"--{key}", str(value)]
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if words:
            parser.source = recipe_path
            parser.parse_args(words)  # alone first, so that a wrong value is blamed on its file
        parser.source = None
        return parser.parse_args_into_dataclasses([*words, *argv], look_for_args_file=False)
    except ConfigError:
        raise
    except (ValueError, ImportError, TypeError) as error:
        # Dataclasses check themselves in __post_init__; TrainingArguments speaks in ValueErrors.
        raise ConfigError("a valid combination of options", " ".join(str(error).split()), "correct it") from error
