import albumentations as A
import cv2
import numpy as np
import torch

from hf_urbanseg.data.collator import collate_train
from hf_urbanseg.data.normalization import IMAGENET_MEAN, IMAGENET_STD, normalize_batch
from hf_urbanseg.data.transforms import TrainTransforms


def test_normalize_batch__as_albumentations_bit_for_bit():
    rng = np.random.default_rng(0)
    pad = {"position": "top_left", "border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": 255}
    usual = A.Compose([A.Normalize(IMAGENET_MEAN, IMAGENET_STD, max_pixel_value=255.0), A.PadIfNeeded(48, 64, **pad)])
    ours, expected, samples = TrainTransforms([], (48, 64)), [], []
    for size in ((48, 64), (40, 50), (48, 3), (1, 1)):
        pair = {"image": rng.integers(0, 256, (*size, 3), np.uint8), "mask": rng.integers(0, 19, size, np.uint8)}
        expected.append(usual(**pair))
        sample = ours(**pair)
        names = {"pixel_values": "image", "labels": "mask", "extent": "extent"}
        samples.append({key: torch.from_numpy(sample[name]) for key, name in names.items()})
    batch = normalize_batch(collate_train(samples))
    assert {key: value.dtype for key, value in batch.items()} == {
        "pixel_values": torch.float32, "labels": torch.int64, "inside": torch.bool,
    }  # fmt: skip
    for inside, (height, width) in zip(batch["inside"], ((48, 64), (40, 50), (48, 3), (1, 1)), strict=True):
        assert inside[:height, :width].all()
        assert inside.sum() == height * width
    for index, one in enumerate(expected):
        assert np.array_equal(batch["pixel_values"][index].numpy(), one["image"].transpose(2, 0, 1))
        assert np.array_equal(batch["labels"][index].numpy(), one["mask"])


def test_normalize_batch__leaves_a_batch_of_floats_alone():
    batch = {"pixel_values": torch.rand(2, 3, 4, 6), "labels": torch.ones(2, 4, 6, dtype=torch.int64)}
    found = normalize_batch(batch)
    assert found.keys() == batch.keys()
    assert all(found[key] is batch[key] for key in batch)


def test_normalize_batch__further_channels_by_the_average_of_imagenets():
    pixels = torch.full((1, 5, 2, 2), 200, dtype=torch.uint8)
    batch = {"pixel_values": pixels, "labels": torch.zeros(1, 2, 2), "extent": torch.tensor([[2, 2]])}
    found = normalize_batch(batch)["pixel_values"][0, :, 0, 0]
    mean, std = [*IMAGENET_MEAN, 0.449, 0.449], [*IMAGENET_STD, 0.226, 0.226]
    np.testing.assert_allclose(found.numpy(), (200 / 255 - np.array(mean)) / std, rtol=1e-5)
