"""The card of a data set: its numbers against a count by hand, its code run, hostile names, and the terms."""

import io
import re

import numpy as np
import pytest
import yaml
from datasets import Dataset, DatasetDict, DatasetInfo
from datasets.splits import SplitDict, SplitInfo
from loopback_cards import check_card
from PIL import Image as PillowImage

from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.hub.cards import dataset_card
from hf_urbanseg.hub.cards.dataset_card import write_dataset_card
from hf_urbanseg.hub.cards.licence import choose_data_licence
from hf_urbanseg.labels import LabelSpace

FRAMES = ["000000_10"]


def picture(pixels):
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def frame(seed, label, name):
    image = np.random.default_rng(seed).integers(0, 256, (*label.shape, 3), np.uint8)
    return {"image": picture(image), "label": picture(label), "name": name}


def build(names, colors, ids):
    label = np.zeros((10, 20), np.uint8)
    label[:4] = 7  # 80 pixels
    label[4:5] = 9  # 20
    label[9:] = 8  # 20; the other 80 are void
    splits = {
        "train": [frame(0, label, "a"), frame(1, label, "b")],
        "test": [frame(2, np.full((12, 20), 7, np.uint8), "c")],
    }
    splits = DatasetDict({split: Dataset.from_list(rows, features=FEATURES) for split, rows in splits.items()})
    return LoadedData(splits, LabelSpace("mine", names, colors, ids), "mine", ("test: 1 of 3 frames, seed 4",))


def write(folder, data, origin="kitti", license=None, counts=None, **options):
    splits = SplitDict()
    for split, rows in data.splits.items():
        splits.add(SplitInfo(split, num_bytes=10, num_examples=(counts or {}).get(split, len(rows))))
    info = DatasetInfo(features=FEATURES, splits=splits, download_size=2_500_000, dataset_size=20)
    inspection = inspect_pairs(data.splits, data.label_space, progress=False)
    licence = choose_data_licence(origin, FRAMES, license, False)
    write_dataset_card(folder, "user/set", data, inspection, origin, licence, info, **options)
    text = (folder / "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.split("---\n")[1]), text


@pytest.fixture
def data():
    ids = {7: 0, 8: 1, 9: 1, 0: 255, 1: 255, 2: 255, 20: 255}
    return build(("road", "side|walk"), ((128, 64, 128), (1, 2, 3)), ids)


def test_write_dataset_card__front_matter(tmp_path, data):
    front, text = write(tmp_path, data)
    assert check_card(text, "dataset") == ([], [])
    assert front["license"] == "cc-by-nc-sa-3.0"
    assert front["task_categories"] == ["image-segmentation"]
    assert front["size_categories"] == ["n<1K"]
    assert front["configs"] == [{"config_name": "default", "data_files": [
        {"split": "train", "path": "data/train-*"}, {"split": "test", "path": "data/test-*"}]}]  # fmt: skip
    assert front["dataset_info"]["features"][:2] == [
        {"name": "image", "dtype": "image"}, {"name": "label", "dtype": "image"}
    ]  # fmt: skip
    assert [(one["name"], one["num_examples"], one["num_bytes"]) for one in front["dataset_info"]["splits"]] == [
        ("train", 2, 10), ("test", 1, 10)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("frames", "category"), [(999, "n<1K"), (1_000, "1K<n<10K"), (10_000, "10K<n<100K"), (2_000_000, "1M<n<10M")]
)
def test_write_dataset_card__size_category(tmp_path, data, monkeypatch, frames, category):
    monkeypatch.setattr(dataset_card, "draw_summary", lambda *_: None)
    front, _ = write(tmp_path, data, counts={"train": frames - 1, "test": 1})
    assert front["size_categories"] == [category]


def test_write_dataset_card__numbers_and_names(tmp_path, data):
    _, text = write(tmp_path, data)
    assert "| train | 2 | 10x20 | 40.0 % |" in text
    assert "| test | 1 | 12x20 | 0.0 % |" in text
    assert "| 0 | road | `#804080` | 7 | 83.333 % |" in text
    assert "| 1 | side&#124;walk | `#010203` | 8, 9 | 16.667 % |" in text
    assert "label ids 0, 1, 2, 20." in text
    assert "- test: 1 of 3 frames, seed 4\n" in text
    assert "2.5 MB" in text
    assert "geiger2012kitti" in text
    assert "test: 1 of 3 frames" in text
    assert "(samples.png)" in text
    assert PillowImage.open(tmp_path / "samples.png").size[0] > 400
    assert not re.search(r"\n{4,}|None|Markup|\{\{|\{%", text)
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    # Whole tables: a blank line inside would end one.
    assert [[line.count("|") for line in block] for block in blocks] == [[5] * 4, [6] * 4]
    assert "\n# KITTI semantic segmentation\n\n3 street scenes of [KITTI semantic segmentation](https://" in text


def only(data, *splits):
    kept = DatasetDict({split: data.splits[split] for split in splits})
    return LoadedData(kept, data.label_space, data.name, data.notes)


def test_write_dataset_card__says_only_what_the_splits_allow(tmp_path, data):
    once, command = "Use the test split once, at the end.", "urbanseg finetune --recipe segformer_b0_kitti"
    _, text = write(tmp_path, data)
    assert once in text
    _, on_main = write(tmp_path, data, revision="main")
    assert on_main == text  # without a revision in its code
    assert f"{command} --dataset user/set --output_dir" in text
    _, text = write(tmp_path, only(data, "test"))
    assert 'dataset["test"][0]' in text
    assert "Use the test split" not in text
    assert "urbanseg finetune" not in text
    _, text = write(tmp_path, only(data, "train"), None, "mit")
    assert 'load_dataset("user/set")' in text
    assert 'dataset["train"][0]' in text
    assert "Use the test split" not in text
    assert "\n# set\n\n2 street scenes with the class of each pixel" in text
    assert "urbanseg finetune --size b0 --dataset user/set --output_dir" in text  # that recipe's sizes fit KITTI alone


def test_write_dataset_card__commonest_sizes_first(tmp_path, data):
    heights = (16, 14, 12, 12, 10, 10, 10)
    rows = [frame(seed, np.full((height, 20), 7, np.uint8), str(seed)) for seed, height in enumerate(heights, 5)]
    data.splits["train"] = Dataset.from_list(rows, features=FEATURES)
    _, text = write(tmp_path, data)
    assert "| train | 7 | 10x20 and 3 more | 0.0 % |" in text


def test_write_dataset_card__camvid(tmp_path, data):
    front, text = write(tmp_path, data, "camvid", "cc-by-nc-4.0")
    assert (front["pretty_name"], front["license"], front["tags"][0]) == ("CamVid", "cc-by-nc-4.0", "camvid")
    assert "3 street scenes of [CamVid](http://mi.eng.cam.ac.uk/" in text
    assert "brostow2009camvid" in text
    assert "Published under cc-by-nc-4.0, as stated by whoever pushed it." in text


def test_write_dataset_card__revision_and_warnings(tmp_path, data):
    twice = data.splits["train"].select([0, 0, 1])
    twice = twice.remove_columns("name").add_column("name", ["a", "again", "b"])
    data.splits["train"] = twice
    _, text = write(tmp_path, data, revision="v2")
    assert 'load_dataset("user/set", revision="v2")' in text
    assert "--dataset user/set --dataset_revision v2" in text
    assert "- Found on the way, and left as it is: train: the same image more than once: a = again." in text


def test_write_dataset_card__hostile_names_stay_text(tmp_path):
    names = ("<script>alert(1)</script>", "![x](http://evil.example/x.png)# Heading")
    _, text = write(tmp_path, build(names, ((1, 2, 3), (4, 5, 6)), {7: 0, 8: 1, 9: 1, 0: 255}))
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body
    assert "![x]" not in body
    assert "\n# Heading" not in body
    assert "http://evil" not in body
