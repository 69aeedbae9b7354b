"""What training leaves when it is done: metrics, tables, curves, overlays and failures."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.rgb import to_array, to_rgb
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.escaping import spell_out
from hf_urbanseg.inference.evaluation import Measurement
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.progress import show_progress
from hf_urbanseg.reports.failure_cases import CARD_FAILURES, choose_card_failures
from hf_urbanseg.reports.formats import format_percent
from hf_urbanseg.reports.overlays import clear_comparisons, name_picture, save_comparison
from hf_urbanseg.reports.plots import plot_class_iou, plot_training_curves
from hf_urbanseg.reports.tables import print_class_table, write_class_table
from hf_urbanseg.runs import folder as names
from hf_urbanseg.runs.environment import describe_environment
from hf_urbanseg.runs.folder import RunFolder, describe_data, per_class
from hf_urbanseg.runs.remeasured import is_own_folder, merge_metrics
from hf_urbanseg.runs.scores import describe_scores


def write_run_report(
    run: RunFolder,
    trainer,
    data: LoadedData,
    measured: Mapping[str, Measurement],
    constant: int,
    weights: str,
    training: Mapping,
    overlays: int,
) -> None:
    """Writes a finished run's numbers and pictures.

    Args:
        trainer: A transformers `Trainer` that has trained; its model is the exported one.
        measured: By split.
        constant: Train id of the constant guess, the commonest class of train.
        weights: sha256 of the exported model's.
        training: Seconds, steps, ..., for the metrics.
        overlays: Pictures of predictions; 0 for none, nor of failures.
    """
    state = trainer.state
    predictor = Predictor(trainer.model, trainer.processing_class)
    selected = trainer.args.load_best_model_at_end and state.best_global_step
    metric = (trainer.args.metric_for_best_model or "").removeprefix("ema_")
    scores = {
        split: write_split_files(run, split, measurement, predictor, data, constant, weights)
        for split, measurement in measured.items()
    }
    run.write_log(state.log_history)
    run.write_metrics({
        "splits": scores,
        "selection": {
            "exported_step": state.best_global_step if selected else state.global_step,
            "by": f"{metric} of validation" if selected else "last step",
            "averaged": bool(getattr(trainer.args, "export_ema", False)),
        },
        "data": describe_data(data),
        "training": dict(training),
        "environment": describe_environment(),
    })  # fmt: skip
    plot_training_curves(state.log_history, run.path / names.TRAINING_CURVES)
    if measured:
        shown = choose_shown_split(measured)
        # Who wants no pictures of the data in the run wants none of failures.
        failures = CARD_FAILURES if overlays else 0
        save_pictures(run, predictor, data, shown, measured[shown], overlays, failures)
    else:
        for folder in (names.OVERLAYS, names.FAILURES):  # an earlier run's
            clear_comparisons(run.path / folder)


def choose_shown_split(splits: Mapping) -> str:
    """The split that a run is judged by: test, else validation, else the first."""
    return next((split for split in ("test", "validation") if split in splits), next(iter(splits)))


def print_run(run: RunFolder) -> None:
    """Prints the table of the split that a finished run is judged by, and a line on how it came about."""
    metrics, space = run.read_metrics(), run.read_label_space()
    selection, training = metrics["selection"], metrics["training"]
    end = f"exported step {selection['exported_step']}, {selection['by']}; {training['seconds']:.0f} s"
    end += ", averaged weights" if selection.get("averaged") else ""
    end += f"; {training['stopped']}" if "stopped" in training else ""
    if skipped := training.get("skipped_frames"):
        end += f"; {skipped} frames could not be trained on, see {run.skipped_frames.name}"
    if metrics["splits"]:
        shown = choose_shown_split(metrics["splits"])
        scores = metrics["splits"][shown]
        guess = scores["constant_guess"]
        print_class_table(scores, space, title=f"{shown}, {scores['num_images']} images")
        others = f"always guessing {guess['class']}: {guess['mean_iou']:.2%}"
        if (run.read_recipe() or {}).get("random_baseline") and run.random_baseline.is_finished:
            baseline = run.random_baseline.read_metrics()["splits"][shown]
            others = f"the same from random weights: {baseline['mean_iou']:.2%}; {others}"
        end = f"{shown} mIoU {scores['mean_iou']:.2%} ({others}); {end}"
    print(spell_out(f"{end}. Everything is in {run.path}/"))


def write_split_files(
    run: RunFolder,
    split: str,
    measurement: Measurement,
    predictor: Predictor,
    data: LoadedData,
    constant: int,
    weights: str | None,
) -> dict:
    """Writes table and chart of a split's classes and its counts image by image, and returns its entry for the
    metrics."""
    space, plan = data.label_space, predictor.plan
    scores = describe_scores(measurement.matrix, space, constant, measurement.images, measurement.calibration)
    for suffix in (".md", ".csv"):
        write_class_table(scores, space, run.path / per_class(split, suffix))
    plot_class_iou(list(scores["iou"].values()), space, run.path / per_class(split, ".png"))
    protocol, inputs = plan.describe(predictor.base_size), plan.count_inputs(predictor.base_size, measurement.sizes)
    inputs = [[*size, count] for size, count in sorted(inputs.items())]
    said = {"protocol": protocol, "plan": asdict(plan), "inputs": inputs, "data": data.name}
    run.write_counts(split, measurement.images, said)
    return {"num_images": len(measurement.images), "protocol": protocol, names.WEIGHTS_SHA256: weights, **scores}


def write_measurement(
    run: RunFolder,
    model: str,
    split: str,
    measurement: Measurement,
    predictor: Predictor,
    data: LoadedData,
    constant: int,
    source: Mapping,
    frames: Mapping,
    failures: int,
) -> None:
    """Writes what a model measured later has to show: into its own run's folder, or one for these numbers alone.

    Args:
        run: Where to; `check_output` has let it pass.
        source: From `describe_source`.
        frames: Of the split, from `describe_frames`.
        failures: Pictures of failures at most, in the model's own folder.
    """
    environment = describe_environment()
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        scores = write_split_files(run, split, measurement, predictor, data, constant, source[names.WEIGHTS_SHA256])
        if not is_own_folder(run.path, model):
            run.write_source(source, data, {split: frames})
            run.write_metrics({"splits": {split: scores}, "environment": environment})
            # What comparing counts operations from.
            predictor.model.config.to_json_file(run.path / "config.json")
            return
    except OSError as error:
        raise ConfigError("a folder to write to", error.strerror or f"{error}", "name another", run.path) from error
    metrics = merge_metrics(run, split, scores, environment, data)
    run.write_metrics(metrics)
    # The card tells of the failures of the split shown; those of an earlier measurement would be others.
    if split == choose_shown_split(metrics["splits"]):
        save_pictures(run, predictor, data, split, measurement, None, min(failures, CARD_FAILURES))


def save_pictures(
    run: RunFolder,
    predictor: Predictor,
    data: LoadedData,
    split: str,
    measurement: Measurement,
    overlays: int | None,
    failures: int = CARD_FAILURES,
) -> None:
    """Writes `overlays/<frame>.jpg` and `failures/<frame>.jpg` in place of those of an earlier measurement.

    Images are predicted again, each once, because to keep every prediction would take memory without bound.

    Args:
        measurement: Of `split`, by the model and plan of `predictor`.
        overlays: Evenly picked images; None leaves those that are there.
        failures: Of those that the card shows, the first so many.
    """
    rows, space, images = data.splits[split], data.label_space, measurement.images
    picked = set() if overlays is None else pick_evenly(len(rows), overlays)
    chosen = dict(list(choose_card_failures(images).items())[:failures])
    clear_comparisons(run.path / names.FAILURES)
    if overlays is not None:
        clear_comparisons(run.path / names.OVERLAYS)
    with show_progress(len(picked | chosen.keys()), "pictures", "image") as bar:
        for index in sorted(picked | chosen.keys()):
            row = rows[index]
            image, file = to_rgb(row["image"]), f"{name_picture(row['name'])}.jpg"
            prediction = predictor.predict([to_array(row["image"])])[0]
            shown = image, prediction, read_train_ids(row["label"], space), space
            title = f"{split}: {row['name']}"
            if index in picked:
                save_comparison(run.path / names.OVERLAYS / file, *shown, title)
            if index in chosen:
                score = f"mIoU {format_percent(images.mean_iou[index])} %"
                save_comparison(run.path / names.FAILURES / file, *shown, f"{title}, {score}", "\n".join(chosen[index]))
            bar.update()


def pick_evenly(length: int, count: int) -> set[int]:
    """Indices of `count` of `length` images, the first and the last among them."""
    return set(np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist())
