"""README.md of a run: what the model is, how well it does and on what, how to use it, and what it can't do.

Only what lies in the run's folder is said, so a card can be written long after training. Everything from data (names
of classes, images and data sets) is escaped; the front matter is written by huggingface_hub.
"""

import hashlib
import logging
import re
from pathlib import Path

from hf_urbanseg import __version__
from hf_urbanseg.files import write_text
from hf_urbanseg.hub.cards.citations import choose_citations, find_paper, read_bibtex
from hf_urbanseg.hub.cards.front_matter import build_front_matter, slugify
from hf_urbanseg.hub.cards.markdown import render_markdown
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.hub.cards.sections import describe_failures, measure_command
from hf_urbanseg.hub.cleaning import list_local_folders, remove_local_paths
from hf_urbanseg.reports.tables import build_class_table
from hf_urbanseg.runs.folder import CARD, RunFolder

logger = logging.getLogger(__name__)

_COLUMNS = {"iou": "IoU", "accuracy": "accuracy", "precision": "precision", "boundary_iou": "boundary IoU"}
_MARK = re.compile(r"\n<!-- hf_urbanseg wrote this card; sha256 of the text above: ([0-9a-f]{64}) -->\s*\Z")


def build_model_card(run: str | Path, repo_id: str | None = None, pictures: bool | None = None) -> str:
    """The card of a finished run, with a last line by which `write_model_card` knows whether somebody changed it."""
    summary = RunSummary.read(run)
    pictures = summary.shows_pictures(pictures)
    split = next(iter(summary.splits), None)
    scores = summary.splits.get(split) or {}
    named = repo_id or f"user/{slugify(summary.folder)}"
    data = summary.metrics.get("data") or {}
    architecture = summary.architecture
    used = dict(summary.recipe) | ({} if summary.weights else {"class_weights": None})
    context = {
        "run": summary,
        "repo_id": named,
        "paper": find_paper(architecture),
        "split": split,
        "scores": scores,
        "rows": build_class_table(scores, summary.label_space) if scores.get("iou") else [],
        "columns": [(key, name) for key, name in _COLUMNS.items() if key in scores],
        "command": measure_command(summary, split, named) if split else "",
        "failures": describe_failures(summary, split, pictures) if split else [],
        "picture": next(iter(summary.list_pictures("overlays")), None) if pictures else None,
        "images": data.get("images") or {},
        "notes": (data.get("notes") or [])[:20],
        "known_training": {"learning_rate", "loss", "max_steps", "crop_size", "train_scales"} <= summary.recipe.keys(),
        "bibtex": "\n".join(
            read_bibtex()[key]
            for key in choose_citations(architecture, used, summary.data_kind, summary.base, "boundary_iou" in scores)
        ),
        "version": __version__,
    }
    return _finish(build_front_matter(summary, repo_id), render_markdown("model_card.md.j2", **context))


def build_interim_card(run: str | Path, step: int, max_steps: int) -> str:
    """A card for a repository whose model is still being trained: that of `step`, of `max_steps`."""
    summary = RunSummary.read(run, f"checkpoint-{step}")
    context = {"run": summary, "step": step, "max_steps": max_steps, "version": __version__}
    return _finish(build_front_matter(summary), render_markdown("interim_card.md.j2", **context))


def write_model_card(run: str | Path, repo_id: str | None = None, pictures: bool | None = None) -> bool:
    """Writes README.md, whole or not at all; one that a person has written or changed is kept, and the log says so.

    Args:
        run: Folder of the run.
        repo_id: `user/name` in the examples; None puts a name that the reader replaces.
        pictures: Also show a picture made from images of the data (which have a licence of their own). Default:
            unless the data's terms are known to forbid it.

    Returns:
        Whether README.md is now the run's card.

    Raises:
        ModelError: The run is not finished.
        DataError: One of its files can't be read, or the card not be written.
    """
    path = Path(run) / CARD
    if path.is_file() and not is_generated(path.read_text(encoding="utf-8", errors="replace")):
        logger.info("%s was written or changed by hand and is kept; delete it to have it written anew", path)
        return False
    write_text(path, build_model_card(run, repo_id, pictures))
    return True


def read_edited_card(run: str | Path) -> bytes | None:
    """README.md of a run, without paths of this machine, if a person has written or changed it."""
    path = Path(run) / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    if text is None or is_generated(text):
        return None
    return remove_local_paths(text, list_local_folders(run, RunFolder(run).read_recipe() or {})).encode()


def is_generated(text: str) -> bool:
    """Whether a card is as this module wrote it."""
    text = text.replace("\r\n", "\n")
    mark = _MARK.search(text)
    return mark is not None and mark[1] == _hash(text[: mark.start()])


def _finish(front: str, body: str) -> str:
    text = f"---\n{front.rstrip()}\n---\n\n{body.strip()}\n"
    return f"{text}\n<!-- hf_urbanseg wrote this card; sha256 of the text above: {_hash(text)} -->\n"


def _hash(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()
