"""What a card says in words: how the step was chosen, where the model fails, what it can't do, how it was trained."""

import re
import shlex

from hf_urbanseg.hub.cards.licence import recognise_data
from hf_urbanseg.hub.cards.markdown import escape_markdown, join_names
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.hub.cleaning import last_name
from hf_urbanseg.reports.failure_cases import choose_card_failures
from hf_urbanseg.reports.overlays import name_picture

_MOST_FAILURES = 5
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
    if by == "last step":
        return f"The weights are those of the last step, {step}: no split was used to choose it."
    chosen = f"The weights are those of step {step}, the best {by}"
    if "test" in summary.splits and "test" not in by:
        return f"{chosen}, whose numbers are too good by selection; test took no part in that and was measured once."
    return f"{chosen}: the numbers on that split are too good by selection."


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


def describe_limits(summary: RunSummary, shown: str | None) -> list[str]:
    """Sentences, each with what in the numbers it comes from; names in them are escaped."""
    scores, limits = summary.splits.get(shown) or {}, []
    counts = (summary.metrics.get("data") or {}).get("images") or {}
    if train := counts.get("train"):
        only = " only" if train < 1000 else ""
        measured = f", measured on {counts[shown]}" if shown in counts else ""
        place = _PLACES.get(recognise_data(summary.data_name), "other places, night and bad weather were not measured")
        limits.append(f"Trained on {train:,} images{only}{measured}; {place}.")
    iou, support = scores.get("iou") or {}, scores.get("support") or {}
    seen, on = summary.weights.get("counts") or {}, escape_markdown(shown)
    never = [name for name, value in iou.items() if value == 0]
    barely = [name for name, value in iou.items() if value is not None and 0 < value < 0.1]
    absent = [name for name, pixels in support.items() if not pixels and name not in never]
    for said, names in (
        ("Never seen in training", [name for name in summary.label_space.names if seen.get(name) == 0]),
        (f"Not learnt (IoU 0 % on {on})", never),
        ("Hardly learnt (IoU below 10 %)", barely),
        (f"Not measured (no labelled pixel on {on})", absent),
    ):
        limits += [f"{said}: {join_names(names)}."] if names else []
    if scores.get("confidence_interval"):
        limits.append("The interval speaks of the choice of images alone; another seed of training was not tried.")
    if summary.size:
        height, width = summary.size
        limits.append(f"Images are resized to {height} x {width} pixels (height x width) whatever their shape.")
    return limits


def describe_training(summary: RunSummary) -> list[tuple[str, str]]:
    """The options in effect that matter most, in words; none where a recipe by hand leaves them to defaults."""
    recipe, run = summary.recipe, summary.metrics.get("training") or {}
    if not {"learning_rate", "loss", "max_steps", "crop_size", "train_scales"} <= recipe.keys():
        return []
    loss = " + ".join([str(recipe["loss"]).replace("_", "-"), *(recipe.get("add_losses") or [])])
    head = f", x{recipe['head_lr_multiplier']:g} outside the encoder" if recipe.get("head_lr_multiplier") else ""
    cycles = f", {recipe['lr_cycles']} cycles" if (recipe.get("lr_cycles") or 1) > 1 else ""
    warmup = f", warm-up {recipe.get('warmup_steps') or 0:g}"
    factors = [f"{recipe.get('per_device_train_batch_size', 8)} crops of {'x'.join(map(str, recipe['crop_size']))}"]
    factors += [f"{run['processes']} processes"] if (run.get("processes") or 1) > 1 else []
    accumulated = recipe.get("gradient_accumulation_steps", 1)
    factors += [f"{accumulated} accumulated"] if accumulated > 1 else []
    augmentation = f"scales {', '.join(map(str, recipe['train_scales']))}"
    augmentation += f", flip {recipe['flip']}" if recipe.get("flip") else ""
    augmentation += ", photometric distortion" if recipe.get("photometric") else ""
    rows = [
        ("start", summary.base or "random weights"),
        ("loss", f"{loss}; class weights {recipe.get('class_weights') if summary.weights else 'none'}"),
        ("optimiser", f"AdamW, learning rate {recipe['learning_rate']:g}{head}"),
        ("steps", f"{recipe['max_steps']}, {recipe.get('lr_scheduler_type', 'polynomial')}{warmup}{cycles}"),
        ("batch", " x ".join(factors)),
        ("augmentation", augmentation),
    ]
    if recipe.get("ema_decay"):
        exported = "exported" if recipe.get("export_ema") else "measured beside the raw weights, which are exported"
        rows.append(("averaged weights", f"decay {recipe['ema_decay']}, {exported}"))
    found = summary.metrics.get("environment") or {}
    if run.get("seconds"):
        first = run.get("resumed_from_step")
        of = f" from step {first + 1} on" if first is not None else ""
        seconds = run["seconds"]
        took = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
        rows.append(("wall time", f"{took}{of}, measuring included, on {found.get('device')}"))
    # Without `training`, the numbers were measured later, maybe with other versions.
    versions = (f"{name} {found[name]}" for name in ("hf_urbanseg", "torch", "transformers") if name in found)
    return [*rows, ("versions" if run else "measured with", ", ".join(versions))] if found else rows
