"""Bad data: folders, images, labels, archives, label spaces, split files, saved sets."""

import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from robustness.cases import Case, Kind

KINDS: dict[str, Kind] = {}


def cut_short(path: Path, case: Case) -> None:
    os.truncate(path, case.rng.randrange(10, path.stat().st_size * 3 // 4))


def _replace(make) -> callable:
    def spoil(path: Path, case: Case) -> None:
        path.unlink()
        make(path)

    return spoil


def _edit(change) -> callable:
    """Label pixels changed as an array."""

    def spoil(path: Path, case: Case) -> None:
        Image.fromarray(change(np.array(Image.open(path)), case.rng)).save(path)

    return spoil


def _claim_size(path: Path, case: Case) -> None:
    """A PNG of a few bytes whose header says 50,000 x 50,000."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + end
    )


def _turn_by_exif(path: Path, case: Case) -> None:
    image = Image.open(path).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = case.rng.choice((3, 6, 8))
    image.save(path, exif=exif)


def _unknown_id(pixels, rng):
    pixels[rng.randrange(len(pixels)), rng.randrange(pixels.shape[1])] = rng.randint(50, 250)
    return pixels


NO_REGULAR_FILE = {
    "a FIFO": _replace(os.mkfifo),
    "a link to a device without end": _replace(lambda path: path.symlink_to("/dev/zero")),
    "a link to nothing": _replace(lambda path: path.symlink_to("nothing")),
    "a link to itself": _replace(lambda path: path.symlink_to(path.name)),
    "a folder": _replace(Path.mkdir),
}
IMAGES = NO_REGULAR_FILE | {
    "cut short": cut_short,
    "empty": lambda path, case: os.truncate(path, 0),
    "noise": lambda path, case: path.write_bytes(case.rng.randbytes(2000)),
    "of 16 bits": lambda path, case: Image.fromarray(np.full((48, 96), 999, np.uint16)).save(path),
    "text": lambda path, case: path.write_text("<svg onload=alert(1)>" * 9),
    "of 2.5e9 pixels": _claim_size,
    "turned by EXIF": _turn_by_exif,
    "without a partner": lambda path, case: path.unlink(),
    "twice": lambda path, case: shutil.copy(path, path.with_suffix(".webp")),
}
LABELS = NO_REGULAR_FILE | {
    "cut short": cut_short,
    "empty": lambda path, case: os.truncate(path, 0),
    "noise": lambda path, case: path.write_bytes(case.rng.randbytes(2000)),
    "of 2.5e9 pixels": _claim_size,
    "without a partner": lambda path, case: path.unlink(),
    "of an unknown id": _edit(_unknown_id),
    "of another size": _edit(lambda pixels, rng: pixels[rng.randint(1, 9) :]),
    "turned": _edit(lambda pixels, rng: pixels.T),
    "in colours": _edit(lambda pixels, rng: np.stack([pixels, pixels, pixels + 1], -1)),
    "of 16 bits": _edit(lambda pixels, rng: pixels.astype(np.uint16) * 300),
    "of floats": lambda path, case: (
        Image.fromarray(np.array(Image.open(path)) + np.float32(0.5)).save(path.with_suffix(".tif")),
        path.unlink(),
    ),
    "a JPEG": lambda path, case: (Image.open(path).convert("L").save(path.with_suffix(".jpg")), path.unlink()),
}


def _spoil_frame(folder: str, spoil) -> Kind:
    def kind(case: Case) -> list:
        data = case.copy("kitti")
        spoil(case.pick(data, f"training/{folder}/*.png"), case)
        return case.use_data(data)

    return kind


KINDS |= {f"image {name}": _spoil_frame("image_2", spoil) for name, spoil in IMAGES.items()}
KINDS |= {f"label {name}": _spoil_frame("semantic", spoil) for name, spoil in LABELS.items()}


def _spoil_folder(spoil) -> Kind:
    def kind(case: Case) -> list:
        data = case.copy("kitti")
        spoil(data, case)
        return case.use_data(data)

    return kind


def _leave_one(data: Path, case: Case) -> None:
    for folder in data.glob("training/*"):
        for path in sorted(folder.iterdir())[1:]:
            path.unlink()


def _make_void(data: Path, case: Case) -> None:
    for path in data.glob("training/semantic/*.png"):
        Image.new("L", Image.open(path).size, 0).save(path)


KINDS |= {
    "folder missing": lambda case: case.use_data(case.folder / "nowhere"),
    "folder empty": _spoil_folder(lambda data, case: shutil.rmtree(data / "training")),
    "folder that is a file": lambda case: case.use_data(case.write("data", "text")),
    "folder of an unknown layout": _spoil_folder(lambda data, case: (data / "training").rename(data / "frames")),
    "folder without labels": _spoil_folder(lambda data, case: shutil.rmtree(data / "training" / "semantic")),
    "folder of one frame": _spoil_folder(_leave_one),
    "folder of void labels": _spoil_folder(_make_void),
    "folder that is a FIFO": lambda case: (os.mkfifo(case.folder / "data"), case.use_data(case.folder / "data"))[1],
}


# Archives


def _spoil_archive(spoil) -> Kind:
    def kind(case: Case) -> list:
        archive = case.copy("kitti.zip")
        spoil(archive, case)
        return case.use_data(archive)

    return kind


def _rewrite(change) -> Kind:
    """The archive's members under other names, or with other content; None leaves one out."""

    def spoil(archive: Path, case: Case) -> None:
        with zipfile.ZipFile(archive) as bundle:
            members = {name: bundle.read(name) for name in bundle.namelist() if not name.endswith("/")}
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, content in members.items():
                for new_name, new_content in change(name, content, case):
                    bundle.writestr(new_name, new_content)

    return _spoil_archive(spoil)


def _flip_content(archive: Path, case: Case) -> None:
    content = bytearray(archive.read_bytes())
    for place in range(200, len(content) * 2 // 3, 500):
        content[place] ^= 255
    archive.write_bytes(content)


def _make_bomb(case: Case) -> list:
    archive = case.folder / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bundle:
        for number, folder in enumerate(("image_2", "semantic")):
            with bundle.open(f"training/{folder}/000000_10.png", "w", force_zip64=True) as member:
                for _ in range(1 if number else 3000):
                    member.write(bytes(1 << 20))
    return case.use_data(archive)


def _pack_otherwise(archive: Path, case: Case) -> None:
    """Refused by decision: a few kilobytes of such a member may fill the memory at once."""
    with zipfile.ZipFile(archive) as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist() if not name.endswith("/")}
    with zipfile.ZipFile(archive, "w", case.rng.choice((zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)


KINDS |= {
    "archive cut short": _spoil_archive(cut_short),
    "archive packed by LZMA": _spoil_archive(_pack_otherwise),
    "archive of noise": _spoil_archive(lambda path, case: path.write_bytes(case.rng.randbytes(5000))),
    "archive empty": _spoil_archive(lambda path, case: path.write_bytes(b"PK\5\6" + bytes(18))),
    "archive with flipped bytes": _spoil_archive(_flip_content),
    "archive without labels": _rewrite(lambda name, content, case: [] if "semantic" in name else [(name, content)]),
    "archive of other folders": _rewrite(lambda name, content, case: [(f"a/b/c/{name}", content)]),
    "archive with a file twice": _rewrite(lambda name, content, case: [(name, content), (f"x/{name}", content)]),
    "archive that leads outside": _rewrite(lambda name, content, case: [(f"../../{name}", content)]),
    "archive of 3 GB": _make_bomb,
    "archive with a spoilt image": _rewrite(
        lambda name, content, case: [(name, content[:300] if "000003" in name else content)]
    ),
}


# Label spaces


def _nest(depth: int = 9, width: int = 9) -> str:
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, depth)]
    return "\n".join(lines) + "\n"


YAML_FAULTS = {
    "no YAML": lambda case: case.rng.choice(("a: [1, 2", "a: b: c", "\t- x", "%", "a: &x", "'")),
    "a list": lambda case: "- a\n- b\n",
    "a word": lambda case: "classes",
    "nothing": lambda case: "",
    "nested aliases": lambda case: _nest(),
    "deep nesting": lambda case: "a: " + "[" * case.rng.choice((900, 5000, 20_000)),
    "deep mappings": lambda case: "{a: " * 3000 + "1" + "}" * 3000,
    "no such date": lambda case: "name: 2001-99-99\n",
    "an object of Python": lambda case: "name: !!python/object/apply:os.getcwd []\n",
    "not UTF-8": lambda case: b"name: \xff\xfe\xe4\n",
    "zero bytes": lambda case: b"name: a\0b\n",
    "an unknown key": lambda case: "classses: []\n",
}


def _mapping_kinds(option: str) -> dict[str, Kind]:
    """Faults that any YAML file can have, in the file of `option`."""

    def make(fault) -> Kind:
        return lambda case: case.use_data(case.base / "kitti", **{option: case.write(f"{option}.yaml", fault(case))})

    def no_file(spoil) -> Kind:
        def kind(case: Case) -> list:
            path = case.write(f"{option}.yaml", "")
            spoil(path, case)
            return case.use_data(case.base / "kitti", **{option: path})

        return kind

    return {f"{option} {name}": make(fault) for name, fault in YAML_FAULTS.items()} | {
        f"{option} {name}": no_file(spoil) for name, spoil in NO_REGULAR_FILE.items()
    }


KINDS |= _mapping_kinds("label_space")
KINDS |= _mapping_kinds("split_file")


def _classes(change) -> Kind:
    """The label space of KITTI with one thing wrong."""

    def kind(case: Case) -> list:
        content = case.read_classes()
        change(content, case.rng.choice(content["classes"]), case.rng)
        return case.use_data(case.base / "kitti", label_space=case.write("classes.yaml", content))

    return kind


KINDS |= {
    "class without a name": _classes(lambda content, one, rng: one.pop("name")),
    "class without ids": _classes(lambda content, one, rng: one.pop("label_ids")),
    "class named by no text": _classes(
        lambda content, one, rng: one.update(name=rng.choice((None, "", ["x"], {"a": 1})))
    ),
    "class twice": _classes(lambda content, one, rng: content["classes"].append(one | {"label_ids": [200]})),
    "class of another's id": _classes(lambda content, one, rng: content["classes"][0].update(label_ids=[7, 8])),
    "class id out of range": _classes(lambda content, one, rng: one.update(label_ids=[rng.choice((-7, 10**12))])),
    "class id no number": _classes(lambda content, one, rng: one.update(label_ids=rng.choice(("7", [None], [1.5], 3)))),
    "class colour wrong": _classes(
        lambda content, one, rng: one.update(color=rng.choice(([1, 2], [1, 2, 300], "red", [0, -1, 0], [1.5, 2, 3])))
    ),
    "class that is a word": _classes(lambda content, one, rng: content["classes"].append("road")),
    "classes missing": _classes(lambda content, one, rng: content.pop("classes")),
    "classes none": _classes(lambda content, one, rng: content.update(classes=[])),
    "classes 300": _classes(
        lambda content, one, rng: content.update(
            classes=[{"name": f"c{i}", "color": [0, 0, 0], "label_ids": [i % 256]} for i in range(300)]
        )
    ),
    "void no list": _classes(lambda content, one, rng: content.update(void=rng.choice(("none", 3, {"a": 1}, [None])))),
    "void a class's id": _classes(lambda content, one, rng: content["void"].append(7)),
    "category of some only": _classes(lambda content, one, rng: one.pop("category")),
    "classes and id2label": _classes(lambda content, one, rng: content.update(id2label={"0": "a"})),
    "folders of no data": _classes(
        lambda content, one, rng: content.update(splits=rng.choice((["x"], 3, {"a": None})))
    ),
}


def _names(case: Case) -> list[str]:
    return sorted(path.stem for path in (case.base / "kitti").rglob("image_2/*.png"))


def _splits(make) -> Kind:
    def kind(case: Case) -> list:
        names = _names(case)
        path = case.write("splits.yaml", make(names[:5], names[5:], case.rng))
        return case.use_data(case.base / "kitti", split_file=path)

    return kind


def _same_picture(case: Case) -> list:
    data, names = case.copy("kitti"), _names(case)
    for folder in ("image_2", "semantic"):
        shutil.copy(data / f"training/{folder}/{names[0]}.png", data / f"training/{folder}/{names[7]}.png")
    return case.use_data(data, split_file=case.write("splits.yaml", {"train": names[:5], "test": names[5:]}))


KINDS |= {
    "split of unknown frames": _splits(lambda train, test, rng: {"train": [*train, "000099_10"], "test": test}),
    "split with a frame twice": _splits(lambda train, test, rng: {"train": train, "test": [*test, rng.choice(train)]}),
    "split without train": _splits(lambda train, test, rng: {"test": test}),
    "split of an unknown name": _splits(lambda train, test, rng: {"train": train, "tests": test}),
    "split that is empty": _splits(lambda train, test, rng: {"train": train, "test": rng.choice(([], None, {}, "x"))}),
    "split of mappings": _splits(lambda train, test, rng: {"train": dict.fromkeys(train, 1), "test": test}),
    "split of nested lists": _splits(lambda train, test, rng: {"train": [train], "test": test}),
    "same picture in two splits": _same_picture,
}


# Saved sets


def _spoil_set(pattern: str, spoil) -> Kind:
    def kind(case: Case) -> list:
        data = case.copy("set")
        spoil(case.pick(data, pattern), case)
        return case.use_data(data)

    return kind


def _write(text: str):
    return lambda path, case: path.write_text(text)


KINDS |= {
    "saved set, arrow cut short": _spoil_set("*/*.arrow", cut_short),
    "saved set, arrow of noise": _spoil_set("*/*.arrow", lambda path, case: path.write_bytes(case.rng.randbytes(999))),
    "saved set, arrow missing": _spoil_set("*/*.arrow", lambda path, case: path.unlink()),
    "saved set, state missing": _spoil_set("*/state.json", lambda path, case: path.unlink()),
    "saved set, state no JSON": _spoil_set("*/state.json", _write("{")),
    "saved set, info no JSON": _spoil_set("*/dataset_info.json", _write("[1]")),
    "saved set, splits no JSON": _spoil_set("dataset_dict.json", _write("{'a'")),
    "saved set, split missing": _spoil_set("train", lambda path, case: shutil.rmtree(path)),
    "saved set, classes no JSON": _spoil_set("label_space.json", _write('{"name": ')),
    "saved set, classes a list": _spoil_set("label_space.json", _write("[]")),
    "saved set, other classes": _spoil_set(
        "label_space.json", _write('{"name": "x", "classes": [{"name": "a", "color": [1, 2, 3], "label_ids": [99]}]}')
    ),
}
