"""What a card says in words: how the step was chosen, where the model fails, what it can't do, what lies beside it."""

import re
import shlex

from markupsafe import Markup

from hf_urbanseg.hub.cards.licence import recognise_data
from hf_urbanseg.hub.cards.markdown import escape_markdown, join_names
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.hub.cleaning.local_paths import is_absolute, last_name
from hf_urbanseg.reports.failure_cases import choose_card_failures
from hf_urbanseg.reports.overlays import name_picture

_PLACES = {
    "kitti": "KITTI's images were taken from one car in and around one town, Karlsruhe, in daylight",
    "cityscapes": "Cityscapes' images were taken from one car in cities of Germany and its neighbours, in daylight and "
    "good or medium weather",
    "camvid": "CamVid's images were taken from one car in Cambridge",
    "synthetic": "the images were rendered by a program: the numbers show that training works and say nothing about "
    "real streets",
}


def describe_selection(summary: RunSummary, shown: str | None) -> str:
    """Which split chose the exported step, and what that does to the numbers."""
    selection = summary.metrics.get("selection") or {}
    by, step = str(selection.get("by") or ""), selection.get("exported_step")
    if not by or shown is None:
        return "How the exported step was chosen is not recorded."
    chosen = f"The exported weights are those of step {step}"
    if by == "last step":
        return f"{chosen}, the last one: no split was used to choose it, so the choice makes no number too good."
    splits = summary.splits
    if "test" in splits and "test" not in by:
        return (
            f"{chosen}, the best {by}. The test split took no part in that and was measured once, at the end; the "
            "numbers on validation are too good by selection."
        )
    other = "; no other split was measured" if len(splits) == 1 else ""
    return f"{chosen}, the best {by}: the numbers on that split are too good by selection{other}."


def measure_command(summary: RunSummary, split: str, repo_id: str) -> str:
    """The command that measures a split again as metrics.json has it."""
    recipe = summary.recipe
    words = ["python", "scripts/evaluate.py", "--model", repo_id, "--split", split]
    if recipe.get("data_dir"):
        words += ["--data_dir", last_name(str(recipe["data_dir"]))]
        for key in ("label_space", "image_column", "label_column"):
            value = recipe.get(key)
            if value is not None:
                words += [f"--{key}", last_name(value) if is_absolute(value) else str(value)]
    return shlex.join([*words, *_protocol_options(str((summary.splits[split]).get("protocol") or ""))])


def _protocol_options(protocol: str) -> list[str]:
    """Options of the plan that `PredictionPlan.describe` told of."""
    words = []
    if ratios := re.search(r"ratios ([\de.+ -]+?)(?: of|,|$)", protocol):
        words += ["--ratios", *ratios[1].split()]
    if "with and without flip" in protocol:
        words += ["--flip", "true"]
    if window := re.search(r"sliding window (\d+)x(\d+)", protocol):
        words += ["--sliding_window", window[1], window[2]]
    if stride := re.search(r"stride (\d+)x(\d+)", protocol):
        words += ["--stride", stride[1], stride[2]]
    return words


def describe_failures(summary: RunSummary, split: str, pictures: bool) -> list[dict]:
    """The worst images by name, mIoU, reasons and picture; none where the run didn't leave counts by image."""
    images = summary.read_images(split)
    if images is None:
        return []
    files = [*summary.list_pictures("failures"), *summary.list_pictures("overlays")] if pictures else []
    by_name = {path.partition("/")[2].rpartition(".")[0]: path for path in reversed(files)}
    return [
        {
            "name": images.names[choice.index],
            "mean_iou": float(images.mean_iou[choice.index]),
            "reasons": choice.reasons,
            "picture": by_name.get(name_picture(images.names[choice.index])),
        }
        for choice in choose_card_failures(images)
    ]


def describe_limits(summary: RunSummary, shown: str | None) -> list[str]:
    """Sentences, each with what in the numbers it comes from; names in them are escaped."""
    scores = summary.splits.get(shown) or {}
    counts = (summary.metrics.get("data") or {}).get("images") or {}
    limits = []
    if train := counts.get("train"):
        only = " only" if train < 1000 else ""
        measured = f", measured on {counts[shown]}" if shown in counts else ""
        place = _PLACES.get(recognise_data(summary.data_name))
        limits.append(
            f"Trained on {train:,} images{only}{measured}"
            + (f"; {place}." if place else ". How it does elsewhere, at night or in bad weather was not measured.")
        )
        if place and summary.data_kind != "synthetic":
            limits.append("Other places, cameras, night, rain and snow were not measured.")
    seen = summary.weights.get("counts") or {}
    if unseen := [name for name in summary.label_space.names if seen.get(name) == 0]:
        limits.append(f"Never seen in training (no pixel of the train split): {join_names(unseen)}.")
    iou, support = scores.get("iou") or {}, scores.get("support") or {}
    never = [name for name, value in iou.items() if value == 0]
    if never:
        limits.append(f"Not learnt (IoU 0 % on {escape_markdown(shown)}): {join_names(never)}.")
    if barely := [name for name, value in iou.items() if value is not None and 0 < value < 0.1]:
        limits.append(f"Hardly learnt (IoU below 10 %): {join_names(barely)}.")
    if absent := [name for name, pixels in support.items() if not pixels and name not in never]:
        limits.append(f"Not measured (no labelled pixel on {escape_markdown(shown)}): {join_names(absent)}.")
    if scores.get("confidence_interval"):
        limits.append(
            "The interval speaks of the choice of images alone; another seed of training was not tried for this card."
        )
    if summary.size:
        height, width = summary.size
        limits.append(
            f"Images are resized to {height} x {width} pixels (height x width) whatever their shape; shapes far from "
            "that are distorted and were not measured."
        )
    return limits


_FILES = (
    ("metrics.json", "every number of this page, the confusion matrix, versions, wall time"),
    ("per_image_{split}.json", "pixel counts image by image: compare two models with `scripts/compare.py`"),
    ("recipe.yaml", "the options of the training, to repeat it"),
    ("training_arguments.json", "every training argument in effect, transformers' defaults included"),
    ("splits.yaml", "which frames were used for what"),
    ("class_weights.json", "pixels and weight of each class"),
    ("label_space.json", "classes, their colours, and how label files spell them"),
    ("log_history.json", "loss, learning rate and validation scores over the steps"),
    ("report.html", "failure cases and tables as one page"),
)


def describe_files(summary: RunSummary, shown: str | None, pictures: bool = True) -> list[tuple[str, Markup]]:
    """Name and content of the files beside the card that a reader may want, those that are there."""
    named = [(name.format(split=shown), Markup(what)) for name, what in _FILES]
    return [(name, what) for name, what in named if summary.has(name) and (pictures or name != "report.html")]
