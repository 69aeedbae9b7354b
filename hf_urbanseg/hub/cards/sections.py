"""What a card says that its template can't: the command that measures again, and where the model fails."""

import re
import shlex

from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.hub.cleaning import last_name
from hf_urbanseg.reports.failure_cases import choose_card_failures
from hf_urbanseg.reports.overlays import name_picture

_MOST_FAILURES = 5


def measure_command(summary: RunSummary, split: str, repo_id: str) -> str:
    """The command that measures a split again as the run has it."""
    recipe = summary.recipe
    words = ["urbanseg", "evaluate", "--model", repo_id, "--split", split]
    if recipe.get("data_dir"):
        words += ["--data_dir", last_name(str(recipe["data_dir"]))]
        keys = ("label_space", "image_column", "label_column")
        words += [word for key in keys if recipe.get(key) is not None for word in (f"--{key}", str(recipe[key]))]
    # Of what `PredictionPlan.describe` told.
    protocol = str(summary.splits[split].get("protocol") or "")
    if ratios := re.search(r"ratios ([\de.+ -]+?)(?: of|,|$)", protocol):
        words += ["--ratios", *ratios[1].split()]
    if "with and without flip" in protocol:
        words += ["--flip", "true"]
    for option, name in (("sliding_window", "sliding window"), ("stride", "stride")):
        if found := re.search(rf"{name} (\d+)x(\d+)", protocol):
            words += [f"--{option}", *found.groups()]
    return shlex.join(words)


def describe_failures(summary: RunSummary, split: str, pictures: bool) -> list[dict]:
    """The worst images by name, mIoU, first reasons and picture; none where the run left no counts by image."""
    images = summary.read_images(split)
    if images is None:
        return []
    files = [*summary.list_pictures("failures"), *summary.list_pictures("overlays")] if pictures else []
    by_name = {path.partition("/")[2].rpartition(".")[0]: path for path in reversed(files)}
    return [
        {
            "name": images.names[index],
            "mean_iou": float(images.mean_iou[index]),
            "reasons": reasons[:3],
            "picture": by_name.get(name_picture(images.names[index])),
        }
        for index, reasons in list(choose_card_failures(images).items())[:_MOST_FAILURES]
    ]
