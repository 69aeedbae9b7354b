"""The files a prediction leaves, each whole or not there at all."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.overlays import blend, colorize

KINDS = ("train_id", "color", "overlay")


def write_prediction(
    output: Path,
    stem: str,
    image: Image.Image | np.ndarray,
    train_ids: np.ndarray,
    label_space: LabelSpace,
    alpha: float,
    kinds: Sequence[str] = KINDS,
) -> None:
    """Writes `<stem>_train_id.png`, `<stem>_color.png` and `<stem>_overlay.png`, or those of `kinds`."""
    for kind in kinds:
        match kind:
            case "train_id":
                picture = np.asarray(train_ids)
            case "color":
                picture = colorize(train_ids, label_space)
            case "overlay":
                picture = blend(image, train_ids, label_space, alpha)
        with replaced_when_complete(output / f"{stem}_{kind}.png") as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")


@contextmanager
def replaced_when_complete(path: Path, folder: bool = False) -> Iterator[Path]:
    """Gives a hidden name beside `path` to write to; it becomes `path` if the block ends well, else it is removed.

    Args:
        folder: The hidden name is that of a new folder, and an earlier folder at `path` goes once this one is whole.

    Raises:
        DataError: Writing failed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if folder:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        yield temporary
        if folder and path.is_dir():
            earlier = temporary.with_suffix(".old")
            path.rename(earlier)  # a folder that isn't empty can't be replaced
            temporary.rename(path)
            shutil.rmtree(earlier, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            "a folder to write to", error.strerror or str(error), "choose another `--output`", path
        ) from error
    finally:
        if folder:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
