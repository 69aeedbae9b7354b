import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
from folder_contents import read_folder
from PIL import Image as PillowImage
from prepared_sets import in_a_folder_of_its_own, refused, run, small_kitti, undecoded  # noqa: F401

from hf_urbanseg.commands import finetune, publish
from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.errors import UrbanSegError
from hf_urbanseg.hub import dataset_repository
from hf_urbanseg.hub.cards import dataset_card
from hf_urbanseg.hub.dataset_repository import push_prepared_set
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.labels import CITYSCAPES

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_push__round_trip(kitti, hub_here, monkeypatch, capsys):
    """To the Hub and back: for a user of plain `datasets`, by the card's own code, and for our commands."""
    run(
        monkeypatch, "--data_dir", kitti, "--output", "prepared/kitti", "--split_seed", "3", "--push_to_hub", "user/set"
    )
    assert "pushed to http" in capsys.readouterr().out
    assert [(kind, name) for kind, name in hub_here.repositories] == [("dataset", "user/set")]
    ledger = json.loads((kitti.parent / "prepared" / "kitti" / "push.json").read_text())
    assert (ledger["owed"], ledger["repo_id"]) == ([], "user/set")
    assert not list((kitti.parent / "prepared").glob(".*"))
    source = load_data(data_dir=str(kitti), split_seed=3)
    folders = {"image": ("image_2", "jpg"), "label": ("semantic", "png")}

    plain = datasets.load_dataset("user/set")
    assert {split: list(rows["name"]) for split, rows in plain.items()} == {
        split: list(rows["name"]) for split, rows in source.splits.items()
    }
    assert plain["train"].features == FEATURES
    assert plain["train"][0]["image"].size == (12, 8)

    card = hub_here.tree("user/set", kind="dataset")["README.md"].decode()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {}
    exec("\n".join(blocks), names)
    frame = names["frame"]
    original = kitti / "training" / "semantic" / f"{frame['name']}.png"
    expected = CITYSCAPES.train_id_table[np.asarray(PillowImage.open(original))]
    np.testing.assert_array_equal(names["train_ids"], expected)

    for streaming in (False, True):
        loaded = load_data(dataset="user/set", streaming=streaming)
        assert loaded.label_space == source.label_space
        assert loaded.notes[streaming:] == source.notes  # behind one on what is streamed
        assert list(loaded.splits) == list(source.splits)
        for split, rows in loaded.splits.items():
            assert list(rows["name"]) == list(source.splits[split]["name"])
            for column, (folder, suffix) in folders.items():
                files = [kitti / "training" / folder / f"{name}.{suffix}" for name in rows["name"]]
                assert [stored["bytes"] for stored in undecoded(rows, column)] == [file.read_bytes() for file in files]
    # And prepared anew from the Hub, it is the same set, licence included.
    run(monkeypatch, "--dataset", "user/set", "--output", "again", "--push_to_hub", "user/copy")
    for path, content in hub_here.tree("user/copy", kind="dataset").items():
        if path != "README.md":
            assert content == hub_here.tree("user/set", kind="dataset")[path], path
    assert not hub_here.unknown


def test_push__only_what_a_set_needs_and_no_secret(kitti, hub_here, monkeypatch, capsys):
    canary = "hf_" + "CanaryOfTheTests" * 2
    (kitti.parent / ".env").write_text(f"HF_TOKEN={canary}\nOTHER_SECRET={canary}x\n")
    token = hub_here.token
    monkeypatch.delenv("HF_TOKEN")
    words = ("--data_dir", kitti, "--output", kitti.parent / "prepared")
    run(monkeypatch, *words, "--push_to_hub", "user/set", "--private", "--revision", "v2", "--hub_token", token)
    tree = hub_here.tree("user/set", "v2", kind="dataset")
    assert sorted(tree) == [
        "README.md", "data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet", "label_space.json", "samples.png", "source.json", "splits.yaml",
    ]  # fmt: skip
    assert hub_here.repository("user/set", "dataset").private
    assert hub_here.where(canary) == hub_here.where(token) == hub_here.where(str(kitti.parent)) == []
    said = capsys.readouterr()
    for text in (said.out, said.err, *(c.decode("latin1") for c in read_folder(kitti.parent / "prepared").values())):
        assert canary not in text
        assert token not in text


@pytest.mark.parametrize("how", ["reset", "lost", 500, 403])
def test_push__broken_at_any_request_is_owed_and_completed(kitti, hub_here, monkeypatch, waits, how):
    """The prepared set is whole whatever happens, and a later push makes the Hub equal to it."""
    monkeypatch.setattr(dataset_card, "draw_summary", lambda *_: _[-1].joinpath("samples.png").touch())  # a second
    run(monkeypatch, "--data_dir", kitti, "--output", "whole", "--push_to_hub", "user/whole")
    expected = hub_here.tree("user/whole", kind="dataset")
    requests = len(hub_here.requests)
    prepared = Path("whole")
    before = read_folder(prepared)
    for at in range(1, requests + 1):
        ledger = PushLedger(prepared, f"user/set{at}")
        hub_here.fail(how, at=at, times=math.inf)
        with pytest.raises(UrbanSegError) as failure:
            push_prepared_set(prepared, ledger)
        assert "\n" not in str(failure.value)
        hub_here.heal()
        stored = json.loads((prepared / "push.json").read_text())
        assert (stored["owed"], bool(stored["failure"])) == (["data set"], True)
        push_prepared_set(prepared, PushLedger.read(prepared))
        assert json.loads((prepared / "push.json").read_text())["owed"] == []
        tree = hub_here.tree(f"user/set{at}", kind="dataset")
        assert {path: content for path, content in tree.items() if path != "README.md"} == {
            path: content for path, content in expected.items() if path != "README.md"
        }
        assert b"user/set" in tree["README.md"]
        assert {**read_folder(prepared), "push.json": b""} == {**before, "push.json": b""}


def test_push__a_later_set_replaces_the_earlier_one(kitti, hub_here, monkeypatch):
    words = ("--data_dir", kitti, "--output", "prepared", "--overwrite", "--push_to_hub", "user/set")
    run(monkeypatch, *words)
    api = huggingface_hub.HfApi()
    api.upload_file(path_or_fileobj=b"x", path_in_repo="notes.txt", repo_id="user/set", repo_type="dataset")
    run(monkeypatch, *words, "--validation_fraction", "0")
    tree = hub_here.tree("user/set", kind="dataset")
    assert [path for path in tree if path.startswith("data/")] == [
        "data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"
    ]  # fmt: skip
    assert tree["notes.txt"] == b"x"
    assert list(load_data(dataset="user/set").splits) == ["train", "test"]


def test_push__several_shards_read_back_in_order_and_replaced(kitti, hub_here, monkeypatch, capsys):
    words = ("--data_dir", kitti, "--output", "prepared", "--overwrite", "--push_to_hub", "user/set")
    with monkeypatch.context() as patch:
        patch.setattr(dataset_repository, "SHARD_BYTES", 1)  # a shard for every frame
        run(monkeypatch, *words)
    source = load_data(data_dir="prepared")
    shards = [path for path in hub_here.tree("user/set", kind="dataset") if path.startswith("data/train")]
    assert shards == [f"data/train-{index:05d}-of-00003.parquet" for index in range(3)]
    for streaming in (False, True):
        loaded = load_data(dataset="user/set", streaming=streaming)
        for split, rows in source.splits.items():
            for column in ("image", "label"):
                assert undecoded(loaded.splits[split], column) == undecoded(rows, column)
            assert list(loaded.splits[split]["name"]) == list(rows["name"])
    plain = datasets.load_dataset("user/set", split="train", streaming=True)
    assert [row["name"] for row in plain] == list(source.splits["train"]["name"])
    run(monkeypatch, *words)
    shards = [path for path in hub_here.tree("user/set", kind="dataset") if path.startswith("data/train")]
    assert shards == ["data/train-00000-of-00001.parquet"]
    assert list(load_data(dataset="user/set").splits["train"]["name"]) == list(source.splits["train"]["name"])


def test_push__killed_in_mid_upload_and_made_again(kitti, hub_here, monkeypatch, tmp_path):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared")
    before = read_folder(Path("prepared"))
    hub_here.fail("hang", matching="commit")
    environment = os.environ | hub_here.environment(tmp_path / "home")
    command = [sys.executable, "-m", "hf_urbanseg", "publish", "prepared", "user/set"]
    with open("log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + 120
        while "commit" not in hub_here.names() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.kill()
        process.wait()
    assert "commit" in hub_here.names(), Path("log").read_text()
    hub_here.heal()
    assert hub_here.tree("user/set", kind="dataset") == {}
    assert Path(".prepared.push").is_dir()  # nobody was left to clear it
    assert json.loads(Path("prepared/push.json").read_text())["owed"] == ["data set"]
    push_prepared_set(Path("prepared"), PushLedger.read(Path("prepared")))
    push_prepared_set(Path("prepared"), PushLedger(Path("prepared"), "user/other"))
    first, second = (hub_here.tree(f"user/{name}", kind="dataset") for name in ("set", "other"))
    assert len(first) == 8
    assert {**first, "README.md": b""} == {**second, "README.md": b""}
    assert not Path(".prepared.push").exists()
    assert {**read_folder(Path("prepared")), "push.json": b""} == {**before, "push.json": b""}


def test_push__owed_to_a_hub_that_was_away_and_completed_by_publish(kitti, hub_here, monkeypatch, capsys):
    words = ("--data_dir", kitti, "--output", "prepared", "--push_to_hub", "user/set", "--license", "cc-by-4.0")
    with hub_here.outage():
        line = refused(capsys, monkeypatch, *words, "--private")
    assert line.startswith("error: expected the Hub to take a push to user/set; found no answer from http://127")
    assert json.loads(Path("prepared/push.json").read_text())["owed"] == ["data set"]
    assert sum(map(len, load_data(data_dir="prepared").splits.values())) == 6

    def complete(*options):
        monkeypatch.setattr(sys, "argv", ["publish.py", "prepared", *options])
        publish.main()
        return capsys.readouterr().out

    assert complete("--dry_run").endswith("dry run: nothing was pushed\n")
    assert not hub_here.requests
    assert "pushed 8 new or changed files" in complete()
    assert json.loads(Path("prepared/push.json").read_text())["owed"] == []
    assert hub_here.repository("user/set", "dataset").private
    assert "license: cc-by-4.0" in hub_here.tree("user/set", kind="dataset")["README.md"].decode()
    assert "nothing to push" in complete()
    assert [name for kind, name in hub_here.repositories if kind == "model"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--private"], "expected `push_to_hub` with `private`; found none"),
        (["--hub_token", "hf_x"], "expected `push_to_hub` with `hub_token`; found none"),
        (["--push_to_hub", "set"], "expected a repository as user/name; found `set`"),
        (["--push_to_hub", "user/set", "--license", "CC BY"], "expected a licence's identifier such as cc-by-4.0"),
        (["--streaming", "true"], "expected a Hub id as `dataset` with `streaming`"),
    ],
)
def test_push__refused_before_any_work(kitti, monkeypatch, capsys, words, message):
    line = refused(capsys, monkeypatch, "--data_dir", kitti, "--output", "prepared", *words)
    assert message in line
    assert not Path("prepared").exists()


def test_push__cityscapes_only_in_private(kitti, hub_here, monkeypatch, capsys):
    for number, path in enumerate(sorted((kitti / "training" / "image_2").iterdir())):
        label = kitti / "training" / "semantic" / f"{path.stem}.png"
        for kind, file, end in (("leftImg8bit", path, "leftImg8bit.jpg"), ("gtFine", label, "gtFine_labelIds.png")):
            target = Path("cs") / kind / ("train" if number < 4 else "val") / ("ulm" if number < 4 else "lindau")
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target / f"{target.name}_{number:06d}_000019_{end}")
    words = ("--data_dir", "cs", "--output", "prepared", "--validation_fraction", "0")
    line = refused(capsys, monkeypatch, *words, "--push_to_hub", "user/cs")
    assert "found Cityscapes, whose licence forbids to distribute it" in line
    assert not Path("prepared").exists()
    assert not hub_here.requests
    run(monkeypatch, *words, "--push_to_hub", "user/cs", "--private")
    assert hub_here.repository("user/cs", "dataset").private
    # Nor by a detour over the prepared set.
    line = refused(capsys, monkeypatch, "--data_dir", "prepared", "--output", "again", "--push_to_hub", "user/public",
                   "--license", "mit")  # fmt: skip
    assert "found Cityscapes" in line


def test_finetune__streamed_trains_as_from_a_folder_of_its_files(
    hub_here, run_with_hub, words, kitti, tmp_path, monkeypatch
):
    """Bit for bit, in a process that has nothing but the Hub."""
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared", "--push_to_hub", "user/set", "--test_fraction", "0.3")
    options = {"max_steps": 2, "eval_steps": 2, "save_steps": 2, "num_overlays": 0, "crop_size": "32 32",
               "eval_size": "32 32", "train_scales": "8.0", "streaming": "true"}  # fmt: skip
    argv = words(output_dir="streamed", dataset="user/set", **options)
    run_with_hub(SCRIPTS / "finetune.py", *argv, home="fresh", OMP_NUM_THREADS=1)
    for path, content in hub_here.tree("user/set", kind="dataset").items():
        (tmp_path / "files" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / path).write_bytes(content)
    finetune.main(words(output_dir="folder", dataset="files", **options))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("streamed", "folder")]
    assert weights[0] == weights[1]
    assert not [path for path in (tmp_path / "fresh").rglob("*") if path.suffix in (".arrow", ".parquet", ".png")]
