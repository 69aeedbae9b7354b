"""What all commands have in common: words in, help without a wait, one line and status 2 for a mistake in the input."""

import contextlib
import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields

from tqdm import tqdm

from hf_urbanseg.errors import ConfigError, DataError, OutOfMemoryError, UrbanSegError
from hf_urbanseg.escaping import PlainFormatter
from hf_urbanseg.launch import count_processes, is_first_of_machine
from hf_urbanseg.limits import find_limit
from hf_urbanseg.memory import explain_shortage, is_shortage
from hf_urbanseg.options.parsing import build_parser, parse_arguments
from hf_urbanseg.training.interruption import Interrupted

_WIDTH, _LEFT = 120, 36
_LOST = re.compile("^Dist(Backend|Network)Error|gloo/transport")  # of NCCL, of torch's store, of gloo
_ASIDE = re.compile(r"^\[.*?\] |This is typically.*")


def command(main: Callable[[list[str]], None]) -> Callable[[Sequence[str] | None], None]:
    """Makes `main(argv)` a command: called without words it takes the process's own.

    An `UrbanSegError` becomes one line on standard error and exit status 2. With several processes only the first of
    each machine prints, so the line appears once.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> None:
        argv = list(sys.argv[1:] if argv is None else argv)
        _open_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # no notebook's
                stream.reconfigure(errors="backslashreplace")  # a name that the terminal lacks must not end a run
        # Of Pillow, in front of our own line about the same picture.
        warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
        try:
            _check_working_folder()
            if not sys.stderr.isatty():  # before these are imported
                for library in ("DATASETS", "HUB"):
                    os.environ.setdefault(f"HF_{library}_DISABLE_PROGRESS_BARS", "1")
            if not _wants_help(argv):
                from hf_urbanseg.hub.client import bound_requests

                log = logging.StreamHandler()
                log.setFormatter(PlainFormatter("%(message)s"))
                logging.basicConfig(handlers=[log])
                bound_requests()  # a Hub that is silent must not hold a command for ever
            main(argv)
            sys.stdout.flush()
        except BrokenPipeError:
            # `| head` has seen enough. What is left in the buffer would raise once more at the end.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)  # as of a program that SIGPIPE ends
        except (UrbanSegError, OSError, MemoryError, RuntimeError) as error:
            error = _explain(error)
            alone = isinstance(error, OutOfMemoryError) and error.of_one_process
            where = f"process {os.environ['RANK']}: " if alone and count_processes() > 1 else ""
            if where or is_first_of_machine():
                from hf_urbanseg.hub.secrets import hide_secrets

                # What was found may be a token, given to an option that is misspelt or takes something else.
                tqdm.write(f"error: {where}{hide_secrets(str(error))}", file=sys.stderr)  # above a bar that is left
            sys.exit(2)
        except Interrupted as end:
            if is_first_of_machine():
                tqdm.write(str(end), file=sys.stderr)
            sys.exit(end.status)
        except KeyboardInterrupt:
            sys.exit(130)

    return run


def _open_closed_streams() -> None:
    """Closed ones (a daemon's, `>&-`) are None, and the next file opened would get what is written to their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def _check_working_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:  # torch would not even load, and blame its own files
        raise DataError("a working folder", error.strerror, "change into one that is there (`cd`)") from error


def _explain(error: BaseException) -> UrbanSegError:
    """What no one knew more of, wherever it showed: memory that has run out, a process or a disk that is away."""
    if isinstance(error, OutOfMemoryError):
        return error
    for one in (error, error.__cause__):
        # A device's shortage isn't the fault of the model that was tried; of the machine's, a damaged file may be.
        if is_shortage(one, of_device=one is not error):
            fixes = ["make batches, images or the model smaller", "end what else holds memory (`nvidia-smi` lists it)"]
            return explain_shortage(one, "this command", fixes)
        if limit := find_limit(one):
            return UrbanSegError(f"enough {limit[0]}", getattr(one, "strerror", None) or str(one), limit[1])
    if isinstance(error, UrbanSegError):
        return error
    if isinstance(error, RuntimeError) and _LOST.search(f"{type(error).__name__}: {error}"):
        said = _ASIDE.sub("", " ".join(str(error).split()))
        fix = "its own words say why; training goes on with `--resume` where it saved a checkpoint"
        return UrbanSegError("an answer of every process of the launch", f"one that is gone ({said})", fix)
    if not isinstance(error, OSError) or error.errno is None or isinstance(error, ConnectionError):
        raise error
    fix = "mend its space and permissions and start again; training goes on with `--resume` where it saved a checkpoint"
    return DataError("files that can be read and written", error.strerror or str(error), fix, error.filename)


def parse_command_line(
    dataclass_types: Sequence[type],
    argv: Sequence[str],
    description: str,
    usage: str = "[--option VALUE ...]",
    positionals: Sequence[str] = (),
) -> tuple:
    """Instances of `dataclass_types` from the words of a command; `--help` prints and ends it.

    Args:
        description, usage: For help: what the command does, and what comes behind its name.
        positionals: Options whose names may be left out where their values stand first, in this order; the last one
            takes all words up to the first option.
    """
    help_if_asked(argv, dataclass_types, description, usage)
    return parse_arguments(dataclass_types, _name_positionals(list(argv), positionals))


def help_if_asked(
    argv: Sequence[str],
    dataclass_types: Sequence[type],
    description: str,
    usage: str,
    rare: Sequence[str] = (),
    all_types: Callable[[], Sequence[type]] | None = None,
) -> None:
    """Prints the options and ends the process if `argv` has `--help`; `--help all` prints them in full.

    Args:
        rare: Options shown by `--help all` alone.
        all_types: What to show then, if that takes long to import.
    """
    if not _wants_help(argv):
        return
    name = sys.argv[0] if sys.argv[0].endswith(".py") and "__main__" not in sys.argv[0] else "urbanseg"
    if "all" in argv:
        parser = build_parser(dataclass_types if all_types is None else all_types())
        parser.usage, parser.description = f"{name} {usage}", description
        print(parser.format_help())
    else:
        print(f"usage: {name} {usage}\n\n{description.strip()}\n")
        for dataclass_type in dataclass_types:
            if lines := [_describe(f) for f in fields(dataclass_type) if f.name not in rare]:
                print((dataclass_type.__doc__ or "").partition(":")[0].partition(".")[0] + ":")
                print("\n".join(lines))
        stock = ", those of transformers.TrainingArguments among them" if all_types else ""
        print(f"\n`--help all` shows every option in full{stock}.")
    sys.exit(0)


def _wants_help(argv: Sequence[str]) -> bool:
    return bool({"-h", "--help"} & set(argv))


def _describe(field) -> str:
    """An option in a line: its name, its default, what it is."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if default is MISSING:
        shown = "(needed)"
    else:
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    left = f"  --{field.name} {'' if default in (None, []) else shown}"
    left = left if len(left) <= _LEFT else left[: _LEFT - 3] + "..."
    text, room = " ".join(field.metadata.get("help", "").split()), _WIDTH - _LEFT - 1
    if len(text) > room:
        sentence = text[: text.find(". ") + 1] if 0 < text.find(". ") < room else ""
        text = sentence or text[: text.rfind(" ", 0, room - 4)] + " ..."
    return f"{left:<{_LEFT}} {text}".rstrip()


def _name_positionals(words: list[str], names: Sequence[str]) -> list[str]:
    first = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    values, named = words[:first], []
    for name, last in zip(names, [*[False] * (len(names) - 1), True], strict=False):
        if not values:
            break
        if f"--{name}" in words:
            found = f"both `{values[0]}` in front and `--{name}`"
            raise ConfigError(f"`{name}` either first or behind `--{name}`", found, "name it in one place")
        taken, values = (values, []) if last else (values[:1], values[1:])
        named += [f"--{name}", *taken]
    return [*named, *values, *words[first:]]
