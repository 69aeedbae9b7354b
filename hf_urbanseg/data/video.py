"""Video files: frames in, upright and with their times; a video out that browsers and phones play, with the sound.

PyAV (`pip install av`) does the work. Of what was tried it alone writes H.264: OpenCV's wheels have no encoder for it,
and their VP9 reached 2 frames/s at 1242x374 where x264 reached 100 on the same two cores. PyAV is BSD-licensed; the
FFmpeg inside its wheels has x264 (GPL), so it is an extra and imported only when there is a video.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hf_urbanseg.data.pictures import MOST_PIXELS
from hf_urbanseg.errors import DataError

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
_BT709 = 1  # of FFmpeg's colour enums: untagged, players guess by size
_SLACK = Fraction(1, 2)


class VideoInfo(NamedTuple):
    """What is known of a video before it is decoded.

    Args:
        size: (height, width) of the upright picture.
        rate: Frames per second on average.
        time_base: Seconds per unit of `VideoFrame.time`.
        num_frames: Packets of pictures; a few formats have some that show nothing.
        pixel_aspect: Width over height of a pixel of the upright picture; 1 but for anamorphic video.
        start: Seconds of the file's own time at the first frame.
    """

    size: tuple[int, int]
    rate: Fraction
    time_base: Fraction
    num_frames: int
    pixel_aspect: Fraction = Fraction(1)
    start: Fraction = Fraction(0)


class VideoFrame(NamedTuple):
    """One frame.

    Args:
        image: (H, W, 3) uint8 RGB, upright.
        time: Units of the video's time base since its first frame; grows from frame to frame.
    """

    image: np.ndarray
    time: int


def inspect_video(path: Path) -> VideoInfo:
    """Reads a whole file without decoding more than its first frame: cheap, and enough to find most damage."""
    complete, fix = "a complete video", "fetch it again, or keep what is there by converting it"
    with _opened(path) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise DataError("a video", "one without frames", "leave it out", path)
        height, width = _upright(first).shape[:2]
        stamp = first.pts if first.pts is not None else first.dts
        start = Fraction(0) if stamp is None else stamp * stream.time_base
        # 0 or nothing: not known.
        aspect = stream.codec_context.sample_aspect_ratio or Fraction(1)
        time_base, rate = stream.time_base, stream.average_rate or stream.guessed_rate or Fraction(25)
    with _opened(path) as (container, stream):
        count, end = 0, Fraction(0)
        for packet in container.demux():
            if packet.is_corrupt:
                raise DataError(complete, f"a damaged packet {float(end):.1f} s in", fix, path)
            count += packet.stream.index == stream.index and packet.size > 0
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        if container.duration:
            expected = Fraction(container.duration + (container.start_time or 0), 1_000_000)
            if end + _SLACK < expected:
                raise DataError(complete, f"{float(end):.1f} of {float(expected):.1f} s", fix, path)
    return VideoInfo((height, width), rate, time_base, count, 1 / aspect if first.rotation % 180 else aspect, start)


def read_frames(path: Path) -> Iterator[VideoFrame]:
    """Decodes a video frame by frame."""
    with _opened(path) as (container, stream):
        step = max(1, round(1 / ((stream.average_rate or 25) * stream.time_base)))
        start, last, shape = None, -step, None
        for frame in container.decode(stream):
            image = _upright(frame)
            shape = shape or image.shape
            if image.shape != shape:
                found = f"{image.shape[0]}x{image.shape[1]} after {shape[0]}x{shape[1]} (height x width)"
                raise DataError("frames of one size", found, "cut the video where its size changes", path)
            stamp = frame.pts if frame.pts is not None else frame.dts
            start = stamp if start is None else start
            # AVI may leave times out, and joined files let them run back.
            time = last + step if stamp is None else stamp - start
            last = time if time > last else last + step
            yield VideoFrame(image, last)


def read_ahead(items: Iterable, count: int) -> Iterator:
    """The same items, up to `count` of them fetched by a thread while earlier ones are in use."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "read_ahead") as reader:
        pending = deque(reader.submit(next, iterator, end) for _ in range(count))
        while (item := pending.popleft().result()) is not end:
            pending.append(reader.submit(next, iterator, end))
            yield item


@contextmanager
def open_video_writer(
    path: Path, info: VideoInfo, sound_of: Path | None = None
) -> Iterator[Callable[[VideoFrame], None]]:
    """Gives a function that appends a frame to an H.264 .mp4, which is playable once the block ends.

    Times, and so a steady or variable frame rate, are the source's. An odd height or width gets one more line, a
    repetition of the last: 4:2:0 chroma, the only kind that plays everywhere, needs even sizes.

    Args:
        sound_of: The source, whose first sound track is copied as it is; the log says so where .mp4 can't hold it.
    """
    av = _import_av(path)
    height, width = info.size
    # Some sounds are "experimental" in .mp4, which says nothing of players today.
    options = {"movflags": "+faststart", "strict": "experimental"}
    try:
        with av.open(str(path), "w", format="mp4", options=options) as container:
            stream = container.add_stream("libx264", rate=info.rate, options={"preset": "veryfast", "crf": "20"})
            stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
            context = stream.codec_context
            context.time_base, context.sample_aspect_ratio = info.time_base, info.pixel_aspect
            context.colorspace = context.color_primaries = context.color_trc = context.color_range = _BT709
            sound = iter(()) if sound_of is None else _copy_sound(sound_of, container, info.start)
            waiting = deque([next(sound, None)])

            def copy_sound(until: Fraction | float) -> None:
                """Beside the pictures of the same time, so that players needn't search."""
                while waiting[0] is not None and waiting[0].dts * waiting[0].time_base <= until:
                    container.mux(waiting.popleft())
                    waiting.append(next(sound, None))

            def write(frame: VideoFrame) -> None:
                image = np.pad(frame.image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                picture = av.VideoFrame.from_ndarray(image, format="rgb24")
                picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
                picture.pts, picture.time_base = frame.time, info.time_base
                container.mux(stream.encode(picture))
                copy_sound(frame.time * info.time_base)

            yield write
            container.mux(stream.encode())
            copy_sound(float("inf"))
    except (av.FFmpegError, OSError) as error:
        raise DataError("room for a video", _reason(error), "choose another `--output`", path) from error


def _copy_sound(source: Path, container, start: Fraction) -> Iterator:
    """Packets of the first sound track, for the stream that `container` gains before the first; times since `start`."""
    with _opened(source) as (opened, _):
        track = next(iter(opened.streams.audio), None)
        if track is None:
            return
        codec = track.codec_context.codec.canonical_name if track.codec_context else "what it is"
        if codec not in container.supported_codecs:
            logger.warning("%s: its sound is left out, because .mp4 can't hold %s", source, codec)
            return
        copied, shift = container.add_stream_from_template(track), round(start / track.time_base)
        for packet in opened.demux(track):
            if packet.dts is not None:  # the last one is empty
                packet.pts, packet.dts = (packet.dts if packet.pts is None else packet.pts) - shift, packet.dts - shift
                packet.stream = copied
                yield packet


@contextmanager
def _opened(path: Path) -> Iterator[tuple]:
    """The container and its first stream of pictures; whatever FFmpeg complains about becomes one line."""
    av = _import_av(path)
    repair = "play it to see what is there, and leave it out or convert it (`ffmpeg -i old new.mp4`)"
    try:
        with av.open(str(path)) as container:
            cover = av.stream.Disposition.attached_pic
            stream = next((one for one in container.streams.video if not one.disposition & cover), None)
            if stream is None:
                kinds = {"a cover picture" if one.type == "video" else one.type for one in container.streams}
                found = f"only {' and '.join(sorted(kinds))}" if kinds else "an empty one"
                raise DataError("a video", found, "leave it out", path)
            if stream.width * stream.height > MOST_PIXELS:
                found = f"{stream.height}x{stream.width}"
                raise DataError(f"pictures of {MOST_PIXELS:,} pixels at most", found, "leave it out", path)
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise DataError("a readable video", _reason(error), repair, path) from error


def _import_av(path: Path):
    try:
        import av

        found = av.__version__
    except ImportError:
        found = "none"
    # Up to 16, reading and writing shift the colours of BT.709 video.
    if found == "none" or int(found.split(".")[0]) < 17:
        expected = "the package `av`, 17 or newer, which reads and writes video"
        raise DataError(expected, found, "`pip install -U av`, or leave videos out", path)
    return av


def _upright(frame) -> np.ndarray:
    # Phones store turned pictures and say by how much; FFmpeg counts anticlockwise, as numpy does.
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0].rstrip(".")
