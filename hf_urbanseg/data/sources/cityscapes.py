"""The official layout of Cityscapes."""

from pathlib import Path

from hf_urbanseg.data.image_files import build_dataset, pair_patterns
from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.errors import DataError

IMAGES, LABELS = "leftImg8bit", "gtFine"
LOOKS_LIKE = f"{IMAGES} and {LABELS} (Cityscapes)"
_NOTE = (
    "Cityscapes: the official val cities are our test, as in published results; the official test has no public "
    "labels and is left out"
)


def matches(request: DataRequest) -> bool:
    """Whether the path holds `leftImg8bit` or `gtFine`."""
    return request.path is not None and any((request.path / folder).is_dir() for folder in (IMAGES, LABELS))


def load(request: DataRequest) -> FoundData:
    """The official train as `train` and the official val as `test`, whichever are there.

    The label space `cityscapes_train_ids` reads the files `_gtFine_labelTrainIds` that some have made.
    """
    suffix = f"_gtFine_label{'Train' if request.label_space_name == 'cityscapes_train_ids' else ''}Ids"
    _check_kind(request.path / LABELS, suffix)
    splits = {
        ours: pair_patterns(
            request.path, f"{IMAGES}/{official}/*", f"{LABELS}/{official}/*",
            image_suffix="_leftImg8bit", label_suffix=suffix,
        )
        for official, ours in (("train", "train"), ("val", "test"))
        if (request.path / IMAGES / official).is_dir()
    }  # fmt: skip
    if not splits:
        fix = "unpack both official archives here"
        raise DataError(f"{IMAGES}/train or {IMAGES}/val", "neither", fix, request.path)
    # Frames of one city follow each other in time and show the same streets.
    scenes = [list(city) for city in splits.get("train", ())]
    rows = {split: build_dataset(*cities) for split, cities in splits.items()}
    return FoundData(rows, request.street_classes, "cityscapes", (_NOTE,), scenes)


def _check_kind(labels: Path, suffix: str) -> None:
    """Refuses label files of other kinds alone, which unpacked archives or an interrupted conversion leave."""
    kinds = sorted({file.stem.rpartition("_")[2] for file in labels.glob("*/*/*_gtFine_*")})
    if kinds and suffix.rpartition("_")[2] not in kinds:
        fix = "unpack gtFine_trainvaltest.zip"
        if "labelTrainIds" in kinds:
            fix = "say `--label_space cityscapes_train_ids`"
        elif "polygons" in kinds:
            fix = "make them: IDD's by its createLabels.py, Cityscapes' by csCreateTrainIdLabelImgs, and then add "
            fix += "`--label_space cityscapes_train_ids`"
        elif "color" in kinds:
            fix += "; the colours can't replace it, for example license plates have the cars'"
        raise DataError(f"label files `*{suffix}.png`", f"only kinds {', '.join(kinds)}", fix, labels)
