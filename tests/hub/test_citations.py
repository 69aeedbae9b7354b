"""What a card cites."""

import re

import pytest

from hf_urbanseg.hub.citations import BIBTEX, choose_citations


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
