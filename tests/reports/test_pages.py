import base64
import io
import re
from html.parser import HTMLParser

import jinja2
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.reports import pages
from hf_urbanseg.reports.overlays import FADED_VOID
from hf_urbanseg.reports.pages import (
    embed_drawing,
    embed_figure,
    embed_frame,
    embed_label_map,
    embed_photo,
    fit_pixels,
    write_page,
)


@pytest.fixture
def template(tmp_path, monkeypatch):
    """Adds a template beside the package's own."""

    def add(content: str) -> str:
        (tmp_path / "templates").mkdir(exist_ok=True)
        (tmp_path / "templates" / "some.html.j2").write_text(content)
        loader = jinja2.FileSystemLoader([tmp_path / "templates", pages.TEMPLATES])
        monkeypatch.setattr(pages._environment(), "loader", loader)
        pages._environment().cache.clear()
        return "some.html.j2"

    yield add
    pages._environment().cache.clear()


CONTENT = '{% extends "page.html.j2" %}{% import "macros.html.j2" as ui %}{% block content %}BODY{% endblock %}'


def _decode(picture) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(re.search('base64,([^"]*)"', picture)[1])))


@pytest.fixture
def render(tmp_path, template):
    """The text of a page with this content."""

    def write(content: str, **context) -> str:
        write_page(tmp_path / "rendered.html", template(CONTENT.replace("BODY", content)), **context)
        return (tmp_path / "rendered.html").read_text(encoding="utf-8")

    return write


def test_write_page__escapes_everything_and_loads_nothing(render):
    evil = '"><script>alert(1)</script>'
    page = render('<p title="{{ text }}">{{ text }}</p>', title=evil, subtitle=evil, text=evil)
    assert evil not in page
    # Title and heading, subtitle, attribute and paragraph.
    assert page.count("&lt;script&gt;alert(1)") == 5
    assert "default-src 'none'; img-src data:" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_write_page__numbers_and_macros(render):
    body = (
        "{{ 0.12344|percent }} {{ none|percent }} {{ nan|percent }} {{ 1234567|count }} {{ ui.bar(0.256, (1, 2, 3)) }}"
    )
    page = render(f"<main-text>{body}</main-text>", title="a", nan=float("nan"))
    text = re.search("<main-text>(.*)</main-text>", page, re.DOTALL)[1]
    assert text.startswith("12.34 - - 1,234,567 ")
    assert "--class: rgb(1 2 3)" in text
    assert "width: 25.60%" in text
    assert "25.60</span>" in text


def test_write_page__whole_or_not_at_all(template, tmp_path):
    path = tmp_path / "new" / "page.html"
    write_page(path, template(CONTENT), title="first")
    first = path.read_bytes()
    with pytest.raises(jinja2.UndefinedError, match="'missing' is undefined"):
        write_page(path, template(CONTENT.replace("BODY", "{{ missing }}")), title="second")
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_write_page__folder_in_the_way(template, tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(DataError, match="expected a place to write to"):
        write_page(tmp_path / "page.html", template(CONTENT), title="a")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected a place to write to"):
        write_page(tmp_path / "file" / "page.html", template(CONTENT), title="a")


def test_write_page__names_that_are_no_text(template, tmp_path):
    write_page(tmp_path / "a.html", template(CONTENT), title="frame \udcff ü")
    assert "<title>frame \\xff ü</title>" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_embed_photo__jpeg_of_limited_size():
    image = np.full((1024, 2048, 3), (200, 100, 50), np.uint8)
    picture = embed_photo(image, 'a "frame"')
    decoded = _decode(picture)
    assert (decoded.format, decoded.size) == ("JPEG", (1024, 512))
    assert picture.endswith(' width="1024" height="512" alt="a &#34;frame&#34;">')
    assert np.abs(np.array(decoded).astype(int) - (200, 100, 50)).max() <= 3
    assert _decode(embed_photo(Image.new("L", (1242, 375)), "")).size == (1242, 375)


def test_embed_label_map__palette_png_with_the_ids_themselves():
    train_ids = np.random.default_rng(0).integers(0, 20, (37, 53)).astype(np.uint8)
    train_ids[train_ids == 19] = 255
    decoded = _decode(embed_label_map(train_ids, CITYSCAPES, ""))
    assert (decoded.format, decoded.mode) == ("PNG", "P")
    np.testing.assert_array_equal(np.array(decoded), train_ids)
    np.testing.assert_array_equal(np.array(decoded.convert("RGB")), CITYSCAPES.palette[train_ids])


def test_embed_frame__smaller_without_new_classes_every_picture_at_its_place():
    label = np.random.default_rng(0).choice([0, 11, 255], (900, 1600)).astype(np.uint8)
    same, wrong = np.where(label == 255, 0, label).astype(np.uint8), np.full_like(label, 13)
    frame = embed_frame(
        "frame", Image.new("RGB", (1600, 900)), label, {"label": same, "b2": wrong}, CITYSCAPES, max_pixels=10_000
    )
    captions = ["image", "label", "label", "b2", "errors of label", "errors of b2"]
    assert [caption for caption, _ in frame] == captions
    assert [re.search('alt="(.*)"', picture)[1] for _, picture in frame] == [f"frame: {one}" for one in captions]
    image, *maps, right, errors = (np.array(_decode(picture).convert("RGB")) for _, picture in frame)
    assert {picture.shape for picture in (image, *maps, right, errors)} == {image.shape}
    assert image.size // 3 <= 10_100
    shown = [{tuple(color) for color in picture.reshape(-1, 3).tolist()} for picture in (*maps, right, errors)]
    road, person, car = (CITYSCAPES.colors[c] for c in (0, 11, 13))
    assert shown == [{road, person, (0, 0, 0)}, {road, person}, {car}, {(176,) * 3, FADED_VOID}, {car, FADED_VOID}]
    (*_, (caption, _)) = embed_frame(
        "frame", Image.new("RGB", (9, 9)), label[:9, :9], {"b2": wrong[:9, :9]}, CITYSCAPES
    )
    assert caption == "errors"


@pytest.mark.parametrize(("colors", "mode"), [(1, "P"), (256, "P"), (257, "RGB")])
def test_embed_drawing__exact_with_few_and_with_many_colours(colors, mode):
    rng = np.random.default_rng(colors)
    table = rng.permutation(2**24)[:colors]
    table = np.stack([table >> 16, table >> 8 & 255, table & 255], -1).astype(np.uint8)
    picture = table[np.concatenate([np.arange(colors), rng.integers(0, colors, 600 - colors)]).reshape(20, 30)]
    decoded = _decode(embed_drawing(picture, ""))
    assert decoded.mode == mode
    np.testing.assert_array_equal(np.array(decoded.convert("RGB")), picture)


def _figure(text: str) -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label=text)
    axes.set_title(text, parse_math=False)
    return figure


def test_embed_figure__several_on_one_page_share_no_id():
    first, second = embed_figure(_figure("one"), "first"), embed_figure(_figure("two"), "second")
    ids = [re.findall(r'\sid="([^"]+)"', svg) for svg in (first, second)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    for svg, own in zip((first, second), ids, strict=True):
        references = re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg)
        assert references
        assert set(references) <= set(own)


def test_embed_figure__is_reproducible_scales_and_follows_the_page():
    svg = embed_figure(_figure("one"), "first")
    assert svg == embed_figure(_figure("one"), "first")
    assert "#000000" not in svg
    assert "#ffffff" not in svg
    assert not re.search(r'<svg[^>]* (width|height)="', svg)
    assert "viewBox" in svg
    assert "<style>.figure *{" in svg


def test_embed_figure__escapes_text_and_description():
    class Tags(HTMLParser):
        seen = ()

        def handle_starttag(self, tag, attributes):
            self.seen += (tag,)

    tags = Tags()
    tags.feed(embed_figure(_figure("<script>1</script>"), '"><script>'))
    assert "svg" in tags.seen
    assert "script" not in tags.seen


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((1242, 375), (1242, 375)), ((2048, 1024), (1024, 512)), ((1, 1), (1, 1)), ((10**7, 1), (2289734, 1))],
)
def test_fit_pixels__keeps_shape_and_never_enlarges(size, fitted):
    assert fit_pixels(size) == fitted
