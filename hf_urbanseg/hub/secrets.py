"""Secrets: those this machine keeps, whether a file holds one, and how a line for people hides them."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from huggingface_hub import constants

from hf_urbanseg.errors import DataError

# Names of variables; not TOKENIZERS_PARALLELISM or GIT_AUTHOR_NAME.
_SECRET_NAME = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH(?!OR)|(?:KEY|KEY_ID|PWD|PASS|DSN)$", re.IGNORECASE
)
_PLACE_NAME = re.compile(r"(?:PATH|FILE|DIR|SOCK|URL|^PWD|^OLDPWD)$", re.IGNORECASE)
_IN_URL = re.compile(r"://[^\s/:@]*:([^\s/@]+)@")
# What well-known tokens look like, whoever's they are, each after a part that it is much faster to look for.
_SHAPES = {
    b"hf_": rb"hf_(?:oauth_|jwt_)?[A-Za-z0-9]{30,}",
    b"gh": rb"gh[opsur]_[A-Za-z0-9]{30,}",
    b"github_pat_": rb"github_pat_\w{30,}",
    b"sk-": rb"\bsk-[\w-]{32,}",
    b"AKIA": rb"\bAKIA[0-9A-Z]{16}\b",
    b"Bearer ": rb"(?<=Bearer )[\w.~+/-]{20,}",
    b"PRIVATE KEY": rb"-----BEGIN [A-Z ]*PRIVATE KEY",
}
_LOOKS_LIKE_ONE = "something like a token or password"
_HIDDEN = "<token>"


def collect_secrets(folders: Iterable[Path] = (), *tokens: str | None) -> dict[str, str]:
    """What this machine keeps as a secret, each with words that say where.

    Read are the environment (by the names of variables, and passwords in URLs such as HTTPS_PROXY's), what
    `hf auth login` saved, and `.env...` files of `folders`. What can't be told from an ordinary word is left out.
    """
    found = [(token, "the token that was given") for token in tokens if token]
    found += _list_assigned(os.environ.items(), "in the environment")
    for path in sorted({path for folder in folders for path in _list_env_files(Path(folder))}):
        found += _list_assigned(_read_assignments(path), f"in {path}")
    found.append((_read(Path(constants.HF_TOKEN_PATH)), "the token that `hf auth login` saved"))
    secrets = {}
    for value, where in found:
        if _is_distinct(value := value.strip()):
            secrets.setdefault(value, where)
    return secrets


def find_secret(content: bytes, secrets: Mapping[str, str]) -> str | None:
    """Words for which of `secrets` (as it is, or as JSON writes it) or what looks like a token is there, without it."""
    for secret, where in secrets.items():
        if any(content.find(form.encode()) >= 0 for form in _spell(secret)):
            return where
    looks = any(literal in content and re.search(shape, content) for literal, shape in _SHAPES.items())
    return _LOOKS_LIKE_ONE if looks else None


def check_files(files: Mapping[str, Path | bytes], secrets: Mapping[str, str]) -> None:
    """Refuses files of which one holds a secret, in its name or content: a DataError without the secret itself."""
    for path, content in files.items():
        if found := find_secret(path.encode(), secrets):
            raise DataError("file names without secrets", found, "rename the file", "a file")
        if isinstance(content, Path):
            with content.open("rb") as file:
                content = file.read(2**20 if content.suffix == ".safetensors" else -1)  # the header holds all its text
        if found := find_secret(content, secrets):
            fix = "remove it from the file (and revoke it, if others have seen the file), then push again"
            if found != _LOOKS_LIKE_ONE:
                fix += "; if it is no secret, take it away from there for the push"
            raise DataError("files without secrets", found, fix, path)


def hide_secrets(text: str, *tokens: str | None) -> str:
    """A line for people without what looks like a token, what this machine keeps and what the command line gives."""
    given = {*filter(None, tokens), *_list_given(sys.argv[1:])}
    for secret in sorted({*collect_secrets([Path()]), *given}, key=len, reverse=True):
        edge = r"\b" if len(secret) < 8 and secret.isalnum() else ""  # not inside of other words
        for form in sorted({*_spell(secret), repr(secret)[1:-1]}, key=len, reverse=True):
            text = re.sub(f"{edge}{re.escape(form)}{edge}", _HIDDEN, text)
    content = text.encode("utf-8", "surrogateescape")
    for shape in _SHAPES.values():
        content = re.sub(shape, _HIDDEN.encode(), content)
    return content.decode("utf-8", "surrogateescape")


def _is_distinct(value: str) -> bool:
    """Not `false`, `segmentation`, 100000000000 or ********."""
    return len(set(value)) >= 5 and len(value) >= (16 if value.isalpha() else 8) and not value.isdigit()


def _spell(secret: str) -> set[str]:
    return {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}


def _list_assigned(assignments: Iterable[tuple[str, str]], where: str) -> Iterator[tuple[str, str]]:
    for name, value in assignments:
        said = f"the value of {name} {where}"
        yield from ((password, said) for password in _IN_URL.findall(value))
        if _SECRET_NAME.search(name) and not _PLACE_NAME.search(name):
            yield value, said


def _list_given(words: Sequence[str]) -> Iterator[str]:
    """What a command line gives to an option for secrets, a misspelt one (`--hub_tokn`) included."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        value = value if equals else following
        if re.match(r"--?[\w-]*?(?:to?k|secret|passw|key)", name, re.IGNORECASE) and not value.startswith("-"):
            yield from filter(None, [value])


def _list_env_files(folder: Path) -> list[Path]:
    try:
        return [*folder.glob(".env*")]
    except OSError:  # no memory or descriptor is left for a look
        return []


def _read(path: Path) -> str:
    """Its text; nothing if it isn't a plain file: a pipe would hold us for ever."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def _read_assignments(path: Path) -> Iterator[tuple[str, str]]:
    for line in _read(path).splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            quoted = re.match(r"\s*(['\"])(.*?)\1", value)
            yield name.strip(), quoted[2] if quoted else re.split(r"\s#", value)[0]
