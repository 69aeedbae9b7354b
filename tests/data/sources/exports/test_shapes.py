"""Against the centres of pixels: a rasteriser may differ from them along the outline alone."""

import numpy as np
import pytest

from hf_urbanseg.data.sources.exports.shapes import fill_ellipse, fill_rectangle, fill_rings

SIZE = 60, 80
ROWS, COLUMNS = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
NEAR = 0.75


def whole(area) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[area.top : area.top + area.mask.shape[0], area.left : area.left + area.mask.shape[1]] = area.mask
    return mask


def check(area, inside: np.ndarray, distance: np.ndarray) -> None:
    """They differ in no pixel whose centre is `NEAR` pixels or more from the outline, and in few others."""
    differs = whole(area) != inside
    assert not differs[distance >= NEAR].any()
    assert inside.sum() > 100
    assert differs.sum() < 0.1 * inside.sum()


def distance_to(points) -> tuple[np.ndarray, np.ndarray]:
    """Whether centres are inside, by the parity of the edges to their right, and how far from the nearest edge."""
    inside, nearest = np.zeros(SIZE, bool), np.full(SIZE, np.inf)
    for (x, y), (u, v) in zip(points, np.roll(points, 1, 0), strict=True):
        if y != v:
            inside ^= ((y > ROWS) != (v > ROWS)) & ((u - x) * (ROWS - y) / (v - y) + x > COLUMNS)
        along = ((COLUMNS - x) * (u - x) + (ROWS - y) * (v - y)) / ((u - x) ** 2 + (v - y) ** 2)
        along = along.clip(0, 1)
        nearest = np.minimum(nearest, np.hypot(COLUMNS - x - along * (u - x), ROWS - y - along * (v - y)))
    return inside, nearest


def test_fill_rings__pixels_whose_centres_are_inside():
    rng = np.random.default_rng(0)
    for _ in range(10):  # stars, which don't cross themselves; some stand out of the picture
        angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 12)), rng.uniform(8, 30, 12)
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None] + rng.uniform(10, 50, 2)
        check(fill_rings(SIZE, [points]), *distance_to(points))


def test_fill_rings__holes_are_left_and_rings_united():
    outer, inner = [[10, 10], [50, 10], [50, 50], [10, 50]], [[20, 20], [30, 20], [30, 40], [20, 40]]
    expected = np.zeros(SIZE, bool)
    expected[10:50, 10:50] = True
    np.testing.assert_array_equal(whole(fill_rings(SIZE, [outer, inner])), expected)
    expected[20:40, 20:30] = False
    np.testing.assert_array_equal(whole(fill_rings(SIZE, [outer], [inner])), expected)


def test_fill_rings__a_bow_tie_is_filled_by_parity():
    mask = whole(fill_rings(SIZE, [[[10, 10], [50, 50], [50, 10], [10, 50]]]))
    assert mask[30, 12]
    assert mask[30, 47]
    assert not mask[15, 30]
    assert not mask[45, 30]


@pytest.mark.parametrize(("degrees", "about_corner"), [(0, False), (30, False), (30, True), (-100, True)])
def test_fill_rectangle__turned_clockwise(degrees, about_corner):
    corner, opposite = np.array([30.2, 20.7]), np.array([50.9, 35.1])
    about, angle = corner if about_corner else (corner + opposite) / 2, np.radians(degrees)
    # Turned back, a centre has to lie between the corners. Rows grow downwards, so this way round is clockwise.
    x, y = COLUMNS - about[0], ROWS - about[1]
    u, v = x * np.cos(angle) + y * np.sin(angle) + about[0], y * np.cos(angle) - x * np.sin(angle) + about[1]
    inside = (u > corner[0]) & (u < opposite[0]) & (v > corner[1]) & (v < opposite[1])
    # The distance to the turned corners' outline.
    corners = np.array([corner, (opposite[0], corner[1]), opposite, (corner[0], opposite[1])]) - about
    turned = np.stack([corners @ (np.cos(angle), -np.sin(angle)), corners @ (np.sin(angle), np.cos(angle))], 1) + about
    area = fill_rectangle(SIZE, corner, opposite, degrees, about_corner=about_corner)
    check(area, inside, distance_to(turned)[1])


def test_fill_ellipse__turned():
    center, (across, along), angle = (40.3, 30.1), (25, 9), np.radians(20)
    x, y = COLUMNS - center[0], ROWS - center[1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    level = np.hypot(u / across, v / along)
    # To first order, how far a centre is from the outline: the level's distance from 1 over its slope.
    slope = np.hypot(u / across**2, v / along**2) / np.maximum(level, 1e-9)
    check(fill_ellipse(SIZE, center, (across, along), 20), level < 1, abs(level - 1) / np.maximum(slope, 1e-9))
