"""`urbanseg COMMAND ...`, also as `python -m hf_urbanseg` and `accelerate launch -m hf_urbanseg`."""

import difflib
import importlib
import pkgutil

from hf_urbanseg import __version__, commands
from hf_urbanseg.command_line import command
from hf_urbanseg.errors import ConfigError

NAMES = sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__))


@command
def main(argv: list[str]) -> None:
    """Entry point of `urbanseg`."""
    name, *words = argv or ["--help"]
    if name in ("-h", "--help"):
        print("usage: urbanseg COMMAND [...]\n\nFine-tune SegFormer on street scenes.\n")
        for name in NAMES:
            about = importlib.import_module(_module(name)).__doc__.partition("\n")[0]
            print(f"  {name:<20}{about}")
        print("\n`urbanseg COMMAND --help` lists a command's options.")
    elif name == "--version":
        print(f"hf_urbanseg {__version__}")
    elif (name := name.replace("_", "-")) in NAMES:
        importlib.import_module(_module(name)).main(words)
    else:
        near = difflib.get_close_matches(name, NAMES, 1)
        fix = f"did you mean `{near[0]}`" if near else "see `urbanseg --help`"
        raise ConfigError(f"a command of {', '.join(NAMES)}", f"`{name}`", fix)


def _module(name: str) -> str:
    return f"{commands.__name__}.{name.replace('-', '_')}"


if __name__ == "__main__":
    main()
