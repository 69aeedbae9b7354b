"""Under which licence a trained model, or a set of data, can be published, if it can."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.hub.cleaning import last_name
from hf_urbanseg.models.loading import is_built_in

TITLES = {
    "kitti": "KITTI semantic segmentation",
    "cityscapes": "Cityscapes",
    "camvid": "CamVid",
    "synthetic": "rendered streets",
}
_NVIDIA = "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"
_TERMS_OF_DATA = {
    "kitti": (
        "cc-by-nc-sa-3.0",
        "https://creativecommons.org/licenses/by-nc-sa/3.0/",
        "KITTI is published under CC BY-NC-SA 3.0: attribution, no commercial use, the same licence for derived works.",
    ),
    "cityscapes": (
        "cityscapes-license",
        "https://www.cityscapes-dataset.com/license/",
        "Cityscapes has a licence of its own: non-commercial use only, and no redistribution of images.",
    ),
    "camvid": ("unknown", None, "For CamVid, the terms of the copy that was used apply; they are not known here."),
    "synthetic": ("apache-2.0", None, "The images were rendered by hf_urbanseg, which is under Apache-2.0."),
}
_CITIES = (
    "aachen bochum bremen cologne darmstadt dusseldorf erfurt hamburg hanover jena krefeld monchengladbach strasbourg "
    "stuttgart tubingen ulm weimar zurich frankfurt lindau munster berlin bielefeld bonn leverkusen mainz munich"
)
# Anywhere in a name: copies are called berlin_000000_000019_leftImg8bit, train_berlin_000000_000019 and the like.
_CITYSCAPES_FRAME = re.compile(rf"(?<![a-z])(?:{'|'.join(_CITIES.split())})_\d{{6}}_\d{{6}}(?!\d)")


@dataclass(frozen=True)
class Licence:
    """For a card's front matter (`id`, one of the Hub's; `name` and `link` where that is "other") and its section.

    `reasons` are sentences, `terms` name and link of everything that binds it.
    """

    id: str
    name: str | None
    link: str | None
    reasons: tuple[str, ...]
    terms: tuple[tuple[str, str], ...] = ()


def recognise_data(name: str) -> str | None:
    """A key of `TITLES` for a data set's name (`kitti`, `user/kitti-48`, `camvid_as_cityscapes`); None for others."""
    # Other sets in Cityscapes' classes, and those that have KITTI in their names.
    name = re.sub(r"_as_cityscapes|kitti[-_]?(360|step)", "", name.lower())
    if name == "synthetic":
        return name
    return next((key for key in ("camvid", "kitti", "cityscapes") if key in name), None)


def choose_licence(
    base: str | None, base_is_hub: bool, data: str, architecture: str = "segformer", added: Sequence[str] = ()
) -> Licence:
    """The strictest reading: weights are taken for a derivative of what they started from and were trained on.

    `base` is a Hub id or a folder, None for random weights; `data` the data set's name, `added` those of further ones
    that it was trained on. Only a SegFormer can have started from NVIDIA's weights, whatever a folder is called.
    """
    terms = [_terms_of_base(base, base_is_hub, architecture)]
    for name in (data, *added):
        unknown = ("unknown", None, f"The terms of the data set {name} are not known to this card.")
        terms.append(_TERMS_OF_DATA.get(recognise_data(name), unknown))
    terms = list(dict.fromkeys(terms))
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


def choose_data_licence(
    origin: str | None, names: Sequence[str], license: str | None, private: bool | None, where: str | Path | None = None
) -> Licence:
    """The licence under which a set is published.

    `origin`, a key of `TITLES`, was recorded when the set was prepared; the `names` of Cityscapes' frames give it away
    under whatever origin. `license` is what the user says, `where` the set, named in errors.

    Raises:
        DataError: Cityscapes, in public.
        ConfigError: A public push of data whose licence nobody said, or a word that is no identifier.
    """
    if origin == "cityscapes" or any(_CITYSCAPES_FRAME.search(name) for name in names):
        _, link, reason = _TERMS_OF_DATA["cityscapes"]
        if not private:
            found = "Cityscapes, whose licence forbids to distribute it or anything made from its images"
            fix = "add `--private` to keep it for yourself; others get it from cityscapes-dataset.com"
            raise DataError("data that may be passed on", found, fix, where)
        reasons = (reason, "Keep this repository private.")
        return Licence("other", "cityscapes", link, reasons, (("cityscapes", link),))
    known, link, reason = _TERMS_OF_DATA.get(origin, ("unknown", None, ""))
    license = license or (known if known != "unknown" else None)
    if license is None and not private:
        fix = "add for example `--license cc-by-4.0` (`--license unknown` says so openly), or `--private`"
        raise ConfigError("the licence of data that everybody will see", "none", fix, where)
    license = license or "unknown"
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        fix = "take one from huggingface.co/docs/hub/repositories-licenses"
        raise ConfigError("a licence's identifier such as cc-by-4.0", f"`{license}`", fix)
    if license == "unknown":
        reason = "Whoever published this set did not say what the licence of the data is: ask before you use it."
    elif license != known:
        reason, link = f"Published under {license}, as stated by whoever pushed it.", None
    return Licence(license, None, None, (reason,), ((license, link),) if link else ())


def _terms_of_base(base: str | None, is_hub: bool, architecture: str) -> tuple[str, str | None, str]:
    if base is None:
        return "apache-2.0", None, "The weights started from random numbers, so no earlier weights bind them."
    if is_built_in(base):
        reason = f"The weights started from {base}, which hf_urbanseg trained on streets that it rendered."
        return "apache-2.0", None, reason
    name = base if is_hub else last_name(base)
    if architecture == "segformer" and re.search(r"^nvidia/|(segformer|mit)[-_]b[0-5]", name, re.IGNORECASE):
        reason = (
            "The weights started from NVIDIA's SegFormer weights, whose licence (NVIDIA Source Code License for "
            "SegFormer) allows research and evaluation only, also of what is derived from them."
        )
        return "nvidia-source-code-license-for-segformer", _NVIDIA, reason
    if is_hub:
        reason = f"The weights started from {base} on the Hub, whose terms apply to what is derived from them."
        return f"terms-of-{re.sub(r'[^a-z0-9.]+', '-', base.lower())}", f"https://huggingface.co/{base}", reason
    reason = f"The weights started from the folder {last_name(base)}, whose terms this card doesn't know."
    return "unknown", None, reason
