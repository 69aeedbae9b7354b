from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from hf_urbanseg.data.collator import collate_train
from hf_urbanseg.data.sampling import EpochSampler
from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.data.unlabelled import UnlabelledDataset, UnlabelledSampler, WithUnlabelled, list_unlabelled
from hf_urbanseg.errors import DataError


def build_crops(tmp_path, cutmix=1.0, count=3):
    for number in range(count):
        Image.fromarray(render_scene(number, (40, 90))[0]).save(tmp_path / f"{number}.png")
    transforms = build_train_transforms((48, 64), ["0.9-1.1"], max_class_share=1, photometric=False)
    return UnlabelledDataset(list_unlabelled([tmp_path]), transforms, seed=3, cutmix=cutmix)


class Samples(list):
    """In place of a `TrainDataset`."""

    names = rare = None


@pytest.mark.parametrize(("step_size", "crops"), [(4, 4), (8, 4), (3, 6), (4, 2), (2, 8)])
def test_unlabelled_sampler__own_epochs_and_pairs_evenly_spread(step_size, crops):
    labelled = EpochSampler(13, step_size, seed=5)
    sampler = UnlabelledSampler(labelled, num_frames=7, crops_per_step=crops, seed=5)
    seen = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert [key for key, _ in keys] == list(labelled)
        counts = [len(one) for _, one in keys]
        assert [sum(counts[start : start + step_size]) for start in range(0, len(keys), step_size)] == [crops] * (
            len(keys) // step_size
        )
        assert all(count % 2 == 0 for count in counts)
        assert max(counts) - min(counts) <= 2
        seen += [one for _, brought in keys for one in brought]
    # Each frame once before any comes again, whatever the labelled epochs are.
    assert [epoch for epoch, _ in seen] == [number // 7 for number in range(len(seen))]
    rounds = [[index for _, index in seen[start : start + 7]] for start in range(0, len(seen) - 6, 7)]
    assert all(sorted(one) == list(range(7)) for one in rounds)
    assert len(rounds) > 1
    assert all(first != second for first, second in pairwise(rounds))


def test_unlabelled_dataset__a_crop_is_determined_by_its_key_and_both_views_show_one_place(tmp_path):
    crops = build_crops(tmp_path)
    first = crops[2, 1]
    for _ in range(3):
        _ = crops[0, 2]
    again = crops[2, 1]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(crops[3, 1]["weak"], first["weak"])
    height = int(first["extent"][0])
    assert height < 48  # so that there is padding
    assert not first["strong"][:, height:].any()
    likeness = []
    for epoch in range(20):
        weak, strong = (crops[epoch, 0][name][:, :height].double().mean(0).flatten() for name in ("weak", "strong"))
        likeness.append(float(torch.corrcoef(torch.stack([weak, strong]))[0, 1]))
    assert min(likeness) > 0.6  # a mirrored or shifted view would have about 0
    assert sum(one < 0.9999 for one in likeness) > 10


def test_with_unlabelled__pairs_share_a_box_and_are_collated_in_order(tmp_path):
    crops = build_crops(tmp_path)
    labelled = Samples({"pixel_values": torch.full((3, 4, 4), number)} for number in range(4))
    joined = WithUnlabelled(labelled, crops, crops_per_step=4)
    batch = collate_train([joined[key] for key in [(0, []), (1, [(0, 2), (0, 1)]), (2, []), (3, [(0, 0), (1, 2)])]])
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    found, keys = batch["unlabelled"], [(0, 2), (0, 1), (0, 0), (1, 2)]
    assert torch.equal(found["weak"], torch.stack([crops[key]["weak"] for key in keys]))
    boxes = found["box"]
    assert torch.equal(boxes[0], boxes[1])
    assert torch.equal(boxes[2], boxes[3])
    assert not torch.equal(boxes[1], boxes[2])
    assert "unlabelled" not in collate_train([joined[0, []]])


def test_draw_box__inside_the_crop_and_as_often_as_said(tmp_path):
    crops = build_crops(tmp_path, cutmix=0.5)
    boxes = np.stack([crops.draw_box((0, index)) for index in range(400)])
    drawn = boxes[boxes.any(1)]
    assert 160 < len(drawn) < 240
    top, bottom, left, right = drawn.T
    assert (top >= 0).all() and (bottom <= 48).all() and (left >= 0).all() and (right <= 64).all()  # noqa: PT018
    shares = (bottom - top) * (right - left) / (48 * 64)
    assert 0.01 < shares.min() < 0.05
    assert 0.3 < shares.max() <= 0.42


def test_unlabelled_dataset__channels_behind_rgb_stay(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 4), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    rows = list_unlabelled([tmp_path], channels=4)
    transforms = build_train_transforms((32, 32), ["1.0"], 1, photometric=False)
    crops = UnlabelledDataset(rows, transforms, seed=0)
    samples = [crops[epoch, 0] for epoch in range(5)]
    assert all(torch.equal(one["weak"][3], one["strong"][3]) for one in samples)
    assert not all(torch.equal(one["weak"], one["strong"]) for one in samples)


def test_list_unlabelled__by_folder_and_refusals(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, names in ((first, "21"), (second, "1")):
        folder.mkdir()
        for name in names:
            Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
    assert list_unlabelled([second, first])["name"][:] == ["b/1", "a/1", "a/2"]
    with pytest.raises(DataError, match="every unlabelled frame under one name; found two called `a/1`"):
        list_unlabelled([first, first])
    (tmp_path / "c").mkdir()
    for wrong in ("c", "d"):
        with pytest.raises(DataError, match=f"{wrong}: expected"):
            list_unlabelled([tmp_path / wrong])
