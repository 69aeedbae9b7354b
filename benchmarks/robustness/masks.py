"""Plain folders of images and masks, as people have them, and with one thing wrong."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from robustness.cases import Case, Kind

BAD: dict[str, Kind] = {}
ODD: dict[str, Kind] = {}
_NAMES = ("rest", "road", "building", "car")
_COLORS = np.array([(0, 0, 0), (128, 64, 128), (70, 70, 70), (0, 0, 142)], np.uint8)
_LISTS = {
    "ids": {
        "classes.txt": "\n".join(_NAMES),
        "id2label.json": str({str(i): name for i, name in enumerate(_NAMES)}).replace("'", '"'),
        "data.yaml": f"names: [{', '.join(_NAMES)}]",
    },
    "colors": {
        "label_colors.txt": "\n".join(f"{r} {g} {b}\t{n}" for (r, g, b), n in zip(_COLORS, _NAMES, strict=True)),
        "class_dict.csv": "name,r,g,b\n"
        + "\n".join(f"{n},{r},{g},{b}" for (r, g, b), n in zip(_COLORS, _NAMES, strict=True)),
        "labelmap.txt": "# label:color_rgb:parts:actions\n"
        + "\n".join(f"{n}:{r},{g},{b}::" for (r, g, b), n in zip(_COLORS, _NAMES, strict=True)),
    },
}


def _make(case: Case, kind: str, layout: tuple[str, str] = ("images/{}.png", "masks/{}.png")) -> Path:
    """KITTI's frames with four classes; the list of them is one that `kind` knows."""
    data = case.folder / "masks"
    for image in sorted((case.base / "kitti/training/image_2").iterdir()):
        ids = np.array(Image.open(image.parents[1] / "semantic" / image.name)) % 4
        target, mask = (data / one.format(image.stem) for one in layout)
        for path in (target, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, target)
        Image.fromarray(ids if kind == "ids" else _COLORS[ids]).save(mask)
    name = case.rng.choice(list(_LISTS[kind]))
    (data / name).write_text(_LISTS[kind][name])
    return data


def _with(change, kind: str = "ids") -> Kind:
    def make(case: Case) -> list:
        data = _make(case, kind)
        options = change(data, case) or {}
        return case.use_data(data, **options)

    return make


def _list(name: str, *texts: str):
    """The file that lists the classes in place of the right one."""

    def change(data: Path, case: Case) -> None:
        for path in data.glob("*.*"):
            path.unlink()
        text = case.rng.choice(texts)
        (data / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def _edit(edit):
    """A mask with other pixels."""

    def change(data: Path, case: Case) -> None:
        path = case.pick(data, "masks/*.png")
        edit(np.array(Image.open(path)), path, case.rng)

    return change


def _save(pixels: np.ndarray, path: Path, **options) -> None:
    Image.fromarray(pixels).save(path, **options)


def _described(**description):
    """A label space of colours of our own in place of the list."""

    def change(data: Path, case: Case) -> None:
        for path in data.glob("*.*"):
            path.unlink()
        classes = [{"name": n, "color": c} for n, c in zip(_NAMES, _COLORS.tolist(), strict=True)]
        case.write("masks/label_space.json", {"encoding": "color", "classes": classes} | description)

    return change


BAD |= {
    "masks of an unknown colour": _with(
        _edit(lambda p, path, rng: (p.__setitem__((0, slice(9)), (9, 8, 7)), _save(p, path))), "colors"
    ),
    "masks of colours as JPEG": _with(
        _edit(lambda p, path, rng: (_save(p, path.with_suffix(".jpg")), path.unlink())), "colors"
    ),
    "masks half transparent": _with(
        _edit(lambda p, path, rng: _save(np.dstack([p, np.full(p.shape[:2], 99, np.uint8)]), path)), "colors"
    ),
    "masks of fractions": _with(
        _edit(lambda p, path, rng: (_save(p + np.float32(0.5), path.with_suffix(".tif")), path.unlink()))
    ),
    "masks of 0 and 255": _with(
        lambda data, case: (
            [_save((np.array(Image.open(one)) > 1) * np.uint8(255), one) for one in data.glob("masks/*")],
            _list("classes.txt", "rest\nroad")(data, case),
        )[:0]
        or None
    ),
    "masks without a list": _with(lambda data, case: [one.unlink() for one in data.glob("*.*")] and None),
    "masks with two lists": _with(
        lambda data, case: [(data / name).write_text("a") for name in ("class_names.txt", "labels.txt")] and None
    ),
    "masks with two folders": _with(lambda data, case: shutil.copytree(data / "masks", data / "labels") and None),
    "masks fewer than images": _with(lambda data, case: case.pick(data, "masks/*").unlink()),
    "masks more than images": _with(lambda data, case: case.pick(data, "images/*").unlink()),
    "masks, list damaged": _with(
        _list("label_colors.txt", "1 2 3 a\nb", "1 2 300 a", "1 2 3 a\n1 2 3 b", "", "# none", b"\xff\xfe\0")
    ),
    "masks, names damaged": _with(_list("classes.txt", "a\na", "0 a\n0 b", "a" * 200, "a\x1b[0m\nb", "ignore\nvoid")),
    "masks, data.yaml damaged": _with(_list("data.yaml", "nc: 3", "names: 3", "names: [1, 2]", "names: {x: a}", "- a")),
    "masks, classes in words": _with(
        lambda data, case: {
            "classes": case.rng.choice((["a", "1=b"], ["0=a", "0=b"], ["a", "a"], ["a"], ["x" * 200], ["300=a", "1=b"]))
        }
    ),
    "masks, classes twice": _with(lambda data, case: {"classes": ["a"], "label_space": "cityscapes"}),
    "masks, encoding wrong": _with(_described(encoding="colour"), "colors"),
    "masks, edges wrong": _with(_described(edge_tolerance=2), "colors"),
    "masks, lossy of near colours": _with(
        _described(lossy=True, classes=[{"name": "a", "color": [1, 1, 1]}, {"name": "b", "color": [2, 2, 2]}]), "colors"
    ),
    "masks, void of ids": _with(_described(void=[0]), "colors"),
    "masks, ids with colours": _with(_described(encoding="ids"), "colors"),
}  # fmt: skip


def _layout(images: str, masks: str) -> Kind:
    def make(case: Case) -> list:
        data = _make(case, case.rng.choice(("ids", "colors")), (images, masks))
        return case.use_data(data)

    return make


def _all(edit, kind: str = "ids"):
    def change(data: Path, case: Case) -> None:
        for path in sorted(data.glob("masks/*")):
            edit(np.array(Image.open(path)), path)

    return _with(change, kind)


ODD |= {
    "masks beside images": _layout("{}.png", "{}_mask.png"),
    "masks in annotations": _layout("img/{}.png", "annotations/{}.png"),
    "masks of VOC": _layout("JPEGImages/{}.png", "SegmentationClass/{}.png"),
    "masks with endings": _layout("images/{}_sat.png", "masks/{}_mask.png"),
    "masks in train": _layout("train/images/{}.png", "train/labels/{}.png"),
    "masks in train_labels": _layout("train/{}.png", "train_labels/{}_L.png"),
    "masks in three channels": _all(lambda p, path: _save(np.dstack([p] * 3), path)),
    "masks of 16 bits": _all(lambda p, path: _save(p.astype(np.uint16), path)),
    "masks of floats": _all(lambda p, path: (_save(p.astype(np.float32), path.with_suffix(".tif")), path.unlink())),
    "masks with opaque alpha": _all(
        lambda p, path: _save(np.dstack([p, np.full(p.shape[:2], 255, np.uint8)]), path), "colors"
    ),
    "masks in a palette by colour": _all(lambda p, path: Image.fromarray(p).quantize(8).save(path), "colors"),
    "masks with edges": _with(
        lambda data, case: (
            (
                _edit(lambda p, path, rng: (p.__setitem__((0, slice(5)), (9, 8, 7)), _save(p, path)))(data, case),
                _described(edge_tolerance=0.01)(data, case),
            )[:0]
            or None
        ),
        "colors",
    ),
    "masks of 0 and 255, named": _with(
        lambda data, case: (
            [_save((np.array(Image.open(one)) > 1) * np.uint8(255), one) for one in data.glob("masks/*")],
            [one.unlink() for one in data.glob("*.*")],
            {"classes": ["0=rest", "255=road"]},
        )[2]
    ),
}
