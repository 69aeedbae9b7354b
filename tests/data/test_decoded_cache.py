"""The cache of decoded frames: the same samples to the bit, memory nobody can write to, and only where it fits."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from hf_urbanseg.data import decoded_cache
from hf_urbanseg.data.decoded_cache import DecodedCache, build_decoded_cache
from hf_urbanseg.data.preprocessing import TrainDataset
from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.labels import CITYSCAPES

SIZES = [(60, 90), (61, 88), (60, 90)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Three streets of two sizes; one as a palette PNG, whose colours are not its indices."""
    folder = tmp_path_factory.mktemp("frames")
    columns = {"image": [], "label": [], "name": [f"{number}" for number in range(len(SIZES))]}
    for number, size in enumerate(SIZES):
        for kind, picture in zip(("image", "label"), render_scene(number, size), strict=True):
            picture = PILImage.fromarray(picture)
            if number == 1 and kind == "image":
                picture = picture.convert("P")
            picture.save(folder / f"{kind}_{number}.png")
            columns[kind].append(str(folder / f"{kind}_{number}.png"))
    return Dataset.from_dict(columns).cast_column("image", Image()).cast_column("label", Image())


def build_datasets(rows):
    transforms = [build_train_transforms((32, 48), ["0.75", "1.25"]) for _ in range(2)]
    cache = DecodedCache(rows, CITYSCAPES, SIZES)
    return TrainDataset(rows, CITYSCAPES, transforms[0], 3), TrainDataset(rows, CITYSCAPES, transforms[1], 3, cache)


def test_decoded_cache__samples_are_the_same_to_the_bit(rows):
    plain, cached = build_datasets(rows)
    for epoch in range(6):  # every augmentation has had its turn on the same memory
        for index in range(len(SIZES)):
            one, other = plain[epoch, index], cached[epoch, index]
            assert torch.equal(one["pixel_values"], other["pixel_values"])
            assert torch.equal(one["labels"], other["labels"])
    before = DecodedCache(rows, CITYSCAPES, SIZES)
    np.testing.assert_array_equal(before.memory, cached.cache.memory)


def test_decoded_cache__no_file_is_read_again(rows):
    _, cached = build_datasets(rows)
    expected = cached[0, 1]
    cached.rows = None
    assert torch.equal(cached[0, 1]["pixel_values"], expected["pixel_values"])


def test_decoded_cache__through_workers(rows):
    plain, cached = build_datasets(rows)
    keys = [(1, index) for index in range(len(SIZES))]
    for one, key in zip(DataLoader(cached, sampler=keys, batch_size=None, num_workers=2), keys, strict=True):
        assert torch.equal(one["pixel_values"], plain[key]["pixel_values"])


def test_decoded_cache__holds_images_and_train_ids(rows):
    cache = DecodedCache(rows, CITYSCAPES, SIZES)
    assert len(cache) == 3
    assert cache.memory.nbytes == 4 * sum(height * width for height, width in SIZES)
    for index, row in enumerate(rows):
        image, label = cache[index]
        np.testing.assert_array_equal(image, np.asarray(row["image"].convert("RGB")))
        np.testing.assert_array_equal(label, CITYSCAPES.train_id_table[np.asarray(row["label"])])


def test_decoded_cache__can_not_be_written_to(rows):
    for array in DecodedCache(rows, CITYSCAPES, SIZES)[0]:
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0


def test_decoded_cache__a_frame_that_is_not_as_said_is_an_error(rows):
    """None of them is missing silently, whichever thread reads it."""
    with pytest.raises(ValueError, match="broadcast"):
        DecodedCache(rows, CITYSCAPES, [*SIZES[:2], (61, 90)])


NEEDED = 4 * sum(height * width for height, width in SIZES)


@pytest.mark.parametrize(
    ("choice", "available", "processes", "built"),
    [
        ("auto", 4 * NEEDED, 1, True),
        ("auto", 4 * NEEDED - 4, 1, False),
        ("auto", 4 * NEEDED, 2, False),
        ("true", 0, 1, True),
        ("false", 4 * NEEDED, 1, False),
    ],
)
def test_build_decoded_cache__where_it_fits(rows, monkeypatch, caplog, choice, available, processes, built):
    monkeypatch.setattr(decoded_cache, "_available_memory", lambda: available)
    monkeypatch.setattr(decoded_cache.multiprocessing, "get_start_method", lambda: "fork")
    with caplog.at_level(logging.INFO, "hf_urbanseg"):
        assert (build_decoded_cache(rows, CITYSCAPES, SIZES, choice, processes) is not None) == built
    assert ("stay in memory" in caplog.text) == built


def test_build_decoded_cache__not_by_itself_where_workers_would_copy_it(rows, monkeypatch):
    monkeypatch.setattr(decoded_cache.multiprocessing, "get_start_method", lambda: "spawn")
    assert build_decoded_cache(rows, CITYSCAPES, SIZES, "auto") is None


JOB = "slurm/job_7/step_0"


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/", {"memory.max": "max\n", "memory.current": "3\n"}, 512000),
        ("0::/", {"memory.max": "300000\n", "memory.current": "120000\n"}, 180000),
        ("0::/", {"memory.max": "900000\n", "memory.current": "120000\n"}, 512000),
        ("0::/", {}, 512000),
        (None, {}, 512000),
        # Of a scheduler's job, whose limit may stand above; a container of version 1 has the names of the host.
        (f"0::/{JOB}", {f"{JOB}/memory.max": "300000\n", f"{JOB}/memory.current": "120000\n"}, 180000),
        (
            f"0::/{JOB}",
            {
                f"{JOB}/memory.max": "max\n", f"{JOB}/memory.current": "120000\n",
                "slurm/job_7/memory.max": "300000\n", "slurm/job_7/memory.current": "130000\n",
            },
            170000,
        ),
        (
            f"5:cpu,memory:/{JOB}\n4:pids:/{JOB}",
            {f"memory/{JOB}/memory.limit_in_bytes": "300000\n", f"memory/{JOB}/memory.usage_in_bytes": "120000\n"},
            180000,
        ),
        (
            f"4:memory:/{JOB}",
            {"memory/memory.limit_in_bytes": "300000\n", "memory/memory.usage_in_bytes": "120000\n"},
            180000,
        ),
    ],
)  # fmt: skip
def test_available_memory__of_the_machine_a_container_or_a_job(monkeypatch, group, files, expected):
    found = {f"/sys/fs/cgroup/{name}": text for name, text in files.items()}
    found |= {} if group is None else {"/proc/self/cgroup": f"{group}\n"}

    def read(path):
        if path.as_posix() not in found:
            raise FileNotFoundError(path)
        return found[path.as_posix()]

    monkeypatch.setattr(decoded_cache.Path, "read_text", read)
    monkeypatch.setattr(decoded_cache.psutil, "virtual_memory", lambda: SimpleNamespace(available=512000))
    assert decoded_cache._available_memory() == expected


def test_available_memory__is_some_of_the_machine():
    assert 2**20 < decoded_cache._available_memory() < 2**50
