"""Colours told apart: measured with the CIEDE2000 and the simulations of benchmarks/palette.py, checked here first."""

import importlib.util
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from hf_urbanseg.data.label_space_files import read_label_space
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.palettes import COLORBLIND, choose_colors, recolor


@pytest.fixture(scope="module")
def measuring():
    file = Path(__file__).parents[1] / "benchmarks" / "palette.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_palettes", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [  # of the supplement to Sharma, Wu and Dalal 2005
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.0, 2.0), (50, 0, 0), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_ciede2000__published_distances(measuring, one, other, expected):
    assert measuring.ciede2000(np.array(one), np.array(other)) == pytest.approx(expected, abs=1e-4)


def test_simulate__red_and_green_meet_for_deuteranopes_alone(measuring):
    red, olive = np.array([[184, 49, 46], [116, 100, 0]])
    near = {vision: float(measuring.ciede2000(measuring.simulate(red, vision), measuring.simulate(olive, vision)))
            for vision in measuring.VISIONS}  # fmt: skip
    assert near["normal"] > 30
    assert near["deuteranopia"] < 10
    white = measuring.simulate(np.array([255, 255, 255]), "tritanopia")
    np.testing.assert_allclose(white, (100, 0, 0), atol=0.1)


def test_colorblind__four_times_as_far_apart_as_cityscapes(measuring):
    def least(colors):
        return min(measuring.distances(np.array([one]), np.array([other])) for one, other in combinations(colors, 2))

    cityscapes = least(CITYSCAPES.colors)
    assert least(choose_colors(CITYSCAPES.names, "colorblind")) > 4 * cityscapes
    assert least(COLORBLIND) > 2.5 * cityscapes
    # Nor is any like void, and neighbours in a street are farther apart still.
    colors = dict(zip(CITYSCAPES.names, choose_colors(CITYSCAPES.names, "colorblind"), strict=True))
    assert measuring.distances(np.array(COLORBLIND), np.array(measuring.ANCHORS)).min() > 7
    for one, others in measuring.NEIGHBOURS.items():
        for other in others.split(", "):
            assert measuring.distances(np.array([colors[one]]), np.array([colors[other]])) > 16, (one, other)


def test_choose_colors__classes_keep_theirs_in_any_company():
    camvid, _ = read_label_space("camvid")
    colors = dict(zip(CITYSCAPES.names, choose_colors(CITYSCAPES.names, "colorblind"), strict=True))
    found = dict(zip(camvid.names, recolor(camvid, "colorblind").colors, strict=True))
    assert {name: found[name] for name in ("road", "sky", "car")} == {
        name: colors[name] for name in ("road", "sky", "car")
    }
    assert len(set(found.values())) == len(camvid.names)
    assert set(found.values()) <= set(COLORBLIND[:19])  # those farthest apart
    assert recolor(camvid, None) is camvid
    assert recolor(CITYSCAPES, "cityscapes") == CITYSCAPES


def test_choose_colors__as_many_classes_as_colours():
    names = [f"class {number}" for number in range(len(COLORBLIND))]
    assert set(choose_colors(names, "colorblind")) == set(COLORBLIND)
    with pytest.raises(ConfigError, match="a palette with 33 colours; found colorblind, which has 32; choose `--pal"):
        choose_colors([*names, "one more"], "colorblind")
    with pytest.raises(ConfigError, match="`palette` of cityscapes, colorblind; found `rainbow`"):
        choose_colors(names, "rainbow")
