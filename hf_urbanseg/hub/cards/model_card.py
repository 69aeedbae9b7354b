"""README.md of a run: what the model is, how well it does and on what, how to use it, and what it can't do.

Only what lies in the run's folder is said, so a card can be written long after training. Everything from data (names
of classes, images and data sets) is escaped; the front matter is written by huggingface_hub.
"""

import hashlib
import logging
import re
import shlex
from pathlib import Path

from hf_urbanseg import __version__
from hf_urbanseg.files import write_text
from hf_urbanseg.hub.cards.citations import choose_citations, find_paper, read_bibtex
from hf_urbanseg.hub.cards.front_matter import build_front_matter, slugify
from hf_urbanseg.hub.cards.markdown import render_markdown
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.hub.cleaning import last_name, list_local_folders, remove_local_paths
from hf_urbanseg.reports.failure_cases import choose_card_failures
from hf_urbanseg.reports.overlays import name_picture
from hf_urbanseg.reports.tables import COLUMNS, build_class_table
from hf_urbanseg.runs.folder import CARD, RunFolder

logger = logging.getLogger(__name__)

_COLUMNS = ("iou", "accuracy", "precision", "boundary_iou")
_MOST_FAILURES = 5
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
        "columns": [(key, COLUMNS[key][0]) for key in _COLUMNS if key in scores],
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


def measure_command(summary: RunSummary, split: str, repo_id: str) -> str:
    """The command that measures a split again as the run has it."""
    recipe = summary.recipe
    words = ["urbanseg", "evaluate", "--model", repo_id, "--split", split]
    if recipe.get("data_dir"):
        words += ["--data_dir", last_name(str(recipe["data_dir"]))]
        keys = ("label_space", "image_column", "label_column")
        words += [word for key in keys if recipe.get(key) is not None for word in (f"--{key}", str(recipe[key]))]
    # Of what `PredictionPlan.describe` told.
    protocol = str(summary.splits[split].get("protocol") or "")
    if ratios := re.search(r"ratios ([\de.+ -]+?)(?: of|,|$)", protocol):
        words += ["--ratios", *ratios[1].split()]
    if "with and without flip" in protocol:
        words += ["--flip", "true"]
    for option, name in (("sliding_window", "sliding window"), ("stride", "stride")):
        if found := re.search(rf"{name} (\d+)x(\d+)", protocol):
            words += [f"--{option}", *found.groups()]
    return shlex.join(words)


def describe_failures(summary: RunSummary, split: str, pictures: bool) -> list[dict]:
    """The worst images by name, mIoU, first reasons and picture; none where the run left no counts by image."""
    images = summary.read_images(split)
    if images is None:
        return []
    files = [*summary.list_pictures("failures"), *summary.list_pictures("overlays")] if pictures else []
    by_name = {path.partition("/")[2].rpartition(".")[0]: path for path in reversed(files)}
    return [
        {
            "name": images.names[index],
            "mean_iou": float(images.mean_iou[index]),
            "reasons": reasons[:3],
            "picture": by_name.get(name_picture(images.names[index])),
        }
        for index, reasons in list(choose_card_failures(images).items())[:_MOST_FAILURES]
    ]
