"""Tars of samples, read where they lie: the same as the standard library and `datasets` read, or one line."""

import gzip
import io
import json
import logging
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from made_pictures import contents, encode, mask, noise, parquet

from hf_urbanseg.data.checked_frames import CheckedFrames, list_skipped
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preprocessing import TrainDataset
from hf_urbanseg.data.shard_writing import write_shards
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.errors import DataError

SPACE = {"name": "three", "classes": [{"name": name, "color": [i, 0, 0]} for i, name in enumerate("abc")]}


def tar(*members, kind=tarfile.GNU_FORMAT) -> bytes:
    """Of (name, content) pairs, or headers as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
                continue
            header = tarfile.TarInfo(member[0])
            header.size = len(member[1])
            file.addfile(header, io.BytesIO(member[1]))
    return buffer.getvalue()


def pair(number, name=None, image="jpg", label="png"):
    """A sample; the picture's kind is told by its bytes, not by its name."""
    name = name or f"{number:03d}"
    return (f"{name}.{image}", encode(noise(number))), (f"{name}.{label}", encode(mask(number)))


def pairs(*numbers, **options):
    return [member for number in numbers for member in pair(number, **options)]


def header(name, kind, link=""):
    one = tarfile.TarInfo(name)
    one.type, one.linkname = kind, link
    return one


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Writes files into a folder, which `load_data` then reads."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")

    def write(files, name="set"):
        for path, content in {"label_space.json": json.dumps(SPACE).encode(), **files}.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(content)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_read__as_tarfile_and_as_datasets_read_it(store, kind, tmp_path):
    """Folders, names longer than a header, and what is no picture included."""
    far = f"{'deep/' * 40}v1.0/päris"
    first = [header("deep", tarfile.DIRTYPE), header("v1.0/", tarfile.DIRTYPE), ("README", b"x"), ("a/.b.jpg", b"x")]
    first += [*pair(0, "a/0"), ("a/0.json", b'{"town": 1}'), *reversed(pair(1, far)), (f"{far}.txt", b"x" * 1500)]
    second = [*pairs(2, 3), ("__meta__.png", b"x")]
    files = {"train/0.tar": tar(*first, kind=kind), "train/1.tar": tar(*second, kind=kind), "val/0.tar": tar(*pairs(4))}
    streamed = load_data(dataset=(folder := store(files)), streaming=True)
    rows = pickle.loads(pickle.dumps(streamed.splits["train"]))
    theirs = load_dataset(folder, split="train")
    assert list(rows["name"]) == theirs["__key__"] == ["a/0", far, "002", "003"]
    assert [shard.rows for shard in rows.shards] == [2, 2]
    stored = {}
    for name in ("0", "1"):
        with tarfile.open(Path(folder, "train", f"{name}.tar")) as file:
            stored |= {one.name: file.extractfile(one).read() for one in file if one.isreg()}
    for index in (3, 0, 2, 1, 0):
        one, name = rows.select([index]), rows[index]["name"]
        for column, end in (("image", "jpg"), ("label", "png")):
            assert contents(one, column) == [stored[f"{name}.{end}"]]
            assert np.array_equal(rows[index][column], theirs[index][end])
    local = load_data(dataset=folder, validation_fraction=0)
    assert [*local.splits["train"]["name"]] == sorted(rows["name"])
    assert list(streamed.splits) == list(local.splits) == ["train", "validation"]
    write_shards(local, tmp_path / "shards", 2, {}, progress=False)
    written = load_data(dataset=str(tmp_path / "shards"), streaming=True).splits["train"]
    assert sorted(zip(written["name"], contents(written), strict=True)) == sorted(
        zip(rows["name"], contents(rows), strict=True)
    )


def test_samples__as_of_parquet_files(store):
    tars = {f"train-{i}.tar": tar(*pairs(*range(3 * i, 3 * i + 3))) for i in range(3)}
    tables = {f"train-{i}.parquet": parquet(3, 3 * i) for i in range(3)}
    sets = []
    for name, files in (("tars", tars), ("tables", tables)):
        loaded = load_data(dataset=store(files, name), streaming=True)
        rows, space = loaded.splits["train"], loaded.label_space
        transforms = build_train_transforms((16, 16), ["0.5-1.0"])
        sets.append(TrainDataset(rows, space, transforms, 0, CheckedFrames(rows, space), shuffle_buffer=4))
    keys = list(sets[0].build_sampler(3, 0))
    assert keys == list(sets[1].build_sampler(3, 0))
    for key in keys[:5]:
        one, other = (one[key] for one in sets)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_read__a_tar_that_is_cut_anywhere_is_one_line_or_whole(store):
    """`tarfile` itself takes a cut between two files for the end."""
    content = tar(*[(name, b"x" * 600) for name, _ in pairs(0, 1)])
    end = -(-len(content.rstrip(b"\0")) // 512) * 512 + 512
    for cut in range(0, end + 512, 256):
        folder = store({"train.tar": content[:cut]})
        if cut >= end:
            assert list(load_data(dataset=folder, streaming=True).splits["train"]["name"]) == ["000", "001"]
            continue
        with pytest.raises(DataError, match=r"train.tar: expected (a tar file|an empty block .* at byte \d+); found"):
            load_data(dataset=folder, streaming=True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.tar": gzip.compress(tar(*pairs(0)))}, "train.tar: .* found a compressed one; undo that by `gunzip`"),
        ({"train.tar.gz": gzip.compress(tar(*pairs(0)))}, "train.tar.gz: .* found a compressed one"),
        ({"train.tar": tar(*pairs(0)) + tar(*pairs(1))}, "train.tar: expected an empty block .*; found something else"),
        ({"train.tar": b"<html>please log in</html>"}, "train.tar: expected a tar file; found "),
        ({"train.tar": tar()}, "set: expected frames in every split; found none in train"),
        ({"train.tar": tar(*pair(0), pair(1)[0], header("001.png", tarfile.SYMTYPE, "000.png"))}, "a link.*`001.png`"),
        ({"train.tar": tar(*pair(0), pair(1)[0], header("001.png", tarfile.LNKTYPE, "000.png"))}, "a link.*`001.png`"),
        ({"train.tar": tar(*pair(0), header("001.png", tarfile.GNUTYPE_SPARSE))}, "found a sparse file: `001.png`"),
        ({"train.tar": tar(*sorted(pairs(0, 1), key=lambda one: one[0][-3:]))}, "the files of `000` one after the"),
        ({"train.tar": tar(*pair(0, "a/0")[:1], *pair(0, "b/0")[1:])}, "called the same; found `a/0` of one"),
        ({"train.tar": tar(*pair(0), pair(0)[1])}, "expected every file in a sample once; found `000.png` again"),
        ({"train.tar": tar(*pair(0, "a\nb"))}, "expected names in UTF-8 without control characters; found `a"),
        ({"train.tar": tar(*pairs(0, image="png", label="seg.png"))}, "name one of pictures with `--image_column`"),
        ({"train-0.tar": tar(*pairs(0)), "train-1.tar": tar(pair(1)[0])},
         "train-1.tar: expected a label in every row; found no `png` in the whole file; leave the file out"),
        ({"train-0.tar": tar(*pairs(0)), "train-1.tar": tar(*pairs(1, image="jpeg"))}, "image columns jpg, png, jpeg"),
        ({"train-0.tar": tar(*pairs(0)), "train-1.tar": tar(*pairs(1, image="webp"))},
         "train-1.tar: expected an image in every row; found no `jpg` in the whole file"),
    ],
)  # fmt: skip
def test_load__unsuitable_tars(store, files, message):
    with pytest.raises(DataError, match=message) as bad:
        load_data(dataset=store(files), streaming=True)
    assert "\n" not in str(bad.value)


def test_load__columns_that_are_named_and_a_split_without_labels(store, caplog):
    members = [*pairs(0, 1, image="png", label="seg.png")]
    files = {"train-0.tar": tar(*members), "train-1.tar": tar(), "test.tar": tar(members[0])}
    with caplog.at_level(logging.WARNING):
        loaded = load_data(dataset=store(files), streaming=True, image_column="png", label_column="seg.png")
    assert list(loaded.splits) == ["train"]
    assert "test: left out, it has no labels" in loaded.notes
    assert "train: 1 of 2 files have no rows" in caplog.text
    assert np.array_equal(loaded.splits["train"][1]["label"], mask(1))


def test_load__one_tar_beside_its_classes(store):
    """One file of each kind, of which `datasets` would take the JSON for the data."""
    rows = load_data(dataset=store({"000.tar": tar(*pairs(0))}), streaming=True).splits["train"]
    assert rows["name"] == ["000"]


def test_list_files__of_one_name_in_two_folders(store):
    files = {f"train/{town}/0.tar": tar(*pairs(number)) for number, town in enumerate(("bonn", "bochum"))}
    rows = load_data(dataset=store(files), streaming=True).splits["train"]
    assert sorted(rows.list_files()) == ["bochum/0.tar", "bonn/0.tar"]
    assert len({digest for digest, _ in rows.list_files().values()}) == 2


def test_checked_frames__a_sample_without_a_label_is_refused_or_skipped(store, tmp_path):
    loaded = load_data(dataset=store({"train.tar": tar(*pair(0), pair(1)[0], *pair(2))}), streaming=True)
    rows, listed = loaded.splits["train"], tmp_path / "skipped.txt"
    with pytest.raises(DataError, match=r"train/001: .*a label here; found none"):
        CheckedFrames(rows, loaded.label_space)[1]
    assert np.array_equal(CheckedFrames(rows, loaded.label_space, listed)[1][0], noise(2))
    assert len(list_skipped(listed)) == 1


def test_read__a_tar_that_is_another_than_at_the_start(store):
    folder = store({"train.tar": tar(*pairs(0, 1))})
    rows = load_data(dataset=folder, streaming=True).splits["train"]
    store({"train.tar": tar(*pairs(0, 5))})
    with pytest.raises(DataError, match=re.escape("train.tar: expected the headers that were read at the start")):
        rows[0]
