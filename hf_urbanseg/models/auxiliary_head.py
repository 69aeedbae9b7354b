"""A small FCN head on one encoder stage that helps training and is never exported."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import SegformerForSemanticSegmentation
from transformers.modeling_outputs import SemanticSegmenterOutput

from hf_urbanseg.errors import ModelError
from hf_urbanseg.models.baselines.segmenter import Segmenter
from hf_urbanseg.models.loading import check_finite, find_difference

AUXILIARY_WEIGHTS = "auxiliary_head.safetensors"
_NAME = "auxiliary_head"


@dataclass
class AuxiliarySegmenterOutput(SemanticSegmenterOutput):
    """`SemanticSegmenterOutput` with the logits of the auxiliary head, (N, C, h, w) at the resolution of its stage.

    A declared field, not just another key: DDP takes outputs apart and builds them anew from their type.
    """

    auxiliary_logits: Tensor | None = None


class AuxiliaryHead(nn.Module):
    """FCN head: 3x3 convolution without bias, BatchNorm, ReLU, channel dropout, 1x1 convolution.

    `stage`, from 1, is recorded when saved.

    Shape:
        feature_map: (N, in_channels, h, w) float. returns: (N, num_labels, h, w) float, unnormalised.

    Source: Long et al. 2015 as MMSegmentation's `FCNHead(num_convs=1, concat_input=False)`, with its initial weights:
        Kaiming normal (fan out, ReLU) for the 3x3, normal with std 0.01 and zero bias for the 1x1. Like there, dropout
        is `Dropout2d`.
    """

    def __init__(self, in_channels: int, num_labels: int, channels: int = 256, dropout: float = 0.1, stage: int = 3):
        super().__init__()
        self.stage = stage
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(channels)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_labels, kernel_size=1)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        self._awaited = False
        self._logits: Tensor | None = None

    def forward(self, feature_map: Tensor) -> Tensor:
        hidden = self.activation(self.batch_norm(self.conv(feature_map)))
        return self.classifier(self.dropout(hidden))

    # Hooks. As methods of this module they are copied and pickled with the model, bound to the copy.

    def _before_model(self, model, args) -> None:
        self._awaited = model.training

    def _after_stage(self, stage, args, output: Tensor) -> None:
        # Here and not after the model: what accelerate wraps into autocast is the model's `forward`, without hooks.
        if self._awaited:
            self._logits = self(output)

    def _after_model(self, model, args, output):
        # Also called when the forward raised (output None), so that nothing is held on to.
        logits, self._logits, self._awaited = self._logits, None, False
        if logits is None or output is None:
            return output
        if isinstance(output, tuple):
            return (*output, logits)
        # accelerate has brought the outputs of `forward` to fp32 by now.
        return AuxiliarySegmenterOutput(**output, auxiliary_logits=logits.to(output.logits.dtype))


def attach_auxiliary_head(
    model: SegformerForSemanticSegmentation | Segmenter, stage: int = 3, channels: int = 256, dropout: float = 0.1
) -> None:
    """Adds `model.auxiliary_head`; in training mode, outputs then have `auxiliary_logits` too.

    Evaluation is unchanged, and so is what `save_pretrained` writes: the plain model. The class stays, because
    transformers converts key names by class. Everything happens inside the model's own forward, as DDP requires.

    Args:
        stage: Encoder stage, from 1; of a UNet, the deepest map is 1 and those of the upward steps follow. The report's
            code uses SegFormer's third (stride 16); its text says "second intermediate layer", which is 2 (stride 8).

    Raises:
        ModelError: No such stage.
    """
    stages, widths = (
        (model.taps, model.feature_channels)
        if isinstance(model, Segmenter)
        else (model.segformer.stages, model.config.hidden_sizes)
    )
    if not 1 <= stage <= len(widths):
        raise ModelError(f"an encoder stage of 1..{len(widths)}", f"{stage}", "choose one of them")
    head = AuxiliaryHead(widths[stage - 1], model.config.num_labels, channels, dropout, stage)
    head.to(model.device, model.dtype).train(model.training)
    model.auxiliary_head = head
    model.register_forward_pre_hook(head._before_model)
    stages[stage - 1].register_forward_hook(head._after_stage)
    model.register_forward_hook(head._after_model, always_call=True)
    # An attribute of the instance; the class has None here.
    names = {f"{_NAME}.{name}" for name in head.state_dict()}
    model._keys_to_ignore_on_save = {*(model._keys_to_ignore_on_save or ()), *names}


def split_state_dict(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's state as (plain model, auxiliary head), keys unchanged; the second is empty without a head."""
    state = model.state_dict()
    auxiliary = {key: value for key, value in state.items() if key.startswith(f"{_NAME}.")}
    return {key: value for key, value in state.items() if key not in auxiliary}, auxiliary


def save_auxiliary_head(model: nn.Module, folder: str | Path) -> None:
    """Writes the head of `model` to `folder/auxiliary_head.safetensors`; nothing if it has none."""
    head = getattr(model, _NAME, None)
    if head is not None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
        # One entry: safetensors writes two in random order, and the same head would have other bytes each time.
        save_file(tensors, Path(folder) / AUXILIARY_WEIGHTS, {"stage": str(head.stage)})


def load_auxiliary_head(model: nn.Module, folder: str | Path) -> None:
    """Puts the saved head of `folder` into the one attached to `model`; nothing if neither has one.

    Raises:
        ModelError: A head on one side only, of another stage, shape or precision, or an unreadable file.
    """
    head, path = getattr(model, _NAME, None), Path(folder) / AUXILIARY_WEIGHTS
    fix = "use the options the run was started with"
    if head is None and path.is_file():
        raise ModelError("a model with the auxiliary head that was saved", "one without", fix, path)
    if head is None:
        return
    try:
        with safe_open(path, framework="pt") as file:
            stage = file.metadata().get("stage")
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not iterable itself)
    except (OSError, SafetensorError) as error:
        raise ModelError("the weights of the auxiliary head", f"{type(error).__name__}: {error}", fix, path) from error
    if stage != str(head.stage):
        raise ModelError(f"a head of stage {head.stage}", f"one of stage {stage}", fix, path)
    if different := find_difference(head.state_dict(), saved, same_precision=True):
        raise ModelError("the tensors of this head", different, fix, path)
    check_finite(saved.items(), path)
    head.load_state_dict(saved, strict=True)
