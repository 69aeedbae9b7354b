"""A page in the browser that shows what a model sees: urbanseg demo RUN [--compare OTHER].

A picture or a short video in; its classes, their shares, the class of any pixel and how sure the model is of it. What
is uploaded stays on this machine and is deleted when the command ends.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.options.fields import Options, option, palette_option, required
from hf_urbanseg.options.prediction import PlanArguments
from hf_urbanseg.ranges import Port, Share, Whole

logger = logging.getLogger(__name__)

_MOST_EXAMPLES = 24


@dataclass
class DemoArguments(Options):
    """Whose predictions are shown, and to whom."""

    model: str = required("Folder written by training, or a Hub id; may stand first, without --model.")
    compare: str | None = option(None, "Another one, shown beside it.")
    examples: str | None = option(None, f"Folder of pictures to choose from; the first {_MOST_EXAMPLES} by name.")
    alpha: Share = option(0.5, "Opacity of the classes at the start, 0..1.")
    palette: str | None = palette_option()
    most_frames: Whole = option(300, "Frames that a video may have, which keeps the model busy for so long.")
    host: str = option("127.0.0.1", "Address to listen at: this machine alone; `0.0.0.0` is the network, too.")
    port: Port = option(7860, "Port to listen at.")
    share: bool = option(False, "Also let gradio's server give it an address that anybody can open for a week.")


@command
def main(argv: list[str]) -> None:
    usage = "demo RUN [--option VALUE ...]"
    args, plan_args = parse_command_line((DemoArguments, PlanArguments), argv, __doc__, usage, ("model",))
    _check_address(args.host, args.port)
    from hf_urbanseg.data.image_files import list_images
    from hf_urbanseg.inference.predictor import Predictor
    from hf_urbanseg.palettes import recolor

    examples = [*list_images(Path(args.examples)).values()] if args.examples else []
    if len(examples) > _MOST_EXAMPLES:
        logger.warning("%s: of %d pictures the first %d are shown", args.examples, len(examples), _MOST_EXAMPLES)
    predictors, plan = {}, plan_args.build_plan()
    for name, model in _name_models(args.model, args.compare).items():
        stock = plan_args.stock_decode_head
        predictors[name] = Predictor.from_pretrained(model, plan_args.device, plan, stock_decode_head=stock)
        predictors[name].label_space = recolor(predictors[name].label_space, args.palette)
    serve(predictors, examples[:_MOST_EXAMPLES], args, plan_args.batch_size)


def serve(predictors, examples: list[Path], args: DemoArguments, batch_size: int) -> None:
    """Builds the page and serves it until Ctrl-C, or SIGTERM; of what was uploaded nothing stays."""
    _check_gradio()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="urbanseg_demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        from hf_urbanseg.demo.page import build_demo, start_demo

        demo = build_demo(predictors, examples, args.alpha, batch_size, args.most_frames)
        for address in start_demo(demo, args.host, args.port, args.share):
            print(f"{' and '.join(predictors)}: {address} (Ctrl-C ends it)", flush=True)
        demo.block_thread()


def _check_gradio() -> None:
    try:
        found = version("gradio")
    except PackageNotFoundError:
        found = "none"
    if found == "none" or not (6, 31) <= tuple(map(int, found.split(".")[:2])) < (7,):
        expected = "the package gradio, from 6.31 to below 7"
        raise ConfigError(expected, found, 'install it: `pip install "hf-urbanseg[demo]"`')


def _check_address(host: str, port: int) -> None:
    """Refuses, before a model is loaded, what can't be listened at."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, socket.SOCK_STREAM)) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a page that has just ended is no hindrance
            one.bind(address)
    except OSError as error:
        fix = "choose another `--port`, or leave `--host` out"
        raise ConfigError("an address to listen at", f"{host}:{port} ({error.strerror})", fix) from error


def _name_models(model: str, other: str | None) -> dict[str, str]:
    """What the page calls each: the last name, or all of it where that is the same."""
    if other is None:
        return {Path(model).name: model}
    if Path(model).resolve() == Path(other).resolve():
        raise ConfigError("another model to `compare` with", f"`{other}` again", "name another or leave it out")
    names = (model, other) if Path(model).name == Path(other).name else (Path(model).name, Path(other).name)
    return dict(zip(names, (model, other), strict=True))
