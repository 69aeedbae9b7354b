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
from huggingface_hub import EvalResult, ModelCardData

from hf_urbanseg import __version__
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.hub.card_sections import (
    describe_failures,
    describe_limits,
    describe_selection,
    describe_training,
    measure_command,
)
from hf_urbanseg.hub.citations import BIBTEX, choose_citations
from hf_urbanseg.hub.licence import Licence, choose_licence
from hf_urbanseg.hub.local_paths import list_local_folders, remove_local_paths, shorten_options
from hf_urbanseg.hub.markdown import flatten, render_markdown
from hf_urbanseg.hub.run_summary import RunSummary
from hf_urbanseg.reports.tables import build_class_table

logger = logging.getLogger(__name__)

CARD = "README.md"
_SCORES = (("mean_iou", "Mean IoU"), ("mean_accuracy", "Mean accuracy"), ("overall_accuracy", "Overall accuracy"))
_MARK = re.compile(r"\n<!-- hf_urbanseg wrote this card; sha256 of the text above: ([0-9a-f]{64}) -->\s*\Z")


def build_model_card(run: str | Path, repo_id: str | None = None, pictures: bool = True) -> str:
    """The card of a finished run.

    Args:
        run: Folder of the run.
        repo_id: `user/name` in the examples; None puts a name that the reader replaces.
        pictures: Also show pictures made from images of the data (overlays, failures), which have a licence of their
            own. Curves and charts are always shown.

    Returns:
        Front matter, text and a last line by which `write_model_card` knows whether somebody changed them.

    Raises:
        ModelError: The run is not finished.
        DataError: One of its files can't be read.
    """
    summary = RunSummary.read(run)
    licence = _licence(summary)
    shown = next(iter(summary.splits), None)
    scores = summary.splits.get(shown) or {}
    options = shorten_options(dict(summary.recipe))
    recipe = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    data = summary.metrics.get("data") or {}
    context = {
        "run": summary,
        "repo_id": repo_id or f"user/{_slug(summary.folder)}",
        "named": repo_id is not None,
        "licence": licence,
        "split": shown,
        "scores": scores,
        "rows": build_class_table(scores, summary.label_space) if scores.get("iou") else [],
        "columns": _columns(scores),
        "selection": describe_selection(summary, shown),
        "command": measure_command(summary, shown, repo_id or f"user/{_slug(summary.folder)}") if shown else "",
        "failures": describe_failures(summary, shown, pictures) if shown else [],
        "overlays": summary.list_pictures("overlays") if pictures else [],
        "images": data.get("images") or {},
        "notes": data.get("notes") or [],
        "distribution": _distribution(summary),
        "training": describe_training(summary),
        "limits": describe_limits(summary, shown),
        "recipe": remove_local_paths(recipe, summary.local_folders) if options else "",
        "environment": summary.metrics.get("environment") or {},
        "citations": "\n".join(BIBTEX[key] for key in _citations(summary, scores)),
        "version": __version__,
    }
    front = _front_matter(summary, licence, repo_id)
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
    return _finish(_front_matter(summary, licence), render_markdown("interim_card.md.j2", **context))


def write_model_card(run: str | Path, repo_id: str | None = None, pictures: bool = True) -> bool:
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


def _front_matter(summary: RunSummary, licence: Licence, repo_id: str | None = None) -> str:
    base = summary.base if summary.base_is_hub else None
    kinds = [summary.data_kind, "cityscapes" if "cityscapes" in (summary.base or "").lower() else None]
    results = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=summary.data_name if summary.data_is_hub else _slug(summary.data_name),
            dataset_name=flatten(summary.data_title),
            dataset_split=split,
            metric_type=key,
            metric_name=name,
            metric_value=scores[key],
            metric_args={key: scores[key] for key in ("protocol", "num_images") if key in scores},
        )
        for split, scores in summary.splits.items()
        for key, name in _SCORES
        if scores.get(key) is not None
    ]
    data = ModelCardData(
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link if licence.id == "other" else None,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=[summary.data_name] if summary.data_is_hub else None,
        tags=["segformer", "semantic-segmentation", *dict.fromkeys(filter(None, kinds)), "hf_urbanseg"],
        metrics=["mean_iou"],
        model_name=_slug(repo_id.rpartition("/")[2] if repo_id else summary.folder) if results else None,
        eval_results=results or None,
    )
    return data.to_yaml(line_break="\n")


def _slug(name: str | Path) -> str:
    """A name that the Hub takes as one: `[\\w.-]`, up to 96 characters."""
    if isinstance(name, Path):
        name = name.resolve().name
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")
    return re.sub(r"([-.])[-.]+", r"\1", slug)[:90].rstrip("-.") or "model"


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
