"""Self-contained HTML pages: one file that opens anywhere, with no server, no network and no library.

A report's template lies in `templates/` and extends `page.html.j2`, which brings head, styles and footer:

    {% extends "page.html.j2" %}
    {% import "macros.html.j2" as ui %}
    {% block content %}<section><h2>Frames</h2>{{ photo }}</section>{% endblock %}

`write_page(path, "frames.html.j2", title="...", photo=embed_photo(image, "frame 12"))` writes it. Everything from data
is escaped by Jinja2 and spelt out where it can't be seen, missing values are errors, and a content security policy
forbids the browser to load anything.
"""

import base64
import io
import re
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from hf_urbanseg import __version__
from hf_urbanseg.escaping import spell_out
from hf_urbanseg.files import write_text
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.formats import format_change, format_percent
from hf_urbanseg.reports.overlays import error_map

TEMPLATES = Path(__file__).parent / "templates"
MAX_PIXELS = 524_288
"""Pictures are embedded with this many pixels at most: a KITTI frame whole, a Cityscapes frame at half its size."""


def write_page(path: str | Path, template: str, **context) -> None:
    """Renders a page and writes it, whole or not at all.

    Args:
        path: The .html file; its folder is made if need be.
        template: Name of a file in `templates/`.
        context: What the template names; `page.html.j2` itself needs `title` and shows `subtitle` if there is one.
            Filters: `percent` (0.1234 -> 12.34, None -> -), `count` (1234 -> 1,234), `rgb` (a class colour for CSS).
    """
    write_text(path, _environment().get_template(template).render(context))


def embed_photo(image: Image.Image | np.ndarray, alt: str, max_pixels: int = MAX_PIXELS) -> Markup:
    """A photograph as JPEG, made smaller where it has more than `max_pixels`.

    Shape:
        image: (H, W, 3) uint8.
    """
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image = image.resize(fit_pixels(image.size, max_pixels), Image.Resampling.LANCZOS)
    return _embed(image, alt, "JPEG", quality=82, optimize=True)


def embed_label_map(train_ids: np.ndarray, label_space: LabelSpace, alt: str) -> Markup:
    """Train ids in class colours as palette PNG, void black.

    Shape:
        train_ids: (H, W) uint8.
    """
    image = Image.fromarray(np.ascontiguousarray(train_ids, np.uint8))
    image.putpalette(label_space.palette.tobytes())
    return _embed(image, alt, "PNG", optimize=True)


def embed_frame(
    name: str,
    image: Image.Image,
    label: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    label_space: LabelSpace,
    max_pixels: int = MAX_PIXELS,
) -> list[tuple[str, Markup]]:
    """A frame with its label and what models predict (by caption), for `ui.pictures`; drawn at the size it is shown at.

    Shape:
        label, predictions: (H, W) uint8 train ids; label with `IGNORE_INDEX`.

    Returns:
        Captions and pictures: image, label, every prediction, and the errors of every prediction.
    """
    size = fit_pixels(image.size, max_pixels)
    image = image.resize(size, Image.Resampling.LANCZOS)
    maps = [
        (caption, np.asarray(Image.fromarray(np.asarray(ids, np.uint8)).resize(size, Image.Resampling.NEAREST)))
        for caption, ids in [("label", label), *predictions.items()]
    ]
    (_, label), *predicted = maps
    errors = [
        (f"errors of {caption}" if len(predicted) > 1 else "errors", error_map(image, ids, label, label_space))
        for caption, ids in predicted
    ]
    return [
        ("image", embed_photo(image, f"{name}: image")),
        *((caption, embed_label_map(ids, label_space, f"{name}: {caption}")) for caption, ids in maps),
        *((caption, embed_drawing(drawn, f"{name}: {caption}")) for caption, drawn in errors),
    ]


def embed_drawing(picture: np.ndarray, alt: str) -> Markup:
    """A picture of few colours as PNG, exact; with a palette where its colours fit one.

    Shape:
        picture: (H, W, 3) uint8.
    """
    image = Image.fromarray(picture)
    if image.getcolors(256):
        image = image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return _embed(image, alt, "PNG", optimize=True)


def embed_figure(figure: Figure, alt: str) -> Markup:
    """A matplotlib figure as inline SVG; what is black or white in it takes the page's ink and paper, dark mode too."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "page"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    _, start, drawing = buffer.getvalue().partition("<svg ")
    # Ids and styles of several figures on one page must not meet; numbered by content, the page stays reproducible.
    prefix = f"figure{zlib.crc32(drawing.encode()):08x}-"
    drawing = re.sub(r'(\sid="|xlink:href="#|url\(#)', rf"\g<1>{prefix}", drawing)
    drawing = drawing.replace('<style type="text/css">*{', "<style>.figure *{")
    drawing = drawing.replace("#000000", "currentColor").replace("#ffffff", "var(--card)")
    drawing = re.sub(r'(?:width|height)="[\d.]+pt" ?', "", drawing, count=2)
    return Markup(f'<div class="figure" role="img" aria-label="{escape(spell_out(alt))}">{start}{drawing}</div>')


def fit_pixels(size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The size, in the same order, scaled down to `max_pixels`; never up, never below 1."""
    scale = min(1.0, (max_pixels / max(size[0] * size[1], 1)) ** 0.5)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _embed(image: Image.Image, alt: str, format: str, **options) -> Markup:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    picture = Markup('<img src="data:image/{};base64,{}" width="{}" height="{}" alt="{}">')
    return picture.format(format.lower(), data, image.width, image.height, spell_out(alt))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=lambda value: spell_out(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": format_percent, "change": format_change, "count": "{:,}".format}
    environment.filters["rgb"] = "rgb({0[0]} {0[1]} {0[2]})".format
    environment.globals |= {"version": __version__}
    return environment
