"""Rendered street scenes with exact labels: the data of the demo and of the tests, nothing to download.

A small painter's renderer: a pinhole camera in a car, a ground plane, and objects drawn from the far and outer ones to
the near and inner ones. Every polygon is drawn twice, in colour and as a label id, so that labels fit to the pixel.
"""

import io
from functools import partial
from itertools import pairwise

import datasets
import numpy as np
from PIL import Image, ImageDraw

from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX

SCENES_PER_SEED = 2**20
"""Scene seeds of `build_synthetic_splits(seed=s)` start at s times this, so two seeds share no scene."""

_ID = {CITYSCAPES.names[t]: label_id for label_id, t in CITYSCAPES.label_ids.items() if t != IGNORE_INDEX}
_EGO_VEHICLE, _BORDER = 1, 3  # void label ids of Cityscapes
_SUPERSAMPLING = 2  # the image is averaged from this many samples per side; the label keeps one of them
_CAMERA_HEIGHT, _NEAR = 1.65, 1.0  # metres
# Cosines and sines of 12 directions as constants: libm may round them differently from machine to machine.
_CIRCLE = ((1, 0), (0.866, 0.5), (0.5, 0.866), (0, 1), (-0.5, 0.866), (-0.866, 0.5))
_CIRCLE += tuple((-a, -b) for a, b in _CIRCLE)

# Buildings, walls and fences share colours, as do road and sidewalk: colour alone must not tell classes apart.
_MASONRY = ((178, 160, 138), (150, 88, 70), (196, 190, 178), (128, 122, 116), (206, 184, 140), (112, 84, 72))
_PAINT = ((30, 32, 38), (200, 202, 205), (120, 124, 130), (140, 26, 30), (34, 58, 110), (232, 232, 230), (60, 84, 70))
_CLOTHES = ((38, 40, 52), (150, 40, 44), (54, 74, 120), (200, 196, 186), (84, 92, 66), (180, 140, 60))
_LEAVES = ((62, 88, 40), (84, 104, 48), (48, 74, 44), (110, 112, 52), (74, 98, 66))
_GLASS, _RUBBER, _METAL = (46, 58, 70), (26, 26, 28), (112, 116, 118)

# Strength of the multiplied (coarse, fine) texture by class; the others get the last entry.
_TEXTURE = {"road": (0.10, 0.10), "sidewalk": (0.10, 0.16), "building": (0.10, 0.08), "wall": (0.16, 0.14)}
_TEXTURE |= {"vegetation": (0.30, 0.50), "terrain": (0.22, 0.34), "sky": (0.0, 0.0), "other": (0.05, 0.06)}


def _shade(color, factor: float) -> tuple[int, ...]:
    return tuple(min(255, max(0, int(channel * factor))) for channel in color)


class _Canvas:
    """Image and label of one scene, drawn in metres: x right of the camera, y above the ground, z ahead."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator):
        height, width = (_SUPERSAMPLING * side for side in size)
        self.rng, self.height, self.width = rng, height, width
        self.focal = 0.29 * width + 0.58 * height  # KITTI's 0.58 of the width at 2:1, moderate at other shapes
        self.center = width * self.between(0.42, 0.58)
        self.horizon = height * self.between(0.40, 0.50)
        self.sun = self.between(-1.3, 1.3)  # shadows fall this many metres to the right per metre of height
        self.sunny = rng.random() < 0.65
        self.haze = self.pick(((205, 212, 220), (188, 200, 216), (224, 218, 206)), 0.05)
        self.image = Image.new("RGB", (width, height))
        self.label = Image.new("L", (width, height), _ID["sky"])
        self.paint = ImageDraw.Draw(self.image, "RGBA")
        self.mark = ImageDraw.Draw(self.label)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, colors, jitter: float = 0.12):
        """One of `colors`, lighter or darker by up to `jitter`."""
        color = colors[int(self.rng.random() * len(colors))]
        return _shade(color, 1 + self.between(-jitter, jitter))

    def lit(self, facing: int) -> float:
        """Brightness of a vertical face that looks left (-1), right (1) or at the camera (0)."""
        if not self.sunny:
            return 0.82 if facing else 0.9
        return 0.85 if facing == 0 else 0.9 - 0.25 * facing * max(-1.0, min(1.0, 2 * self.sun))

    def project(self, x: float, y: float, z: float) -> tuple[int, int]:
        u, v = self.center + self.focal * x / z, self.horizon - self.focal * (y - _CAMERA_HEIGHT) / z
        return int(u // 1), int(v // 1)

    def hazy(self, color, z: float) -> tuple[int, ...]:
        share = z / (z + 220)
        return tuple(int(channel + (far - channel) * share) for channel, far in zip(color, self.haze, strict=True))

    def polygon(self, points, color, label: str | None = None, alpha: int = 255) -> None:
        """Draws a polygon of (x, y, z); without `label` it is paint on something that already has one."""
        clipped = []
        for (x0, y0, z0), (x1, y1, z1) in zip(points, (*points[1:], points[0]), strict=True):
            if z0 >= _NEAR:
                clipped.append((x0, y0, z0))
            if (z0 >= _NEAR) != (z1 >= _NEAR):
                t = (_NEAR - z0) / (z1 - z0)
                clipped.append((x0 + t * (x1 - x0), y0 + t * (y1 - y0), _NEAR))
        if len(clipped) < 3:
            return
        flat = [self.project(*point) for point in clipped]
        self.paint.polygon(flat, fill=(*self.hazy(color, min(p[2] for p in clipped)), alpha))
        if label is not None:
            self.mark.polygon(flat, fill=_ID[label])

    def ground(self, x0, x1, z0, z1, color, label=None, alpha=255) -> None:
        self.polygon([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], color, label, alpha)

    def across(self, x0, x1, y0, y1, z, color, label=None, alpha=255) -> None:
        """A rectangle that faces the camera."""
        self.polygon([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], color, label, alpha)

    def along(self, x, y0, y1, z0, z1, color, label=None, alpha=255) -> None:
        """A rectangle that runs along the street."""
        self.polygon([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], color, label, alpha)

    def disc(self, x, y, z, radius_x, radius_y, color, label=None, alpha=255) -> None:
        self.polygon([(x + a * radius_x, y + b * radius_y, z) for a, b in _CIRCLE], color, label, alpha)

    def shadow(self, x0, x1, height, z0, z1) -> None:
        """Darkens the ground beside something `height` tall; under an overcast sky only below it."""
        reach = self.sun * height if self.sunny else 0.0
        self.ground(x0 + min(0.0, reach), x1 + max(0.0, reach), z0, z1, (12, 14, 24), alpha=105 if self.sunny else 60)


def _noise(c: _Canvas, cells: tuple[int, int], size: tuple[int, int] | None = None) -> np.ndarray:
    """(height, width) float in 0..1 of `size` or the canvas: random values on a grid, smoothly enlarged."""
    height, width = size or (c.height, c.width)
    grid = (c.rng.random(cells) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) / 255.0


# What stands beside the street. `side` is -1 (left) or 1 (right), `x` the absolute distance of the face to the road.


def _building(c: _Canvas, side: int, x: float, z0: float, z1: float, height: float, gable: bool) -> None:
    color, trim = c.pick(_MASONRY, 0.2), c.pick(_MASONRY, 0.2)
    glass = c.pick((_GLASS, (84, 98, 112), (58, 54, 50)), 0.2)
    face, back = side * x, side * (x + 9)
    roof = c.pick(((110, 62, 50), (74, 70, 72), (92, 80, 70)), 0.15)
    c.across(face, back, 0, height, z0, _shade(color, c.lit(0)), "building")
    if gable:
        ridge = (side * (x + 4.5), height + 3)
        c.polygon([(face, height, z0), (*ridge, z0), (back, height, z0)], _shade(color, c.lit(0)), "building")
        c.polygon([(face, height, z0), (*ridge, z0), (*ridge, z1), (face, height, z1)], roof, "building")
    front = _shade(color, c.lit(-side))
    c.along(face, 0, height, z0, z1, front, "building")
    if not gable:
        c.along(face, height - 0.5, height, z0, z1, _shade(trim, c.lit(-side)))
    if z0 > 70:
        return
    step, shop = c.between(2.2, 3.6), c.chance(0.4) and not gable
    width, tall = step * c.between(0.35, 0.6), c.between(1.2, 1.9)
    y = 0.9
    while y + tall < height - 0.4:
        ground_floor = y < 1
        z = z0 + 0.8
        while z + width < z1 - 0.4:
            pane = _shade(glass, c.between(0.7, 1.4))
            if ground_floor and shop:
                c.along(face, 0.4, 2.5, z, z + step * 0.85, pane)
            elif ground_floor and c.chance(0.2):
                c.along(face, 0, 2.2, z, z + 1.1, c.pick(((70, 48, 36), (52, 66, 60)), 0.2))
            else:
                c.along(face, y - 0.12, y + tall + 0.1, z - 0.12, z + width + 0.12, _shade(trim, c.lit(-side)))
                c.along(face, y, y + tall, z, z + width, pane)
            z += step
        if ground_floor and shop:
            c.along(face, 2.6, 3.1, z0 + 0.3, z1 - 0.3, c.pick(_PAINT, 0.3))
        for k in range(3):
            u = side * (x + 1.2 + 2.6 * k)
            c.across(u, u + side, y, y + tall, z0, _shade(glass, c.between(0.7, 1.3)))
        y += 3.0


def _wall(c: _Canvas, side: int, x: float, z0: float, z1: float) -> None:
    height, color = c.between(1.3, 2.6), c.pick(_MASONRY, 0.2)
    c.across(side * x, side * (x + 0.4), 0, height, z0, color, "wall")
    c.along(side * x, 0, height, z0, z1, _shade(color, c.lit(-side)), "wall")
    for k in range(1, 5):  # courses of stone
        c.along(side * x, height * k / 5, height * k / 5 + 0.05, z0, z1, _shade(color, 0.6), alpha=150)
    c.along(side * x, height - 0.15, height, z0, z1, _shade(color, 1.15))


def _fence(c: _Canvas, side: int, x: float, z0: float, z1: float) -> None:
    height, solid = c.between(1.0, 1.9), c.chance(0.4)
    color = c.pick(((122, 92, 66), (210, 208, 200), (60, 66, 62), (128, 122, 116)), 0.2)
    tone = _shade(color, c.lit(-side))
    c.along(side * x, 0, height, z0, z1, _shade(tone, 0.8 if solid else 1), "fence", 255 if solid else 70)
    z, step = z0, 0.5 if z1 < 45 else 1.2
    while z + step < z1:
        c.along(side * x, 0, height, z, z + step * 0.4, tone)
        z += step
    for y in (0.15, height - 0.25):
        c.along(side * x, y, y + 0.12, z0, z1, _shade(tone, 1.1))


def _foliage(c: _Canvas, x: float, y: float, z: float, wide: float, high: float, color, blobs: int = 16) -> None:
    for k in range(blobs):
        dx, dy = c.between(-0.75, 0.75), -0.7 + 1.4 * k / blobs  # from the dark underside up to the lit top
        size = c.between(0.32, 0.55)
        light = 0.62 + 0.3 * (dy + 0.7) + c.between(-0.1, 0.1) - 0.18 * c.sunny * dx * c.sun
        leaves = _shade(color, light)
        c.disc(x + dx * wide, y + dy * high, z, size * wide, size * high, leaves, "vegetation")


def _tree(c: _Canvas, x: float, z: float) -> None:
    height, spread = c.between(4.5, 9.5), c.between(1.5, 2.8)
    trunk = height * 0.4
    c.across(x - 0.16, x + 0.16, 0, trunk + 0.5, z, c.pick(((74, 58, 46), (92, 84, 74)), 0.2), "vegetation")
    _foliage(c, x, (height + trunk) / 2, z, spread, (height - trunk) / 1.6, c.pick(_LEAVES, 0.25))


def _hedge(c: _Canvas, side: int, x: float, z0: float, z1: float) -> None:
    height, color = c.between(0.9, 2.4), c.pick(_LEAVES, 0.25)
    c.along(side * x, 0, height * 0.9, z0, z1, _shade(color, c.lit(-side) * 0.85), "vegetation")
    z = z1
    while z > z0:
        _foliage(c, side * (x + 0.3), height * 0.6, z, 0.9, height * 0.45, color, 5)
        z -= 1.1


# What stands or moves on road and sidewalk. `x` is the signed centre, `z` the nearest point.


def _pole(c: _Canvas, x: float, z: float, kind: str) -> None:
    color, inward = c.pick((_METAL, (70, 76, 72), (140, 138, 132)), 0.2), -1 if x > 0 else 1
    height = {"lamp": c.between(5.5, 8.5), "light": 3.6, "sign": c.between(2.5, 3.1)}[kind]
    width = 0.10 if kind != "sign" else 0.06
    c.across(x - width, x + width, 0, height, z, _shade(color, c.lit(0)), "pole")
    c.across(x - width, x - width * 0.2, 0, height, z, _shade(color, 0.65))
    if kind == "lamp":
        tip, arm = x + inward * 1.8, height + 0.3
        c.polygon([(x, height, z), (tip, arm, z), (tip, arm + 0.15, z), (x, height + 0.2, z)], color, "pole")
        c.across(tip, tip + inward * 0.7, arm - 0.05, arm + 0.2, z, color, "pole")
    elif kind == "light":
        c.across(x - 0.24, x + 0.24, 2.5, 3.6, z - 0.05, (24, 28, 26), "traffic light")
        on = int(c.between(0, 3))
        for k, lamp in enumerate(((60, 225, 130), (250, 190, 60), (240, 50, 40))):
            c.disc(x, 2.7 + 0.35 * k, z - 0.05, 0.14, 0.14, lamp if k == on else _shade(lamp, 0.25))
    else:
        y, rim = height - 0.1, c.pick(((190, 30, 36), (28, 70, 160), (220, 180, 40)), 0.15)
        inner = (236, 236, 232) if rim[0] > rim[2] else rim
        match int(c.between(0, 3)):
            case 0:
                c.disc(x, y, z - 0.05, 0.36, 0.36, rim, "traffic sign")
                c.disc(x, y, z - 0.05, 0.24, 0.24, inner)
            case 1:
                tips = ((-0.42, -0.34), (0.42, -0.34), (0, 0.4))
                c.polygon([(x + a, y + b, z - 0.05) for a, b in tips], rim, "traffic sign")
                c.polygon([(x + a * 0.55, y + b * 0.55 - 0.03, z - 0.05) for a, b in tips], inner)
            case _:
                c.across(x - 0.45, x + 0.45, y - 0.35, y + 0.3, z - 0.05, rim, "traffic sign")
                c.across(x - 0.3, x + 0.3, y - 0.06, y + 0.04, z - 0.05, (236, 236, 232))


# (share of the length from the rear, share of the height), rear bumper over the roof to the front bumper.
_SHAPES = {
    "hatchback": ((0, 0.2), (0, 0.62), (0.1, 0.98), (0.6, 1), (0.78, 0.63), (1, 0.54), (1, 0.2)),
    "saloon": ((0, 0.2), (0, 0.62), (0.16, 0.66), (0.3, 0.98), (0.6, 1), (0.76, 0.66), (1, 0.54), (1, 0.2)),
    "box": ((0, 0.12), (0, 1), (1, 1), (1, 0.12)),
    "tram": ((0, 0.08), (0.005, 0.5), (0.03, 1), (0.97, 1), (0.995, 0.5), (1, 0.08)),
}


def _body(c: _Canvas, x: float, z: float, dims, shape: str, color, label: str, away: bool, glazed=True, y0=0.0) -> None:
    """A profile drawn from side to side, with wheels, windows and lights; `dims` are width, height, length."""
    width, height, length = dims
    left, right = x - width / 2, x + width / 2
    outline = [(y0 + h * height, z + length * (t if away else 1 - t)) for t, h in _SHAPES[shape]]
    edges = sorted(pairwise(outline), key=lambda edge: -max(edge[0][1], edge[1][1]))
    flank = left if left > 0 else right if right < 0 else None
    if shape != "tram":  # bumper and axles in the dark
        c.across(left + 0.1, right - 0.1, y0 + 0.17, y0 + 0.14 * height + 0.2, z + 0.15, (22, 22, 24), label)
    for (ya, za), (yb, zb) in edges:
        slope = abs(za - zb) > 0.15
        flat = slope and abs(ya - yb) < 0.1 * height
        tone = _shade(color, 1.15 if flat else 1.0 if slope else c.lit(0))
        c.polygon([(left, ya, za), (right, ya, za), (right, yb, zb), (left, yb, zb)], tone, label)
        high, low = max(ya, yb), min(ya, yb)
        if glazed and high > 0.9 * height and not flat:  # a pane in the upper part of an end
            ends = sorted(((ya, za), (yb, zb)))
            cut = [(low + s * (high - low), ends[0][1] + s * (ends[1][1] - ends[0][1])) for s in (0.12, 0.88)]
            if shape == "box":
                cut = [(0.5 * height, za), (0.88 * height, za)]
            a, b = left + 0.1 * width, right - 0.1 * width
            c.polygon([(a, *cut[0]), (b, *cut[0]), (b, *cut[1]), (a, *cut[1])], _shade(_GLASS, 1.1))
    if flank is not None:
        c.polygon([(flank, y, zz) for y, zz in outline], _shade(color, c.lit(-1 if flank > 0 else 1)), label)
        if glazed:
            panes = 2 if shape in ("hatchback", "saloon") else max(3, int(length / 2))
            first, last = (0.24, 0.68) if panes == 2 else (0.03, 0.97)
            for k in range(panes):
                a, b = (first + (last - first) * (k + e) / panes for e in (0.05, 0.92))
                za, zb = sorted(z + length * (t if away else 1 - t) for t in (a, b))
                low = 0.66 if panes == 2 else 0.5
                c.along(flank, low * height, 0.92 * height if panes == 2 else 0.85 * height, za, zb, _GLASS)
    wheel = 0.32 if height < 2 else 0.48
    if shape != "tram" and y0 < 0.6:
        for side in (left + 0.02, right - 0.22):
            c.across(side, side + 0.2, 0, wheel, z + 0.1, _RUBBER, label)
        for t in (0.18, 0.8):
            if flank is not None:
                hub = z + length * t
                for size, tint in ((1, _RUBBER), (0.55, (130, 132, 136))):
                    ring = [(flank, wheel * (1 + b * size), hub + a * wheel * size) for a, b in _CIRCLE]
                    c.polygon(ring, tint, label)
    lamp = (196, 30, 28) if away else (250, 244, 214)
    for side in (left + 0.05, right - 0.33):
        c.across(side, side + 0.28, y0 + 0.4 * min(height, 1.7), y0 + 0.52 * min(height, 1.7), z, lamp)


def _car(c: _Canvas, x: float, z: float, away: bool) -> None:
    dims = (c.between(1.65, 1.85), c.between(1.38, 1.75), c.between(3.7, 4.7))
    c.shadow(x - dims[0] / 2 - 0.1, x + dims[0] / 2 + 0.1, 0.7, z - 0.2, z + dims[2])
    _body(c, x, z, dims, "saloon" if c.chance(0.4) else "hatchback", c.pick(_PAINT, 0.2), "car", away)


def _truck(c: _Canvas, x: float, z: float, away: bool) -> None:
    long, tall = c.between(4.5, 8), c.between(2.9, 3.6)
    c.shadow(x - 1.3, x + 1.3, tall / 2, z - 0.2, z + long + 2)
    load = c.pick(((225, 225, 220), (196, 190, 178), (70, 96, 140), (170, 60, 48), (90, 110, 84)), 0.15)
    parts = [
        (z + (0 if away else 2.1), (2.45, tall - 0.5, long), load, False, 0.5),
        (z + (long + 0.1 if away else 0), (2.3, 2.6, 2), c.pick(_PAINT), True, 0.2),
    ]
    for start, dims, color, glazed, y0 in sorted(parts, key=lambda part: -part[0]):
        _body(c, x, start, dims, "box", color, "truck", away, glazed, y0)


def _bus(c: _Canvas, x: float, z: float, away: bool) -> None:
    long = c.between(9, 12)
    c.shadow(x - 1.3, x + 1.3, 1.6, z - 0.2, z + long)
    color = c.pick(((200, 44, 40), (226, 180, 50), (228, 228, 224), (50, 90, 150), (60, 130, 84)), 0.12)
    _body(c, x, z, (2.5, 3.1, long), "box", color, "bus", away)
    c.across(x - 0.8, x + 0.8, 2.78, 3.0, z, (30, 30, 26))
    c.across(x - 0.6, x + 0.5, 2.84, 2.94, z, (240, 170, 40))


def _train(c: _Canvas, x: float, z: float, away: bool) -> None:
    long = c.between(24, 34)
    c.shadow(x - 1.3, x + 1.3, 1.6, z, z + long)
    color = c.pick(((222, 214, 190), (170, 40, 44), (60, 110, 90), (230, 230, 232), (210, 170, 60)), 0.12)
    _body(c, x, z, (2.5, 3.5, long), "tram", color, "train", away)
    flank = x - 1.25 if x > 0 else x + 1.25
    c.along(flank, 0.9, 1.3, z + 0.4, z + long - 0.4, c.pick(_PAINT, 0.2))
    for k in (1, 2):
        c.along(flank, 0.3, 3.5, z + long * k / 3, z + long * k / 3 + 0.8, (40, 40, 44))
    c.polygon(
        [(x - 0.7, 4.4, z + 6), (x + 0.7, 4.4, z + 6), (x + 0.1, 3.5, z + 6), (x - 0.1, 3.5, z + 6)], _METAL, "train"
    )


def _person(c: _Canvas, x: float, z: float, label: str = "person", seat: float = 0.0) -> None:
    """Somebody `seat` metres above their standing height; a rider's legs are bent."""
    h, step = c.between(1.5, 1.9), c.between(0.06, 0.26)
    coat, trousers, skin = c.pick(_CLOTHES, 0.2), c.pick(_CLOTHES, 0.25), c.pick(((206, 164, 138), (140, 98, 74)), 0.15)
    foot, hip, neck = (seat * 0.7, 0.5 * h + seat - 0.12, 0.84 * h + seat - 0.12) if seat else (0.0, 0.5 * h, 0.84 * h)
    if not seat:
        c.shadow(x - 0.2, x + 0.2, 0.8, z - 0.1, z + 0.25)
    for lean, tone in ((-step, 0.75), (step, 0.95)):
        leg = [(x - 0.1, hip, z), (x + 0.1, hip, z), (x + lean + 0.09, foot, z), (x + lean - 0.09, foot, z)]
        c.polygon(leg, _shade(trousers, tone), label)
    c.polygon(
        [(x - 0.16, hip - 0.1, z), (x + 0.16, hip - 0.1, z), (x + 0.23, neck, z), (x - 0.23, neck, z)], coat, label
    )
    for arm in (-1, 1):
        limb = ((0.2, neck), (0.29, neck - 0.05), (0.32, hip), (0.22, hip))
        c.polygon([(x + arm * a, b, z) for a, b in limb], _shade(coat, 0.8), label)
    c.disc(x, neck + 0.12, z, 0.11, 0.15, skin, label)
    c.disc(x, neck + 0.19, z, 0.12, 0.1, c.pick(((36, 28, 24), (110, 84, 56), (210, 210, 214)), 0.1), label)


def _two_wheeler(c: _Canvas, x: float, z: float, label: str, ridden: bool) -> None:
    heavy, turn = label == "motorcycle", c.between(0.3, 0.95)
    radius, half = (0.31, 0.68) if heavy else (0.34, 0.52)
    color = c.pick((*_PAINT, (190, 60, 30), (40, 120, 70)), 0.2)
    c.shadow(x - half * turn, x + half * turn, 0.5, z - 0.15, z + 0.2)
    for hub in (-half * turn, half * turn):
        c.disc(x + hub, radius, z, radius * turn, radius, _RUBBER, label)
        c.disc(x + hub, radius, z, radius * turn * 0.7, radius * 0.75, (120, 122, 124))
    tall, thick = (0.95, 0.24) if heavy else (0.9, 0.07)
    frame = [(-half, radius), (-half * 0.5, tall), (half * 0.7, tall + 0.1), (half, radius), (0, radius * 0.8)]
    if heavy:
        c.polygon([(x + a * turn, b, z) for a, b in frame], color, label)
        c.across(x - 0.5 * turn, x + 0.05, tall - 0.05, tall + 0.1, z, (30, 28, 28), label)
    else:
        for (a, b), (d, e) in zip(frame, (*frame[1:], frame[0]), strict=True):
            bar = ((a, b), (d, e), (d, e + thick), (a, b + thick))
            c.polygon([(x + u * turn, v, z) for u, v in bar], color, label)
    c.across(x + half * 0.45 * turn - 0.22, x + half * 0.45 * turn + 0.22, tall + 0.12, tall + 0.2, z, _RUBBER, label)
    if ridden:
        _person(c, x, z - 0.02, "rider", seat=0.32)


def _backdrop(c: _Canvas, city: bool) -> None:
    """Sky with clouds, and what closes the view at the end of the street."""
    top, low = c.pick(((92, 138, 196), (150, 168, 190), (178, 184, 190)), 0.12), _shade(c.haze, 1.08)
    share = np.linspace(0, 1, c.height)[:, None, None] / (c.horizon / c.height)
    sky = np.array(top) + (np.array(low) - np.array(top)) * np.minimum(share, 1.0)
    clouds = np.maximum(_noise(c, (7, 12)) - 0.45, 0)[:, :, None] * c.between(0.0, 2.0)
    c.image.paste(Image.fromarray((sky + (250 - sky) * np.minimum(clouds, 1)).astype(np.uint8)))
    x = -130.0
    while x < 130:
        width = c.between(8, 20)
        if city and c.chance(0.5):
            c.across(x, x + width, 0, c.between(6, 20), 130, c.pick(_MASONRY, 0.2), "building")
        else:
            _foliage(c, x + width / 2, 2, 125, width, c.between(4, 12), c.pick(_LEAVES, 0.2), 8)
        x += width * 0.8


def _roadway(c: _Canvas, edges: dict, walks: dict, grassy: dict) -> None:
    """The ground from the horizon to the bonnet: terrain, pavements, asphalt, markings."""
    left, right, far = -edges[-1], edges[1], 140.0
    grass = c.pick(((104, 116, 62), (132, 124, 84), (86, 102, 56)), 0.2)
    c.ground(-200, 200, _NEAR, 500, grass, "terrain")
    stone, asphalt = c.pick(((138, 134, 130), (120, 114, 112), (150, 136, 126)), 0.15), c.between(82, 124)
    for side, edge in ((-1, left), (1, right)):
        outer = edge + side * (walks[side] if grassy[side] else 60)
        c.ground(edge, outer, _NEAR, far, stone, "sidewalk")
        for k in range(0, 40):  # joints between the slabs
            c.ground(edge, edge + side * walks[side], 2 + k, 2.06 + k, _shade(stone, 0.8), alpha=130)
    road = (asphalt, asphalt, asphalt * c.between(0.98, 1.07))
    c.ground(left, right, _NEAR, far, _shade(road, 1), "road")
    for _ in range(3):  # repaired patches
        x, z = c.between(left, right - 2), c.between(4, 30)
        c.ground(x, x + c.between(0.8, 2), z, z + c.between(1, 8), _shade(road, c.between(0.75, 1.2)), alpha=130)
    paint = _shade((232, 230, 222), c.between(0.75, 1.0))
    for x in (-1.75, left + 0.25, right - 0.25):
        dashed = x == -1.75
        for k in range(14):
            if dashed or c.sunny:
                c.ground(x - 0.07, x + 0.07, 1 + 6 * k, 1 + 6 * k + (3 if dashed else 6), paint, alpha=220)
    if c.chance(0.3):  # a crossing
        start, x = c.between(7, 22), left + 0.4
        while x < right - 0.5:
            c.ground(x, x + 0.5, start, start + 3, paint, alpha=225)
            x += 1.0
    for side, edge in ((-1, left), (1, right)):
        c.ground(edge, edge + side * 0.18, _NEAR, far, _shade(stone, 1.2), "sidewalk")


def _roadside(c: _Canvas, side: int, line: float, style: str, grassy: bool) -> list:
    """Buildings, walls, fences, hedges and trees of one side, as (distance from the middle, z, draw)."""
    items, z = [], 1.2
    while z < 105:
        length = c.between(8, 22)
        end, draw = z + length, float(c.rng.random())
        if style == "city" and draw < 0.8:
            height = 3.0 * int(c.between(2, 6)) + 1.2
            items.append((line, z, partial(_building, c, side, line, z, end, height, False)))
        else:
            if draw > 0.35 and style != "country":
                house = end - c.between(1, 4)
                items.append((line + 5, z, partial(_building, c, side, line + 5, z, house, 5.6, True)))
            edge = c.chance(0.9) and ("wall", "fence", "fence", "hedge", "open")[int(c.between(0, 5))]
            plain = {"wall": _wall, "fence": _fence, "hedge": _hedge}
            if edge in plain:
                items.append((line, z, partial(plain[edge], c, side, line, z, end)))
            for _ in range(int(c.between(1, 4)) + (style == "country")):
                x, at = line + c.between(1.5, 4.5), c.between(z, end)
                items.append((x, at, partial(_tree, c, side * x, at)))
        z = end + (c.between(0, 3) if style == "city" else c.between(0.5, 5))
    for _ in range(int(c.between(0, 5)) if grassy or c.chance(0.4) else 0):
        at = c.between(9, 60)
        items.append((line - 0.8, at, partial(_tree, c, side * (line - 0.8), at)))
    return items


def _traffic(c: _Canvas, featured: int, edges: dict, parking: dict, walks: dict) -> list:
    """Poles, people and vehicles as (distance from the middle, z, draw); `featured` names the rare guest."""
    items = []

    def put(x: float, z: float, draw, *args) -> None:
        # Who drives in the own lane overlaps its middle, where only the distance orders two objects.
        items.append((abs(x) if abs(x) > 1.7 else 0.0, z, partial(draw, c, x, z, *args)))

    # Own lane and the oncoming ones.
    oncoming, ahead = c.between(9, 22), c.between(8, 24)
    rare = {0: _train, 1: _bus, 2: _truck}.get(featured)
    same_way = rare not in (None, _train) and c.chance(0.5)
    if rare is not None:
        put(0 if same_way else -3.5, ahead if same_way else oncoming, rare, same_way)
    elif featured in (3, 4):
        put(c.between(0.2, 1.2), c.between(6, 12), _two_wheeler, "motorcycle" if featured == 3 else "bicycle", True)
        ahead += 8
    if not same_way and c.chance(0.6):
        put(c.between(-0.2, 0.2), ahead, _car, True)
    z = oncoming + (38 if rare is not None and not same_way else 0)
    while z < 75:
        if c.chance(0.5):
            put(-3.5 + c.between(-0.2, 0.2), z, _truck if c.chance(0.06) else _car, False)
        z += c.between(8, 22)
    for side in (-1, 1):
        edge, z = edges[side], c.between(3, 9)
        while z < 60 and parking[side]:
            if c.chance(0.65):
                put(side * (edge - 1.1), z, _car, side > 0)
            z += c.between(5.4, 7)
        z = c.between(6, 16)
        while z < 65:
            kind = ("lamp", "lamp", "sign", "sign", "light")[int(c.between(0, 5))]
            put(side * (edge + 0.5), z, _pole, kind)
            z += c.between(7, 20)
        for _ in range(int(c.between(0, 3.2)) + 2 * (featured == 6)):
            put(side * (edge + c.between(0.8, max(1.0, walks[side] - 0.3))), c.between(5.5, 24), _person)
        if featured == 5 or c.chance(0.2):
            z = c.between(6, 12)
            for k in range(1 + int(c.between(0, 3))):
                kind = "motorcycle" if featured == 5 and side > 0 else "bicycle"
                put(side * (edge + 0.75), z + 1.4 * k, _two_wheeler, kind, False)
    if featured == 6:
        put(c.between(-2.5, 0.8), c.between(8, 14), _person)
    return items


def _frame(c: _Canvas) -> None:
    """The own bonnet and the black border of a rectified picture: void, as in Cityscapes."""
    if c.chance(0.5):
        top, color = c.height * c.between(0.93, 0.97), c.pick(_PAINT, 0.2)
        box = [int(-0.15 * c.width), int(top), int(1.15 * c.width), int(top + 0.4 * c.height)]
        c.paint.ellipse(box, fill=color)
        c.mark.ellipse(box, fill=_EGO_VEHICLE)
    if c.chance(0.25):
        border = [0, 0, int(c.width * c.between(0.005, 0.02)), c.height]
        c.paint.rectangle(border, fill=(0, 0, 0))
        c.mark.rectangle(border, fill=_BORDER)


def _photograph(c: _Canvas, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Texture, light, lens and sensor; only the image changes."""
    label = np.asarray(c.label)[::_SUPERSAMPLING, ::_SUPERSAMPLING].copy()
    strength = np.array([_TEXTURE["other"]] * 256)
    for name, amounts in _TEXTURE.items():
        if name in _ID:
            strength[_ID[name]] = amounts
    coarse, fine = _noise(c, (20, 40), size) - 0.5, _noise(c, (96, 192), size) - 0.5
    texture = 1 + strength[label, 0] * 2 * coarse + strength[label, 1] * 2 * fine
    pixels = np.asarray(c.image.reduce(_SUPERSAMPLING)).astype(np.float64) * texture[:, :, None]
    soft = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    soft = (soft[:-2] + 2 * soft[1:-1] + soft[2:]) / 4
    soft = (soft[:, :-2] + 2 * soft[:, 1:-1] + soft[:, 2:]) / 4
    pixels += c.between(0.2, 0.8) * (soft - pixels)
    tint = np.array([c.between(0.93, 1.07) for _ in range(3)])
    pixels = 118 + c.between(0.8, 1.15) * (pixels * tint * c.between(0.65, 1.15) - 118)
    # A sum of uniforms, not a normal: it needs no logarithm, which may differ from machine to machine.
    noise = c.rng.random((3, *pixels.shape)).sum(0) - 1.5
    pixels += c.between(3, 12) * noise
    return np.clip(pixels, 0, 255).astype(np.uint8), label


def render_scene(seed: int, size: tuple[int, int] = (192, 384)) -> tuple[np.ndarray, np.ndarray]:
    """Renders one street as seen from a car.

    The same seed and size give the same pixels on any machine (same Pillow and numpy: only they may round otherwise);
    another size shows the same street. The remainder of `seed` by 8 chooses a guest (train, bus, truck, motorcyclist,
    cyclist, parked motorcycles, pedestrians, none), so any 8 seeds in a row have about the same mix of rare classes.

    Args:
        seed: Scene number, 0 or more.
        size: (height, width) in pixels, 32 at least.

    Returns:
        image: (height, width, 3) uint8, RGB.
        label: (height, width) uint8, raw Cityscapes *label ids* (7 road, 8 sidewalk, ...), not train ids.

    Raises:
        DataError: A negative seed or a size below 32 pixels.
    """
    if seed < 0:
        raise DataError("`seed` of 0 or more", f"{seed}", "choose another")
    if min(size) < 32:
        raise DataError("`size` as (height, width) of 32 pixels or more", f"{tuple(size)}", "enlarge it")
    c = _Canvas(size, np.random.default_rng(seed))
    styles = {side: ("city", "city", "suburb", "country")[int(c.between(0, 4))] for side in (-1, 1)}
    parking = {side: styles[side] != "country" and c.chance(0.6) for side in (-1, 1)}
    walks = {side: c.between(1.8, 4.0) for side in (-1, 1)}
    grassy = {side: styles[side] != "city" for side in (-1, 1)}
    lanes = 3.5 * (1 + c.chance(0.3))  # oncoming
    edges = {-1: 1.75 + lanes + 2.2 * parking[-1], 1: 1.75 + 2.2 * parking[1]}

    _backdrop(c, "city" in styles.values())
    _roadway(c, edges, walks, grassy)
    items = _traffic(c, seed % 8, edges, parking, walks)
    for side in (-1, 1):
        line = edges[side] + walks[side] + (c.between(0.5, 4) if grassy[side] else 0)
        if styles[side] == "city":
            c.shadow(*sorted((side * line, side * (line + 6))), 3.5, _NEAR, 90)
        items += _roadside(c, side, line, styles[side], grassy[side])
    # On each side of the camera the inner of two objects hides the outer, and at equal distance the nearer the farther.
    for _, _, draw in sorted(items, key=lambda item: (-item[0], -item[1])):
        draw()
    _frame(c)
    return _photograph(c, size)


def _png(array: np.ndarray) -> dict:
    """A cell of an `Image` column that carries its bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return {"path": None, "bytes": buffer.getvalue()}


def build_synthetic_splits(
    train: int = 64, validation: int = 16, test: int = 16, size: tuple[int, int] = (192, 384), seed: int = 0
) -> datasets.DatasetDict:
    """Renders a small data set of different streets for training, model selection and test.

    Args:
        train, validation, test: Scenes per split, 1 or more; 64, 16 and 16 by default.
        size: (height, width) in pixels.
        seed: Another number gives other streets.

    Returns:
        Splits `train`, `validation`, `test` with columns `image` and `label` (PNG bytes inside the set: RGB, and
        single-channel Cityscapes label ids) and `name`, unique over all splits.

    Raises:
        DataError: An empty split, a negative seed or a size that is too small.
    """
    counts = {"train": train, "validation": validation, "test": test}
    for split, count in counts.items():
        if count < 1:
            raise DataError("1 scene or more in each split", f"{count} in {split}", f"raise `{split}`")
    if seed < 0:
        raise DataError("`seed` of 0 or more", f"{seed}", "choose another")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Image(), "name": datasets.Value("string")}
    )
    splits, start = {}, 0
    for split, count in counts.items():
        rows = {"image": [], "label": [], "name": []}
        for number in range(start, start + count):
            image, label = render_scene(seed * SCENES_PER_SEED + number, size)
            rows["image"].append(_png(image))
            rows["label"].append(_png(label))
            rows["name"].append(f"synthetic_{number:06d}")
        splits[split] = datasets.Dataset.from_dict(rows, features=features, split=split)
        start += count
    return datasets.DatasetDict(splits)
