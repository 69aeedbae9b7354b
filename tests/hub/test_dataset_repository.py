"""The files of a prepared set's repository: the pictures' own bytes, and nothing else of the folder."""

import io
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, DatasetDict
from PIL import Image as PillowImage
from PIL.PngImagePlugin import PngInfo

from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.hub import dataset_repository
from hf_urbanseg.hub.dataset_repository import collect_dataset, is_data_file, push_prepared_set
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.labels import CITYSCAPES

CANARY = "hf_" + "CanaryOfTheTests" * 2


def png(seed, palette=False, text=None):
    rng = np.random.default_rng(seed)
    if palette is None:
        image = PillowImage.fromarray(rng.integers(0, 256, (12, 20, 3), np.uint8))
    else:
        image = PillowImage.fromarray(rng.choice(np.array([0, 7, 26], np.uint8), (12, 20)), "P" if palette else "L")
        if palette:
            image.putpalette([255 - value for value in range(256) for _ in range(3)])
    info = PngInfo()
    if text:
        info.add_text("Comment", text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def rows(start, count, **options):
    frames = range(start, start + count)
    return Dataset.from_dict(
        {
            "image": [{"bytes": png(i, None, **options), "path": None} for i in frames],
            "label": [{"bytes": png(i, i % 2 == 1), "path": None} for i in frames],
            "name": [f"{i:06d}_10" for i in frames],
        },
        features=FEATURES,
    )


def save(folder, splits, space=CITYSCAPES, **source):
    DatasetDict(splits).save_to_disk(str(folder))
    (folder / "label_space.json").write_text(json.dumps(describe_label_space(space)))
    (folder / "source.json").write_text(json.dumps({"origin": "kitti", "notes": ["test: 2 of 9, seed 0"], **source}))
    return folder


@pytest.fixture(autouse=True)
def _no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_URBANSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def prepared(tmp_path):
    return save(tmp_path / "prepared", {"train": rows(0, 5), "validation": rows(5, 2), "test": rows(7, 2)})


def collect(folder, **options):
    with collect_dataset(folder, "user/set", **options) as files:
        return {path: file if isinstance(file, bytes) else file.read_bytes() for path, file in files.items()}


def test_collect_dataset__the_files_own_bytes_in_parquet(prepared):
    files = collect(prepared)
    assert sorted(files) == [
        "README.md", "data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet", "label_space.json", "samples.png", "source.json", "splits.yaml",
    ]  # fmt: skip
    for split, start, count in (("train", 0, 5), ("validation", 5, 2), ("test", 7, 2)):
        table = pq.read_table(io.BytesIO(files[f"data/{split}-00000-of-00001.parquet"]))
        frames = range(start, start + count)
        assert table["image"].to_pylist() == [{"bytes": png(i, None), "path": None} for i in frames]
        assert table["label"].to_pylist() == [{"bytes": png(i, i % 2 == 1), "path": None} for i in frames]
        assert table["name"].to_pylist() == [f"{i:06d}_10" for i in frames]
        layout = pq.ParquetFile(io.BytesIO(files[f"data/{split}-00000-of-00001.parquet"])).metadata.row_group(0)
        assert layout.column(0).has_offset_index  # single rows can be shown without reading the group
        assert [layout.column(index).compression for index in range(5)] == ["UNCOMPRESSED"] * 5
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["label"] == {"_type": "Image"}  # without it, users would get dictionaries
    assert json.loads(files["label_space.json"]) == describe_label_space(CITYSCAPES)
    assert json.loads(files["source.json"]) == {
        "origin": "kitti", "license": "cc-by-nc-sa-3.0", "notes": ["test: 2 of 9, seed 0"]
    }  # fmt: skip
    assert yaml.safe_load(files["splits.yaml"])["test"] == ["000007_10", "000008_10"]


def test_collect_dataset__again_gives_the_same_bytes_and_leaves_nothing(prepared, tmp_path):
    first = collect(prepared)
    killed = tmp_path / ".prepared.push" / "data"
    killed.mkdir(parents=True)
    (killed / "train-00000-of-00009.parquet").write_bytes(b"half")
    assert collect(prepared) == first
    assert not killed.parent.exists()


def test_collect_dataset__shards_and_row_groups(prepared, monkeypatch):
    whole = pq.read_table(io.BytesIO(collect(prepared)["data/train-00000-of-00001.parquet"]))
    size = sum(len(row["bytes"]) for column in ("image", "label") for row in whole[column].to_pylist())
    monkeypatch.setattr(dataset_repository, "SHARD_BYTES", size // 2)
    monkeypatch.setattr(dataset_repository, "_ROW_GROUP_BYTES", 1)
    files = collect(prepared)
    shards = [files[path] for path in sorted(files) if path.startswith("data/train")]
    assert [path for path in sorted(files) if path.startswith("data/train")] == [
        f"data/train-{index:05d}-of-00003.parquet" for index in range(3)
    ]
    assert [name for shard in shards for name in pq.read_table(io.BytesIO(shard))["name"].to_pylist()] == (
        whole["name"].to_pylist()
    )
    assert [pq.ParquetFile(io.BytesIO(shard)).num_row_groups for shard in shards] == [1, 2, 2]
    front = yaml.safe_load(files["README.md"].decode().split("---\n")[1])["dataset_info"]
    parquet = [content for path, content in files.items() if path.endswith(".parquet")]
    assert front["download_size"] == sum(map(len, parquet))
    assert size < front["splits"][0]["num_bytes"] < sum(map(len, shards))
    assert front["dataset_size"] == sum(split["num_bytes"] for split in front["splits"])


def test_collect_dataset__a_saved_set_of_anybody_is_not_cut(prepared):
    (prepared / "source.json").unlink()
    shutil.rmtree(prepared / "validation")
    (prepared / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    files = collect(prepared, license="mit")
    assert {split: len(names) for split, names in yaml.safe_load(files["splits.yaml"]).items() if names} == {
        "train": 5, "test": 2
    }  # fmt: skip


def test_collect_dataset__nothing_else_of_the_folder_and_no_path_of_this_machine(prepared, tmp_path):
    for name in (".env", "training_args.bin", "push.json", "notes.txt", "data/train-00009-of-00010.parquet"):
        (prepared / name).parent.mkdir(exist_ok=True)
        (prepared / name).write_text("forbidden")
    (prepared / "source.json").write_text(json.dumps({"origin": "kitti", "notes": [f"as listed in {tmp_path}/x.yaml"]}))
    space = {**describe_label_space(CITYSCAPES), "name": f"{tmp_path}/space.yaml"}
    (prepared / "label_space.json").write_text(json.dumps(space))
    files = collect(prepared)
    assert len(files) == 8
    for path, content in files.items():
        assert b"forbidden" not in content, path
        assert str(tmp_path).encode() not in content, path
    assert json.loads(files["label_space.json"])["name"] == "space.yaml"
    assert json.loads(files["source.json"])["notes"] == ["as listed in x.yaml"]


@pytest.mark.parametrize("where", ["picture", "name", "note"])
def test_push_prepared_set__a_secret_stops_it(hub_here, tmp_path, where):
    train = rows(0, 2, text=f"made with {CANARY}") if where == "picture" else rows(0, 2)
    if where == "name":
        train = train.remove_columns("name").add_column("name", [f"{CANARY}_1", "b"])
    folder = save(tmp_path / "set", {"train": train}, notes=[CANARY] if where == "note" else [])
    with pytest.raises(DataError, match=r"without secrets; found something like a token") as bad:
        push_prepared_set(folder, PushLedger(folder, "user/set"))
    assert CANARY not in str(bad.value)
    assert not hub_here.requests
    assert PushLedger.read(folder).owed == ["data set"]
    assert not (tmp_path / ".set.push").exists()


def test_collect_dataset__needs_a_licence_or_privacy(tmp_path):
    folder = save(tmp_path / "set", {"train": rows(0, 2)}, origin=None)
    with pytest.raises(ConfigError, match=r"set: expected the licence of data that everybody will see; found none"):
        collect(folder)
    assert json.loads(collect(folder, private=True)["source.json"])["license"] == "unknown"
    assert json.loads(collect(folder, license="cc-by-4.0")["source.json"])["license"] == "cc-by-4.0"
    (folder / "source.json").write_text('{"license": "mit"}')
    assert json.loads(collect(folder)["source.json"])["license"] == "mit"
    assert json.loads(collect(folder, license="cc-by-4.0")["source.json"])["license"] == "cc-by-4.0"


def test_collect_dataset__other_folders_and_damage(prepared, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(DataError, match=r"run: expected a set written by `urbanseg prepare-data`; found none"):
        collect(tmp_path / "run")
    damaged = next(prepared.glob("train/*.arrow"))
    shutil.copy(next(prepared.glob("test/*.arrow")), damaged)
    damaged.write_bytes(damaged.read_bytes()[:300])
    with pytest.raises(DataError, match="expected a complete saved set"):
        collect(prepared)


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("data/train-00000-of-00001.parquet", True),
        ("data/test-00012-of-00100.parquet", True),
        ("data/extra-00000-of-00001.parquet", False),
        ("train-00000-of-00001.parquet", False),
        ("data/train.parquet", False),
        ("README.md", False),
    ],
)
def test_is_data_file__shards_of_our_splits(path, ours):
    assert is_data_file(path) is ours
