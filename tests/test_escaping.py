"""Names that would do something, in every kind of file that they are written into: inert, and still to be read."""

import csv
import html
import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest
from card_pages import Page
from PIL import Image

from hf_urbanseg.errors import DataError
from hf_urbanseg.escaping import PlainFormatter, escape_cell, flatten, is_plain, shorten, spell_out
from hf_urbanseg.hub.cards.licence import choose_licence
from hf_urbanseg.hub.cards.markdown import render_markdown
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.contact_sheet import save_contact_sheet
from hf_urbanseg.reports.pages import write_page
from hf_urbanseg.reports.plots import plot_class_distribution
from hf_urbanseg.reports.tables import build_markdown_table, print_class_table, write_class_table, write_csv

NAMES = {
    "script": "<script>alert(1)</script>",
    "attribute": '" onload="alert(1)',
    "picture": "![x](http://x.y/z.png)",
    "link": "see https://x.y/z",
    "table": "a|b",
    "code": "`rm` <b>",
    "formula": "$\\frac{$",
    "format": "%s %d {0} {{ 7*7 }}",
    "sheet": "=cmd|' /C calc'!A0",
    "plus": "+1+cmd|'x'!A0",
    "title": "\x1b]0;mine\x07car\x1b[2J",
    "direction": "\u202egnp.exe\u2066",
    "lines": "road\n# head\r\n- item",
    "long": "road" * 2500,
    "bytes": "stra\udcdfe",
    "half": "\ud83d car",
    "markup": "[red]car[/red] [/]",
    "shortcode": ":car: ab",
    "www": "see www.x.y/z and WWW.X.Y",
    "chinese": "道路",
    "emoji": "\U0001f469\u200d\U0001f692 car",
    "hebrew": "שלום",
}
SHOWN = {
    "title": r"\x1b]0;mine\x07car\x1b[2J",
    "direction": r"\u202egnp.exe\u2066",
    "lines": "road # head - item",
    "long": f"{('road' * 2500)[:498]} ... {('road' * 2500)[-497:]}",
    "bytes": r"stra\xdfe",
    "half": r"\ud83d car",
}


@pytest.fixture(params=NAMES)
def name(request):
    return NAMES[request.param]


@pytest.fixture
def shown(name):
    return next((SHOWN[key] for key, value in NAMES.items() if value == name and key in SHOWN), name)


def build_space(*names):
    return LabelSpace("some", names, tuple((index, 0, 0) for index in range(len(names))), {})


def build_result(space):
    by_class = dict.fromkeys(space.names, 0.5)
    result = {"iou": by_class, "mean_iou": 0.5, "support": dict.fromkeys(space.names, 7)}
    return result | {"overall_accuracy": 0.5}


def as_class(name, shown):
    """The name as a label space lets it through."""
    return name if is_plain(name) and len(name) <= 100 else shown[:100]


def test_flatten__says_what_it_is(name, shown):
    assert flatten(name) == shown
    assert is_plain(flatten(name))


def test_flatten__one_line_of_bounded_length():
    assert flatten(" a\n\tb\u2028c ") == "a b c"
    assert flatten("x" * 1000) == "x" * 1000
    assert flatten("\x1b" * 10_000, 20) == r"\x1b\x1b ... x1b\x1b"
    assert shorten("abcdefghijkl", 11) == "abc ... jkl"
    assert [len(shorten("x" * 30, longest)) for longest in (5, 6, 7, 29, 30)] == [5, 6, 7, 29, 30]


def test_spell_out__keeps_line_breaks():
    assert spell_out("a\n\tb\x1b  c\r") == "a\n\tb\\x1b  c\\r"


def test_terminal__an_error_line(name, shown):
    line = str(DataError(f"no {name}", f"`{name}`", "rename it", f"/data/{name}.png"))
    assert is_plain(line)
    assert len(line) <= 1030
    assert line.endswith("; rename it.")
    if len(name) < 100:
        assert line == f"/data/{shown}.png: expected no {shown}; found `{shown}`; rename it."


def test_error__only_long_parts_lose_their_middles():
    line = str(DataError("e" * 10_000, "found this", "do that", "a.png"))
    assert re.fullmatch(r"a\.png: expected e{487} \.\.\. e{486}; found found this; do that\.", line)


def test_terminal__a_log_line(name):
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s: odd", (name,), None)
    line = PlainFormatter("%(message)s").format(record)
    assert line == f"{spell_out(name)}: odd"
    assert "\x1b" not in line
    assert "\u202e" not in line


def test_terminal__a_table(name, shown, capsys):
    space = build_space(as_class(name, shown))
    print_class_table(build_result(space), space, name)
    out = capsys.readouterr().out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", out)
    lines = "".join("".join(line.split()) for line in out.splitlines())
    assert "".join(shown.split())[:60] in lines


def test_markdown__a_table_of_classes(name, shown, tmp_path):
    class_name = as_class(name, shown)
    tags = []
    for one in (class_name, "road"):
        space = build_space(one)
        write_class_table(build_result(space), space, tmp_path / "a.md")
        page = Page(f"\n---\n{(tmp_path / 'a.md').read_text(encoding='utf-8')}")
        tags.append(page.tags)
        assert page.cells[1] == [flatten(one), "50.00", "7"]
    assert tags[0] == tags[1]


def test_markdown__heads_and_words(name, shown):
    page = Page("\n---\n" + "\n".join(build_markdown_table(["run", f"{name} (%)"], [[name, "-1.5"]])))
    assert page.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert page.cells[1] == [shown, "-1.5"]
    assert len(name) > 1000 or page.cells[0][1] == f"{shown} (%)"


def test_card__renders_as_it_is(name, shown):
    licence = choose_licence(None, False, "synthetic")
    pages = []
    for title in (name, "ABC"):
        space = SimpleNamespace(num_labels=2)
        run = SimpleNamespace(model_name="m", data_title=title, label_space=space, licence=licence)
        card = render_markdown("interim_card.md.j2", version="1", run=run, step=1, max_steps=2)
        pages.append(Page(f"\n---\n{card}"))
    assert pages[0].tags == pages[1].tags
    assert pages[0].text == pages[1].text.replace("ABC", shown)


def test_csv__no_cell_is_a_formula(name, shown, tmp_path):
    write_csv(tmp_path / "a.csv", [{"class": name, name: -0.5, "none": None}])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        head, row = csv.reader(file)
    first = f"'{shown}" if shown[0] in "=+-@" else shown
    assert head == ["class", first, "none"]
    assert row == [first, "-0.5", ""]


def test_escape_cell__numbers_stay():
    assert [escape_cell(value) for value in (-1, -0.5, None, "@a", "\t=1", "-", "a=1")] == [
        -1, -0.5, None, "'@a", "'=1", "'-", "a=1",
    ]  # fmt: skip


def test_html__text_and_attributes(name, tmp_path):
    pages = []
    for title in (name, "ABC"):
        write_page(tmp_path / "a.html", "page.html.j2", title=title, subtitle=title)
        pages.append((tmp_path / "a.html").read_text(encoding="utf-8"))
    page, plain = pages
    assert re.findall("<[a-z!/]", page) == re.findall("<[a-z!/]", plain)
    heading = re.search("<h1>(.*?)</h1>", page, re.DOTALL)[1]
    assert '"' not in heading
    assert html.unescape(heading) == spell_out(name).replace("\r\n", "\n")


def test_pictures__are_drawn(name, shown, tmp_path, recwarn):
    space = build_space(as_class(name, shown), "road")
    plot_class_distribution([1, 2], space, tmp_path / "bars.png", title=f"{name} of {name}")
    cells = [(np.zeros((8, 8, 3), np.uint8), name)]
    save_contact_sheet(tmp_path / "sheet.png", cells, 1, name, [(name, (1, 2, 3))], note=name)
    for file in ("bars.png", "sheet.png"):
        with Image.open(tmp_path / file) as picture:
            assert max(picture.size) < 3000
    # Of a character that the font lacks there is a box.
    assert not [str(one.message) for one in recwarn if "missing from font" not in str(one.message)]
