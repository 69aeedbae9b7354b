"""Any data as one self-contained set: images, labels, splits and classes in a folder that needs nothing else."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict

from hf_urbanseg.data.image_files import FEATURES, undecode
from hf_urbanseg.data.label_space_files import write_label_space
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.own_files import LABEL_SPACE_FILE, SOURCE_FILE, check_output, read_source
from hf_urbanseg.data.pictures import embed_stored
from hf_urbanseg.data.sources.saved_set import is_saved_set
from hf_urbanseg.data.splits import SPLITS_FILE, write_split_file
from hf_urbanseg.escaping import escape_markdown
from hf_urbanseg.files import expand_home, written_whole
from hf_urbanseg.json_yaml import write_json


def describe_source(
    loaded: LoadedData, data_dir: str | None, dataset: str | None, revision: str | None, license: str | None
) -> dict:
    """What source.json says: origin, a key of `hub.cards.licence.TITLES` or None; licence; how the splits came about.

    A set that was prepared before keeps its own.
    """
    where = dataset or str(expand_home(data_dir))
    if dataset not in (None, "synthetic") or is_saved_set(Path(where)):
        before = read_source(where, revision)
    else:
        origin = loaded.name.removesuffix("_as_cityscapes")
        before = {"origin": origin if origin in ("synthetic", "kitti", "cityscapes", "camvid") else None}
    return {"origin": before.get("origin"), "license": license or before.get("license"), "notes": list(loaded.notes)}


def write_prepared_set(
    loaded: LoadedData,
    output: Path,
    overwrite: bool = False,
    source: Mapping | None = None,
    draw: Callable[[Path], Sequence[str]] = lambda folder: (),
) -> None:
    """Writes splits, label space, split file and README so that `load_data(data_dir=output)` needs nothing else.

    Images and labels keep their files' bytes. The folder appears complete or not at all.

    Args:
        loaded: Checked by `inspect_pairs`.
        overwrite: Replaces an earlier set.
        source: From `describe_source`.
        draw: Writes pictures for the README into the folder, and returns their names.
    """
    check_output(output, overwrite, is_saved_set, "a prepared set")
    with written_whole(output, folder=True) as staged:
        embedded = staged / "embedding"  # on the disk that has room for the set
        embedded.mkdir()
        splits = {split: _embed(rows, split, embedded / f"{split}.arrow") for split, rows in loaded.splits.items()}
        DatasetDict(splits).save_to_disk(str(staged))
        shutil.rmtree(embedded)
        write_label_space(staged / LABEL_SPACE_FILE, loaded.label_space)
        write_json(staged / SOURCE_FILE, source or {"origin": None, "license": None, "notes": list(loaded.notes)})
        write_split_file(staged / SPLITS_FILE, loaded.splits)
        (staged / "README.md").write_text(_describe(loaded, draw(staged)), encoding="utf-8")


def _embed(rows: Dataset, split: str, file: Path) -> Dataset:
    def read(row: dict) -> dict:
        for column in ("image", "label"):
            row[column] = embed_stored(row[column])
        return row

    options = {"cache_file_name": str(file), "load_from_cache_file": False, "writer_batch_size": 32}
    undecode(rows).map(read, features=FEATURES, desc=f"Embedding {split}", **options)
    # Read anew: the mapped set would carry along the description of its source, paths included.
    return Dataset.from_file(str(file))


def _describe(loaded: LoadedData, pictures: Sequence[str]) -> str:
    classes = ", ".join(f"{index} {name}" for index, name in loaded.label_space.id2label.items())
    lines = [
        f"# {escape_markdown(loaded.name)}, prepared for hf_urbanseg",
        "",
        "Columns: `image` and `label` (the original files, byte for byte), `name`. Classes, colours and label ids "
        f"are in `{LABEL_SPACE_FILE}`, the names of each split in `{SPLITS_FILE}`.",
        "",
        "| split | frames |",
        "|---|---|",
        *(f"| {split} | {len(rows)} |" for split, rows in loaded.splits.items()),
        "",
        *(f"- {escape_markdown(note)}" for note in loaded.notes),
        "",
        f"Classes by train id: {escape_markdown(classes)}.",
        "",
        *(line for picture in pictures for line in (f"![frames and their labels]({picture})", "")),
        "The licence of the source data applies.",
    ]
    return "\n".join(lines) + "\n"
