"""Finds tokens, passwords and keys in what is about to be published."""

import base64
import html
import json
import mmap
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import markupsafe

from hf_urbanseg.hub.cards.markdown import escape_markdown
from hf_urbanseg.hub.cleaning.known_secrets import list_given_secrets, list_known_secrets
from hf_urbanseg.hub.cleaning.pictures import read_texts

LOOKS_LIKE_ONE = "something like a token or password"
_HIDDEN = "<token>"
# What a token looks like, whoever's it is. Each after a text that it holds: to look for that first is much faster.
# No word must end in front of hf_ and the like: in JSON and URLs an escape's last letter may stand there.
_SHAPES = tuple(
    (literal, re.compile(pattern))
    for literal, pattern in {
        b"hf_": rb"hf_(?:oauth_|jwt_)?([A-Za-z0-9]{20,})",
        b"h\0f\0_": rb"h\0f\0_\0((?:[A-Za-z0-9]\0?){20,})",  # UTF-16
        b"api_org_": rb"api_org_([A-Za-z0-9]{20,})",
        b"gh": rb"gh[opsur]_[A-Za-z0-9]{30,}",
        b"github_pat_": rb"github_pat_\w{30,}",
        b"glpat-": rb"glpat-[\w-]{20,}",
        b"sk-": rb"\bsk-[A-Za-z0-9_-]{32,}",
        b"AKIA": rb"\bAKIA[0-9A-Z]{16}\b",
        b"xox": rb"\bxox[abeoprs]-[\w-]{20,}",
        b"Bearer": rb"Bearer +([\w.~+/-]{20,})",
        b".eyJ": rb"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.",
        b"PRIVATE": rb"-----BEGIN [A-Z ]*PRIVATE KEY",
    }.items()
)
_SHORTEST, _SHORTEST_WORD = 8, 12  # below it, a value such as "false" is no secret, and would be found everywhere


def collect_secrets(folders: Iterable[Path], *tokens: str | None) -> dict[str, str]:
    """The secrets this machine knows, those that must not be found in a file, each with words that say where from.

    Left out is what can't be told from ordinary text: under 8 characters; under 12 unless of three kinds (small,
    capital, digit, other); of fewer than five different ones, such as 100000000; words of this package, such as
    `segmentation`.

    Args:
        folders: Where a run, its data and this process are; see `list_known_secrets`.
        tokens: Further ones.
    """
    found = [(token, "the token that was given") for token in tokens if token]
    secrets = {}
    for value, where in (*found, *list_known_secrets(folders)):
        # Of a key in several lines each one counts: in JSON and YAML they stand apart.
        for line in value.splitlines():
            if _is_distinct(line.strip()):
                secrets.setdefault(line.strip(), where)
    return secrets


def _is_distinct(value: str) -> bool:
    kinds = sum(bool(re.search(kind, value)) for kind in (r"[a-z]", r"[A-Z]", r"\d", r"[^A-Za-z\d]"))
    if len(value) < (_SHORTEST if kinds >= 3 else _SHORTEST_WORD) or len(set(value)) < 5:
        return False
    return value not in _read_own_words()


@cache
def _read_own_words() -> str:
    """All that this package itself may write into a file."""
    files, texts = [resources.files("hf_urbanseg")], []
    for entry in files:
        if entry.is_dir():
            files += entry.iterdir()
        elif entry.name.endswith((".py", ".j2", ".yaml", ".html")):
            texts.append(entry.read_text(encoding="utf-8"))
    return "\n".join(texts)


def holds_secret(content: bytes | mmap.mmap, secrets: Iterable[str]) -> bool:
    """Whether `find_secret` finds one."""
    return find_secret(content, secrets) is not None


def find_secret(content: bytes | mmap.mmap, secrets: Iterable[str]) -> str | None:
    """Which of `secrets` a file's content has in it, or whether anything that looks like a token.

    Secrets are found as they are and in the forms that texts and programs give them: escaped for JSON, YAML, HTML,
    Markdown or URLs, in UTF-16, base64 and hexadecimal digits. The compressed texts of a PNG are read too. Of a
    safetensors file pass the header alone, the rest being numbers.

    Returns:
        Words that say which, without its value; None if there is none.
    """
    sources = secrets if isinstance(secrets, Mapping) else {}
    for text in (content, *read_texts(content)):
        for secret in secrets:
            if any(text.find(needle) >= 0 for needle in _encode(secret)):
                return sources.get(secret, LOOKS_LIKE_ONE)
        if _has_shape(text):
            return LOOKS_LIKE_ONE
    return None


def hide_secrets(text: str, *tokens: str | None) -> str:
    """`text` with what looks like a token, what this machine knows and what the command line gives blotted out.

    Args:
        text: For people: an error, a line of a log.
        tokens: Further secrets.
    """
    given = [*list_given_secrets(sys.argv[1:]), *filter(None, tokens)]
    for secret in sorted({*collect_secrets([Path.cwd()]), *given}, key=len, reverse=True):
        # A short word that was given must not be blotted out inside of others.
        edge = r"\b" if len(secret) < _SHORTEST and secret.isalnum() else ""
        for form in sorted({secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}, key=len, reverse=True):
            text = re.sub(f"{edge}{re.escape(form)}{edge}", _HIDDEN, text)
    content = text.encode("utf-8", "surrogateescape")
    for _, shape in _SHAPES:
        content = shape.sub(lambda match: _HIDDEN.encode() if _is_token(match) else match[0], content)
    return content.decode("utf-8", "surrogateescape")


@cache
def _encode(secret: str) -> tuple[bytes, ...]:
    escaped = {
        secret, html.escape(secret), html.escape(secret, quote=False), secret.replace("'", "''"),
        str(markupsafe.escape(secret)), str(escape_markdown(secret)), repr(secret)[1:-1],
        *(json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)),
        *(json.dumps(secret)[1:-1].replace("/", sign) for sign in (r"\/", r"\u002f")),
    }  # fmt: skip
    for safe in ("/", "", "/:@!$&'()*+,;=~"):
        percent = quote(secret, safe=safe)
        escaped |= {percent, re.sub(r"%..", lambda match: match[0].lower(), percent)}
    escaped |= {quote(secret, safe="").replace("%20", "+")}
    raw = secret.encode("utf-8", "surrogateescape")
    forms = {text.encode("utf-8", "surrogateescape") for text in escaped}
    forms |= {secret.encode(code, "surrogatepass") for code in ("utf-16-le", "utf-16-be")}
    forms |= {raw.hex().encode(), raw.hex().upper().encode()}
    for before in range(3):  # bytes in front of it decide how base64 cuts it; of the ends, only whole signs count
        whole = slice((0, 2, 3)[before], (before + len(raw)) * 8 // 6)
        padded = b"\0" * before + raw
        forms |= {base64.b64encode(padded)[whole], base64.urlsafe_b64encode(padded)[whole]}
    return tuple(sorted(forms))


def _has_shape(text: bytes | mmap.mmap) -> bool:
    for literal, shape in _SHAPES:
        if text.find(literal) >= 0 and any(_is_token(match) for match in shape.finditer(text)):
            return True
    return False


def _is_token(match: re.Match) -> bool:
    """Not a name such as hf_segformerfinetunedcityscapes."""
    if not match.lastindex:
        return True
    word = match[1].replace(b"\0", b"")
    small, capital, digit = (bool(re.search(kind, word)) for kind in (rb"[a-z]", rb"[A-Z]", rb"\d"))
    return (small and capital) or (len(word) >= 30 and digit and (small or capital))
