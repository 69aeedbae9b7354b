import struct
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from hf_urbanseg.commands import predict
from hf_urbanseg.errors import DataError
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    config = SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
        id2label=CITYSCAPES.id2label,
        label2id=CITYSCAPES.label2id,
    )
    network = SegformerForSemanticSegmentation(config)
    torch.nn.init.normal_(network.decode_head.classifier.weight, std=1.0)
    network.save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 64, "width": 96}).save_pretrained(folder)
    return folder


def _image(height=40, width=60, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@pytest.fixture
def run(model, tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder; returns exit status and the two streams."""
    monkeypatch.chdir(tmp_path)

    def run(*words, model=model):
        monkeypatch.setattr(sys, "argv", ["predict.py", "--model", str(model), *map(str, words)])
        try:
            predict.main()
            status = 0
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


def _refused(result, output, *parts):
    status, out, err = result
    assert status == 2
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert all(part in last for part in parts), last
    assert "Traceback" not in err
    assert not output.exists() or not list(output.iterdir())


def test_main__writes_three_pictures_of_native_size(run, model, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    _image(40, 60).save(frames / "a.png")
    _image(30, 90, seed=1).save(frames / "b.JPG", "JPEG")
    _image(50, 50, seed=2).save(tmp_path / "c.png")
    (frames / "notes.txt").write_text("not an image")
    status, out, _ = run("--input", frames, tmp_path / "c.png", "--batch_size", 2)
    assert (status, out) == (0, "predictions: train ids, colours and overlay for 3 images\n")
    names = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    assert names == sorted(f"{stem}_{kind}.png" for stem in "abc" for kind in ("train_id", "color", "overlay"))

    with Image.open(tmp_path / "predictions" / "a_train_id.png") as picture:
        assert picture.mode == "L"
        train_ids = np.array(picture)
    expected = Predictor.from_pretrained(model, "cpu").predict([_image(40, 60)])[0]
    assert (train_ids == expected).mean() > 0.999  # batches of other sizes may flip ties
    assert len(np.unique(train_ids)) > 1
    color = np.array(Image.open(tmp_path / "predictions" / "a_color.png"))
    np.testing.assert_array_equal(color, np.array(CITYSCAPES.colors, np.uint8)[train_ids])
    overlay = np.array(Image.open(tmp_path / "predictions" / "a_overlay.png"), float)
    assert np.abs(overlay - (color / 2 + np.array(_image(40, 60)) / 2)).max() <= 0.5
    assert Image.open(tmp_path / "predictions" / "b_train_id.png").size == (90, 30)


def test_main__applies_exif_orientation(run, tmp_path):
    image = _image(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    image.save(tmp_path / "turned.png", exif=exif)
    image.rotate(-90, expand=True).save(tmp_path / "upright.png")
    assert run("--input", "turned.png", "upright.png", "--batch_size", 1)[0] == 0
    turned, upright = (np.array(Image.open(f"predictions/{stem}_train_id.png")) for stem in ("turned", "upright"))
    assert turned.shape == (60, 40)
    np.testing.assert_array_equal(turned, upright)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_read_image__other_modes_become_rgb(tmp_path, mode):
    _image().convert(mode).save(tmp_path / "a.png")
    found = predict.read_image(tmp_path / "a.png")
    assert (found.mode, found.size) == ("RGB", (60, 40))
    np.testing.assert_array_equal(np.array(found), np.array(_image().convert(mode).convert("RGB")))


def _png_16_bit_rgb(path):
    """Pillow can't write one: header with bit depth 16 and colour type 2, rows of big-endian samples."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + bytes(4 * 6)) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _png_16_bit_grey(path):
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(path)


def _truncated(path):
    _image(200, 300).save(path)
    path.write_bytes(path.read_bytes()[:-3000])


def _truncated_jpeg(path):
    _image(200, 300).save(path, "JPEG", quality=95)
    path.write_bytes(path.read_bytes()[:-500])


def _flipped_bit(path):
    """A flip that decoding doesn't notice (about one in fifty)."""
    _image(200, 300).save(path)
    intact, rng = path.read_bytes(), np.random.default_rng(1)
    for _ in range(1000):
        content = bytearray(intact)
        content[rng.integers(100, len(content) - 100)] ^= 1 << rng.integers(8)
        try:
            if Image.open(BytesIO(content)).tobytes() != _image(200, 300).tobytes():
                return path.write_bytes(content)
        except (OSError, SyntaxError):
            continue
    raise AssertionError("no flip went unnoticed")


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("hello")


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (_png_16_bit_rgb, "expected 8 bits per channel; found mode RGB"),
        (_png_16_bit_grey, "expected 8 bits per channel; found mode I;16"),
        (_truncated, "expected a readable image"),
        (_truncated_jpeg, "expected a readable image"),
        (_flipped_bit, "expected a readable image"),
        (_empty, "expected a readable image"),
        (_text, "expected a readable image"),
    ],
)
def test_main__bad_image_stops_before_the_first_output(run, tmp_path, damage, part):
    frames = tmp_path / "frames"
    frames.mkdir()
    for stem in "abcde":
        _image().save(frames / f"{stem}.png")
    damage(frames / "z.png")
    _refused(run("--input", frames, "--batch_size", 1), tmp_path / "predictions", f"{frames / 'z.png'}: ", part)


def test_read_image__refuses_truncated_files_after_datasets_allowed_them(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    _truncated_jpeg(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: expected a readable image"):
        predict.read_image(tmp_path / "a.jpg")


def test_main__wrong_input_path(run, tmp_path):
    _refused(run("--input", "nowhere"), tmp_path / "predictions", "nowhere: expected an image or a folder of images")


def test_main__folder_without_images(run, tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a.txt").write_text("")
    _refused(run("--input", "frames"), tmp_path / "predictions", "frames: expected images (bmp,", "none in this folder")


def test_main__same_stem_twice(run, tmp_path):
    _image().save(tmp_path / "a.png")
    _image().save(tmp_path / "a.jpg")
    _refused(run("--input", "a.png", "a.jpg"), tmp_path / "predictions", "a.jpg: ", "also a.png", "rename one")


def test_main__same_file_twice_is_predicted_once(run, tmp_path):
    _image().save(tmp_path / "a.png")
    assert run("--input", "a.png", tmp_path / "a.png")[1].endswith("1 image\n")


def test_main__never_overwrites_an_input(run, tmp_path):
    _image().save(tmp_path / "a.png")
    _image(seed=1).save(tmp_path / "a_color.png")
    before = (tmp_path / "a_color.png").read_bytes()
    result = run("--input", "a.png", "a_color.png", "--output", ".")
    _refused(result, tmp_path / "predictions", "a_color.png: expected inputs that no result overwrites")
    assert (tmp_path / "a_color.png").read_bytes() == before
    assert not (tmp_path / "a_train_id.png").exists()


def test_main__wrong_model_path(run, tmp_path):
    _image().save(tmp_path / "a.png")
    _refused(run("--input", "a.png", model="/no/model"), tmp_path / "predictions", "/no/model: expected a model folder")


def test_main__output_is_a_file(run, tmp_path):
    _image().save(tmp_path / "a.png")
    (tmp_path / "taken").write_text("mine")
    _refused(run("--input", "a.png", "--output", "taken"), tmp_path / "predictions", "taken: expected a folder")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--batch_size", "0"], "`--batch_size` of at least 1; found 0"),
        (["--alpha", "1.5"], "`--alpha` in 0..1; found 1.5"),
        (["--device", "toaster"], "a `--device` of this machine; found toaster ("),
        (["--colour", "x"], "--colour"),
    ],
)
def test_main__bad_options(run, tmp_path, words, part):
    _image().save(tmp_path / "a.png")
    _refused(run("--input", "a.png", *words), tmp_path / "predictions", part)


def test_main__input_is_required(run, tmp_path):
    _refused(run(), tmp_path / "predictions", "--input")


def test_write_prediction__a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    old = tmp_path / "a_train_id.png"
    old.write_bytes(b"old")

    def save(self, path, format):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(DataError, match=r"a_train_id\.png: .*found No space left on device"):
        predict.write_prediction(tmp_path, "a", _image(4, 4), np.zeros((4, 4), np.uint8), CITYSCAPES, 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["a_train_id.png"]
    assert old.read_bytes() == b"old"
