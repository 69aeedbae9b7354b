"""Any data as shards: parquet files of which each frame can be read by itself, written in memory that stays small."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hf_urbanseg.data.image_files import FEATURES, undecode
from hf_urbanseg.data.label_space_files import write_label_space
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.own_files import LABEL_SPACE_FILE, SHARDS_FILE, SOURCE_FILE, check_output
from hf_urbanseg.data.parquet_shards import NAMES_KEY, read_footer
from hf_urbanseg.data.pictures import embed_stored
from hf_urbanseg.data.preflight.cache import identify_file
from hf_urbanseg.data.preflight.checks import Inspection, check_names, inspect_piece
from hf_urbanseg.data.shards import refuse_streamed
from hf_urbanseg.errors import DataError
from hf_urbanseg.escaping import escape_markdown
from hf_urbanseg.files import written_whole
from hf_urbanseg.json_yaml import write_json
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.progress import show_progress

logger = logging.getLogger(__name__)

_BEGUN = ".shards_begun"
"""In a folder whose shards are not all there yet, and may be replaced."""
_SELF_KEY = b"hf_urbanseg.shard"
_LAYOUT = {
    # Pictures are compressed already; a byte that is another is noticed when its page is read.
    "compression": "none", "use_dictionary": False, "write_statistics": ["name"], "write_page_checksum": True,
}  # fmt: skip


def check_shards_output(output: Path) -> None:
    """Refuses a folder that holds anything but the beginning of a set of shards."""
    if (output / SHARDS_FILE).is_file():
        fix = "delete it first, or choose another `--output`"
        raise DataError("a new folder to write", "a set of shards", fix, output)
    if not (output / _BEGUN).is_file():
        check_output(output, False, lambda path: False, "a prepared set")


def write_shards(
    loaded: LoadedData, output: Path, rows_per_shard: int, source: Mapping, progress: bool = True
) -> dict[str, list[dict]]:
    """Checks all pairs and writes them, shard by shard, each whole or not at all; goes on where an earlier call ended.

    A shard that is there is kept if its frames' names, files and classes are the same. Frames are shuffled first, so
    that a few shards show all kinds: those of a drive would follow each other. Each has a row group of its own.

    Returns:
        By split, what `SHARDS_FILE` says of each shard.

    Raises:
        DataError: The first bad pair, or an image of a split that is measured in `train`, too; what is written stays.
    """
    refuse_streamed(loaded.splits)
    check_names(loaded.splits)
    (output / "data").mkdir(parents=True, exist_ok=True)
    (output / _BEGUN).touch()
    held_out, index = set(), {}
    total = sum(map(len, loaded.splits.values()))
    with show_progress(total, "writing", "frame", hidden=not progress) as bar:
        for split in sorted(loaded.splits, key=lambda split: split == "train"):  # which is compared with the others
            rows, index[split] = loaded.splits[split], []
            order = np.random.default_rng(0).permutation(len(rows))
            count = -(-len(rows) // rows_per_shard)
            for number in range(count):
                part = rows.select(order[number * len(rows) // count : (number + 1) * len(rows) // count])
                path = output / "data" / f"{split}-{number:05d}-of-{count:05d}.parquet"
                one = _write_shard(part, split, path, loaded.label_space)
                images = one.pop("images")
                if split == "train" and (shared := held_out.intersection(images)):
                    name = one["names"][images.index(shared.pop())]
                    found = "one in train that is in validation or test, too"
                    raise DataError("every image in one split", found, "remove one of them", f"train/{name}")
                held_out.update(images if split != "train" else ())
                del one["names"]
                index[split].append(one)
                bar.update(len(part))
    for stale in {*(output / "data").iterdir()} - {output / one["file"] for found in index.values() for one in found}:
        stale.unlink()  # of another number of rows
    write_label_space(output / LABEL_SPACE_FILE, loaded.label_space)
    write_json(output / SOURCE_FILE, source)
    (output / "README.md").write_text(_describe(loaded, index, source), encoding="utf-8")
    write_json(output / SHARDS_FILE, {"mapping": loaded.label_space.mapping_digest, "shards": index}, indent=None)
    (output / _BEGUN).unlink()
    return index


def _write_shard(rows: Dataset, split: str, path: Path, space: LabelSpace) -> dict:
    key = hashlib.sha256(space.mapping_digest.encode())
    for row in undecode(rows):
        key.update(json.dumps([row["name"], identify_file(row["image"]), identify_file(row["label"])]).encode())
    if (kept := _read_kept(path, key.hexdigest())) is not None:
        return kept
    pairs = inspect_piece(split, rows, space)
    counts = Inspection({split: pairs}).train_id_counts(split, space)
    said = {"source": key.hexdigest(), "pixels": counts.sum(0).tolist(), "frames": (counts > 0).sum(0).tolist()}
    said["images"] = [pair.image_digest[:16] for pair in pairs]
    schema = FEATURES.arrow_schema
    names = json.dumps([pair.name for pair in pairs]).encode()
    schema = schema.with_metadata({**schema.metadata, NAMES_KEY: names, _SELF_KEY: json.dumps(said).encode()})
    with written_whole(path) as staged, pq.ParquetWriter(staged, schema, **_LAYOUT) as writer:
        for row in undecode(rows):
            cells = {"image": embed_stored(row["image"]), "label": embed_stored(row["label"]), "name": row["name"]}
            writer.write_table(pa.Table.from_pylist([cells], schema), row_group_size=1)
    return _read_kept(path, key.hexdigest())


def _read_kept(path: Path, source: str) -> dict | None:
    """What the index says of a shard that is there and the same; None of any other file."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            metadata, digest = read_footer(file)
        said = json.loads(metadata.metadata[_SELF_KEY])
        names = json.loads(metadata.metadata[NAMES_KEY])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    if said["source"] != source:
        return None
    counted = {key: said[key] for key in ("pixels", "frames", "images")}
    return {"file": f"data/{path.name}", "rows": metadata.num_rows, "digest": digest, "names": names, **counted}


def _describe(loaded: LoadedData, index: Mapping[str, list[dict]], source: Mapping) -> str:
    space = loaded.label_space
    lines = [
        "---",
        *([f"license: {source['license']}"] if source.get("license") else []),
        "task_categories: [image-segmentation]",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *(f"  - {{split: {split}, path: data/{split}-*.parquet}}" for split in index),
        "---",
        f"# {escape_markdown(loaded.name)}, in shards for hf_urbanseg",
        "",
        "Columns: `image` and `label` (the original files, byte for byte), `name`. Classes, colours and label ids are "
        f"in `{LABEL_SPACE_FILE}`. Every frame is a row group of its own, so that it can be read alone; frames are "
        f"shuffled. `{SHARDS_FILE}` lists the files with their rows and the pixels of each class.",
        "",
        "| split | frames | files |",
        "|---|---|---|",
        *(f"| {split} | {sum(one['rows'] for one in found)} | {len(found)} |" for split, found in index.items()),
        "",
        *(f"- {escape_markdown(note)}" for note in loaded.notes),
        "",
    ]
    for split, found in index.items():
        pixels, frames = (np.sum([one[key] for one in found], 0) for key in ("pixels", "frames"))
        lines += [f"| class, {split} | pixels | share | frames |", "|---|---|---|---|"]
        lines += [
            f"| {escape_markdown(name)} | {count} | {count / max(pixels.sum(), 1):.3%} | {seen} |"
            for name, count, seen in zip(space.names, pixels.tolist(), frames.tolist(), strict=True)
        ]
        lines.append("")
    return "\n".join([*lines, "The licence of the source data applies."]) + "\n"
