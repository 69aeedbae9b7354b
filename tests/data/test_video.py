import struct
import sys
import threading
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest

from hf_urbanseg.data import video
from hf_urbanseg.data.video import VideoFrame, VideoInfo, inspect_video, open_video_writer, read_ahead, read_frames
from hf_urbanseg.errors import DataError

av = pytest.importorskip("av", reason="video files need the package `av`")

PATCHES = np.array([[128, 64, 128], [244, 35, 232], [0, 0, 142], [220, 20, 60], [107, 142, 35], [70, 130, 180]])


def picture(height, width, shade=0):
    """Six broad columns of class colours above a band whose brightness tells frames apart."""
    columns = PATCHES[np.arange(width) * len(PATCHES) // width].astype(np.uint8)
    image = np.repeat(columns[None], height, 0)
    image[height // 2 :] = shade % 256
    return image


def write(path, count=8, size=(48, 64), rate=Fraction(10), time_base=Fraction(1, 1000), times=None):
    times = times or [round(index / rate / time_base) for index in range(count)]
    with open_video_writer(path, VideoInfo(size, rate, time_base, count)) as append:
        for index, time in enumerate(times):
            append(VideoFrame(picture(*size, shade=20 * index), time))
    return path


def encode(path, codec, size=(48, 64), count=8, **options):
    """A video written without our writer."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(*size, shade=20 * index), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode())
    return path


def shades(path):
    return [int(frame.image[-4, 4].mean()) for frame in read_frames(path)]


def refused(path, *parts):
    def read():
        inspect_video(path)
        list(read_frames(path))

    with pytest.raises(DataError) as caught:
        read()
    line = str(caught.value)
    assert line.startswith(f"{path}: expected ")
    assert "\n" not in line
    assert all(part in line for part in parts), line


def test_open_video_writer__keeps_count_rate_size_and_order(tmp_path):
    rate = Fraction(30000, 1001)
    path = write(tmp_path / "a.mp4", 12, (50, 70), rate, Fraction(1, 30000))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.average_rate, stream.height, stream.width) == (12, rate, 50, 70)
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert Fraction(stream.duration) * stream.time_base == 12 / rate
    assert np.abs(np.subtract(shades(path), [20 * index for index in range(12)])).max() <= 3


@pytest.mark.parametrize("size", [(45, 64), (48, 61), (45, 61)])
def test_open_video_writer__an_odd_size_gains_a_repeated_line(tmp_path, size):
    path = write(tmp_path / "a.mp4", 3, size)
    (height, width), original = size, picture(*size).astype(int)
    found = next(iter(read_frames(path))).image.astype(int)
    assert found.shape[:2] == (height + height % 2, width + width % 2)
    assert np.abs(found[:height, :width] - original).mean() < 6  # chroma at the columns' edges
    if width % 2:
        assert np.abs(found[:16, width] - original[:16, width - 1]).max() < 12
    if height % 2:
        assert np.abs(found[height, 4] - original[height - 1, 4]).max() < 12


def test_open_video_writer__colours_are_kept_and_tagged(tmp_path):
    path = write(tmp_path / "a.mp4", 2, (48, 120))
    image = next(iter(read_frames(path))).image.astype(int)
    assert np.abs(image[12, 10::20] - PATCHES).max() <= 4
    with av.open(str(path)) as container:
        context = next(container.decode(video=0))
        assert (int(context.colorspace), int(context.color_range)) == (1, 1)


def test_open_video_writer__variable_rate_keeps_every_time(tmp_path):
    times = [0, 100, 130, 500, 517, 900]
    path = write(tmp_path / "a.mp4", times=times, rate=Fraction(6))
    base = inspect_video(path).time_base
    assert [float(frame.time * base) for frame in read_frames(path)] == pytest.approx([t / 1000 for t in times])


def test_open_video_writer__one_frame_lasts(tmp_path):
    path = write(tmp_path / "a.mp4", 1)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(0.1)


def test_open_video_writer__index_comes_first_for_browsers(tmp_path):
    content = write(tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_open_video_writer__no_folder(tmp_path):
    with pytest.raises(DataError, match=r"a\.mp4: expected room for a video; found No such file"):
        write(tmp_path / "nowhere" / "a.mp4")


@pytest.mark.parametrize(
    ("suffix", "codec"), [("avi", "mpeg4"), ("mkv", "libx264"), ("webm", "libvpx"), ("mov", "mjpeg")]
)
def test_read_frames__other_containers(tmp_path, suffix, codec):
    path = encode(tmp_path / f"a.{suffix}", codec)
    info = inspect_video(path)
    assert (info.size, info.rate, info.num_frames) == ((48, 64), 10, 8)
    seconds = [float(frame.time * info.time_base) for frame in read_frames(path)]
    assert seconds == pytest.approx([index / 10 for index in range(8)])
    assert np.abs(np.subtract(shades(path), [20 * index for index in range(8)])).max() <= 6


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_read_frames__are_upright(tmp_path, matrix, turns):
    """The matrix of a phone's .mp4 (a, b, c, d of x' = ax + cy, y' = bx + dy), put in by hand."""

    def packed(a, b, c, d):
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    path = write(tmp_path / "a.mp4", 2)
    flat = next(iter(read_frames(path))).image
    content = path.read_bytes()
    at = content.index(packed(1, 0, 0, 1), content.index(b"tkhd"))
    path.write_bytes(content[:at] + packed(*matrix) + content[at + 36 :])
    # Clockwise is -1 in numpy: the point right of the origin goes below it where b is 1.
    np.testing.assert_array_equal(next(iter(read_frames(path))).image, np.rot90(flat, turns))
    assert inspect_video(path).size == (flat.shape[:2] if turns == 2 else flat.shape[1::-1])


def test_read_frames__pixel_aspect_is_kept(tmp_path):
    wide = VideoInfo((48, 64), Fraction(10), Fraction(1, 10), 2, Fraction(4, 3))
    with open_video_writer(tmp_path / "a.mp4", wide) as append:
        append(VideoFrame(picture(48, 64), 0))
    assert inspect_video(tmp_path / "a.mp4").pixel_aspect == Fraction(4, 3)


def _encode_with_sound(path, video, audio, first=0):
    """Three seconds of a dark frame and of silence; `first` frames late, a flash and a beep each second."""
    with av.open(str(path), "w") as container:
        pictures, sound = container.add_stream(video, rate=10), container.add_stream(audio, rate=48000)
        pictures.height, pictures.width, pictures.pix_fmt, sound.layout = 48, 64, "yuv420p", "mono"
        time = np.arange(3 * 48000) / 48000
        beeps = (np.sin(2 * np.pi * 440 * time) * (time % 1 < 0.1)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(beeps[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        size = sound.codec_context.frame_size or 1024
        resampler = av.AudioResampler(sound.format.name, "mono", 48000, size)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(sound.encode(part))
        for number in range(first, 30):
            shown = av.VideoFrame.from_ndarray(picture(48, 64, 250 if number % 10 == 0 else 10), format="rgb24")
            shown.pts, shown.time_base = number, Fraction(1, 10)
            container.mux(pictures.encode(shown))
        container.mux(pictures.encode())
    return path


def _copy(source, target):
    with open_video_writer(target, inspect_video(source), source) as append:
        for frame in read_frames(source):
            append(frame)


@pytest.mark.parametrize(
    ("name", "video", "audio", "first"),
    [("a.mp4", "libx264", "aac", 0), ("a.mkv", "libx264", "libopus", 7), ("a.avi", "mpeg4", "pcm_s16le", 0)],
)
def test_open_video_writer__the_sound_goes_with_the_pictures(tmp_path, name, video, audio, first):
    source, target = _encode_with_sound(tmp_path / name, video, audio, first), tmp_path / "out.mp4"
    _copy(source, target)
    base = inspect_video(target).time_base
    flashes = [float(frame.time * base) for frame in read_frames(target) if frame.image.mean() > 150]
    with av.open(str(source)) as one, av.open(str(target)) as other:
        packets = [
            [bytes(packet) for packet in file.demux(file.streams.audio[0]) if packet.size] for file in (one, other)
        ]
    assert packets[0] == packets[1]  # not encoded anew
    with av.open(str(target)) as container:
        levels = np.concatenate([
            np.stack([frame.time + np.arange(frame.samples) / 48000, np.abs(frame.to_ndarray()).max(0)])
            for frame in container.decode(container.streams.audio[0])
        ], axis=1)  # fmt: skip
    loud = levels[0, levels[1] > 0.3 * levels[1].max()]
    beeps = loud[np.diff(loud, prepend=-1) > 0.5]
    beeps = [beep for beep in beeps.tolist() if beep > -0.05]
    assert len(flashes) == (3 if first == 0 else 2)
    np.testing.assert_allclose(beeps, flashes, atol=0.03)


def test_open_video_writer__sound_that_mp4_cannot_hold_is_left_out_and_said(tmp_path, caplog):
    source = _encode_with_sound(tmp_path / "a.avi", "mpeg4", "pcm_u8")
    _copy(source, tmp_path / "out.mp4")
    assert caplog.messages == [f"{source}: its sound is left out, because .mp4 can't hold pcm_u8"]
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert inspect_video(tmp_path / "out.mp4").num_frames == 30


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_inspect_video__truncated(tmp_path, suffix):
    fast = {"movflags": "+faststart"} if suffix == "mp4" else {}
    path = encode(tmp_path / f"a.{suffix}", "mjpeg" if suffix == "avi" else "libx264", count=40, **fast)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    refused(path, "expected a complete video; found ")


def test_inspect_video__no_index(tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "expected a readable video; found Invalid data found")


def test_read_frames__a_damaged_frame(tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264", count=40)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    middle = start + (len(content) - start) // 4
    content[middle : middle + 600] = np.random.default_rng(0).bytes(600)
    path.write_bytes(content)
    refused(path, "expected a readable video; found Invalid data found")


@pytest.mark.parametrize("content", [b"", b"hello", bytes(5000)])
def test_inspect_video__not_a_video(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    refused(path, "expected a readable video; found Invalid data found")


def test_inspect_video__only_sound(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    refused(path, "expected a video; found only audio; leave it out.")


def test_inspect_video__pictures_that_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MOST_PIXELS", 48 * 64 - 1)
    refused(write(tmp_path / "a.mp4"), "pictures of 3,071 pixels at most; found 48x64; leave it out.")


def test_inspect_video__without_the_package(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4")
    monkeypatch.setattr(av, "__version__", "16.1.0")
    refused(path, "expected the package `av`, 17 or newer", "found 16.1.0;", "`pip install -U av`")
    monkeypatch.setitem(sys.modules, "av", None)
    refused(path, "expected the package `av`, 17 or newer", "found none;")


def test_read_ahead__same_items_and_no_more_than_asked():
    fetched = []

    def items():
        for index in range(20):
            fetched.append((index, threading.current_thread().name))
            yield index

    ahead = read_ahead(items(), 3)
    assert list(islice(ahead, 5)) == [0, 1, 2, 3, 4]
    assert len(fetched) <= 5 + 3
    assert list(ahead) == list(range(5, 20))
    assert all(name.startswith("read_ahead") for _, name in fetched)


def test_read_ahead__an_error_comes_after_the_items_before_it():
    def items():
        yield from (1, 2)
        raise DataError("more", "none", "stop")

    ahead = read_ahead(items(), 8)
    assert list(islice(ahead, 2)) == [1, 2]
    with pytest.raises(DataError, match="expected more"):
        next(ahead)
