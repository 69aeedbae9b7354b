"""Measures a trained folder (or Hub model) on a split: every score, what each image contributes, and where it fails.

Without a data option, the data and splits that the run recorded are used, and the numbers are those of its own
metrics; so are they where `--data_dir` names the same data in another place. `accelerate launch --num_processes 4
-m hf_urbanseg evaluate ...` shares the images among processes.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.files import check_place
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.fields import Options, option
from hf_urbanseg.options.prediction import PlanArguments
from hf_urbanseg.ranges import Count, Workers


@dataclass
class EvaluateArguments(Options):
    """What to measure, and what to leave."""

    model: str = option("runs/demo", "Folder written by training, a Hub id or an exported file; may stand first.")
    revision: str | None = option(None, "Branch, tag or commit of the Hub id.")
    split: str | None = option(None, "Split to measure; default: test if there is one, else validation.")
    num_workers: Workers = option(2, "Processes that read ahead of a GPU; on a CPU the model's own threads read.")
    output: str | None = option(
        None,
        "Folder for metrics, tables and counts per image, which `urbanseg compare` reads. In the folder of `--model` "
        "itself the split is measured anew and the rest of its metrics stays.",
    )
    calibration: bool = option(
        False, "Also measure how far the confidence can be believed: ECE, NLL, Brier score, reliability diagram."
    )
    fit_temperature: bool = option(
        False,
        "First fit, on the validation split, the temperature that makes the confidence of --model most honest, and "
        "write it into its folder, where `predict --confidence` and --calibration find it. Classes stay as they are.",
    )
    report: str | None = option(None, "HTML file with tables, charts and failure cases; opens without a network.")
    failures: Count = option(8, "Worst images in the report; in the folder of `--model` itself, pictures of failures.")
    failures_per_class: Count = option(1, "Worst images for each class in the report.")

    def __post_init__(self):
        super().__post_init__()
        if self.output and (self.output.endswith(".json") or Path(self.output).is_file()):
            fix = "leave out the suffix: metrics are written inside"
            raise ConfigError("a folder as `--output`", "a file", fix, self.output)
        if self.report and not self.report.endswith((".html", ".htm")):
            raise ConfigError("a file named .html as `--report`", f"{self.report}", "change the suffix")
        if self.fit_temperature and not Path(self.model).is_dir():
            fix = "download it first, or leave the option out"
            raise ConfigError("a model in a folder with `--fit_temperature`", "none", fix, self.model)
        if self.output:
            check_place(self.output, folder=True)
        if self.report:
            check_place(self.report)


@command
def main(argv: list[str]) -> None:
    usage = "evaluate RUN [--option VALUE ...]"
    types = (EvaluateArguments, PlanArguments, DataArguments)
    args, plan_args, data_args = parse_command_line(types, argv, __doc__, usage, ("model",))
    from hf_urbanseg.inference.evaluation import join_processes
    from hf_urbanseg.runs.first_process import held_by_first_process

    processes = join_processes(plan_args.device)
    written = filter(None, (args.output, args.model if args.fit_temperature else None))
    with ExitStack() as held:
        for folder in {Path(one).resolve(): one for one in written}.values():
            held.enter_context(held_by_first_process(folder))
        _evaluate(args, plan_args, data_args, processes)


def _evaluate(args: EvaluateArguments, plan_args: PlanArguments, data_args: DataArguments, processes) -> None:
    import numpy as np
    import transformers

    from hf_urbanseg.data.preflight.checks import inspect_pairs
    from hf_urbanseg.data.preprocessing import EvalDataset
    from hf_urbanseg.inference.calibration_file import write_calibration
    from hf_urbanseg.inference.evaluation import measure_shared
    from hf_urbanseg.inference.predictor import Predictor
    from hf_urbanseg.inference.temperature import fit_shared
    from hf_urbanseg.models.exported import find_home, is_exported
    from hf_urbanseg.reports.evaluation_report import collect_failures, write_evaluation_report
    from hf_urbanseg.reports.failure_cases import describe_rule
    from hf_urbanseg.reports.run_report import write_measurement
    from hf_urbanseg.reports.tables import print_class_table
    from hf_urbanseg.runs.environment import describe_environment
    from hf_urbanseg.runs.folder import RunFolder
    from hf_urbanseg.runs.inputs import describe_frames
    from hf_urbanseg.runs.recorded_data import (
        describe_source,
        load_recorded_data,
        read_recorded_recipe,
        recall_data_arguments,
    )
    from hf_urbanseg.runs.remeasured import check_classes, check_output, check_own_weights
    from hf_urbanseg.runs.scores import describe_scores

    transformers.utils.logging.disable_progress_bar()
    device, plan = plan_args.device if processes is None else processes.device, plan_args.build_plan()
    check_own_weights(args.model)
    predictor = Predictor.from_pretrained(args.model, device, plan, args.revision, plan_args.stock_decode_head)
    if args.calibration:
        predictor.check_scores()
    if args.fit_temperature and is_exported(args.model):
        fix = "fit it for the run's folder"
        raise ConfigError("the folder of a model with `--fit_temperature`", "an exported file", fix, args.model)
    home = find_home(args.model)
    data = load_recorded_data(data_args, home, args.revision)
    split = args.split or ("test" if "test" in data.splits else "validation")
    rows, space = data.get_split(split), data.label_space
    if args.fit_temperature and "validation" not in data.splits:
        fix = "name data that has one; test must never choose anything"
        raise ConfigError("a validation split for `--fit_temperature`", ", ".join(data.splits), fix, data.name)
    check_classes(predictor.label_space, data, args.model)
    if args.output:
        check_output(Path(args.output), args.model, data, split)
        given = recall_data_arguments(data_args, home, args.revision)
        source = describe_source(args.model, args.revision, given, data)
    inspection = inspect_pairs(data.splits, space, channels=data.channels, sampled=True)
    dataset = EvalDataset(rows, space, predictor.image_processor, predictor.sizes)
    protocol = plan.describe(predictor.base_size)
    if args.fit_temperature:
        held_out = EvalDataset(data.splits["validation"], space, predictor.image_processor, predictor.sizes)
        fitted = fit_shared(predictor, held_out, plan_args.batch_size, args.num_workers, processes)
        predictor.temperature = fitted["temperature"]
        if processes is None or processes.is_main_process:
            path = write_calibration(args.model, fitted, protocol, data.name)
            before, after = fitted["nll"]
            print(f"temperature {fitted['temperature']:.4g}, fitted on {fitted['pixels']:,} pixels of "
                  f"{fitted['images']} validation images (NLL {before:.4f} -> {after:.4f}): {path}")  # fmt: skip
    measurement = measure_shared(
        predictor, dataset, space.names, plan_args.batch_size, args.num_workers, args.model, processes,
        dict.fromkeys((1.0, predictor.temperature)) if args.calibration else (),
    )  # fmt: skip
    if processes is not None:
        processes.destroy_process_group()
        if not processes.is_main_process:
            return
    reference = "train" if "train" in data.splits else split
    constant = int(np.argmax(inspection.train_id_counts(reference, space).sum(0)))
    scores = describe_scores(measurement.matrix, space, constant, measurement.images, measurement.calibration)
    if args.output:
        frames = describe_frames(inspection)[split]
        write_measurement(
            RunFolder(args.output), args.model, split, measurement, predictor, data, constant, source, frames,
            args.failures,
        )  # fmt: skip
    if args.report:
        write_evaluation_report(
            args.report,
            title=f"{Path(args.model).name} on {split} of {data.name}",
            label_space=space,
            scores=scores,
            images=measurement.images,
            cases=collect_failures(predictor, data, split, measurement.images, args.failures, args.failures_per_class),
            recipe=read_recorded_recipe(home, args.revision),
            protocol=protocol,
            data=f"{data.name}, {split}, {len(dataset)} images",
            environment=describe_environment(),
            failure_rule=describe_rule(args.failures, args.failures_per_class),
        )
    print_class_table(scores, space, title=f"{split} of {data.name}, {len(dataset)} images, {protocol}")
    line = f"{split} mIoU {scores['mean_iou']:.2%}"
    if interval := scores["confidence_interval"]:
        line += f" ({interval['confidence']:.0%} interval over images: {interval['low']:.2%} to {interval['high']:.2%})"
    print(line)
    for one in scores.get("calibration", ()):
        if one["ece"] is not None:  # of nothing but void
            errors = f"ECE {one['ece']:.2%}, NLL {one['nll']:.4f}, Brier {one['brier']:.4f}"
            print(f"calibration at temperature {one['temperature']:.4g}: {errors}")
    for written in filter(None, (args.output, args.report)):
        print(f"written: {written}")
