"""The front matter of a model's card: what the Hub's filters, links and table of results are made of."""

import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from hf_urbanseg.escaping import flatten
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.runs.folder import METRICS

_SCORES = (("mean_iou", "Mean IoU"), ("mean_accuracy", "Mean accuracy"), ("overall_accuracy", "Overall accuracy"))


def build_front_matter(summary: RunSummary, repo_id: str | None = None) -> str:
    """YAML without its fences; scores are in [0, 1], as `evaluate`'s mean_iou gives them.

    With `repo_id`, its name becomes the model's, and each score says where it comes from.
    """
    licence = summary.licence
    base = summary.base if summary.base_is_hub else None
    kinds = [summary.data_kind, "cityscapes" if "cityscapes" in (summary.base or "").lower() else None]
    results = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=summary.data_name if summary.data_is_hub else slugify(summary.data_name),
            dataset_name=flatten(summary.data_title),
            dataset_config=summary.recipe.get("dataset_config"),
            dataset_revision=summary.recipe.get("dataset_revision"),
            dataset_split=split,
            metric_type=key,
            metric_name=name,
            metric_value=scores[key],
            metric_args={key: scores[key] for key in ("protocol", "num_images") if key in scores},
            source_name=METRICS if repo_id else None,
            source_url=f"https://huggingface.co/{repo_id}/blob/main/{METRICS}" if repo_id else None,
        )
        for split, scores in summary.splits.items()
        for key, name in _SCORES
        if scores.get(key) is not None
    ]
    return ModelCardData(
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        library_name="transformers" if summary.is_stock else "hf_urbanseg",
        pipeline_tag="image-segmentation",
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=[summary.data_name] if summary.data_is_hub else None,
        tags=[summary.architecture, "semantic-segmentation", *filter(None, dict.fromkeys(kinds)), "hf_urbanseg"],
        metrics=["mean_iou"],
        model_name=slugify(repo_id.rpartition("/")[2] if repo_id else summary.folder) if results else None,
        eval_results=results or None,
    ).to_yaml(line_break="\n")


def slugify(name: str | Path) -> str:
    """A name that the Hub takes as one: `[\\w.-]`, up to 96 characters."""
    if isinstance(name, Path):
        name = name.resolve().name
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")
    return re.sub(r"([-.])[-.]+", r"\1", slug)[:90].rstrip("-.") or "model"
