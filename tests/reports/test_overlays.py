from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES, LabelSpace
from hf_urbanseg.reports.overlays import (
    FADED_VOID,
    blend,
    clear_comparisons,
    colorize,
    draw_class_legend,
    error_map,
    find_classes,
    name_picture,
    save_comparison,
)


def test_colorize__two_by_two():
    found = colorize(np.array([[0, 13], [18, 255]], np.uint8), CITYSCAPES)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[128, 64, 128], [0, 0, 142]], [[119, 11, 32], [0, 0, 0]]]


def test_blend__mixes_classes_and_leaves_void_plain():
    image = np.full((1, 3, 3), 100, np.uint8)
    found = blend(image, np.array([[0, 13, 255]], np.uint8), CITYSCAPES, alpha=0.25)
    assert found.tolist() == [[[107, 91, 107], [75, 75, 110], [100, 100, 100]]]  # 0.75 * 100 + 0.25 * colour, rounded
    assert found.dtype == np.uint8


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, [100, 100, 100]), (1.0, [128, 64, 128])])
def test_blend__ends(alpha, expected):
    image = Image.new("RGB", (1, 1), (100, 100, 100))
    assert blend(image, np.zeros((1, 1), np.uint8), CITYSCAPES, alpha).tolist() == [[expected]]


@pytest.mark.parametrize("what", ["prediction", "label"])
def test_pictures__refuse_another_size(tmp_path, what):
    image, fits = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
    maps = {"prediction": fits, "label": fits, what: fits.T}
    for draw in (
        lambda: save_comparison(tmp_path / "a.png", image, **maps, label_space=CITYSCAPES, title=""),
        lambda: blend(image, maps[what], CITYSCAPES),
    ):
        with pytest.raises(DataError, match=r"expected train ids of the image's size 4x6 .*; found 6x4"):
            draw()
    assert not list(tmp_path.iterdir())


def test_find_classes__in_any_map_without_void():
    assert find_classes(CITYSCAPES, np.array([[3, 255]]), np.array([13, 0])) == [0, 3, 13]


def _colors(path):
    """Colours of at least 100 pixels: a swatch has more, the soft edges of text fewer."""
    red, green, blue = np.array(Image.open(path)).reshape(-1, 3).astype(int).T
    codes, counts = np.unique(red << 16 | green << 8 | blue, return_counts=True)
    return {(code >> 16, code >> 8 & 255, code & 255) for code in codes[counts >= 100].tolist()}


def test_save_comparison__legend_shows_exactly_the_classes_that_occur(tmp_path):
    label = np.zeros((90, 300), np.uint8)
    label[:, 150:] = 13
    label[:10] = 255
    prediction = np.zeros_like(label)
    prediction[-5:] = 11
    save_comparison(tmp_path / "a.png", np.full((90, 300, 3), 99, np.uint8), prediction, label, CITYSCAPES, "a frame")
    colors = _colors(tmp_path / "a.png")
    # Pure class colours appear in the legend only, because the panels blend them.
    occurring = {CITYSCAPES.colors[c] for c in (0, 11, 13)}
    assert {color for color in CITYSCAPES.colors if color in colors} == occurring


@pytest.mark.parametrize(
    ("size", "columns"),
    [((375, 1242), 1), ((360, 480), 2), ((1024, 2048), 1), ((7, 5), 4), ((1920, 1080), 4), ((400, 40), 4)],
)
def test_save_comparison__panels_keep_their_shape_and_fit_a_screen(tmp_path, size, columns):
    height, width = size
    label = np.zeros(size, np.uint8)
    save_comparison(tmp_path / "a.png", np.zeros((*size, 3), np.uint8), label, label, CITYSCAPES, "a frame")
    # Panels of a black image: black, twice half-way to road, faded; all else is paper, ink and swatches.
    pixels = np.array(Image.open(tmp_path / "a.png"))
    overlay = (pixels == [64, 32, 64]).all(-1)
    down, across = np.flatnonzero(overlay.any(1)), np.flatnonzero(overlay.any(0))
    panel_width = overlay[down[0]].sum() // (2 if columns == 4 else 1)
    panel_height = overlay[:, across[0]].sum() // (2 if columns == 1 else 1)
    assert abs(panel_width / panel_height - width / height) < 0.02 * width / height
    assert 400 < panel_width <= 1280 or panel_height == 900
    assert panel_height <= 900
    assert pixels.shape[1] > columns * panel_width


def test_save_comparison__states_errors_without_any_label(tmp_path):
    void = np.full((90, 300), 255, np.uint8)
    save_comparison(tmp_path / "a.png", np.zeros((90, 300, 3), np.uint8), void * 0, void, CITYSCAPES, "")
    assert FADED_VOID in _colors(tmp_path / "a.png")


def test_save_comparison__255_classes_and_long_names_fit(tmp_path):
    names = tuple(f"a class with a rather long name {index}" for index in range(255))
    colors = tuple((index, 255 - index, 7) for index in range(255))
    space = LabelSpace("many", names, colors, {})
    label = np.arange(300 * 90, dtype=np.int64).reshape(90, 300) % 255
    label = label.astype(np.uint8)
    save_comparison(tmp_path / "a.png", np.full((90, 300, 3), 200, np.uint8), label, label, space, "a title " * 60)
    assert set(colors) <= _colors(tmp_path / "a.png")


def test_save_comparison__errors_are_the_error_map(tmp_path):
    """At the size shown, so that frames of errors are two pixels wide in a picture of a large image, too."""
    label = np.zeros((1024, 2048), np.uint8)
    label[200:600, 300:900], label[:100] = 13, 255
    image, prediction = np.full((1024, 2048, 3), 99, np.uint8), np.zeros_like(label)
    save_comparison(tmp_path / "a.png", image, prediction, label, CITYSCAPES, "")
    sheet, size = np.array(Image.open(tmp_path / "a.png")), (1280, 640)
    small = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    expected = error_map(np.full((640, 1280, 3), 99, np.uint8), np.zeros_like(small), small, CITYSCAPES)
    below = np.flatnonzero((sheet == FADED_VOID).all(-1).sum(1) > 1000)[0]
    assert np.array_equal(sheet[below : below + 640, 14 : 14 + 1280], expected)
    assert (expected == CITYSCAPES.colors[13]).all(-1).sum() > 2 * 2 * (250 + 370)


def test_draw_class_legend__readable_at_any_size():
    for size, classes in (((360, 480), range(19)), ((2250, 4000), [0, 13]), ((1920, 1080), range(19)), ((9, 7), [3])):
        band = draw_class_legend(size, CITYSCAPES, classes)
        assert (band.shape[1], band.dtype) == (size[1], np.uint8)
        if size[1] > 400:  # every class and no other, none cut at the edge, and letters that grow with the picture
            assert {c for c in range(19) if (band == CITYSCAPES.colors[c]).all(-1).sum() > 64} == set(classes)
            assert (band[:, -4:] == 255).all()
            swatch = np.flatnonzero((band == CITYSCAPES.colors[0]).all(-1).any(0))
            assert np.ptp(swatch) + 1 >= max(11, size[1] / 70)
            assert len(band) < size[0] / 2


def test_error_map__right_wrong_and_void():
    image = np.array([[[0, 0, 0], [255, 255, 255], [90, 90, 90], [90, 90, 90]]], np.uint8)
    found = error_map(image, np.array([[0, 0, 13, 11]]), np.array([[0, 0, 11, 255]]), CITYSCAPES)
    # Faded greys, the predicted class (car), void.
    assert found.tolist() == [[[176] * 3, [251] * 3, list(CITYSCAPES.colors[13]), list(FADED_VOID)]]
    assert found.dtype == np.uint8


@pytest.mark.parametrize(("side", "framed"), [(6, False), (7, True), (12, True)])
def test_error_map__frames_what_is_wide_enough(side, framed):
    label = np.zeros((40, 50), np.uint8)
    label[10 : 10 + side, 20 : 20 + side] = 12
    prediction = np.zeros_like(label)
    prediction[label == 12] = 11
    found = error_map(np.zeros((40, 50, 3), np.uint8), prediction, label, CITYSCAPES)
    person, rider = ((found == CITYSCAPES.colors[c]).all(-1) for c in (11, 12))
    # A frame of the label's class, two pixels wide, around the predicted class.
    inner = np.zeros((40, 50), bool)
    inner[12 : 8 + side, 22 : 18 + side] = True
    wrong = label == 12
    np.testing.assert_array_equal(rider, wrong & ~inner if framed else np.zeros_like(wrong))
    np.testing.assert_array_equal(person, inner if framed else wrong)
    np.testing.assert_array_equal(found[~wrong], 176)


def test_error_map__areas_of_other_pairs_have_frames_of_their_own():
    label, prediction = np.zeros((20, 40), np.uint8), np.full((20, 40), 13, np.uint8)
    label[:, 20:] = 8
    found = error_map(np.zeros((20, 40, 3), np.uint8), prediction, label, CITYSCAPES)
    frames = {18: 0, 19: 0, 20: 8, 21: 8}  # columns; the picture's edge has no frame
    for column in range(40):
        assert (found[:, column] == CITYSCAPES.colors[frames.get(column, 13)]).all()


def test_error_map__few_colours():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
    label, prediction = rng.integers(0, 19, (2, 64, 96))
    found = error_map(image, prediction, np.where(label == 3, 255, label), CITYSCAPES)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= 16 + 19 + 1


def _save(path, **options):
    train_ids = np.zeros((90, 300), np.uint8)
    save_comparison(path, np.full((90, 300, 3), 99, np.uint8), train_ids, train_ids, CITYSCAPES, "a frame", **options)
    return np.array(Image.open(path))


def test_save_comparison__note_under_the_title(tmp_path):
    plain, noted = _save(tmp_path / "a.png"), _save(tmp_path / "b.png", note="short\n" + "long words " * 30)
    added = len(noted) - len(plain)
    assert added > 0
    assert added % 24 == 0
    lines = added // 24
    assert lines >= 4  # the second paragraph takes three lines of this width at least
    # The note stands between the title and the panels, which are as before.
    assert np.array_equal(noted[:48], plain[:48])
    assert np.array_equal(noted[48 + added :], plain[48:])
    for line in range(lines):
        assert (noted[48 + 24 * line : 72 + 24 * line] < 100).any()


def test_save_comparison__whole_or_not_at_all(tmp_path, monkeypatch):
    before = _save(tmp_path / "a.png")

    def fail(self, file, *args, **options):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(DataError, match="No space"):
        _save(tmp_path / "a.png", note="another")
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png")), before)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["a.png"]


def test_save_comparison__as_jpeg_the_colours_stay(tmp_path):
    """Within 3 of 255 inside of areas, so that a legend's colours are still the picture's."""
    exact = _save(tmp_path / "a.png").astype(int)
    _save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.format == "JPEG"
        found = np.asarray(picture.convert("RGB")).astype(int)
    assert found.shape == exact.shape
    # Pixels whose blocks of 8 x 8 are of one colour, corners included.
    down = np.all([(np.roll(exact, shift, 0) == exact).all(-1) for shift in range(-8, 9)], axis=0)
    across = np.all([(np.roll(exact, shift, 1) == exact).all(-1) for shift in range(-8, 9)], axis=0)
    flat = across & np.all([np.roll(down, shift, 1) for shift in range(-8, 9)], axis=0)
    assert flat.mean() > 0.3
    assert np.abs(found - exact)[flat].max() <= 3


def test_clear_comparisons__ours_alone(tmp_path):
    _save(tmp_path / "ours.png")
    _save(tmp_path / "ours.jpg")
    Image.new("RGB", (3, 3)).save(tmp_path / "theirs.jpg")
    _save(tmp_path / "ours.jpeg")  # not a name we give
    (tmp_path / "deep").mkdir()
    _save(tmp_path / "deep" / "ours.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "theirs.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.md").write_text("mine")
    clear_comparisons(tmp_path)
    kept = {"ours.jpeg", "deep", "theirs.png", "theirs.jpg", "broken.png", "notes.md"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert (tmp_path / "deep" / "ours.png").exists()
    clear_comparisons(tmp_path / "not there")


@pytest.mark.parametrize(
    "name", ["000012_10", "aachen_000000_000019", "0001.png", "a b", "Straße (1)", "train=1,x@y+z", "x" * 200]
)
def test_name_picture__usual_names_stay(name):
    assert name_picture(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "train/0001", "../../etc/x", "/abs/x", "a\\b", ".hidden", "..", "", "a\nb", "a:b", "x" * 300, "道" * 120,
        "a\0b", "\udc80",
    ],
)  # fmt: skip
def test_name_picture__others_name_a_plain_visible_file(name, tmp_path):
    found = name_picture(name)
    path = tmp_path / f"{found}.png"
    path.write_bytes(b"")
    assert list(tmp_path.iterdir()) == [path]
    assert found.isprintable()
    assert "\\" not in found
    assert not found.startswith(".")


def test_name_picture__keeps_frames_apart():
    names = ["a/b", "a_b", "a\\b", "a:b", ".a_b", "x" * 300, "x" * 301, "道" * 99, "道" * 98]
    assert len({name_picture(name) for name in names}) == len(names)
