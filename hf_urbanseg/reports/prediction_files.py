"""The files a prediction leaves, each whole or not there at all."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hf_urbanseg.data.rgb import to_rgb
from hf_urbanseg.data.submission import encode_label_ids
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import written_whole
from hf_urbanseg.inference.images import read_image
from hf_urbanseg.inference.input_files import is_video
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.progress import show_progress
from hf_urbanseg.reports.overlays import blend, colorize, draw_class_legend, find_classes

IDS = ("train_id", "label_id")
KINDS = (*IDS, "color", "overlay")
LEGENDS = {"overlay": ("overlay",), "all": ("color", "overlay"), "none": ()}
"""Which kinds of pictures have a legend, by word."""
CONFIDENCE = {"png8": "confidence", "png16": "confidence", "npz": "probabilities"}
"""What of `Predictor.predict` each kind of file holds."""


def write_prediction(
    output: Path,
    stem: str,
    image: Image.Image | np.ndarray,
    train_ids: np.ndarray,
    label_space: LabelSpace,
    alpha: float,
    kinds: Sequence[str] = ("train_id", "color", "overlay"),
    legend: str = "overlay",
    classes: Sequence[int] | None = None,
    threshold: float | None = None,
) -> None:
    """Writes `<stem>_train_id.png`, `<stem>_color.png` and `<stem>_overlay.png`, or those of `kinds`.

    Files of ids list their classes as the PNG's `Description`, and what void stands for.

    Args:
        label_space: For `label_id` as the data spells it, see `load_label_ids`.
        alpha: Opacity of the classes in the overlay.
        legend: Which pictures have one below, a word of `LEGENDS`.
        classes: In it; default: those that occur.
        threshold: Of the confidence below which train ids are void, if they are.
    """
    train_ids = np.asarray(train_ids)
    for kind in kinds:
        about = None
        match kind:
            case "overlay":
                picture = blend(image, train_ids, label_space, alpha)
            case "color":
                picture = colorize(train_ids, label_space)
            case _:
                table = label_space.label_id_table if kind == "label_id" else np.arange(256, dtype=np.uint8)
                picture, about = table[train_ids], PngInfo()
                listed = ", ".join(f"{table[train_id]} {name}" for train_id, name in label_space.id2label.items())
                if threshold:
                    listed += f"; {table[IGNORE_INDEX]} where the confidence is below {threshold:g}"
                about.add_itxt("Description", f"{kind} of {label_space.name}: {listed}")
        if kind in LEGENDS[legend]:
            listed = find_classes(label_space, train_ids) if classes is None else classes
            picture = np.concatenate([picture, draw_class_legend(train_ids.shape, label_space, listed)])
        with written_whole(output / f"{stem}_{kind}.png") as temporary:
            Image.fromarray(picture).save(temporary, format="PNG", pnginfo=about)


def write_scores(output: Path, stem: str, scores: np.ndarray, confidence: str, predictor: Predictor) -> None:
    """Writes what `Predictor.predict` gave beside classes, as `confidence` of `CONFIDENCE` says.

    `<stem>_confidence.png` holds the probability of each pixel's class, 0..1 as 0..255 or 0..65535, and
    `<stem>_probabilities.npz` those of all: `probabilities` (C, H, W) float16, `classes`, `temperature`.
    """
    if confidence == "npz":
        names, temperature = np.array(predictor.label_space.names), np.float64(predictor.temperature)
        with written_whole(output / f"{stem}_probabilities.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, probabilities=scores, classes=names, temperature=temperature)
        return
    kind, about = np.dtype({"png8": np.uint8, "png16": np.uint16}[confidence]), PngInfo()
    most = np.iinfo(kind).max
    said = f"confidence: the probability of the predicted class, 0..1 as 0..{most}; {spell_temperature(predictor)}"
    about.add_itxt("Description", said)
    with written_whole(output / f"{stem}_confidence.png") as temporary:
        picture = Image.fromarray(np.rint(scores.astype(np.float64) * most).astype(kind))
        picture.save(temporary, format="PNG", pnginfo=about)


def spell_temperature(predictor: Predictor) -> str:
    return "no fitted temperature" if predictor.temperature == 1 else f"temperature {predictor.temperature:.4g}"


def predict_marked(predictor: Predictor, images: Sequence, threshold: float | None, scores: str | None) -> list[tuple]:
    """Train ids of each image, void where the confidence is below `threshold`, and the `scores` of `predict`."""
    scores = scores or ("confidence" if threshold else None)
    if scores is None:
        return [(train_ids, None) for train_ids in predictor.predict(images, len(images))]
    predictions = predictor.predict(images, len(images), scores)
    for train_ids, found in predictions:
        train_ids[(found if scores == "confidence" else found.max(0)) < (threshold or 0)] = IGNORE_INDEX
    return predictions


def predict_images(
    paths: Sequence[Path],
    predictor: Predictor,
    output: Path,
    batch_size: int,
    alpha: float,
    legend: str,
    ids: str = "train_id",
    confidence: str | None = None,
    threshold: float | None = None,
) -> None:
    """Predicts image files into `output`; `alpha`, `legend` and `threshold` as in `write_prediction`, `ids` of `IDS`,
    `confidence` of `CONFIDENCE` or None."""
    files, scores = {path.stem: path for path in paths}, CONFIDENCE.get(confidence)
    predicted = _predict_files(files, predictor, batch_size, "predicting", threshold, scores)
    for stem, image, train_ids, found in predicted:
        kinds, space = (ids, "color", "overlay"), predictor.label_space
        write_prediction(output, stem, image, train_ids, space, alpha, kinds, legend, threshold=threshold)
        if confidence:
            write_scores(output, stem, found, confidence, predictor)


def predict_label_ids(
    images: Mapping[str, Path], predictor: Predictor, batch_size: int, title: str
) -> Iterator[tuple[str, bytes]]:
    """Name and PNG of Cityscapes' label ids of each image file, as benchmarks' servers take them."""
    for name, _, train_ids, _ in _predict_files(images, predictor, batch_size, title):
        yield name, encode_label_ids(train_ids)


def _predict_files(
    files: Mapping,
    predictor: Predictor,
    batch_size: int,
    title: str,
    threshold: float | None = None,
    scores: str | None = None,
) -> Iterator[tuple]:
    """Key, image and what `predict_marked` gives of each file, a batch in memory at a time."""
    keys = list(files)
    passes_of = None if predictor.plan.is_plain else predictor.model
    with show_progress(len(keys), title, "image", passes_of=passes_of) as bar:
        for start in range(0, len(keys), batch_size):
            batch = keys[start : start + batch_size]
            images = [read_image(files[key], predictor.channels).picture for key in batch]
            predicted = predict_marked(predictor, images, threshold, scores)
            for key, image, (train_ids, found) in zip(batch, images, predicted, strict=True):
                yield key, to_rgb(image), train_ids, found
                bar.update()


def video_path(output: Path, stem: str) -> Path:
    """The overlay video of the video `stem`."""
    return output / f"{stem}_overlay.mp4"


def frames_path(output: Path, stem: str) -> Path:
    """The folder of its frames' PNGs, named by frame from `000000` on."""
    return output / f"{stem}_frames"


def check_targets(paths: list[Path], output: Path) -> None:
    """Refuses to overwrite an input, or a folder that holds anything but an earlier run's frames."""
    targets = {video_path(output, path.stem) for path in paths if is_video(path)}
    kinds = (*KINDS, "confidence")
    targets |= {output / f"{path.stem}_{kind}.png" for path in paths if not is_video(path) for kind in kinds}
    targets = {target.resolve() for target in targets}
    for path in paths:
        if path.resolve() in targets:
            raise DataError("inputs that no result overwrites", "one that would be", "choose another `--output`", path)
        folder = frames_path(output, path.stem)
        if is_video(path) and folder.exists():
            of_frames = re.compile(rf"\d{{6,}}_({'|'.join(KINDS)})\.png").fullmatch
            strange = min((one.name for one in folder.glob("*") if not of_frames(one.name)), default=None)
            if strange or not folder.is_dir():
                found, fix = f"`{strange}`, too" if strange else "a file", "move it, or choose another `--output`"
                raise DataError("a folder of earlier frames only", found, fix, folder)
