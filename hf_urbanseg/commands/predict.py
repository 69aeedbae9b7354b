"""Images -> PNG of ids, colour PNG and overlay; videos -> overlay video; with a trained model.

Files that can't be read are listed and the others are done; the exit status is 2 then, as for every mistake in the
input.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import DataError
from hf_urbanseg.escaping import spell_out
from hf_urbanseg.files import check_place
from hf_urbanseg.locks import locked
from hf_urbanseg.options.fields import Options, option, palette_option, required
from hf_urbanseg.options.prediction import PlanArguments
from hf_urbanseg.ranges import Share

logger = logging.getLogger(__name__)

_IDS = ["train_id", "label_id"]
_KINDS = (*_IDS, "color", "overlay")


@dataclass
class PredictArguments(Options):
    """What to predict, with which model, and where the pictures go."""

    model: str = required("Folder written by training, a Hub id or an exported file; may stand first.")
    input: list[str] = required("Images, videos and folders of them, not their subfolders; may stand second.")
    output: str = option("predictions", "Folder for the results; made if missing.")
    ids: str = option(
        "train_id",
        "What a PNG of ids holds, and is named after: `train_id`, the model's own numbers from 0, or `label_id`, those "
        "of the label files that it was trained on (the lowest where a class has several).",
        choices=_IDS,
    )
    strict: bool = option(False, "Do nothing at all if a file can't be read, in place of all others.")
    confidence: str | None = option(
        None,
        "Write the probability of each pixel's class, too, as a grey PNG of 8 or 16 bits, or those of all classes as "
        "npz (float16): `png8`, `png16` or `npz`. Of images only.",
        choices=["png8", "png16", "npz"],
    )
    confidence_threshold: Share | None = option(
        None, "Pixels whose class is less probable are void: in ids and colours, and plain picture in overlays."
    )
    alpha: Share = option(0.5, "Opacity of the classes in the overlay, 0..1.")
    palette: str | None = palette_option()
    legend: str = option(
        "overlay",
        "Which pictures have the classes' names below: `overlay` (videos, too), `all` (colour PNGs, too) or `none`.",
        choices=["overlay", "all", "none"],
    )
    show_rate: bool = option(False, "Draw the frame rate reached by the prediction on a video's frames.")
    video_frames: list[str] = option(
        [], "Write PNGs of a video's frames, too: any of train_id, label_id, color, overlay.", choices=_KINDS
    )

    def __post_init__(self):
        super().__post_init__()
        check_place(self.output, folder=True)


@command
def main(argv: list[str]) -> None:
    usage = "predict RUN FILE_OR_FOLDER ... [--option VALUE ...]"
    args, plan_args = parse_command_line((PredictArguments, PlanArguments), argv, __doc__, usage, ("model", "input"))
    with locked(args.output):
        _predict(args, plan_args)


def _predict(args: PredictArguments, plan_args: PlanArguments) -> None:
    from hf_urbanseg.inference.input_files import check_inputs, find_inputs, is_video, refuse_bad
    from hf_urbanseg.inference.predictor import Predictor, load_label_ids
    from hf_urbanseg.palettes import recolor
    from hf_urbanseg.reports.prediction_files import (
        CONFIDENCE,
        check_targets,
        frames_path,
        predict_images,
        spell_temperature,
        video_path,
    )
    from hf_urbanseg.reports.prediction_video import predict_video

    paths = find_inputs(args.input)
    output = Path(args.output)
    check_targets(paths, output)
    stock, plan = plan_args.stock_decode_head, plan_args.build_plan()
    predictor = Predictor.from_pretrained(args.model, plan_args.device, plan, stock_decode_head=stock)
    if "label_id" in (args.ids, *args.video_frames):
        void = bool(args.confidence_threshold)
        predictor.label_space = load_label_ids(args.model, predictor.label_space.names, void=void)
    predictor.label_space = recolor(predictor.label_space, args.palette)
    good, bad = check_inputs(paths, predictor.channels)
    if args.strict or not good:
        refuse_bad(bad, len(paths), "could be read and nothing was done")
    videos = {path: info for path, info in good.items() if is_video(path)}
    if images := [path for path in good if path not in videos]:
        kinds = args.ids, args.confidence, args.confidence_threshold
        predict_images(images, predictor, output, plan_args.batch_size, args.alpha, args.legend, *kinds)
        files = [f"{args.ids.replace('_', ' ')}s", "colours", "overlay", CONFIDENCE.get(args.confidence)]
        *files, last = filter(None, files)
        print(f"{output}: {', '.join(files)} and {last} for {len(images)} image{'s' if len(images) != 1 else ''}")
    if args.confidence or args.confidence_threshold:
        print(f"confidence: {spell_temperature(predictor)}")
    options = plan_args.batch_size, args.alpha, args.show_rate, args.video_frames, args.legend
    options += (args.confidence_threshold,)
    for path, info in videos.items():
        try:
            count, rate = predict_video(path, info, predictor, output, *options)
        except DataError as error:
            if args.strict or error.path != path:  # what can't be written stops everything
                raise
            logger.warning("%s", error)
            bad.append(error)
            continue
        also = f", and {frames_path(output, path.stem)}" if args.video_frames else ""
        frames = f"{count} frame{'s' if count != 1 else ''} at {rate:.1f} frames/s"
        print(spell_out(f"{video_path(output, path.stem)}{also}: {frames}, reading and writing included"))
    refuse_bad(bad, len(paths), "are done")
