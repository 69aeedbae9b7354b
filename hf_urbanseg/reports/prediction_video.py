"""One video through a model: the overlay video, and PNGs of its frames if wanted."""

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hf_urbanseg.data.video import VideoFrame, VideoInfo, open_video_writer, read_ahead, read_frames
from hf_urbanseg.escaping import flatten
from hf_urbanseg.files import written_whole
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.progress import show_progress
from hf_urbanseg.reports.overlays import blend, draw_class_legend
from hf_urbanseg.reports.prediction_files import (
    LEGENDS,
    frames_path,
    predict_marked,
    video_path,
    write_prediction,
)  # fmt: skip

_RECENT = 10


def predict_video(
    path: Path,
    info: VideoInfo,
    predictor: Predictor,
    output: Path,
    batch_size: int,
    alpha: float,
    show_rate: bool,
    frame_kinds: Sequence[str],
    legend: str,
    threshold: float | None = None,
) -> tuple[int, float]:
    """Predicts every frame; reading and writing go on in threads of their own.

    However long the video is, no more than four batches of frames are in memory.

    Args:
        alpha: Opacity of the classes, 0..1.
        show_rate: Draw the frame rate reached on the picture.
        frame_kinds: Which PNGs of every frame to write, of `KINDS`; none writes no folder.
        legend: Which pictures have one, a word of `LEGENDS`: of all classes of the model, so that it never moves.
        threshold: Of the confidence, below which the frame stays plain and ids are void.

    Returns:
        The number of frames, and how many there were per second from the first read to the last written.

    Raises:
        DataError: A frame can't be read or a result not be written; then nothing of this video is left.
    """
    space, count, start = predictor.label_space, 0, time.perf_counter()
    classes, (height, width) = range(space.num_labels), info.size
    band = np.empty((0, width, 3), np.uint8)
    if "overlay" in LEGENDS[legend]:
        band = draw_class_legend(info.size, space, classes)
    shown = info._replace(size=(height + len(band), width))
    ends = deque([(start, 0)], _RECENT)

    def write(batch: list[VideoFrame], train_ids: list[np.ndarray], first: int, rate: float) -> None:
        for index, (frame, ids) in enumerate(zip(batch, train_ids, strict=True), first):
            picture = blend(frame.image, ids, space, alpha)
            picture = draw_rate(picture, rate) if show_rate else picture
            write_frame(VideoFrame(np.concatenate([picture, band]), frame.time))
            if frame_kinds:
                name = f"{index:06d}"
                write_prediction(folder, name, frame.image, ids, space, alpha, frame_kinds, legend, classes, threshold)

    with ExitStack() as files:
        if frame_kinds:
            folder = files.enter_context(written_whole(frames_path(output, path.stem), folder=True))
        temporary = files.enter_context(written_whole(video_path(output, path.stem)))
        write_frame = files.enter_context(open_video_writer(temporary, shown, path))
        passes_of = None if predictor.plan.is_plain else predictor.model
        bar = show_progress(info.num_frames, flatten(path.name, 40), "frame", passes_of=passes_of)
        bar = files.enter_context(bar)
        # Last in, first out: the thread has written everything before the video is closed.
        writer = files.enter_context(ThreadPoolExecutor(1, "write"))
        frames = read_ahead(read_frames(path), batch_size)
        pending: deque = deque()
        while batch := list(islice(frames, batch_size)):
            images = [Image.fromarray(frame.image) for frame in batch]
            train_ids = [ids for ids, _ in predict_marked(predictor, images, threshold, None)]
            ends.append((time.perf_counter(), count + len(batch)))
            rate = (ends[-1][1] - ends[0][1]) / (ends[-1][0] - ends[0][0])
            pending.append(writer.submit(write, batch, train_ids, count, rate))
            count += len(batch)
            if len(pending) > 1:
                pending.popleft().result()
            bar.update(len(batch))
        for one in pending:
            one.result()
    return count, count / (time.perf_counter() - start)


def draw_rate(picture: np.ndarray, rate: float) -> np.ndarray:
    """The picture with `12.3 frames/s` in a dark box, top left."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    size = max(10, min(image.size) // 16)
    font, margin, text = ImageFont.load_default(size), size // 2, f"{rate:.1f} frames/s"
    _, top, right, bottom = draw.textbbox((2 * margin, margin + margin // 2), text, font)
    box = (margin, top - margin // 2, right + margin, bottom + margin // 2)
    draw.rounded_rectangle(box, margin // 2, (0, 0, 0, 160))
    draw.text((2 * margin, margin + margin // 2), text, (255, 255, 255), font)
    return np.asarray(image)
