"""Each kind of bad file is made by hand and its message read in full."""

import io
import struct
import zlib
from dataclasses import replace

import made_pictures
import numpy as np
import pytest
from made_pictures import encode, with_palette
from PIL import Image

from hf_urbanseg.data.preflight.pair_files import inspect_pair, strict_pillow
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES

HEIGHT, WIDTH = 12, 16
LABEL = np.full((HEIGHT, WIDTH), 7, np.uint8)
LABEL[0, :5] = 26
LABEL[1, :3] = 0
BIG_LABEL = LABEL.repeat(6, 0).repeat(6, 1)


def noise(height=HEIGHT, width=WIDTH, channels=3):
    return made_pictures.noise(0, (height, width), (channels,)).squeeze()


def make_png(bits, color_type, rows):
    """PNG kinds that Pillow reads but doesn't write; `rows` are the packed bytes of each row."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    width = len(rows[0]) * 8 // (bits * {0: 1, 2: 3}[color_type])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\x00" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


@pytest.fixture
def inspect(tmp_path):
    """Writes both files as f0_image and f0_label and inspects them; arrays and pictures become PNG."""

    def run(image=None, label=LABEL, **how):
        stored = {}
        for role, content in (("image", noise() if image is None else image), ("label", label)):
            path = tmp_path / f"f0_{role}"
            path.write_bytes(content if isinstance(content, bytes) else encode(content))
            stored[role] = {"path": str(path), "bytes": None}
        with strict_pillow():
            return inspect_pair("train", {"name": "f0", **stored}, replace(CITYSCAPES, **how))

    return run


@pytest.fixture
def refusal(inspect, tmp_path):
    """The error about a pair, without the folder in front of the file names."""

    def run(**files):
        with pytest.raises(DataError) as caught:
            inspect(**files)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path}/")
        assert "\n" not in message
        return message.replace(f"{tmp_path}/", "")

    return run


# Sound pairs


def test_inspect_pair__counts_and_size(inspect):
    found = inspect()
    assert (found.name, found.size) == ("f0", (12, 16))
    assert found.label_counts == {0: 3, 7: 184, 26: 5}


def test_inspect_pair__palette_label_keeps_indices(inspect):
    palette = encode(with_palette(LABEL))
    assert Image.open(io.BytesIO(palette)).mode == "P"
    assert inspect(label=palette).label_counts == {0: 3, 7: 184, 26: 5}


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_inspect_pair__small_palette_label_keeps_indices(inspect, bits):
    palette = Image.new("P", (WIDTH, HEIGHT))
    palette.putdata([1] * 10 + [0] * (WIDTH * HEIGHT - 10))
    palette.putpalette([9, 9, 9, 200, 200, 200])
    assert inspect(label=encode(palette, bits=bits)).label_counts == {0: 182, 1: 10}


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA"])
def test_inspect_pair__lossless_image_modes_are_accepted(inspect, mode):
    found = inspect(image=Image.fromarray(noise()).convert(mode))
    assert (found.size, found.note) == ((12, 16), "")


def test_inspect_pair__what_was_done_to_an_image_is_noted(inspect):
    assert (
        inspect(image=np.full((HEIGHT, WIDTH, 4), 254, np.uint8)).note
        == "transparent pixels, laid on black (a fourth band needs `--channels 4`)"
    )
    deep = make_png(16, 2, [b"\xff\xf0" * 3 * WIDTH] * HEIGHT)
    assert inspect(image=deep).note == "16 bits per channel, of which the upper 8 are used"


def test_inspect_pair__digest_is_of_pixels_not_of_files(inspect):
    grey = noise(channels=1)
    digest = inspect(image=grey).image_digest
    assert inspect(image=encode(np.stack([grey] * 3, -1), "BMP")).image_digest == digest
    changed = grey.copy()
    changed[-1, -1] ^= 1
    assert inspect(image=changed).image_digest != digest
    turned = grey.reshape(WIDTH, HEIGHT)  # the same bytes in another shape
    assert inspect(image=turned, label=np.ascontiguousarray(LABEL.T)).image_digest != digest


def test_inspect_pair__orientation_on_both_gives_the_turned_size(inspect):
    turned = with_orientation(6)
    assert inspect(image=encode(noise(), "JPEG", **turned), label=encode(LABEL, **turned)).size == (16, 12)


def test_inspect_pair__orientation_upright_equals_none(inspect):
    assert inspect(image=encode(noise(), "JPEG", **with_orientation(1))).size == (12, 16)


# Files that can't be read


@pytest.mark.parametrize("role", ["image", "label"])
@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_inspect_pair__truncated_png(refusal, role, keep):
    files = {"image": encode(noise(72, 96)), "label": encode(BIG_LABEL)}
    files[role] = files[role][: int(len(files[role]) * keep)]
    message = refusal(**files)
    assert message.startswith(f"f0_{role}: expected a readable {role} file; found a truncated or damaged file (")
    assert message.endswith("; fetch the file again or leave it out.")


@pytest.mark.parametrize("cut", [1, 4, 12, 13, 20])
def test_inspect_pair__png_without_its_last_bytes(refusal, cut):
    assert refusal(label=encode(LABEL)[:-cut]).startswith("f0_label: expected a readable label file; found a truncated")


def test_inspect_pair__flipped_bits_in_a_png_are_noticed(refusal):
    sound = encode(BIG_LABEL)
    for position in range(41, len(sound) - 16):
        damaged = bytearray(sound)
        damaged[position] ^= 4
        assert "f0_label: expected a readable label file" in refusal(image=noise(72, 96), label=bytes(damaged))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_inspect_pair__truncated_jpeg(refusal, keep, progressive):
    content = encode(noise(72, 96), "JPEG", progressive=progressive)
    message = refusal(image=content[: int(len(content) * keep)], label=BIG_LABEL)
    assert message.startswith("f0_image: expected a readable image file; found a truncated or damaged file (OSError: ")


@pytest.mark.parametrize("role", ["image", "label"])
@pytest.mark.parametrize(
    ("content", "found"),
    [(b"", "an empty file (0 bytes)"), (b"<html>404</html>", "no picture that Pillow recognises")],
)
def test_inspect_pair__no_picture_in_the_file(refusal, role, content, found):
    assert refusal(**{role: content}) == (
        f"f0_{role}: expected a readable {role} file; found {found}; fetch the file again or leave it out."
    )


def test_inspect_pair__empty_cell():
    sound = {"path": None, "bytes": encode(noise())}
    for nothing in (None, {"path": None, "bytes": None}):
        with pytest.raises(DataError, match=r"^train/f0: expected an image and a label .* a label here; found none; "):
            inspect_pair("train", {"name": "f0", "image": sound, "label": nothing}, CITYSCAPES)


# Files of the wrong kind


CLEAR = np.dstack([*[LABEL] * 3, np.where(LABEL, 255, 7).astype(np.uint8)])
COLORS = np.dstack([LABEL, LABEL, LABEL + 1])


@pytest.mark.parametrize(
    ("label", "how", "message"),
    [
        (COLORS, {}, "expected a label of ids, in one channel or in equal ones; found colours; use the file of label "
         "ids, or say `encoding: color` in the label space and list the colours there."),
        (CLEAR, {}, "expected a label without transparent pixels; found transparent pixels (alpha down to 7); "
         "flatten it, or leave the alpha out."),
        (encode(LABEL + np.float32(0.5), "TIFF"), {}, "expected a label of whole numbers (`encoding: ids`); found "
         "fractions; export the label as PNG of ids, or say in the label space what it holds."),
        (encode(Image.fromarray(noise()).convert("CMYK"), "TIFF"), {}, "expected a label of ids in grey, in a "
         "palette's indices or in three equal channels (`encoding: ids`); found 4 channels (mode CMYK); export the "
         "label as PNG of ids, or say in the label space what it holds."),
        (LABEL, {"encoding": "red"}, "expected a label of three channels of 8 bits (`encoding: red`); found 1 channels "
         "(mode L); export the label as PNG of ids, or say in the label space what it holds."),
        (LABEL.astype(np.uint16), {"encoding": "color"}, "expected a label of colours or grey of 8 bits (`encoding: "
         "color`); found 1 channels (mode I;16); export the label as PNG of ids, or say in the label space what it "
         "holds."),
    ],
)  # fmt: skip
def test_inspect_pair__label_of_another_kind(refusal, label, how, message):
    assert refusal(label=label, **how) == f"f0_label: {message}"


# Every way to write the same ids


def grey_of(bits):
    return {8: LABEL, 16: LABEL.astype(np.uint16), 32: encode(LABEL.astype(np.int32), "TIFF")}[bits]


@pytest.mark.parametrize(
    "label",
    [LABEL, grey_of(16), grey_of(32), encode(LABEL.astype(np.float32), "TIFF"), np.dstack([LABEL] * 3),
     np.dstack([*[LABEL] * 3, np.full_like(LABEL, 255)]), encode(with_palette(LABEL))],
    ids=["8 bits", "16 bits", "32 bits", "float", "three channels", "four channels", "palette"],
)  # fmt: skip
def test_inspect_pair__ids_in_every_mode(inspect, label):
    assert inspect(label=label).label_counts == {0: 3, 7: 184, 26: 5}


@pytest.mark.parametrize(
    ("label", "found"),
    [
        (encode(LABEL, "JPEG"), "JPEG"),
        (encode(LABEL, "TIFF", compression="jpeg"), "a TIFF with jpeg inside"),
        (encode(LABEL, "WEBP"), "a lossy WebP"),
        (encode(LABEL, "HEIF"), "HEIF"),
    ],
    ids=["jpeg", "tiff", "webp", "heif"],
)
def test_inspect_pair__label_that_compression_has_altered(refusal, label, found):
    assert refusal(label=label) == (
        f"f0_label: expected a label file without lossy compression; found {found}, whose compression makes other ids "
        "of label ids; export the label anew as PNG, or say `lossy: true` in the label space."
    )


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
def test_inspect_pair__lossless_tiff_labels_are_accepted(inspect, compression):
    found = inspect(label=encode(LABEL, "TIFF", compression=compression))
    assert found.label_counts == {0: 3, 7: 184, 26: 5}


def test_inspect_pair__four_bit_grey_label_would_be_stretched(refusal):
    content = make_png(4, 0, [b"\x77" * (WIDTH // 2)] * HEIGHT)
    assert np.unique(np.asarray(Image.open(io.BytesIO(content)))).tolist() == [7 * 17]
    assert "found 4-bit grey (mode L); save the label ids as 8-bit PNG" in refusal(label=content)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (noise(channels=1).astype(np.uint16), "16 bits and no value above 255"),
        (make_png(16, 2, [b"\x0f\xff" * 3 * WIDTH] * HEIGHT), "16 bits and no value above 4095"),
        (encode(noise().astype(np.float32)[..., 0], "TIFF"), "values 0..254 of mode F"),
    ],
    ids=["16 bits", "16-bit rgb", "float"],
)
def test_inspect_pair__image_whose_white_is_unknown(refusal, image, found):
    message = refusal(image=image)
    assert message.startswith("f0_image: expected 8 ")
    assert f"found {found};" in message


# Pairs that don't fit


def test_inspect_pair__sizes_differ(refusal):
    assert refusal(label=np.ascontiguousarray(LABEL[:, :-1])) == (
        "f0_label: expected a label as large as its image f0_image, 12x16 (height x width); found 12x15; "
        "pair the files that belong together, or resize the label with nearest-neighbour interpolation."
    )


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("on", ["image", "label"])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_inspect_pair__orientation_on_one_of_a_pair(refusal, orientation, on, image_format):
    options = {"image": {}, "label": {}, on: with_orientation(orientation)}
    message = refusal(image=encode(noise(), image_format, **options["image"]), label=encode(LABEL, **options["label"]))
    image, label = (orientation, 1) if on == "image" else (1, orientation)
    assert message == (
        f"f0_{on}: expected the same EXIF orientation in an image and its label; found {image} in the image and "
        f"{label} in the label (1 is upright); store the pixels upright in both files and remove the tag."
    )


def test_inspect_pair__orientation_that_would_make_sizes_agree(refusal):
    """Turned by a quarter, image and label are equally large, and the direction still is a guess."""
    image = encode(noise(), "JPEG", **with_orientation(6))
    assert refusal(image=image, label=np.ascontiguousarray(LABEL.T)).startswith("f0_image: expected the same EXIF")
