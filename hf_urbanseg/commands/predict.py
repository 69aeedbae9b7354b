"""Images -> train-id PNG, colour PNG and overlay; videos -> overlay video; with a trained model."""

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from hf_urbanseg.commands._predict_video import VideoOptions, frames_path, predict_video, video_path
from hf_urbanseg.commands._prediction_files import KINDS, write_prediction
from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import PlanArguments, check_device
from hf_urbanseg.data.video import VIDEO_SUFFIXES, VideoInfo, inspect_video
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.inference.images import read_image
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.recipe import parse_arguments

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


@dataclass
class PredictArguments:
    """What to predict, with which model, and where the pictures go."""

    model: str = field(metadata={"help": "Folder written by training, or a Hub id."})
    input: list[str] = field(
        metadata={"help": "Images, videos and folders of them (a folder's subfolders are left out)."}
    )
    output: str = field(default="predictions", metadata={"help": "Folder for the results; made if missing."})
    batch_size: int = field(default=4, metadata={"help": "Images or frames per forward pass."})
    alpha: float = field(default=0.5, metadata={"help": "Opacity of the classes in the overlay, 0..1."})
    show_rate: bool = field(
        default=False, metadata={"help": "Draw the frame rate reached by the prediction on a video's frames."}
    )
    video_frames: list[str] = field(
        default_factory=list,
        metadata={"help": "Write PNGs of a video's frames, too: any of train_id, color, overlay.", "choices": KINDS},
    )
    device: str | None = field(default=None, metadata={"help": "`cpu`, `cuda`, ...; default: the GPU if there is one."})

    def __post_init__(self):
        if self.batch_size < 1:
            raise ConfigError("`--batch_size` of at least 1", f"{self.batch_size}", "correct it")
        if not 0 <= self.alpha <= 1:
            raise ConfigError("`--alpha` in 0..1", f"{self.alpha}", "correct it")
        check_device(self.device)


def find_inputs(inputs: Iterable[str | Path]) -> list[Path]:
    """Lists the images and videos named directly and those in the named folders, in that order.

    Raises:
        DataError: A path that is not there, a folder without any, or two of them with one stem.
    """
    suffixes = IMAGE_SUFFIXES.union(VIDEO_SUFFIXES)
    paths = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            found = sorted(p for p in entry.iterdir() if p.suffix.lower() in suffixes and p.is_file())
            if not found:
                kinds = ", ".join(sorted(suffix[1:] for suffix in suffixes))
                raise DataError(f"images or videos ({kinds})", "none in this folder", "correct `--input`", entry)
            paths += found
        elif entry.is_file():
            paths.append(entry)
        else:
            raise DataError("an image, a video or a folder of them", "nothing there", "correct `--input`", entry)
    by_stem = {}
    for path in paths:
        first = by_stem.setdefault(path.stem, path)
        if first.resolve() != path.resolve():
            fix = "rename one, or predict them into different `--output` folders"
            raise DataError("one input per file name (results are named after it)", f"also {first}", fix, path)
    return list(by_stem.values())


def check_images(paths: list[Path]) -> None:
    """Reads every image once, in threads (decoding releases the GIL), so that a bad one is known before the work."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in tqdm(pool.map(lambda path: read_image(path).size, paths), "checking", len(paths), unit="image"):
            pass


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _check_targets(paths: list[Path], output: Path) -> None:
    """Refuses to overwrite an input, or a folder that holds anything but an earlier run's frames."""
    targets = {video_path(output, path.stem) for path in paths if _is_video(path)}
    targets |= {output / f"{path.stem}_{kind}.png" for path in paths if not _is_video(path) for kind in KINDS}
    targets = {target.resolve() for target in targets}
    for path in paths:
        if path.resolve() in targets:
            raise DataError("inputs that no result overwrites", "one that would be", "choose another `--output`", path)
        folder = frames_path(output, path.stem)
        if _is_video(path) and folder.exists():
            of_frames = re.compile(rf"\d{{6,}}_({'|'.join(KINDS)})\.png").fullmatch
            strange = (
                sorted(one.name for one in folder.iterdir() if not of_frames(one.name)) if folder.is_dir() else [""]
            )
            if strange:
                found = f"`{strange[0]}`, too" if strange[0] else "a file"
                raise DataError(
                    "a folder of earlier frames only", found, "move it, or choose another `--output`", folder
                )


def _predict_images(paths: list[Path], predictor: Predictor, output: Path, arguments: PredictArguments) -> None:
    with tqdm(total=len(paths), desc="predicting", unit="image") as progress:
        for start in range(0, len(paths), arguments.batch_size):
            batch = paths[start : start + arguments.batch_size]
            images = [read_image(path) for path in batch]
            for path, image, train_ids in zip(batch, images, predictor.predict(images, len(images)), strict=True):
                write_prediction(output, path.stem, image, train_ids, predictor.label_space, arguments.alpha)
                progress.update()
    print(f"{output}: train ids, colours and overlay for {len(paths)} image{'s' if len(paths) != 1 else ''}")


def _predict_videos(
    videos: dict[Path, VideoInfo], predictor: Predictor, output: Path, arguments: PredictArguments
) -> None:
    options = VideoOptions(arguments.batch_size, arguments.alpha, arguments.show_rate, tuple(arguments.video_frames))
    for path, info in videos.items():
        count, rate = predict_video(path, info, predictor, output, options)
        also = f", and {frames_path(output, path.stem)}" if options.frame_kinds else ""
        frames = f"{count} frame{'s' if count != 1 else ''} at {rate:.1f} frames/s"
        print(f"{video_path(output, path.stem)}{also}: {frames}, reading and writing included")


def _predict() -> None:
    arguments, plan_arguments = parse_arguments([PredictArguments, PlanArguments], description=__doc__)
    paths = find_inputs(arguments.input)
    output = Path(arguments.output)
    _check_targets(paths, output)
    stock, plan = plan_arguments.stock_decode_head, plan_arguments.build_plan()
    predictor = Predictor.from_pretrained(arguments.model, arguments.device, plan, stock_decode_head=stock)
    videos = {path: inspect_video(path) for path in paths if _is_video(path)}
    images = [path for path in paths if path not in videos]
    if images:
        check_images(images)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError("a folder for the results", error.strerror, "choose another `--output`", output) from error
    if images:
        _predict_images(images, predictor, output, arguments)
    _predict_videos(videos, predictor, output, arguments)


def main() -> None:
    run_command(_predict)
