"""A soup: one model with the mean of the weights of several that began alike."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSemanticSegmentation, PreTrainedModel

from hf_urbanseg.errors import ModelError
from hf_urbanseg.models.loading import find_difference, load_complete


@torch.no_grad()
def cook(models: Sequence[str | Path]) -> PreTrainedModel:
    """The mean of the models in these folders, in evaluation mode; floating buffers are averaged, too.

    Sums are taken in fp64 and one model is in memory beside the sum, however many there are. Statistics of BatchNorm
    want `recalibrate_batch_norm` afterwards.

    Raises:
        ModelError: One has other classes, another architecture or other tensors than the first.

    Source: Wortsman et al. 2022 (arXiv:2203.05482), the uniform soup.
    """
    soup, first, total = None, None, {}
    for path in models:
        model = load_complete(AutoModelForSemanticSegmentation, path)
        state = model.state_dict()
        if soup is None:
            soup, first = model, path
            total = {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}
            continue
        one, other = soup.config, model.config
        if one.model_type != other.model_type:
            raise ModelError(f"a `{one.model_type}` as in {first}", f"a `{other.model_type}`", "leave it out", path)
        if one.id2label != other.id2label:
            found = f"{len(other.id2label)} classes: {', '.join(other.id2label.values()):.60}"
            raise ModelError(f"the {len(one.id2label)} classes of {first}, in their order", found, "leave it out", path)
        if different := find_difference(soup.state_dict(), state):
            raise ModelError(f"the tensors of {first}", different, "leave it out", path)
        for name, summed in total.items():
            summed += state[name].double()
    for name, tensor in soup.state_dict().items():
        if name in total:
            tensor.copy_(total[name] / len(models))
    return soup.eval()
