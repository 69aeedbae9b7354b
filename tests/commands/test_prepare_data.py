import io
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
from datasets import Image
from PIL import Image as PillowImage

from hf_urbanseg.commands import finetune, prepare_data, publish
from hf_urbanseg.commands._push_set import push_prepared_set
from hf_urbanseg.commands.prepare_data import main, write_prepared_set
from hf_urbanseg.data.layouts.folders import FEATURES
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.errors import DataError, UrbanSegError
from hf_urbanseg.hub import dataset_repository
from hf_urbanseg.hub.cards import dataset_card
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.labels import CITYSCAPES

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_URBANSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def kitti(tmp_path):
    """Six different frames in the official layout; every second label is a palette PNG, every image a JPEG."""
    rng = np.random.default_rng(0)
    images, labels = tmp_path / "kitti" / "training" / "image_2", tmp_path / "kitti" / "training" / "semantic"
    images.mkdir(parents=True)
    labels.mkdir()
    for index in range(6):
        PillowImage.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(images / f"{index:06d}_10.jpg")
        label_ids = rng.choice(np.array([0, 7, 8, 11, 26, 33], np.uint8), (8, 12))
        (labels / f"{index:06d}_10.png").write_bytes(png(label_ids, palette=index % 2 == 1))
    return tmp_path / "kitti"


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, words)])
    main()


def undecoded(rows, column):
    return [stored[column] for stored in rows.cast_column(column, Image(decode=False))]


def png(array, palette=False, **options):
    picture = PillowImage.fromarray(array, "P" if palette else None)
    if palette:
        picture.putpalette([255 - value for value in range(256) for _ in range(3)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_main__loads_back_with_the_same_pixels_labels_and_splits(kitti, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared/kitti", "--split_seed", "3")
    source, loaded = load_data(data_dir=str(kitti), split_seed=3), load_data(data_dir="prepared/kitti")
    assert (loaded.name, loaded.label_space) == ("kitti", source.label_space) == ("kitti", CITYSCAPES)
    assert loaded.notes == source.notes
    assert list(loaded.splits) == list(source.splits) == ["train", "validation", "test"]
    for split, rows in loaded.splits.items():
        assert list(rows["name"]) == list(source.splits[split]["name"])
        for column, folder, suffix in (("image", "image_2", "jpg"), ("label", "semantic", "png")):
            for name, stored in zip(rows["name"], undecoded(rows, column), strict=True):
                file = kitti / "training" / folder / f"{name}.{suffix}"
                assert stored == {"bytes": file.read_bytes(), "path": None}
        for row, original in zip(rows, source.splits[split], strict=True):
            assert row["label"].mode == original["label"].mode == ("P" if int(row["name"][:6]) % 2 else "L")
            np.testing.assert_array_equal(np.asarray(row["label"]), np.asarray(original["label"]))
    assert "train           3 frames\n" in capsys.readouterr().out


def test_main__needs_nothing_of_the_source(kitti, tmp_path, monkeypatch):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared/kitti")
    for path in (tmp_path / "prepared").rglob("*"):
        assert str(tmp_path).encode() not in (path.read_bytes() if path.is_file() else b""), path
    (tmp_path / "prepared").rename(tmp_path / "moved")
    kitti.rename(tmp_path / "gone")
    assert load_data(data_dir="moved/kitti").splits["train"][0]["image"].size == (12, 8)


def test_main__inside_the_image_folder(kitti, monkeypatch):
    # `datasets` takes a picture's bytes for superfluous if a file of its path exists: image and label share names.
    monkeypatch.chdir(kitti / "training" / "semantic")
    run(monkeypatch, "--data_dir", kitti, "--output", kitti.parent / "prepared")
    rows = load_data(data_dir=str(kitti.parent / "prepared")).splits["train"]
    assert all(row["label"].mode in "LP" and row["image"].mode == "RGB" for row in rows)
    assert max(np.asarray(row["label"]).max() for row in rows) == 33


def test_main__writes_a_split_file_that_serves_the_source(kitti, monkeypatch):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared", "--split_seed", "5")
    again = load_data(data_dir=str(kitti), split_file="prepared/splits.yaml")
    first = load_data(data_dir=str(kitti), split_seed=5)
    assert {s: list(r["name"]) for s, r in again.splits.items()} == {
        s: list(r["name"]) for s, r in first.splits.items()
    }


@pytest.mark.parametrize("space", ["camvid", "camvid_as_cityscapes"])
def test_main__camvid_is_known_by_its_label_space(tmp_path, monkeypatch, space):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "camvid" / split / kind).mkdir(parents=True)
        for index in range(2):
            image = PillowImage.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8))
            image.save(tmp_path / "camvid" / split / "images" / f"{split}{index}.jpg")
            label = rng.integers(0, 12, (8, 12)).astype(np.uint8)
            (tmp_path / "camvid" / split / "labels" / f"{split}{index}.png").write_bytes(png(label))
    run(monkeypatch, "--data_dir", "camvid", "--label_space", space, "--output", "prepared")
    assert json.loads(Path("prepared/source.json").read_text())["origin"] == "camvid"


def test_main__readme_has_counts_and_notes(kitti, monkeypatch):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared")
    text = (kitti.parent / "prepared" / "README.md").read_text()
    assert "| train | 3 |\n| validation | 1 |\n| test | 2 |\n" in text
    assert "- test: 2 of 6 frames, seed 0\n- validation: 1 of 4 training frames, seed 0\n" in text


def test_main__splits_are_final(kitti, monkeypatch, tmp_path):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared", "--validation_fraction", "0")
    loaded = load_data(data_dir="prepared", validation_fraction=0.5)  # nobody cuts what was left whole
    assert {split: len(rows) for split, rows in loaded.splits.items()} == {"train": 4, "test": 2}
    assert loaded.notes == ("test: 2 of 6 frames, seed 0", "validation: none")
    (tmp_path / "mine.yaml").write_text("train: [000000_10, 000001_10, 000002_10]\n")
    loaded = load_data(data_dir="prepared", split_file="mine.yaml", validation_fraction=0.5)
    assert {split: len(rows) for split, rows in loaded.splits.items()} == {"train": 1, "validation": 2}
    assert loaded.notes[0] == "splits: as listed in mine.yaml"


def refused(capsys, monkeypatch, *words):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *words)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_main__existing_set_stays_without_overwrite(kitti, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared")
    before = (tmp_path / "prepared" / "splits.yaml").read_bytes()
    line = refused(capsys, monkeypatch, "--data_dir", kitti, "--output", "prepared", "--split_seed", "9")
    assert line.endswith(
        "prepared: expected a new folder to write; found a prepared set; choose another or add `--overwrite`."
    )
    assert (tmp_path / "prepared" / "splits.yaml").read_bytes() == before
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared", "--split_seed", "9", "--overwrite")
    assert (tmp_path / "prepared" / "splits.yaml").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "kitti", "prepared"]


def test_main__overwrite_never_replaces_other_folders(kitti, tmp_path, monkeypatch, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    line = refused(capsys, monkeypatch, "--data_dir", kitti, "--output", "home", "--overwrite")
    assert "found something else there already; choose another `--output`" in line
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_main__a_set_can_replace_itself(kitti, tmp_path, monkeypatch):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared")
    source = json.loads(Path("prepared/source.json").read_text())
    assert (source["origin"], source["notes"][0]) == ("kitti", "test: 2 of 6 frames, seed 0")
    run(monkeypatch, "--data_dir", "prepared", "--output", "prepared", "--overwrite")
    assert json.loads(Path("prepared/source.json").read_text()) == source
    loaded = load_data(data_dir="prepared")
    assert {split: len(rows) for split, rows in loaded.splits.items()} == {"train": 3, "validation": 1, "test": 2}
    assert np.unique(np.asarray(loaded.splits["train"][0]["label"])).tolist() == [0, 7, 8, 11, 26, 33]


def test_main__bad_label_writes_nothing(kitti, tmp_path, monkeypatch, capsys):
    bad = kitti / "training" / "semantic" / "000002_10.png"
    PillowImage.fromarray(np.full((8, 12), 200, np.uint8)).save(bad)
    line = refused(capsys, monkeypatch, "--data_dir", kitti, "--output", "new/prepared")
    assert line.startswith(f"error: {bad}: ")
    assert not (tmp_path / "new").exists()


def test_main__no_output_option(kitti, monkeypatch, capsys):
    assert "--output" in refused(capsys, monkeypatch, "--data_dir", kitti)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError("No space left on device")])
def test_write_prepared_set__interrupted_leaves_the_old_set(kitti, tmp_path, monkeypatch, fault):
    loaded = load_data(data_dir=str(kitti))
    output = tmp_path / "prepared"
    write_prepared_set(loaded, output)
    before = (output / "splits.yaml").read_bytes()

    def fail(path, splits):
        raise fault

    monkeypatch.setattr(prepare_data, "write_split_file", fail)
    with pytest.raises((KeyboardInterrupt, DataError)):
        write_prepared_set(load_data(data_dir=str(kitti), split_seed=9), output, overwrite=True)
    assert (output / "splits.yaml").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kitti", "prepared"]


def test_write_prepared_set__clears_what_a_killed_run_left(kitti, tmp_path):
    (tmp_path / ".prepared.partial" / "complete").mkdir(parents=True)
    (tmp_path / ".prepared.partial" / "complete" / "half.arrow").touch()
    write_prepared_set(load_data(data_dir=str(kitti)), tmp_path / "prepared")
    assert not (tmp_path / "prepared" / "half.arrow").exists()
    assert not (tmp_path / ".prepared.partial").exists()


def folder_of(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


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
        assert (loaded.label_space, loaded.notes) == (source.label_space, source.notes)
        assert list(loaded.splits) == list(source.splits)
        for split, rows in loaded.splits.items():
            assert list(rows["name"]) == list(source.splits[split]["name"])
            for column, (folder, suffix) in folders.items():
                files = [kitti / "training" / folder / f"{name}.{suffix}" for name in rows["name"]]
                assert [stored["bytes"] for stored in undecoded(rows, column)] == [file.read_bytes() for file in files]
    # And prepared anew from the Hub, it is the same set, licence included.
    run(monkeypatch, "--dataset", "user/set", "--streaming", "true", "--output", "again", "--push_to_hub", "user/copy")
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
        "README.md", "class_distribution.png", "data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet", "label_space.json", "samples.png", "source.json", "splits.yaml",
    ]  # fmt: skip
    assert hub_here.repository("user/set", "dataset").private
    assert hub_here.where(canary) == hub_here.where(token) == hub_here.where(str(kitti.parent)) == []
    said = capsys.readouterr()
    for text in (said.out, said.err, *(c.decode("latin1") for c in folder_of(kitti.parent / "prepared").values())):
        assert canary not in text
        assert token not in text


@pytest.mark.parametrize("how", ["reset", "lost", 500, 403])
def test_push__broken_at_any_request_is_owed_and_completed(kitti, hub_here, monkeypatch, waits, how):
    """The prepared set is whole whatever happens, and a later push makes the Hub equal to it."""
    for name in ("plot_class_distribution", "_draw_samples"):  # a second each, forty times
        monkeypatch.setattr(dataset_card, name, lambda *args, **_: next(
            path.write_bytes(b"picture") for path in args if isinstance(path, Path)))  # fmt: skip
    run(monkeypatch, "--data_dir", kitti, "--output", "whole", "--push_to_hub", "user/whole")
    expected = hub_here.tree("user/whole", kind="dataset")
    requests = len(hub_here.requests)
    prepared = Path("whole")
    before = folder_of(prepared)
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
        assert {**folder_of(prepared), "push.json": b""} == {**before, "push.json": b""}


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
    before = folder_of(Path("prepared"))
    hub_here.fail("hang", matching="commit")
    environment = os.environ | hub_here.environment(tmp_path / "home")
    command = [sys.executable, SCRIPTS / "publish.py", "prepared", "user/set"]
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
    assert len(first) == 9
    assert {**first, "README.md": b""} == {**second, "README.md": b""}
    assert not Path(".prepared.push").exists()
    assert {**folder_of(Path("prepared")), "push.json": b""} == {**before, "push.json": b""}


def test_push__owed_to_a_hub_that_was_away_and_completed_by_publish(kitti, hub_here, monkeypatch, capsys):
    words = ("--data_dir", kitti, "--output", "prepared", "--push_to_hub", "user/set", "--license", "cc-by-4.0")
    with hub_here.outage():
        line = refused(capsys, monkeypatch, *words, "--private")
    assert line.startswith("error: expected the Hub to take a push to user/set; found no connection to http://127")
    assert json.loads(Path("prepared/push.json").read_text())["owed"] == ["data set"]
    assert sum(map(len, load_data(data_dir="prepared").splits.values())) == 6

    def complete(*options):
        monkeypatch.setattr(sys, "argv", ["publish.py", "prepared", *options])
        publish.main()
        return capsys.readouterr().out

    assert complete("--dry_run").endswith("dry run: nothing was pushed\n")
    assert not hub_here.requests
    assert "pushed 9 new or changed files" in complete()
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


def test_finetune__streamed_trains_as_the_folder_does(hub_here, run_with_hub, words, kitti, tmp_path, monkeypatch):
    """Bit for bit, in a process that has nothing but the Hub."""
    cut = ("--test_fraction", "0.3")
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared", "--push_to_hub", "user/set", *cut)
    options = {"max_steps": 2, "eval_steps": 2, "save_steps": 2, "num_overlays": 0, "crop_size": "32 32",
               "eval_size": "32 32", "train_scales": "8.0"}  # fmt: skip
    argv = words(output_dir="streamed", dataset="user/set", streaming="true", **options)
    run_with_hub(SCRIPTS / "finetune.py", *argv, home="fresh", OMP_NUM_THREADS=1)
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words(output_dir="folder", data_dir=kitti, **options), *cut])
    finetune.main()
    assert (tmp_path / "streamed" / "splits.yaml").read_bytes() == (tmp_path / "prepared" / "splits.yaml").read_bytes()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("streamed", "folder")]
    assert weights[0] == weights[1]
    assert not [path for path in (tmp_path / "fresh").rglob("*") if path.suffix in (".arrow", ".parquet", ".png")]
