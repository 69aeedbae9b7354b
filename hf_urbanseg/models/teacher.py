"""A network that teaches: any segmentation model of transformers, asked for scores of the student's classes."""

import contextlib
import hashlib
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation, PreTrainedModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.modeling_outputs import SemanticSegmenterOutput

from hf_urbanseg.class_names import match_classes
from hf_urbanseg.errors import ModelError
from hf_urbanseg.json_yaml import read_json
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.models.loading import PROCESSOR_FILE, explain, find_file, load_complete, load_config

logger = logging.getLogger(__name__)

_PROCESSOR_KEYS = (
    "do_normalize", "image_mean", "image_std", "do_rescale", "rescale_factor", "do_flip_channel_order",
)  # fmt: skip
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Teacher(nn.Module):
    """Frozen, in evaluation mode; `logits` of the classes in `taught`, the student's train ids, in their order.

    Args:
        model: Gives `logits` (N, K, h, w), or class and mask logits of queries (Mask2Former, MaskFormer, EoMT).
        class_names: K, of the model.
        label_space_names: The student's.
        processor: Options of its image processor: mean and deviation that it was trained with, channel order.
        name: For messages.

    Attributes:
        with_features: Give the encoder's last map, too, as `hidden_states[-1]`; `try_out` then finds how many
            `feature_channels` it has.

    Shape:
        pixel_values: (N, 3, H, W) float, normalised with ImageNet's mean and deviation.
        logits: (N, len(taught), h, w) float32, at the model's own resolution, each pixel up to a constant. Of queries,
            the logarithm of their class probabilities weighted by their masks, summed, as transformers'
            `post_process_semantic_segmentation`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        class_names: Sequence[str],
        label_space_names: Sequence[str],
        processor: Mapping | None = None,
        name: str = "teacher",
    ):
        super().__init__()
        pairs = match_classes(class_names, label_space_names, name)
        self.model, self.name, self.taught = model.eval().requires_grad_(False), name, tuple(own for _, own in pairs)
        self.names = tuple(label_space_names[own] for own in self.taught)
        self.input_size: tuple[int, int] | None = None
        self.with_features, self.feature_channels = False, 0
        self.register_buffer("columns", torch.tensor([their for their, _ in pairs]), persistent=False)
        processor = processor or {}
        ours, theirs = _read_normalisation({}, name), _read_normalisation(processor, name)
        # x std + mean, then - their mean, / their std
        scale, shift = ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1]
        self.same_pixels = torch.equal(ours, theirs)
        self.flips_channels = bool(processor.get("do_flip_channel_order", False))
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> SemanticSegmenterOutput:
        pixels = pixel_values.float()
        if not self.same_pixels:
            pixels = pixels * self.scale + self.shift
        if self.flips_channels:
            pixels = pixels.flip(1)
        if self.input_size is not None:
            pixels = F.interpolate(pixels, self.input_size, mode="bilinear", align_corners=False, antialias=True)
        with torch.autocast(pixels.device.type, enabled=False):
            options = {"output_hidden_states": True} if self.with_features else {}
            outputs = self.model(pixel_values=pixels.to(self.model.dtype), **options)
            logits = outputs.get("logits")
            if logits is None:
                logits = _sum_queries(outputs)
        deepest = None
        if self.with_features and (maps := outputs.get("encoder_hidden_states") or outputs.get("hidden_states")):
            deepest = (maps[getattr(self.model, "deepest_tap", -1)].float(),)
        return SemanticSegmenterOutput(logits=logits.float()[:, self.columns], hidden_states=deepest)

    def try_out(self, *sizes: tuple[int, int]) -> float:
        """Multiply-accumulates of one input of the first (height, width), counted by running one of each.

        A model that takes one size only (EoMT) gets every input resized to that.

        Raises:
            ModelError: It doesn't take such inputs, gives no scores for classes, or none that are finite.
        """
        try:
            return self._run(sizes)
        except Exception as error:  # of any model
            side = getattr(self.model.config, "image_size", None)
            again = isinstance(side, int) and not isinstance(error, torch.OutOfMemoryError)
            if again and any(one != (side, side) for one in sizes):
                self.input_size = (side, side)
                with contextlib.suppress(Exception):
                    macs = self._run(sizes)
                    stretched = " ".join(f"{height}x{width}" for height, width in sizes if height != width)
                    if stretched:
                        logger.warning("%s takes %dx%d alone: %s is stretched to it", self.name, side, side, stretched)
                    return macs
            shown = ", ".join(f"{height}x{width}" for height, width in sizes)
            expected = f"a teacher that segments {shown} (height x width)"
            raise ModelError(expected, explain(error), "choose another", self.name) from error

    def _run(self, sizes: Sequence[tuple[int, int]]) -> float:
        macs = []
        for size in sizes:
            with FlopCounterMode(display=False) as counter:
                outputs = self(torch.zeros(1, 3, *size, device=self.scale.device))
            macs.append(counter.get_total_flops() / 2)
            if outputs.logits.ndim != 4 or not bool(outputs.logits.isfinite().all()):
                raise ValueError("scores that are no numbers, or not one for each class and place")
            if self.with_features:
                maps = outputs.hidden_states
                if maps is None or maps[-1].ndim != 4:
                    raise ValueError("no feature map of its encoder; `--distill_from output` needs none")
                self.feature_channels = maps[-1].shape[1]
        return macs[0]

    def describe(self) -> dict:
        """For the record: name (of a folder the last part), taught classes, parameters, precision, and what tells its
        weights from others."""
        seen = self.taught, self.columns.tolist(), self.scale.tolist(), self.shift.tolist(), self.flips_channels
        digest = hashlib.sha256(repr(seen).encode())
        for key, tensor in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return {
            "name": Path(self.name).resolve().name if Path(self.name).exists() else self.name,
            "classes": list(self.names),
            "parameters": sum(one.numel() for one in self.model.parameters()),
            "precision": {one: name for name, one in PRECISIONS.items()}[self.model.dtype],
            "sha256": digest.hexdigest(),
        }


def _sum_queries(outputs: Mapping[str, Tensor]) -> Tensor:
    classes = outputs["class_queries_logits"].float().softmax(-1)[..., :-1]  # the last is "no object"
    masks = outputs["masks_queries_logits"].float().sigmoid()
    return torch.einsum("nqc,nqhw->nchw", classes, masks).clamp_min(1e-12).log()


def _read_normalisation(processor: Mapping, name: str) -> Tensor:
    """Shape: returns (2, 3, 1, 1), mean and deviation of red, green and blue in 0..1."""
    factor = processor.get("rescale_factor", 1 / 255)
    if not processor.get("do_rescale", True) or not isinstance(factor, float) or abs(factor - 1 / 255) > 1e-6:
        found = f"`do_rescale` {processor.get('do_rescale')}, `rescale_factor` {factor}"
        raise ModelError("a teacher of images in 0..1", found, "choose another", name)
    mean, std = (0.0,) * 3, (1.0,) * 3
    if processor.get("do_normalize", True):
        mean = processor.get("image_mean", IMAGENET_DEFAULT_MEAN)
        std = processor.get("image_std", IMAGENET_DEFAULT_STD)
    try:
        found = torch.tensor([mean, std], dtype=torch.float32).view(2, 3, 1, 1)
        if not bool(found.isfinite().all() and (found[1] > 0).all()):
            raise ValueError("none above 0")
    except (TypeError, ValueError, RuntimeError) as error:
        expected, found = "`image_mean` and `image_std` of three numbers", f"{mean} and {std}"
        raise ModelError(expected, found, f"correct {PROCESSOR_FILE}", name) from error
    return found


def load_teacher(
    name_or_path: str,
    label_space_names: Sequence[str],
    revision: str | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    device: torch.device | str = "cpu",
    stock_decode_head: bool = False,
) -> Teacher:
    """A model from a folder or the Hub as a teacher: strictly loaded, finite, its classes found by name.

    Raises:
        ModelError: Not found, damaged, no model for segmentation, or without a class in common.
    """
    config = load_config(name_or_path, revision)
    auto_classes = (AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation)
    auto_class = next((one for one in auto_classes if type(config) in one._model_mapping), None)
    if auto_class is None:
        found = f"a `{config.model_type}`"
        raise ModelError("a teacher for semantic or universal segmentation", found, "choose another", name_or_path)
    names = [config.id2label[key] for key in sorted(config.id2label)]
    match_classes(names, label_space_names, name_or_path)  # before the weights are read
    # Of training alone: a loss's weights of classes.
    unused = ("criterion.",)
    model = load_complete(auto_class, name_or_path, revision=revision, dtype=PRECISIONS[precision], unused=unused)
    if config.model_type == "segformer" and not stock_decode_head:
        apply_fast_decode_head(model)
    teacher = Teacher(model, names, label_space_names, _read_processor(name_or_path, revision), str(name_or_path))
    return teacher.to(device)


def _read_processor(name_or_path: str, revision: str | None) -> Mapping:
    """What its file says, over the defaults of the class that it names; of a folder without the file, nothing."""
    folder = Path(name_or_path)
    if folder.is_dir() and not (folder / PROCESSOR_FILE).is_file():
        logger.warning("%s has no %s: its images are taken to be normalised as ours", name_or_path, PROCESSOR_FILE)
        return {}
    options = read_json(find_file(name_or_path, PROCESSOR_FILE, revision), ModelError)
    kind = str(options.get("image_processor_type") or options.get("feature_extractor_type") or "")
    kind = kind.replace("FeatureExtractor", "ImageProcessor").removesuffix("Pil").removesuffix("Fast")
    usual = getattr(transformers, f"{kind}Pil", None) if kind.endswith("ImageProcessor") else None
    if usual is not None:  # where torchvision is missing, a stand-in that only names its module (transformers < 5.23)
        usual = getattr(import_module(usual.__module__), f"{kind}Pil")
    return {key: getattr(usual, key) for key in _PROCESSOR_KEYS if hasattr(usual, key)} | options
