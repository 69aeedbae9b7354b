"""The card of a run: its numbers, its front matter, and names from data that mean nothing in it."""

import copy
import json
import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
from card_pages import NASTY, Page, accept, build_card_run, build_space, edit_metrics
from loopback_cards import check_card, read_front_matter
from markdown_it import MarkdownIt
from safetensors.numpy import save_file

from hf_urbanseg.errors import DataError, ModelError
from hf_urbanseg.hub.cards.model_card import (
    build_interim_card,
    build_model_card,
    is_generated,
    read_edited_card,
    write_model_card,
)
from hf_urbanseg.hub.training import PublishCallback
from hf_urbanseg.json_yaml import write_json

# ---- numbers ----


def test_build_model_card__first_sentence_has_number_interval_images_and_guess(tmp_path):
    run = build_card_run(tmp_path / "run")
    found = json.loads((run / "metrics.json").read_text())["splits"]["test"]
    interval, guess = found["confidence_interval"], found["constant_guess"]
    sentence = (
        f"**{100 * found['mean_iou']:.2f} % mIoU** (95 % interval {100 * interval['low']:.2f} to "
        f"{100 * interval['high']:.2f} %) on 5 test images of KITTI semantic segmentation, 4 classes. "
        f"Always guessing road gives {100 * guess['mean_iou']:.2f} %.\n"
    )
    assert sentence in build_model_card(run)


@pytest.mark.parametrize("missing", [None, "overlays", "failures", "recipe.yaml", "class_weights.json"])
def test_build_model_card__sections_and_their_paragraphs_stand_apart(tmp_path, missing):
    run = build_card_run(tmp_path / "run")
    (run / "failures").mkdir()
    shutil.copytree(run / "overlays", run / "failures", dirs_exist_ok=True)
    if missing is not None:
        (shutil.rmtree if (run / missing).is_dir() else Path.unlink)(run / missing)
    card = build_model_card(run, "user/name")
    headings = ["SegFormer-B0 on KITTI semantic segmentation", "How to use it", "Results", "Where it fails", "Limits",
                "Data and licence", "Training"]  # fmt: skip
    gone = {"recipe.yaml": "Training"}.get(missing)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.partition("\n---\n")[2])
    assert re.findall(r"<h[123]>(.*?)</h[123]>", html) == [one for one in headings if one != gone]
    # What looks like the start of a block inside a paragraph is one that lost the empty line before it.
    for paragraph in re.findall(r"<p>(.*?)</p>", html, re.DOTALL):
        assert not re.search(r"## |\| |</?details>|^- ", paragraph, re.MULTILINE), paragraph


def test_build_model_card__without_what_older_runs_lack(tmp_path):
    run = build_card_run(tmp_path / "run")
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
    assert not [link for link in Page(card).links if link.endswith(".png") and not link.startswith("overlays/")]
    write_json(run / "metrics.json", {"splits": {}})
    assert "This model has not been measured" in build_model_card(run)


def test_build_model_card__pictures_and_links_exist(tmp_path):
    run = build_card_run(tmp_path / "run", images=("one (1)", "a%20b ü", "c", "d", "e"))
    links = [link for link in Page(build_model_card(run)).links if "://" not in link]
    assert {"overlays/one (1).png", "overlays/a%20b ü.png", "recipe.yaml"} <= {unquote(one) for one in links}
    assert all((run / unquote(link)).is_file() for link in links)
    shown = re.findall(r"^!\[.*\]\((overlays/.*)\)$", build_model_card(run), re.MULTILINE)
    assert len(shown) == 1
    assert "The picture is made from an image of KITTI semantic segmentation (Geiger" in build_model_card(run)
    without = build_model_card(run, pictures=False)
    assert "![" not in without
    assert "(overlays/" not in without
    assert "The picture is made" not in without


def test_build_model_card__no_path_of_this_machine(tmp_path):
    card = build_model_card(build_card_run(tmp_path / "run", split_file=str(tmp_path / "splits" / "mine.yaml")))
    assert str(tmp_path) not in card
    assert "/home/someone" not in card
    card = build_model_card(build_card_run(tmp_path / "run", data_dir="../customer/kitti"))
    assert "customer" not in card
    # In other files, and under names that would be escaped.
    odd = tmp_path / "__odd_[name]__"
    run = build_card_run(odd / "run")
    with edit_metrics(run) as metrics:
        metrics["data"]["notes"] = [f"as listed in {odd}/run/list.txt"]
    card = build_model_card(run)
    assert "- as listed in list.txt\n" in card
    assert "odd" not in card


def test_build_model_card__needs_a_finished_run(tmp_path):
    run = build_card_run(tmp_path / "run")
    (run / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"metrics.json: expected JSON"):
        build_model_card(run)
    (run / "metrics.json").unlink()
    with pytest.raises(ModelError, match=r"expected a trained and measured model; found no metrics.json; let"):
        build_model_card(run)


def test_build_model_card__steps_of_a_recipe_of_epochs(tmp_path):
    card = build_model_card(build_card_run(tmp_path / "run", max_steps=-1, num_train_epochs=180, warmup_steps=0))
    assert "| steps | 1,000 in 180 epochs, polynomial, warm-up 0 |" in card


@pytest.mark.parametrize(("optim", "name"), [(None, "AdamW"), ("adamw_torch_fused", "AdamW"), ("sgd", "SGD")])
def test_build_model_card__optimiser_of_the_recipe(tmp_path, optim, name):
    card = build_model_card(build_card_run(tmp_path / "run", optim=optim))
    assert f"| optimiser | {name}, learning rate 1e-05, x10 outside the encoder |" in card


# ---- names from data ----


def test_build_model_card__nasty_names_are_read_as_they_are(tmp_path, hub_here):
    plain = build_card_run(tmp_path / "plain", build_space([f"class {i}" for i in range(len(NASTY))]), data="data")
    images = ("a|b](x)", "<img src=x onerror=alert(1)>", "c", "**d**", "</td>")
    (tmp_path / "run" / "overlays").mkdir(parents=True)
    run = build_card_run(tmp_path / "run", build_space(NASTY), data="<b>d|a](x): \U0001f600\n---\n", images=images)
    card = build_model_card(run, "user/name")
    assert check_card(card, "model") == ([], [])
    accept(hub_here, card)
    page, reference = Page(card), Page(build_model_card(plain, "user/name"))
    # The same elements as with plain names, but for links to pictures in the table of failures.
    for tag in ("script", "b", "h1", "h2", "h3", "details", "table", "tr", "td", "th", "em", "s", "li", "hr", "img"):
        assert page.tags.count(tag) == reference.tags.count(tag), tag
    rows = [row for row in page.cells if len(row) == 7 and row[0].isdigit()]
    assert [row[1] for row in rows] == [name.replace("\u202e", r"\u202e") for name in NASTY]
    assert all("x.y" not in link and link != "x" for link in page.links)
    assert read_front_matter(card)["model-index"][0]["results"][0]["dataset"]["name"] == "<b>d|a](x): \U0001f600 ---"


# ---- written and kept ----


def test_write_model_card__replaces_its_own_and_keeps_a_persons(tmp_path, caplog):
    run = build_card_run(tmp_path / "run")
    path = run / "README.md"
    assert write_model_card(run)
    first = path.read_text()
    assert is_generated(first)
    assert is_generated(first.replace("\n", "\r\n"))
    assert 'from_pretrained("user/run")' in first
    assert read_edited_card(run) is None
    assert write_model_card(run, "user/name")
    assert path.read_text() != first
    assert 'from_pretrained("user/name")' in path.read_text()
    edited = path.read_text().replace("## Limits", "## My thoughts")
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
    run = build_card_run(tmp_path / "run")
    write_model_card(run)
    before = (run / "README.md").read_text()
    monkeypatch.setattr("hf_urbanseg.hub.cards.model_card.render_markdown", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_model_card(run, "user/other")
    assert (run / "README.md").read_text() == before
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_build_interim_card__is_valid_and_says_so(tmp_path, hub_here):
    run = build_card_run(tmp_path / "run")
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
    run = build_card_run(tmp_path / "run")
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
        card = build_model_card(build_card_run(tmp_path / str(number), **options), "user/name")
        assert check_card(card, "model") == ([], []), options
        accept(hub_here, card)
        assert "None" not in card.partition("<details>")[0]


def test_build_model_card__says_how_much_was_trained(tmp_path):
    run = build_card_run(tmp_path / "run")
    for trained, row in ((3_715_059, None), (395_283, "| trained | 0.40 of 3.72 M parameters |")):
        with edit_metrics(run) as metrics:
            metrics["training"] |= {"parameters": 3_715_059, "trained_parameters": trained}
        card = build_model_card(run)
        assert row in card if row else "| trained |" not in card


def test_build_model_card__says_how_many_frames_were_skipped(tmp_path):
    run = build_card_run(tmp_path / "run")
    assert "skipped" not in build_model_card(run)
    with edit_metrics(run) as metrics:
        metrics["training"]["skipped_frames"] = 3
    assert "| skipped | 3 frames that could not be trained on; `skipped_frames.txt`" in build_model_card(run)


def test_build_model_card__names_the_teacher(tmp_path):
    run = build_card_run(tmp_path / "run", teacher="/home/me/runs/b5", distill="cwd")
    teacher = {
        "name": "b5",
        "parameters": 84_600_000,
        "loss": "cwd",
        "from": "features",
        "weight": 50.0,
        "temperature": 4.0,
    }
    with edit_metrics(run) as metrics:
        metrics["training"]["teacher"] = teacher
    card = build_model_card(run)
    assert "| teacher | b5, 84.6 M parameters, channel-wise of features: weight 50, temperature 4 |" in card
    assert "/home/me" not in card
    assert "@inproceedings{shu2021channel," in card
    with edit_metrics(run) as metrics:
        metrics["training"]["teacher"] = teacher | {"loss": "soft", "from": "output", "weight": 0.5}
    assert "| teacher | b5, 84.6 M parameters, soft labels: weight 0.5, temperature 4 |" in build_model_card(run)
