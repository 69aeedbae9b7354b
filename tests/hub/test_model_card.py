"""The card of a run: its numbers, its front matter, and names from data that mean nothing in it."""

import copy
import json
import logging
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from loopback_cards import check_card, read_front_matter
from markdown_it import MarkdownIt
from run_folders import build_png
from safetensors.numpy import save_file

from hf_urbanseg.errors import DataError, ModelError
from hf_urbanseg.hub.callback import PublishCallback
from hf_urbanseg.hub.citations import BIBTEX, choose_citations
from hf_urbanseg.hub.licence import choose_licence
from hf_urbanseg.hub.markdown import code_span, escape_markdown, fence_code, quote_path
from hf_urbanseg.hub.model_card import (
    build_interim_card,
    build_model_card,
    is_generated,
    read_edited_card,
    write_model_card,
)
from hf_urbanseg.hub.publish import publish
from hf_urbanseg.labels import CITYSCAPES, LabelSpace
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.recipe import load_recipe
from hf_urbanseg.reports.run_files import describe_scores, write_json, write_yaml

NASTY = (
    "a|b", "<script>alert(1)</script>", "](x)", "no: yes", "\U0001f697 car", "two\nlines", "**bold** _x_", "`code`",
    "![p](http://x.y/z.png)", "# head", "1. first", "- item", "&amp;", "\\", "a\\|b", "{{ 7*7 }}", "</details>",
    "~~s~~", "---", "[x]: http://x.y", "\u202egnp",
)  # fmt: skip


def build_space(names=CITYSCAPES.names[:4]) -> LabelSpace:
    colors = tuple((i, 2 * i, 3 * i) for i in range(len(names)))
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


def build_run(folder: Path, space=None, data="kitti", splits=("test", "validation"), images=None, **recipe) -> Path:
    """A run's folder without weights, its numbers made up but consistent."""
    space = space or build_space()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "label_space.json", space.to_dict())
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
    write_json(folder / "config.json", shape | {"id2label": {str(k): v for k, v in space.id2label.items()}})
    write_json(folder / "preprocessor_config.json", {"do_resize": True, "size": {"height": 64, "width": 192}})
    (folder / "overlays").mkdir(exist_ok=True)
    for name in (images or ("000000_10", "000001_10"))[:2]:
        (folder / "overlays" / f"{name}.png").write_bytes(build_png())
    for name in ("class_distribution", "training_curves", "per_class_test"):
        (folder / f"{name}.png").write_bytes(build_png())
    return folder


class _Page(HTMLParser):
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


def accept(hub, card: str) -> None:
    """Pushes a card, which the Hub checks first, and reads it back."""
    publish({"README.md": card.encode()}, "user/check")
    assert "validate-yaml" in hub.names()
    assert ModelCard.load("user/check").content == card


def read_block(card: str, language: str, number: int = 0) -> str:
    return re.findall(rf"^```{language}\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE)[number]


# ---- numbers ----


def test_build_model_card__first_sentence_has_number_interval_images_and_guess(tmp_path):
    run = build_run(tmp_path / "run")
    found = json.loads((run / "metrics.json").read_text())["splits"]["test"]
    interval, guess = found["confidence_interval"], found["constant_guess"]
    sentence = (
        f"**{100 * found['mean_iou']:.2f} % mIoU** (95 % interval {100 * interval['low']:.2f} to "
        f"{100 * interval['high']:.2f} %) on 5 test images of KITTI semantic segmentation, 4 classes. "
        f"Always guessing road gives {100 * guess['mean_iou']:.2f} %.\n"
    )
    assert sentence in build_model_card(run)


def test_build_model_card__class_table(tmp_path):
    run = build_run(tmp_path / "run")
    found = json.loads((run / "metrics.json").read_text())["splits"]["test"]
    rows = {
        row[0]: row[1:] for row in _Page(build_model_card(run)).cells if row[0] in CITYSCAPES.names and len(row) > 4
    }
    assert list(rows) == ["road", "sidewalk", "building", "wall"]
    for name, row in rows.items():
        scores = [found[key][name] for key in ("iou", "accuracy", "precision", "dice", "boundary_iou")]
        assert row == [*(f"{100 * score:.2f}" for score in scores), f"{found['support'][name]:,}"]


def test_build_model_card__model_index_holds_every_split(tmp_path):
    run = build_run(tmp_path / "run")
    card = ModelCard(build_model_card(run, "user/tiny-kitti"))
    metrics = json.loads((run / "metrics.json").read_text())["splits"]
    results = {(one.dataset_split, one.metric_type): one for one in card.data.eval_results}
    assert len(results) == 6
    for (split, key), one in results.items():
        assert one.metric_value == metrics[split][key]
        assert (one.dataset_type, one.dataset_name) == ("kitti", "KITTI semantic segmentation")
        assert one.metric_args["protocol"] == "single scale of 64x192 (height x width)"
        assert one.task_type == "image-segmentation"
    assert card.data.model_name == "tiny-kitti"
    assert card.data.tags == ["segformer", "semantic-segmentation", "kitti", "cityscapes", "hf_urbanseg"]
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.base_model == "nvidia/segformer-b0-finetuned-cityscapes-768-768"
    assert read_front_matter(card.content)["base_model_relation"] == "finetune"


def test_build_model_card__limits_name_classes(tmp_path):
    card = build_model_card(build_run(tmp_path / "run"))
    assert "- Never seen in training (no pixel of the train split): road, sidewalk.\n" in card
    assert "- Not learnt (IoU 0 % on test): wall.\n" in card
    assert "- Trained on 30 images only, measured on 5; KITTI's images were taken from one car" in card
    assert "resized to 64 x 192 pixels" in card


def test_build_model_card__failures_are_listed_and_linked(tmp_path):
    run = build_run(tmp_path / "run")
    rows = [row for row in _Page(build_model_card(run)).cells if row[0].endswith("_10")]
    images = ImageCounts.from_dict(json.loads((run / "per_image_test.json").read_text()))
    worst = int(images.mean_iou.argmin())
    assert rows[0][:2] == [images.names[worst], f"{100 * images.mean_iou[worst]:.2f}"]
    assert rows[0][2].startswith("lowest mIoU of 5 images")
    without = build_model_card(run, pictures=False)
    assert "overlays/" not in without
    assert "## Where it fails" in without
    assert "training_curves.png" in without


@pytest.mark.parametrize(
    ("splits", "by", "said"),
    [
        (("test", "validation"), "mean_iou of validation", "The test split took no part in that"),
        (("validation",), "mean_iou of validation", "the numbers on that split are too good by selection"),
        (("validation",), "last step", "no split chose it"),
        (("test",), "mean_iou of test", "too good by selection; no other split was measured."),
        (("test", "validation"), "mean_iou of test", "the numbers on that split are too good by selection."),
    ],
)
def test_build_model_card__selection(tmp_path, splits, by, said):
    run = build_run(tmp_path / "run", splits=splits)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["selection"]["by"] = by
    write_json(run / "metrics.json", metrics)
    assert said in build_model_card(run)


def test_build_model_card__command_names_what_the_recipe_had(tmp_path):
    card = build_model_card(build_run(tmp_path / "run", label_space="camvid as.yaml"), "user/name")
    words = shlex.split(read_block(card, "bash"))
    assert words == ["python", "scripts/evaluate.py", "--model", "user/name", "--split", "test", "--data_dir", "kitti",
                     "--label_space", "camvid as.yaml"]  # fmt: skip
    run = build_run(tmp_path / "two", data_dir=None, dataset="user/set", data="user/set")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["splits"]["test"]["protocol"] = (
        "6 passes: ratios 0.5 1 1.5 of 64x192 (height x width), with and without flip"
    )
    write_json(run / "metrics.json", metrics)
    card = build_model_card(run, "user/name")
    assert read_block(card, "bash").endswith("--model user/name --split test --ratios 0.5 1 1.5 --flip true")
    assert read_front_matter(card)["datasets"] == ["user/set"]


def test_build_model_card__without_what_older_runs_lack(tmp_path):
    run = build_run(tmp_path / "run")
    for name in ("per_image_test.json", "per_image_validation.json", "class_weights.json", "training_curves.png",
                 "class_distribution.png", "per_class_test.png", "preprocessor_config.json",
                 "recipe.yaml"):  # fmt: skip
        (run / name).unlink()
    metrics = json.loads((run / "metrics.json").read_text())
    scores = {key: value for key, value in metrics["splits"]["test"].items() if key in (
        "mean_iou", "mean_accuracy", "overall_accuracy", "iou", "accuracy", "support")}  # fmt: skip
    write_json(run / "metrics.json", {"splits": {"test": scores}})
    card = build_model_card(run)
    assert check_card(card, "model") == ([], [])
    assert f"**{100 * scores['mean_iou']:.2f} % mIoU**" in card
    assert "Where it fails" not in card
    assert not [link for link in _Page(card).links if link.endswith(".png") and not link.startswith("overlays/")]
    write_json(run / "metrics.json", {"splits": {}})
    assert "This model has not been measured" in build_model_card(run)


def test_build_model_card__pictures_and_links_exist(tmp_path):
    run = build_run(tmp_path / "run", images=("one (1)", "a%20b ü", "c", "d", "e"))
    links = [link for link in _Page(build_model_card(run)).links if "://" not in link]
    assert {"overlays/one (1).png", "overlays/a%20b ü.png", "training_curves.png"} <= {unquote(one) for one in links}
    assert all((run / unquote(link)).is_file() for link in links)


def test_build_model_card__no_path_of_this_machine(tmp_path):
    card = build_model_card(build_run(tmp_path / "run", split_file=str(tmp_path / "splits" / "mine.yaml")))
    assert str(tmp_path) not in card
    assert "/home/someone" not in card
    recipe = yaml.safe_load(read_block(card, "yaml"))
    assert (recipe["data_dir"], recipe["split_file"], recipe["output_dir"]) == ("kitti", "mine.yaml", "run")
    card = build_model_card(build_run(tmp_path / "run", data_dir="../customer/kitti"))
    assert "customer" not in card
    # In other files, and under names that would be escaped.
    odd = tmp_path / "__odd_[name]__"
    run = build_run(odd / "run")
    write_json(run / "class_weights.json", {"source": f"{odd}/run/data/kitti, train, 3 images"})
    card = build_model_card(run)
    assert "from the pixels of kitti, train, 3 images" in card
    assert "odd" not in card


def test_build_model_card__needs_a_finished_run(tmp_path):
    run = build_run(tmp_path / "run")
    (run / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"metrics.json: expected readable JSON"):
        build_model_card(run)
    (run / "metrics.json").unlink()
    with pytest.raises(ModelError, match=r"expected a trained and measured model; found no metrics.json; let"):
        build_model_card(run)


# ---- names from data ----


def test_build_model_card__nasty_names_are_read_as_they_are(tmp_path, hub_here):
    plain = build_run(tmp_path / "plain", build_space([f"class {i}" for i in range(len(NASTY))]), data="data")
    images = ("a|b](x)", "<img src=x onerror=alert(1)>", "c", "**d**", "</td>")
    (tmp_path / "run" / "overlays").mkdir(parents=True)
    run = build_run(tmp_path / "run", build_space(NASTY), data="<b>d|a](x): \U0001f600\n---\n", images=images)
    card = build_model_card(run, "user/name")
    assert check_card(card, "model") == ([], [])
    accept(hub_here, card)
    page, reference = _Page(card), _Page(build_model_card(plain, "user/name"))
    # The same elements as with plain names, but for the links to two more pictures in the table of failures.
    for tag in ("script", "b", "h1", "h2", "h3", "details", "table", "tr", "td", "th", "em", "s", "li", "hr", "img"):
        assert page.tags.count(tag) == reference.tags.count(tag), tag
    rows = [
        row for row in page.cells if len(row) == 7 and row[0] not in ("class", "mean", "split", "test", "validation")
    ]
    assert [row[0] for row in rows] == [" ".join(name.split()).replace("\u202e", "\ufffd") for name in NASTY]
    assert all("x.y" not in link and link != "x" for link in page.links)
    assert read_front_matter(card)["model-index"][0]["results"][0]["dataset"]["name"] == "<b>d|a](x): \U0001f600 ---"


@pytest.mark.parametrize(
    "text", [*NASTY, "plain", "000001_10", "_a_", "a_b_", "$$x$$", "3.72 M", "10. x", "", "+", "=="]
)
def test_escape_markdown__renders_as_it_is(text):
    for pattern in ("{}", "x {} y", "| a | b |\n|---|---|\n| {} | c |", "- {}", "**{}**"):
        parts = _Page("\n---\n" + pattern.replace("{}", "ABC"))
        assert "ABC" in parts.text
        found = _Page("\n---\n" + pattern.format(escape_markdown(text)))
        expected = " ".join(text.split()).replace("\u202e", "\ufffd")
        if expected:  # emphasis around nothing is no emphasis
            assert found.tags == parts.tags
            assert found.text == parts.text.replace("ABC", expected)


def test_escape_markdown__leaves_numbers_and_names_readable():
    for text in ("0.5, 0.75", "000001_10", "traffic light", "2.13.0+cpu", "IoU 3.1 %; 4,000 pixels", "a-b (c)"):
        assert escape_markdown(text) == text


def test_code__fences_and_spans_are_longer_than_what_is_inside():
    text = "```\n<b>\n````"
    html = MarkdownIt("commonmark").render(fence_code(text, "yaml"))
    assert html == '<pre><code class="language-yaml">```\n&lt;b&gt;\n````\n</code></pre>\n'
    assert MarkdownIt("commonmark").render(code_span("a``b`")) == "<p><code>a``b`</code></p>\n"
    assert quote_path("a b/(c)#?.png") == "a%20b/%28c%29%23%3F.png"


# ---- licence and citations ----


@pytest.mark.parametrize(
    ("base", "is_hub", "data", "expected"),
    [
        (None, False, "synthetic", ("apache-2.0", None)),
        (None, False, "kitti", ("cc-by-nc-sa-3.0", None)),
        (None, False, "my streets", ("unknown", None)),
        (None, False, "camvid", ("unknown", None)),
        (None, False, "cityscapes", ("other", "cityscapes-license")),
        ("nvidia/mit-b0", True, "synthetic", ("other", "nvidia-source-code-license-for-segformer")),
        ("/models/segformer-b2-ade", False, "synthetic", ("other", "nvidia-source-code-license-for-segformer")),
        ("nvidia/mit-b0", True, "kitti", ("other", "nvidia-source-code-license-for-segformer-and-cc-by-nc-sa-3.0")),
        ("me/Street_Net", True, "synthetic", ("other", "terms-of-me-street-net")),
        ("/models/mine", False, "synthetic", ("unknown", None)),
        ("nvidia/mit-b0", True, "my streets", ("other", "nvidia-source-code-license-for-segformer")),
    ],
)
def test_choose_licence__by_weights_and_data(base, is_hub, data, expected):
    licence = choose_licence(base, is_hub, data, False)
    assert (licence.id, licence.name) == expected
    assert (licence.link is not None) == (licence.id == "other")
    assert len(licence.reasons) == 2


def test_build_model_card__folders_are_no_base_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for base in ("models/mine", "runs/other", "/models/mine", "./mine"):
        front = read_front_matter(build_model_card(build_run(tmp_path / "run", model_name_or_path=base)))
        assert "base_model" not in front
        assert "base_model_relation" not in front
    front = read_front_matter(build_model_card(build_run(tmp_path / "run", init="random")))
    assert "base_model" not in front
    assert front["license"] == "cc-by-nc-sa-3.0"
    assert "datasets" not in front


def test_choose_citations__what_the_recipe_used():
    always = ["segformer", "report"]
    assert choose_citations({}, None, None, False) == always
    recipe = {"loss": "ohem", "add_losses": ["dice=0.5", "lovasz=1"], "class_weights": "effective_number"}
    assert choose_citations(recipe, "kitti", "nvidia/segformer-b0-finetuned-cityscapes-768-768", True) == [
        *always, "kitti", "cityscapes", "ohem", "dice", "lovasz", "effective_number", "boundary_iou"]  # fmt: skip
    assert choose_citations({"loss": "focal", "class_weights": "inverse_log"}, "camvid", None, False) == [
        *always, "camvid", "focal"]  # fmt: skip


@pytest.mark.parametrize("key", BIBTEX)
def test_bibtex__is_balanced_and_complete(key):
    for entry in re.split(r"^(?=@)", BIBTEX[key], flags=re.MULTILINE)[1:]:
        assert entry.count("{") == entry.count("}")
        assert re.match(r"@(inproceedings|article)\{[a-z]+\d{4}[a-z]*,\n", entry)
        assert all(f"  {field} = " in entry for field in ("title", "author", "year"))
        assert re.search(r"  (booktitle|journal) = ", entry)


# ---- written and kept ----


def test_write_model_card__replaces_its_own_and_keeps_a_persons(tmp_path, caplog):
    run = build_run(tmp_path / "run")
    path = run / "README.md"
    assert write_model_card(run)
    first = path.read_text()
    assert is_generated(first)
    assert is_generated(first.replace("\n", "\r\n"))
    assert "Replace `user/run` by the name of this repository" in first
    assert read_edited_card(run) is None
    assert write_model_card(run, "user/name")
    assert path.read_text() != first
    assert "Replace `" not in path.read_text()
    edited = path.read_text().replace("## Intended use", "## My thoughts")
    path.write_text(edited)
    with caplog.at_level(logging.INFO):
        assert not write_model_card(run, "user/other")
    assert "README.md was written or changed by hand and is kept" in caplog.text
    assert path.read_text() == edited
    assert read_edited_card(run).decode() == edited
    path.write_text("# Mine\n")
    assert not write_model_card(run)
    assert path.read_text() == "# Mine\n"


def test_write_model_card__whole_or_not_at_all(tmp_path, monkeypatch):
    run = build_run(tmp_path / "run")
    write_model_card(run)
    before = (run / "README.md").read_text()
    monkeypatch.setattr("hf_urbanseg.hub.model_card.render_markdown", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_model_card(run, "user/other")
    assert (run / "README.md").read_text() == before
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_build_interim_card__is_valid_and_says_so(tmp_path, hub_here):
    run = build_run(tmp_path / "run")
    (run / "checkpoint-500").mkdir()
    (run / "config.json").rename(run / "checkpoint-500" / "config.json")
    (run / "metrics.json").unlink()
    card = build_interim_card(run, 500, 10_000)
    assert check_card(card, "model") == ([], [])
    accept(hub_here, card)
    assert "# SegFormer-B0 on KITTI semantic segmentation: training is under way" in card
    assert "step 500 of 10,000" in card
    assert "model-index" not in read_front_matter(card)
    assert read_front_matter(card)["base_model"] == "nvidia/segformer-b0-finetuned-cityscapes-768-768"
    assert is_generated(card)


def test_callback__sends_a_card_with_every_checkpoint(tmp_path):
    run = build_run(tmp_path / "run")
    (run / "checkpoint-500").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (run / name).rename(run / "checkpoint-500" / name)
    save_file({"x": np.zeros(2, np.float32)}, run / "checkpoint-500" / "model.safetensors")
    sent = []
    publisher = SimpleNamespace(submit=lambda files, message, what: sent.append((files(), what)))
    arguments = SimpleNamespace(output_dir=str(run)), SimpleNamespace(global_step=500, max_steps=1000), None
    PublishCallback(publisher).on_save(*arguments)
    (run / "README.md").write_text(f"# Mine, of {run}\n")
    PublishCallback(publisher).on_save(*arguments)
    assert [what for _, what in sent] == ["step 500", "step 500"]
    assert sent[0][0]["README.md"].decode() == build_interim_card(run, 500, 1000)
    assert sent[1][0]["README.md"] == b"# Mine, of run\n"
    assert "model.safetensors" in sent[0][0]


def test_build_model_card__the_hub_accepts_it_for_every_kind_of_run(tmp_path, hub_here):
    runs = [
        {}, {"init": "random", "dataset": "synthetic", "data_dir": None, "data": "synthetic"},
        {"data": "Meine Straßen (2024)!", "init": "random"},
        {"loss": "focal", "add_losses": ["dice=0.5"], "bf16": True},
        {"data": "camvid", "class_weights": "none", "ema_decay": 0.999, "auxiliary_head": True, "lr_cycles": 4},
        {"data": "...", "model_revision": "main", "gradient_accumulation_steps": 4},
    ]  # fmt: skip
    for number, options in enumerate(copy.deepcopy(runs)):
        card = build_model_card(build_run(tmp_path / str(number), **options), "user/name")
        assert check_card(card, "model") == ([], []), options
        accept(hub_here, card)
        assert "None" not in card.partition("<details>")[0]
