"""Lists the recipes inside the package; --recipe NAME --show prints one with its bases and size filled in."""

from dataclasses import dataclass

import yaml

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.options.fields import Options, option
from hf_urbanseg.options.recipe import describe_recipe, load_recipe, recipe_names


@dataclass
class RecipesArguments(Options):
    """Which recipe."""

    recipe: str | None = option(None, "Recipe inside the package, or a YAML file; may stand first, without --recipe.")
    size: str | None = option(None, "For a recipe of several sizes: which.")
    show: bool = option(False, "Print it. (`urbanseg finetune --recipe NAME --show` adds every option's default.)")


@command
def main(argv: list[str]) -> None:
    usage = "recipes [NAME --show] [--option VALUE ...]"
    (args,) = parse_command_line((RecipesArguments,), argv, __doc__, usage, ("recipe",))
    if args.recipe is not None:
        print(yaml.safe_dump(load_recipe(args.recipe, args.size), sort_keys=False, allow_unicode=True), end="")
        return
    for name in recipe_names():
        print(f"{name:<33}{describe_recipe(name)}")
