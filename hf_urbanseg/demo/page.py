"""The page itself, in gradio: a file in, one prediction at a time, what a visitor sees of it."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup, escape
from PIL import Image

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read while gradio is imported

import gradio as gr

from hf_urbanseg.data.pictures import MOST_BYTES
from hf_urbanseg.data.rgb import to_rgb
from hf_urbanseg.data.video import inspect_video
from hf_urbanseg.demo.predictions import (
    Prediction,
    describe_classes,
    describe_pixel,
    describe_ramp,
    draw_classes,
    draw_confidence,
    predict_confidence,
    read_upload,
    with_plan,
)
from hf_urbanseg.errors import DataError, UrbanSegError
from hf_urbanseg.inference.images import read_image
from hf_urbanseg.inference.input_files import is_video
from hf_urbanseg.inference.plan import PLAIN, REPORT_RATIOS, PredictionPlan
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.reports.prediction_files import video_path
from hf_urbanseg.reports.prediction_video import predict_video

_CLASSES, _CONFIDENCE = "classes", "confidence"
_HINT = Markup('<div class="us-pixel"><span>Click on the picture to read a pixel.</span></div>')
_SESSIONS, _WAITING, _SECONDS_KEPT = 8, 16, 3600
_QUICK = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
_CSS = """
.us-classes, .us-classes * {border: 0 !important}
.us-classes {width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums}
.us-classes tr {border-bottom: 1px solid var(--border-color-primary) !important}
.us-classes th {font-weight: 400; opacity: .65; font-size: .8rem}
.us-classes td, .us-classes th {padding: .2rem .4rem; text-align: right; white-space: nowrap}
.us-classes td:first-child, .us-classes th:first-child {text-align: left}
.us-bar {width: 40%} .us-bar div {height: .6rem; border-radius: 2px; min-width: 1px}
.us-classes i, .us-pixel i {display: inline-block; width: .9em; height: .9em; border-radius: 2px; margin-right: .5em;
  vertical-align: -.1em; outline: 1px solid rgb(128 128 128 / .5)}
.us-pixel {display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; min-height: 1.5rem}
.us-pixel span, .us-model span {opacity: .65}
.us-error {padding: .6rem .8rem; border-left: 4px solid var(--error-icon-color); color: var(--error-text-color);
  background: var(--error-background-fill)}
.us-ramp {display: flex; gap: .5rem; align-items: center; font-size: .8rem} .us-ramp div {flex: 1; height: .6rem}
#us-examples, #us-examples .grid-wrap {max-height: 330px}
@media (max-width: 600px) {.us-bar {display: none}}
"""


class _Answers:
    """What the page answers to a hand: values for its components, in the order in which `build_demo` lists them."""

    def __init__(self, predictors: Mapping[str, Predictor], examples: Sequence[Path], batch_size: int, frames: int):
        self.predictors, self.examples, self.batch_size, self.frames = predictors, examples, batch_size, frames
        self.spaces = {name: one.label_space for name, one in predictors.items()}
        first = next(iter(predictors.values())).plan
        report = PredictionPlan(ratios=REPORT_RATIOS, flip=True)
        self.plans = {plan.describe(): plan for plan in (first, PLAIN, report)}
        self.scratch = tempfile.TemporaryDirectory(prefix="urbanseg_demo_")  # of the last video, which gradio copies

    def take(self, path: str) -> tuple[str, None]:
        """The uploaded file, and an empty place for the next."""
        return path, None

    def choose(self, event: gr.SelectData) -> str:
        return str(self.examples[event.index])

    def show(self, path: str | None, way: str, view: str, alpha: float) -> list:
        """What the models see in a file."""
        if path is None:
            return [gr.skip() for _ in range(3 + 3 * len(self.predictors))]
        predictors = [with_plan(one, self.plans[way]) for one in self.predictors.values()]
        try:
            if is_video(Path(path)):
                return self._fill(videos=self._predict_video(Path(path), predictors, alpha))
            pictures, notes = zip(*(read_upload(path, one.channels) for one in predictors), strict=True)
            predictions = [*map(predict_confidence, predictors, pictures)]
        except UrbanSegError as error:
            # Without the folder that the upload lies in.
            line = type(error)(error.expected, error.found, error.fix, error.path and Path(error.path).name)
            return self._fill(note=Markup('<div class="us-error">{}</div>').format(str(line)))
        tables = [*map(describe_classes, predictions, self.spaces.values())]
        return self._fill(predictions, escape(notes[0]), self.draw(predictions, view, alpha), (), _HINT, tables)

    def _fill(self, predictions=None, note: str = "", images=(), videos=(), pixel: str = "", tables=()) -> list:
        """All that `show` changes. What isn't given is emptied: nothing may look like the result of another file."""
        count = len(self.predictors)
        updates = [gr.update(value=note, visible=bool(note))]  # each of its own: gradio empties them as it reads
        updates += [gr.update(value=one, visible=not videos) for one in images or [None] * count]
        updates += [gr.update(value=one, visible=bool(videos)) for one in videos or [None] * count]
        return [predictions, *updates, pixel, *(tables or [""] * count)]

    def _predict_video(self, path: Path, predictors: Sequence[Predictor], alpha: float) -> list[Path]:
        info = inspect_video(path)
        if info.num_frames > self.frames:
            fix = "cut it, or take `urbanseg predict`, which has no such bound"
            raise DataError(f"a video of {self.frames:,} frames at most", f"{info.num_frames:,}", fix, path)
        folders = [Path(self.scratch.name, str(index)) for index in range(len(predictors))]
        for folder, predictor in zip(folders, predictors, strict=True):
            for earlier in folder.glob("*"):
                earlier.unlink()
            predict_video(path, info, predictor, folder, self.batch_size, alpha, False, (), "overlay")
        return [video_path(folder, path.stem) for folder in folders]

    def draw(self, predictions: Sequence[Prediction] | None, view: str, alpha: float) -> list:
        if predictions is None:
            return [gr.skip() for _ in self.predictors]
        if view == _CONFIDENCE:
            return [draw_confidence(one, alpha) for one in predictions]
        return [draw_classes(one, space, alpha) for one, space in zip(predictions, self.spaces.values(), strict=True)]

    def draw_again(self, predictions: Sequence[Prediction] | None, view: str, alpha: float) -> list:
        return [*self.draw(predictions, view, alpha), gr.update(visible=view == _CONFIDENCE)]

    def read_pixel(self, predictions: Sequence[Prediction] | None, event: gr.SelectData) -> str:
        return "" if predictions is None else describe_pixel(predictions, self.spaces, *event.index)


def build_demo(
    predictors: Mapping[str, Predictor],
    examples: Sequence[Path] = (),
    alpha: float = 0.5,
    batch_size: int = 4,
    frames: int = 300,
) -> gr.Blocks:
    """The page of one model, or of several side by side.

    One file is predicted at a time, whoever sent it; others wait in a queue of bounded length.

    Args:
        predictors: By the name that the page shows. The first one's plan is offered, one pass, and the report's 12.
        examples: Pictures to choose from.
        alpha: Opacity at the start, 0..1.
        batch_size: Of a video's frames.
        frames: Of a video; longer ones are refused.

    Raises:
        DataError: An example that can't be read.
    """
    answers = _Answers(predictors, examples, batch_size, frames)
    channels = next(iter(predictors.values())).channels
    images, videos, tables = [], [], []
    title = " and ".join(predictors)
    with gr.Blocks(analytics_enabled=False, title=title, fill_width=True, delete_cache=(600, _SECONDS_KEPT)) as demo:
        demo.queue(max_size=_WAITING, default_concurrency_limit=1)
        chosen, predictions = gr.State(None), gr.State(None, time_to_live=_SECONDS_KEPT)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                upload = gr.File(label="A picture or a short video", height=160)
                if examples:
                    gallery = gr.Gallery(
                        [_shrink(path, channels) for path in examples], label="Examples", show_label=False, columns=2,
                        allow_preview=False, interactive=False, buttons=[], object_fit="cover", height="auto",
                        elem_id="us-examples",
                    )  # fmt: skip
            with gr.Column(scale=4, min_width=320):
                note = gr.HTML(visible=False)
                with gr.Row():
                    for name, one in predictors.items():
                        with gr.Column(min_width=320):
                            gr.HTML(_describe(name, one))
                            buttons = ["download", "fullscreen"]
                            images.append(gr.Image(show_label=False, format="png", interactive=False, buttons=buttons))
                            videos.append(gr.Video(show_label=False, visible=False, interactive=False))
                ramp, pixel = gr.HTML(describe_ramp(), visible=False), gr.HTML()
                with gr.Row():
                    view = gr.Radio([_CLASSES, _CONFIDENCE], value=_CLASSES, label="Show", min_width=220)
                    opacity = gr.Slider(0, 1, alpha, step=0.05, label="Opacity", buttons=[], min_width=220)
                    way = gr.Radio([*answers.plans], value=next(iter(answers.plans)), label="Passes", min_width=320)
                with gr.Row():
                    for _ in predictors:
                        with gr.Column(min_width=320):
                            tables.append(gr.HTML())
        asked, found = [chosen, way, view, opacity], [predictions, note, *images, *videos, pixel, *tables]
        busy = {"show_progress_on": [*images, *videos], "api_visibility": "private"}
        busy |= {"concurrency_id": "model", "concurrency_limit": 1}
        upload.upload(answers.take, upload, [chosen, upload], **_QUICK).then(answers.show, asked, found, **busy)
        way.input(answers.show, asked, found, **busy)
        if examples:
            gallery.select(answers.choose, None, chosen, **_QUICK).then(answers.show, asked, found, **busy)
        for control in (view, opacity):
            control.input(answers.draw_again, [predictions, view, opacity], [*images, ramp], **_QUICK)
        for image in images:
            image.select(answers.read_pixel, predictions, pixel, **_QUICK)
    return demo


def start_demo(demo: gr.Blocks, host: str | None = None, port: int | None = None, share: bool = False) -> list[str]:
    """Serves the page until the process ends or `demo.close()`; returns its addresses.

    Args:
        host, port: Default: GRADIO_SERVER_NAME and GRADIO_SERVER_PORT, as a Space sets them, else this machine alone.
        share: Also under an address of gradio's, which anybody can open.
    """
    theme = gr.themes.Default(font=["system-ui", "sans-serif"])
    _, local, public = demo.launch(
        server_name=host, server_port=port, share=share, prevent_thread_lock=True, quiet=True, ssr_mode=False,
        theme=theme, css=_CSS, footer_links=[], run_history=False, enable_monitoring=False, max_file_size=MOST_BYTES,
        state_session_capacity=_SESSIONS,
    )  # fmt: skip
    return [local, *filter(None, [public])]


def _shrink(path: Path, channels: int) -> Image.Image:
    picture = to_rgb(read_image(path, channels).picture)
    picture.thumbnail((480, 480))
    return picture


def _describe(name: str, predictor: Predictor) -> Markup:
    parameters = sum(one.numel() for one in predictor.model.parameters()) / 1e6
    line = Markup('<div class="us-model"><b>{}</b> <span>{} classes, {:.2f} M parameters</span></div>')
    return line.format(name, predictor.label_space.num_labels, parameters)
