"""In a browser, as people use it. Neither gradio nor playwright is among the packages of `test`."""

import importlib
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from fractions import Fraction

import pytest
import torch
from PIL import Image

from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.data.video import VideoFrame, VideoInfo, open_video_writer
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.hub.space import collect_space

pytest.importorskip("gradio", reason="needs the extra `demo`")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
page_of = importlib.import_module("hf_urbanseg.demo.page")

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(not shutil.which("chromium"), reason="needs the browser chromium")


@contextmanager
def opened(address: str, outside: list[str]):
    """The page at an address, in a browser; `outside` gets what it asks of other machines."""
    with sync_api.sync_playwright() as playwright:
        options = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox"]}
        page = playwright.chromium.launch(**options).new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(30_000)
        own = (address, "data:", "blob:")
        page.on("request", lambda one: None if one.url.startswith(own) else outside.append(one.url))
        page.goto(address)
        page.wait_for_selector("input[type=file]", state="attached")
        yield page


@pytest.fixture
def visit(build_predictor, tmp_path):
    """The page of two models, open; it asks nothing of other machines."""
    outside, example = [], tmp_path / "a.png"
    Image.fromarray(render_scene(2, (80, 120))[0]).save(example)
    demo = page_of.build_demo({"one": build_predictor(0), "<two>": build_predictor(1)}, [example], frames=4)
    (address,) = page_of.start_demo(demo)
    with opened(address, outside) as page:
        yield page
    demo.close()
    assert outside == []


def shown(page) -> list[str]:
    """The addresses of the models' pictures."""
    return [one.get_attribute("src") for one in page.locator(".image-frame img").all()]


def changed(page, before: list[str]) -> list[str]:
    """The same once every one of them is another."""
    page.wait_for_function(
        "before => { const now = [...document.querySelectorAll('.image-frame img')].map(one => one.src);"
        " return now.length === 2 && now.every(one => !before.includes(one)); }",
        arg=before,
    )
    return shown(page)


def test_build_demo__a_visit(visit, street, tmp_path):
    page, upload = visit, "input[type=file]"
    page.set_input_files(upload, street)
    page.wait_for_selector(".us-classes")
    pictures = changed(page, [])
    assert page.locator(".us-classes").count() == 2
    assert "<two>" in page.locator(".us-model").nth(1).inner_text()

    picture = page.locator(".image-frame img").first
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] / 2, "y": box["height"] / 4})
    page.wait_for_selector(".us-pixel b")
    said = page.locator(".us-pixel").inner_text()
    assert "row 20" in said or "row 19" in said  # of 80
    assert said.count("%") == 2

    page.get_by_label("confidence").check()
    pictures = changed(page, pictures)
    assert page.locator(".us-ramp").is_visible()
    page.locator("input[type=range]").fill("1")
    pictures = changed(page, pictures)
    page.get_by_label("12 passes").check()
    pictures = changed(page, pictures)

    page.locator("#us-examples button").first.click()
    changed(page, pictures)

    broken = tmp_path / "<u>broken.png"
    broken.write_bytes(street.read_bytes()[:400])
    page.set_input_files(upload, broken)
    page.wait_for_selector(".us-error")
    said = page.locator(".us-error").inner_text()
    assert "broken.png: expected a readable image; found " in said
    assert "/" not in said.partition(":")[0]
    assert shown(page) == []  # of neither model
    assert page.locator(".us-classes").count() == 0
    page.set_input_files(upload, street)  # the page goes on
    changed(page, [])


def test_build_demo__videos(visit, tmp_path):
    pytest.importorskip("av", reason="video files need the package `av`")
    for name, count in (("short.mp4", 3), ("long.mp4", 5)):
        info = VideoInfo((64, 96), Fraction(10), Fraction(1, 10), count)
        with open_video_writer(tmp_path / name, info) as write:
            for number in range(count):
                write(VideoFrame(render_scene(number, (64, 96))[0], number))
    visit.set_input_files("input[type=file]", tmp_path / "short.mp4")
    visit.wait_for_function("document.querySelectorAll('video').length === 2")
    visit.set_input_files("input[type=file]", tmp_path / "long.mp4")
    visit.wait_for_selector(".us-error")
    assert "expected a video of 4 frames at most; found 5" in visit.locator(".us-error").inner_text()


def test_collect_space__runs_by_itself(build_predictor, street, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "space"
    predictor = build_predictor()
    predictor.model.save_pretrained(run)
    predictor.image_processor.save_pretrained(run)
    (run / "metrics.json").write_text('{"splits": {}}')
    for name, content in collect_space(run, PushLedger(run), "street").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    known = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    app = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=known | {"GRADIO_SERVER_PORT": str(port)})
    try:
        for _ in range(600):
            with socket.socket() as one:
                if app.poll() is not None or one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        with opened(f"http://127.0.0.1:{port}/", []) as page:
            page.set_input_files("input[type=file]", street)
            page.wait_for_selector(".us-classes")
    finally:
        app.terminate()
        app.wait()
