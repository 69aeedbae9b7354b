"""Label-id files for the evaluation servers of KITTI and Cityscapes: which images, which names, and is a zip right.

Sources:
    KITTI: devkit_semantics/README.md: results have the images' own names, 8-bit single-channel PNGs of Cityscapes
        label ids, in folders analogous to the ground truth's, so `semantic/000000_10.png`.
    Cityscapes: https://www.cityscapes-dataset.com/submit/ and cityscapesScripts' evalPixelLevelSemanticLabeling.py:
        one file `<city>_123456_123456*.png` per image in any folder, pixels hold label ids, not train ids. The zips
        made here add `_pred_labelIds` and have no folders.
"""

import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from hf_urbanseg.data.archive import extract_folders
from hf_urbanseg.data.image_files import list_images
from hf_urbanseg.data.pictures import MOST_BYTES, open_picture, read_file, readable
from hf_urbanseg.data.preflight.set_values import first_few
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.files import explain_missing, written_whole
from hf_urbanseg.labels import CITYSCAPES

LAST_LABEL_ID = 33


@dataclass(frozen=True)
class Benchmark:
    """What a server expects of one split.

    Args:
        name: Of the benchmark and split, for messages.
        counts: Folder of images, relative to the data folder -> how many there are officially.
        member: Name inside the zip, with `{}` for the frame name.
        pattern: Names inside a zip that the server recognises; the first group is the frame name.
        suffix: End of the image files' stems that is no part of the frame name.
        names: The official frame names, where they follow a rule.
        note: What the server asks of those who submit.
    """

    name: str
    counts: Mapping[str, int]
    member: str = "{}_pred_labelIds.png"
    pattern: str = r"(?:.*/)?([^_/]+_\d{6}_\d{6})[^/]*\.png"
    suffix: str = "_leftImg8bit"
    names: tuple[str, ...] = ()
    note: str = ""


_KITTI = Benchmark(
    "KITTI test",
    {"testing/image_2": 200},
    "semantic/{}.png",
    r"(?:semantic/)?([^/]+)\.png",
    suffix="",
    names=tuple(f"{index:06d}_10" for index in range(200)),
    note="The KITTI server takes only new methods on their way to peer review; student work and small changes of "
    "known methods are to be scored on a split of the training set.",
)
_CITIES = {
    "test": {"berlin": 544, "bielefeld": 181, "bonn": 46, "leverkusen": 58, "mainz": 298, "munich": 398},
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
}
BENCHMARKS = {("kitti", "test"): _KITTI} | {
    ("cityscapes", split): Benchmark(
        f"Cityscapes {split}", {f"leftImg8bit/{split}/{city}": count for city, count in cities.items()}
    )
    for split, cities in _CITIES.items()
}
"""By name and split; Cityscapes' val has public labels, so cityscapesScripts can check a submission at home."""


def get_benchmark(name: str, split: str) -> Benchmark:
    """The benchmark of that name and split, or a ConfigError that lists them."""
    if (name, split) not in BENCHMARKS:
        known = f"a benchmark and split of {', '.join(map(' '.join, BENCHMARKS))}"
        raise ConfigError(known, f"`{name} {split}`", "correct `--benchmark` or `--split`")
    return BENCHMARKS[name, split]


def find_images(data_dir: Path, benchmark: Benchmark) -> dict[str, Path]:
    """The official images by frame name, sorted, all of them or an error that says which are missing.

    `data_dir` is the official folder, or the .zip, whose images are unpacked into the cache.
    """
    if not data_dir.exists():
        found = f"nothing there{explain_missing(data_dir)}"
        raise DataError(f"the data of {benchmark.name}", found, "correct `--data_dir`", data_dir)
    root = extract_folders(data_dir, list(benchmark.counts)) if data_dir.is_file() else data_dir
    found: dict[str, Path] = {}
    for folder, count in benchmark.counts.items():
        images = list_images(root / folder, benchmark.suffix)
        missing = sorted(set(benchmark.names) - set(images))
        if missing or len(images) != count:
            told = f"{len(images)}{', without ' + first_few(missing, 3) if missing else ''}"
            expected = f"the {count} official images of {benchmark.name}"
            raise DataError(expected, told, "unpack the official archive again", root / folder)
        found |= images
    return dict(sorted(found.items()))


def encode_label_ids(train_ids: np.ndarray) -> bytes:
    """A PNG of Cityscapes label ids, of (H, W) uint8 train ids, 0..18."""
    buffer = BytesIO()
    Image.fromarray(CITYSCAPES.label_id_table[train_ids]).save(buffer, format="PNG")
    return buffer.getvalue()


def write_submission(
    path: Path, files: Iterable[tuple[str, bytes]], benchmark: Benchmark, images: Mapping[str, Path]
) -> None:
    """Writes the zip, checks it like anyone else's and only then gives it its name; the same files give the same bytes.

    `files` are frame name and PNG of every image, `images` those of `find_images`.
    """
    with written_whole(path) as staged:
        with zipfile.ZipFile(staged, "w") as bundle:
            for name, content in files:
                # Without a date; PNGs are compressed already.
                info = zipfile.ZipInfo(benchmark.member.format(name))
                info.create_system, info.external_attr = 3, 0o644 << 16
                bundle.writestr(info, content)
        check_submission(staged, benchmark, images)


def check_submission(path: Path, benchmark: Benchmark, images: Mapping[str, Path]) -> None:
    """Refuses a zip that the server would refuse or misread, whoever made it; `images` are those of `find_images`."""
    try:
        with zipfile.ZipFile(path) as bundle:
            members = _match_members(path, bundle.namelist(), benchmark, images)
            highest = max(_check_member(path, bundle, members[name], images[name]) for name in images)
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise DataError("a readable .zip", str(error).rstrip("."), "write it again", path) from error
    if highest < CITYSCAPES.num_labels:
        found = f"no id over {highest} in {len(images)} files, as in train ids"
        raise DataError("label ids, which go up to 33 (sky is 23, car 26)", found, "map train ids to label ids", path)


def _match_members(path: Path, names: list[str], benchmark: Benchmark, images: Mapping[str, Path]) -> dict[str, str]:
    members: dict[str, str] = {}
    for member in names:
        if member.endswith("/"):
            continue
        match = re.fullmatch(benchmark.pattern, member)
        key = match and match[1]
        if key not in images:
            example = benchmark.member.format(next(iter(images)))
            raise DataError(f"only files like `{example}`", f"`{member}`", "remove or rename it", path)
        if key in members:
            raise DataError("one file per image", f"`{members[key]}` and `{member}`", "remove one", path)
        members[key] = member
    if missing := [name for name in images if name not in members]:
        found = f"{len(members)}, without {first_few(missing, 3)}"
        raise DataError(f"{len(images)} files for {benchmark.name}", found, "predict the missing ones", path)
    return members


def _check_member(path: Path, bundle: zipfile.ZipFile, member: str, image: Path) -> int:
    where = f"{path}: {member}"
    if bundle.getinfo(member).file_size > MOST_BYTES:
        raise DataError(f"at most {MOST_BYTES:,} bytes", "more", "write it again", where)
    content = bundle.read(member)
    with readable("PNG", where, "write it again"), open_picture(content, where) as picture:
        # The raw mode tells 1-, 2- and 4-bit files apart, which Pillow opens as L, too.
        kind, mode, label_ids = picture.format, picture.tile[0][3], np.asarray(picture)
    if kind != "PNG" or mode != "L":
        raise DataError("a PNG of one 8-bit channel", f"{kind}, mode {mode}", "save the label ids as grey", where)
    with readable("image", image, "replace it"), open_picture(read_file(image), image) as original:
        width, height = original.size
    if label_ids.shape != (height, width):
        found = f"{label_ids.shape[0]}x{label_ids.shape[1]}"
        raise DataError(f"its image's size, {height}x{width} (height x width)", found, "predict at native size", where)
    highest = int(label_ids.max())
    if highest > LAST_LABEL_ID:
        raise DataError(f"label ids of 0..{LAST_LABEL_ID}", f"{highest}", "give every pixel a class", where)
    return highest
