"""A published run, loaded back by strangers: fresh processes without our caches, our code or our data's path."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from loopback_cards import read_front_matter
from PIL import Image
from rendered_kitti import write_kitti

from hf_urbanseg.commands import publish as publish_command
from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.data.splits import write_split_file
from hf_urbanseg.hub.cards.model_card import write_model_card
from hf_urbanseg.hub.publish import publish
from hf_urbanseg.hub.repository import collect_repository
from hf_urbanseg.inference.evaluation import build_eval_loader, measure
from hf_urbanseg.inference.plan import PLAIN
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.json_yaml import write_json, write_yaml
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_image_processor, build_random_model
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.palettes import recolor
from hf_urbanseg.reports.run_report import write_split_files
from hf_urbanseg.runs import recorded_data
from hf_urbanseg.runs.folder import RunFolder

# Not what any seed of the usual cut would give.
SPLITS = {
    "train": ["000002_10", "000005_10"],
    "validation": ["000000_10"],
    "test": ["000001_10", "000003_10", "000004_10"],
}


@pytest.fixture(scope="module")
def kitti(tmp_path_factory):
    """Six rendered streets in KITTI's layout."""
    return write_kitti(tmp_path_factory.mktemp("data") / "kitti", range(6), (60, 200))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """The last bit depends on the number of threads: it is one here and in the other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(kitti, tmp_path_factory):
    """What finetune.py leaves, of an untrained model measured as finetune.py measures."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    torch.manual_seed(0)
    model, processor = build_random_model("tiny", CITYSCAPES).eval(), build_image_processor((64, 192))
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    data = load_data(data_dir=str(kitti), test_fraction=0, validation_fraction=0)
    rows, entries, predictor = data.splits["train"], {}, Predictor(model, processor)
    for split in ("validation", "test"):
        chosen = rows.select([rows["name"][:].index(name) for name in SPLITS[split]])
        dataset = EvalDataset(chosen, CITYSCAPES, processor)
        loader = build_eval_loader(dataset, 2, 0, 0, 1)
        measured = measure(model, loader, dataset.names, CITYSCAPES.names, PLAIN, torch.device("cpu"), boundary=True)
        at = RunFolder(folder), split
        entries[split] = write_split_files(*at, measured, predictor, data, 0, at[0].hash_weights())
    images = {split: len(names) for split, names in SPLITS.items()}
    write_json(folder / "metrics.json", {"splits": entries, "data": {"name": "kitti", "images": images}})
    write_json(folder / "label_space.json", describe_label_space(CITYSCAPES))
    write_split_file(folder / "splits.yaml", SPLITS)
    write_yaml(folder / "recipe.yaml", {"data_dir": str(kitti), "init": "random", "size": "tiny", "max_steps": 1})
    write_model_card(folder, "user/name")
    return folder


@pytest.fixture
def published(hub_here, run):
    publish(collect_repository(run), "user/name")
    return hub_here


STRANGER = """
import sys, numpy, torch
torch.set_num_threads(1)
exec(sys.argv[1])
assert image.size == (201, 60) and {mask.size for mask in masks.values()} == {(201, 60)}
from transformers import SegformerForSemanticSegmentation
model, report = SegformerForSemanticSegmentation.from_pretrained("user/name", output_loading_info=True)
assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
with torch.no_grad():
    logits = model(torch.from_numpy(numpy.load("pixels.npy"))).logits
pixels = {name: int((numpy.asarray(mask) > 0).sum()) for name, mask in masks.items()}
counts = {"names": list(pixels), "pixels": list(pixels.values())}
numpy.savez("found.npz", logits=logits.numpy(), train_ids=train_ids.numpy(), **counts)
assert not [name for name in sys.modules if name.startswith("hf_urbanseg")]
"""


def test_card__its_code_runs_in_a_fresh_process(published, run, kitti, run_with_hub, tmp_path):
    """Both blocks as they stand in the README.md on the Hub; logits equal to the last bit."""
    from transformers import SegformerForSemanticSegmentation

    card = published.tree("user/name")["README.md"].decode()
    first, second = re.findall(r"^```python\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE)
    assert len([line for line in first.splitlines() if line]) <= 6
    shutil.copy(kitti / "training" / "image_2" / "000003_10.png", tmp_path / "street.png")
    pixels = np.random.default_rng(0).standard_normal((2, 3, 64, 192)).astype(np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    run_with_hub(STRANGER, f"{first}\n{second}", home="stranger")
    found = np.load(tmp_path / "found.npz")
    with torch.no_grad():
        expected = SegformerForSemanticSegmentation.from_pretrained(run)(torch.from_numpy(pixels)).logits.numpy()
    np.testing.assert_array_equal(found["logits"].view(np.uint32), expected.view(np.uint32))
    # The pipeline's masks are the tensor's classes, and those are the ones that were measured.
    ids, counts = np.unique(found["train_ids"], return_counts=True)
    names = [CITYSCAPES.names[i] for i in ids]
    assert dict(zip(found["names"], found["pixels"], strict=True)) == dict(zip(names, counts, strict=True))
    images = json.loads((run / "per_image_test.json").read_text())
    row = images["names"].index("000003_10")
    label = np.asarray(Image.open(kitti / "training" / "semantic" / "000003_10.png"))
    known = CITYSCAPES.train_id_table[label] != 255
    predicted = np.bincount(found["train_ids"][known], minlength=19)
    assert predicted.tolist() == images["predicted"][row]


def test_card__its_command_reproduces_its_numbers(published, run, kitti, run_with_hub, tmp_path):
    """The data lies elsewhere, the splits come from the Hub, every score is equal to the last bit."""
    card = published.tree("user/name")["README.md"].decode()
    command = re.search(r"^```bash\nurbanseg evaluate (.*)\n```$", card, re.MULTILINE)[1].split()
    assert command == ["--model", "user/name", "--split", "test", "--data_dir", "kitti"]
    shutil.copytree(kitti, tmp_path / "kitti")
    words = ["-m", "hf_urbanseg", "evaluate", *command, "--num_workers", "0", "--output", tmp_path / "out"]
    environment = {"HF_URBANSEG_CACHE": tmp_path / "cache", "OMP_NUM_THREADS": 1}
    done = run_with_hub(*words, home="stranger", **environment)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["splits"]["test"]
    reported = json.loads((run / "metrics.json").read_text())["splits"]["test"]
    assert {**found, "constant_guess": None} == {**reported, "constant_guess": None}
    results = read_front_matter(card)["model-index"][0]["results"]
    assert [one["dataset"]["split"] for one in results] == ["test", "validation"]
    for metric in results[0]["metrics"]:
        assert metric["value"] == found[metric["type"]]
    assert f"**{100 * found['mean_iou']:.2f} % mIoU**" in card
    assert f"test mIoU {found['mean_iou']:.2%}" in done.stdout
    assert "splits: as user/name was trained" in done.stderr


def test_publish__names_the_repository_in_the_card(hub_here, run, tmp_path, monkeypatch):
    """The card that training wrote without a repository; one that a person changed goes as it is."""
    shutil.copytree(run, tmp_path / "run")
    write_model_card(tmp_path / "run")
    for name, change in (("user/one", False), ("user/two", True)):
        if change:
            text = (tmp_path / "run" / "README.md").read_text()
            (tmp_path / "run" / "README.md").write_text(text + "\nMine.\n")
        monkeypatch.setattr(sys, "argv", ["publish.py", str(tmp_path / "run"), name])
        publish_command.main()
        card = hub_here.tree(name)["README.md"].decode()
        assert 'from_pretrained("user/one")' in card
        assert card.endswith("\nMine.\n") == change
        assert card == (tmp_path / "run" / "README.md").read_text()


# ---- which splits ----


def names_of(data) -> dict[str, list[str]]:
    return {split: list(rows["name"]) for split, rows in data.splits.items()}


def test_load_recorded_data__the_runs_splits_where_all_its_frames_are(run, kitti, caplog):
    for arguments in (DataArguments(), DataArguments(data_dir=str(kitti))):
        assert names_of(recorded_data.load_recorded_data(arguments, str(run))) == SPLITS
    assert "splits: as " in caplog.text


def test_load_recorded_data__options_win(run, kitti, caplog, tmp_path):
    data = recorded_data.load_recorded_data(DataArguments(data_dir=str(kitti), test_fraction=0.5), str(run))
    assert len(data.splits["test"]) == 3
    assert names_of(data) != SPLITS
    write_split_file(tmp_path / "mine.yaml", {"train": ["000000_10"], "test": ["000005_10"]})
    arguments = DataArguments(data_dir=str(kitti), split_file=str(tmp_path / "mine.yaml"), validation_fraction=0.0)
    assert names_of(recorded_data.load_recorded_data(arguments, str(run)))["test"] == ["000005_10"]
    assert "splits.yaml" not in caplog.text


def test_load_recorded_data__other_data_is_cut_as_usual_and_told(run, kitti, caplog, tmp_path):
    shutil.copytree(kitti, tmp_path / "kitti")
    for kind in ("image_2", "semantic"):
        (tmp_path / "kitti" / "training" / kind / "000004_10.png").rename(
            tmp_path / "kitti" / "training" / kind / "other.png"
        )
    arguments = DataArguments(data_dir=str(tmp_path / "kitti"))
    data = recorded_data.load_recorded_data(arguments, str(run))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 3, "validation": 1, "test": 2}
    assert "they don't fit this data (`000004_10` in test)" in caplog.text
    assert "may call frames test that the model was trained on" in caplog.text


def test_load_recorded_data__a_model_without_splits(run, kitti, caplog, tmp_path):
    (tmp_path / "model").mkdir()
    data = recorded_data.load_recorded_data(DataArguments(data_dir=str(kitti)), str(tmp_path / "model"))
    assert len(data.splits["test"]) == 2
    assert not [record for record in caplog.records if record.name.endswith("_recorded_data")]


def test_load_recorded_data__the_palette_of_the_run_or_another_that_is_named(run, kitti, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"palette": "colorblind"}))
    for named, expected in ((None, "colorblind"), ("cityscapes", "cityscapes")):
        recalled = recorded_data.recall_data_arguments(DataArguments(palette=named), str(tmp_path / "run"))
        assert (recalled.palette, recalled.data_dir is None) == (expected, False)
        data = recorded_data.load_recorded_data(
            DataArguments(data_dir=str(kitti), palette=named), str(tmp_path / "run")
        )
        assert data.label_space == recolor(CITYSCAPES, expected)


def test_recall_data_arguments__classes_as_the_run_read_them(run, tmp_path):
    """What the names of a set's id2label.json mean may be told in another way by the time the run is measured."""
    shutil.copytree(run, tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.yaml"
    assert recorded_data.recall_data_arguments(DataArguments(), str(tmp_path / "run")).label_space is None
    options = yaml.safe_load(recipe.read_text()) | {"data_dir": None, "dataset": "user/set"}
    recipe.write_text(yaml.safe_dump(options))
    recalled = recorded_data.recall_data_arguments(DataArguments(), str(tmp_path / "run"))
    assert recalled.dataset == "user/set"
    assert recalled.label_space == str(tmp_path / "run" / "label_space.json")
    recipe.write_text(yaml.safe_dump(options | {"label_space": "cityscapes"}))
    assert recorded_data.recall_data_arguments(DataArguments(), str(tmp_path / "run")).label_space == "cityscapes"
    (tmp_path / "run" / "label_space.json").unlink()
    recipe.write_text(yaml.safe_dump(options))
    assert recorded_data.recall_data_arguments(DataArguments(), str(tmp_path / "run")).label_space is None
