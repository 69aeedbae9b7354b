"""Every shipped label space, on folders as it describes them; ids as the sets' own tools have them."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from cityscapesscripts.helpers import labels as official
from made_pictures import noise, write_flat, write_pair
from PIL import Image

from hf_urbanseg.data.image_files import pair_patterns
from hf_urbanseg.data.label_space_files import read_label_space, shipped_label_spaces
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.sources.described_folders import recognise_set
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import IGNORE_INDEX, unpack_color

CAMVID = {"train": ["0006R0_f00930", "0016E5_08640"], "validation": ["0016E5_07959", "0016E5_08159"],
          "test": ["0001TP_008550", "Seq05VD_f00000"]}  # fmt: skip
NAMES = {
    "camvid_colors": CAMVID,
    "camvid_11_colors": CAMVID,
    "camvid_suite": {"train": ["0001TP_006690", "0001TP_006720"]},
}
AS_CITYSCAPES = {"acdc", "bdd100k", "bdd100k_seg", "idd_as_cityscapes", "kitti_step", "kitti_step_image_02"}
seeds = itertools.count()


def fill(pattern, word):
    return pattern.replace("*", word)


def draw(space):
    """A label picture in which the n-th value of the label space has n pixels, and those pixels by class name."""
    values = [value for n, value in enumerate(space.label_ids, 1) for _ in range(n)]
    if space.encoding == "ids":
        pixels = np.array([values], np.uint8)
    else:  # instances in green and blue, where only red counts
        rest = np.random.default_rng(0).integers(0, 256, (len(values), 2)).tolist()
        in_red = [(value, *pair) for value, pair in zip(values, rest, strict=True)]
        pixels = np.array([in_red if space.encoding == "red" else [unpack_color(value) for value in values]], np.uint8)
    named = [train_id for train_id in map(space.label_ids.get, values) if train_id != IGNORE_INDEX]
    return pixels, Counter(space.names[train_id] for train_id in named)


def build(root, name):
    """Two frames in each folder of the description, two folders for every star; how many that are."""
    space, folders = read_label_space(name)
    pixels, _ = draw(space)
    written = 0
    for split, pair in folders.get("splits", {"all": folders}).items():
        words = [f"{split}{n}" for n in "ab"] if "*" in pair["images"] else [""]
        for word in words:
            for frame in NAMES.get(name, {}).get(split, ["000000", "000001"]):
                image = root / fill(pair["images"], word) / f"{frame}{fill(folders.get('image_suffix', ''), 'x')}.png"
                label = root / fill(pair["labels"], word) / f"{frame}{fill(folders.get('label_suffix', ''), 'x')}.png"
                for file, content in ((image, noise(next(seeds), pixels.shape[:2])), (label, pixels)):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(content).save(file)
                written += 1
    for path in folders.get("recognised_by", ()):
        if "*" not in path and not (root / path).exists():
            (root / path).touch() if path.endswith(".json") else (root / path).mkdir()
    return written


@pytest.mark.parametrize("name", shipped_label_spaces())
def test_known_set__is_recognised_and_read(name, tmp_path):
    written = build(tmp_path, name)
    space, folders = read_label_space(name)
    _, drawn = draw(space)
    assert len(drawn) == sum(train_id in space.label_ids.values() for train_id in range(space.num_labels))
    for asked in (name, None) if "recognised_by" in folders else (name,):
        loaded = load_data(data_dir=str(tmp_path), label_space=asked, validation_fraction=0)
        assert (loaded.name, loaded.label_space) == (name, space)
        assert any(note.startswith(f"{name}: recognised by its ") for note in loaded.notes) == (asked is None)
        found = inspect_pairs(loaded.splits, loaded.label_space, progress=False)
        counts = sum(found.train_id_counts(split, space).sum(0) for split in loaded.splits)
        expected = [written * drawn[class_name] for class_name in space.names]
        assert counts.tolist() == expected
        assert set(loaded.splits) == set(folders.get("splits", ("train", "test")))
        if "*" in folders.get("images", ""):  # drives stay whole where they are cut
            drives = [{row.split("_")[0] for row in rows["name"]} for rows in loaded.splits.values()]
            assert drives[0].isdisjoint(drives[1])


DRIVE, RECORDING = "2013_05_28_drive_0000_sync/image_00", "20180807145028"


@pytest.mark.parametrize(
    ("name", "image", "label", "others"),
    [  # Files as the sets have them, from their tools and pages.
        ("acdc", "rgb_anon/fog/train/GOPR0475/GOPR0475_frame_000247_rgb_anon.png",
         "gt/fog/train/GOPR0475/GOPR0475_frame_000247_gt_labelTrainIds.png",
         "gt/fog/train/GOPR0475/GOPR0475_frame_000247_gt_labelIds.png rgb_anon/fog/train_ref/GOPR0475/a.png"),
        ("bdd100k", "images/10k/train/0a0a0b1a-7c39d841.jpg", "labels/sem_seg/masks/train/0a0a0b1a-7c39d841.png",
         "labels/sem_seg/colormaps/train/0a0a0b1a-7c39d841.png"),
        ("bdd100k_seg", "seg/images/train/0a0a0b1a-7c39d841.jpg", "seg/labels/train/0a0a0b1a-7c39d841_train_id.png",
         ""),
        ("idd", "leftImg8bit/train/0/frame0000_leftImg8bit.png",
         "gtFine/train/0/frame0000_gtFine_labellevel3Ids.png", "gtFine/train/0/frame0000_gtFine_polygons.json"),
        ("idd_as_cityscapes", "leftImg8bit/train/0/frame0000_leftImg8bit.jpg",
         "gtFine/train/0/frame0000_gtFine_labelcsTrainIds.png", ""),
        ("a2d2", f"20180807_145028/camera/cam_front_center/{RECORDING}_camera_frontcenter_000001617.png",
         f"20180807_145028/label/cam_front_center/{RECORDING}_label_frontcenter_000001617.png",
         f"class_list.json 20180807_145028/camera/cam_front_center/{RECORDING}_camera_frontcenter_000001617.json "
         f"20180807_145028/label/cam_rear_center/{RECORDING}_label_rearcenter_000001617.png"),
        ("kitti_step", "images/train/0000/000000.png", "panoptic_maps/train/0000/000000.png", ""),
        ("kitti_step_image_02", "training/image_02/0000/000000.png", "panoptic_maps/train/0000/000000.png",
         "training/image_02/0002/000000.png"),
        ("kitti_360", f"data_2d_raw/{DRIVE}/data_rect/0000000250.png",
         f"data_2d_semantics/train/{DRIVE}/semantic/0000000250.png",
         f"data_2d_raw/{DRIVE}/data_rect/0000000000.png data_2d_semantics/train/{DRIVE}/instance/0000000250.png"),
        ("vistas", "training/images/-0C1J9CvgFP4BTVLXNeNZA.jpg", "training/labels/-0C1J9CvgFP4BTVLXNeNZA.png",
         "config.json training/instances/-0C1J9CvgFP4BTVLXNeNZA.png"),
        ("vistas_v2", "training/images/-0C1J9CvgFP4BTVLXNeNZA.jpg", "training/v2.0/labels/-0C1J9CvgFP4BTVLXNeNZA.png",
         "config_v1.2.json config_v2.0.json training/v1.2/labels/-0C1J9CvgFP4BTVLXNeNZA.png"),
        ("camvid_colors", "701_StillsRaw_full/0001TP_006690.png", "LabeledApproved_full/0001TP_006690_L.png", ""),
        ("camvid_suite", "train/0001TP_006690.png", "train_labels/0001TP_006690_L.png",
         "val_labels/0001TP_006870_L.png"),
    ],
)  # fmt: skip
def test_known_set__finds_the_files_of_its_publishers(name, image, label, others, tmp_path):
    for file in (image, label, *others.split()):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert recognise_set(tmp_path) == name
    _, folders = read_label_space(name)
    pair = folders["splits"]["train"] if "splits" in folders else folders
    options = {key: folders[key] for key in ("image_suffix", "label_suffix", "unlabelled_images") if key in folders}
    (group,) = pair_patterns(tmp_path, pair["images"], pair["labels"], **options)
    assert list(group.values()) == [(tmp_path / image, tmp_path / label)]
    assert all(re.fullmatch(pair.get("names", ".*"), frame) for frame in group)


@pytest.mark.parametrize(
    ("name", "values"),
    [  # Written down from the sets' own tools.
        ("vistas", {0: "Bird", 13: "Road", 23: "Lane Marking - Crosswalk", 55: "Car", 64: "Ego Vehicle", 65: None}),
        ("vistas_as_cityscapes", {13: "road", 41: "road", 2: "sidewalk", 22: "rider", 58: "train", 52: "bicycle",
                                  23: None, 56: None}),
        ("vistas_v2_as_cityscapes", {13: "road", 55: "car", 65: None}),
        ("vistas_v2", {21: "Road", 61: "Sky", 91: "Traffic Light - Pedestrians", 108: "Car", 115: None, 123: None}),
        ("idd", {0: "road", 8: "autorickshaw", 9: "car", 13: "curb", 18: "traffic sign", 19: "traffic light",
                 24: "vegetation", 255: None}),
        ("wilddash2", {7: "road", 26: "car", 34: "pickup", 35: "van", 37: "street light", 38: "road marking", 9: None}),
        ("wilddash2_as_cityscapes", {26: "car", 31: "train", 34: "truck", 35: "car", 38: "road", 58: "motorcycle",
                                     18: None, 37: None}),
        ("kitti_360", {34: "building", 35: "fence", 37: "pole", 26: "car", 29: None, 38: None, 44: None, 255: None}),
        ("a2d2", {(255, 0, 0): "Car", (128, 0, 0): "Car", (255, 0, 255): "RD normal street", (135, 206, 255): "Sky",
                  (90, 30, 1): "Bicycle", (0, 0, 0): "unknown"}),
        ("camvid_colors", {(192, 0, 192): "MotorcycleScooter", (0, 0, 192): "Sidewalk", (0, 0, 0): None}),
        ("camvid_11_colors", {(192, 0, 192): "bicyclist", (128, 0, 192): "road", (0, 64, 64): "sign",
                              (64, 192, 128): "pavement", (0, 0, 0): None}),
    ],
)  # fmt: skip
def test_known_set__ids_and_colours_of_its_own_tools(name, values):
    space, _ = read_label_space(name)
    names = dict(enumerate(space.names)) | {IGNORE_INDEX: None}
    said = {space.spell(value): names[train_id] for value, train_id in space.label_ids.items()}
    assert space.encoding == ("ids" if isinstance(next(iter(values)), int) else "color")
    assert {value: said.get(str(value), "unknown") for value in values} == values


def test_known_set__cityscapes_ids_where_it_says_so():
    counted = {label.trainId: label.name for label in official.labels if label.trainId not in (-1, 255)} | {255: None}
    for name in AS_CITYSCAPES:
        space, _ = read_label_space(name)
        names = dict(enumerate(space.names))
        assert {value: names.get(train_id) for value, train_id in space.label_ids.items()} == counted
        assert space.encoding == ("red" if name.startswith("kitti_step") else "ids")
    ids, _ = read_label_space("kitti_360")
    theirs = {label.id: label.trainId for label in official.labels if label.id >= 0}
    assert {value: train_id for value, train_id in ids.label_ids.items() if value <= 33} == theirs


def test_recognise_set__idd_with_both_kinds_of_labels_and_cityscapes(tmp_path):
    """The three have the same folders."""
    frame, labels = "frame0000_gtFine", tmp_path / "gtFine" / "train" / "0"
    write_flat(tmp_path / "leftImg8bit" / "train" / "0" / "frame0000_leftImg8bit.jpg", (4, 6, 3))
    write_flat(labels / f"{frame}_labelIds.png", value=7)
    assert load_data(data_dir=str(tmp_path), validation_fraction=0).name == "cityscapes"
    write_flat(labels / f"{frame}_labellevel3Ids.png")
    write_flat(labels / f"{frame}_labelcsTrainIds.png")
    with pytest.raises(DataError, match="those of idd and idd_as_cityscapes; say which by `--label_space`"):
        load_data(data_dir=str(tmp_path))


def test_recognise_set__other_classes_than_its_own(tmp_path):
    for split in ("train", "val"):
        write_pair(tmp_path / f"images/10k/{split}", tmp_path / f"labels/sem_seg/masks/{split}", "a", 1)
    (tmp_path / "two.json").write_text('{"0": "a", "1": "b"}')
    loaded = load_data(data_dir=str(tmp_path), label_space=str(tmp_path / "two.json"), validation_fraction=0)
    assert (loaded.name, loaded.label_space.names) == ("bdd100k", ("a", "b"))
    assert loaded.notes[0].startswith("bdd100k: recognised by its images/10k and labels/sem_seg/masks; `--label_space`")
    assert loaded.notes[1].startswith("BDD100K: the official val frames are our test")
