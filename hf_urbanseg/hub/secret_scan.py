"""Finds tokens, passwords and keys in what is about to be published."""

import configparser
import contextlib
import mmap
import netrc
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import constants

# What a token looks like, whoever's it is.
_SHAPES = re.compile(
    rb"\bhf_(?:oauth_)?[A-Za-z0-9]{20,}|\bgh[opsu]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bglpat-[\w-]{20,}"
    rb"|\bsk-[A-Za-z0-9_-]{32,}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_SHORTEST = 12  # below it, a value such as "false" or "none" is no secret, and would be found everywhere
_PNG = b"\x89PNG\r\n\x1a\n"


def collect_secrets(folders: Iterable[Path], *tokens: str | None) -> set[str]:
    """The secrets this machine knows: those that must not be found in a file.

    Args:
        folders: Where a `.env` may lie; beside them, the environment, the token that `hf auth login` saved and the
            passwords of `.netrc` (Weights & Biases' among them) are read.
        tokens: Further ones.
    """
    found = [(name, value) for name, value in os.environ.items() if _SECRET_NAMES.search(name)]
    for folder in folders:
        found += [pair for pair in _read_assignments(folder / ".env") if _SECRET_NAMES.search(pair[0])]
    found += [("token", token) for token in tokens if token]
    found += [("token", _read(Path(constants.HF_TOKEN_PATH)).strip())]
    stored = configparser.ConfigParser(interpolation=None)
    try:
        stored.read_string(_read(Path(constants.HF_TOKEN_PATH).with_name("stored_tokens")))
        found += [pair for section in stored.sections() for pair in stored.items(section) if "token" in pair[0]]
    except configparser.Error:
        pass
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        found += [("password", entry[2] or "") for entry in netrc.netrc().hosts.values()]
    return {value for _, value in found if len(value) >= _SHORTEST and not re.search(r"\s", value)}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_assignments(path: Path) -> Iterator[tuple[str, str]]:
    for line in _read(path).splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            value = value.strip()
            quoted = re.match(r"(['\"])(.*?)\1", value)
            yield name.strip(), quoted[2] if quoted else value.split(" #")[0].strip()


def holds_secret(content: bytes | mmap.mmap, secrets: Iterable[str]) -> bool:
    """Whether a file's content has one of `secrets`, or anything that looks like a token, in it.

    The compressed texts of a PNG are read too. Of a safetensors file pass the header alone, the rest being numbers.
    """
    needles = [secret.encode() for secret in secrets]
    texts = [content, *_png_texts(content)]
    return any(_SHAPES.search(text) or any(text.find(needle) >= 0 for needle in needles) for text in texts)


def _png_texts(content: bytes | mmap.mmap) -> Iterator[bytes]:
    """The compressed text chunks of a PNG; plain ones lie open in its bytes."""
    at = len(_PNG) if content[: len(_PNG)] == _PNG else len(content)
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if kind in (b"zTXt", b"iTXt"):
            packed = content[at + 8 : at + 8 + length].split(b"\0", 1)[-1]
            # After the keyword: zTXt has a method; iTXt a flag, a method, and two words that end in NUL.
            packed = packed[1:] if kind == b"zTXt" else packed[2:].split(b"\0", 2)[-1]
            with contextlib.suppress(zlib.error):
                yield zlib.decompress(packed)
        at += length + 12
