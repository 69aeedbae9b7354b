"""Turns any supported data into one self-contained, checked and split set, and publishes it: --push_to_hub user/set."""

import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets import Dataset, DatasetDict, Image

from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import DataArguments, option
from hf_urbanseg.data.label_space_files import write_label_space
from hf_urbanseg.data.layouts.folders import FEATURES
from hf_urbanseg.data.layouts.saved_sets import LABEL_SPACE_FILE, SOURCE_FILE, is_saved_set, read_source
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.splits import write_split_file
from hf_urbanseg.errors import ConfigError, DataError, UrbanSegError
from hf_urbanseg.hub.cards.licence import choose_data_licence
from hf_urbanseg.hub.client import clean_token
from hf_urbanseg.hub.dataset_repository import push_prepared_set
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.hub.publish import check_target
from hf_urbanseg.recipe import parse_arguments


@dataclass
class PrepareArguments:
    """Where the prepared set goes."""

    output: str = field(metadata={"help": "Folder to write; give it to the other commands as --data_dir."})
    overwrite: bool = option(False, "Replace an earlier prepared set at --output.")
    push_to_hub: str | None = option(None, "Also publish the set as this data set on the Hub, user/name.")
    private: bool | None = option(None, "Make it private; refuse a public one.", nargs="?", const=True)
    revision: str | None = option(None, "Branch of the Hub's repository, made if missing. Default: main.")
    license: str | None = option(
        None, "Hub identifier of the data's licence, such as cc-by-4.0. Default: KITTI's and the rendered streets' own."
    )
    hub_token: str | None = option(None, "Token with write permission. Default: HF_TOKEN, or `hf auth login`.")

    def __post_init__(self):
        if self.push_to_hub is not None:
            check_target(self.push_to_hub, self.revision)
            self.hub_token = clean_token(self.hub_token)
            return
        for name in ("private", "revision", "hub_token"):
            if getattr(self, name) is not None:
                raise ConfigError(f"`push_to_hub` with `{name}`", "none", "add it or leave the other out")


def main() -> None:
    """Entry point of `urbanseg-prepare-data` and scripts/prepare_data.py."""
    run_command(_prepare)


def _prepare() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    data, options = parse_arguments([DataArguments, PrepareArguments], description=__doc__)
    output = Path(options.output).expanduser().absolute()
    check_output(output, options.overwrite)
    loaded = load_data(**asdict(data))
    source = describe_source(loaded, data, options.license)
    if options.push_to_hub is not None:  # refuse before the work, not after it
        names = [name for rows in loaded.splits.values() for name in rows["name"]]
        choose_data_licence(source["origin"], names, source["license"], options.private, loaded.name)
    inspect_pairs(loaded.splits, loaded.label_space)
    write_prepared_set(loaded, output, options.overwrite, source)
    print(f"{loaded.name}: {loaded.label_space.num_labels} classes")
    for split, rows in loaded.splits.items():
        print(f"  {split:<10} {len(rows):>6} frames")
    for note in loaded.notes:
        print(f"  {note}")
    print(f"written to {options.output}; train on it with --data_dir {options.output}")
    if options.push_to_hub is not None:
        ledger = PushLedger(output, options.push_to_hub, options.private, options.revision)
        try:
            result = push_prepared_set(output, ledger, options.hub_token)
        except UrbanSegError:
            print(f"not pushed; once it can be: `urbanseg publish {options.output}`", file=sys.stderr)
            raise
        print(f"pushed to {result.url}; train on it with --dataset {options.push_to_hub}")


def describe_source(loaded: LoadedData, data: DataArguments, license: str | None = None) -> dict:
    """What source.json says: origin, a key of `hub.cards.licence.TITLES` or None; licence; how the splits came about.

    A set that was prepared before keeps its own.
    """
    if data.dataset == "synthetic":
        before = {"origin": "synthetic"}
    elif data.dataset is not None:
        before = read_source(data.dataset, data.dataset_revision)
    elif is_saved_set(path := Path(data.data_dir).expanduser()):
        before = read_source(str(path))
    else:
        known = {"kitti": "kitti", "cityscapes": "cityscapes", "camvid": "camvid", "camvid_as_cityscapes": "camvid"}
        before = {"origin": known.get(loaded.name)}
    return {"origin": before.get("origin"), "license": license or before.get("license"), "notes": list(loaded.notes)}


def check_output(output: Path, overwrite: bool) -> None:
    """Refuses to replace anything but, with `overwrite`, a saved set.

    Raises:
        DataError: Something is there that stays.
    """
    if not os.path.lexists(output) or (output.is_dir() and not any(output.iterdir())):
        return
    if not is_saved_set(output):
        fix = "choose another `--output`; `--overwrite` replaces prepared sets only"
        raise DataError("a new folder to write", "something else there already", fix, output)
    if not overwrite:
        raise DataError("a new folder to write", "a prepared set", "choose another or add `--overwrite`", output)


def write_prepared_set(
    loaded: LoadedData, output: Path, overwrite: bool = False, source: Mapping | None = None
) -> None:
    """Writes splits, label space, split file and README so that `load_data(data_dir=output)` needs nothing else.

    Images and labels keep their files' bytes. The folder appears complete or not at all.

    Args:
        loaded: Checked by `inspect_pairs`.
        output: The folder; its parents are made.
        overwrite: Replaces an earlier set.
        source: From `describe_source`.

    Raises:
        DataError: `output` is in use, or the disk is full.
    """
    check_output(output, overwrite)
    with _staging_folder(output) as staging:
        complete = staging / "complete"
        rows_on_disk = {}
        for split, rows in loaded.splits.items():
            rows_on_disk[split] = _embed(rows, split, staging / f"{split}.arrow")
        DatasetDict(rows_on_disk).save_to_disk(str(complete))
        write_label_space(complete / LABEL_SPACE_FILE, loaded.label_space)
        said = dict(source or {"origin": None, "license": None, "notes": list(loaded.notes)})
        (complete / SOURCE_FILE).write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_split_file(complete / "splits.yaml", loaded.splits)
        (complete / "README.md").write_text(_describe(loaded), encoding="utf-8")
        if os.path.lexists(output):
            output.rename(staging / "replaced")
        complete.rename(output)


@contextmanager
def _staging_folder(output: Path):
    # Beside the output, because a rename is only atomic within one file system. Always the same name, so that the
    # next run clears what a killed one left.
    staging = output.with_name(f".{output.name}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        yield staging
    except OSError as error:
        raise DataError("a folder that can be written", f"{error}", "check space and permissions", output) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _embed(rows: Dataset, split: str, file: Path) -> Dataset:
    def read(row: dict) -> dict:
        # No path: `datasets` drops the bytes of a picture whose path happens to exist in the working folder.
        kept = {column: {"bytes": _read_bytes(row[column]), "path": None} for column in ("image", "label")}
        return {**kept, "name": row["name"]}

    undecoded = rows.cast_column("image", Image(decode=False)).cast_column("label", Image(decode=False))
    undecoded.map(
        read,
        features=FEATURES,
        cache_file_name=str(file),
        load_from_cache_file=False,
        writer_batch_size=32,
        desc=f"Embedding {split}",
    )
    # Read anew: the mapped set would carry along the description of its source, paths included.
    return Dataset.from_file(str(file))


def _read_bytes(stored: Mapping) -> bytes:
    return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()


def _describe(loaded: LoadedData) -> str:
    lines = [
        f"# {loaded.name}, prepared for hf_urbanseg",
        "",
        "Columns: `image` and `label` (the original files, byte for byte), `name`. Classes, colours and label ids "
        "are in `label_space.json`, the names of each split in `splits.yaml`.",
        "",
        "| split | frames |",
        "|---|---|",
        *(f"| {split} | {len(rows)} |" for split, rows in loaded.splits.items()),
        "",
        *(f"- {note}" for note in loaded.notes),
        "",
        f"Classes by train id: {', '.join(f'{index} {name}' for index, name in loaded.label_space.id2label.items())}.",
        "",
        "The licence of the source data applies.",
    ]
    return "\n".join(lines) + "\n"
