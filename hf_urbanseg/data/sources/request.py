"""What every source is asked, and what every source answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from hf_urbanseg.labels import CITYSCAPES, LabelSpace


@dataclass(frozen=True)
class DataRequest:
    """What `load_data` was asked for; its docstring says what each option means.

    Args:
        path: The folder or archive of `data_dir`, which exists; None where `dataset` is given.
        dataset: `synthetic`, a Hub id or a folder; None where `path` is given.
        label_space_name: As the user gave it.
        label_space: The same, read; None takes what the data itself says.
        folders: Where its file says the images and labels are.
    """

    path: Path | None = None
    dataset: str | None = None
    label_space_name: str | None = None
    label_space: LabelSpace | None = None
    folders: Mapping = field(default_factory=dict)
    image_column: str | None = None
    label_column: str | None = None
    revision: str | None = None
    config: str | None = None
    streaming: bool = False
    preflight_frames: int = 1000
    format: str = "auto"
    background: str | None = None

    @property
    def street_classes(self) -> LabelSpace:
        """The label space asked for, else that of Cityscapes."""
        return self.label_space or CITYSCAPES


@dataclass(frozen=True)
class FoundData:
    """What a source holds, before anything is cut.

    Args:
        splits: The data's own splits, or everything under `UNSPLIT`; columns as in `image_files.FEATURES`.
        label_space: What the label ids mean.
        name: Short name of the data.
        notes: One sentence each on what is unusual about the splits.
        scenes: Names of frames that belong together, for cuts.
        final_notes: How `prepare_data` made the splits, off which nothing is cut then; None for others.
    """

    splits: Mapping[str, Dataset]
    label_space: LabelSpace
    name: str
    notes: Sequence[str] = ()
    scenes: Sequence[Sequence[str]] = ()
    final_notes: Sequence[str] | None = None
