"""A run on several data sets: what it is trained on, what its folder says of it, and what a resume compares."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_urbanseg import finetuning
from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.errors import UrbanSegError
from hf_urbanseg.finetuning import run_finetuning
from hf_urbanseg.hub.cards.model_card import build_model_card
from hf_urbanseg.options.finetune_arguments import parse_finetuning

IDS = {"Road": [1], "lawn": [2], "Train": [3]}
SPACE = {
    "name": "lanes",
    "classes": [{"name": name, "label_ids": ids} for name, ids in IDS.items()],
    "void": [0],
    "splits": {name: {"images": f"{name}/images", "labels": f"{name}/labels"} for name in ("train", "val")},
}


@pytest.fixture(scope="module")
def lanes(tmp_path_factory):
    """Of other sizes and classes than the main data; `train` is labelled here alone."""
    root = tmp_path_factory.mktemp("more") / "lanes"
    for number, split in enumerate(["train"] * 5 + ["val"]):
        image, label = render_scene(90 + number, (40, 56))
        for kind, pixels in (("images", image), ("labels", np.where(label == 7, 1, np.where(label == 8, 2, 0)))):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
            pixels = pixels.astype(np.uint8)
            if kind == "labels":
                pixels[:4] = 3
            Image.fromarray(pixels).save(root / split / kind / f"{number}.png")
    (root / "lanes.yaml").write_text(yaml.safe_dump(SPACE))
    return root


@pytest.fixture(scope="module")
def trained_on():
    """The data set that the trainer was given."""
    return []


@pytest.fixture(scope="module")
def run(kitti, lanes, trained_on, words, tmp_path_factory):
    """In place of the one that other tests share."""
    output = tmp_path_factory.mktemp("runs") / "joined"
    train = finetuning.UrbanSegTrainer.train

    def watch(trainer, **options):
        trained_on.append(trainer.train_dataset)
        return train(trainer, **options)

    options = words(data_dir=kitti, output_dir=output, add_data=f"{lanes}:{lanes / 'lanes.yaml'}:0.25")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning.UrbanSegTrainer, "train", watch)
        run_finetuning(parse_finetuning(options))
    return output


def test_finetune__on_two_sets_says_so(run, trained_on, tmp_path):
    frames = json.loads((run / "frames.json").read_text())
    assert sorted(frames["added"]) == [f"lanes/{number}" for number in range(5)]
    # The splits are those of the main data, to be named as `--split_file`.
    splits = yaml.safe_load((run / "splits.yaml").read_text())
    assert not {*frames["added"]} & {name for names in splits.values() for name in names}
    metrics = json.loads((run / "metrics.json").read_text())
    note = metrics["data"]["notes"][-1]
    assert note.startswith("shares of the training samples: 0.75 kitti, 0.25 lanes (5 images, 2 of 19 classes, ")
    assert metrics["splits"]["test"]["num_images"] == 4
    assert json.loads((run / "class_weights.json").read_text())["source"].endswith(", without further data")
    card = (run / "README.md").read_text()
    assert "Trained on further data, too: 5 images of lanes (25.00 % of the samples)." in card
    assert "The terms of the data set lanes are not known to this card." in card
    weights = json.loads((run / "class_weights.json").read_text())
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "class_weights.json").write_text(json.dumps(weights | {"counts": dict.fromkeys(("bus", "train"), 0)}))
    assert "- Never seen in training: bus.\n" in build_model_card(copy)  # the further data has pixels of train
    (dataset,) = trained_on
    assert (len(dataset), dataset.names[-1], dataset.shares) == (11 + 5, "lanes/4", (0.75, 0.25))
    labels = {label for index in range(11, 16) for label in dataset[0, index]["labels"].unique().tolist()}
    assert labels == {0, 16, 255}  # road and train in the main data's train ids; lawn is void


def test_resume__on_other_further_data(resume, lanes, tmp_path):
    space, other = lanes / "lanes.yaml", tmp_path / "lanes"
    shutil.copytree(lanes, other)
    assert resume(add_data=f"{other}:{space}:0.25") is None  # the same frames in another place
    started = "added_data.json: expected 0.25 of the samples from `lanes`, as the run was started; found "
    assert f"{started}none (and 5 more differences)" in resume()
    assert f"{started}0.5 from `lanes`" in resume(add_data=f"{other}:{space}")
    (other / "lanes.yaml").write_text(yaml.safe_dump(SPACE | {"void": [0, 3], "classes": SPACE["classes"][:2]}))
    assert "added_data.json: expected label id 3 as `train`, as the run was started; found void" in resume(
        add_data=f"{other}:{other / 'lanes.yaml'}:0.25"
    )
    (other / "train" / "images" / "4.png").write_bytes((other / "val" / "images" / "5.png").read_bytes())
    assert "frames.json: expected the image of `lanes/4` with SHA-256 " in resume(add_data=f"{other}:{space}:0.25")


def test_finetune__refuses_further_data_before_anything_is_written(kitti, lanes, words, tmp_path):
    for added in (f"{lanes}:{lanes / 'lanes.yaml'}:1.5", f"{lanes}:nowhere", kitti):
        with pytest.raises(UrbanSegError):
            run_finetuning(parse_finetuning(words(data_dir=kitti, output_dir=tmp_path / "run", add_data=added)))
        assert not (tmp_path / "run").exists()
