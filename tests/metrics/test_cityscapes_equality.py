"""The same pixels through Cityscapes' own evaluation."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX
from hf_urbanseg.metrics.confusion_matrix import ConfusionMatrix
from hf_urbanseg.metrics.mean_iou import compute_scores

official = pytest.importorskip(
    "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", reason="needs cityscapesScripts (extra `test`)"
)
DATA = Path(os.environ.get("HF_URBANSEG_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
LABEL_IDS = np.array([label_id for label_id, train_id in CITYSCAPES.label_ids.items() if train_id != IGNORE_INDEX])
TRAIN_IDS = CITYSCAPES.train_id_table[LABEL_IDS]
VOID_IDS = [i for i, train_id in CITYSCAPES.label_ids.items() if train_id == IGNORE_INDEX and i <= 33]


def measure_officially(folder, pairs):
    """Label ids through the files and functions of the official script."""
    args = official.args
    args.evalInstLevelScore, args.evalPixelAccuracy, args.quiet = False, False, True
    matrix = official.generateMatrix(args)
    for index, (prediction, label) in enumerate(pairs):
        names = [str(folder / f"{index}_{kind}.png") for kind in ("prediction", "label")]
        for name, mask in zip(names, (prediction, label), strict=True):
            Image.fromarray(mask.astype(np.uint8)).save(name)
        official.evaluatePair(*names, matrix, {}, {}, args)
    classes = {label.name: official.getIouScoreForLabel(label.id, matrix, args) for label in official.labels
               if not label.ignoreInEval}  # fmt: skip
    categories = {name: official.getIouScoreForCategory(name, matrix, args) for name in official.category2labels}
    means = [official.getScoreAverage(scores, args) for scores in (classes, categories)]
    return matrix.astype(np.int64), classes, categories, means


def measure(pairs):
    matrix = ConfusionMatrix(19)
    for prediction, label in pairs:
        masks = (torch.from_numpy(CITYSCAPES.train_id_table[mask]) for mask in (prediction, label))
        matrix.update(*masks)
    return matrix.matrix.numpy(), compute_scores(matrix.matrix, CITYSCAPES.categories)


def assert_equal(folder, pairs):
    theirs, classes, categories, means = measure_officially(folder, pairs)
    ours, scores = measure(pairs)
    order = LABEL_IDS[np.argsort(TRAIN_IDS)]
    assert np.abs(theirs[np.ix_(order, order)] - ours).sum() == 0
    assert ours.sum() == theirs[order].sum()
    np.testing.assert_allclose(scores["iou"], [classes[name] for name in CITYSCAPES.names], rtol=0, atol=1e-12)
    # The script has an eighth category, void, which has no class to evaluate.
    assert set(categories) - set(scores["category_iou"]) == {"void"}
    for name, value in scores["category_iou"].items():
        np.testing.assert_allclose(value, categories[name], rtol=0, atol=1e-12)
    np.testing.assert_allclose([scores["mean_iou"], scores["mean_category_iou"]], means, rtol=0, atol=1e-12)


@pytest.mark.parametrize("void", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_scores__equal_cityscapes_on_random_ragged_images(tmp_path, seed, void):
    rng = np.random.default_rng(seed)
    # With seed 0 every class, then fewer and fewer: absent classes and whole absent categories.
    kinds = rng.permutation(LABEL_IDS)[: (19, 9, 3)[seed]]
    pairs = []
    for size in ((40, 131), (1, 17), (64, 64), (33, 7)):
        label = rng.choice(kinds, size)
        prediction = np.where(rng.random(size) < 0.6, label, rng.choice(kinds, size))
        label[rng.random(size) < void] = rng.choice(VOID_IDS)
        pairs.append((prediction, label))
    assert_equal(tmp_path, pairs)


def test_scores__equal_cityscapes_where_classes_are_only_predicted_or_only_labelled(tmp_path):
    label, prediction = np.full((20, 30), 7), np.full((20, 30), 26)
    label[:3], prediction[:, 5:] = 24, 7
    label[10:12] = 0
    assert_equal(tmp_path, [(prediction, label)])


@pytest.mark.real_data
def test_scores__equal_cityscapes_on_kitti(tmp_path):
    files = sorted((DATA / "kitti48" / "training" / "semantic").glob("*.png"))
    if not files:
        pytest.skip(f"no KITTI labels in {DATA}")
    rng, pairs = np.random.default_rng(0), []
    for path in files[::4]:
        label = np.array(Image.open(path))
        # A prediction as a model's: the scene, slightly shifted, some of it another class, void filled.
        prediction = np.roll(label, (3, 5), (0, 1))
        wrong = (rng.random(label.shape) < 0.05) | np.isin(prediction, [*VOID_IDS, 255])
        pairs.append((np.where(wrong, rng.choice(LABEL_IDS, label.shape), prediction), label))
    assert_equal(tmp_path, pairs)
