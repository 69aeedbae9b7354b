"""What a card says in words: how the step was chosen, what the model can't do, and how it was trained."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields

from hf_urbanseg.config import AugmentationArguments, LossArguments, ModelArguments
from hf_urbanseg.hub.licence import recognise_data
from hf_urbanseg.hub.local_paths import is_absolute, last_name
from hf_urbanseg.hub.markdown import escape_markdown, join_names
from hf_urbanseg.hub.run_summary import RunSummary
from hf_urbanseg.reports.failure_cases import choose_failure_cases
from hf_urbanseg.training_arguments import UrbanSegTrainingArguments

_FAILURES = 8
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
        return (
            f"{chosen}, the last one: no split chose it, so the choice of the step makes none of the numbers too good."
        )
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
    if ratios := re.search(r"ratios ([\d. ]+?)(?: of|,|$)", protocol):
        words += ["--ratios", *ratios[1].split()]
    if "with and without flip" in protocol:
        words += ["--flip", "true"]
    if window := re.search(r"sliding window (\d+)x(\d+)", protocol):
        words += ["--sliding_window", window[1], window[2]]
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
            "picture": by_name.get(images.names[choice.index]),
        }
        for choice in choose_failure_cases(images, 3, 1)[:_FAILURES]
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


def describe_training(summary: RunSummary) -> list[tuple[str, str]]:
    """The options that matter, in words: only those in effect."""
    if not summary.recipe:
        return []
    # A recipe written by hand leaves out what it doesn't change.
    recipe, run = _defaults() | summary.recipe, summary.metrics.get("training") or {}
    rows = [("start", _start(summary)), ("loss", _loss(recipe)), ("class weights", _weights(summary))]
    if recipe.get("auxiliary_head"):
        rows.append(("auxiliary head", f"FCN on stage {recipe.get('auxiliary_stage')}, weight "
                     f"{recipe.get('auxiliary_weight')}; not in the published model"))  # fmt: skip
    rows += [("optimiser", _optimiser(recipe)), ("schedule", _schedule(recipe)), ("batch", _batch(recipe, run))]
    scales, crop = (
        ", ".join(map(str, recipe.get("train_scales") or [])),
        "x".join(map(str, recipe.get("crop_size") or [])),
    )
    distortion = "on" if recipe.get("photometric") else "off"
    augmentation = f"scales {scales}; crops {crop}; flip {recipe.get('flip')}; photometric distortion {distortion}"
    dropout = f"drop path {recipe.get('drop_path_rate')}, before the classifier {recipe.get('classifier_dropout_prob')}"
    rows += [("augmentation", augmentation), ("dropout", dropout)]
    precision = [name for name in ("bf16", "fp16") if recipe.get(name)]
    rows.append(("precision", f"{precision[0]} in training, fp32 in measuring" if precision else "fp32"))
    if recipe.get("ema_decay"):
        exported = "exported" if recipe.get("export_ema") else "measured beside the raw weights, which are exported"
        rows.append(("averaged weights", f"decay {recipe['ema_decay']}, {exported}"))
    rows.append(("seed", str(recipe.get("seed", run.get("seed")))))
    if run.get("seconds"):
        rows.append(("wall time", f"{_duration(run['seconds'])} for {run.get('steps')} steps, measuring included"))
    return rows


def _defaults() -> dict:
    types = (ModelArguments, AugmentationArguments, LossArguments, UrbanSegTrainingArguments)
    return {
        f.name: f.default if f.default_factory is MISSING else f.default_factory() for one in types for f in fields(one)
    }


def _start(summary: RunSummary) -> str:
    if summary.recipe.get("init") == "random":
        return "random weights, nothing pre-trained"
    if summary.base is None:
        return "not recorded"
    revision = summary.recipe.get("model_revision")
    return f"{summary.base}{f' at revision {revision}' if revision else ''}"


def _loss(recipe: Mapping) -> str:
    text = str(recipe.get("loss", "cross_entropy")).replace("_", "-")
    if text == "ohem":
        threshold = recipe.get("ohem_threshold")
        rule = f"probability below {threshold}" if threshold is not None else "largest losses"
        text = f"OHEM cross-entropy ({rule}, at least {recipe.get('ohem_min_kept', 0):,} pixels an image)"
    elif text == "focal":
        text += f" (gamma {recipe.get('focal_gamma')})"
    more = "".join(f" + {word}" for word in recipe.get("add_losses") or [])
    divisor = {"valid_pixels": "labelled pixels", "weight_sum": "summed weights"}.get(recipe.get("normalizer"))
    return f"{text}{more}" + (f", divided by {divisor}" if divisor else "")


def _weights(summary: RunSummary) -> str:
    chosen = summary.recipe.get("class_weights") or summary.weights.get("scheme")
    if chosen == "none" or not summary.weights:
        return "none"
    return f"{last_name(str(chosen))}, from the pixels of {summary.weights.get('source', 'train')}"


def _optimiser(recipe: Mapping) -> str:
    factor = recipe["head_lr_multiplier"]
    head = f", x{factor:g} outside the encoder" if factor != 1 else ""
    return f"AdamW, learning rate {recipe['learning_rate']:g}{head}, weight decay {recipe.get('weight_decay')}"


def _schedule(recipe: Mapping) -> str:
    kind = recipe.get("lr_scheduler_type", "polynomial")
    power = f" of power {recipe.get('lr_power'):g}" if kind == "polynomial" and recipe.get("lr_power") else ""
    cycles = recipe.get("lr_cycles") or 1
    restarts = f", {cycles} cycles" if cycles > 1 else ""
    warmup = recipe.get("warmup_steps") or 0
    return f"{kind}{power}, {recipe.get('max_steps')} steps, warm-up {warmup:g}{restarts}"


def _batch(recipe: Mapping, run: Mapping) -> str:
    size, processes = recipe.get("per_device_train_batch_size", 8), run.get("processes") or 1
    steps = recipe.get("gradient_accumulation_steps", 1)
    factors = [f"{size} crops"]
    factors += [f"{processes} processes"] if processes > 1 else []
    factors += [f"{steps} accumulated"] if steps > 1 else []
    return " x ".join(factors) + (f" = {size * processes * steps}" if len(factors) > 1 else "")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
