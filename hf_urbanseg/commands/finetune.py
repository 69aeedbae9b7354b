"""Fine-tunes a SegFormer by a recipe: data, checks, weights, model, training, measurement, pictures."""

import yaml

from hf_urbanseg.command_line import command, help_if_asked
from hf_urbanseg.launch import is_first
from hf_urbanseg.options.added_data import AddedDataArguments
from hf_urbanseg.options.config import AugmentationArguments, DataArguments, LossArguments, ModelArguments, RunArguments
from hf_urbanseg.options.distillation import DistillationArguments
from hf_urbanseg.options.sampling import SamplingArguments
from hf_urbanseg.options.training_options import RARE_TRAINING_OPTIONS, TrainingOptions
from hf_urbanseg.options.unlabelled import UnlabelledArguments

_OPTIONS = (
    RunArguments, DataArguments, AddedDataArguments, ModelArguments, AugmentationArguments, SamplingArguments,
    LossArguments, DistillationArguments, UnlabelledArguments,
)  # fmt: skip


@command
def main(argv: list[str]) -> None:
    usage = "finetune --recipe NAME --data_dir FOLDER [--option VALUE ...]"
    help_if_asked(argv, (*_OPTIONS, TrainingOptions), __doc__, usage, RARE_TRAINING_OPTIONS, _list_all)
    from hf_urbanseg.finetuning import run_finetuning
    from hf_urbanseg.options.finetune_arguments import parse_finetuning
    from hf_urbanseg.options.training_arguments import resolve_recipe
    from hf_urbanseg.reports.run_report import print_run

    arguments = parse_finetuning(argv)
    if arguments.run.show:
        print(yaml.safe_dump(resolve_recipe(*arguments), sort_keys=False, allow_unicode=True), end="")
        return
    run = run_finetuning(arguments)
    if is_first():
        print_run(run)


def _list_all() -> tuple[type, ...]:
    from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments

    return (*_OPTIONS, UrbanSegTrainingArguments)
