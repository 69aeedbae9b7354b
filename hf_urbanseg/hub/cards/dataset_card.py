"""The card of a data set."""

from dataclasses import replace
from pathlib import Path

from datasets import DatasetInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from hf_urbanseg import __version__
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.preflight.checks import Inspection
from hf_urbanseg.escaping import flatten
from hf_urbanseg.hub.cards.citations import read_bibtex
from hf_urbanseg.hub.cards.licence import TITLES, Licence
from hf_urbanseg.hub.cards.markdown import render_markdown
from hf_urbanseg.hub.cleaning import clean_values, list_local_folders
from hf_urbanseg.reports.label_summary import draw_summary

_LINKS = {
    "kitti": "https://www.cvlibs.net/datasets/kitti/eval_semseg.php?benchmark=semantics2015",
    "cityscapes": "https://www.cityscapes-dataset.com",
    "camvid": "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_dataset_card(
    folder: Path,
    repo_id: str,
    data: LoadedData,
    inspection: Inspection,
    origin: str | None,
    licence: Licence,
    info: DatasetInfo,
    revision: str | None = None,
) -> None:
    """Writes README.md and samples.png into the folder of files to push; `info` is for the front matter."""
    space, title = data.label_space, TITLES.get(origin) or repo_id.partition("/")[2]
    counts = sum(inspection.train_id_counts(split, space).sum(0) for split in data.splits)
    context = {
        "title": title,
        "homepage": _LINKS.get(origin),
        "repo_id": repo_id,
        "revision": None if revision in (None, "main") else revision,
        "data": data,
        "inspection": inspection,
        "notes": list(data.notes),
        "warnings": inspection.warnings,
        "space": space,
        "shares": (counts / max(counts.sum(), 1)).tolist(),
        "origin": origin,
        "licence": licence,
        "size": f"{info.download_size / 1e6:,.1f} MB",
        "bibtex": read_bibtex().get(origin, ""),
        "version": __version__,
    }
    context |= clean_values({key: context[key] for key in ("notes", "warnings")}, list_local_folders(folder, {}))
    draw_summary(replace(data, name=title), inspection, folder)
    body = render_markdown("dataset_card.md.j2", **context)
    front = _front_matter(title, info, origin, licence)
    (folder / "README.md").write_bytes(f"---\n{front}\n---\n\n{body.strip()}\n".encode())


def _front_matter(title: str, info: DatasetInfo, origin: str | None, licence: Licence) -> str:
    frames = sum(split.num_examples for split in info.splits.values())
    files = [{"split": split, "path": f"data/{split}-*"} for split in info.splits]
    card = DatasetCardData(
        pretty_name=flatten(title),
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        task_categories=["image-segmentation"],
        task_ids=["semantic-segmentation"],
        tags=[*filter(None, [origin]), "semantic-segmentation", "street-scenes", "hf_urbanseg"],
        size_categories=[next((word for limit, word in _SIZES if frames < limit), "1M<n<10M")],
        configs=[{"config_name": "default", "data_files": files}],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(card)
    return card.to_yaml(line_break="\n")
