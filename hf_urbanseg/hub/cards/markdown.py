"""Markdown in which nothing that comes from data means anything: neither Markdown, nor HTML, nor a table's bar."""

import math
import re
from functools import cache
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from hf_urbanseg.escaping import escape_markdown, flatten

TEMPLATES = Path(__file__).parent / "templates"


def code_span(text: object) -> Markup:
    """Inline code; inside a table, too."""
    text = flatten(text)
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in (text[:1], text[-1:]) else ""
    # Of all characters, only a table's bar is still read inside code.
    return Markup(f"{ticks}{space}{text}{space}{ticks}".replace("|", "\\|"))


def fence_code(text: str, language: str = "") -> Markup:
    """A block of code, in a fence longer than any inside it."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markup(f"{ticks}{language}\n{text.rstrip()}\n{ticks}")


def quote_path(path: str) -> Markup:
    """A path as the target of a link or picture."""
    return Markup(quote(path, safe="/"))


def format_percent(value: float | None, digits: int = 2) -> Markup:
    """0.1234 -> 12.34; None and NaN -> a dash."""
    return Markup("–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}")


def format_count(value: float | None) -> Markup:
    """1234 -> 1,234."""
    return Markup("–" if value is None else f"{value:,}")


def render_markdown(template: str, **context) -> str:
    """A template of `templates/`; every value that is no `Markup` is escaped, and a missing one is an error."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,  # would escape for HTML alone
        finalize=escape_markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": format_percent, "count": format_count, "code": code_span, "fence": fence_code}
    environment.filters |= {"path": quote_path, "trusted": Markup}
    environment.filters["names"] = lambda names: Markup(", ".join(map(escape_markdown, names)))
    return environment
