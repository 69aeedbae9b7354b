"""Where this machine keeps tokens, passwords and keys: the environment, `.env` files, logins."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import constants

# Not TOKENIZERS_PARALLELISM, GIT_AUTHOR_NAME, or the folder PWD.
_SECRET_NAME = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|COOKIE|AUTH(?!OR)|WEBHOOK|CONNECTION_?STRING"
    r"|KEY(?:_?ID)?$|(?:_|^)(?:PASS|DSN)$|.(?<!OLD)PWD$",
    re.IGNORECASE,
)
_PLACE_NAME = re.compile(r"(?:PATH|FILE|DIR|SOCK)$", re.IGNORECASE)
_IN_URL = re.compile(r"\w://([^\s/@'\"<>]+)@")
_PLAIN_URL = re.compile(r"\w+://[^\s@?]*")
_LONGEST_FILE = 2**20
_SHORTEST_USER = 16  # in front of a password stands a name; alone, before the @ of a URL, a token


def list_known_secrets(folders: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Every value that this machine keeps as a secret, and words that say where it does, without the value.

    Read are the environment (by the names of its variables, and passwords in URLs such as HTTPS_PROXY's), files whose
    names begin with `.env` and the remotes of git in `folders` and above them, what `hf auth login` saved, `.netrc`
    (Weights & Biases' key among them), and the stores of git and AWS in the home folder.

    Args:
        folders: Where a run, its data and this process are.
    """
    yield from _secrets_of(os.environ.items(), "in the environment")
    above = {parent for folder in folders for path in _forms(folder) for parent in (path, *path.parents)}
    for folder in sorted(above):
        for path in _list_env_files(folder):
            yield from _secrets_of(_read_assignments(path), f"in {path}")
        yield from _secrets_in_urls(_read(folder / ".git" / "config"), "a remote of git")
    saved = Path(constants.HF_TOKEN_PATH)
    yield _read(saved).strip(), "the token that `hf auth login` saved"
    yield from _secrets_of(_read_assignments(saved.with_name("stored_tokens")), "that `hf auth login` saved")
    try:
        home = Path.home()
    except RuntimeError:  # a container without one
        return
    for path in {home / ".netrc", home / "_netrc", Path(os.environ.get("NETRC") or home / ".netrc")}:
        # Not by Python's `netrc`, which refuses files that others may read, and keeps one password a machine.
        for quoted, plain in re.findall(r"\bpassword\s+(?:\"([^\"]*)\"|(\S+))", _read(path)):
            yield quoted or plain, f"a password of {path}"
    for path in (home / ".git-credentials", home / ".config" / "git" / "credentials"):
        yield from _secrets_in_urls(_read(path), f"a password of {path}")
    yield from _secrets_of(_read_assignments(home / ".aws" / "credentials"), "of the AWS credentials")


def list_given_secrets(words: Sequence[str]) -> Iterator[str]:
    """What a command line gives to an option for secrets, a misspelt one (`--hub_tokn`) included."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if re.match(r"--?[\w-]*?(?:to?k|secret|passw|key)", name, re.IGNORECASE):
            value = value if equals else following
            if value and not value.startswith("-"):
                yield value


def _forms(folder: Path) -> set[Path]:
    try:
        return {folder.absolute(), folder.resolve()}
    except (OSError, RuntimeError):  # a link that leads to itself
        return {folder.absolute()}


def _secrets_of(assignments: Iterable[tuple[str, str]], where: str) -> Iterator[tuple[str, str]]:
    for name, value in assignments:
        said = f"the value of {name} {where}"
        yield from _secrets_in_urls(value, said)
        if _SECRET_NAME.search(name) and not _PLACE_NAME.search(name) and not _PLAIN_URL.fullmatch(value):
            yield value, said


def _secrets_in_urls(text: str, where: str) -> Iterator[tuple[str, str]]:
    """Of https://user:password@host the password; of https://token@host the token."""
    for account in _IN_URL.findall(text):
        user, colon, password = account.partition(":")
        for part in [password] if colon else [user] if len(user) >= _SHORTEST_USER else []:
            yield part, where
            yield unquote(part), where


def _list_env_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.startswith(".env"))
    except OSError:
        return []


def _read(path: Path) -> str:
    """Its text; nothing if it isn't a plain file: a pipe would hold us for ever."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            content = file.read(_LONGEST_FILE)
    except OSError:
        return ""
    return content.decode("utf-8", errors="replace")


def _read_assignments(path: Path) -> Iterator[tuple[str, str]]:
    for line in _read(path).lstrip("\ufeff").splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            value = value.strip()
            quoted = re.match(r"(['\"])(.*?)\1", value)
            yield name.strip(), quoted[2] if quoted else re.split(r"\s#", value)[0].strip()
