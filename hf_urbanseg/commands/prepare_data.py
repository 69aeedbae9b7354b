"""Turns any supported data into one self-contained, checked and split set."""

import io
import os
import shutil
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Image
from PIL import Image as PillowImage

from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import DataArguments
from hf_urbanseg.data.checks import inspect_pairs
from hf_urbanseg.data.folders import FEATURES
from hf_urbanseg.data.label_space_files import write_label_space
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.saved_sets import LABEL_SPACE_FILE, is_saved_set
from hf_urbanseg.data.splits import write_split_file
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.recipe import parse_arguments


@dataclass
class PrepareArguments:
    """Where the prepared set goes."""

    output: str = field(metadata={"help": "Folder to write; give it to the other commands as --data_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an earlier prepared set at --output."})


def main() -> None:
    run_command(_prepare)


def _prepare() -> None:
    data, options = parse_arguments([DataArguments, PrepareArguments], description=__doc__)
    output = Path(options.output).expanduser().absolute()
    check_output(output, options.overwrite)
    loaded = load_data(**asdict(data))
    inspect_pairs(loaded.splits, loaded.label_space)
    write_prepared_set(loaded, output, options.overwrite)
    print(f"{loaded.name}: {loaded.label_space.num_labels} classes")
    for split, rows in loaded.splits.items():
        print(f"  {split:<10} {len(rows):>6} frames")
    for note in loaded.notes:
        print(f"  {note}")
    print(f"written to {options.output}; train on it with --data_dir {options.output}")


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


def write_prepared_set(loaded: LoadedData, output: Path, overwrite: bool = False) -> None:
    """Writes splits, label space, split file and README so that `load_data(data_dir=output)` needs nothing else.

    Images keep their files' bytes. Labels become 8-bit PNGs of train ids. The folder appears complete or not at all.

    Args:
        loaded: Checked by `inspect_pairs`.
        output: The folder; its parents are made.
        overwrite: Replaces an earlier set.

    Raises:
        DataError: `output` is in use, a label can't be converted, or the disk is full.
    """
    check_output(output, overwrite)
    with _staging_folder(output) as staging:
        complete = staging / "complete"
        rows_on_disk = {}
        for split, rows in loaded.splits.items():
            rows_on_disk[split] = _embed(rows, split, loaded.label_space, staging / f"{split}.arrow")
        DatasetDict(rows_on_disk).save_to_disk(str(complete))
        write_label_space(complete / LABEL_SPACE_FILE, loaded.label_space.with_train_ids())
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


def _embed(rows: Dataset, split: str, label_space: LabelSpace, file: Path) -> Dataset:
    def convert(row: dict) -> dict:
        image, label = _read_bytes(row["image"]), _read_bytes(row["label"])
        label = encode_train_ids(label, label_space, row["label"]["path"] or f"{split}/{row['name']}")
        # No path: `datasets` drops the bytes of a picture whose path happens to exist in the working folder.
        return {"image": {"bytes": image, "path": None}, "label": {"bytes": label, "path": None}, "name": row["name"]}

    undecoded = rows.cast_column("image", Image(decode=False)).cast_column("label", Image(decode=False))
    undecoded.map(
        convert,
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


def encode_train_ids(label: bytes, label_space: LabelSpace, where: str) -> bytes:
    """A label file's bytes as an 8-bit greyscale PNG of train ids.

    Args:
        label: Bytes of an 8-bit greyscale or palette image of raw label ids.
        label_space: Maps them.
        where: The file, named in errors.

    Raises:
        DataError: Another kind of image, or a value outside the mapping.
    """
    # Through the same decoder that training uses, so that a rotation by EXIF ends in the pixels.
    picture = Image().decode_example({"bytes": label, "path": None})
    if picture.mode not in ("L", "P"):
        raise DataError("an 8-bit label", f"mode {picture.mode}", "save label ids as 8-bit greyscale", where)
    label_ids = np.asarray(picture)
    unknown = np.unique(label_ids[~label_space.known_ids[label_ids]])
    if unknown.size:
        raise DataError(f"label ids of {label_space.name}", f"{unknown[0]}", "check `--label_space`", where)
    buffer = io.BytesIO()
    PillowImage.fromarray(label_space.train_id_table[label_ids]).save(buffer, "PNG")
    return buffer.getvalue()


def _describe(loaded: LoadedData) -> str:
    lines = [
        f"# {loaded.name}, prepared for hf_urbanseg",
        "",
        "Columns: `image` (the original file's bytes), `label` (8-bit PNG of train ids, 255 = void), `name`. "
        "Classes and colours are in `label_space.json`, the names of each split in `splits.yaml`.",
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
