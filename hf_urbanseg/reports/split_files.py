"""What a measured split leaves in a run's folder, whether training or `evaluate.py` measured it."""

from pathlib import Path

from hf_urbanseg.inference.evaluation import Measurement
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.plots import plot_class_iou
from hf_urbanseg.reports.run_files import describe_scores, write_json
from hf_urbanseg.reports.tables import write_class_table


def write_split_files(
    folder: str | Path,
    split: str,
    measurement: Measurement,
    label_space: LabelSpace,
    constant_class: int,
    protocol: str,
    data: str,
) -> dict:
    """Writes `per_class_<split>.md`, `.csv`, `.png` and `per_image_<split>.json`.

    Args:
        folder: Exists.
        constant_class: Train id of the constant guess, the commonest class of train.
        protocol: `PredictionPlan.describe`.
        data: Name of the data set.

    Returns:
        The split's entry for metrics.json: `num_images`, `protocol` and the scores of `describe_scores`.
    """
    folder = Path(folder)
    scores = describe_scores(measurement.matrix, label_space, constant_class, measurement.images)
    for suffix in (".md", ".csv"):
        write_class_table(scores, label_space, folder / f"per_class_{split}{suffix}")
    plot_class_iou(list(scores["iou"].values()), label_space, folder / f"per_class_{split}.png")
    counts = {"split": split, "protocol": protocol, "data": data, **measurement.images.to_dict()}
    # Rows of numbers, not a number a line: for 50 images, 20 kB instead of 100.
    write_json(folder / f"per_image_{split}.json", counts, indent=None)
    return {"num_images": len(measurement.images), "protocol": protocol, **scores}
