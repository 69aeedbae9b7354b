"""Text from data (names of classes, frames, files, runs), written so that it says what it says and does nothing.

One function for each kind of place: `flatten` for terminals (tables: `build_console`), pictures and HTML pages (whose
templates escape `<` and quotes themselves), `escape_markdown`, `escape_cell` for CSV. YAML and JSON are written by
their libraries.
"""

import logging
import re

from markupsafe import Markup
from rich.console import Console

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_JOINERS = "\u200c\u200d"  # not printable by Python's word, but parts of emoji and of Persian words
_ENTITIES = {character: f"&#{ord(character)};" for character in "\\|`$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKDOWN = re.compile(r"[\\|`$&<>*\[\]~]|(?<![^\W_])_|_(?![^\W_])")
_AT_START = re.compile(r"^(\d*)([-+#=]|(?<=\d)[.)](?=\s|$))")  # a list, a heading or a line under one
_ADDRESS = re.compile(r"://|(?<![^\W_])www\.", re.IGNORECASE)  # what readers of Markdown make links of
_LONGEST = 1000  # characters of one text; the Hub reads no card above 10 MB


def is_plain(text: str) -> bool:
    """Whether a text is UTF-8 without control characters and line breaks, as every name has to be."""
    return not _UNPRINTABLE.search(text)


def flatten(text: object, longest: int = _LONGEST) -> str:
    """`text` on one line of at most `longest` characters; what can't be seen in it is spelt out, see `spell_out`."""
    line = spell_out(shorten(" ".join(str(text).split()), longest))
    return shorten(line, longest)


def shorten(text: str, longest: int) -> str:
    """`text`, with ` ... ` in place of its middle where it has more than `longest` characters."""
    if len(text) <= longest:
        return text
    end = (longest - 5) // 2
    return f"{text[: longest - 5 - end]} ... {text[len(text) - end :]}"


def spell_out(text: str) -> str:
    r"""`text` with control characters and marks that turn the direction as Python writes them, `\x1b` or `\u202e`.

    Of a file name that isn't UTF-8, that are its bytes. Line breaks and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in _JOINERS or one in "\n\t" else _spell(one) for one in text)


def _spell(one: str) -> str:
    is_byte = "\udc80" <= one <= "\udcff"  # Python's stand-in for a byte that doesn't decode
    return f"\\x{ord(one) - 0xDC00:02x}" if is_byte else one.encode("unicode_escape").decode()


class PlainFormatter(logging.Formatter):
    """Log lines for a terminal, on which a name can neither move the cursor nor change the title."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return spell_out(super().formatMessage(record))


def build_console() -> Console:
    """A terminal for tables, on which neither `[red]` nor `:car:` means anything."""
    return Console(markup=False, emoji=False)


def escape_markdown(text: object) -> Markup:
    """`text` on one line, to be read as it is; `Markup` is left alone.

    Backslashes and bars become entities: tables look for bars before anything else is parsed.
    """
    if isinstance(text, Markup):
        return text
    text = _MARKDOWN.sub(lambda match: _ENTITIES.get(match[0], f"\\{match[0]}"), flatten(text))
    text = _ADDRESS.sub(lambda match: "".join(f"&#{ord(one)};" if one in "/." else one for one in match[0]), text)
    return Markup(_AT_START.sub(lambda match: f"{match[1]}&#{ord(match[2])};", text))


def escape_cell(value: object) -> object:
    """A value for a CSV file: a text that a spreadsheet would run as a formula gets a `'` in front; numbers stay."""
    if not isinstance(value, str):
        return value
    text = flatten(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
