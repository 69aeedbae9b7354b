"""An encoder, or its first stages, that stays as it is while the rest trains."""

from torch import nn
from transformers import PreTrainedModel, ResNetBackbone

from hf_urbanseg.errors import ModelError
from hf_urbanseg.models.baselines.swin_segformer import Swin
from hf_urbanseg.models.lora import list_adapted


def freeze_encoder(model: PreTrainedModel, num_stages: int | None = None) -> list[nn.Module]:
    """Freezes the encoder: no gradient, and evaluation mode (no dropout, no drop path, BatchNorm's statistics stay).

    What is frozen costs no backward pass and keeps no activations, for nothing in front of it asks for a gradient.

    Args:
        num_stages: Its first so many stages, each with patch embedding (a ResNet's first with the stem, Swin's with the
            patch merging behind it), blocks and norm. Default: all of what `base_model_prefix` names.

    Returns:
        What is frozen: `keep_frozen` after every `model.train()`, which undoes the mode.

    Raises:
        ModelError: No such stage, or an encoder with adapters.
    """
    if list_adapted(model):
        raise ModelError("either `lora_rank` or a frozen encoder", "both", "drop one")
    parts = [model.base_model]
    if num_stages is not None:
        stages = list_stages(model)
        if num_stages > len(stages):
            fix = "choose as many, or `--freeze_encoder true`"
            raise ModelError(f"`freeze_stages` of 0..{len(stages)} for this encoder", f"{num_stages}", fix)
        parts = [part for stage in stages[:num_stages] for part in stage]
    for part in parts:
        part.requires_grad_(False)
    return parts


def keep_frozen(parts: list[nn.Module]) -> None:
    """Puts what is frozen into evaluation mode."""
    for part in parts:
        part.eval()


def list_stages(model: PreTrainedModel) -> list[list[nn.Module]]:
    """The modules of each stage of an encoder, the first that an image passes first."""
    encoder = model.base_model
    match encoder:
        case Swin():
            norms = encoder.hidden_states_norms.values()  # a stage's, before the patch merging
            stages = [list(parts) for parts in zip(encoder.swin.encoder.layers, norms, strict=True)]
            stages[0].append(encoder.swin.embeddings)
        case ResNetBackbone():
            stages = [[stage] for stage in encoder.encoder.stages]
            stages[0].append(encoder.embedder)
        case _:
            stages = [[stage] for stage in encoder.stages]
    return stages


def count_trained(model: nn.Module) -> dict[str, int]:
    """The model's `parameters`, and how many of them are `trained_parameters`."""
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    return {"parameters": sum(one.numel() for one in model.parameters()), "trained_parameters": trained}
