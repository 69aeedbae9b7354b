"""What of a prepared set goes into its repository: parquet with the pictures' own files, and all that describes it."""

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Image
from datasets.splits import SplitDict, SplitInfo

from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.own_files import LABEL_SPACE_FILE, SOURCE_FILE, read_source
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.sources.saved_set import is_saved_set
from hf_urbanseg.data.splits import SPLITS, write_split_file
from hf_urbanseg.errors import DataError
from hf_urbanseg.hub.cards.dataset_card import DataTerms, choose_terms, write_dataset_card
from hf_urbanseg.hub.cleaning.local_paths import is_absolute, last_name, list_local_folders, remove_local_paths
from hf_urbanseg.hub.cleaning.secret_scan import collect_secrets, holds_secret
from hf_urbanseg.hub.repository import Files, check_files

SHARD_BYTES = 500_000_000
_ROW_GROUP_BYTES = 50_000_000
_PARQUET = re.compile(rf"data/(?:{'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.parquet")


def is_prepared_set(folder: str | Path) -> bool:
    """Whether a folder holds a data set that `collect_dataset` publishes: not a run."""
    return is_saved_set(Path(folder))


def is_data_file(path: str) -> bool:
    """Whether a later push of a set may remove this path of its repository: shards of splits it no longer has."""
    return _PARQUET.fullmatch(path) is not None


@contextmanager
def collect_dataset(
    folder: str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Iterator[Files]:
    """The files of a prepared set's repository, while the `with` lasts.

    The same set gives the same bytes, so a push that broke off uploads only what is missing when it is made again.
    Nothing else that lies in the folder goes up.

    Args:
        folder: Written by `prepare_data`, or any saved set with label_space.json.
        repo_id: `user/name`, for the card.
        license: Hub identifier of the data's licence. Default: what `prepare_data` recorded or the source implies.
        private: Whether the repository will be private.
        revision: Branch, for the card.
        token: A secret to look for, beside those the machine knows.

    Raises:
        DataError: The set can't be read, its terms forbid the push, or a file holds a secret.
        ConfigError: Nobody said what the licence is.
    """
    folder = Path(folder)
    if not is_prepared_set(folder):
        raise DataError("a set written by prepare_data", "none", "prepare it first", folder)
    data = load_data(data_dir=str(folder), test_fraction=0, validation_fraction=0)
    source = read_source(str(folder))
    names = [name for rows in data.splits.values() for name in rows["name"]]
    terms = choose_terms(source.get("origin"), names, license or source.get("license"), private, folder)
    inspection = inspect_pairs(data.splits, data.label_space)
    secrets = collect_secrets({folder, folder.resolve().parent, Path.cwd()}, token)

    # Beside the folder, on a disk that has room for the set; always the same name, so that a killed run's is cleared.
    staging = folder.absolute().with_name(f".{folder.absolute().name}.push")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        (staging / "data").mkdir(parents=True)
        info = _write_parquet(data, staging / "data", secrets)
        _write_texts(data, terms, staging, list_local_folders(folder, {}))
        write_dataset_card(staging, repo_id, data, inspection, terms, info, revision)
        files = {path.relative_to(staging).as_posix(): path for path in sorted(staging.rglob("*")) if path.is_file()}
        check_files({path: file for path, file in files.items() if not is_data_file(path)}, secrets)
        yield files
    except OSError as error:
        raise DataError("room for the files to push", f"{error}", "check space and permissions", staging) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_parquet(data: LoadedData, folder: Path, secrets: set[str]) -> DatasetInfo:
    """Shards of at most about `SHARD_BYTES`, and what the card's front matter says about them."""
    splits, download = SplitDict(), 0
    for split, rows in data.splits.items():
        rows = rows.cast_column("image", Image(decode=False)).cast_column("label", Image(decode=False))
        sizes = [len(_content(row["image"])) + len(_content(row["label"])) for row in rows]
        count = min(max(1, math.ceil(sum(sizes) / SHARD_BYTES)), len(rows))
        num_bytes = 0
        for shard in range(count):
            path = folder / f"{split}-{shard:05d}-of-{count:05d}.parquet"
            part = range(shard * len(rows) // count, (shard + 1) * len(rows) // count)
            num_bytes += _write_shard(rows.select(part), path, split, secrets)
            download += path.stat().st_size
        splits.add(SplitInfo(split, num_bytes=num_bytes, num_examples=len(rows)))
    size = sum(split.num_bytes for split in splits.values())
    return DatasetInfo(features=FEATURES, splits=splits, download_size=download, dataset_size=size)


def _write_shard(rows: Dataset, path: Path, split: str, secrets: set[str]) -> int:
    schema, written, waiting, size = FEATURES.arrow_schema, 0, [], 0
    # Pictures are compressed already. Left as they are, their bytes lie open: the Hub's storage finds the pictures
    # that it has, of this set or another. The index lets it show single rows without reading a whole group.
    layout = {"compression": "none", "use_dictionary": False, "write_statistics": ["name"], "write_page_index": True}
    with pq.ParquetWriter(path, schema, **layout) as writer:

        def flush() -> int:
            table = pa.Table.from_pylist(waiting, schema)
            writer.write_table(table)
            waiting.clear()
            return table.nbytes

        for row in rows:
            # No path: `datasets` drops the bytes of a picture whose path happens to exist in the working folder.
            kept = {column: {"bytes": _content(row[column]), "path": None} for column in ("image", "label")}
            for column, picture in kept.items():
                if holds_secret(picture["bytes"], secrets):
                    where = f"{column} of {split}/{row['name']}"
                    fix = "remove it from the file's metadata, prepare the set again, and push then"
                    raise DataError("pictures without secrets", "something like a token or password", fix, where)
            waiting.append({**kept, "name": row["name"]})
            size += sum(len(picture["bytes"]) for picture in kept.values())
            if size >= _ROW_GROUP_BYTES:
                written, size = written + flush(), 0
        if waiting:
            written += flush()
    return written


def _content(stored: Mapping) -> bytes:
    return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()


def _write_texts(data: LoadedData, terms: DataTerms, staging: Path, folders: list[str]) -> None:
    space = data.label_space.to_dict()
    if is_absolute(space["name"]):  # of a label-space file without a name
        space["name"] = last_name(space["name"])
    _write_json(staging / LABEL_SPACE_FILE, space)
    write_split_file(staging / "splits.yaml", data.splits)
    kept = {"origin": terms.origin, "license": terms.license, "notes": list(data.notes)}
    text = remove_local_paths(json.dumps(kept, indent=1, ensure_ascii=False), folders)
    (staging / SOURCE_FILE).write_text(text + "\n", encoding="utf-8")


def _write_json(path: Path, content: Mapping) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
