"""Shows the classes that label files hold, or their values where nobody lists classes, and writes label_space.yaml."""

from dataclasses import asdict, dataclass
from pathlib import Path

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import DataError
from hf_urbanseg.escaping import spell_out
from hf_urbanseg.files import check_place, expand_home
from hf_urbanseg.locks import locked
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.fields import Options, option


@dataclass
class LabelSpaceArguments(Options):
    """What is written."""

    write: bool = option(False, "Write label_space.yaml into --data_dir, or of a --dataset into --output.")
    output: str = option("label_space", "Folder for samples.png, three frames with their labels; made if missing.")

    def __post_init__(self):
        super().__post_init__()
        check_place(self.output, folder=True)


@command
def main(argv: list[str]) -> None:
    usage = "label-space --data_dir FOLDER [--write] [--option VALUE ...]"
    args, data_args = parse_command_line((LabelSpaceArguments, DataArguments), argv, __doc__, usage)
    target = (Path(args.output) if data_args.data_dir is None else expand_home(data_args.data_dir)) / "label_space.yaml"
    if args.write:
        if target.exists():
            raise DataError("no label space yet", "one", "edit it, or move it away", target)
        check_place(target)
    with locked(args.output):
        _show(args, data_args, target)


def _show(args: LabelSpaceArguments, data_args: DataArguments, target: Path) -> None:
    from hf_urbanseg.data.class_files import MissingClassesError
    from hf_urbanseg.data.found_values import load_unnamed
    from hf_urbanseg.data.label_space_files import write_label_space_to_edit
    from hf_urbanseg.data.loading import load_data
    from hf_urbanseg.data.preflight.checks import inspect_pairs
    from hf_urbanseg.reports.label_summary import draw_summary, list_shares, list_values

    options = asdict(data_args) | {"test_fraction": 0, "validation_fraction": 0}  # nothing is cut, to see it all
    try:
        data, is_known = load_data(**options), True
    except MissingClassesError:
        data, is_known = load_unnamed(**options), False
    inspection, space = inspect_pairs(data.splits, data.label_space), data.label_space
    picture = draw_summary(data, inspection, Path(args.output))
    shares = list_shares(data, inspection)
    print(spell_out(f"{data.name}: label files of `encoding: {space.encoding}`"))
    for name, values, share in zip((*space.names, "void"), list_values(space), shares, strict=True):
        print(spell_out(f"  {share:<40} {name}: {values}"))
    print(f"Wrote {Path(args.output) / picture}: look whether the labels lie where they should.")
    if args.write:
        write_label_space_to_edit(target, space, shares)
        todo = "it counts with this --data_dir" if data_args.data_dir is not None else f"give --label_space {target}"
        print(f"Wrote {target}. {'' if is_known else 'Name the classes in it; '}{todo}.")
    elif not is_known:
        print("Nobody lists the classes: `--write` writes a label_space.yaml with these values, to put names in.")
