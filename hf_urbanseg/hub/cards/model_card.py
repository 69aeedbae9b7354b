"""README.md of a run: what the model is, how well it does and on what, how to use it, and what it can't do.

Only what lies in the run's folder is said, so a card can be written long after training. Everything from data (names
of classes, images and data sets) is escaped; the front matter is written by huggingface_hub.
"""

import hashlib
import logging
import os
import re
from pathlib import Path

import yaml

from hf_urbanseg import __version__
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.hub.cards.citations import BIBTEX, choose_citations
from hf_urbanseg.hub.cards.front_matter import build_front_matter, slugify
from hf_urbanseg.hub.cards.licence import Licence, choose_licence
from hf_urbanseg.hub.cards.markdown import format_percent, render_markdown
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.hub.cards.sections import (
    describe_failures,
    describe_files,
    describe_limits,
    describe_selection,
    measure_command,
)
from hf_urbanseg.hub.cards.training import describe_training
from hf_urbanseg.hub.cleaning.local_paths import list_local_folders, remove_local_paths, shorten_options
from hf_urbanseg.reports.tables import build_class_table

logger = logging.getLogger(__name__)

CARD = "README.md"
_MOST_OVERLAYS, _MOST_NOTES = 12, 20
_LONGEST_RECIPE = 20_000  # characters; the Hub reads no card above 10 MB, and a reader none of that length
_MARK = re.compile(r"\n<!-- hf_urbanseg wrote this card; sha256 of the text above: ([0-9a-f]{64}) -->\s*\Z")


def build_model_card(run: str | Path, repo_id: str | None = None, pictures: bool | None = None) -> str:
    """The card of a finished run.

    Args:
        run: Folder of the run.
        repo_id: `user/name` in the examples; None puts a name that the reader replaces.
        pictures: Also show pictures made from images of the data (overlays, failures), which have a licence of their
            own. Curves and charts are always shown. Default: unless the data's terms are known to forbid it.

    Returns:
        Front matter, text and a last line by which `write_model_card` knows whether somebody changed them.

    Raises:
        ModelError: The run is not finished.
        DataError: One of its files can't be read.
    """
    summary = RunSummary.read(run)
    pictures = summary.shows_pictures(pictures)
    licence = _licence(summary)
    shown = next(iter(summary.splits), None)
    scores = summary.splits.get(shown) or {}
    options = shorten_options(dict(summary.recipe))
    recipe = yaml.safe_dump(options, sort_keys=False, allow_unicode=True) if options else ""
    recipe = remove_local_paths(recipe, summary.local_folders) if len(recipe) <= _LONGEST_RECIPE else ""
    data = summary.metrics.get("data") or {}
    context = {
        "run": summary,
        "repo_id": repo_id or f"user/{slugify(summary.folder)}",
        "named": repo_id is not None,
        "licence": licence,
        "split": shown,
        "scores": scores,
        "rows": (rows := build_class_table(scores, summary.label_space) if scores.get("iou") else []),
        "columns": (columns := _columns(scores)),
        "dashes": any(format_percent(row[key]) == "–" for row in rows for key, _ in columns),
        "selection": describe_selection(summary, shown),
        "command": measure_command(summary, shown, repo_id or f"user/{slugify(summary.folder)}") if shown else "",
        "failures": describe_failures(summary, shown, pictures) if shown else [],
        "overlays": summary.list_pictures("overlays") if pictures else [],
        "most": _MOST_OVERLAYS,
        "most_notes": _MOST_NOTES,
        "images": data.get("images") or {},
        "notes": data.get("notes") or [],
        "distribution": _distribution(summary),
        "training": describe_training(summary),
        "limits": describe_limits(summary, shown),
        "recipe": recipe,
        "files": describe_files(summary, shown, pictures),
        "citations": "\n".join(BIBTEX[key] for key in _citations(summary, scores)),
        "version": __version__,
    }
    front = build_front_matter(summary, licence, repo_id)
    return _finish(front, render_markdown("model_card.md.j2", **context))


def build_interim_card(run: str | Path, step: int, max_steps: int) -> str:
    """A card for a repository whose model is still being trained.

    Args:
        run: Folder of the run.
        step, max_steps: Of the checkpoint that goes with the card, and of the run.

    Raises:
        DataError: A file of the run can't be read.
    """
    summary = RunSummary.read(run, f"checkpoint-{step}")
    licence = _licence(summary)
    context = {"run": summary, "licence": licence, "step": step, "max_steps": max_steps, "version": __version__}
    return _finish(build_front_matter(summary, licence), render_markdown("interim_card.md.j2", **context))


def write_model_card(run: str | Path, repo_id: str | None = None, pictures: bool | None = None) -> bool:
    """Writes README.md, whole or not at all; one that a person has written or changed is kept, and the log says so.

    Args:
        run, repo_id, pictures: As for `build_model_card`.

    Returns:
        Whether README.md is now the run's card.

    Raises:
        ModelError, DataError: As for `build_model_card`.
        ConfigError: The file can't be written.
    """
    path = Path(run) / CARD
    try:
        if path.exists() and not is_generated(path.read_text(encoding="utf-8", errors="replace")):
            logger.info("%s was written or changed by hand and is kept; delete it to have it written anew", path)
            return False
        text = build_model_card(run, repo_id, pictures)
        staged = path.with_name(f".{CARD}.tmp")
        staged.write_bytes(text.encode())
        os.replace(staged, path)
    except OSError as error:
        raise ConfigError("a card that can be written", error.strerror or f"{error}", "make room", path) from error
    return True


def read_edited_card(run: str | Path) -> bytes | None:
    """README.md of a run, without paths of this machine, if a person has written or changed it."""
    try:
        text = (Path(run) / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return None if is_generated(text) else remove_local_paths(text, list_local_folders(Path(run), {})).encode()


def is_generated(text: str) -> bool:
    """Whether a card is as this module wrote it."""
    text = text.replace("\r\n", "\n")
    mark = _MARK.search(text)
    return mark is not None and mark[1] == _hash(text[: mark.start()])


def _finish(front: str, body: str) -> str:
    text = f"---\n{front}\n---\n\n{body.strip()}\n"
    return f"{text}\n<!-- hf_urbanseg wrote this card; sha256 of the text above: {_hash(text)} -->\n"


def _hash(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()


def _licence(summary: RunSummary) -> Licence:
    return choose_licence(summary.base, summary.base_is_hub, summary.data_name, summary.data_is_hub)


def _columns(scores: dict) -> list[tuple[str, str]]:
    known = (("iou", "IoU"), ("accuracy", "accuracy"), ("precision", "precision"), ("dice", "Dice"),
             ("boundary_iou", "boundary IoU"))  # fmt: skip
    return [(key, name) for key, name in known if key in scores]


def _distribution(summary: RunSummary) -> list[dict]:
    """Training pixels and weight of each class; empty where the run didn't weigh them."""
    counts, weights = summary.weights.get("counts") or {}, summary.weights.get("weights") or {}
    total = max(sum(counts.values()), 1)
    return [
        {"name": name, "pixels": counts[name], "share": counts[name] / total, "weight": weights.get(name)}
        for name in summary.label_space.names
        if name in counts
    ]


def _citations(summary: RunSummary, scores: dict) -> list[str]:
    recipe = dict(summary.recipe)
    if not summary.weights:
        recipe.pop("class_weights", None)
    return choose_citations(recipe, summary.data_kind, summary.base, "boundary_iou" in scores)
