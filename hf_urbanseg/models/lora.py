"""Low-rank adapters on the encoder's attention, by peft, and the plain model that they make when they are merged."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_urbanseg.errors import ModelError

_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
_ADAPTER = "default"


def attach_lora(model: PreTrainedModel, rank: int, alpha: float | None = None, dropout: float = 0.0) -> None:
    """Adds trainable `alpha / rank * B A` to the query, key, value and output of every attention of the encoder.

    The rest of the encoder is frozen; what is behind it trains whole. B starts from zero, so nothing changes at first.
    `alpha` is `rank` by default, a factor of 1; dropout is on what enters A.

    Raises:
        ModelError: No attention, or no package.

    Source: Hu et al. 2021, which adapts the attention alone and leaves the feed-forward layers frozen.
    """
    names = {name.rpartition(".")[2] for name, _ in model.base_model.named_modules()}
    if not names.issuperset(_TARGETS):
        found = f"a `{model.config.model_type}`"
        raise ModelError("an encoder with attention for `lora_rank`", found, "leave it out")
    try:
        from peft import LoraConfig, inject_adapter_in_model  # here, because few runs want it
    except ImportError as error:
        fix = '`pip install "hf-urbanseg[lora]"`, or leave it out'
        raise ModelError("the package `peft` for `lora_rank`", "none", fix) from error
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, lora_dropout=dropout, target_modules=list(_TARGETS))
    inject_adapter_in_model(config, model.base_model, _ADAPTER)


def list_adapted(model: nn.Module) -> dict[str, nn.Module]:
    """The layers with adapters, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


@torch.no_grad()
def merge_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state that the model would have with its adapters merged; without adapters, its state."""
    state = model.state_dict()
    for name, layer in list_adapted(model).items():
        own = [key for key in state if key.startswith(f"{name}.")]
        tensors = {key.removeprefix(f"{name}.base_layer."): state.pop(key) for key in own}
        tensors["weight"] = tensors["weight"] + layer.get_delta_weight(_ADAPTER)
        state |= {f"{name}.{key}": tensors[key] for key in ("weight", "bias") if key in tensors}
    return state


def merge_lora(model: PreTrainedModel) -> None:
    """Makes it the plain model again, with weights that give the same logits."""
    for name, layer in list_adapted(model).items():
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
