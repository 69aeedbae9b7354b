"""One rule for every picture, held against OpenCV's reading and between training, measuring and predicting."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from made_pictures import encode, mask, noise, with_palette
from PIL import Image as PillowImage

import hf_urbanseg
from hf_urbanseg.data.decoded_cache import DecodedCache
from hf_urbanseg.data.preflight.pair_files import inspect_pair
from hf_urbanseg.data.preprocessing import EvalDataset, TrainDataset
from hf_urbanseg.data.rgb import convert_to_rgb, to_rgb
from hf_urbanseg.data.transforms import TrainTransforms
from hf_urbanseg.errors import DataError
from hf_urbanseg.inference.images import read_image, to_image
from hf_urbanseg.labels import CITYSCAPES, LabelSpace
from hf_urbanseg.models.build import build_image_processor

SIZE = (20, 30)
DEEP = np.random.default_rng(1).integers(0, 1 << 16, (*SIZE, 3), np.uint16)
SPACE = LabelSpace("three", ("a", "b", "c"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)), {0: 0, 1: 1, 2: 2})


def encode_deep(values, kind=".png") -> bytes:
    return cv2.imencode(kind, values)[1].tobytes()


def opened(content) -> PillowImage.Image:
    return PillowImage.open(io.BytesIO(content))


def turned(pixels, kind="PNG") -> bytes:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    return encode(pixels, kind, exif=exif.tobytes())


def with_alpha(seed=2) -> np.ndarray:
    return noise(seed, channels=(4,))


KINDS = {
    "grey": encode(noise(channels=())),
    "palette": encode(with_palette(noise(channels=()))),
    "1 bit": encode(PillowImage.fromarray(noise()).convert("1")),
    "opaque": encode(np.dstack([noise(), np.full(SIZE, 255, np.uint8)])),
    "transparent": encode(with_alpha()),
    "one transparent colour": encode(with_palette(noise(channels=())), transparency=7),
    "cmyk": encode(PillowImage.fromarray(noise()).convert("CMYK"), "JPEG"),
    "16-bit grey": encode_deep(DEEP[..., 0]),
    "16-bit rgb": encode_deep(DEEP),
    "16-bit tiff": encode_deep(DEEP, ".tiff"),
    "tiff": encode(noise(), "TIFF", compression="tiff_lzw"),
    "webp": encode(noise(), "WEBP", lossless=True),
    "heic": encode(noise(), "HEIF", quality=90),
    "turned": turned(noise(size=SIZE[::-1])),
    "turned heic": turned(noise(size=SIZE[::-1]), "HEIF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_to_rgb__the_same_pixels_in_training_measuring_and_predicting(tmp_path, kind):
    path, label = tmp_path / "a", tmp_path / "a.png"
    path.write_bytes(KINDS[kind])
    label.write_bytes(turned(mask(size=SIZE[::-1])) if kind == "turned" else encode(mask()))
    stored = {role: {"path": str(one), "bytes": None} for role, one in (("image", path), ("label", label))}
    assert inspect_pair("train", {"name": "a", **stored}, CITYSCAPES).size == SIZE
    rows = Dataset.from_dict({"image": [str(path)], "label": [str(label)], "name": ["a"]})
    rows = rows.cast_column("image", Image()).cast_column("label", Image())
    expected = np.asarray(read_image(path).picture)
    cache, keep = DecodedCache(rows, SPACE, [SIZE]), TrainTransforms([], SIZE)
    np.testing.assert_array_equal(cache[0][0], expected)
    for given in (None, cache):
        pixels = TrainDataset(rows, SPACE, keep, 0, given)[0, 0]["pixel_values"]
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)
    processor = build_image_processor((32, 64))
    (view,) = EvalDataset(rows, SPACE, processor)[0]["views"]
    assert torch.equal(view, processor(PillowImage.fromarray(expected), return_tensors="pt")["pixel_values"][0])
    np.testing.assert_array_equal(np.asarray(to_image(path)), expected)
    if "turned" not in kind:
        np.testing.assert_array_equal(np.asarray(to_image(opened(KINDS[kind]))), expected)


def test_to_rgb__has_no_rival_in_the_package():
    root = Path(hf_urbanseg.__file__).parent
    found = {str(path.relative_to(root)) for path in root.rglob("*.py") if '.convert("RGB")' in path.read_text()}
    assert found == {"data/rgb.py", "data/label_pictures.py", "reports/data_pages.py"}  # of labels and of a chart


@pytest.mark.parametrize("kind", ["16-bit grey", "16-bit rgb", "16-bit tiff"])
def test_convert_to_rgb__of_16_bits_the_upper_8(kind):
    found, note = convert_to_rgb(opened(KINDS[kind]))
    values = cv2.imdecode(np.frombuffer(KINDS[kind], np.uint8), cv2.IMREAD_UNCHANGED) >> 8
    values = values[..., ::-1] if values.ndim == 3 else np.stack([values] * 3, -1)
    np.testing.assert_array_equal(np.asarray(found), values)
    assert note == "16 bits per channel, of which the upper 8 are used"


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (opened(encode_deep(DEEP >> 4)), "16 bits and no value above 4095"),
        (opened(encode_deep(DEEP[..., 0] >> 2)), "16 bits and no value above 16383"),
        (opened(encode_deep(DEEP[..., 0] >> 8)), "16 bits and no value above 255"),
        (PillowImage.fromarray(DEEP[..., 0] >> 6), "16 bits and no value above 1023"),
        (PillowImage.fromarray(np.array([[-3, 4095]], np.int32)), "values -3..4095 of mode I"),
        (PillowImage.fromarray(np.array([[0, 0.5]], np.float32)), "values 0..0.5 of mode F"),
        (PillowImage.new("LAB", (4, 4)), "mode LAB"),
        (PillowImage.new("HSV", (4, 4)), "mode HSV"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_convert_to_rgb__values_whose_white_is_unknown(picture, found):
    with pytest.raises(DataError, match=rf"expected .*; found {found}; ") as caught:
        to_image(picture)
    assert "\n" not in str(caught.value)


def test_convert_to_rgb__transparent_pixels_on_black():
    pixels = with_alpha()
    pixels[..., 3] = np.random.default_rng(3).choice([0, 51, 255], SIZE)
    found, note = convert_to_rgb(PillowImage.fromarray(pixels))
    expected = pixels[..., :3] * (pixels[..., 3:] / 255)
    assert np.abs(np.asarray(found) - expected).max() <= 1
    assert note == "transparent pixels, laid on black (a fourth band needs `--channels 4`)"
    below = np.where(pixels[..., 3:] == 0, noise(4, channels=(4,)), pixels)
    below[..., 3] = pixels[..., 3]
    np.testing.assert_array_equal(np.asarray(to_rgb(PillowImage.fromarray(below))), np.asarray(found))


def test_convert_to_rgb__an_alpha_that_says_nothing_is_dropped():
    pixels = noise()
    found = convert_to_rgb(PillowImage.fromarray(np.dstack([pixels, np.full(SIZE, 255, np.uint8)])))
    np.testing.assert_array_equal(np.asarray(found.picture), pixels)
    assert found.note == ""


def test_convert_to_rgb__cmyk_as_opencv_reads_it():
    smooth = np.stack(np.meshgrid(np.arange(0, 240, 8), np.arange(0, 160, 8), 90), -1)[:, :, 0]
    content = encode(PillowImage.fromarray(smooth.astype(np.uint8)).convert("CMYK"), "JPEG", quality=95)
    theirs = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    ours = np.asarray(to_rgb(opened(content)))
    assert np.abs(ours - theirs).max() <= 2
    assert np.abs(ours - smooth).mean() < 5


def test_convert_to_rgb__rgb_stays_the_picture_it_is():
    picture = PillowImage.fromarray(noise())
    assert to_rgb(picture) is picture
