from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from hf_urbanseg.data.rare_classes import RareClasses

COUNTS = np.array([[9000, 300, 0, 40], [8000, 0, 0, 30], [9500, 100, 0, 0], [7000, 20, 0, 10]])


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1e-320, 1000])
def test_rare_classes__daformers_formula_over_the_classes_that_occur(temperature):
    found = RareClasses(COUNTS, 1.0, temperature).probabilities
    totals = torch.from_numpy(COUNTS.sum(0)[[0, 1, 3]]).double()
    expected = torch.softmax((1 - totals / totals.sum()) / max(temperature, 1e-10), 0)
    np.testing.assert_allclose(found[[0, 1, 3]], expected, atol=1e-9)
    assert found[2] == 0


def test_rare_classes__images_with_enough_or_where_there_are_none_all_that_have_any():
    images = RareClasses(COUNTS, 1.0, min_pixels=100).images
    assert [list(one) for one in images] == [[0, 1, 2, 3], [0, 2], [], [0, 1, 3]]


def test_draw__share_classes_and_images_as_often_as_they_should_be():
    rare = RareClasses(COUNTS, 0.3, temperature=0.5, min_pixels=100)
    drawn = [one for epoch in range(200) for one in rare.draw(100, (7, epoch))]
    found = Counter(drawn)
    cells = {None: 0.7}
    for train_id, images in enumerate(rare.images):
        for index in images:
            cells[int(index), train_id] = 0.3 * rare.probabilities[train_id] / len(images)
    assert found.keys() == cells.keys()
    expected = np.array(list(cells.values())) * len(drawn)
    assert chisquare([found[cell] for cell in cells], expected).pvalue > 0.01
    assert rare.draw(100, (7, 3)) == drawn[300:400]
    assert rare.draw(100, (8, 3)) != drawn[300:400]
