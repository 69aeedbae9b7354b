"""Pictures of predictions in a run's folder: some of the held-out split, and the failures that its card tells of."""

from pathlib import Path

import numpy as np

from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.inference.evaluation import Measurement
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.reports.failure_cases import CARD_FAILURES, choose_card_failures
from hf_urbanseg.reports.formats import format_percent
from hf_urbanseg.reports.overlays import clear_comparisons, name_picture, save_comparison


def save_pictures(
    output: Path,
    predictor: Predictor,
    data: LoadedData,
    split: str,
    measurement: Measurement,
    overlays: int | None,
    failures: int = CARD_FAILURES,
) -> None:
    """Writes `overlays/<frame>.jpg` and `failures/<frame>.jpg` in place of those of an earlier measurement.

    Images are predicted again, each once, because to keep every prediction would take memory without bound.

    Args:
        output: The run's folder.
        measurement: Of `split`, by the model and plan of `predictor`.
        overlays: Evenly picked images; None leaves those that are there.
        failures: Of those that the card shows, the first so many.

    Raises:
        ConfigError: A picture can't be written.
    """
    rows, space, images = data.splits[split], data.label_space, measurement.images
    picked = set() if overlays is None else pick_evenly(len(rows), overlays)
    chosen = {choice.index: choice for choice in choose_card_failures(images)[:failures]}
    try:
        for name, indices in (("overlays", picked), ("failures", chosen)):
            if name == "failures" or overlays is not None:
                clear_comparisons(output / name)
            if indices:
                (output / name).mkdir(parents=True, exist_ok=True)
        for index in sorted(picked | chosen.keys()):
            row = rows[index]
            image, file = row["image"].convert("RGB"), f"{name_picture(row['name'])}.jpg"
            shown = image, predictor.predict([image])[0], space.train_id_table[np.asarray(row["label"])], space
            title = f"{split}: {row['name']}"
            if index in picked:
                save_comparison(output / "overlays" / file, *shown, title)
            if index in chosen:
                score = f"mIoU {format_percent(images.mean_iou[index])} %"
                reasons = "\n".join(chosen[index].reasons)
                save_comparison(output / "failures" / file, *shown, f"{title}, {score}", reasons)
    except OSError as error:
        raise ConfigError("pictures that can be written", error.strerror or f"{error}", "make room", output) from error


def pick_evenly(length: int, count: int) -> set[int]:
    """Indices of `count` of `length` images, the first and the last among them."""
    return set(np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist())
