"""Layouts as people have them, each read to the same frames, classes and pixels."""

import json

import numpy as np
import pytest
from made_pictures import encode, noise

from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.errors import DataError

IDS = {name: np.random.default_rng(i).integers(0, 3, (4, 6), np.uint8) for i, name in enumerate("abcd")}
COLORS = np.array([[128, 64, 128], [10, 20, 30], [0, 0, 142]], np.uint8)
SPLIT = {"a": "train", "b": "train", "c": "val", "d": "test"}
NAMES = "road\nkerb\ncar\n"
BY_COLOR = {
    "label_colors.txt": "128 64 128\troad\n10 20 30\t\tkerb\n0 0 142 car\n",
    "class_dict.csv": "name,r,g,b\nroad,128,64,128\nkerb, 10, 20, 30\ncar,0,0,142\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nroad:128,64,128::\nkerb:10,20,30::\ncar:0,0,142::\n",
}
BY_ID = {
    "classes.txt": NAMES,
    "labels.txt": "__ignore__\n" + NAMES,
    "class_names.txt": "0: road\n1: kerb\n2: car",
    "id2label.json": '{"0": "road", "1": "kerb", "2": "car"}',
    "data.yaml": "names: [road, kerb, car]",
    "dataset.yaml": "names: {0: road, 1: kerb, 2: car}",
    "label_space.yaml": "classes: [{name: road}, {name: kerb}, {name: car}]",
}
# image file and label file of a frame, {s} its split and {n} its name
LAYOUTS = {
    "images/{n}.jpg": "masks/{n}.png",
    "Images/{n}.png": "Labels/{n}_label.png",
    "JPEGImages/{n}.jpg": "SegmentationClass/{n}.png",
    "{n}.jpg": "{n}_mask.png",
    "images/{n}_sat.jpg": "images/{n}_mask.png",
    "{s}/images/{n}.jpg": "{s}/annotations/{n}.png",
    "images/{s}/{n}.jpg": "masks/{s}/{n}.png",
    "img_dir/{s}/{n}.jpg": "ann_dir/{s}/{n}.png",
    "{s}/{n}.jpg": "{s}_labels/{n}_L.png",
    "{s}/{n}.png": "{s}annot/{n}.png",
    "{s}/{n}.tif": "{s}/{n}_gt.tif",
}


def write(root, images, labels, by_color=False, classes=("classes.txt", NAMES)):
    for name, ids in IDS.items():
        for pattern, content in ((images, noise(ord(name), (4, 6))), (labels, COLORS[ids] if by_color else ids)):
            path = root / pattern.format(s=SPLIT[name], n=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF"}[path.suffix]
            path.write_bytes(encode(content, kind))
    if classes:
        (root / classes[0]).write_text(classes[1])


def read(root, **options):
    data = load_data(data_dir=str(root), **{"test_fraction": 0, "validation_fraction": 0} | options)
    for rows in data.splits.values():
        for row in rows:
            (name,) = (name for name in IDS if name in row["name"])
            np.testing.assert_array_equal(read_train_ids(row["label"], data.label_space), IDS[name])
    return data


@pytest.mark.parametrize("images", LAYOUTS)
def test_load__layouts(tmp_path, images):
    write(tmp_path, images, LAYOUTS[images])
    data = read(tmp_path)
    assert data.label_space.names == ("road", "kerb", "car")
    splits = {split: list(rows["name"]) for split, rows in data.splits.items()}
    if "{s}" in images:
        assert splits == {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}
    else:
        assert splits == {"train": ["a", "b", "c", "d"]}


@pytest.mark.parametrize(("file", "text"), [*BY_COLOR.items(), *BY_ID.items()])
@pytest.mark.parametrize("by_color", [False, True])
def test_load__class_files(tmp_path, file, text, by_color):
    write(tmp_path, "images/{n}.png", "masks/{n}.png", by_color, (file, text))
    if by_color and file not in BY_COLOR:
        return  # the preflight refuses them
    data = read(tmp_path)
    assert data.label_space.names == ("road", "kerb", "car")
    assert data.label_space.encoding == ("color" if by_color else "ids")
    if file in BY_COLOR:
        assert data.label_space.colors == tuple(map(tuple, COLORS.tolist()))
        assert f"classes: of {file}, label files read as {'colours' if by_color else 'ids'}" in data.notes


def test_load__void_by_name_between_colours(tmp_path):
    """Which train ids the others have doesn't depend on where void stands."""
    write(tmp_path, "images/{n}.png", "masks/{n}.png", True, None)
    (tmp_path / "label_colors.txt").write_text("0 0 0 Void\n128 64 128 road\n10 20 30 kerb\n0 0 142 car\n")
    data = read(tmp_path)
    assert data.label_space.names == ("road", "kerb", "car")
    assert data.label_space.label_ids[0] == 255


def test_load__classes_in_words(tmp_path):
    write(tmp_path, "images/{n}.png", "masks/{n}.png", False, None)
    assert read(tmp_path, classes=["road", "kerb", "car"]).label_space.names == ("road", "kerb", "car")
    space = load_data(data_dir=str(tmp_path), classes=["1=kerb", "0=road", "255=car"]).label_space
    assert dict(space.label_ids) == {0: 0, 1: 1, 255: 2}
    for words, found in ((["0=road", "kerb"], "found 0=road kerb"), (["0=road", "0=kerb"], "found 0 again")):
        with pytest.raises(DataError, match=found):
            load_data(data_dir=str(tmp_path), classes=words)


def test_load__lists_of_voc_and_images_without_a_mask(tmp_path):
    write(tmp_path, "JPEGImages/{n}.jpg", "SegmentationClass/{n}.png", True, ("labelmap.txt", BY_COLOR["labelmap.txt"]))
    (tmp_path / "JPEGImages" / "z.jpg").write_bytes(encode(noise(9), "JPEG"))
    assert "all: 1 images without a label are left out" in read(tmp_path).notes
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, text in (("train", "a\nb\n"), ("val", "c"), ("trainval", "a\nb\nc")):
        (lists / f"{name}.txt").write_text(text)
    data = read(tmp_path)
    assert {split: list(rows["name"]) for split, rows in data.splits.items()} == {
        "train": ["a", "b"], "validation": ["c"]
    }  # fmt: skip
    (lists / "val.txt").write_text("c\nz")
    with pytest.raises(DataError, match=r"val\.txt: expected an image and a label for every name; found `z` and 0"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r": expected the classes, by `--classes` or in labelmap\.txt, .*; found none of them; see what the labels "
         r"hold by `urbanseg label-space --data_dir .*`, and write it with `--write`\."),
        ({"classes.txt": NAMES, "data.yaml": "names: [a]"}, "expected one file that lists the classes; found "
         "data.yaml, classes.txt; keep one"),
        ({"classes.txt": ""}, "expected a class name in every line; found no lines"),
        ({"classes.txt": "road\n1 2 3 car"}, "lines of one form; found `1 2 3 car` in line 2; write it as line 1"),
        ({"classes.txt": "0 road\n0 car"}, "expected every id once; found 0 again in line 2"),
        ({"label_colors.txt": "0 0 300 car"}, "expected colours of 0..255; found `0 0 300 car` in line 1"),
        ({"label_colors.txt": "0 0 3 car\n0 0 3 bus"}, "of its own for every class; found `0 0 3 bus` in line 2"),
        ({"data.yaml": "nc: 3"}, "expected `names`, a list or `id: name` pairs; found None"),
        ({"masks2/..": "", "labels/a.png": encode(IDS["a"])}, "one folder of labels; found masks and labels; keep one"),
        ({"masks/e.png": encode(IDS["a"])}, "expected an image named e"),
    ],
)  # fmt: skip
def test_load__refuses(tmp_path, files, message):
    write(tmp_path, "images/{n}.png", "masks/{n}.png", False, None)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if content or name.endswith("txt"):
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_load_data__masks_beside_annotations_of_a_tool(tmp_path):
    """Two formats in one folder: both are named, and the way to choose."""
    write(tmp_path, "images/{n}.jpg", "masks/{n}.png")
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}
    shape = {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 3]]}
    coco = {"images": [image], "annotations": [shape], "categories": [{"id": 1, "name": "car"}]}
    (tmp_path / "annotations.json").write_text(json.dumps(coco))
    with pytest.raises(DataError, match=r"expected annotations or masks; found both; .*: `--format masks`, or that of"):
        read(tmp_path)
    assert read(tmp_path, format="masks").label_space.names == ("road", "kerb", "car")
    drawn = load_data(data_dir=str(tmp_path), format="coco", test_fraction=0, validation_fraction=0)
    assert drawn.label_space.names == ("background", "car")
    with pytest.raises(DataError, match="expected folders of images and of masks, such as images/"):
        load_data(data_dir=str(tmp_path / "images"), format="masks")
