"""Predicts a benchmark's test images into the zip its server takes, or checks such a zip."""

from dataclasses import dataclass
from pathlib import Path

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.files import check_place
from hf_urbanseg.options.fields import Options, option
from hf_urbanseg.options.prediction import PlanArguments


@dataclass
class SubmissionArguments(Options):
    """Which benchmark, with which model, and where the zip goes."""

    data_dir: str | None = option(None, "Official folder or .zip with the test images.")
    benchmark: str = option(
        "kitti", "Whose server it is for. KITTI's takes new methods on their way to peer review only.",
        choices=["kitti", "cityscapes"],
    )  # fmt: skip
    split: str = option("test", "`test`; for Cityscapes also `val`, which cityscapesScripts can measure at home.")
    model: str | None = option(None, "Folder written by training, or a Hub id.")
    output: str = option("submission.zip", "The zip to write.")
    check: str | None = option(None, "Check this zip, of whatever origin, instead of making one.")

    def __post_init__(self):
        super().__post_init__()
        if self.data_dir is None:
            raise ConfigError("`--data_dir`, the official images", "none", "add it")
        if (self.model is None) == (self.check is None):
            found = "neither" if self.model is None else "both"
            raise ConfigError("`--model` to make a zip or `--check` to check one", found, "give one of them")
        if self.model:
            check_place(self.output)


@command
def main(argv: list[str]) -> None:
    usage = "make-submission --model RUN --data_dir FOLDER [--option VALUE ...]"
    args, plan_args = parse_command_line((SubmissionArguments, PlanArguments), argv, __doc__, usage)
    from hf_urbanseg.data.submission import check_submission, find_images, get_benchmark, write_submission
    from hf_urbanseg.inference.input_files import check_inputs, refuse_bad
    from hf_urbanseg.inference.predictor import Predictor
    from hf_urbanseg.labels import CITYSCAPES
    from hf_urbanseg.reports.prediction_files import predict_label_ids

    benchmark = get_benchmark(args.benchmark, args.split)
    images = find_images(Path(args.data_dir), benchmark)
    if args.check is not None:
        check_submission(Path(args.check), benchmark, images)
        print(f"{args.check}: right for {benchmark.name}, {len(images)} files")
        return
    plan, stock = plan_args.build_plan(), plan_args.stock_decode_head
    predictor = Predictor.from_pretrained(args.model, plan_args.device, plan, stock_decode_head=stock)
    if predictor.label_space.names != CITYSCAPES.names:
        names = predictor.label_space.names
        expected = "a model for the 19 classes of Cityscapes in their order"
        found = f"{len(names)} classes ({', '.join(names[:3])}, ...)"
        raise ConfigError(expected, found, "choose one trained for them", args.model)
    output = Path(args.output)
    _, bad = check_inputs(list(images.values()))
    refuse_bad(bad, len(images), "could be read, and a server takes all or none")
    label_ids = predict_label_ids(images, predictor, plan_args.batch_size, benchmark.name)
    write_submission(output, label_ids, benchmark, images)
    print(f"{output}: {len(images)} label-id files for {benchmark.name}, checked; predicted with {plan.describe()}")
    if benchmark.note:
        print(benchmark.note)
