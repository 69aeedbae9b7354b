"""Images -> train-id PNG, colour PNG and overlay, with a trained model."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageFile, ImageOps
from tqdm.auto import tqdm

from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import check_device
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.recipe import parse_arguments
from hf_urbanseg.reports.overlays import blend, colorize

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
KINDS = ("train_id", "color", "overlay")


@dataclass
class PredictArguments:
    """What to predict, with which model, and where the pictures go."""

    model: str = field(metadata={"help": "Folder written by training, or a Hub id."})
    input: list[str] = field(metadata={"help": "Images and folders of images (a folder's subfolders are left out)."})
    output: str = field(default="predictions", metadata={"help": "Folder for the results; made if missing."})
    batch_size: int = field(default=4, metadata={"help": "Images per forward pass."})
    alpha: float = field(default=0.5, metadata={"help": "Opacity of the classes in the overlay, 0..1."})
    device: str | None = field(default=None, metadata={"help": "`cpu`, `cuda`, ...; default: the GPU if there is one."})

    def __post_init__(self):
        if self.batch_size < 1:
            raise ConfigError("`--batch_size` of at least 1", f"{self.batch_size}", "correct it")
        if not 0 <= self.alpha <= 1:
            raise ConfigError("`--alpha` in 0..1", f"{self.alpha}", "correct it")
        check_device(self.device)


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """Lists the images named directly and those in the named folders, in that order.

    Raises:
        DataError: A path that is not there, a folder without images, or two images with one stem.
    """
    paths = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            found = sorted(p for p in entry.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not found:
                kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
                raise DataError(f"images ({kinds})", "none in this folder", "correct `--input`", entry)
            paths += found
        elif entry.is_file():
            paths.append(entry)
        else:
            raise DataError("an image or a folder of images", "nothing there", "correct `--input`", entry)
    by_stem = {}
    for path in paths:
        first = by_stem.setdefault(path.stem, path)
        if first.resolve() != path.resolve():
            fix = "rename one, or predict them into different `--output` folders"
            raise DataError("one image per file name (results are named after it)", f"also {first}", fix, path)
    return list(by_stem.values())


def read_image(path: Path) -> Image.Image:
    """Reads an image as 8-bit RGB, turned the way its EXIF orientation says.

    Raises:
        DataError: Not readable to the last byte, or more than 8 bits per channel.
    """
    # `datasets` lets the whole process read truncated files as grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(path) as image:
            if image.format == "PNG":
                image.verify()  # decoding skips the checksums
        with Image.open(path) as image:
            # Pillow opens 16-bit colour as mode RGB and drops the low bytes; only the raw mode tells.
            raw_modes = [args if isinstance(args, str) else str(args[0]) for *_, args in image.tile if args]
            deep = image.mode[0] in "IF" or any(";16" in raw_mode for raw_mode in raw_modes)
            if not deep:
                return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError("a readable image", reason, "replace the file or leave it out", path) from error
    raise DataError("8 bits per channel", f"mode {image.mode} with more", "convert it to an 8-bit image", path)


def write_prediction(output: Path, stem: str, image: Image.Image, train_ids, label_space, alpha: float) -> None:
    """Writes `<stem>_train_id.png`, `<stem>_color.png` and `<stem>_overlay.png`; none of them is ever half a file."""
    pictures = (train_ids, colorize(train_ids, label_space), blend(image, train_ids, label_space, alpha))
    for kind, picture in zip(KINDS, pictures, strict=True):
        path = output / f"{stem}_{kind}.png"
        with _replaced_when_complete(path) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")


@contextmanager
def _replaced_when_complete(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            "a folder to write to", error.strerror or str(error), "choose another `--output`", path
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_images(paths: list[Path]) -> None:
    # Decoding releases the GIL, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in tqdm(pool.map(lambda path: read_image(path).size, paths), "checking", len(paths), unit="image"):
            pass


def _predict() -> None:
    (arguments,) = parse_arguments([PredictArguments], description=__doc__)
    paths = find_images(arguments.input)
    output = Path(arguments.output)
    targets = {
        (output / f"{path.stem}_{kind}.png").resolve() for path in paths for kind in ("train_id", "color", "overlay")
    }
    for path in paths:
        if path.resolve() in targets:
            raise DataError("inputs that no result overwrites", "one that would be", "choose another `--output`", path)
    predictor = Predictor.from_pretrained(arguments.model, arguments.device)
    _check_images(paths)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError("a folder for the results", error.strerror, "choose another `--output`", output) from error
    with tqdm(total=len(paths), desc="predicting", unit="image") as progress:
        for start in range(0, len(paths), arguments.batch_size):
            batch = paths[start : start + arguments.batch_size]
            images = [read_image(path) for path in batch]
            for path, image, train_ids in zip(batch, images, predictor.predict(images, len(images)), strict=True):
                write_prediction(output, path.stem, image, train_ids, predictor.label_space, arguments.alpha)
                progress.update()
    print(f"{output}: train ids, colours and overlay for {len(paths)} image{'s' if len(paths) != 1 else ''}")


def main() -> None:
    run_command(_predict)
