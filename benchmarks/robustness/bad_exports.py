"""Bad exports of labelling tools: one fault each in an export that would do without it."""

import json
import shutil
from pathlib import Path

from robustness.bad_data import NO_REGULAR_FILE, cut_short
from robustness.cases import Case, Kind

KINDS: dict[str, Kind] = {}
HEIGHT, WIDTH = 48, 96
_POINTS = [[9, 9], [60, 9], [60, 40]]
_FLAT = [number for point in _POINTS for number in point]


def _copy_images(case: Case) -> tuple[Path, list[str]]:
    data = case.folder / "export"
    shutil.copytree(case.base / "kitti" / "training" / "image_2", data)
    return data, sorted(path.name for path in data.iterdir())


def _coco(case: Case) -> tuple[Path, Path]:
    data, names = _copy_images(case)
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names)]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "segmentation": [_FLAT]} for i in range(len(names))]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
    (data / "labels.json").write_text(json.dumps(content))
    return data, data / "labels.json"


def _labelme(case: Case) -> tuple[Path, Path]:
    data, names = _copy_images(case)
    for name in names:
        shapes = [{"label": "car", "points": _POINTS, "shape_type": "polygon"}]
        content = {"shapes": shapes, "imagePath": name, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        (data / name).with_suffix(".json").write_text(json.dumps(content))
    return data, case.pick(data, "*.json")


def _label_studio(case: Case) -> tuple[Path, Path]:
    data, names = _copy_images(case)
    value = {"points": _POINTS, "polygonlabels": ["car"]}
    result = {"original_height": HEIGHT, "original_width": WIDTH, "value": value}
    tasks = [{"annotations": [{"result": [result]}], "data": {"image": name}} for name in names]
    (data / "project.json").write_text(json.dumps(tasks))
    return data, data / "project.json"


def _cvat(case: Case) -> tuple[Path, Path]:
    data, names = _copy_images(case)
    points = ";".join(f"{x},{y}" for x, y in _POINTS)
    inside = f'<polygon label="car" points="{points}" z_order="0"/>'
    images = [f'<image name="{name}" width="{WIDTH}" height="{HEIGHT}">{inside}</image>' for name in names]
    (data / "annotations.xml").write_text("<annotations>\n" + "\n".join(images) + "\n</annotations>\n")
    return data, data / "annotations.xml"


def _yolo(case: Case) -> tuple[Path, Path]:
    data, names = _copy_images(case)
    (data / "labels").mkdir()
    (data / "images").mkdir()
    for name in names:
        (data / name).rename(data / "images" / name)
        row = " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in _POINTS)
        (data / "labels" / name).with_suffix(".txt").write_text(f"0 {row}\n")
    (data / "data.yaml").write_text("names: [car]\n")
    return data, case.pick(data, "labels/*.txt")


MAKERS = {"coco": _coco, "labelme": _labelme, "label_studio": _label_studio, "cvat": _cvat, "yolo": _yolo}


def _add(format: str, faults: dict) -> None:
    def kind(spoil) -> Kind:
        def make(case: Case) -> list:
            data, file = MAKERS[format](case)
            spoil(file, case)
            return case.use_data(data, format=case.rng.choice(("auto", format)))

        return make

    KINDS.update({f"{format} {name}": kind(spoil) for name, spoil in faults.items()})


def _json(change) -> callable:
    def spoil(file: Path, case: Case) -> None:
        content = json.loads(file.read_text())
        change(content, case.rng)
        file.write_text(json.dumps(content))

    return spoil


def _swap(old: str, *new: str) -> callable:
    return lambda file, case: file.write_text(file.read_text().replace(old, case.rng.choice(new), 1))


_RINGS = (
    [[1, 2, 3, 4]],
    [[1, 2, 3, 4, 5]],
    [[1, 2, 3, 4, 5, 1e300]],
    [[0, 0, 9e6, 0, 0, 9e6]],
    "x",
    [["a"] * 6],
    [None],
)
_RUNS = ([], [1], [HEIGHT * WIDTH + 1, -1], "05", "\u00e4" * 9, "o" * 9999, None, [1.5], [10**30])


def _annotation(**values) -> callable:
    def change(content: dict, rng) -> None:
        key, choices = rng.choice(list(values.items()))
        rng.choice(content["annotations"])[key] = rng.choice(choices)

    return _json(change)


def _image(**values) -> callable:
    def change(content: dict, rng) -> None:
        key, choices = rng.choice(list(values.items()))
        rng.choice(content["images"])[key] = rng.choice(choices)

    return _json(change)


EVERY = {"cut short": cut_short}
_add(
    "coco",
    EVERY
    | {
        "outline": _annotation(segmentation=_RINGS),
        "run lengths": _annotation(segmentation=[{"size": [HEIGHT, WIDTH], "counts": one} for one in _RUNS]),
        "mask of another size": _annotation(
            segmentation=[{"size": one, "counts": [9]} for one in ([3, 3], None, [1e9] * 2)]
        ),
        "ids": _annotation(image_id=(99, None, [1], "0"), category_id=(99, None, {}, "1")),
        "picture": _image(file_name=("x.png", "../x.png", "/etc/passwd", "", None), height=(47, "48", -1, 10**30)),
        "picture twice": _json(lambda content, rng: content["images"].append(content["images"][0] | {"id": 99})),
        "boxes alone": _json(lambda content, rng: [one.update(segmentation=[]) for one in content["annotations"]]),
        "panoptic": _json(lambda content, rng: [one.update(segments_info=[]) for one in content["annotations"]]),
        "deep": lambda file, case: file.write_text('{"images": [' + "[" * 99_999),
        "and YOLO": lambda file, case: (
            (file.parent / "labels").mkdir(),
            (file.parent / "labels" / "a.txt").touch(),
            (file.parent / "data.yaml").write_text("names: [a]\n"),
            file.write_text('{"images": [], "annotations": [], "categories": []}'),
        ),
    },
)
_add(
    "labelme",
    EVERY
    | {
        "outline": _json(
            lambda content, rng: content["shapes"][0].update(points=rng.choice((_POINTS[:2], 3, None, [[1]])))
        ),
        "label": _json(
            lambda content, rng: content["shapes"][0].update(label=rng.choice((None, 3, ["a"], "", "a\nb")))
        ),
        "mask": _json(
            lambda content, rng: content["shapes"][0].update(
                shape_type="mask", points=_POINTS[:2], mask=rng.choice((None, "x", "aGVsbG8=", 3))
            )
        ),
        "picture": _json(lambda content, rng: content.update(imagePath=rng.choice(("x.png", "../../x.png", None)))),
    },
)
_add(
    "label_studio",
    EVERY
    | {
        "brush": _json(
            lambda content, rng: content[0]["annotations"][0]["result"][0].update(
                value={"brushlabels": ["car"], "rle": rng.choice(([], [0] * 99, 10**9, [300], "x", [255] * 9))}
            )
        ),
        "two annotations": _json(lambda content, rng: content[0]["annotations"].append(content[0]["annotations"][0])),
        "task": _json(
            lambda content, rng: content[0].update(data=rng.choice(({}, None, {"a": "a.png", "b": "b.png"})))
        ),
    },
)
_add(
    "cvat",
    EVERY
    | {
        "entities": _swap(
            "<annotations>",
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>',
            '<!DOCTYPE a SYSTEM "http://localhost:1/a.dtd"><annotations>',
            '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotations>',
        ),
        "points": _swap('points="', 'points="x', 'points="nan,1;', 'p="', 'points="1;'),
        "attribute": _swap("z_order=", "z_order='x' z=", "z_order='1.5' z="),
        "size": _swap("width=", "width='7' w=", "w=", "width='-1' w="),
        "a track": _swap("<image", "<track/><image"),
        "deep": _swap("<image", "<a>" * 99 + "<image"),
    },
)
_add(
    "yolo",
    {
        "cut to boxes": lambda file, case: [one.write_text("0 .5 .5 .1 .1\n") for one in file.parent.glob("*.txt")],
        "row": lambda file, case: file.write_text(
            case.rng.choice(
                ("9 0 0 1 1 0 1", "x", "0 .1", "0 0 0 1 1 nan 1", "0 0 0 500 1 9 9", "\0\0", "0 0 0 1 1 0 1 1")
            )
        ),
        "names": lambda file, case: (file.parent.parent / "data.yaml").write_text(
            case.rng.choice(
                ("names: [a, a]", "names: x", "names: {5: a}", "names: [[a]]", "names: [car]\ntrain: nowhere")
            )
        ),
    },
)


def _annotations_that_are(spoil) -> Kind:
    def make(case: Case) -> list:
        data, file = _coco(case)
        spoil(file, case)
        return case.use_data(data, format="coco")

    return make


KINDS |= {f"coco {name}": _annotations_that_are(spoil) for name, spoil in NO_REGULAR_FILE.items()}
