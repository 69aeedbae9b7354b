"""Recipes: YAML files of options, inside the package or a user's own."""

import difflib
import re
from importlib import resources
from itertools import takewhile
from pathlib import Path

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.json_yaml import read_mapping


def recipe_names() -> list[str]:
    """Names of the recipes inside the package, those in folders as `folder/name` and last."""
    paths = [path.relative_to(_package_folder()) for path in _package_folder().rglob("*.yaml")]
    return [path.with_suffix("").as_posix() for path in sorted(paths, key=lambda path: (len(path.parts), path))]


def load_recipe(name_or_path: str, size: str | None = None, any_size: bool = False) -> dict:
    """Reads a recipe: a name inside the package or a path to a YAML file.

    A recipe may say `base: other`, a name inside the package or the path of a YAML file relative to its own; it then
    holds everything the other holds, and its own keys win. One for several sizes says under `sizes` what is different
    for each, its `size` is the default, and `{size}` in a text stands for the chosen one.

    Args:
        size: One of its sizes; None takes the default.
        any_size: For a size it doesn't know take the default's options, too: for a model of one's own.
    """
    path = _find_recipe(name_or_path)
    chain = _read_chain(path)
    known = {name: None for content in chain for name in content.get("sizes") or {}}
    if not known:
        return {key: value for content in chain for key, value in content.items()}
    if size is None or (any_size and size not in known):
        size = next((content["size"] for content in reversed(chain) if "size" in content), None)
    if size not in list(known):  # not by hash: a file may say anything
        expected = f"a size of {', '.join(known)} for this recipe"
        raise ConfigError(expected, f"`{size}`", "choose one with `--size`", path)
    recipe = {}
    for content in chain:
        own = {key: value for key, value in content.items() if key != "sizes"}
        recipe |= own | ((content.get("sizes") or {}).get(size) or {})
    filled = {key: text.replace("{size}", size) for key, text in recipe.items() if isinstance(text, str)}
    return recipe | filled | {"size": size}


def describe_recipe(name: str) -> str:
    """The first sentence of a recipe's comment."""
    lines = _find_recipe(name).read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=[.;]) ", comment)[0].rstrip(".;")


def _read_chain(path: Path) -> list[dict]:
    """A recipe and its bases, the lowest first, each without `base`."""
    chain, above = [], []
    while True:
        content = _read_recipe(path, above[-1] if above else None)
        sizes = content.get("sizes") or {}
        if not isinstance(sizes, dict) or not all(own is None or isinstance(own, dict) for own in sizes.values()):
            raise ConfigError("`sizes` with a mapping of options for each", f"`{sizes}`", "correct it", path)
        chain.insert(0, {key: value for key, value in content.items() if key != "base"})
        if "base" not in content:
            return chain
        base = content["base"]
        if not isinstance(base, str):
            raise ConfigError("`base` as the name or path of one recipe", f"`{base}`", "write `base: other`", path)
        found = _find_recipe(base, path)
        above.append(path.resolve())
        if found.resolve() in above:
            circle = " -> ".join(entry.name for entry in [*above, found])
            raise ConfigError("bases that end somewhere", f"a circle, {circle}", "remove one `base`", path)
        path = found


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
    fix = f"check `base` in {user}" if user else "check `--recipe`"
    return read_mapping(path, "recipe", error_class=ConfigError, fix=fix)
