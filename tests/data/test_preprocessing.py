import pickle
import threading
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from hf_urbanseg.data.collator import collate_eval, collate_train
from hf_urbanseg.data.normalization import channel_statistics, normalize_batch
from hf_urbanseg.data.preprocessing import EvalDataset, JoinedDataset, TrainDataset, _tabulate_pixels, build_views
from hf_urbanseg.data.rare_classes import RareClasses
from hf_urbanseg.data.sampling import EpochSampler
from hf_urbanseg.data.synthetic import build_synthetic_splits
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.errors import DataError, ModelError
from hf_urbanseg.inference.plan import PredictionPlan
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_image_processor


@pytest.fixture(scope="module")
def rows():
    return build_synthetic_splits(train=6, validation=2, test=1, size=(48, 64))["train"]


def build_train(rows, seed=3) -> TrainDataset:
    transforms = build_train_transforms((32, 40), ["0.5-2.0"])
    return TrainDataset(rows, CITYSCAPES, transforms, seed)


def same(a, b) -> bool:
    return torch.equal(a["pixel_values"], b["pixel_values"]) and torch.equal(a["labels"], b["labels"])


# TrainDataset


def test_train_dataset__shapes_and_types(rows):
    sample = build_train(rows)[(0, 1)]
    # Bytes, because containers give workers little memory to share.
    assert (sample["pixel_values"].shape, sample["pixel_values"].dtype) == ((3, 32, 40), torch.uint8)
    assert (sample["labels"].shape, sample["labels"].dtype) == ((32, 40), torch.uint8)
    assert sample["extent"].shape == (2,)
    assert sample["pixel_values"].is_contiguous()
    assert len(build_train(rows)) == 6


def test_train_dataset__image_and_train_ids_when_nothing_is_drawn(rows):
    transforms = build_train_transforms((48, 64), ["1.0"], flip=0.0, photometric=False)
    sample = normalize_batch(collate_train([TrainDataset(rows, CITYSCAPES, transforms, 0)[(0, 2)]]))
    image, label = np.asarray(rows[2]["image"]), np.asarray(rows[2]["label"])
    expected = (image / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(sample["pixel_values"][0].numpy(), expected.transpose(2, 0, 1), atol=1e-5)
    table = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    table |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    assert sample["labels"].dtype == torch.int64
    assert sample["labels"][0].tolist() == np.vectorize(lambda value: table.get(value, 255))(label).tolist()


def test_train_dataset__depends_on_seed_epoch_and_index_alone(rows):
    dataset = build_train(rows)
    first = dataset[(1, 2)]
    dataset[(0, 5)]  # whatever came before
    np.random.seed(9)
    assert same(dataset[(1, 2)], first)
    assert same(build_train(rows)[(1, 2)], first)
    assert not same(dataset[(2, 2)], first)
    assert not same(dataset[(1, 3)], first)
    assert not same(build_train(rows, seed=4)[(1, 2)], first)


class Viewer:
    """In place of a teacher: says which part of the image it was asked about."""

    def cut(self, index, view, crop_size):
        return view


def test_train_dataset__a_draw_by_class_shows_it_and_a_teacher_is_asked_about_that_crop(rows):
    labels = [CITYSCAPES.train_id_table[np.asarray(row["label"])] for row in rows]
    counts = np.stack([np.bincount(label.ravel(), minlength=256)[:19] for label in labels])
    rare = RareClasses(counts, 1.0, 0.05, min_pixels=12)
    dataset = TrainDataset(rows, CITYSCAPES, build_train(rows).transforms, 3, teacher=Viewer(), rare=rare)
    for epoch, (index, train_id) in enumerate(rare.draw(60, (0, 0))):
        sample = dataset[epoch, index, train_id]
        found, view = sample["labels"].numpy(), sample["teacher"]
        resized = cv2.resize(labels[index], view.size[::-1], interpolation=cv2.INTER_NEAREST)
        assert (found == train_id).sum() >= min(12, ((resized == train_id).sum() + 1) // 2)
        height, width = view.extent
        expected = resized[view.top : view.top + height, view.left : view.left + width]
        assert np.array_equal(found[:height, :width], expected[:, ::-1] if view.mirrored else expected)
        assert sample["drawn"] == train_id
        assert sample["pasted"].tolist() == [0] * 19


def test_train_dataset__a_bare_index_is_epoch_zero(rows):
    dataset = build_train(rows)
    assert same(dataset[4], dataset[(0, 4)])


def test_train_dataset__grey_and_palette_images_become_rgb():
    label = Image.fromarray(np.full((32, 40), 7, np.uint8))
    transforms = build_train_transforms((32, 40), ["1.0"], flip=0.0, photometric=False)
    for mode in ("L", "P", "RGBA"):
        row = {"image": Image.new("RGB", (40, 32), (9, 9, 9)).convert(mode), "label": label}
        assert TrainDataset([row], CITYSCAPES, transforms, 0)[0]["pixel_values"].shape == (3, 32, 40)


def run_epochs(rows, workers: int):
    """Batches of two epochs as the trainer's loader makes them, from one loader."""
    sampler = EpochSampler(len(rows), 2, seed=3)
    loader = DataLoader(
        build_train(rows),
        batch_size=2,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate_train,
        persistent_workers=workers > 0,
    )
    batches = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        batches.append(list(loader))
    return batches


def test_train_dataset__same_samples_for_any_number_of_workers_that_outlive_an_epoch(rows):
    alone, shared = run_epochs(rows, 0), run_epochs(rows, 2)
    assert [len(epoch) for epoch in alone] == [3, 3]
    for one, other in zip(alone, shared, strict=True):
        assert all(same(a, b) for a, b in zip(one, other, strict=True))
    # Every sample of both epochs is another one: workers repeat neither each other nor the first epoch.
    crops = torch.cat([batch["pixel_values"] for epoch in shared for batch in epoch])
    assert len({crop.numpy().tobytes() for crop in crops}) == 12


# JoinedDataset


def test_joined_dataset__a_sample_is_its_parts_with_draws_of_its_own(rows):
    transforms = build_train_transforms((32, 40), ["0.5-2.0"])
    first, second = (TrainDataset(rows, CITYSCAPES, transforms, 3, first_index=start) for start in (0, 6))
    joined = JoinedDataset([first, second], [0.5, 0.5], [*first.names, *second.names])
    assert len(joined) == 12
    for index in range(6):
        key = ((1 << 32) + 2, index)
        assert same(joined[key], build_train(rows)[key])
        assert same(joined[key[0], index + 6], second[key])
        assert not same(joined[key], joined[key[0], index + 6])  # the same image, drawn otherwise


# build_views and EvalDataset


def test_build_views__every_scale_is_resized_from_the_original(rows):
    processor = build_image_processor((32, 96))
    image = rows[0]["image"]
    views = build_views(image, processor, lambda size: [(32, 96), (64, 96), size, (96, 160)])
    assert [tuple(view.shape) for view in views] == [(3, 32, 96), (3, 64, 96), (3, 48, 64), (3, 96, 160)]
    assert torch.equal(views[0], processor(image, return_tensors="pt")["pixel_values"][0])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for view in views:
        resized = np.asarray(image.resize(tuple(view.shape[:0:-1]), Image.Resampling.BILINEAR)) / 255
        np.testing.assert_allclose(view.numpy(), ((resized - mean) / std).transpose(2, 0, 1), atol=1e-6)


def test_build_views__a_processor_that_keeps_sizes_makes_scales_too(rows):
    keeps, resizes = SegformerImageProcessorPil(do_resize=False), build_image_processor((32, 96))
    image = rows[0]["image"]
    found = build_views(image, keeps, lambda size: [size, (64, 96)])
    expected = build_views(image, resizes, lambda size: [size, (64, 96)])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(build_views(image, keeps)[0], found[0])


@pytest.mark.parametrize(
    "settings",
    [{}, {"do_rescale": False}, {"do_normalize": False}, {"do_rescale": False, "do_normalize": False},
     {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 0.5, 0.0], "image_std": [0.3, 1.0, 2.0]}],
)  # fmt: skip
def test_build_views__bit_for_bit_what_the_processor_computes(settings):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    image = Image.fromarray(noise)
    processor = SegformerImageProcessorPil(size={"height": 32, "width": 96}, **settings)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    (view,) = build_views(image, processor)
    assert view.dtype == expected.dtype
    assert torch.equal(view, expected)
    later = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 0.01}
    for name, value in (later | {"do_normalize": False, "do_rescale": False}).items():
        setattr(processor, name, value)
        assert torch.equal(build_views(image, processor)[0], processor(image, return_tensors="pt")["pixel_values"][0])


class SegformerImageProcessorOfContrast(SegformerImageProcessorPil):
    """A byte's value depends on its image."""

    def preprocess(self, images, **options):
        found = super().preprocess(images, **options)
        found["pixel_values"] = [plane - plane.mean() for plane in found["pixel_values"]]
        return found


def test_build_views__asks_a_processor_of_another_kind(rows):
    processor = SegformerImageProcessorOfContrast(size={"height": 32, "width": 96})
    for row in rows.select(range(2)):
        expected = processor(row["image"], return_tensors="pt")["pixel_values"][0]
        assert torch.equal(build_views(row["image"], processor)[0], expected)
        (same,) = build_views(row["image"], processor, lambda size: [(32, 96)])
        assert torch.equal(same, expected)
    assert _tabulate_pixels(processor) is None


def test_tabulate_pixels__is_there_for_the_saved_processor(tmp_path):
    build_image_processor((32, 96)).save_pretrained(tmp_path)
    table = _tabulate_pixels(SegformerImageProcessorPil.from_pretrained(tmp_path))
    mean, std = np.array([[0.485], [0.456], [0.406]]), np.array([[0.229], [0.224], [0.225]])
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, (np.arange(256) / 255 - mean) / std, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_build_views__of_any_mode_as_the_processor_sees_it_in_rgb(mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).convert(mode)
    assert image.mode == mode
    processor = build_image_processor((32, 96))
    for sizes in (None, lambda size: [size, (64, 96), (1, 5), (3, 3)]):
        options = [{}]
        if sizes:
            options = [{"size": {"height": h, "width": w}, "do_resize": (h, w) != (40, 50)} for h, w in sizes((40, 50))]
        for view, one in zip(build_views(image, processor, sizes), options, strict=True):
            expected = processor(image.convert("RGB"), return_tensors="pt", **one)["pixel_values"][0]
            assert torch.equal(view, expected)


def test_build_views__each_of_four_channels_is_resized_for_itself():
    colors = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    pixels = np.dstack([colors, np.zeros((40, 50), np.uint8)])  # which is no transparency
    processor = build_image_processor((32, 96), channel_statistics(4))
    sizes = [(40, 50), (64, 96), (16, 20)]
    rgb = build_views(Image.fromarray(colors), build_image_processor((32, 96)), lambda _: sizes)
    for found, expected in zip(build_views(pixels, processor, lambda _: sizes), rgb, strict=True):
        assert torch.equal(found[:3], expected)
        torch.testing.assert_close(found[3], torch.full(expected.shape[1:], -0.449 / 0.226))


@pytest.mark.parametrize(
    ("image", "processor", "message"),
    [
        (
            np.zeros((8, 8, 4), np.uint8),
            build_image_processor((32, 32)),
            "images of 3 channels, as the model takes; found one of 4",
        ),
        (
            Image.new("RGB", (8, 8)),
            build_image_processor((32, 32), channel_statistics(4)),
            "images of 4 channels, .* found one of 3",
        ),
    ],
)
def test_build_views__channels_that_the_model_does_not_take(image, processor, message):
    with pytest.raises(DataError, match=message):
        build_views(image, processor)


def test_build_views__a_processor_that_would_take_the_fourth_for_transparency():
    processor = build_image_processor((32, 32), channel_statistics(4))
    processor.do_resize = True
    with pytest.raises(ModelError, match="set `do_resize` to false"):
        build_views(np.zeros((8, 8, 4), np.uint8), processor)


@pytest.fixture
def used(monkeypatch):
    """Threads that read images, of the three that torch is said to have."""
    found, read = set(), EvalDataset.__getitem__
    monkeypatch.setattr(EvalDataset, "__getitem__", lambda self, i: found.add(threading.get_ident()) or read(self, i))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    return found


def test_eval_dataset__threads_read_the_same_batch(rows, used):
    dataset = EvalDataset(rows, CITYSCAPES, build_image_processor((32, 96)))
    batch = dataset.__getitems__([4, 0, 2, 1])
    assert threading.get_ident() not in used
    assert [sample["index"] for sample in batch] == [4, 0, 2, 1]
    for sample in batch:
        expected = dataset[sample["index"]]
        assert torch.equal(sample["views"][0], expected["views"][0])
        assert torch.equal(sample["labels"], expected["labels"])


def test_eval_dataset__a_worker_has_no_threads_of_its_own(rows, used, monkeypatch):
    dataset = EvalDataset(rows, CITYSCAPES, build_image_processor((32, 96)))
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: "a worker")
    assert [sample["index"] for sample in dataset.__getitems__([4, 0])] == [4, 0]
    assert used == {threading.get_ident()}


def test_eval_dataset__is_the_image_processors_own_output_and_leaves_labels_alone(rows):
    processor = build_image_processor((32, 96))
    dataset = EvalDataset(rows, CITYSCAPES, processor)
    assert len(dataset) == 6
    for index in range(len(rows)):
        sample = dataset[index]
        expected = processor(rows[index]["image"], return_tensors="pt")["pixel_values"][0]
        (view,) = sample["views"]
        assert view.shape == (3, 32, 96)
        assert torch.equal(view, expected)
        label = CITYSCAPES.train_id_table[np.asarray(rows[index]["label"])]
        assert (sample["labels"].shape, sample["labels"].dtype) == ((48, 64), torch.uint8)
        assert torch.equal(sample["labels"], torch.from_numpy(label))
        assert sample["index"] == index


def test_eval_dataset__workers_make_the_scales(rows):
    sizes = partial(PredictionPlan((1.0, 1.5), flip=True).input_sizes, (32, 96))
    dataset = EvalDataset(rows.select(range(2)), CITYSCAPES, build_image_processor((32, 96)), sizes)
    again = pickle.loads(pickle.dumps(dataset))  # as a spawned worker has it
    assert all(map(torch.equal, again[1]["views"], dataset[1]["views"]))
    loader = DataLoader(dataset, 2, num_workers=1, collate_fn=collate_eval, multiprocessing_context="fork")
    (batch,) = loader
    assert [tuple(view.shape) for view in batch["views"]] == [(2, 3, 32, 96), (2, 3, 64, 160)]
    assert batch["index"] == [0, 1]
    for index in range(2):
        for view, expected in zip(batch["views"], dataset[index]["views"], strict=True):
            assert torch.equal(view[index], expected)
