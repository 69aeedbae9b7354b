"""What training leaves when it is done: metrics.json, tables, curves, overlays and failures."""

from pathlib import Path

from hf_urbanseg.commands._run_metrics import describe_data
from hf_urbanseg.commands._run_pictures import save_pictures
from hf_urbanseg.config import RunArguments
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.inference.evaluation import Measurement
from hf_urbanseg.inference.plan import PLAIN
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.reports.failure_cases import CARD_FAILURES
from hf_urbanseg.reports.overlays import clear_comparisons
from hf_urbanseg.reports.plots import plot_training_curves
from hf_urbanseg.reports.run_files import describe_environment, write_json
from hf_urbanseg.reports.split_files import write_split_files
from hf_urbanseg.reports.tables import print_class_table
from hf_urbanseg.trainer import UrbanSegTrainer


def write_report(
    trainer: UrbanSegTrainer,
    output: Path,
    data: LoadedData,
    measured: dict[str, Measurement],
    constant: int,
    run: RunArguments,
    training: dict,
) -> None:
    """Writes a finished run's numbers and pictures, and prints the table of its test (else validation) split.

    Args:
        measured: By split.
        constant: Train id of the constant guess, the commonest class of train.
        training: Seconds, steps, ..., for metrics.json.
    """
    space, state = data.label_space, trainer.state
    predictor = Predictor(trainer.model, trainer.processing_class)
    protocol = PLAIN.describe(predictor.base_size)
    selected = trainer.args.load_best_model_at_end and state.best_global_step
    metrics = {
        "splits": {
            split: write_split_files(output, split, measurement, space, constant, protocol, data.name)
            for split, measurement in measured.items()
        },
        "selection": {
            "exported_step": state.best_global_step if selected else state.global_step,
            "by": "mean_iou of validation" if selected else "last step",
        },
        "data": describe_data(data),
        "training": training,
        "environment": describe_environment(),
    }
    write_json(output / "metrics.json", metrics)
    write_json(output / "log_history.json", {"log_history": state.log_history})
    plot_training_curves(state.log_history, output / "training_curves.png")
    if not measured:
        for folder in ("overlays", "failures"):  # an earlier run's
            clear_comparisons(output / folder)
        return
    shown = "test" if "test" in measured else "validation"
    # Who wants no pictures of the data in the run wants none of failures.
    failures = CARD_FAILURES if run.num_overlays else 0
    save_pictures(output, predictor, data, shown, measured[shown], run.num_overlays, failures)
    result = metrics["splits"][shown]
    print_class_table(result, space, title=f"{shown}, {len(data.splits[shown])} images")
    guess = result["constant_guess"]
    print(
        f"{shown} mIoU {result['mean_iou']:.2%} (always guessing {guess['class']}: {guess['mean_iou']:.2%}); "
        f"exported step {metrics['selection']['exported_step']}, {metrics['selection']['by']}; "
        f"{training['seconds']:.0f} s. Everything is in {output}/"
    )
