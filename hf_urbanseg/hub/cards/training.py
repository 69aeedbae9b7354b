"""How a run was trained, in words."""

from collections.abc import Mapping
from dataclasses import MISSING, fields

from hf_urbanseg.config import AugmentationArguments, LossArguments, ModelArguments
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.hub.cleaning.local_paths import last_name
from hf_urbanseg.training_arguments import UrbanSegTrainingArguments


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
        first = run.get("resumed_from_step")
        steps = (
            f"{run.get('steps')} steps" if first is None else f"steps {first + 1} to {run.get('steps')}, after a resume"
        )
        rows.append(("wall time", f"{_duration(run['seconds'])} for {steps}, measuring included"))
    # Without `training`, the numbers were measured later, maybe on another machine.
    where = ("machine", "versions") if run else ("measured on", "measured with")
    return rows + [(name, text) for name, text in zip(where, _environment(summary, run), strict=True) if text]


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


def _environment(summary: RunSummary, run: Mapping) -> tuple[str, str]:
    """Device and processes; versions."""
    found = dict(summary.metrics.get("environment") or {})
    device, _ = found.pop("device", ""), found.pop("system", None)
    if device and (processes := run.get("processes")):
        device += f", {processes} process{'es' if processes > 1 else ''}"
    return device, ", ".join(f"{name} {version}" for name, version in found.items())


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
