"""Rows that are read where they are, and the sets that are written to be read so."""

import errno
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Value
from hostile_files import make_fifo
from made_pictures import contents, encode, mask, noise, parquet
from PIL import Image as PillowImage
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from hf_urbanseg.data import parquet_shards
from hf_urbanseg.data.checked_frames import CheckedFrames, list_skipped
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight import pair_files
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.data.shard_writing import write_shards
from hf_urbanseg.data.shards import NamesOnDemand
from hf_urbanseg.errors import ConfigError, DataError

SPACE = {"name": "three", "classes": [{"name": name, "color": [i, 0, 0]} for i, name in enumerate("abc")]}
NAMES = ["b", "a", "d", "c", "e"]


def store(folder, files):
    (folder / "data").mkdir(parents=True)
    (folder / "label_space.json").write_text(json.dumps(SPACE))
    for name, content in files.items():
        (folder / "data" / name).write_bytes(content)
    return str(folder)


def named(*numbers, **columns):
    return parquet(len(numbers), columns.pop("start", numbers[0]), name=[NAMES[i] for i in numbers], **columns)


@pytest.fixture(autouse=True)
def cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def two(tmp_path):
    """Five frames of train in two files."""
    kinds = {"features": {"name": Value("string")}}
    files = {"train-0.parquet": named(0, 1, 2, **kinds), "train-1.parquet": named(3, 4, **kinds)}
    return store(tmp_path / "set", files | {"test-0.parquet": parquet(2, 40)})


def test_read__as_a_set_that_is_downloaded(two, tmp_path):
    local = load_data(dataset=two, validation_fraction=0)
    streamed = load_data(dataset=two, streaming=True)
    for split in ("train", "test"):
        one, other = local.splits[split], streamed.splits[split]
        order = [list(other["name"]).index(name) for name in one["name"]]  # those are sorted
        for column in ("image", "label"):
            assert contents(one, column) == contents(other.select(order), column)
    assert streamed.splits["train"][-1]["name"] == "e"
    assert np.array_equal(streamed.splits["train"][3]["image"], noise(3))
    with pytest.raises(ConfigError, match="expected a local set here, all of whose frames are read first"):
        inspect_pairs(streamed.splits, streamed.label_space)
    with pytest.raises(ConfigError, match="expected a local set here"):
        write_shards(streamed, tmp_path / "out", 2, {}, progress=False)
    assert not (tmp_path / "out").exists()
    for option in ({"fold": 0}, {"split_file": "a"}, {"channels": 4}):
        with pytest.raises(DataError, match=f"leave `--{next(iter(option))}` out, or `--streaming`"):
            load_data(dataset=two, streaming=True, **option)


def test_write__and_read_again(two, tmp_path):
    loaded = load_data(dataset=two, validation_fraction=0)
    index = write_shards(loaded, (folder := tmp_path / "shards"), 2, {"license": "mit"}, progress=False)
    assert [one["rows"] for one in index["train"]] == [1, 2, 2]
    for one in index["train"]:
        footer = pq.ParquetFile(folder / one["file"]).metadata
        assert footer.num_row_groups == one["rows"]  # each frame by itself
    streamed, again = (load_data(dataset=str(folder), streaming=way, validation_fraction=0) for way in (True, False))
    assert sorted(streamed.splits["train"]["name"]) == sorted(NAMES)
    assert dict(zip(streamed.splits["train"]["name"], contents(streamed.splits["train"]), strict=True)) == {
        name: encode(noise(i)) for i, name in enumerate(NAMES)
    }
    assert again.splits["train"]["name"] == sorted(NAMES)
    counted = np.bincount(np.stack([mask(i) for i in range(5)]).ravel(), minlength=3).tolist()
    assert streamed.splits["train"].pixels == {loaded.label_space.mapping_digest: counted}
    assert f"| a | {counted[0]} |" in (folder / "README.md").read_text()
    assert streamed.splits["train"].list_files() == {
        one["file"].removeprefix("data/"): [one["digest"]] * 2 for one in index["train"]
    }


def test_write__goes_on_where_it_ended_and_gives_the_same(two, tmp_path, monkeypatch):
    loaded = load_data(dataset=two, validation_fraction=0)
    for folder in ("whole", "killed"):
        write_shards(loaded, tmp_path / folder, 2, {}, progress=False)
    kept, gone, cut = sorted((tmp_path / "killed" / "data").glob("train*"))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-9])
    (tmp_path / "killed" / "shards.json").unlink()
    before = kept.stat().st_mtime_ns
    write_shards(loaded, tmp_path / "killed", 2, {}, progress=False)
    for path in (tmp_path / "whole").rglob("*.*"):
        assert (tmp_path / "killed" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert kept.stat().st_mtime_ns == before


def test_write__a_frame_of_train_that_is_measured_is_refused(tmp_path):
    files = {"train-0.parquet": parquet(3), "test-0.parquet": parquet(1, 2)}
    loaded = load_data(dataset=store(tmp_path / "set", files), validation_fraction=0)
    with pytest.raises(DataError, match="train/train_000002: expected every image in one split"):
        write_shards(loaded, tmp_path / "out", 2, {}, progress=False)
    assert not (tmp_path / "out" / "shards.json").exists()


def test_read__a_damaged_byte_is_noticed(two, tmp_path):
    loaded = load_data(dataset=two, validation_fraction=0)
    folder = tmp_path / "shards"
    write_shards(loaded, folder, 5, {}, progress=False)
    path = folder / "data" / "train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[content.index(encode(noise(0))) + 300] ^= 1
    path.write_bytes(content)
    rows = load_data(dataset=str(folder), streaming=True).splits["train"]
    names = rows["name"]
    with pytest.raises(DataError, match=r"train-00000-of-00001.parquet: .*damaged or unsuitable file \(OSError.*CRC"):
        rows[names.index("b")]
    assert rows[names.index("a")]["name"] == "a"


def change_index(change):
    def spoil(folder):
        index = json.loads((folder / "shards.json").read_text())
        change(index["shards"]["train"])
        (folder / "shards.json").write_text(json.dumps(index))

    return spoil


def change_file(change):
    def spoil(folder):
        path, other = sorted((folder / "data").glob("train*"))[:2]
        change(path, other)

    return spoil


def flip_in_footer(path, _):
    content = bytearray(path.read_bytes())
    content[content.rindex(b"hf_urbanseg.names") + 1] ^= 1  # nothing that the format itself would miss
    path.write_bytes(content)


SPOILT = {
    "expected the file of 4 rows that the set lists; found": change_index(lambda files: files[0].update(rows=4)),
    "expected every file once, with its rows": change_index(lambda files: files[0].update(rows=-1)),
    "expected every file once, with its rows, digest": change_index(lambda files: files[0]["pixels"].append(1)),
    "shards.json: expected every file once": change_index(lambda files: files.append(files[0])),
    "expected frames in every split; found none in train": change_index(list.clear),
    "expected a data set that can be read; found No such file": change_file(lambda path, _: path.unlink()),
    "expected a regular file; found a FIFO": change_file(lambda path, _: (path.unlink(), make_fifo(path))),
    "expected the file of 1 rows that the set lists": change_file(lambda path, other: other.replace(path)),
    "that the set lists; found another, of": change_file(flip_in_footer),
}


def test_read__another_file_than_the_set_lists(two, tmp_path):
    write_shards(load_data(dataset=two, validation_fraction=0), tmp_path / "good", 2, {}, progress=False)
    for number, (message, spoil) in enumerate(SPOILT.items()):
        folder = shutil.copytree(tmp_path / "good", tmp_path / f"{number}")
        spoil(folder)
        with pytest.raises(DataError, match=message):
            print(*load_data(dataset=str(folder), streaming=True).splits["train"])


def test_read__an_empty_file_is_passed_over(two, caplog):
    Path(two, "data", "train-2.parquet").write_bytes(parquet(0))
    with caplog.at_level(logging.WARNING):
        assert len(load_data(dataset=two, streaming=True).splits["train"]) == 5
    assert "train: 1 of 3 files have no rows" in caplog.text


def test_read__in_a_samplers_order_opens_each_file_once(two, tmp_path, monkeypatch):
    write_shards(load_data(dataset=two, validation_fraction=0), tmp_path / "out", 1, {}, progress=False)
    rows = load_data(dataset=str(tmp_path / "out"), streaming=True).splits["train"]
    opened, check = [], parquet_shards._check_footer
    monkeypatch.setattr(
        parquet_shards, "_check_footer", lambda file, shard: opened.append(shard.url) or check(file, shard)
    )
    for buffer, times in ((3, [0, 1, 2, 0, 1, 2, 3, 4, 3]), (1, [0, 2, 0, 1, 3, 1, 4])):
        opened.clear()
        buffered = replace(rows, buffer=buffer)
        for index in times:
            buffered[index]
        assert len(opened) == 5


def test_checked_frames__stops_or_skips_and_lists(tmp_path, caplog):
    labels = [encode(mask(0)), encode(mask(1) + 7), encode(mask(2, (4, 4))), encode(mask(3))]
    images = [encode(noise(0)), encode(noise(1)), encode(noise(2)), encode(noise(3))[:90]]
    dataset = store(tmp_path / "set", {"train-0.parquet": parquet(4, label=labels, image=images)})
    loaded = load_data(dataset=dataset, streaming=True)
    rows, listed = loaded.splits["train"], tmp_path / "skipped.txt"
    strict = CheckedFrames(rows, loaded.label_space)
    assert np.array_equal(strict[0][1], mask(0))
    for index, message in (
        (1, "train_000001: expected only label values of `three` .*; found 7 in 219 pixels"),
        (2, "expected a label as large as its image, 20x30 .height x width.; found 4x4"),
        (3, "train_000003: expected a readable image file; found a truncated or damaged file .OSError"),
    ):
        with pytest.raises(DataError, match=message):
            strict[index]
    lenient = CheckedFrames(rows, loaded.label_space, listed)
    for _ in range(2):
        assert np.array_equal(lenient[1][0], noise(0))  # past all the bad ones, and round
    assert [*NamesOnDemand(rows)] == rows["name"]
    names = [f"train/train_00000{index}" for index in (1, 2, 3)]
    assert [line.split(": expected")[0] for line in list_skipped(listed)] == names


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
def test_checked_frames__what_the_machine_lacks_is_no_frame_to_skip(tmp_path, monkeypatch, error):
    """Another machine, or the same one later, would train on other frames."""
    loaded = load_data(dataset=store(tmp_path / "set", {"train-0.parquet": parquet(3)}), streaming=True)
    listed = tmp_path / "skipped.txt"
    lenient = CheckedFrames(loaded.splits["train"], loaded.label_space, listed)

    def refuse(*_):
        raise error

    monkeypatch.setattr(pair_files, "open_picture", refuse)
    with pytest.raises(DataError, match="train_000001: expected a readable image file"):
        lenient[1]
    with pytest.raises(DataError, match="train_000000: expected a readable image file"):
        inspect_pairs(loaded.splits, loaded.label_space, sampled=True, skip_bad=True)
    assert list_skipped(listed) == []


def test_checked_frames__what_the_preflight_refuses_of_a_pair_is_refused_of_every_frame_later(tmp_path):
    turned, flipped = PillowImage.Exif(), bytearray(encode(mask(1)))
    turned[0x0112], flipped[60] = 3, flipped[60] ^ 1
    bad = {
        "colours": (encode(noise(0)), encode(np.dstack([mask(0), mask(1), mask(2)]))),
        "3 in the image and 1 in the label": (encode(noise(0), "JPEG", exif=turned), encode(mask(0))),
        "JPEG": (encode(noise(0)), encode(np.zeros((20, 30), np.uint8), "JPEG")),
        "2-bit grey": (encode(noise(0)), encode(PillowImage.fromarray(np.zeros((20, 30), np.uint8)), bits=2)),
        "damaged file": (encode(noise(0)), bytes(flipped)),
        "mode F": (encode(np.zeros((20, 30), np.float32), "TIFF"), encode(mask(0))),
    }
    images, labels = (list(column) for column in zip((encode(noise(9)), encode(mask(9))), *bad.values(), strict=True))
    files = {"train-0.parquet": parquet(len(images), image=images, label=labels)}
    loaded = load_data(dataset=store(tmp_path / "set", files), streaming=True)
    rows, space = loaded.splits["train"], loaded.label_space
    processor = SegformerImageProcessorPil(do_resize=False)
    trained, measured = CheckedFrames(rows, space), EvalDataset(rows, space, processor)
    assert np.array_equal(measured[0]["labels"], trained[0][1])
    for index, found in enumerate(bad, 1):
        with pytest.raises(DataError) as preflight:
            inspect_pairs({"train": rows.select([index])}, space, sampled=True)
        assert found in str(preflight.value)
        for read in (trained, measured):
            with pytest.raises(DataError) as refused:
                read[index]
            assert str(refused.value).startswith(str(preflight.value).removesuffix("."))


def test_inspect_pairs__of_a_sample(tmp_path):
    labels = [None if i == 4 else encode(mask(i)) for i in range(9)]
    loaded = load_data(
        dataset=store(tmp_path / "set", {"train-0.parquet": parquet(9, label=labels)}),
        streaming=True,
        preflight_frames=3,
    )
    with pytest.raises(DataError, match="train/train_000004: expected an image and a label for every frame"):
        inspect_pairs(loaded.splits, loaded.label_space, sampled=True)
    inspection = inspect_pairs(loaded.splits, loaded.label_space, sampled=True, skip_bad=True)
    assert [pair.name for pair in inspection.pairs["train"]] == ["train_000000", "train_000008"]


def test_names__are_plain_and_those_of_measured_frames_all_known_to_differ(tmp_path):
    def build(folder, names, kind="string", **others):
        test = parquet(5, 40, name=names, **others, features={"name": Value(kind)})
        files = {"train-0.parquet": parquet(2), "test-0.parquet": test}
        return load_data(dataset=store(tmp_path / folder, files), streaming=True, preflight_frames=2)

    loaded = build("twice", ["a", "b", "c", "b", "e"])  # those of the sample differ
    with pytest.raises(DataError, match="test/b: expected every frame name once in a split; found 2 pairs"):
        inspect_pairs(loaded.splits, loaded.label_space, sampled=True)
    rows = build("odd", ["a", None, "", "d\n", "e"]).splits["test"]
    assert rows["name"] == [row["name"] for row in rows] == ["a", "test_000001", "test_000002", "test_000003", "e"]
    loaded = build("fractions", [0.5] * 5, "float64", id=[*range(5)])
    assert loaded.splits["test"].select([1, 3])["name"] == ["1", "3"]


def test_load__two_splits_of_one_meaning_are_refused(tmp_path):
    folder = Path(store(tmp_path / "set", {"train.parquet": parquet(2), "a.parquet": parquet(2, 4)}))
    files = ", ".join(f"{{split: {split}, path: data/{file}.parquet}}" for split, file in (
        ("train", "train"), ("val", "a"), ("dev", "a")))  # fmt: skip
    (folder / "README.md").write_text(f"---\nconfigs: [{{config_name: default, data_files: [{files}]}}]\n---\n")
    with pytest.raises(DataError, match="one validation split; found a second one, `dev`"):
        load_data(dataset=str(folder), streaming=True)


def test_load__from_object_storage(two, tmp_path, monkeypatch):
    """`memory://` stands for s3://, gs:// and all others that fsspec knows."""

    def refuse(*_, **__):
        raise ConnectionError("no answer")

    write_shards(load_data(dataset=two, validation_fraction=0), tmp_path / "out", 2, {}, progress=False)
    with pytest.raises(DataError, match=r"memory://set: expected shards.json, which lists the files; found none"):
        load_data(dataset="memory://set", streaming=True)
    with monkeypatch.context() as away:
        away.setattr(type(fsspec.filesystem("memory")), "info", refuse)
        with pytest.raises(DataError, match=r"shards.json: expected a data set .* found no connection"):
            load_data(dataset="memory://set", streaming=True)
    fsspec.filesystem("memory").put(str(tmp_path / "out"), "/set", recursive=True)
    try:
        rows = load_data(dataset="memory://set", streaming=True).splits["train"]
        assert sorted(rows["name"]) == sorted(NAMES)
        assert sorted(contents(rows)) == sorted(encode(noise(i)) for i in range(5))
        with pytest.raises(DataError, match=r"memory://set: expected a Hub id, or a folder .*; add `--streaming true`"):
            load_data(dataset="memory://set")
    finally:
        fsspec.filesystem("memory").rm("/set", recursive=True)
