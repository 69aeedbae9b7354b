"""What a run was built of, and where that was published: entries of templates/citations.bib."""

import re
from collections.abc import Mapping
from functools import cache

from hf_urbanseg.hub.cards.markdown import TEMPLATES


@cache
def read_bibtex() -> dict[str, str]:
    """Key -> entries; keys are the words that recipes use."""
    _, *parts = re.split(r"^% (\w+)\n", (TEMPLATES / "citations.bib").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {key: text.strip() for key, text in zip(parts[::2], parts[1::2], strict=True)}


def choose_citations(recipe: Mapping, data: str | None, base: str | None, boundary: bool) -> list[str]:
    """Keys of what a run used: SegFormer and the report always, then data, loss, weights and metric."""
    chosen = ["segformer", "report", data, "cityscapes" if "cityscapes" in (base or "").lower() else None]
    chosen += [recipe.get("loss"), *(str(word).partition("=")[0] for word in recipe.get("add_losses") or [])]
    chosen += [recipe.get("class_weights"), "boundary_iou" if boundary else None]
    return list(dict.fromkeys(key for key in chosen if key in read_bibtex()))
