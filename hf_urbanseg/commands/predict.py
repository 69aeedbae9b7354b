"""Images -> train-id PNG, colour PNG and overlay; videos -> overlay video; with a trained model."""

from dataclasses import dataclass
from pathlib import Path

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.config import PlanArguments, option, required
from hf_urbanseg.errors import check_range
from hf_urbanseg.files import make_folder

_KINDS = ("train_id", "color", "overlay")


@dataclass
class PredictArguments:
    """What to predict, with which model, and where the pictures go."""

    model: str = required("Folder written by training, or a Hub id; may stand first, without --model.")
    input: list[str] = required("Images, videos and folders of them, not their subfolders; may stand second.")
    output: str = option("predictions", "Folder for the results; made if missing.")
    alpha: float = option(0.5, "Opacity of the classes in the overlay, 0..1.")
    show_rate: bool = option(False, "Draw the frame rate reached by the prediction on a video's frames.")
    video_frames: list[str] = option(
        [], "Write PNGs of a video's frames, too: any of train_id, color, overlay.", choices=_KINDS
    )

    def __post_init__(self):
        check_range(0, 1, alpha=self.alpha)


@command
def main(argv: list[str]) -> None:
    usage = "predict RUN FILE_OR_FOLDER ... [--option VALUE ...]"
    args, plan_args = parse_command_line((PredictArguments, PlanArguments), argv, __doc__, usage, ("model", "input"))
    from hf_urbanseg.data.video import inspect_video
    from hf_urbanseg.inference.input_files import check_images, find_inputs, is_video
    from hf_urbanseg.inference.predictor import Predictor
    from hf_urbanseg.reports.prediction_files import check_targets, frames_path, predict_images, video_path
    from hf_urbanseg.reports.prediction_video import predict_video

    paths = find_inputs(args.input)
    output = Path(args.output)
    check_targets(paths, output)
    stock, plan = plan_args.stock_decode_head, plan_args.build_plan()
    predictor = Predictor.from_pretrained(args.model, plan_args.device, plan, stock_decode_head=stock)
    videos = {path: inspect_video(path) for path in paths if is_video(path)}
    images = [path for path in paths if path not in videos]
    if images:
        check_images(images)
    make_folder(output)
    if images:
        predict_images(images, predictor, output, plan_args.batch_size, args.alpha)
        print(f"{output}: train ids, colours and overlay for {len(images)} image{'s' if len(images) != 1 else ''}")
    options = plan_args.batch_size, args.alpha, args.show_rate, args.video_frames
    for path, info in videos.items():
        count, rate = predict_video(path, info, predictor, output, *options)
        also = f", and {frames_path(output, path.stem)}" if args.video_frames else ""
        frames = f"{count} frame{'s' if count != 1 else ''} at {rate:.1f} frames/s"
        print(f"{video_path(output, path.stem)}{also}: {frames}, reading and writing included")
