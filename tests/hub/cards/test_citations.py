"""What a card cites."""

import re

import pytest
from card_pages import build_card_run, edit_metrics, read_block

from hf_urbanseg.hub.cards.citations import choose_citations, read_bibtex
from hf_urbanseg.hub.cards.model_card import build_model_card


def test_choose_citations__what_the_recipe_used():
    always = ["segformer", "report"]
    assert choose_citations("segformer", {}, None, None, False) == always
    recipe = {"loss": "ohem", "add_losses": ["dice=0.5", "lovasz=1"], "class_weights": "effective_number"}
    assert choose_citations("segformer", recipe, "kitti", "nvidia/segformer-b0-finetuned-cityscapes-768-768", True) == [
        *always, "kitti", "cityscapes", "ohem", "dice", "lovasz", "effective_number", "boundary_iou"]  # fmt: skip
    for distill, word in ((None, "soft"), ("soft", "soft"), ("cwd", "cwd")):
        taught = {"teacher": "runs/b5", "distill": distill}
        assert choose_citations("segformer", taught, None, None, False) == [*always, word]
    assert choose_citations("segformer", {"unlabelled": ["drives"]}, None, None, False) == [*always, "unlabelled"]
    recipe = {"loss": "focal", "class_weights": "inverse_log", "distill": "cwd"}
    assert choose_citations("segformer", recipe, "camvid", None, False) == [
        *always, "camvid", "focal"]  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "cited", "paper"),
    [
        ("segformer", ["xie2021segformer"], "2105.15203"),
        ("encoder_decoder", [], None),
        ("unet", ["ronneberger2015unet"], "1505.04597"),
        ("deeplabv3plus", ["chen2018encoder", "he2016deep"], "1802.02611"),
        ("pspnet", ["zhao2017pyramid", "he2016deep"], "1612.01105"),
        ("swin_segformer", ["liu2021swin", "xie2021segformer"], "2103.14030"),
    ],
)
def test_build_model_card__cites_its_network(tmp_path, architecture, cited, paper):
    run = build_card_run(tmp_path / "run", architecture=architecture, data="synthetic", init="random", loss="dice")
    card = build_model_card(run)
    keys = re.findall(r"^@\w+\{(\w+),", read_block(card, "bibtex"), re.MULTILINE)
    assert keys == [*cited, "liu2022cv", "milletari2016vnet", "cheng2021boundary"]
    assert re.findall(r"\(\[paper\]\(https://arxiv.org/abs/([\d.]+)\)\)", card) == [paper] * bool(paper)


def test_read_bibtex__has_a_word_of_every_recipe():
    words = {"kitti", "cityscapes", "camvid", "ohem", "focal", "dice", "lovasz", "effective_number", "enet"}
    words |= {"soft", "cwd", "unlabelled", "deeplabv3plus", "pspnet", "resnet", "swin", "unet"}
    assert {"segformer", "report", "boundary_iou", "median_frequency", *words} == set(read_bibtex())


@pytest.mark.parametrize("key", read_bibtex())
def test_read_bibtex__is_balanced_and_complete(key):
    for entry in re.split(r"^(?=@)", read_bibtex()[key], flags=re.MULTILINE)[1:]:
        assert entry.count("{") == entry.count("}")
        assert re.match(r"@(inproceedings|article)\{[a-z]+\d{4}[a-z]*,\n", entry)
        assert all(f"  {field} = " in entry for field in ("title", "author", "year"))
        assert re.search(r"  (booktitle|journal) = ", entry)


def test_build_model_card__cites_what_the_run_used(tmp_path):
    """By the numbers and files of the run: weights that were never computed and scores that are not there are not."""
    run = build_card_run(tmp_path / "run", splits=("test",), class_weights="enet")
    keys = set(re.findall(r"^@\w+\{(\w+),", read_block(build_model_card(run), "bibtex"), re.MULTILINE))
    assert keys == {
        "xie2021segformer", "liu2022cv", "geiger2012kitti", "alhaija2018augmented", "cordts2016cityscapes",
        "shrivastava2016ohem", "paszke2016enet", "cheng2021boundary",
    }  # fmt: skip
    (run / "class_weights.json").unlink()
    with edit_metrics(run) as metrics:
        del metrics["splits"]["test"]["boundary_iou"], metrics["splits"]["test"]["mean_boundary_iou"]
    fewer = set(re.findall(r"^@\w+\{(\w+),", read_block(build_model_card(run), "bibtex"), re.MULTILINE))
    assert keys - fewer == {"paszke2016enet", "cheng2021boundary"}
