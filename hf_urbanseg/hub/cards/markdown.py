"""Markdown in which nothing that comes from data means anything: neither Markdown, nor HTML, nor a table's bar."""

import math
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
_ENTITIES = {character: f"&#{ord(character)};" for character in "\\|`$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ESCAPED = re.compile(r"[\\|`$&<>*\[\]~]|(?<![^\W_])_|_(?![^\W_])")
_AT_START = re.compile(r"^(\d*)([-+#=]|(?<=\d)[.)](?=\s|$))")  # a list, a heading or a line under one
_LONGEST = 1000  # characters of one text; the Hub reads no card above 10 MB


def flatten(text: object) -> str:
    """One line of bounded length, without control characters, lone surrogates and marks that turn the direction."""
    text = " ".join(str(text).split())
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2]} …"
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def escape_markdown(text: object) -> Markup:
    """`text` on one line, to be read as it is; `Markup` is left alone.

    Backslashes and bars become entities: tables look for bars before anything else is parsed.
    """
    if isinstance(text, Markup):
        return text
    text = _ESCAPED.sub(lambda match: _ENTITIES.get(match[0], f"\\{match[0]}"), flatten(text))
    text = text.replace("://", ":&#47;&#47;")  # or it would become a link
    return Markup(_AT_START.sub(lambda match: f"{match[1]}&#{ord(match[2])};", text))


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


def join_names(names: Iterable[object]) -> Markup:
    """Escaped names, joined by commas."""
    return Markup(", ".join(map(escape_markdown, names)))


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
    environment.filters |= {"percent": format_percent, "count": format_count, "names": join_names, "code": code_span}
    environment.filters |= {"fence": fence_code, "path": quote_path, "trusted": Markup}
    return environment
