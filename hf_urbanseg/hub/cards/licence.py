"""Under which licence a trained model can be published, by what its weights started from and were trained on."""

import re
from dataclasses import dataclass

from hf_urbanseg.hub.cleaning.local_paths import last_name

TITLES = {
    "kitti": "KITTI semantic segmentation",
    "cityscapes": "Cityscapes",
    "camvid": "CamVid",
    "synthetic": "rendered streets",
}
_NVIDIA = "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"
_KITTI = "https://creativecommons.org/licenses/by-nc-sa/3.0/"
_CITYSCAPES = "https://www.cityscapes-dataset.com/license/"


@dataclass(frozen=True)
class Licence:
    """For a card's front matter and its section.

    Args:
        id: One of the Hub's identifiers.
        name: Where `id` is "other".
        link: Of the first of the terms, where `id` is "other".
        reasons: Sentences, one for the weights and one for the data.
        terms: Name and link of everything that binds the weights.
    """

    id: str
    name: str | None
    link: str | None
    reasons: tuple[str, ...]
    terms: tuple[tuple[str, str], ...] = ()


def recognise_data(name: str) -> str | None:
    """A key of `TITLES` for a data set's name (`kitti`, `user/kitti-48`, `camvid_as_cityscapes`); None for others."""
    name = name.lower()
    if name == "synthetic":
        return name
    return next((key for key in ("camvid", "kitti", "cityscapes") if key in name), None)


def allows_pictures(data: str) -> bool:
    """Whether pictures made from a data set's images may be published; of unknown data its owner decides."""
    return recognise_data(data) != "cityscapes"


def choose_licence(base: str | None, base_is_hub: bool, data: str, data_is_hub: bool) -> Licence:
    """The strictest reading: weights are taken for a derivative of what they started from and were trained on.

    Args:
        base: Hub id or folder of the weights the training started from; None for random ones.
        base_is_hub: Whether that is a Hub id.
        data: Name of the data set.
        data_is_hub: Whether that is a Hub id.
    """
    terms = [_terms_of_base(base, base_is_hub), _terms_of_data(data, data_is_hub)]
    reasons = tuple(reason for *_, reason in terms)
    names = [name for name, *_ in terms]
    binding = tuple((name, link) for name, link, _ in terms if name not in ("apache-2.0", "unknown"))
    if not binding:
        return Licence("unknown" if "unknown" in names else "apache-2.0", None, None, reasons)
    if {name for name, _ in binding} == {"cc-by-nc-sa-3.0"} and "unknown" not in names:
        return Licence("cc-by-nc-sa-3.0", None, None, reasons, binding)
    # What is known must not sound as if it were all.
    name = "-and-".join([name for name, _ in binding] + ["unknown-terms"] * ("unknown" in names))
    return Licence("other", name, binding[0][1], reasons, binding)


def _terms_of_base(base: str | None, is_hub: bool) -> tuple[str, str | None, str]:
    if base is None:
        return "apache-2.0", None, "The weights started from random numbers, so no earlier weights bind them."
    if re.search(r"^nvidia/|(segformer|mit)[-_]b[0-5]", base if is_hub else last_name(base), re.IGNORECASE):
        reason = (
            "The weights started from NVIDIA's SegFormer weights, whose licence (NVIDIA Source Code License for "
            "SegFormer) allows non-commercial use only, meaning research or evaluation, also for works derived from "
            "them."
        )
        return "nvidia-source-code-license-for-segformer", _NVIDIA, reason
    if is_hub:
        link = f"https://huggingface.co/{base}"
        reason = f"The weights started from {base} on the Hub, whose terms apply to what is derived from them."
        return f"terms-of-{_slug(base)}", link, reason
    reason = f"The weights started from the folder {last_name(base)}, whose terms this card doesn't know."
    return "unknown", None, reason


def _terms_of_data(data: str, is_hub: bool) -> tuple[str, str | None, str]:
    match recognise_data(data):
        case "kitti":
            reason = (
                "KITTI is published under CC BY-NC-SA 3.0: attribution, no commercial use, and the same licence for "
                "derived works."
            )
            return "cc-by-nc-sa-3.0", _KITTI, reason
        case "cityscapes":
            reason = "Cityscapes has a licence of its own: non-commercial use only, and no redistribution of images."
            return "cityscapes-license", _CITYSCAPES, reason
        case "synthetic":
            return "apache-2.0", None, "The training images were rendered by hf_urbanseg, which is under Apache-2.0."
        case "camvid":
            return "unknown", None, "For CamVid, the terms of the copy that was used apply; they are not known here."
    where = "data set on the Hub" if is_hub else "data set"
    return "unknown", None, f"The terms of the {where} {data} are not known to this card."


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
