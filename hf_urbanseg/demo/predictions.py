"""What the page shows of a picture: its classes and how sure the model is, drawn and in words, without gradio."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from markupsafe import Markup
from PIL import Image

from hf_urbanseg.data.rgb import find_size, to_rgb
from hf_urbanseg.inference.images import read_image
from hf_urbanseg.inference.plan import PredictionPlan
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.formats import format_percent
from hf_urbanseg.reports.overlays import blend

MOST_PIXELS = 1 << 21
"""1920x1080 and a little more: of larger pictures the page shows, and predicts, a smaller copy."""
_RAMP = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
CONFIDENCE_RAMP = tuple(map(tuple, _RAMP[::51].tolist()))
"""Six of the colours of `draw_confidence`, from 0 to 1."""


class Prediction(NamedTuple):
    """A picture as the page shows it, and what a model says of each of its pixels.

    Shape:
        image: (H, W, 3) uint8 RGB. train_ids: (H, W) uint8. confidence: (H, W) float32, probability of that class.
    """

    image: np.ndarray
    train_ids: np.ndarray
    confidence: np.ndarray


def read_upload(path: str | Path, channels: int = 3) -> tuple[Image.Image | np.ndarray, str]:
    """A file as `read_image` reads it, at most `MOST_PIXELS` large, and a line for its owner, or none."""
    picture, note = read_image(path, channels)
    height, width = find_size(picture)
    if height * width <= MOST_PIXELS:
        return picture, note
    scale = (MOST_PIXELS / (height * width)) ** 0.5
    size = max(1, int(width * scale)), max(1, int(height * scale))
    if isinstance(picture, np.ndarray):
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    else:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    made = f"made smaller for this page, from {height}x{width} to {size[1]}x{size[0]} (height x width)"
    return picture, f"{note}; {made}" if note else made


def with_plan(predictor: Predictor, plan: PredictionPlan) -> Predictor:
    """The same model, processor and colours, tested another way."""
    other = Predictor(predictor.model, predictor.image_processor, plan=plan)
    other.label_space, other.origin = predictor.label_space, predictor.origin
    return other


def predict_confidence(predictor: Predictor, picture: Image.Image | np.ndarray) -> Prediction:
    """What `Predictor.predict` gives of a picture, with its confidence, beside the picture."""
    ((train_ids, confidence),) = predictor.predict_batch([picture], scores="confidence")
    return Prediction(np.asarray(to_rgb(picture)), train_ids.cpu().numpy(), confidence.cpu().numpy())


def draw_confidence(prediction: Prediction, alpha: float) -> np.ndarray:
    """Viridis over the image: dark blue is 0, yellow is 1.

    Shape:
        returns: (H, W, 3) uint8.
    """
    colors = _RAMP[np.rint(255 * prediction.confidence).astype(np.uint8)]
    return cv2.addWeighted(prediction.image, 1 - alpha, colors, alpha, 0)


def draw_classes(prediction: Prediction, label_space: LabelSpace, alpha: float) -> np.ndarray:
    """The overlay that `urbanseg predict` writes, without its legend."""
    return blend(prediction.image, prediction.train_ids, label_space, alpha)


def describe_classes(prediction: Prediction, label_space: LabelSpace) -> Markup:
    """The classes that occur, largest first: colour, name, share of the pixels, mean confidence."""
    counts = np.bincount(prediction.train_ids.ravel(), minlength=label_space.num_labels)
    sums = np.bincount(prediction.train_ids.ravel(), prediction.confidence.ravel(), len(counts))
    row = Markup(
        '<tr><td>{}{}</td><td class="us-bar"><div style="width:{:.1f}%;background:{}"></div></td>'
        "<td>{} %</td><td>{} %</td></tr>"
    )
    rows = []
    for index in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]:
        share, length = counts[index] / counts.sum(), 100 * counts[index] / counts.max()
        swatch, color = _swatch(label_space, index), _css(label_space.colors[index])
        shown = "< 0.1" if share < 0.0005 else format_percent(share, 1)
        sure = format_percent(sums[index] / counts[index], 1)
        rows.append(row.format(swatch, label_space.names[index], length, color, shown, sure))
    head = Markup('<tr><th>class</th><th class="us-bar"></th><th>share of pixels</th><th>mean confidence</th></tr>')
    return Markup('<table class="us-classes">{}{}</table>').format(head, Markup("").join(rows))


def describe_pixel(predictions: Sequence[Prediction], spaces: dict[str, LabelSpace], x: int, y: int) -> Markup:
    """Class and confidence of a pixel, a line for each model; nothing of one outside."""
    height, width = predictions[0].train_ids.shape
    if not (0 <= x < width and 0 <= y < height):
        return Markup("")
    lines = []
    for one, (name, space) in zip(predictions, spaces.items(), strict=True):
        train_id, model = one.train_ids[y, x], Markup("{}: ").format(name) if len(spaces) > 1 else ""
        sure = format_percent(one.confidence[y, x], 1)
        line = Markup("<div>{}{}<b>{}</b> {} %</div>")
        lines.append(line.format(model, _swatch(space, train_id), space.names[train_id], sure))
    return Markup('<div class="us-pixel"><span>column {}, row {}</span>{}</div>').format(x, y, Markup("").join(lines))


def describe_ramp() -> Markup:
    """The legend of `draw_confidence`."""
    stops = ", ".join(map(_css, CONFIDENCE_RAMP))
    bar = Markup('<div class="us-ramp"><span>0 %</span><div style="background:linear-gradient(90deg, {})"></div>')
    return bar.format(stops) + Markup("<span>100 % sure</span></div>")


def _swatch(label_space: LabelSpace, train_id: int) -> Markup:
    return Markup('<i style="background:{}"></i>').format(_css(label_space.colors[train_id]))


def _css(color: Sequence[int]) -> str:
    return "rgb({},{},{})".format(*color)
