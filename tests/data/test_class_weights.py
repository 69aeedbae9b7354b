import json
import math
import re
from decimal import Decimal, localcontext
from statistics import median

import numpy as np
import pytest

from hf_urbanseg.data.class_weights import SCHEMES, compute_class_weights, load_class_weights, save_class_weights
from hf_urbanseg.errors import ConfigError, DataError, UrbanSegError
from hf_urbanseg.labels import CITYSCAPES, LabelSpace

SPACE = LabelSpace("toy", ("road", "car", "sky"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), {0: 0, 1: 1, 2: 2})

# Liu and Wang 2022: the weights in their code, and the pixel counts recovered from them.
PUBLISHED_COUNTS = [
    16410899, 2689116, 5989020, 646431, 566736, 950881, 217519, 307586, 20964415, 6522653,
    7490590, 61767, 18689, 4029139, 176012, 44351, 13551, 7901, 44256,
]  # fmt: skip
PUBLISHED_WEIGHTS = [
    0.75952312, 0.8523161, 0.80858376, 0.94312681, 0.95249373, 0.91668514, 1.02670926, 0.99855901, 0.74849044,
    0.8041853, 0.79715573, 1.14388026, 1.28290288, 0.82965688, 1.04470749, 1.17929034, 1.32624767, 1.40595936,
    1.17952672,
]  # fmt: skip


def reference(image_counts, scheme, beta=0.9999):
    """The formulas once more, class by class in plain Python."""
    num_classes = len(image_counts[0])
    totals = [sum(row[c] for row in image_counts) for c in range(num_classes)]
    raw = {}
    for c, n in enumerate(totals):
        if n == 0:
            continue
        if scheme == "inverse_log":
            raw[c] = 1 / math.log(1 + n)
        elif scheme == "effective_number":
            raw[c] = 1 / sum(beta**k for k in range(n))  # the geometric series behind (1 - b) / (1 - b^n)
        elif scheme == "enet":
            raw[c] = 1 / math.log(1.02 + n / sum(totals))
        elif scheme == "median_frequency":
            raw[c] = 1 / (n / sum(sum(row) for row in image_counts if row[c] > 0))
        else:
            raw[c] = 1.0
    if scheme in ("inverse_log", "effective_number"):
        scale = len(raw) / sum(raw.values())
    elif scheme == "median_frequency":
        scale = median(1 / value for value in raw.values())
    else:
        scale = 1
    return [raw.get(c, max(raw.values())) * scale for c in range(num_classes)]


def test_compute_class_weights__published_vector():
    weights = compute_class_weights(np.array(PUBLISHED_COUNTS))
    assert weights.dtype == np.float64
    assert np.abs(weights - PUBLISHED_WEIGHTS).max() <= 5e-9
    assert weights.mean() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("counts", "options", "expected"),
    [
        # a = 1 / ln 2, 1 / ln 4 = a0 / 2, 1 / ln 16 = a0 / 4; the sum is 1.75 a0.
        ([1, 3, 15], {"scheme": "inverse_log"}, [12 / 7, 6 / 7, 3 / 7]),
        # 1 - 0.5^n = 0.5, 0.75; e = 1, 2/3; the sum is 5/3.
        ([1, 2], {"scheme": "effective_number", "beta": 0.5}, [1.2, 0.8]),
        ([30, 10], {"scheme": "enet"}, [1 / math.log(1.77), 1 / math.log(1.27)]),
        # Class 0: 6 of 8 pixels; class 1: 2 of 4, as it is in the first image only; class 2: 0 of none. Median 0.625.
        ([[2, 2, 0], [4, 0, 0]], {"scheme": "median_frequency"}, [0.625 / 0.75, 0.625 / 0.5, 0.625 / 0.5]),
        ([5, 0, 1], {"scheme": "none"}, [1, 1, 1]),
    ],
)
def test_compute_class_weights__by_hand(counts, options, expected):
    np.testing.assert_allclose(compute_class_weights(counts, **options), expected, rtol=1e-14)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("absent", [False, True])
def test_compute_class_weights__equals_plain_loops(scheme, absent):
    draw = np.random.default_rng(0)
    counts = draw.integers(1, 4000, (7, 5)) * (draw.random((7, 5)) < 0.7)
    counts[:, 3] *= not absent
    assert (counts.sum(0) > 0).tolist() == [True, True, True, not absent, True]
    weights = compute_class_weights(counts, scheme)
    np.testing.assert_allclose(weights, reference(counts.tolist(), scheme), rtol=1e-12)
    if scheme != "median_frequency":
        np.testing.assert_array_equal(weights, compute_class_weights(counts.sum(0), scheme))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compute_class_weights__class_without_pixels_changes_no_other_weight(scheme):
    counts = np.array([[100, 40, 7], [60, 0, 3]])
    without = compute_class_weights(counts, scheme)
    weights = compute_class_weights(np.insert(counts, 1, 0, axis=1), scheme)
    np.testing.assert_array_equal(weights[[0, 2, 3]], without)
    assert weights[1] == without.max()


@pytest.mark.parametrize("beta", [0.9, 0.9999, 1 - 1e-7, 1 - 1e-12, 1 - 2**-53])
def test_compute_class_weights__effective_number_in_fifty_digits(beta):
    """Computed as 1 - beta^n, nine digits would be left for 1 - 1e-12."""
    counts = [1, 7901, 646431, 20964415]
    with localcontext(prec=50):
        inverse = [1 / (1 - Decimal(beta) ** n) for n in counts]
        expected = [float(len(counts) * value / sum(inverse)) for value in inverse]
    np.testing.assert_allclose(compute_class_weights(counts, "effective_number", beta=beta), expected, rtol=1e-13)


def test_compute_class_weights__effective_number_ignores_counts_far_above_its_limit():
    counts = [7901, 646431, 20964415]
    np.testing.assert_allclose(compute_class_weights(counts, "effective_number", beta=0.99), [1, 1, 1], rtol=1e-12)
    assert compute_class_weights(counts, "effective_number", beta=0).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([1, 2], {"scheme": "inverse"}, "a scheme of inverse_log, effective_number, enet, median_frequency, none"),
        ([1, 2], {"scheme": "effective_number", "beta": 1.0}, "expected `beta` of at least 0 and below 1; found 1.0"),
        ([1, 2], {"scheme": "effective_number", "beta": float("nan")}, "below 1; found nan"),
        ([0, 0], {}, "expected pixels of at least one class; found counts of zero everywhere"),
    ],
)
def test_compute_class_weights__refuses(counts, options, message):
    with pytest.raises(ConfigError) as caught:
        compute_class_weights(counts, **options)
    assert message in str(caught.value)


def save(path, weights=(1.5, 1 / 3, 0.7), space=SPACE):
    save_class_weights(path, np.array(weights), space, scheme="enet", counts=np.array([5, 6, 0]), source="toy, train")


def test_save_class_weights__round_trip_is_exact(tmp_path):
    path = tmp_path / "new" / "weights.json"
    save(path)
    assert load_class_weights(path, SPACE).tolist() == [1.5, 1 / 3, 0.7]
    assert json.loads(path.read_text()) == {
        "scheme": "enet",
        "weights": {"road": 1.5, "car": 1 / 3, "sky": 0.7},
        "counts": {"road": 5, "car": 6, "sky": 0},
        "source": "toy, train",
    }
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.json"]


def test_save_class_weights__unwritable(tmp_path):
    (tmp_path / "a_file").write_text("")
    with pytest.raises(DataError, match=r"a_file/weights\.json: expected a place to write to; found "):
        save(tmp_path / "a_file" / "weights.json")


def test_load_class_weights__by_name_not_by_position(tmp_path):
    save(tmp_path / "weights.json")
    turned = LabelSpace("turned", SPACE.names[::-1], SPACE.colors, SPACE.label_ids)
    assert load_class_weights(tmp_path / "weights.json", turned).tolist() == [0.7, 1 / 3, 1.5]


def test_load_class_weights__other_classes(tmp_path):
    path = tmp_path / "weights.json"
    save(path)
    with pytest.raises(ConfigError) as caught:
        load_class_weights(path, CITYSCAPES)
    assert str(caught.value).startswith(
        f"{path}: expected weights of the 19 classes of `cityscapes`; found 3 weights; none for sidewalk, building,"
    )
    other = LabelSpace("other", ("road", "car"), SPACE.colors[:2], {0: 0})
    with pytest.raises(ConfigError, match="2 classes of `other`; found 3 weights; one for the unknown sky; write"):
        load_class_weights(path, other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"weights": {"road": 1, "car": -0.5, "sky": 1}}', "positive, finite weights; found -0.5 for car;"),
        ('{"weights": {"road": 0, "car": 1, "sky": 1}}', "positive, finite weights; found 0 for road;"),
        ('{"weights": {"road": 1, "car": 1, "sky": NaN}}', "positive, finite weights; found None for sky;"),
        ('{"weights": {"road": 1, "car": 1, "sky": Infinity}}', "positive, finite weights; found None for sky;"),
        ('{"weights": {"road": 1, "car": "2", "sky": 1}}', "positive, finite weights; found '2' for car;"),
        ('{"weights": {"road": 1, "car": true, "sky": 1}}', "positive, finite weights; found True for car;"),
        ('{"weights": {"road": 1, "car": 1}}', "weights of the 3 classes of `toy`; found 2 weights; none for sky"),
        ('{"weights": {"road": 1, "car": 1, "sky": 1, "car": 2}}', "every name in an object once; found `car` again;"),
        ('{"weights": [1, 2, 3]}', "a mapping `weights` of class names to numbers"),
        ("[1, 2, 3]", "a JSON object; found list"),
        ("{", "JSON; found "),
    ],
)
def test_load_class_weights__refuses(tmp_path, content, message):
    path = tmp_path / "weights.json"
    path.write_text(content)
    with pytest.raises(UrbanSegError) as caught:
        load_class_weights(path, SPACE)
    assert str(caught.value).startswith(f"{path}: expected {message}")
    assert re.search("anew|keep one", str(caught.value))


def test_load_class_weights__no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json: expected a file of class weights; found no such file; write"):
        load_class_weights(tmp_path / "none.json", SPACE)


@pytest.mark.parametrize(
    "weight", ["1e400", "1" + "0" * 400, "1e39", "1e-40", "-1", "0", "true", "NaN", '"1"', "[1]", "null"]
)
def test_load_class_weights__absurd(tmp_path, weight):
    path = tmp_path / "weights.json"
    weights = ", ".join(f'"{name}": {weight}' for name in SPACE.names)
    path.write_text(f'{{"weights": {{{weights}}}}}')
    with pytest.raises(ConfigError, match="expected positive, finite weights; found "):
        load_class_weights(path, SPACE)
