"""What a run was built of, and where that was published: entries of templates/citations.bib."""

import re
from collections.abc import Mapping
from functools import cache

from hf_urbanseg.hub.cards.markdown import TEMPLATES

_NETWORKS = {
    "segformer": ("segformer",),
    "encoder_decoder": (),
    "unet": ("unet",),
    "deeplabv3plus": ("deeplabv3plus", "resnet"),
    "pspnet": ("pspnet", "resnet"),
    "swin_segformer": ("swin", "segformer"),
}
"""By architecture, what published it; the first is the network's own paper. The report's baseline has none."""


@cache
def read_bibtex() -> dict[str, str]:
    """Key -> entries; keys are the words that recipes use."""
    _, *parts = re.split(r"^% (\w+)\n", (TEMPLATES / "citations.bib").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {key: text.strip() for key, text in zip(parts[::2], parts[1::2], strict=True)}


def find_paper(architecture: str) -> str | None:
    """arXiv's number of a network's own paper."""
    entries = "".join(read_bibtex()[key] for key in _NETWORKS[architecture][:1])
    found = re.search(r"eprint = \{([\d.]+)\}", entries)
    return found and found[1]


def choose_citations(
    architecture: str, recipe: Mapping, data: str | None, base: str | None, boundary: bool
) -> list[str]:
    """Keys of what a run used: the network and the report always, then data, loss, weights and metric."""
    chosen = [*_NETWORKS[architecture], "report", data, "cityscapes" if "cityscapes" in (base or "").lower() else None]
    chosen += [recipe.get("loss"), *(str(word).partition("=")[0] for word in recipe.get("add_losses") or [])]
    taught = (recipe.get("distill") or "soft") if recipe.get("teacher") else None
    chosen += [taught, "unlabelled" if recipe.get("unlabelled") else None, recipe.get("class_weights")]
    chosen.append("boundary_iou" if boundary else None)
    return list(dict.fromkeys(key for key in chosen if key in read_bibtex()))
