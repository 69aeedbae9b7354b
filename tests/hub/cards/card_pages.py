"""Runs to write cards of, and cards as a browser reads them."""

import json
import re
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from huggingface_hub import ModelCard
from loopback_cards import read_front_matter
from markdown_it import MarkdownIt
from run_folders import build_png

from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.hub.publish import publish
from hf_urbanseg.json_yaml import write_json, write_yaml
from hf_urbanseg.labels import CITYSCAPES, LabelSpace
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.models.build import ARCHITECTURES, build_config
from hf_urbanseg.options.recipe import load_recipe
from hf_urbanseg.runs.scores import describe_scores

NASTY = (
    "a|b", "<script>alert(1)</script>", "](x)", "no: yes", "\U0001f697 car", "**bold** _x_", "`code`",
    "![p](http://x.y/z.png)", "# head", "1. first", "- item", "&amp;", "\\", "a\\|b", "{{ 7*7 }}", "</details>",
    "~~s~~", "---", "[x]: http://x.y", "\u202egnp",
)  # fmt: skip


def build_space(names=CITYSCAPES.names[:4]) -> LabelSpace:
    colors = tuple((i, 2 * i % 256, 3 * i % 256) for i in range(len(names)))
    return LabelSpace("some", tuple(names), colors, {i: i for i in range(len(names))})


def build_images(count: int, names: tuple[str, ...], space: LabelSpace) -> tuple[np.ndarray, ImageCounts]:
    """Counts of images without any right pixel of the last class, and their sum as a matrix."""
    rng = np.random.default_rng(0)
    matrices = rng.integers(1, 2000, (count, space.num_labels, space.num_labels))
    matrices[:, range(space.num_labels), range(space.num_labels)] *= 4
    matrices[:, -1, -1] = 0
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    boundary = np.stack([hits // 2, hits + 10, hits + 20], 1)
    return matrices.sum(0), ImageCounts(names, space.names, hits, matrices.sum(2), matrices.sum(1), boundary)


def build_card_run(
    folder: Path,
    space=None,
    data="kitti",
    splits=("test", "validation"),
    images=None,
    architecture="segformer",
    **recipe,
) -> Path:
    """A run's folder without weights, its numbers made up but consistent."""
    space = space or build_space()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "label_space.json", describe_label_space(space))
    scores = {}
    for split in splits:
        matrix, counts = build_images(5, images or tuple(f"{i:06d}_10" for i in range(5)), space)
        scores[split] = {"num_images": 5, "protocol": "single scale of 64x192 (height x width)"}
        scores[split] |= describe_scores(matrix, space, 0, counts)
        write_json(folder / f"per_image_{split}.json", {"split": split, "data": data, **counts.to_dict()})
    write_json(folder / "metrics.json", {
        "splits": scores,
        "selection": {"exported_step": 500, "by": "mean_iou of validation"},
        "data": {"name": data, "images": {"train": 30, "validation": 5, "test": 5}, "notes": ["test: 5 of 40, seed 0"]},
        "training": {"seconds": 4000.0, "steps": 1000, "processes": 2, "seed": 0},
        "environment": {"hf_urbanseg": "0.0.7", "torch": "2.13.0", "device": "CPU, 2 cores"},
    })  # fmt: skip
    options = load_recipe("segformer_b0_kitti") | {"data_dir": f"/home/someone/{data}", "output_dir": str(folder)}
    write_yaml(folder / "recipe.yaml", options | recipe)
    weights = {"scheme": "inverse_log", "source": f"{data}, train, 30 images"}
    weights["weights"] = dict.fromkeys(space.names, 1.25)
    weights["counts"] = {name: 0 if i == 1 else 1000 * i for i, name in enumerate(space.names)}
    write_json(folder / "class_weights.json", weights)
    shape = {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "model_type": "segformer"}
    if architecture != "segformer":
        shape = json.loads(build_config("tiny", space, architecture).to_json_string())
        shape["architectures"] = [ARCHITECTURES[architecture].model_class.__name__]
    write_json(folder / "config.json", shape | {"id2label": {str(k): v for k, v in space.id2label.items()}})
    write_json(folder / "preprocessor_config.json", {"do_resize": True, "size": {"height": 64, "width": 192}})
    (folder / "overlays").mkdir(exist_ok=True)
    for name in (images or ("000000_10", "000001_10"))[:2]:
        (folder / "overlays" / f"{name}.png").write_bytes(build_png())
    for name in ("class_distribution", "training_curves", "per_class_test"):
        (folder / f"{name}.png").write_bytes(build_png())
    return folder


@contextmanager
def edit_metrics(run: Path):
    """metrics.json as a dictionary, whose changes are written at the end."""
    metrics = json.loads((run / "metrics.json").read_text())
    yield metrics
    (run / "metrics.json").write_text(json.dumps(metrics))


class Page(HTMLParser):
    """What a browser would make of a card: its elements, its cells and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.cells, self.links, self.text, self._cell = [], [], [], "", None
        body = text.partition("\n---\n")[2]
        self.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("href", "src")]
        if tag in ("td", "th"):
            self._cell = ""
        if tag == "tr":
            self.cells.append([])

    def handle_data(self, data):
        self.text += data
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cells[-1].append(self._cell)
            self._cell = None


def read_block(card: str, language: str, number: int = 0) -> str:
    return re.findall(rf"^```{language}\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE)[number]


def accept(hub, card: str) -> None:
    """Pushes a card, which the Hub checks first, and reads it back."""
    publish({"README.md": card.encode()}, "user/check")
    assert "validate-yaml" in hub.names()
    assert hub.tree("user/check")["README.md"].decode() == card
    assert ModelCard.load("user/check").data.to_dict() == read_front_matter(card)
