"""`--random_baseline`: what a run's start from trained weights is worth."""

import copy
from dataclasses import replace

from hf_urbanseg.errors import ConfigError, ModelError
from hf_urbanseg.models.build import find_size
from hf_urbanseg.models.loading import load_config
from hf_urbanseg.options.finetune_arguments import FinetuneArguments
from hf_urbanseg.runs.folder import RunFolder
from hf_urbanseg.training.checkpoints import list_checkpoints


def start_from_random(arguments: FinetuneArguments) -> FinetuneArguments:
    """The same run from random weights, in a folder inside its own."""
    model, args = arguments.model, copy.copy(arguments.training)
    if model.model_name_or_path is None:
        raise ConfigError("`model_name_or_path` with `random_baseline`", "none", "name one or leave the other out")
    config = load_config(model.model_name_or_path, model.model_revision)
    if (size := find_size(config.to_dict())) is None:
        expected, fix = "weights of a size that `--init random` knows", "leave `--random_baseline` out"
        raise ModelError(expected, f"a `{config.model_type}` of another", fix, model.model_name_or_path)
    model = replace(model, init="random", size=size, model_name_or_path=None, model_revision=None)
    if hasattr(config, "decoder_hidden_size"):
        model = replace(model, decoder_hidden_size=config.decoder_hidden_size)
    folder = RunFolder(args.output_dir).random_baseline
    args.output_dir, args.push_to_hub = str(folder.path), False
    args.resume &= bool(folder.is_finished or list_checkpoints(folder.path))  # else it had not begun
    return arguments._replace(
        model=model, training=args, run=replace(arguments.run, random_baseline=False, num_overlays=0)
    )
