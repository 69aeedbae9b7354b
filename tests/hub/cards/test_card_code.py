"""The code on a card, as a stranger copies it: on another device, whatever the classes are called."""

import re

import numpy as np
import pytest
import torch
from card_pages import NASTY, build_card_run, build_space
from PIL import Image

from hf_urbanseg.hub.cards.model_card import build_model_card
from hf_urbanseg.hub.publish import publish
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_image_processor, build_random_model


@pytest.fixture
def build_published(hub_here, tmp_path):
    """A run with weights, on the Hub with its card; gives the folder and the card's two blocks of Python."""

    def build(space, architecture="segformer"):
        torch.manual_seed(0)
        run = build_card_run(tmp_path / "run", space, architecture=architecture)
        model = build_random_model("tiny", space, architecture).eval()
        torch.nn.init.normal_(model.decode_head.classifier.weight, std=0.5)
        model.save_pretrained(run)
        build_image_processor((96, 320)).save_pretrained(run)
        card = build_model_card(run, "user/name")
        names = ("model.safetensors", "config.json", "preprocessor_config.json")
        publish({name: run / name for name in names} | {"README.md": card.encode()}, "user/name")
        return run, re.findall(r"^```python\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE)

    return build


SAVE = """
import numpy, sys
assert not [name for name in sys.modules if name.startswith("hf_urbanseg")]
found = {str(i): numpy.asarray(mask) for i, mask in enumerate(masks.values())}
numpy.savez("found.npz", train_ids=train_ids.numpy(), names=list(masks), **found)
"""


def refused(code: str) -> str:
    """Python that runs code which must fail, and prints why; in the process of the rest, whose start takes seconds."""
    tried = f"try:\n    exec({code!r})\nexcept Exception as error:\n    print(error)\n"
    return f"{tried}else:\n    raise SystemExit('it ran')"


def check(run, space, image, path):
    """Tensor and masks equal what this package predicts, pixel by pixel, with and without torchvision: the card names
    the processor for that."""
    found = np.load(path)
    expected = Predictor.from_pretrained(run, "cpu").predict([image])[0]
    np.testing.assert_array_equal(found["train_ids"], expected)
    # No trailing NULs or lost characters in the names, which numpy stores at a fixed width.
    assert list(found["names"]) == [space.names[i] for i in np.unique(expected)]
    for number, train_id in enumerate(np.unique(expected)):
        np.testing.assert_array_equal(found[str(number)], 255 * (expected == train_id))


def test_card__its_code_whatever_classes_and_images_are(build_published, run_with_hub, tmp_path):
    """Class names of markup, and a grey picture with a palette, upright and odd in size."""
    space = build_space(NASTY)
    run, blocks = build_published(space)
    pixels = np.random.default_rng(0).integers(0, 256, (333, 77), np.uint8)
    image = Image.fromarray(pixels).convert("P")
    image.save(tmp_path / "street.png")
    run_with_hub("\n".join([*blocks, SAVE]), home="stranger", OMP_NUM_THREADS=1)
    check(run, space, image.convert("RGB"), tmp_path / "found.npz")


def test_card__its_code_for_a_network_of_ours(build_published, run_with_hub, tmp_path):
    """With the package's import; without it transformers refuses the model in its own words."""
    run, (first, second) = build_published(CITYSCAPES, "pspnet")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 333, 3), np.uint8))
    image.save(tmp_path / "street.png")
    save = "\n".join(line for line in SAVE.splitlines() if not line.startswith("assert"))
    about, line, *rest = first.splitlines()
    assert about.startswith("#")
    assert "pip install" in about
    assert line.startswith("import hf_urbanseg.models")
    done = run_with_hub("\n".join([refused("\n".join(rest)), first, second, save]), home="stranger", OMP_NUM_THREADS=1)
    check(run, CITYSCAPES, image, tmp_path / "found.npz")
    assert "has model type `urbanseg_pspnet` but Transformers does not recognize this architecture" in done.stdout


def test_card__its_code_where_the_pipeline_chooses_a_device(build_published, run_with_hub, tmp_path):
    """A pipeline puts its model on a GPU by itself; the second block has to send the pixels after it.

    The device "meta" stands for that GPU: it computes nothing, but refuses tensors of the CPU as a GPU does.
    """
    _, (first, second) = build_published(CITYSCAPES)
    Image.new("RGB", (64, 48)).save(tmp_path / "street.png")
    lines = ["segmenter.model.to('meta')", "import torch", "segmenter.device = torch.device('meta')"]
    second = second.partition("train_ids =")[0]
    broken = second.replace(".to(segmenter.device)", "")
    assert broken != second
    lines += [second, "assert outputs.logits.device.type == 'meta'", refused(broken)]
    assert "meta" in run_with_hub("\n".join([first, *lines]), home="stranger").stdout
