"""Data sets of a loopback Hub, read by the real client: what arrives, and one line for whatever goes wrong."""

import errno
import io
import math
import re
import time
from types import SimpleNamespace

import loopback_api
import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value, arrow_dataset
from datasets import config as datasets_config
from datasets.exceptions import DatasetGenerationError
from datasets.utils import file_utils
from huggingface_hub import HfApi, constants
from loopback_requests import answer_refusal
from loopback_store import Refusal
from PIL import Image as PillowImage

from hf_urbanseg.data.layouts import hub_sets
from hf_urbanseg.data.layouts.hub_sets import find_own_file, load_hub_set
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.errors import DataError, UrbanSegError

SPACE = '{"name": "two", "classes": [{"name": "a", "color": [1, 2, 3]}, {"name": "b", "color": [4, 5, 6]}], "void": []}'
MODES = [False, True]
SHARD = "data/train-00000-of-00001.parquet"


def picture(seed, mode="RGB"):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 2, (20, 30), np.uint8) if mode == "P" else rng.integers(0, 256, (20, 30, 3), np.uint8)
    image = PillowImage.fromarray(pixels, mode)
    if mode == "P":
        image.putpalette([255 - value for value in range(256) for _ in range(3)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def parquet(count=6, image="image", label="label", start=0):
    rows = {
        image: [{"bytes": picture(start + i), "path": None} for i in range(count)],
        label: [{"bytes": picture(start + i, "P"), "path": f"{i}.png"} for i in range(count)],
        "name": [f"{start + i:03d}" for i in range(count)],
        "extra": list(range(count)),
    }
    features = Features({image: Image(), label: Image(mode="L"), "name": Value("string"), "extra": Value("int64")})
    buffer = io.BytesIO()
    Dataset.from_dict(rows, features=features).to_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture
def upload(hub_here):
    def run(files, name="user/set", **options):
        api = HfApi()
        api.create_repo(name, repo_type="dataset", exist_ok=True, private=options.pop("private", None))
        for path, content in files.items():
            api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=name, repo_type="dataset", **options)
        return hub_here

    return run


@pytest.fixture
def hub_set(upload):
    return upload({
        SHARD: parquet(), "data/test-00000-of-00001.parquet": parquet(2, start=6),
        "data/extra-00000-of-00001.parquet": parquet(1, start=8), "label_space.json": SPACE.encode(),
    })  # fmt: skip


def contents(rows, column):
    return [stored[column]["bytes"] for stored in rows.cast_column(column, Image(decode=False))]


@pytest.mark.parametrize("streaming", MODES)
def test_load_data__from_the_hub(hub_set, streaming, tmp_path):
    loaded = load_data(dataset="user/set", validation_fraction=0, streaming=streaming)
    assert loaded.name == "user/set"
    assert loaded.label_space.names == ("a", "b")
    assert {split: list(rows["name"]) for split, rows in loaded.splits.items()} == {
        "train": [f"{i:03d}" for i in range(6)], "test": ["006", "007"]
    }  # fmt: skip
    for split, start in (("train", 0), ("test", 6)):
        rows = loaded.splits[split]
        assert contents(rows, "image") == [picture(start + i) for i in range(len(rows))]
        assert contents(rows, "label") == [picture(start + i, "P") for i in range(len(rows))]
        assert rows[1]["label"].mode == "P"  # and not the brightness that the set's own mode="L" asks for
    pictures_on_disk = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and (
        path.suffix in (".arrow", ".parquet") or path.stat().st_size > 5000)]  # fmt: skip
    assert bool(pictures_on_disk) != streaming
    assert not hub_set.unknown


def test_load_hub_set__streams_only_the_columns_asked_for(hub_set):
    asked = []

    def choose(features, split):
        asked.append((split, list(features)))
        return ["label"] if split == "train" else None

    found = load_hub_set("user/set", streaming=True, choose=choose)
    assert [(split, rows.column_names, len(rows)) for split, rows in found.splits.items()] == [("train", ["label"], 6)]
    assert sorted(asked) == [(split, ["image", "label", "name", "extra"]) for split in ("extra", "test", "train")]
    assert found.commit == hub_set.repository("user/set", "dataset").branches["main"]
    assert not found.splits["train"].cache_files


def test_load_data__streamed_is_never_pickled(hub_set, upload, monkeypatch):
    """What `datasets` does for a fingerprint: it takes several times the memory of the set."""

    def refuse(_):
        raise AssertionError("a copy of the whole table")

    monkeypatch.setattr(arrow_dataset, "generate_fingerprint", refuse)
    old = load_hub_set("user/set", streaming=True)
    load_data(dataset="user/set", streaming=True)
    upload({"notes.txt": b"another commit"})
    new = load_hub_set("user/set", streaming=True)
    splits = [*old.splits.values(), *new.splits.values()]
    assert len({rows._fingerprint for rows in splits}) == len(splits) == 6
    assert load_hub_set("user/set", streaming=True).splits["train"]._fingerprint == new.splits["train"]._fingerprint


def test_load_hub_set__streamed_image_files_are_read_too(upload):
    """A set of files names its pictures; without their bytes they would be fetched anew at every step."""
    upload({f"train/{i}.png": picture(i) for i in range(2)})
    found = load_hub_set("user/set", streaming=True)
    assert contents(found.splits["train"], "image") == [picture(0), picture(1)]


@pytest.mark.parametrize("streaming", MODES)
def test_load_data__of_a_revision(upload, hub_set, streaming):
    old = hub_set.repository("user/set", "dataset").branches["main"]
    upload({SHARD: parquet(3, start=50), "label_space.json": SPACE.replace('"b"', '"new"').encode()})
    options = {"dataset": "user/set", "validation_fraction": 0, "streaming": streaming}
    new = load_data(**options)
    assert (new.splits["train"]["name"][0], new.label_space.names) == ("050", ("a", "new"))
    first = load_data(**options, dataset_revision=old)
    assert (first.splits["train"]["name"][0], first.label_space.names) == ("000", ("a", "b"))
    with pytest.raises(DataError, match=r"; found no branch, tag or commit `nowhere`; correct `--dataset_rev"):
        load_data(**options, dataset_revision="nowhere")


@pytest.mark.parametrize("streaming", MODES)
def test_load_data__a_set_that_changes_meanwhile_is_read_as_one_commit(upload, hub_set, monkeypatch, streaming):
    ask = hub_sets._ask

    def ask_and_change(*words):
        commit = ask(*words)
        upload({SHARD: parquet(3, start=50), "label_space.json": SPACE.replace('"b"', '"new"').encode()})
        return commit

    monkeypatch.setattr(hub_sets, "_ask", ask_and_change)
    loaded = load_data(dataset="user/set", validation_fraction=0, streaming=streaming)
    assert (loaded.splits["train"]["name"][0], loaded.label_space.names) == ("000", ("a", "b"))


@pytest.mark.parametrize("streaming", MODES)
def test_load_data__private(upload, monkeypatch, streaming):
    hub = upload({SHARD: parquet(), "label_space.json": SPACE.encode()}, private=True)
    load_data(dataset="user/set", streaming=streaming)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(DataError, match=r"^user/set: .*private one that the token can't see; .*`hf auth login`") as bad:
        load_data(dataset="user/set", streaming=streaming)
    assert hub.token not in str(bad.value)
    assert "xxxx" not in str(bad.value)


@pytest.mark.parametrize("streaming", MODES)
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({SHARD: parquet(image="photo")}, "expected an image column named image, pixel_values, img; found image"),
        ({SHARD: parquet(label="depth")}, "expected an image column named label, labels, annotation"),
        ({SHARD: parquet()}, "expected label_space.json or id2label.json in the data set; found neither"),
        ({SHARD: parquet(), "label_space.json": b'{"classes": 3}'}, "label_space.json: expected a list `classes`"),
        ({SHARD: parquet(), "label_space.json": b"{"}, "label_space.json: expected a label space file in YAML"),
        ({"notes.txt.bak": b"x", "README.md": b"---\nlicense: mit\n---\n"}, "user/set: expected an image column"),
        ({SHARD: parquet()[:-1000] + b"PAR1"}, "user/set: expected a Hub data set that can be read; found a damaged"),
        ({SHARD: b"<html>please log in</html>"}, "user/set: expected a Hub data set that can be read; found a damaged"),
    ],
)  # fmt: skip
def test_load_data__unsuitable_sets(upload, files, message, streaming):
    upload(files)
    with pytest.raises(UrbanSegError) as bad:
        load_data(dataset="user/set", streaming=streaming)
    assert message in str(bad.value)
    assert "\n" not in str(bad.value)


def test_load_data__streamed_damage_inside_a_page(upload):
    """A flipped byte of a picture: the stream passes it on, the check of every pair refuses it."""
    whole = bytearray(parquet())
    at = whole.index(picture(3)) + 400
    whole[at] ^= 0xFF
    upload({SHARD: bytes(whole), "label_space.json": SPACE.encode()})
    loaded = load_data(dataset="user/set", streaming=True, validation_fraction=0)
    with pytest.raises(DataError, match=r"train/003: expected a readable image file; found a truncated or damaged"):
        inspect_pairs(loaded.splits, loaded.label_space, cache_dir=False, progress=False)


@pytest.mark.parametrize("left", [6, 0])
def test_load_hub_set__a_stream_that_lacks_frames(upload, left):
    card = "---\ndataset_info:\n  splits:\n  - name: train\n    num_bytes: 1\n    num_examples: 7\n---\n"
    upload({SHARD: parquet(left), "README.md": card.encode()})
    with pytest.raises(DataError, match=rf"user/set: expected 7 frames in train; found {left}; push the set again"):
        load_hub_set("user/set", streaming=True)


def test_load_data__no_such_set_and_no_hub(hub_here, waits):
    with pytest.raises(DataError, match=r"user/none: expected a Hub data set that can be read; found status 401|404"):
        load_data(dataset="user/none")
    with hub_here.outage(), pytest.raises(DataError, match=r"found no connection to http://127\S+ .*HF_HUB_OFFLINE=1"):
        load_data(dataset="user/none")
    assert waits == []  # told at once


# What the client survives by its own retries ends well; the rest ends in one line, and the next attempt is whole.
@pytest.mark.parametrize("streaming", MODES)
@pytest.mark.parametrize("how", ["refuse", "reset", "cut", 500, 401])
def test_load_data__outage_at_any_request(hub_set, waits, how, streaming, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(file_utils, "time", SimpleNamespace(sleep=slept.append, time=time.time))
    options = {"dataset": "user/set", "validation_fraction": 0, "streaming": streaming}
    load_data(**options)
    asked = len(hub_set.requests) - 8  # of the uploads
    lines = []
    for at in range(1, asked + 1, 2):
        fresh_caches(tmp_path / f"home{at}")
        hub_set.fail(how, at=at, times=math.inf)
        try:
            load_data(**options)
        except DataError as error:
            lines.append(str(error))
        hub_set.heal()
        loaded = load_data(**options)  # whatever the first left in the caches
        assert contents(loaded.splits["train"], "image") == [picture(i) for i in range(6)]
        assert list(loaded.splits) == ["train", "test"]
    assert lines
    assert not any(slept)  # beside the 23 s of `huggingface_hub`'s own
    for line in lines:
        assert line.startswith("user/set: expected a Hub data set that can be read; found ")
        assert not re.search(r"\n|Signature|storage/", line)


def fresh_caches(home):
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    constants.HF_HUB_CACHE = constants.HUGGINGFACE_HUB_CACHE = str(home / "hub")
    datasets_config.HF_DATASETS_CACHE = home / "datasets"


def test_load_data__offline_from_an_earlier_download(hub_set, monkeypatch):
    online = load_data(dataset="user/set", validation_fraction=0)
    asked = len(hub_set.requests)
    for module in (constants, datasets_config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    offline = load_data(dataset="user/set", validation_fraction=0)
    assert offline.label_space == online.label_space
    assert contents(offline.splits["train"], "image") == contents(online.splits["train"], "image")
    with pytest.raises(DataError, match=r"user/set: .*offline mode.*; unset HF_HUB_OFFLINE"):
        load_data(dataset="user/set", streaming=True)
    load_data(dataset="user/set", dataset_revision=hub_set.repository("user/set", "dataset").branches["main"])
    with pytest.raises(DataError, match=r"user/set: expected revision v1 in the cache; found commit \w{40}; unset"):
        load_data(dataset="user/set", dataset_revision="v1")
    with pytest.raises(DataError, match=r"user/other: .*found offline mode, and no earlier download"):
        load_data(dataset="user/other")
    assert len(hub_set.requests) == asked


def test_find_own_file__missing_is_none_and_an_outage_is_not(hub_set, waits):
    commit = hub_set.repository("user/set", "dataset").branches["main"]
    assert find_own_file("user/set", "source.json", commit) is None
    with hub_set.outage(), pytest.raises(DataError, match=r"user/set: .*no connection"):
        find_own_file("user/set", "splits.yaml", commit)
    hub_set.fail(500, times=math.inf)
    with pytest.raises(DataError, match=r"user/set: .*found status 500"):
        find_own_file("user/set", "label_space.json", commit)


def test_load_hub_set__no_signed_address_and_no_token_in_the_line(hub_set, monkeypatch):
    def fail(*_, **__):
        raise OSError("https://cdn.example/a?Signature=secret said\nno to hf_" + "x" * 34)

    monkeypatch.setattr(hub_sets.datasets, "load_dataset", fail)
    with pytest.raises(DataError) as bad:
        load_hub_set("user/set")
    assert "found OSError: <address> said no to <token>; check" in str(bad.value)


@pytest.mark.parametrize("streaming", MODES)
def test_load_hub_set__gated(hub_set, monkeypatch, streaming):
    """Everybody may look at a gated set's page; the files ask for its terms to be accepted."""
    handle = loopback_api.handle

    def gated(hub, request):
        if "/resolve/" in request.path:
            return answer_refusal(Refusal(403, "Access to dataset user/set is restricted", "GatedRepo"))
        return handle(hub, request)

    monkeypatch.setattr(loopback_api, "handle", gated)
    with pytest.raises(DataError, match=r"found a gated set, whose terms .*; accept them on .*`hf auth login`"):
        load_hub_set("user/set", streaming=streaming)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left"), r"found no room for the cache in \S+home \(No space left\); free"),
        (OSError(errno.EDQUOT, "Quota exceeded"), r"\(Quota exceeded\); .* HF_HOME, or add `--streaming true`"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), r"found Permission denied at /a/b; correct the"),
        (OSError(errno.EROFS, "Read-only file system"), r"found Read-only file system; .*move the cache by HF_HOME"),
        (ValueError("Config name is missing.\nPlease pick one among the available configs: ['en', 'de']\nExample"),
         r"found several configurations, en, de; choose one by `--dataset_config`"),
        (ValueError("There are multiple 'user/set' configurations in the cache: en, de\nPlease specify"),
         r"found several configurations in the cache, en, de; choose one by `--dataset_config`"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrapped", [False, True])
def test_load_hub_set__what_the_library_raises_for_reasons_of_its_own(hub_set, monkeypatch, error, message, wrapped):
    def fail(*_, **__):
        if wrapped and isinstance(error, OSError):
            raise DatasetGenerationError("An error occurred while generating the dataset") from error
        raise error

    monkeypatch.setattr(hub_sets.datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=rf"^user/set: expected .*{message}") as bad:
        load_hub_set("user/set")
    assert "\n" not in str(bad.value)


def test_load_hub_set__a_loading_script(upload):
    upload({"set.py": b"import datasets\n", "README.md": b"---\nlicense: mit\n---\n"})
    with pytest.raises(DataError, match=r"found a loading script, .*; try `--dataset_revision refs/convert/parquet`"):
        load_hub_set("user/set")


def test_load_hub_set__puts_the_librarys_retries_back(hub_set):
    before = datasets_config.STREAMING_READ_MAX_RETRIES
    load_hub_set("user/set", streaming=True)
    assert datasets_config.STREAMING_READ_MAX_RETRIES == before > 1
    with hub_sets._fewer_retries():
        assert datasets_config.STREAMING_READ_MAX_RETRIES == 1


def test_load_hub_set__local_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split in ("train", "validation"):
        (tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet").write_bytes(parquet())
    found = load_hub_set(str(tmp_path / "set"))
    assert found.commit is None
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 6, "validation": 6}
