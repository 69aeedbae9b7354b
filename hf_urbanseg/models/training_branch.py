"""Modules that look at an encoder stage to help training: hooked to the model, saved in checkpoints, never exported."""

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
from hf_urbanseg.models.lora import list_adapted


@dataclass
class BranchedSegmenterOutput(SemanticSegmenterOutput):
    """`SemanticSegmenterOutput` with what branches made of their stages, (N, channels, h, w) at its resolution.

    Declared fields, not just further keys: DDP takes outputs apart and builds them anew from their type.
    """

    auxiliary_logits: Tensor | None = None
    adapted_features: Tensor | None = None


class TrainingBranch(nn.Module):
    """Gets the map of a stage (from 1) in training mode; what it makes of it becomes `field` of the model's outputs."""

    name: str
    """Of the attribute of the model, and of the file in checkpoints."""
    field: str

    def __init__(self, stage: int):
        super().__init__()
        self.stage = stage
        self._awaited = False
        self._result: Tensor | None = None

    # Hooks. As methods of this module they are copied and pickled with the model, bound to the copy.

    def _before_model(self, model, args) -> None:
        self._awaited = model.training

    def _after_stage(self, stage, args, output: Tensor) -> None:
        # Here and not after the model: what accelerate wraps into autocast is the model's `forward`, without hooks.
        if self._awaited:
            self._result = self(output)

    def _after_model(self, model, args, output):
        # Also called when the forward raised (output None), so that nothing is held on to.
        result, self._result, self._awaited = self._result, None, False
        if result is None or output is None:
            return output
        if isinstance(output, tuple):
            return (*output, result)
        # accelerate has brought the outputs of `forward` to fp32 by now.
        return BranchedSegmenterOutput(**output, **{self.field: result.to(output.logits.dtype)})


class FeatureAdapter(TrainingBranch):
    """Shape: feature_map: (N, in_channels, h, w) float. returns: (N, channels, h, w).

    Source: Shu et al. 2021, where the student's channels are another number than the teacher's.
    """

    name, field = "feature_adapter", "adapted_features"

    def __init__(self, in_channels: int, channels: int, stage: int):
        super().__init__(stage)
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=1)

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.conv(feature_map)


BRANCHES = ("auxiliary_head", "feature_adapter")
_HELPERS = (*BRANCHES, "lora")


def find_stages(model: SegformerForSemanticSegmentation | Segmenter) -> tuple[nn.ModuleList, list[int]]:
    """The encoder's stages and how wide their maps are."""
    if isinstance(model, Segmenter):
        return model.taps, list(model.feature_channels)
    return model.segformer.stages, list(model.config.hidden_sizes)


def attach_branch(model: SegformerForSemanticSegmentation | Segmenter, branch: TrainingBranch) -> None:
    """Adds `model.<name of the branch>`; in training mode, outputs then have its field too.

    Evaluation is unchanged, and so is what `save_pretrained` writes: the plain model. The class stays, because
    transformers converts key names by class. Everything happens inside the model's own forward, as DDP requires.
    """
    branch.to(model.device, model.dtype).train(model.training)
    setattr(model, branch.name, branch)
    model.register_forward_pre_hook(branch._before_model)
    find_stages(model)[0][branch.stage - 1].register_forward_hook(branch._after_stage)
    model.register_forward_hook(branch._after_model, always_call=True)
    # An attribute of the instance; the class has None here.
    names = {f"{branch.name}.{name}" for name in branch.state_dict()}
    model._keys_to_ignore_on_save = {*(model._keys_to_ignore_on_save or ()), *names}


def attach_feature_adapter(model: SegformerForSemanticSegmentation | Segmenter, channels: int) -> None:
    """Adds `model.feature_adapter` on the deepest map; outputs then have `adapted_features`."""
    _, widths = find_stages(model)
    stage = range(len(widths))[getattr(model, "deepest_tap", -1)]
    attach_branch(model, FeatureAdapter(widths[stage], channels, stage + 1))


def split_state_dict(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's state as (plain model, branches and layers with adapters), keys unchanged."""
    state = model.state_dict()
    names = tuple(f"{name}." for name in (*BRANCHES, *list_adapted(model)))
    helpers = {key: value for key, value in state.items() if key.startswith(names)}
    return {key: value for key, value in state.items() if key not in helpers}, helpers


def save_branches(model: nn.Module, folder: str | Path) -> None:
    """Writes each branch of `model`, and its layers with adapters as they are, to `folder/<name>.safetensors`."""
    for name in _HELPERS:
        stage, state = _find_helper(model, name)
        if state:
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
            # One entry: safetensors writes two in random order, and the same branch would have other bytes each time.
            save_file(tensors, Path(folder) / f"{name}.safetensors", {"stage": stage})


def load_branches(model: nn.Module, folder: str | Path) -> None:
    """Puts what `save_branches` wrote into what is attached to `model`; nothing if neither has any.

    Raises:
        ModelError: A helper on one side only, of another stage, shape or precision, or an unreadable file.
    """
    for name in _HELPERS:
        _load(*_find_helper(model, name), name.replace("_", " "), Path(folder) / f"{name}.safetensors")


def _find_helper(model: nn.Module, name: str) -> tuple[str, dict[str, Tensor]]:
    """Its stage and tensors, no copies."""
    if name in BRANCHES:
        branch = getattr(model, name, None)
        return ("", {}) if branch is None else (str(branch.stage), branch.state_dict())
    states = {layer: one.state_dict() for layer, one in list_adapted(model).items()}
    return "all", {f"{layer}.{key}": tensor for layer, state in states.items() for key, tensor in state.items()}


def _load(stage: str, state: dict[str, Tensor], what: str, path: Path) -> None:
    fix = "use the options the run was started with"
    if not state and path.is_file():
        raise ModelError(f"a model with the {what} that was saved", "one without", fix, path)
    if not state:
        return
    try:
        with safe_open(path, framework="pt") as file:
            saved_stage = file.metadata().get("stage")
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not iterable itself)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the weights of the {what}", f"{type(error).__name__}: {error}", fix, path) from error
    if saved_stage != stage:
        raise ModelError(f"the {what} of stage {stage}", f"that of stage {saved_stage}", fix, path)
    if different := find_difference(state, saved, same_precision=True):
        raise ModelError(f"the tensors of this {what}", different, fix, path)
    check_finite(saved.items(), path)
    for name, tensor in state.items():
        tensor.copy_(saved[name])
