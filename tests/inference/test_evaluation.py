"""Measuring a split: against plain loops over images, and the same for every batching, order and number of shares."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage

from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.inference.evaluation import Measurement, build_eval_loader, measure
from hf_urbanseg.inference.plan import PLAIN, PredictionPlan
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX
from hf_urbanseg.metrics.boundary_iou import compute_boundary_counts
from hf_urbanseg.models.build import build_image_processor, build_random_model

SIZES = [(48, 80), (50, 77), (48, 80), (33, 64), (48, 80)]
SMALL = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Five streets of three sizes, one of them void altogether."""
    folder = tmp_path_factory.mktemp("frames")
    columns = {"image": [], "label": [], "name": []}
    for number, size in enumerate(SIZES):
        image, label = render_scene(number, size)
        if number == 3:
            label = np.zeros_like(label)  # labelId 0 is void
        for kind, picture in (("image", image), ("label", label)):
            path = folder / f"{kind}_{number}.png"
            PILImage.fromarray(picture).save(path)
            columns[kind].append(str(path))
        columns["name"].append(f"street {number}")
    return Dataset.from_dict(columns).cast_column("image", Image()).cast_column("label", Image())


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_random_model("tiny", CITYSCAPES, **SMALL)
    for parameter in model.decode_head.parameters():
        parameter.data.mul_(4)  # far from ties
    return model.eval()


def run(model, rows, batch_size=2, plan=PLAIN, rank=0, world_size=1, device="cpu", **options) -> Measurement:
    predictor = Predictor(model, build_image_processor((32, 64)), plan=plan)
    dataset = EvalDataset(rows, CITYSCAPES, predictor.image_processor, predictor.sizes)
    loader = build_eval_loader(dataset, batch_size, int(device != "cpu"), rank, world_size, device)
    return measure(model, loader, dataset.names, CITYSCAPES.names, plan, device, **options)


@pytest.mark.parametrize("plan", [PLAIN, PredictionPlan(ratios=(1.0, 2.0), flip=True)])
def test_measure__equals_a_loop_over_pixels(model, rows, plan):
    found = run(model, rows, plan=plan, boundary=True)
    predictor = Predictor(model, build_image_processor((32, 64)), plan=plan)
    matrix = np.zeros((19, 19), np.int64)
    for index, row in enumerate(rows):
        prediction = predictor.predict([row["image"]])[0]
        label = CITYSCAPES.train_id_table[np.asarray(row["label"])]
        own = np.zeros((19, 19), np.int64)
        for truth, guess in zip(label.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            if truth != IGNORE_INDEX:
                own[truth, guess] += 1
        np.testing.assert_array_equal(found.images.hits[index], np.diag(own))
        np.testing.assert_array_equal(found.images.labelled[index], own.sum(1))
        np.testing.assert_array_equal(found.images.predicted[index], own.sum(0))
        bands = compute_boundary_counts(prediction, label, 19)
        np.testing.assert_array_equal(found.images.boundary[index], bands)
        matrix += own
    np.testing.assert_array_equal(found.matrix.numpy(), matrix)
    assert len(np.unique(np.nonzero(matrix)[1])) > 1  # the model says more than one thing
    assert found.images.names == tuple(f"street {number}" for number in range(5))
    assert found.images.labelled[3].sum() == 0  # the void street is there and counts nothing


@pytest.mark.parametrize(("device", "workers"), [("cpu", 0), (torch.device("cpu"), 0), ("cuda:1", 1)])
def test_build_eval_loader__reads_ahead_for_a_gpu_only(rows, device, workers):
    dataset = EvalDataset(rows, CITYSCAPES, build_image_processor((32, 64)))
    loader = build_eval_loader(dataset, 2, 1, device=device)
    assert (loader.num_workers, loader.pin_memory) == (workers, workers > 0)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "plan", [PLAIN, PredictionPlan((1.0, 2.0), flip=True), PredictionPlan(window=(32, 32))], ids=str
)
def test_measure__same_on_a_gpu(model, rows, plan, exact_convolutions):
    options = {"plan": plan, "boundary": True, "temperatures": (1.0,)}
    expected = run(model, rows, **options)
    found = run(deepcopy(model).cuda(), rows, device="cuda", **options)
    pixels = expected.matrix.sum()
    assert found.matrix.sum() == pixels
    # Rounding decides ties alone; so it does which bin a confidence is in.
    assert (found.matrix - expected.matrix).abs().sum() <= 1e-3 * pixels
    assert (found.calibration[1.0][0] - expected.calibration[1.0][0]).abs().sum() <= 2e-3 * pixels
    np.testing.assert_array_equal(found.images.labelled, expected.images.labelled)
    assert np.abs(found.images.boundary - expected.images.boundary).sum() <= 5e-3 * expected.images.boundary.sum()


def test_measure__batches_and_shares_change_nothing(model, rows):
    expected = run(model, rows, 1)
    assert expected.images.boundary is None
    assert torch.equal(run(model, rows, 5).matrix, expected.matrix)
    shares = [run(model, rows, 2, rank=rank, world_size=3) for rank in range(3)]
    assert [len(share.images) for share in shares] == [2, 2, 1]
    assert torch.equal(sum(share.matrix for share in shares), expected.matrix)


@pytest.mark.parametrize("plan", [PLAIN, PredictionPlan((1.0, 2.0), flip=True), PredictionPlan(window=(32, 32))])
def test_measure__calibration_is_that_of_what_is_predicted(model, rows, plan):
    found, predictor = (
        run(model, rows, plan=plan, temperatures=(1.0, 0.5)),
        Predictor(model, build_image_processor((32, 64)), plan=plan),
    )
    for temperature, counts in found.calibration.items():
        predictor.temperature = temperature
        pixels, right, confidence = np.zeros(15), 0, 0.0
        for row in rows:
            label = CITYSCAPES.train_id_table[np.asarray(row["label"])]
            (train_ids, sure), valid = predictor.predict(row["image"], scores="confidence"), label != IGNORE_INDEX
            pixels += np.histogram(sure[valid], 15, (0, 1))[0]
            right, confidence = right + (train_ids == label)[valid].sum(), confidence + sure[valid].sum(dtype=float)
        assert counts[0].sum() == found.matrix.sum() == pixels.sum()
        assert np.abs(counts[0].numpy() - pixels).sum() <= 2  # of another batch, and beside an edge
        assert counts[1].sum() == right == found.matrix.trace()
        assert float(counts[2].sum()) / 2**24 == pytest.approx(confidence, rel=1e-6)


def test_gather__more_processes_than_images(model, rows, monkeypatch):
    options = {"boundary": True, "temperatures": (1.0, 2.0)}
    shares = [run(model, rows, rank=rank, world_size=7, **options) for rank in range(7)]
    assert [len(share.images) for share in shares] == [1, 1, 1, 1, 1, 0, 0]
    assert not shares[6].matrix.any()
    expected = run(model, rows, 1, **options)

    def all_gather_object(parts, own):
        assert own is shares[6]
        parts[:] = shares

    for name, value in {"is_initialized": lambda: True, "get_world_size": lambda: 7}.items():
        monkeypatch.setattr(torch.distributed, name, value)
    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    gathered = shares[6].gather(rows["name"])
    assert torch.equal(gathered.matrix, expected.matrix)
    for temperature, counts in expected.calibration.items():
        assert torch.equal(gathered.calibration[temperature], counts)
    assert gathered.images.names == expected.images.names
    for key in ("hits", "labelled", "predicted", "boundary"):
        np.testing.assert_array_equal(getattr(gathered.images, key), getattr(expected.images, key))


def test_gather__one_process_puts_images_in_order(model, rows):
    share = run(model, rows)
    gathered = share.gather(share.images.names[::-1])
    assert gathered.images.names == share.images.names[::-1]
    np.testing.assert_array_equal(gathered.images.hits, share.images.hits[::-1])


def test_measure__leaves_the_mode_and_the_random_numbers_alone(model, rows):
    model.train()
    try:
        state = torch.get_rng_state()
        first = run(model, rows)
        assert model.training
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(run(model, rows).matrix, first.matrix)  # no dropout
    finally:
        model.eval()


def test_measure__calls_back_after_each_batch(model, rows):
    called = []
    run(model, rows, 2, on_batch=called.append)
    assert called == [2, 2, 1]


def test_measure__waits_for_few_images_only(model, rows, monkeypatch):
    """Memory doesn't grow with the split: what waits for its boundary is bounded."""
    from hf_urbanseg.inference import evaluation

    monkeypatch.setattr(evaluation, "_WAITING", 1)
    assert torch.equal(run(model, rows, 1, boundary=True).matrix, run(model, rows, 5).matrix)
