"""The card of a data set, and under which terms it may be published at all."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import DatasetInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from hf_urbanseg import __version__
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.preflight.checks import Inspection
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.hub.cards.citations import BIBTEX
from hf_urbanseg.hub.cards.licence import TITLES
from hf_urbanseg.hub.cards.markdown import flatten, render_markdown
from hf_urbanseg.hub.cleaning.local_paths import list_local_folders, remove_local_paths
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.reports.contact_sheet import Cell, Swatch, save_contact_sheet
from hf_urbanseg.reports.overlays import blend
from hf_urbanseg.reports.plots import plot_class_distribution

_SAMPLES = 3
_CITIES = (
    "aachen bochum bremen cologne darmstadt dusseldorf erfurt hamburg hanover jena krefeld monchengladbach strasbourg "
    "stuttgart tubingen ulm weimar zurich frankfurt lindau munster berlin bielefeld bonn leverkusen mainz munich"
)
# Anywhere in a name: copies are called berlin_000000_000019_leftImg8bit, train_berlin_000000_000019 and the like.
_CITYSCAPES_FRAME = re.compile(rf"(?<![a-z])(?:{'|'.join(_CITIES.split())})_\d{{6}}_\d{{6}}(?!\d)")
_KNOWN = {"kitti": "cc-by-nc-sa-3.0", "synthetic": "apache-2.0"}
_LINKS = {
    "kitti": "https://www.cvlibs.net/datasets/kitti/eval_semseg.php?benchmark=semantics2015",
    "cityscapes": "https://www.cityscapes-dataset.com",
    "camvid": "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class DataTerms:
    """Where a set comes from, and its licence.

    Args:
        origin: `kitti`, `cityscapes`, `camvid`, `synthetic` or None.
        license: One of the Hub's identifiers.
        name, link: For "other".
        text: Sentences for the card.
    """

    origin: str | None
    license: str
    name: str | None
    link: str | None
    text: str


def choose_terms(
    origin: str | None, names: Sequence[str], license: str | None, private: bool | None, where: str | Path | None = None
) -> DataTerms:
    """The terms under which a set is published.

    Args:
        origin: As recorded when the set was prepared.
        names: Of the frames: those of Cityscapes give it away under whatever origin.
        license: What the user says.
        private: Whether the repository will be private.
        where: The set, named in errors.

    Raises:
        DataError: Cityscapes, in public.
        ConfigError: A public push of data whose licence nobody said, or a word that is no identifier.
    """
    if origin == "cityscapes" or any(_CITYSCAPES_FRAME.search(name) for name in names):
        if not private:
            raise DataError(
                "data that may be passed on",
                "Cityscapes, whose licence forbids to distribute it or anything made from its images",
                "add `--private` to keep it for yourself; others get it from cityscapes-dataset.com",
                where,
            )
        text = (
            "Cityscapes has a licence of its own: research, teaching and other non-commercial use, and no "
            "distribution of the data or of anything derived from its images. Keep this repository private."
        )
        return DataTerms("cityscapes", "other", "cityscapes", "https://www.cityscapes-dataset.com/license/", text)
    license = license or _KNOWN.get(origin)
    if license is None and not private:
        fix = "add for example `--license cc-by-4.0` (`--license unknown` says so openly), or `--private`"
        raise ConfigError("the licence of data that everybody will see", "none", fix, where)
    license = license or "unknown"
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        fix = "take one from huggingface.co/docs/hub/repositories-licenses"
        raise ConfigError("a licence's identifier such as cc-by-4.0", f"`{license}`", fix)
    match origin, license:
        case "kitti", "cc-by-nc-sa-3.0":
            text = (
                "KITTI is published under CC BY-NC-SA 3.0: name its authors, no commercial use, and the same licence "
                "for whatever is made from it, this copy included."
            )
        case "synthetic", "apache-2.0":
            text = "The streets were rendered by hf_urbanseg, which is under Apache-2.0."
        case _, "unknown":
            text = "Whoever published this set did not say what the licence of the data is: ask before you use it."
        case _:
            text = f"Published under {license}, as stated by whoever pushed it."
    return DataTerms(origin, license, None, None, text)


def write_dataset_card(
    folder: Path,
    repo_id: str,
    data: LoadedData,
    inspection: Inspection,
    terms: DataTerms,
    info: DatasetInfo,
    revision: str | None = None,
) -> None:
    """Writes README.md, class_distribution.png and samples.png.

    Args:
        folder: Of the files to push.
        repo_id: `user/name`.
        data: As it goes up.
        inspection: Of the same rows.
        terms: From `choose_terms`.
        info: Features, splits and sizes, for the front matter.
        revision: Branch, *optional*.
    """
    space = data.label_space
    counts = {split: inspection.train_id_counts(split, space).sum(0) for split in data.splits}
    total = np.sum(list(counts.values()), 0)
    title = TITLES.get(terms.origin) or repo_id.partition("/")[2]
    heading = f"Labelled pixels of {title}, all {sum(map(len, data.splits.values()))} frames"
    plot_class_distribution(total, space, folder / "class_distribution.png", title=heading)
    _draw_samples(folder / "samples.png", data)
    splits = [
        {
            "name": split,
            "frames": len(rows),
            "sizes": _describe_sizes(inspection.sizes(split)),
            "void": inspection.void_share(split, space),
        }
        for split, rows in data.splits.items()
    ]
    context = {
        "title": title,
        "frames": sum(split["frames"] for split in splits),
        "homepage": _LINKS.get(terms.origin),
        "repo_id": repo_id,
        "revision": None if revision in (None, "main") else revision,
        "splits": splits,
        "notes": list(data.notes),
        "warnings": inspection.warnings,
        "classes": _describe_classes(space, counts, total),
        "void_ids": _join(_ids_of(space)[IGNORE_INDEX]),
        "terms": terms,
        "size": f"{info.download_size / 1e6:,.1f} MB",
        "citations": BIBTEX.get(terms.origin, ""),
        "version": __version__,
    }
    body = remove_local_paths(render_markdown("dataset_card.md.j2", **context), list_local_folders(folder, {}))
    front = _front_matter(title, len(data.splits), info, terms)
    (folder / "README.md").write_bytes(f"---\n{front}\n---\n\n{body.strip()}\n".encode())


def _front_matter(title: str, num_splits: int, info: DatasetInfo, terms: DataTerms) -> str:
    frames = sum(split.num_examples for split in info.splits.values())
    origin = [terms.origin] if terms.origin else []
    card = DatasetCardData(
        pretty_name=flatten(title),
        license=terms.license,
        license_name=terms.name,
        license_link=terms.link,
        task_categories=["image-segmentation"],
        task_ids=["semantic-segmentation"],
        tags=[*origin, "semantic-segmentation", "street-scenes", "autonomous-driving", "hf_urbanseg"],
        size_categories=[next((word for limit, word in _SIZES if frames < limit), "1M<n<10M")],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*"} for split in info.splits],
            }
        ],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(card)
    return card.to_yaml(line_break="\n")


def _ids_of(space: LabelSpace) -> dict[int, list[int]]:
    ids = {train_id: [] for train_id in (*range(space.num_labels), IGNORE_INDEX)}
    for label_id, train_id in sorted(space.label_ids.items()):
        ids[train_id].append(label_id)
    return ids


def _describe_classes(space: LabelSpace, counts: Mapping[str, np.ndarray], total: np.ndarray) -> list[dict]:
    ids, all_pixels = _ids_of(space), max(int(total.sum()), 1)
    return [
        {
            "train_id": train_id,
            "name": name,
            "color": "#{:02x}{:02x}{:02x}".format(*space.colors[train_id]),
            "label_ids": _join(ids[train_id]) or "none",
            "pixels": {split: int(of[train_id]) for split, of in counts.items()},
            "share": _describe_share(total[train_id] / all_pixels),
        }
        for train_id, name in enumerate(space.names)
    ]


def _describe_share(share: float) -> str:
    return "< 0.01 %" if 0 < share < 0.00005 else f"{100 * share:.2f} %"


def _join(ids: Sequence[int]) -> str:
    """`0..6, 9` for 0 to 6 and 9."""
    runs: list[list[int]] = []
    for one in ids:
        if runs and one == runs[-1][1] + 1:
            runs[-1][1] = one
        else:
            runs.append([one, one])
    return ", ".join(f"{first}" if first == last else f"{first}..{last}" for first, last in runs)


def _describe_sizes(sizes: Mapping[tuple[int, int], int]) -> str:
    ordered = sorted(sizes, key=sizes.get, reverse=True)
    text = ", ".join(f"{height}x{width}" for height, width in ordered[:3])
    return f"{text} and {len(ordered) - 3} more" if len(ordered) > 3 else text


def _draw_samples(path: Path, data: LoadedData) -> None:
    """A few frames of the first split, each beside its label."""
    space, (split, rows) = data.label_space, next(iter(data.splits.items()))
    cells, seen = [], np.zeros(256, bool)
    for index in np.unique(np.linspace(0, len(rows) - 1, _SAMPLES).round().astype(int)).tolist():
        row = rows[index]
        train_ids = space.train_id_table[np.asarray(row["label"])]
        seen[np.unique(train_ids)] = True
        image = np.asarray(row["image"].convert("RGB"))
        cells.append(Cell(image, flatten(f"{split}: {row['name']}")))
        cells.append(Cell(blend(image, train_ids, space, alpha=0.6), "its label; void is left uncoloured"))
    legend = [
        Swatch(flatten(name), color)
        for train_id, (name, color) in enumerate(zip(space.names, space.colors, strict=True))
        if seen[train_id]
    ]
    save_contact_sheet(path, cells, 2, "Frames and their labels", legend, cell_width=620)
