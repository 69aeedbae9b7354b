import numpy as np
from PIL import Image

from hf_urbanseg.reports.contact_sheet import save_contact_sheet


def picture(color, height=20, width=40):
    return np.full((height, width, 3), color, np.uint8)


def colors_at(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def find(sheet, color):
    """Top, left, bottom, right of a colour, ends excluded."""
    rows, columns = np.nonzero((sheet == color).all(-1))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def test_save_contact_sheet__row_by_row_at_one_width(tmp_path):
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    cells = [(picture(colors[0]), "a"), (picture(colors[1], height=40), "b"), (picture(colors[2]), "c")]
    save_contact_sheet(tmp_path / "sheet.png", cells, 2, "three", cell_width=240)
    sheet = colors_at(tmp_path / "sheet.png")
    red, green, blue = (find(sheet, color) for color in colors)
    assert (red[2] - red[0], red[3] - red[1]) == (120, 240)
    assert (green[2] - green[0], green[3] - green[1]) == (240, 240)
    assert red[0] == green[0]
    assert red[1] == blue[1] < red[3] < green[1]
    assert blue[0] > green[2]


def test_save_contact_sheet__no_picture_is_taller_than_a_screen(tmp_path):
    cells = [(picture((200, 0, 0), 1920, 1080), "upright"), (picture((0, 200, 0), 300, 600), "wide")]
    save_contact_sheet(tmp_path / "sheet.png", cells, 2, "", cell_width=800)
    upright, wide = (find(colors_at(tmp_path / "sheet.png"), color) for color in ((200, 0, 0), (0, 200, 0)))
    assert (upright[2] - upright[0], upright[3] - upright[1]) == (900, 506)
    assert (wide[2] - wide[0], wide[3] - wide[1]) == (400, 800)


def test_save_contact_sheet__caption_above_its_picture_and_no_wider(tmp_path):
    for name, caption in (("short", "x"), ("long", "word " * 60)):
        cells = [(picture((255, 255, 255)), caption), (picture((255, 255, 255)), "")]
        save_contact_sheet(tmp_path / f"{name}.png", cells, 2, "", cell_width=300)
    short, long = (colors_at(tmp_path / f"{name}.png") for name in ("short", "long"))
    assert short.shape == long.shape
    ink = np.nonzero((long < 200).all(-1))
    assert ink[0].max() < 60
    assert 250 < ink[1].max() <= 14 + 300


def test_save_contact_sheet__legend_and_title(tmp_path):
    pattern = np.full((16, 16, 3), (1, 2, 3), np.uint8)
    legend = [("sky", (70, 130, 180)), ("stripes", pattern)]
    save_contact_sheet(tmp_path / "sheet.png", [(picture((9, 9, 9)), "")], 4, "a long title " * 20, legend)
    sheet = colors_at(tmp_path / "sheet.png")
    cell, sky, stripes = (find(sheet, color) for color in ((9, 9, 9), (70, 130, 180), (1, 2, 3)))
    assert sky[0] > cell[2]
    assert sky[3] < stripes[1]
    assert cell[0] > 4 * 34  # the title takes several lines above
    assert sheet.shape[1] == 480


def test_save_contact_sheet__wide_letters_stay_inside(tmp_path):
    save_contact_sheet(tmp_path / "sheet.png", [(picture((255, 255, 255)), "")], 1, "W" * 100, note="MW " * 60)
    ink = np.nonzero((colors_at(tmp_path / "sheet.png") < 200).all(-1))[1]
    assert ink.max() < 480 - 14
