"""A trained folder and some images -> train ids at each image's own size."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForSemanticSegmentation

from hf_urbanseg.data.collator import stack_views
from hf_urbanseg.data.label_space_files import parse_label_space
from hf_urbanseg.data.own_files import LABEL_SPACE_FILE
from hf_urbanseg.data.preprocessing import build_views
from hf_urbanseg.data.rgb import find_size
from hf_urbanseg.errors import ConfigError, ModelError
from hf_urbanseg.inference.calibration_file import CALIBRATION, find_temperature
from hf_urbanseg.inference.images import ImageInput, to_image
from hf_urbanseg.inference.multi_scale import predict_views
from hf_urbanseg.inference.plan import PLAIN, PredictionPlan
from hf_urbanseg.inference.upsampling import Span
from hf_urbanseg.json_yaml import read_json
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace, check_class_names
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.models.exported import is_exported, load_exported
from hf_urbanseg.models.loading import find_file, load_complete, load_image_processor, restore_image_processor
from hf_urbanseg.models.memory_format import lay_out_depthwise
from hf_urbanseg.palettes import choose_colors

logger = logging.getLogger(__name__)

SCORES = (None, "confidence", "probabilities")
"""What `Predictor.predict` can give beside classes."""


def build_label_space(id2label: dict[int, str], name: str = "model") -> LabelSpace:
    """The classes of a model, with colours for pictures (`choose_colors`)."""
    if set(map(str, id2label)) != set(map(str, range(len(id2label)))):
        expected = f"`id2label` with the ids 0..{len(id2label) - 1}"
        raise ModelError(expected, f"{[*id2label]}", "correct config.json", name)
    id2label = {int(train_id): label for train_id, label in id2label.items()}
    check_class_names(id2label.values(), name)
    names = tuple(id2label[train_id] for train_id in range(len(id2label)))
    train_ids = {train_id: train_id for train_id in range(len(names))} | {IGNORE_INDEX: IGNORE_INDEX}
    groups = dict(zip(CITYSCAPES.names, CITYSCAPES.categories, strict=True))
    categories = tuple(groups[label] for label in names) if set(names) <= groups.keys() else ()
    return LabelSpace(name, names, choose_colors(names), train_ids, categories)


class Predictor:
    """Predicts train ids with a model and its image processor.

    Args:
        model (`PreTrainedModel`): returns `.logits` (N, C, h, w); predicts in evaluation mode and is left in it.
        image_processor: PIL images -> `pixel_values`; also of unequal sizes if it does not resize.
        device (`torch.device` or `str`, *optional*): where the model is moved; None leaves it where it is.
        plan (`PredictionPlan`, *optional*): scales, mirrored copies, windows; default: one pass.
    """

    def __init__(self, model, image_processor, device: torch.device | str | None = None, plan: PredictionPlan = PLAIN):
        self.model = model if device is None else model.to(device)
        self.image_processor, self.plan = image_processor, plan
        self.origin: tuple[str | Path, str | None] | None = None
        """Name and revision of a model that was loaded as it is."""
        self.label_space = _saved_label_space(model.config) or build_label_space(
            model.config.id2label, model.config.name_or_path or "model"
        )
        self.sizes: Callable[[tuple[int, int]], list[tuple[int, int]]] | None = None
        """Image size -> input sizes, for `EvalDataset`; None is one pass as the processor does it."""
        if not plan.is_plain:
            self.sizes = partial(plan.input_sizes, None if plan.window else self.base_size)

    @cached_property
    def temperature(self) -> float:
        """What logits are divided by for `scores`: as fitted for this model and plan (calibration.json), else 1."""
        return find_temperature(*self.origin, self.plan.describe(self.base_size)) if self.origin else 1.0

    @property
    def channels(self) -> int:
        """Of the images that the model takes; 3 are RGB."""
        return getattr(self.model.config, "num_channels", 3)

    @property
    def base_size(self) -> tuple[int, int] | None:
        """(height, width) of the image processor; None where it leaves images as they are."""
        if not self.image_processor.do_resize:
            return None
        size = dict(self.image_processor.size)
        if size.get("height") is None or size.get("width") is None:
            expected = "an image processor with a `height` and `width`"
            raise ModelError(expected, f"`size` {size}", "save them with the model")
        return size["height"], size["width"]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        device: torch.device | str | None = None,
        plan: PredictionPlan = PLAIN,
        revision: str | None = None,
        stock_decode_head: bool = False,
    ) -> "Predictor":
        """Loads a trained folder, a Hub model or a file of `urbanseg export`, completely or not at all.

        Args:
            name_or_path: A folder written by training, an exported file, or a Hub id.
            device: None takes the GPU if there is one.
            revision: Branch, tag or commit of a Hub id.
            stock_decode_head: Leaves a SegFormer's decode head to transformers instead of computing the same faster.

        Raises:
            ModelError: No such model, a file missing or damaged, a tensor missing, unexpected or of another shape.
        """
        if is_exported(name_or_path):
            return cls._from_exported(name_or_path, device, plan, stock_decode_head)
        image_processor = load_image_processor(name_or_path, revision)
        model = load_complete(AutoModelForSemanticSegmentation, name_or_path, revision=revision)
        lay_out_depthwise(model)
        if not stock_decode_head:
            apply_fast_decode_head(model)
        predictor = cls(model, image_processor, device or ("cuda" if torch.cuda.is_available() else "cpu"), plan)
        predictor.origin = name_or_path, revision
        return predictor

    @classmethod
    def _from_exported(cls, path, device, plan: PredictionPlan, stock_decode_head: bool) -> "Predictor":
        if stock_decode_head or str(device or "cpu") != "cpu":
            found = "`stock_decode_head`" if stock_decode_head else f"`device` {device}"
            raise ModelError("an exported file as it is, on the CPU", found, "leave it out", path)
        model = load_exported(path)
        if (Path(path).parent / CALIBRATION).is_file():
            logger.warning("%s: the temperature in %s was fitted for the folder's weights and isn't used for this file",
                           path, CALIBRATION)  # fmt: skip
        options = model.facts.get("image_processor")
        if model.takes_bytes:
            if not plan.is_plain:
                fix = "leave scales, flips and windows out, or export it without `--takes_bytes`"
                raise ModelError("one pass with a file of label maps", plan.describe(), fix, path)
            options = options | {"do_resize": False, "do_rescale": False, "do_normalize": False}
        predictor = cls(model, restore_image_processor(options, path), None, plan)
        predictor.label_space = parse_label_space(model.facts.get("label_space"), str(path)).with_train_ids()
        return predictor

    def check_scores(self) -> None:
        """Refuses (ModelError) an exported file that says classes alone."""
        if getattr(self.model, "takes_bytes", False):
            fix = "export it without `--takes_bytes`"
            raise ModelError("a model that gives logits, for confidence", "one of label maps", fix, self.model.path)

    def predict_batch(self, images: Sequence[Image.Image | np.ndarray], scores: str | None = None) -> list[tuple]:
        """Predicts what `to_image` gives: train ids of each, (height, width) uint8 on the model's device, and the
        `scores` of `predict`, or None."""
        if scores:
            self.check_scores()
        self.model.eval()
        views = stack_views([build_views(image, self.image_processor, self.sizes) for image in images])
        sizes = [find_size(image) for image in images]
        names = [getattr(image, "filename", "") or f"image {index}" for index, image in enumerate(images)]
        kept: list[torch.Tensor | None] = [None] * len(images)

        def keep(index: int, rows: Span, columns: Span, logits: torch.Tensor) -> None:
            probabilities = (logits / self.temperature).softmax(0)
            found = probabilities.amax(0).float() if scores == "confidence" else probabilities.half()
            if kept[index] is None:
                kept[index] = found.new_empty(*found.shape[:-2], *sizes[index])
            kept[index][..., slice(*rows), slice(*columns)] = found

        visit = keep if scores else None
        train_ids = predict_views(self.model, views, sizes, self.plan, names=names, visit=visit)
        return list(zip(train_ids, kept, strict=True))

    def predict(
        self, images: ImageInput | Sequence[ImageInput], batch_size: int = 4, scores: str | None = None
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray] | list:
        """Predicts images at their own size.

        Args:
            images: One, or a list or tuple: paths, PIL images (`convert_to_rgb`), arrays (H, W, 3) or tensors (3, H, W)
                of uint8 RGB values. Sizes and kinds may differ. A model of other `channels` takes files of so many and
                arrays and tensors.
            batch_size: Images in memory at a time; doesn't change the result beyond rounding.
            scores: `confidence`, the probability of each pixel's class, or `probabilities`, those of all classes.

        Returns:
            One (height, width) uint8 array of train ids per image: for a single image the array, for a list a list.
            With `scores`, pairs of that and (height, width) float32 confidence, or (C, height, width) float16. They are
            the softmax of the logits at the image's size, by which the class was chosen, divided by `temperature`
            (several passes: of the logarithm of the passes' mean probabilities).

        Raises:
            DataError: A file that can't be read, a picture whose white is unknown, or none of the above.
            ConfigError: Other `scores`.
        """
        if scores not in SCORES:
            expected = f"`scores` of {', '.join(filter(None, SCORES))}"
            raise ConfigError(expected, f"{scores!r}", "choose one or leave it out")
        if not isinstance(images, (list, tuple)):
            return self.predict([images], 1, scores)[0]
        starts, convert = range(0, len(images), batch_size), partial(to_image, channels=self.channels)
        batches = (self.predict_batch([*map(convert, images[start : start + batch_size])], scores) for start in starts)
        if scores is None:
            return [ids.cpu().numpy() for batch in batches for ids, _ in batch]
        return [(ids.cpu().numpy(), found.cpu().numpy()) for batch in batches for ids, found in batch]


def load_label_ids(name_or_path: str | Path, names: Sequence[str], void: bool = False) -> LabelSpace:
    """The classes of a model with the label ids of the data that it was trained on, which training records.

    Args:
        names: Of its classes.
        void: Void is to be written, too.

    Raises:
        ModelError: A model that came without, or a class (or void) that has no label id.
    """
    fix = "leave label ids out: train ids are the model's own numbers"
    expected = f"a model with the {LABEL_SPACE_FILE} that training writes, for label ids"
    if is_exported(name_or_path):
        path, description = name_or_path, load_exported(name_or_path).facts["label_space"]
        if not any({"label_ids", "label_colors"} & entry.keys() for entry in description["classes"]):
            raise ModelError(expected, "a file exported of one without", fix, path)
    else:
        try:
            path = find_file(name_or_path, LABEL_SPACE_FILE)
        except ModelError as error:
            raise ModelError(expected, "none", fix, name_or_path) from error
        description = read_json(path, ModelError)
    space = parse_label_space(description, str(path))
    if space.names != tuple(names):
        raise ModelError(f"the model's {len(names)} classes", f"{len(space.names)} others", fix, path)
    if unspelt := [name for train_id, name in space.id2label.items() if train_id not in space.label_ids.values()]:
        raise ModelError("a label id for every class", f"none for {', '.join(unspelt)}", fix, path)
    if void and IGNORE_INDEX not in space.label_ids.values():
        raise ModelError("a label id for void", "none", "leave out `--confidence_threshold` or label ids", path)
    if space.label_id_table.itemsize > 2:
        raise ModelError("label ids of 0..65535, as a PNG holds", f"{max(space.label_ids)}", fix, path)
    return space


def _saved_label_space(config) -> LabelSpace | None:
    """The run's own colours, where the model's folder has them for these very classes."""
    path = Path(config.name_or_path or ".") / LABEL_SPACE_FILE
    if not config.name_or_path or not path.is_file():
        return None
    space = parse_label_space(read_json(path, ModelError), str(path)).with_train_ids()
    return space if space.id2label == {int(key): name for key, name in config.id2label.items()} else None
