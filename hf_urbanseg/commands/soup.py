"""Averages the weights of several runs into one model, as good as an ensemble of them at the cost of one.

The runs must have begun from the same weights (other seeds, other recipes or folds); what was random at their start
gives a model that has learnt nothing. BatchNorm's statistics are found anew on training crops of the first run.
`urbanseg soup runs/a_seed0 runs/a_seed1 runs/a_seed2 --output runs/a_soup`
"""

import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError, ModelError
from hf_urbanseg.files import check_place
from hf_urbanseg.locks import locked
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.fields import Options, check_device, option, required
from hf_urbanseg.ranges import Batch, Seed, Whole

logger = logging.getLogger(__name__)


@dataclass
class SoupArguments(Options):
    """What is averaged, and where it goes."""

    runs: list[str] = required("Folders of two or more runs; may stand first, without --runs.")
    output: str = required("New folder for the model.")
    calibration_batches: Whole = option(50, "Batches of training crops that BatchNorm's statistics are found on.")
    batch_size: Batch = option(8, "Crops in each.")
    seed: Seed = option(0, "Of those crops.")
    device: str | None = option(None, "`cpu`, `cuda`, ... Default: the GPU if there is one.")

    def __post_init__(self):
        super().__post_init__()
        if len(self.runs) < 2 or len({os.path.realpath(run) for run in self.runs}) < len(self.runs):
            raise ConfigError("two or more different runs", f"{' '.join(self.runs)}", "name each folder once")
        check_device(self.device)


@command
def main(argv: list[str]) -> None:
    usage = "soup RUN1 RUN2 ... --output FOLDER [--option VALUE ...]"
    args, data_args = parse_command_line((SoupArguments, DataArguments), argv, __doc__, usage, ("runs",))
    output = Path(args.output)
    with locked(output, inside=False):
        if os.path.lexists(output):
            raise ModelError("a new path to write to", "something there already", "choose another `--output`", output)
        check_place(output.parent, folder=True)
        _cook(args, data_args, output)


def _cook(args: SoupArguments, data_args: DataArguments, output: Path) -> None:
    import torch

    from hf_urbanseg.files import written_whole
    from hf_urbanseg.json_yaml import write_json
    from hf_urbanseg.models.batch_norm import list_batch_norms, recalibrate_batch_norm
    from hf_urbanseg.models.loading import load_image_processor
    from hf_urbanseg.models.soup import cook
    from hf_urbanseg.runs.folder import LABEL_SPACE, RECIPE, SPLITS, RunFolder
    from hf_urbanseg.training.crops import draw_training_crops

    first, *_ = runs = [RunFolder(run) for run in args.runs]
    processor = load_image_processor(first.path)
    model = cook(args.runs).to(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if list_batch_norms(model):
        crops = draw_training_crops(data_args, str(first.path), args.seed, args.batch_size, args.calibration_batches)
        recalibrate_batch_norm(model, (batch.to(model.device) for batch in crops))
    split, *further = (run.read_splits() or run.read_frames() for run in runs)  # of what was streamed, its files
    same = split is not None and all(one == split for one in further)
    if not same:
        logger.warning(
            "the runs have other splits: what one held out another was trained on, so that the soup comes without "
            "splits; measure it on frames that none of them saw"
        )
    with written_whole(output, folder=True) as staged:
        model.cpu().save_pretrained(staged)
        processor.save_pretrained(staged)
        for name in (LABEL_SPACE, *((RECIPE, SPLITS) if same else ())):
            if first.has(name):
                (staged / name).write_bytes((first.path / name).read_bytes())
        sources = {str(run.path): run.hash_weights() for run in runs}
        write_json(staged / "soup.json", {"weights_sha256": sources, "options": asdict(args)})
    print(f"{output}: the mean of {len(runs)} runs; measure it: `urbanseg evaluate {output}`")
