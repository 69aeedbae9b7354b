import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from hf_urbanseg.commands import demo
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.palettes import COLORBLIND

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name in ("a/x", "b/x", "y"):
        build_random_model("tiny", CITYSCAPES).save_pretrained(root / name)
        SegformerImageProcessorPil(size={"height": 64, "width": 96}).save_pretrained(root / name)
    return root


@pytest.fixture
def served(monkeypatch):
    """What the page would be made of."""
    calls = []
    monkeypatch.setattr(demo, "serve", lambda *args: calls.append(args))
    return calls


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.mark.parametrize(("other", "names"), [("y", ["x", "y"]), ("b/x", ["{}/a/x", "{}/b/x"])])
def test_demo__what_is_shown(models, served, port, tmp_path, other, names):
    for number in range(30):
        (tmp_path / f"{number:02d}.png").touch()
    words = ["--compare", f"{models / other}", "--examples", f"{tmp_path}", "--flip", "--palette", "colorblind"]
    demo.main([f"{models / 'a/x'}", *words, "--port", port])
    ((predictors, examples, args, _),) = served
    assert [*predictors] == [name.format(models) for name in names]
    assert all(one.plan.flip and one.label_space.colors == COLORBLIND[:19] for one in predictors.values())
    assert [path.name for path in examples] == [f"{number:02d}.png" for number in range(24)]
    assert (args.host, args.share) == ("127.0.0.1", False)


def test_demo__bad_input_in_one_line(models, served, port, fails, tmp_path):
    model, empty = models / "y", tmp_path / "empty"
    empty.mkdir()
    for words, line in [
        ([empty], f"{empty}/preprocessor_config.json: expected "),
        ([model, "--examples", empty], f"{empty}: expected image files"),
        ([model, "--examples", tmp_path / "nowhere"], "expected a folder of images; found no such folder"),
        ([model, "--compare", model], "expected another model to `compare` with"),
        ([model, "--host", "203.0.113.1"], "expected an address to listen at; found 203.0.113.1:"),
    ]:
        assert line in fails(demo.main, *words, "--port", port)
    assert served == []


def test_demo__a_port_in_use(models, served, fails):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = fails(demo.main, models / "y", "--port", port)
    assert f"expected an address to listen at; found 127.0.0.1:{port} (Address already in use); choose" in text
    assert served == []


@pytest.mark.parametrize("found", ["none", "5.49.1", "7.0.0"])
def test_demo__gradio_that_is_missing_or_another(models, port, fails, monkeypatch, found):
    def tell(name):
        assert name == "gradio"
        if found == "none":
            raise PackageNotFoundError
        return found

    monkeypatch.setattr(demo, "version", tell)
    text = fails(demo.main, models / "y", "--port", port)
    assert f"expected the package gradio, from 6.31 to below 7; found {found}; install it: " in text
    assert "gradio >= 6.31, < 7\n" in (Path(__file__).parents[2] / "setup.cfg").read_text()
