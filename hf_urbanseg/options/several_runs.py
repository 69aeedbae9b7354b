"""What commands that start several runs have in common: seeds, a launcher, and words for every run."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.launch import count_processes
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.fields import Options, option


@dataclass
class SeveralRuns(Options):
    """Runs that one process starts one after the other; `seeds` is each command's own."""

    def __post_init__(self):
        super().__post_init__()
        self.seeds = list(dict.fromkeys(self.seeds))
        if count_processes() > 1:
            raise ConfigError("one process that starts the others", "several", "name the launcher by `--launcher`")


def launcher_option():
    return option(None, "What starts a module on several processes, such as `accelerate launch --num_processes 4`.")


def split_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and those behind `--`, which every run gets."""
    own, extra = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    if any(word.partition("=")[0] == "--hub_token" for word in extra):
        # It would stand in the files written here and in the list of processes.
        raise ConfigError("options without a token", "`--hub_token`", "put it into HF_TOKEN, or use `hf auth login`")
    return list(own), list(extra)


def spell_data(data: DataArguments, without: Sequence[str] = ()) -> list[str]:
    """Options of data that aren't at their defaults as words of a command line."""
    words = []
    for f in fields(DataArguments):
        value = getattr(data, f.name)
        if value != f.default and f.name not in without:
            words += [f"--{f.name}", *map(str, value if isinstance(value, list) else [value])]
    return words
