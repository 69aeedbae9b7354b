"""Notes what a hostile input did: ran, wrote outside, asked the network, or got into a page or onto the terminal."""

import csv
import os
import re
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

MARK = "PWNED"
OUTSIDE = "/etc/passwd"  # that something names
_LOG = "watched.txt"


def watch(folder: Path) -> None:
    """In the new process: not offline; what asks for the network, or writes outside, is noted and refused."""
    import datasets
    import huggingface_hub

    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = False
    root = folder.parent
    caches = str(Path.home() / ".cache"), str(Path.home() / ".config")  # matplotlib's fonts
    allowed = (str(root), f"{tempfile.gettempdir()}/tmp", "/dev/", "/proc/self/", *caches)
    log = os.open(root / _LOG, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def note(event: str, args: tuple) -> None:
        if event in ("socket.connect", "socket.getaddrinfo") and not str(args[-1]).startswith("/"):
            os.write(log, f"{event} {args[1:]!r:.200}\n".encode())
            raise ConnectionRefusedError("no network here")
        if event == "open" and args[0] == OUTSIDE:
            os.write(log, b"read outside\n")
        elif event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            path = os.path.abspath(args[0])
            if not path.startswith(allowed):
                os.write(log, f"write {path!r}\n".encode(errors="replace"))

    sys.addaudithook(note)


def describe_harm(ended, folder: Path, before: dict, after: dict) -> str | None:
    root = folder.parent
    log = (root / _LOG).read_text() if (root / _LOG).exists() else ""
    (root / _LOG).unlink(missing_ok=True)
    marks = [path for path in root.rglob(f"*{MARK}*") if path.name == MARK and str(path) not in before]
    for path in marks:
        path.unlink()
    if marks:
        return f"executed or written outside: {marks[0]}"
    if log:
        return log.splitlines()[0]
    if "[y/N]" in ended.out + ended.err:
        return "asked whether to run code"
    if f"\x1b]0;{MARK}" in ended.out + ended.err:
        return "an escape sequence reached the terminal"
    if ended.status not in (0, 2):
        return ended.describe_refusal()
    for name in after.keys() - before.keys():
        if harm := _describe_page(Path(name)):
            return f"{Path(name).name}: {harm}"
    return None


def _describe_page(path: Path) -> str | None:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        wrong = [cell for cell in cells if cell[:1] in ("=", "+", "@", "\t", "\r") or re.match(r"-[^\d.]", cell)]
        return f"a formula {wrong[0]!r}" if wrong else None
    if path.suffix not in (".html", ".htm", ".md", ".svg"):
        return None
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # YAML that nobody renders
        text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        if found := re.search(rf"(?<!\\)\[[^\]\n]*\]\([^)\n]*{MARK}", text):
            return f"a link {found[0]!r}"
        text = text.replace("\\<", "&lt;")
    page = _Page()
    page.feed(text)
    return page.harm


class _Page(HTMLParser):
    """Finds scripts and addresses that came out of a name; inside a quoted attribute it is only text."""

    harm, _tag = None, ""

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        for name, value in attrs:
            value = value or ""
            named = MARK.lower() in name or (MARK in value and (name in ("src", "href") or name.startswith("on")))
            if named and not value.startswith("data:"):
                self.harm = f"<{tag} {name}={value!r:.80}>"

    def handle_data(self, data):
        if self._tag == "script" and data.strip() == MARK:
            self.harm = f"<script>{data}"
