"""A prepared set's repository: parquet with the pictures' own files and all that describes it, and its push."""

import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Image
from datasets.splits import SplitDict, SplitInfo

from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.own_files import LABEL_SPACE_FILE, SOURCE_FILE, read_source
from hf_urbanseg.data.pictures import read_stored
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.sources.saved_set import is_saved_set
from hf_urbanseg.data.splits import SPLITS, SPLITS_FILE, write_split_file
from hf_urbanseg.errors import DataError
from hf_urbanseg.hub.cards.dataset_card import write_dataset_card
from hf_urbanseg.hub.cards.licence import choose_data_licence
from hf_urbanseg.hub.cleaning import clean_values, is_absolute, last_name, list_local_folders
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.hub.publish import PublishResult, publish_owed
from hf_urbanseg.hub.repository import Files
from hf_urbanseg.json_yaml import write_json

SHARD_BYTES = 500_000_000
_ROW_GROUP_BYTES = 50_000_000
_PARQUET = re.compile(rf"data/(?:{'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.parquet")


def is_data_file(path: str) -> bool:
    """Whether a later push of a set may remove this path of its repository: shards of splits it no longer has."""
    return _PARQUET.fullmatch(path) is not None


def push_prepared_set(
    folder: Path,
    ledger: PushLedger,
    token: str | None = None,
    license: str | None = None,
    show: Callable[[Files], None] = lambda files: None,
    dry_run: bool = False,
    message: str | None = None,
) -> PublishResult | None:
    """Publishes a prepared set, after `show` has seen the files; a dry run stops there, without a note.

    Until the set has arrived whole, its push.json says that it is owed.
    """
    noted = nullcontext() if dry_run else ledger.owing("data set")
    with noted, collect_dataset(folder, ledger.repo_id, license, ledger.private, ledger.revision) as files:
        show(files)
        if dry_run:
            return None
        message = message or "Upload a data set"
        return publish_owed(files, ledger, "data set", message, kind="dataset", token=token, replaces=is_data_file)


@contextmanager
def collect_dataset(
    folder: str | Path,
    repo_id: str,
    license: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> Iterator[Files]:
    """The files of a prepared set's repository, while the `with` lasts; nothing else that lies in the folder.

    The same set gives the same bytes, so a push that broke off uploads only what is missing when it is made again.
    The licence is the one named here, else what `prepare_data` recorded or the source implies.

    Raises:
        DataError: The set can't be read, or its terms forbid the push.
        ConfigError: Nobody said what the licence is.
    """
    folder = Path(folder)
    if not is_saved_set(folder):
        raise DataError("a set written by `urbanseg prepare-data`", "none", "prepare it first", folder)
    data = load_data(data_dir=str(folder), test_fraction=0, validation_fraction=0)
    source = read_source(str(folder))
    names = [name for rows in data.splits.values() for name in rows["name"]]
    origin, license = source.get("origin"), license or source.get("license")
    licence = choose_data_licence(origin, names, license, private, folder)
    origin = licence.name or origin  # Cityscapes, whatever was recorded
    inspection = inspect_pairs(data.splits, data.label_space)
    space, folders = describe_label_space(data.label_space), list_local_folders(folder, {})
    if is_absolute(space["name"]):  # of a label-space file without a name
        space["name"] = last_name(space["name"])
    kept = {"origin": origin, "license": licence.id, "notes": list(data.notes)}

    # Beside the folder, on a disk that has room for the set; always the same name, so that a killed run's is cleared.
    staging = folder.absolute().with_name(f".{folder.absolute().name}.push")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        (staging / "data").mkdir(parents=True)
        info = _write_parquet(data, staging / "data")
        write_json(staging / LABEL_SPACE_FILE, space)
        write_split_file(staging / SPLITS_FILE, data.splits)
        write_json(staging / SOURCE_FILE, clean_values(kept, folders))
        write_dataset_card(staging, repo_id, data, inspection, origin, licence, info, revision)
        yield {path.relative_to(staging).as_posix(): path for path in sorted(staging.rglob("*")) if path.is_file()}
    except OSError as error:
        raise DataError("room for the files to push", f"{error}", "check space and permissions", staging) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_parquet(data: LoadedData, folder: Path) -> DatasetInfo:
    """Shards of at most about `SHARD_BYTES`, and what the card's front matter says about them."""
    splits, download = SplitDict(), 0
    for split, rows in data.splits.items():
        rows = rows.cast_column("image", Image(decode=False)).cast_column("label", Image(decode=False))
        size = sum(len(read_stored(row["image"])) + len(read_stored(row["label"])) for row in rows)
        count = min(max(1, math.ceil(size / SHARD_BYTES)), len(rows))
        num_bytes = 0
        for shard in range(count):
            path = folder / f"{split}-{shard:05d}-of-{count:05d}.parquet"
            part = range(shard * len(rows) // count, (shard + 1) * len(rows) // count)
            num_bytes += _write_shard(rows.select(part), path)
            download += path.stat().st_size
        splits.add(SplitInfo(split, num_bytes=num_bytes, num_examples=len(rows)))
    size = sum(split.num_bytes for split in splits.values())
    return DatasetInfo(features=FEATURES, splits=splits, download_size=download, dataset_size=size)


def _write_shard(rows: Dataset, path: Path) -> int:
    schema, written, waiting, size = FEATURES.arrow_schema, 0, [], 0
    # Pictures are compressed already. Left as they are, their bytes lie open: the Hub's storage finds the pictures
    # that it has, of this set or another, and `check_files` a secret in their metadata. The index lets the Hub show
    # single rows without reading a whole group.
    layout = {"compression": "none", "use_dictionary": False, "write_statistics": ["name"], "write_page_index": True}
    with pq.ParquetWriter(path, schema, **layout) as writer:

        def flush() -> int:
            table = pa.Table.from_pylist(waiting, schema)
            writer.write_table(table)
            waiting.clear()
            return table.nbytes

        for row in rows:
            # No path: `datasets` drops the bytes of a picture whose path happens to exist in the working folder.
            kept = {column: {"bytes": read_stored(row[column]), "path": None} for column in ("image", "label")}
            waiting.append({**kept, "name": row["name"]})
            size += sum(len(picture["bytes"]) for picture in kept.values())
            if size >= _ROW_GROUP_BYTES:
                written, size = written + flush(), 0
        if waiting:
            written += flush()
    return written
