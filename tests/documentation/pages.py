"""The Markdown pages as what a reader does with them: commands to type, Python to run, links to follow."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(r"[|<>;`$*\\&]")
"""Of the shell, what no command in the pages needs: the test reads none of it."""


@dataclass(frozen=True)
class Command:
    """One command of a bash block, as words.

    Args:
        place: Page and line, for messages.
        words: Without the assignments in front.
        environment: Those assignments, and those of `export` before it in its block.
    """

    place: str
    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self):
        return f"{self.place} {' '.join(self.words)[:60]}"


def read_blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Line number and content of each fenced block of that language."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: match.start()].count("\n") + 2, match[2]) for match in _BLOCK.finditer(text) if match[1] == language
    ]


def read_prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def read_commands(page: Path) -> list[Command]:
    """Every command of the page's bash blocks: continued lines joined, comments dropped, `&&` and `export` understood.

    Raises:
        ValueError: Shell that this doesn't read.
    """
    commands = []
    for first, block in read_blocks(page, "bash"):
        exported, number = {}, first
        for line in re.split(r"(?<!\\)\n", block):
            place, number = f"{page.name}:{number}", number + line.count("\n") + 1
            words = shlex.split(line.replace("\\\n", " "), comments=True)
            if any(_SHELL.search(word) for word in words if word != "&&"):
                raise ValueError(f"{place}: shell that the test doesn't read: {line}")
            for part in _split(words, "&&"):
                assigned = []
                is_export = part[:1] == ["export"]
                part = part[1:] if is_export else part
                while part and re.match(r"[A-Z_]+=", part[0]):
                    assigned.append(part.pop(0).partition("=")[::2])
                if is_export:
                    if part or not assigned:
                        raise ValueError(f"{place}: shell that the test doesn't read: {line}")
                    exported |= dict(assigned)
                elif part:
                    commands.append(Command(place, tuple(part), tuple({**exported, **dict(assigned)}.items())))
    return commands


def read_links(page: Path) -> list[str]:
    """Targets of links and pictures that are no addresses."""
    targets = re.findall(r"\]\(([^)\s]+)\)", read_prose(page))
    return [target for target in targets if not re.match(r"https?://|mailto:", target)]


def read_anchors(page: Path) -> set[str]:
    """What `page#...` can name: its headings as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", read_prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _split(words: list[str], separator: str) -> list[list[str]]:
    parts = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts
