import json
import os
import shutil
import struct
import sys
import zlib
from fractions import Fraction
from io import BytesIO
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from hf_urbanseg.commands import predict
from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.label_space_files import parse_label_space
from hf_urbanseg.data.video import VideoFrame, VideoInfo, inspect_video, open_video_writer, read_frames
from hf_urbanseg.errors import DataError
from hf_urbanseg.inference.images import read_image
from hf_urbanseg.inference.plan import PredictionPlan
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.palettes import COLORBLIND
from hf_urbanseg.reports.overlays import blend
from hf_urbanseg.reports.prediction_files import write_prediction
from hf_urbanseg.reports.prediction_video import draw_rate

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
    assert np.abs(overlay[:40] - (color / 2 + np.array(_image(40, 60)) / 2)).max() <= 0.5
    assert Image.open(tmp_path / "predictions" / "b_train_id.png").size == (90, 30)


def _shown(band):
    """Train ids whose colours a legend has."""
    return {c for c, color in enumerate(CITYSCAPES.colors) if (band == color).all(-1).sum() > 64}


def test_main__legend_of_the_classes_that_occur_below_and_never_in_the_way(run, tmp_path):
    _image(300, 400).save(tmp_path / "a.png")
    pictures = {}
    for legend in ("none", "overlay", "all"):
        assert run("--input", "a.png", "--output", legend, "--legend", legend)[0] == 0
        pictures[legend] = {
            kind: np.asarray(Image.open(f"{legend}/a_{kind}.png")) for kind in ("train_id", "color", "overlay")
        }
    classes = set(np.unique(pictures["none"]["train_id"]).tolist())
    for legend, kinds in (("overlay", ["overlay"]), ("all", ["color", "overlay"])):
        for kind, plain in pictures["none"].items():
            found = pictures[legend][kind]
            assert np.array_equal(found[:300], plain)
            assert (len(found) > 300) == (kind in kinds)
            assert kind not in kinds or _shown(found[300:]) == classes
    # Colour PNGs are data: with or without a legend on overlays the same bytes.
    assert (tmp_path / "none" / "a_color.png").read_bytes() == (tmp_path / "overlay" / "a_color.png").read_bytes()


def test_main__label_ids_are_those_of_the_training_data(run, model, tmp_path):
    """A mask that counts classes from 1 and has 0 for void agrees as it should, pixel by pixel."""
    own = tmp_path / "own"
    shutil.copytree(model, own)
    classes = [{"name": name, "color": [1, 2, 3], "label_ids": [i + 1]} for i, name in enumerate(CITYSCAPES.names)]
    (own / "label_space.json").write_text(json.dumps({"name": "mine", "classes": classes, "void": [0]}))
    _image(40, 60).save(tmp_path / "a.png")
    status, out, _ = run("--input", "a.png", "--ids", "label_id", model=own)
    assert (status, out) == (0, "predictions: label ids, colours and overlay for 1 image\n")
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        "a_color.png", "a_label_id.png", "a_overlay.png"
    ]  # fmt: skip
    train_ids = Predictor.from_pretrained(own, "cpu").predict(_image(40, 60))
    mask = train_ids + 1
    mask[:10], mask[10:15] = 0, mask[10:15] % 19 + 1  # void, and five rows of thirty that are labelled otherwise
    with Image.open("predictions/a_label_id.png") as picture:
        assert picture.mode == "L"
        assert picture.text["Description"].startswith("label_id of mine: 1 road, 2 sidewalk, 3 building, ")
        found = np.asarray(picture)
    assert (found == mask)[mask != 0].mean() == 25 / 30
    table = parse_label_space(json.loads((own / "label_space.json").read_text())).train_id_table
    assert (table[mask] == train_ids)[table[mask] < 255].mean() == 25 / 30  # as our evaluation has it

    assert run("--input", "a.png", model=own)[0] == 0
    with Image.open("predictions/a_train_id.png") as picture:
        assert picture.text["Description"].startswith("train_id of mine: 0 road, 1 sidewalk, ")
        np.testing.assert_array_equal(np.asarray(picture), train_ids)


def test_main__label_ids_of_files_of_colours(run, model, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(model, own)
    classes = [{"name": name, "color": [i, 2, 3]} for i, name in enumerate(CITYSCAPES.names)]
    classes[0]["label_colors"] = [[9, 9, 9], [0, 0, 9]]
    description = {"encoding": "color", "classes": classes, "void": [[0, 0, 0]]}
    (own / "label_space.json").write_text(json.dumps(description))
    _image(40, 60).save(tmp_path / "a.png")
    assert run("--input", "a.png", "--ids", "label_id", model=own)[0] == 0
    with Image.open("predictions/a_label_id.png") as picture:
        found = read_train_ids(picture, parse_label_space(description))
        assert (np.asarray(picture)[found == 0] == 9).all()
    np.testing.assert_array_equal(found, Predictor.from_pretrained(own, "cpu").predict(_image(40, 60)))


def test_main__label_ids_of_a_model_that_came_without(run, tmp_path):
    _image().save(tmp_path / "a.png")
    said = "expected a model with the label_space.json that training writes, for label ids; found none; "
    _refused(run("--input", "a.png", "--ids", "label_id"), tmp_path / "predictions", said)


def test_main__confidence_and_what_is_below_the_threshold(run, model, tmp_path):
    _image(40, 60).save(tmp_path / "a.png")
    train_ids, confidence = Predictor.from_pretrained(model, "cpu").predict(_image(40, 60), scores="confidence")
    threshold = float(np.median(confidence))
    for kind, most in (("png8", 255), ("png16", 65535)):
        words = "--output", kind, "--confidence", kind, "--confidence_threshold", threshold
        status, out, _ = run("--input", "a.png", *words)
        said = (
            f"{kind}: train ids, colours, overlay and confidence for 1 image",
            "confidence: no fitted temperature",
        )
        assert (status, *out.splitlines()) == (0, *said)
        with Image.open(f"{kind}/a_confidence.png") as picture:
            about = f"confidence: the probability of the predicted class, 0..1 as 0..{most}; no fitted temperature"
            assert picture.text["Description"] == about
            found = np.asarray(picture)
            assert found.dtype == (np.uint8 if most == 255 else np.uint16)
            np.testing.assert_allclose(found / most, confidence, atol=0.5001 / most)
    marked = np.where(confidence < threshold, 255, train_ids)
    with Image.open("png8/a_train_id.png") as picture:
        assert picture.text["Description"].endswith(f"; 255 where the confidence is below {threshold:g}")
        np.testing.assert_array_equal(np.asarray(picture), marked)
    overlay, unsure = np.asarray(Image.open("png8/a_overlay.png"))[:40], marked == 255
    assert unsure.mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_array_equal(overlay[unsure], np.asarray(_image(40, 60))[unsure])
    assert (np.asarray(Image.open("png8/a_color.png"))[unsure] == 0).all()

    assert run("--input", "a.png", "--output", "npz", "--confidence", "npz", "--flip")[0] == 0
    with np.load("npz/a_probabilities.npz") as found:
        assert (found["temperature"], found["classes"].tolist()) == (1, list(CITYSCAPES.names))
        flipped = Predictor.from_pretrained(model, "cpu", PredictionPlan(flip=True))
        _, expected = flipped.predict(_image(40, 60), scores="probabilities")
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-3)
    ids = np.asarray(Image.open("npz/a_train_id.png"))
    assert ids.max() < 19


def test_main__a_threshold_holds_for_videos(run, av, tmp_path):
    _video(tmp_path / "drive.mp4", 2)
    words = "--video_frames", "train_id", "--confidence_threshold", 1
    assert run("--input", "drive.mp4", *words)[0] == 0
    assert (np.asarray(Image.open("predictions/drive_frames/000001_train_id.png")) == 255).all()  # nobody is that sure


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--confidence_threshold", "1.5"], "expected `confidence_threshold` of 0..1; found 1.5"),
        (["--confidence", "png"], "png8"),
    ],
)
def test_main__confidence_that_is_none(run, tmp_path, words, said):
    _image().save(tmp_path / "a.png")
    _refused(run("--input", "a.png", *words), tmp_path / "predictions", said)


def test_main__palette(run, tmp_path):
    _image().save(tmp_path / "a.png")
    assert run("--input", "a.png", "--palette", "colorblind")[0] == 0
    train_ids, color = (np.asarray(Image.open(f"predictions/a_{kind}.png")) for kind in ("train_id", "color"))
    np.testing.assert_array_equal(color, np.array(COLORBLIND, np.uint8)[train_ids])
    assert run("--input", "a.png", "--palette", "cityscapes")[0] == 0
    color = np.asarray(Image.open("predictions/a_color.png"))
    np.testing.assert_array_equal(color, np.array(CITYSCAPES.colors, np.uint8)[train_ids])


def test_main__a_palette_without_enough_colours(run, tmp_path, monkeypatch):
    _image().save(tmp_path / "a.png")
    monkeypatch.setattr("hf_urbanseg.palettes.COLORBLIND", COLORBLIND[:18])
    said = "expected a palette with 19 colours; found colorblind, which has 18; choose `--palette cityscapes`."
    _refused(run("--input", "a.png", "--palette", "colorblind"), tmp_path / "predictions", said)


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


def test_main__transparent_images_are_counted(run, tmp_path, caplog):
    frames = tmp_path / "frames"
    frames.mkdir()
    for stem, alpha in (("a", 255), ("b", 100), ("c", 0)):
        picture = _image()
        picture.putalpha(alpha)
        picture.save(frames / f"{stem}.png")
    assert run("--input", frames)[0] == 0
    assert "transparent pixels, laid on black (a fourth band needs `--channels 4`), in 2 of 3 images" in caplog.messages


def _png_16_bit_rgb(path):
    """Pillow can't write one: header with bit depth 16 and colour type 2, rows of big-endian samples."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + bytes(4 * 6)) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _tiff_of_floats(path):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(path, "TIFF")


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
        (_png_16_bit_rgb, "expected 8 bits per channel, or 16 whose white is 65535; found 16 bits and no value above"),
        (_tiff_of_floats, "expected 8 or 16 bits per channel; found values 0.5..0.5 of mode F"),
        (_truncated, "expected a readable image"),
        (_truncated_jpeg, "expected a readable image"),
        (_flipped_bit, "expected a readable image"),
        (_empty, "expected a readable image"),
        (_text, "expected a readable image"),
    ],
)
def test_main__a_bad_image_is_left_out_and_said(run, tmp_path, damage, part):
    frames, output = tmp_path / "frames", tmp_path / "predictions"
    frames.mkdir()
    damage(frames / "a.png")
    for stem in "bc":
        _image().save(frames / f"{stem}.png")
    words = "--input", frames, "--batch_size", 1
    _refused(run(*words, "--strict"), output, f"{frames / 'a.png'}: ", part, "; 2 of 3 could be read and nothing was")
    status, out, err = run(*words)
    assert (status, out) == (2, "predictions: train ids, colours and overlay for 2 images\n")
    assert err.splitlines()[-1].startswith(f"error: {frames / 'a.png'}: {part}")
    assert err.endswith("; 2 of 3 are done.\n")
    assert {path.name[0] for path in output.iterdir()} == {"b", "c"}


def test_main__every_bad_image_is_listed(run, tmp_path, caplog):
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(25):
        _text(frames / f"{index:02d}.png")
    _refused(run("--input", frames), tmp_path / "predictions", "00.png: ", "(and 24 more bad files)", "; 0 of 25 could")
    assert len(caplog.messages) == 21
    assert all(f"{index:02d}.png: expected a readable image" in caplog.messages[index] for index in range(20))
    assert caplog.messages[-1] == "... and 5 more like these"


def test_main__names_that_are_no_text(run, tmp_path):
    frames, name = tmp_path / "frames", os.fsdecode(b"b\xff.png")
    frames.mkdir()
    _image().save(frames / "a.png")
    _image().save(frames / name)
    _refused(run("--input", frames), tmp_path / "predictions", r"b\xff.png: expected a file name in UTF-8")
    words = "--input", frames / name
    _refused(run(*words), tmp_path / "predictions", r"expected options in UTF-8; found", r"b\xff.png`; rename")
    words = "--input", frames / "a.png", "--output", tmp_path / os.fsdecode(b"out\xff")
    _refused(run(*words), tmp_path / "predictions", "expected options in UTF-8; found", r"out\xff`")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames"]


def test_read_image__refuses_truncated_files_after_datasets_allowed_them(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    _truncated_jpeg(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: expected a readable image"):
        read_image(tmp_path / "a.jpg")


def test_main__wrong_input_path(run, tmp_path):
    _refused(run("--input", "nowhere"), tmp_path / "predictions", "nowhere: expected an image, a video or a folder of")


def test_main__folder_without_images(run, tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a.txt").write_text("")
    _refused(run("--input", "frames"), tmp_path / "predictions", "frames: expected images or videos (avi,", "none")


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
        (["--batch_size", "0"], "`batch_size` of 1..4,096; found 0"),
        (["--alpha", "1.5"], "`alpha` of 0..1; found 1.5"),
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

    def save(self, path, format, pnginfo):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(DataError, match=r"a_train_id\.png: .*found No space left on device"):
        write_prediction(tmp_path, "a", _image(4, 4), np.zeros((4, 4), np.uint8), CITYSCAPES, 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["a_train_id.png"]
    assert old.read_bytes() == b"old"


@pytest.fixture
def av():
    return pytest.importorskip("av", reason="video files need the package `av`")


def _video(path, count=7, size=(40, 60), rate=Fraction(10)):
    with open_video_writer(path, VideoInfo(size, rate, 1 / rate, count)) as append:
        for index in range(count):
            append(VideoFrame(np.asarray(_image(*size, seed=index)), index))
    return path


def test_main__a_video_keeps_frames_rate_and_size(run, model, av, tmp_path):
    _video(tmp_path / "drive.mp4", 7, (40, 61), Fraction(30000, 1001))
    status, out, _ = run("--input", "drive.mp4", "--batch_size", 3)
    assert status == 0
    assert out.startswith("predictions/drive_overlay.mp4: 7 frames at ")
    assert out.endswith(" frames/s, reading and writing included\n")
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["drive_overlay.mp4"]
    info = inspect_video(tmp_path / "predictions" / "drive_overlay.mp4")
    assert (info.size[1], info.rate, info.num_frames) == (62, Fraction(30000, 1001), 7)
    assert info.size[0] > 40  # and the legend
    predictor = Predictor.from_pretrained(model, "cpu")
    source, overlay = (list(read_frames(tmp_path / name)) for name in ("drive.mp4", "predictions/drive_overlay.mp4"))
    # Luma only: 4:2:0 blurs colours, and these pictures are all edges.
    luma = [np.array(Image.fromarray(frame.image).convert("L"), float)[:40] for frame in overlay]
    train_ids = predictor.predict([Image.fromarray(frame.image) for frame in source])
    for index, (frame, ids) in enumerate(zip(source, train_ids, strict=True)):
        expected = np.array(Image.fromarray(blend(frame.image, ids, CITYSCAPES)).convert("L"), float)
        distances = [np.abs(one - expected).mean() for one in luma]
        assert distances[index] < 6
        assert min(distances[:index] + distances[index + 1 :]) > 2 * distances[index]


def test_main__the_legend_of_a_video_stands_still(run, av, tmp_path):
    """All classes of the model, though frames show a few."""
    _video(tmp_path / "drive.mp4", 3, (300, 400))
    assert run("--input", "drive.mp4", "--video_frames", "overlay")[0] == 0
    bands = [np.asarray(Image.open(f"predictions/drive_frames/{index:06d}_overlay.png"))[300:] for index in range(3)]
    assert _shown(bands[0]) == set(range(19))
    assert np.array_equal(bands[0], bands[1])
    assert np.array_equal(bands[0], bands[2])
    for frame in read_frames(tmp_path / "predictions" / "drive_overlay.mp4"):
        assert np.abs(frame.image[300:][: len(bands[0])].astype(int) - bands[0]).mean() < 4


def test_main__a_videos_frames_as_pngs(run, model, av, tmp_path):
    _video(tmp_path / "drive.mp4")
    words = ("--input", "drive.mp4", "--batch_size", 3, "--video_frames", "train_id", "overlay")
    assert run(*words)[1].startswith("predictions/drive_overlay.mp4, and predictions/drive_frames: 7 frames")
    folder = tmp_path / "predictions" / "drive_frames"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{index:06d}_{kind}.png" for index in range(7) for kind in ("train_id", "overlay")
    )
    frames = [Image.fromarray(frame.image) for frame in read_frames(tmp_path / "drive.mp4")]
    for index, expected in enumerate(Predictor.from_pretrained(model, "cpu").predict(frames, 3)):
        with Image.open(folder / f"{index:06d}_train_id.png") as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.asarray(picture), expected)
    # Again, over the earlier ones; anything else in the folder is left alone.
    (folder / "000007_train_id.png").write_bytes(b"of a longer run")
    assert run(*words)[0] == 0
    assert not (folder / "000007_train_id.png").exists()
    (folder / "notes.txt").write_text("mine")
    status, _, err = run(*words)
    assert status == 2
    assert "drive_frames: expected a folder of earlier frames only; found `notes.txt`" in err.splitlines()[-1]
    assert (folder / "notes.txt").read_text() == "mine"


def test_main__images_and_videos_of_one_folder(run, av, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    _image().save(frames / "a.png")
    _video(frames / "b.mp4", 2)
    status, out, _ = run("--input", "frames")
    assert status == 0
    assert out.startswith(
        "predictions: train ids, colours and overlay for 1 image\npredictions/b_overlay.mp4: 2 frames"
    )


def test_main__the_plan_reaches_the_prediction(run, model, av, tmp_path):
    _video(tmp_path / "drive.mp4", 2)
    assert run("--input", "drive.mp4", "--video_frames", "train_id", "--ratios", 0.5, 1, "--flip", "true")[0] == 0
    frame = Image.fromarray(next(iter(read_frames(tmp_path / "drive.mp4"))).image)
    found = np.asarray(Image.open("predictions/drive_frames/000000_train_id.png"))
    plan = PredictionPlan(ratios=(0.5, 1.0), flip=True)
    assert (found == Predictor.from_pretrained(model, "cpu", plan=plan).predict([frame])[0]).mean() > 0.999
    assert (found == Predictor.from_pretrained(model, "cpu").predict([frame])[0]).mean() < 0.999


def test_main__a_bad_video_is_left_out_and_said(run, av, tmp_path):
    _image().save(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_bytes(b"no video")
    words, said = ("--input", "a.png", "b.mp4"), "b.mp4: expected a readable video; found Invalid data found"
    _refused(run(*words, "--strict"), tmp_path / "predictions", said)
    status, out, err = run(*words)
    assert (status, out) == (2, "predictions: train ids, colours and overlay for 1 image\n")
    assert said in err.splitlines()[-1]
    assert err.endswith("; 1 of 2 are done.\n")


def test_main__a_video_that_breaks_leaves_nothing(run, av, tmp_path, monkeypatch):
    _video(tmp_path / "drive.mp4")
    frames = read_frames(tmp_path / "drive.mp4")

    def breaks(path):
        yield from islice(frames, 5)
        raise DataError("a readable video", "damage", "leave it out", path)

    monkeypatch.setattr("hf_urbanseg.reports.prediction_video.read_frames", breaks)
    words = "--input", "drive.mp4", "--batch_size", 2, "--video_frames", "train_id"
    for strict in ((), ("--strict",)):
        result = run(*words, *strict)
        _refused(result, tmp_path / "predictions", "drive.mp4: expected a readable video; found damage")
    # The other videos are done.
    _video(tmp_path / "e.mp4")
    monkeypatch.setattr(
        "hf_urbanseg.reports.prediction_video.read_frames",
        lambda path: breaks(path) if path.stem == "drive" else read_frames(path),
    )
    status, _, err = run(*words[:2], "e.mp4", *words[2:])
    said = "drive.mp4: expected a readable video; found damage; leave it out; 1 of 2 are done.\n"
    assert (status, err.endswith(said)) == (2, True)
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == ["e_frames", "e_overlay.mp4"]


@pytest.mark.parametrize("batch_size", [2, 8])  # found while later frames are predicted, or after the last
def test_main__a_failed_write_of_a_frame_leaves_nothing(run, av, tmp_path, monkeypatch, batch_size):
    _video(tmp_path / "drive.mp4")

    def save(self, path, format, pnginfo):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    result = run("--input", "drive.mp4", "--batch_size", batch_size, "--video_frames", "train_id")
    _refused(result, tmp_path / "predictions", "found No space left on device")


def test_main__never_overwrites_an_input_video(run, av, tmp_path):
    _video(tmp_path / "b.mp4")
    _video(tmp_path / "b_overlay.mp4")
    result = run("--input", "b.mp4", "b_overlay.mp4", "--output", ".")
    _refused(result, tmp_path / "predictions", "b_overlay.mp4: expected inputs that no result overwrites")


def test_main__an_unknown_kind_of_frame(run, tmp_path):
    _image().save(tmp_path / "a.png")
    _refused(run("--input", "a.png", "--video_frames", "depth"), tmp_path / "predictions", "depth")


@pytest.mark.parametrize("size", [(375, 1242), (64, 64), (1280, 720)])
def test_draw_rate__a_readable_corner_and_nothing_else(size):
    picture = np.full((*size, 3), 200, np.uint8)
    drawn = draw_rate(picture, 12.34)
    assert (drawn.shape, drawn.dtype) == (picture.shape, np.uint8)
    rows, columns = np.nonzero((drawn != picture).any(-1))
    assert rows.max() < max(40, size[0] // 6)
    assert columns.min() > 0
    assert drawn[rows.min() : rows.max(), columns.min() : columns.max()].max() > 240  # letters
    assert (picture == 200).all()
    assert not np.array_equal(drawn, draw_rate(picture, 21.34))


def test_main__show_rate_draws_on_the_video_only(run, av, tmp_path):
    _video(tmp_path / "drive.mp4", 2, (96, 160))
    assert run("--input", "drive.mp4", "--output", "plain", "--legend", "none")[0] == 0
    assert (
        run("--input", "drive.mp4", "--output", "rate", "--show_rate", "--video_frames", "overlay", "--legend", "none")[
            0
        ]
        == 0
    )
    plain, rate = (
        next(iter(read_frames(tmp_path / n / "drive_overlay.mp4"))).image.astype(int) for n in ("plain", "rate")
    )
    difference = np.abs(plain - rate).max(-1)
    assert (difference[:24, :90] > 60).mean() > 0.3
    assert (difference[40:] > 60).mean() == 0
    png = np.asarray(Image.open("rate/drive_frames/000000_overlay.png")).astype(int)
    assert (np.abs(png - plain).max(-1)[:24, :90] > 60).mean() < 0.1
