"""Turns any supported data into one self-contained, checked and split set, and publishes it: --push_to_hub user/set."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.escaping import spell_out
from hf_urbanseg.files import check_place, expand_home
from hf_urbanseg.locks import locked
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.fields import Options, option, required
from hf_urbanseg.ranges import Whole


@dataclass
class PrepareArguments(Options):
    """Where the prepared set goes."""

    output: str = required("Folder to write; give it to the other commands as --data_dir.")
    overwrite: bool = option(False, "Replace an earlier prepared set at --output.")
    rows_per_shard: Whole | None = option(
        None,
        "Write parquet files of so many frames, to be streamed (--dataset FOLDER --streaming true) or uploaded; a "
        "second start goes on where the first one ended. About 1000 is usual.",
    )
    shards: Whole | None = option(None, "The same, by the number of files of the largest split.")
    push_to_hub: str | None = option(None, "Also publish the set as this data set on the Hub, user/name.")
    private: bool | None = option(None, "Make it private; refuse a public one.", nargs="?", const=True)
    revision: str | None = option(None, "Branch of the Hub's repository, made if missing. Default: main.")
    license: str | None = option(
        None, "Hub identifier of the data's licence, such as cc-by-4.0. Default: KITTI's and the rendered streets' own."
    )
    hub_token: str | None = option(None, "Token with write permission. Default: HF_TOKEN, or `hf auth login`.")

    def __post_init__(self):
        super().__post_init__()
        for name in ("private", "revision", "hub_token"):
            if self.push_to_hub is None and getattr(self, name) is not None:
                raise ConfigError(f"`push_to_hub` with `{name}`", "none", "add it or leave the other out")
        if self.rows_per_shard is not None and self.shards is not None:
            raise ConfigError("either `rows_per_shard` or `shards`", "both", "give one of them")
        if (self.rows_per_shard or self.shards) and (self.push_to_hub or self.overwrite):
            found = "`push_to_hub`" if self.push_to_hub else "`overwrite`"
            fix = "upload the folder with `hf upload-large-folder`" if self.push_to_hub else "name another `--output`"
            raise ConfigError("shards without it", found, fix)


@command
def main(argv: list[str]) -> None:
    usage = "prepare-data --data_dir FOLDER --output FOLDER [--option VALUE ...]"
    options, data = parse_command_line((PrepareArguments, DataArguments), argv, __doc__, usage)
    output = expand_home(options.output).absolute()
    with locked(output, inside=False):
        _prepare(options, data, output)


def _prepare(options: PrepareArguments, data: DataArguments, output: Path) -> None:
    from hf_urbanseg.data.loading import load_data
    from hf_urbanseg.data.own_files import check_output
    from hf_urbanseg.data.preflight.checks import inspect_pairs
    from hf_urbanseg.data.prepared_sets import describe_source, write_prepared_set
    from hf_urbanseg.data.shard_writing import check_shards_output, write_shards
    from hf_urbanseg.data.sources.saved_set import is_saved_set
    from hf_urbanseg.hub.cards.licence import choose_data_licence
    from hf_urbanseg.hub.client import clean_token
    from hf_urbanseg.hub.dataset_repository import push_prepared_set
    from hf_urbanseg.hub.ledger import PushLedger
    from hf_urbanseg.hub.publish import check_target
    from hf_urbanseg.reports.label_summary import draw_summary, list_shares

    if options.push_to_hub is not None:
        check_target(options.push_to_hub, options.revision)
    token = clean_token(options.hub_token)
    sharded = options.rows_per_shard or options.shards
    if sharded:
        check_shards_output(output)
    else:
        check_output(output, options.overwrite, is_saved_set, "a prepared set")
    for folder in (output.parent, output):  # beside it, too: the set takes its name when it is whole
        check_place(folder, folder=True)
    data.check_rgb("a prepared set")
    loaded = load_data(**asdict(data))
    source = describe_source(loaded, data.data_dir, data.dataset, data.dataset_revision, options.license)
    if sharded:
        largest = max(map(len, loaded.splits.values()))
        index = write_shards(loaded, output, options.rows_per_shard or -(-largest // options.shards), source)
        for split, found in index.items():
            print(f"  {split:<10} {sum(one['rows'] for one in found):>9} frames in {len(found)} files")
        print(f"written to {options.output}; train on it with --dataset {options.output} --streaming true")
        return
    if options.push_to_hub is not None:  # refuse before the work, not after it
        names = [name for rows in loaded.splits.values() for name in rows["name"]]
        choose_data_licence(source["origin"], names, source["license"], options.private, loaded.name)
    inspection = inspect_pairs(loaded.splits, loaded.label_space)
    write_prepared_set(
        loaded, output, options.overwrite, source, lambda folder: [draw_summary(loaded, inspection, folder)]
    )
    print(f"{spell_out(loaded.name)}: {loaded.label_space.num_labels} classes")
    for split, rows in loaded.splits.items():
        print(f"  {split:<10} {len(rows):>6} frames")
    for name, share in zip((*loaded.label_space.names, "void"), list_shares(loaded, inspection), strict=True):
        print(spell_out(f"  {share:<40} {name}"))
    for note in loaded.notes:
        print(f"  {spell_out(note)}")
    print(f"written to {options.output}; train on it with --data_dir {options.output}")
    if options.push_to_hub is None:
        return
    try:
        ledger = PushLedger(output, options.push_to_hub, options.private, options.revision)
        result = push_prepared_set(output, ledger, token)
    except UrbanSegError:
        print(f"not pushed; once it can be: urbanseg publish {options.output}", file=sys.stderr)
        raise
    print(f"pushed to {result.url}; train on it with --dataset {options.push_to_hub}")
