"""Measures a trained folder (or Hub model) on a split: every score, what each image contributes, and where it fails.

Without a data option, the data and splits that the run recorded are used, and the numbers are those of its
metrics.json; so are they where `--data_dir` names the same data in another place. `accelerate launch --num_processes 4
scripts/evaluate.py` shares the images among processes.
"""

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import accelerate
import numpy as np
import torch
import transformers
from tqdm.auto import tqdm

from hf_urbanseg.commands._recorded_data import load_recorded_data
from hf_urbanseg.commands._run import run_command
from hf_urbanseg.commands._run_metrics import check_output, is_own_folder, merge_metrics
from hf_urbanseg.commands._run_pictures import save_pictures
from hf_urbanseg.config import DataArguments, PlanArguments, check_device, option
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.inference.evaluation import Measurement, build_eval_loader, measure
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.models.loading import find_file
from hf_urbanseg.recipe import parse_arguments
from hf_urbanseg.reports.evaluation_report import write_evaluation_report
from hf_urbanseg.reports.failure_cases import CARD_FAILURES, FailureCase, choose_failure_cases, describe_rule
from hf_urbanseg.reports.run_files import describe_environment, describe_scores, write_json
from hf_urbanseg.reports.split_files import write_split_files
from hf_urbanseg.reports.tables import print_class_table


@dataclass
class EvaluateArguments:
    """What to measure, and what to leave."""

    model: str = option("runs/demo", "Folder written by training, or a Hub id.")
    revision: str | None = option(None, "Branch, tag or commit of the Hub id.")
    split: str | None = option(None, "Split to measure; default: test if there is one, else validation.")
    batch_size: int = option(4, "Images in memory at a time, per process.")
    num_workers: int = option(2, "Processes that read ahead of a GPU; on a CPU the model's own threads read.")
    device: str | None = option(None, "`cpu`, `cuda`, ...; default: the GPU if there is one.")
    output: str | None = option(
        None,
        "Folder for metrics.json, the per-class tables and per_image_<split>.json, which compare.py reads. In the "
        "folder of `--model` itself the split is measured anew and the rest of metrics.json stays.",
    )
    report: str | None = option(None, "HTML file with tables, charts and failure cases; opens without a network.")
    failures: int = option(8, "Worst images in the report; in the folder of `--model` itself, pictures of failures.")
    failures_per_class: int = option(1, "Worst images for each class in the report.")

    def __post_init__(self):
        if self.batch_size < 1:
            raise ConfigError("`--batch_size` of at least 1", f"{self.batch_size}", "correct it")
        if min(self.failures, self.failures_per_class) < 0:
            raise ConfigError("0 or more failure cases", "less", "correct `--failures`, `--failures_per_class`")
        if self.output and (self.output.endswith(".json") or Path(self.output).is_file()):
            fix = "leave out the suffix: metrics.json is written inside"
            raise ConfigError("a folder as `--output`", "a file", fix, self.output)
        if self.report and not self.report.endswith((".html", ".htm")):
            raise ConfigError("a file named .html as `--report`", f"{self.report}", "change the suffix")
        check_device(self.device)


def main() -> None:
    """Entry point of `urbanseg-evaluate` and scripts/evaluate.py."""
    run_command(_evaluate)


def _evaluate() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    transformers.utils.logging.disable_progress_bar()
    args, plan_args, data_args = parse_arguments((EvaluateArguments, PlanArguments, DataArguments), description=__doc__)
    processes = _join_processes(args.device)
    device = args.device if processes is None else processes.device
    plan = plan_args.build_plan()
    predictor = Predictor.from_pretrained(args.model, device, plan, args.revision, plan_args.stock_decode_head)
    data = load_recorded_data(data_args, args.model, args.revision)
    split = args.split or ("test" if "test" in data.splits else "validation")
    if split not in data.splits:
        raise ConfigError(f"a split of {', '.join(data.splits)}", f"`{split}`", "choose one with `--split`")
    _check_classes(predictor, data, args.model)
    if args.output:
        check_output(Path(args.output), args.model, data, split)
    inspection = inspect_pairs(data.splits, data.label_space)

    dataset = EvalDataset(data.splits[split], data.label_space, predictor.image_processor, predictor.sizes)
    measurement = _measure(args, predictor, dataset, data.label_space.names, processes)
    if processes is not None:
        processes.destroy_process_group()
        if not processes.is_main_process:
            return
    reference = "train" if "train" in data.splits else split
    constant = int(np.argmax(inspection.train_id_counts(reference, data.label_space).sum(0)))
    protocol = plan.describe(predictor.base_size)
    result = describe_scores(measurement.matrix, data.label_space, constant, measurement.images)
    if args.output:
        _write_output(args, split, measurement, predictor, data, constant, protocol)
    if args.report:
        write_evaluation_report(
            args.report,
            title=f"{Path(args.model).name} on {split} of {data.name}",
            label_space=data.label_space,
            scores=result,
            images=measurement.images,
            failures=_collect_failures(args, predictor, data, split, measurement),
            recipe=_read_recipe(args.model, args.revision),
            protocol=protocol,
            data=f"{data.name}, {split}, {len(dataset)} images",
            environment=describe_environment(),
            failure_rule=describe_rule(args.failures, args.failures_per_class),
        )
    print_class_table(result, data.label_space, title=f"{split} of {data.name}, {len(dataset)} images, {protocol}")
    line = f"{split} mIoU {result['mean_iou']:.2%}"
    if interval := result["confidence_interval"]:
        line += f" ({interval['confidence']:.0%} interval over images: {interval['low']:.2%} to {interval['high']:.2%})"
    print(line)
    for written in filter(None, (args.output, args.report)):
        print(f"written: {written}")


def _join_processes(device: str | None) -> accelerate.PartialState | None:
    """The group that `accelerate launch` or torchrun asks for; None for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    on_cpu = not torch.accelerator.is_available() or (device or "").startswith("cpu")
    return accelerate.PartialState(cpu=True, backend="gloo") if on_cpu else accelerate.PartialState()


def _measure(args: EvaluateArguments, predictor: Predictor, dataset: EvalDataset, classes, processes) -> Measurement:
    rank, world_size = (0, 1) if processes is None else (processes.process_index, processes.num_processes)
    loader = build_eval_loader(dataset, args.batch_size, args.num_workers, rank, world_size, predictor.model.device)
    names = dataset.names
    with tqdm(total=len(loader), desc=args.model, unit="batch", disable=rank > 0) as bar:
        share = measure(
            predictor.model, loader, names, classes, predictor.plan, predictor.model.device,
            boundary=True, on_batch=bar.update,
        )  # fmt: skip
    return share.gather(names)


def _write_output(
    args: EvaluateArguments,
    split: str,
    measurement: Measurement,
    predictor: Predictor,
    data: LoadedData,
    constant: int,
    protocol: str,
) -> None:
    folder, environment = Path(args.output), describe_environment()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entry = write_split_files(folder, split, measurement, data.label_space, constant, protocol, data.name)
        if not is_own_folder(folder, args.model):
            write_json(folder / "metrics.json", {"splits": {split: entry}, "environment": environment})
            # What compare.py counts operations from.
            predictor.model.config.to_json_file(folder / "config.json")
            return
        metrics = merge_metrics(folder, split, entry, environment, data)
        write_json(folder / "metrics.json", metrics)
    except OSError as error:
        raise ConfigError("a folder to write to", error.strerror or f"{error}", "name another", folder) from error
    # The card tells of the failures of test, else validation; those of an earlier measurement would be others.
    if split == next((name for name in ("test", "validation") if name in metrics["splits"]), split):
        save_pictures(folder, predictor, data, split, measurement, None, min(args.failures, CARD_FAILURES))


def _collect_failures(
    args: EvaluateArguments, predictor: Predictor, data: LoadedData, split: str, measurement: Measurement
) -> list[FailureCase]:
    """The worst images predicted once more, because keeping every prediction would take memory without bound."""
    cases = []
    choices = choose_failure_cases(measurement.images, args.failures, args.failures_per_class)
    for choice in tqdm(choices, desc="failure cases", unit="image"):
        row = data.splits[split][choice.index]
        image = row["image"].convert("RGB")
        label = data.label_space.train_id_table[np.asarray(row["label"])]
        cases.append(FailureCase(row["name"], choice.reasons, image, predictor.predict([image])[0], label))
    return cases


def _read_recipe(model: str, revision: str | None) -> str | None:
    try:
        return find_file(model, "recipe.yaml", revision).read_text(encoding="utf-8")
    except UrbanSegError:
        return None


def _check_classes(predictor: Predictor, data: LoadedData, model: str) -> None:
    predicted, labelled = predictor.label_space.names, data.label_space.names
    if predicted != labelled:
        raise ConfigError(
            f"a model for the {len(labelled)} classes of {data.name} ({', '.join(labelled[:3])}, ...)",
            f"{len(predicted)} classes ({', '.join(predicted[:3])}, ...)",
            "choose the model or the `--label_space` that fits",
            model,
        )
