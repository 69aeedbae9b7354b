"""Measures a trained folder (or Hub model) on a split: the numbers of its metrics.json, again or on other data."""

import logging
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import transformers
from tqdm.auto import tqdm

from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import DataArguments, check_device, option
from hf_urbanseg.data.checks import inspect_pairs
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.inference.evaluation import build_eval_loader, compute_confusion_matrix
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.metrics.mean_iou import compute_scores
from hf_urbanseg.recipe import load_recipe, parse_arguments
from hf_urbanseg.reports.run_files import describe_environment, describe_scores, write_json
from hf_urbanseg.reports.tables import print_class_table


@dataclass
class EvaluateArguments:
    """What to measure."""

    model: str = option("runs/demo", "Folder written by training, or a Hub id.")
    split: str | None = option(None, "Split to measure; default: test if there is one, else validation.")
    batch_size: int = option(4, "Images per forward pass.")
    num_workers: int = option(2, "Processes that read and resize images.")
    device: str | None = option(None, "`cpu`, `cuda`, ...; default: the GPU if there is one.")
    output: str | None = option(None, "JSON file for the scores, as in metrics.json.")

    def __post_init__(self):
        if self.batch_size < 1:
            raise ConfigError("`--batch_size` of at least 1", f"{self.batch_size}", "correct it")
        check_device(self.device)


def main() -> None:
    """Entry point of `urbanseg-evaluate` and scripts/evaluate.py."""
    run_command(_evaluate)


def _evaluate() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    transformers.utils.logging.disable_progress_bar()
    args, data_args = parse_arguments((EvaluateArguments, DataArguments), description=__doc__)
    predictor = Predictor.from_pretrained(args.model, args.device)
    data = load_data(**asdict(_complete(data_args, Path(args.model))))
    split = args.split or ("test" if "test" in data.splits else "validation")
    if split not in data.splits:
        raise ConfigError(f"a split of {', '.join(data.splits)}", f"`{split}`", "choose one with `--split`")
    _check_classes(predictor, data, args.model)
    inspection = inspect_pairs(data.splits, data.label_space)

    dataset = EvalDataset(data.splits[split], data.label_space, predictor.image_processor)
    loader = build_eval_loader(dataset, args.batch_size, args.num_workers)
    with tqdm(total=len(loader), desc=f"{args.model} on {split}", unit="batch") as bar:
        matrix = compute_confusion_matrix(
            predictor.model, loader, data.label_space.num_labels, predictor.model.device, on_batch=bar.update
        ).matrix.cpu()
    print_class_table(compute_scores(matrix), data.label_space, title=f"{split} of {data.name}, {len(dataset)} images")
    reference = "train" if "train" in data.splits else split
    constant = int(np.argmax(inspection.train_id_counts(reference, data.label_space).sum(0)))
    scores = {"num_images": len(dataset), **describe_scores(matrix, data.label_space, constant)}
    print(f"{split} mIoU {scores['mean_iou']:.6f}")
    if args.output:
        write_json(args.output, {"splits": {split: scores}, "environment": describe_environment()})


def _complete(data_args: DataArguments, run: Path) -> DataArguments:
    """Without a data option, the data and the very splits the run was trained on."""
    if data_args.data_dir or data_args.dataset:
        return data_args
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        raise ConfigError("`data_dir`, `dataset` or a run with recipe.yaml", "none", "say what to measure on", run)
    known = {f.name for f in fields(DataArguments)}
    (recorded,) = parse_arguments(
        (DataArguments,), [], {k: v for k, v in load_recipe(str(recipe)).items() if k in known}, str(recipe)
    )
    if recorded.dataset != "synthetic" and recorded.split_file is None:
        recorded = replace(recorded, split_file=str(run / "splits.yaml"))
    return recorded


def _check_classes(predictor: Predictor, data: LoadedData, model: str) -> None:
    predicted, labelled = predictor.label_space.names, data.label_space.names
    if predicted != labelled:
        raise ConfigError(
            f"a model for the {len(labelled)} classes of {data.name} ({', '.join(labelled[:3])}, ...)",
            f"{len(predicted)} classes ({', '.join(predicted[:3])}, ...)",
            "choose the model or the `--label_space` that fits",
            model,
        )
