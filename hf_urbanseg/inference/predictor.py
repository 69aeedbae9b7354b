"""A trained folder and some images -> train ids at each image's own size."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoModelForSemanticSegmentation

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace
from hf_urbanseg.models.loading import load_complete, load_image_processor


def upsample_argmax(logits: torch.Tensor, target_sizes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
    """Brings logits to each image's size and takes the best class; the core of prediction and of evaluation.

    Args:
        logits: Model output of one batch.
        target_sizes: (height, width) wanted for each image; they may differ.

    Shape:
        logits: (N, C, h, w) float of any precision, unnormalised; upsampled in fp32 (bilinear, align_corners=False).
        returns: N tensors (height, width) int64, train ids.
    """
    if len(logits) != len(target_sizes):
        raise ValueError(f"expected one target size per image, {len(logits)}; found {len(target_sizes)}.")
    # One image at a time: a batch of full-resolution logits is the largest tensor of a whole evaluation.
    return [
        F.interpolate(one[None].float(), size=tuple(map(int, size)), mode="bilinear", align_corners=False)[0].argmax(0)
        for one, size in zip(logits, target_sizes, strict=True)
    ]


def build_label_space(id2label: dict[int, str], name: str = "model") -> LabelSpace:
    """The classes of a model, with colours for pictures.

    A class named as in Cityscapes has its Cityscapes colour; every other one the generated colour farthest from all
    colours in use, so the same names always get the same colours.

    Args:
        id2label: Train id -> class name, as in `model.config.id2label`.
        name: Named in errors.

    Raises:
        ModelError: The ids are not 0..C-1.
        ConfigError: A name occurs twice, or there are more than 255.
    """
    id2label = {int(train_id): str(label) for train_id, label in id2label.items()}
    if sorted(id2label) != list(range(len(id2label))):
        raise ModelError(
            f"`id2label` with the ids 0..{len(id2label) - 1}", f"{sorted(id2label)}", "correct config.json", name
        )
    names = tuple(id2label[train_id] for train_id in range(len(id2label)))
    known = dict(zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True))
    colors = [known.get(label) for label in names]
    steps = np.linspace(0, 255, 9).round()
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    # Black is void, so the first generated colour keeps away from it too.
    distance = np.linalg.norm(candidates, axis=1)
    for color in filter(None, colors):
        distance = np.minimum(distance, np.linalg.norm(candidates - color, axis=1))
    for index, color in enumerate(colors):
        if color is None:
            best = candidates[distance.argmax()]
            distance = np.minimum(distance, np.linalg.norm(candidates - best, axis=1))
            colors[index] = tuple(int(channel) for channel in best)
    train_ids = {train_id: train_id for train_id in range(len(names))} | {IGNORE_INDEX: IGNORE_INDEX}
    groups = dict(zip(CITYSCAPES.names, CITYSCAPES.categories, strict=True))
    categories = tuple(groups[label] for label in names) if set(names) <= groups.keys() else ()
    return LabelSpace(name, names, tuple(colors), train_ids, categories)


class Predictor:
    """Predicts train ids with a model and its image processor.

    Args:
        model (`PreTrainedModel`): returns `.logits` (N, C, h, w); predicts in evaluation mode and is left in it.
        image_processor: PIL images -> `pixel_values`; also of unequal sizes if it does not resize.
        device (`torch.device` or `str`, *optional*): where the model is moved; None leaves it where it is.
    """

    def __init__(self, model, image_processor, device: torch.device | str | None = None):
        self.model = model if device is None else model.to(device)
        self.image_processor = image_processor
        self.label_space = _saved_label_space(model.config) or build_label_space(
            model.config.id2label, model.config.name_or_path or "model"
        )

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, device: torch.device | str | None = None) -> "Predictor":
        """Loads a trained folder or Hub model, completely or not at all.

        Args:
            name_or_path: A folder written by training, or a Hub id.
            device: None takes the GPU if there is one.

        Raises:
            ModelError: No such model, a file missing or damaged, a tensor missing, unexpected or of another shape, or
                a processor that reduces labels.
        """
        image_processor = load_image_processor(name_or_path)
        model = load_complete(AutoModelForSemanticSegmentation, name_or_path)
        return cls(model, image_processor, device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @torch.no_grad()
    def predict_batch(self, pixel_values: torch.Tensor, target_sizes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Runs the model once.

        Shape:
            pixel_values: (N, 3, h, w) float, normalised.
            returns: N tensors (height, width) int64 train ids, on the model's device.
        """
        self.model.eval()
        logits = self.model(pixel_values=pixel_values.to(self.model.device, self.model.dtype)).logits
        return upsample_argmax(logits, target_sizes)

    def predict(self, images: Sequence[Image.Image], batch_size: int = 4) -> list[np.ndarray]:
        """Predicts PIL images at their own size.

        Args:
            images: RGB, of any sizes.
            batch_size: Images per forward pass; doesn't change the result beyond rounding.

        Returns:
            One (height, width) uint8 array of train ids per image.
        """
        predictions = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            pixel_values = [self.image_processor(image, return_tensors="pt")["pixel_values"] for image in batch]
            sizes = [(image.height, image.width) for image in batch]
            if len({one.shape for one in pixel_values}) == 1:
                train_ids = self.predict_batch(torch.cat(pixel_values), sizes)
            else:
                train_ids = [
                    self.predict_batch(*one)[0] for one in zip(pixel_values, [[s] for s in sizes], strict=True)
                ]
            predictions += [one.to("cpu", torch.uint8).numpy() for one in train_ids]
        return predictions


def _saved_label_space(config) -> LabelSpace | None:
    """The run's own colours, where the model's folder has them for these very classes."""
    path = Path(config.name_or_path or ".") / "label_space.json"
    if not config.name_or_path or not path.is_file():
        return None
    try:
        space = LabelSpace.from_dict(json.loads(path.read_text(encoding="utf-8")), str(path)).with_train_ids()
    except (ValueError, AttributeError) as error:
        raise ModelError("a readable label space", str(error), "delete or correct it", path) from error
    return space if space.id2label == {int(key): name for key, name in config.id2label.items()} else None
