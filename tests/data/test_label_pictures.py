"""What a pixel says, against loops over pixels, and the same wherever labels are read."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from made_pictures import encode, noise
from PIL import Image

from hf_urbanseg.data.decoded_cache import DecodedCache
from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.data.label_pictures import read_train_ids, read_values
from hf_urbanseg.data.label_space_files import parse_label_space
from hf_urbanseg.data.preflight.label_values import count_values, read_label
from hf_urbanseg.data.preprocessing import EvalDataset, TrainDataset
from hf_urbanseg.labels import LabelSpace

TRUE = np.random.default_rng(0).integers(0, 4, (14, 18))
TRAIN_IDS = np.array([0, 1, 2, 255], np.uint8)[TRUE]
COLORS = np.array([[128, 64, 128], [0, 0, 142], [0, 0, 70], [0, 0, 0]], np.uint8)
SPACE = {"name": "mine", "classes": [{"name": n, "color": c} for n, c in zip("abc", COLORS.tolist(), strict=False)]}
BY_COLOR = parse_label_space(SPACE | {"encoding": "color", "void": [[0, 0, 0]]})
FULL = np.full(TRUE.shape, 255, np.uint8)


def by_ids(*ids, **how) -> LabelSpace:
    return replace(BY_COLOR, label_ids=dict(zip(ids, (0, 1, 2, 255), strict=True)), **{"encoding": "ids"} | how)


def quantised() -> Image.Image:
    return Image.fromarray(COLORS[TRUE]).quantize(4)


def on_nothing() -> np.ndarray:
    """Void is where nothing is drawn, whatever colour lies there."""
    colors = np.where((TRUE == 3)[..., None], np.uint8(77), COLORS[TRUE])
    return np.dstack([colors, np.where(TRUE == 3, 0, FULL)])


def drawn(values, kind=np.uint16):
    return Image.fromarray(np.array(values, kind)[TRUE])


RGB_PARTS = np.array([[7, 0, 0], [1013 % 256, 1013 // 256, 0], [26005 % 256, 26005 // 256, 0], [1, 0, 0]], np.uint8)
CASES = {
    "rgb": (COLORS[TRUE], BY_COLOR),
    "rgba": (np.dstack([COLORS[TRUE], FULL]), BY_COLOR),
    "transparent void": (on_nothing(), BY_COLOR),
    "palette by its colours": (quantised(), BY_COLOR),
    "grey by its colours": (
        np.array([9, 200, 17, 0], np.uint8)[TRUE],
        replace(BY_COLOR, label_ids={0x090909: 0, 0xC8C8C8: 1, 0x111111: 2, 0: 255}),
    ),
    "255 is a class": (np.array([0, 255, 128, 7], np.uint8)[TRUE], by_ids(0, 255, 128, 7)),
    "16 bits": (drawn([1, 300, 65535, 0]), by_ids(1, 300, 65535, 0)),
    "32 bits": (encode(drawn([1, 70000, 9_999_999, 0], np.int32), "TIFF"), by_ids(1, 70000, 9_999_999, 0)),
    "1 bit": (TRUE == 3, replace(BY_COLOR, label_ids={0: 0, 1: 255}, encoding="ids")),
    "instance": (drawn([7, 26013, 24000, 1]), by_ids(7, 26, 24, 1, encoding="instance")),
    "instance in 32 bits": (
        encode(drawn([7, 26013, 240_000, 1], np.int32), "TIFF"), by_ids(7, 26, 240, 1, encoding="instance"),
    ),
    "panoptic": (RGB_PARTS[TRUE], by_ids(7, 1, 26, 255, encoding="instance")),
    "red": (np.dstack([np.array([0, 13, 2, 255], np.uint8)[TRUE], noise(1, TRUE.shape)[..., :2]]),
            by_ids(0, 13, 2, 255, encoding="red")),
}  # fmt: skip


def expected(case: str) -> np.ndarray:
    if case == "1 bit":
        return np.where(TRUE == 3, 255, 0)
    if case == "panoptic":  # the fourth is 1, as the second's class
        return np.where(TRUE == 3, 1, TRAIN_IDS)
    return TRAIN_IDS


@pytest.mark.parametrize("case", CASES)
def test_read_train_ids__every_encoding_and_reader(case):
    label, space = CASES[case]
    label = label if isinstance(label, bytes) else encode(label)
    image = encode(noise(0, TRUE.shape))
    rows = Dataset.from_dict({"image": [{"bytes": image, "path": None}], "label": [{"bytes": label, "path": None}],
                              "name": ["f0"]}, features=FEATURES)  # fmt: skip
    np.testing.assert_array_equal(read_train_ids(rows[0]["label"], space), expected(case))
    np.testing.assert_array_equal(DecodedCache(rows, space, [TRUE.shape])[0][1], expected(case))

    def processor(*args, **options):
        return {"pixel_values": [None]}

    np.testing.assert_array_equal(EvalDataset(rows, space, processor)[0]["labels"].numpy(), expected(case))
    seen = {}

    def transforms(image, mask):
        seen["mask"] = mask
        return {"image": image, "mask": mask, "extent": np.zeros(2, np.int64)}

    transforms.set_random_state = transforms.set_random_seed = lambda *seed: None
    TrainDataset(rows, space, transforms, 0)[0]
    np.testing.assert_array_equal(seen["mask"], expected(case))


@pytest.mark.parametrize("case", CASES)
def test_count_values__as_loops_over_pixels_find_them(case):
    label, space = CASES[case]
    picture = rows_picture(label)
    found = count_values(read_label(picture, 8, space, "f0"), space)
    by_train_id = {}
    for value, count in found.items():
        by_train_id[space.label_ids[value]] = by_train_id.get(space.label_ids[value], 0) + count
    values, counts = np.unique(expected(case), return_counts=True)
    assert by_train_id == dict(zip(values.tolist(), counts.tolist(), strict=True))


def rows_picture(label) -> Image.Image:
    picture = Image.open(io.BytesIO(label if isinstance(label, bytes) else encode(label)))
    picture.load()
    return picture


def test_read_values__a_picture_in_several_blocks():
    """What Pillow can't share is copied, to the same values."""
    large = Image.fromarray(COLORS[np.random.default_rng(0).integers(0, 4, (2100, 2100))])
    with pytest.raises(ValueError):
        pa.array(large)
    colors = np.asarray(large).astype(int)
    np.testing.assert_array_equal(read_values(large, "color"), colors @ [1, 256, 65536])


def test_count_values__unknown_ones_are_told_apart():
    colors = COLORS[TRUE]
    colors[0, :5] = [9, 8, 7]
    colors[1] = noise(3, (1, 18))[0]  # each of its own
    found = count_values(read_label(rows_picture(colors), 8, BY_COLOR, "f0"), BY_COLOR)
    assert found[9 | 8 << 8 | 7 << 16] == 5
    assert BY_COLOR.spell(9 | 8 << 8 | 7 << 16) == "(9, 8, 7)"
    assert sum(found.values()) == TRUE.size
    half = np.dstack([COLORS[TRUE], np.where(TRUE == 1, 100, FULL)])  # what colour an edge is, nobody knows
    values = count_values(read_label(rows_picture(half), 8, BY_COLOR, "f0"), BY_COLOR)
    (unknown,) = set(values) - set(BY_COLOR.label_ids)
    assert (BY_COLOR.spell(unknown), values[unknown]) == ("(0, 0, 142, 100)", (TRUE == 1).sum())


@pytest.mark.parametrize("quality", [75, 95])
def test_read_train_ids__lossy_files_have_the_nearest_class_or_void(quality):
    blocks = np.kron(TRUE[:4, :4], np.ones((32, 32), int))
    for space, values in (
        (replace(BY_COLOR, lossy=True), COLORS),
        (by_ids(0, 255, 128, 60, lossy=True), [0, 255, 128, 60]),
    ):
        picture = rows_picture(encode(np.array(values, np.uint8)[blocks], "JPEG", quality=quality))
        assert picture.format == "JPEG"
        found, right = read_train_ids(picture, space), np.array([0, 1, 2, 255], np.uint8)[blocks]
        assert ((found == right) | (found == 255)).all()
        assert (found == right).mean() > 0.7
        counts = count_values(read_label(picture, 8, space, "f0"), space)
        assert sum(counts.values()) == right.size
        assert counts[-1] < 0.3 * right.size
        train_ids = np.bincount(found.ravel(), minlength=256)
        assert {
            space.label_ids[v]: n for v, n in counts.items() if v >= 0 and v != next(reversed(space.label_ids))
        } == {t: train_ids[t] for t in range(3)}
