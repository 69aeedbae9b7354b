"""Shapes as labelling tools store them, made into masks of pixels by one rule: pycocotools' for outlines.

A pixel spans [x, x + 1) x [y, y + 1). Rings that cross themselves are filled by parity; several rings of a shape are
united; what lies outside the picture is cut off.
"""

import base64
import math
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from hf_urbanseg.data.pictures import open_picture, readable
from hf_urbanseg.errors import DataError

_MOST_OUTLINE = 1 << 20
"""Pixels along a ring: pycocotools needs 100 bytes for each, and a coordinate of 1e9 would take them all."""
_FARTHEST = 1 << 24  # pycocotools counts fifths of a pixel in 32 bits
_AGAIN = "correct or remove it in the labelling tool, and export again"

Size = tuple[int, int]


class Area(NamedTuple):
    """A mask, (h, w) bool, whose corner lies at `top`, `left` of the picture, perhaps partly or wholly outside."""

    mask: np.ndarray
    top: int = 0
    left: int = 0


class Shape(NamedTuple):
    """What one annotation covers.

    Args:
        name: Of its class.
        where: Its place in the file, for errors.
        cover: From the picture's (height, width) to the `Area`; DataError where the shape is none.
    """

    name: str
    where: str
    cover: Callable[[Size], Area]


def fill_rings(size: Size, rings: Sequence, holes: Sequence = (), scale: tuple[float, float] = (1, 1)) -> Area:
    """The inside of the rings but for the holes.

    Args:
        rings: Each a flat list x, y, x, y, ... or a list of (x, y), of at least three points.
        scale: By which x and y are multiplied first.
    """
    (height, width), rings, holes = size, [_read_ring(r, scale) for r in rings], [_read_ring(r, scale) for r in holes]
    if not rings:
        raise DataError("a shape with an outline", "none", _AGAIN)
    points = np.concatenate(rings)
    left, top = np.floor(points.min(0)).clip(0, (width, height)).astype(int).tolist()
    right, bottom = (np.ceil(points.max(0)) + 1).clip(0, (width, height)).astype(int).tolist()
    if right <= left or bottom <= top:
        return Area(np.zeros((0, 0), bool))
    mask = _fill(rings, (left, top), (bottom - top, right - left))
    if holes:
        mask &= ~_fill(holes, (left, top), mask.shape)
    return Area(mask, top, left)


def _fill(rings: Sequence[np.ndarray], corner: tuple[int, int], size: Size) -> np.ndarray:
    # Moved by whole pixels, and never below 0, an outline covers the same pixels as in the whole picture.
    outlines = coco_mask.frPyObjects([(ring - corner).ravel().tolist() for ring in rings], *size)
    return coco_mask.decode(coco_mask.merge(outlines)).astype(bool)


def _read_ring(points: Sequence, scale: tuple[float, float]) -> np.ndarray:
    """(N, 2) float64."""
    try:
        ring = np.array(points, float)
    except (ValueError, TypeError, OverflowError) as error:  # of rows of unequal length, words, numbers without end
        raise DataError("points as numbers", f"{error}", _AGAIN) from error
    if ring.ndim == 1 and ring.size % 2 == 0:
        ring = ring.reshape(-1, 2)
    if ring.ndim != 2 or ring.shape[1] != 2:
        raise DataError("points of x and y", f"an array of {'x'.join(map(str, ring.shape))} numbers", _AGAIN)
    if len(ring) < 3:
        raise DataError("at least 3 points in an outline", f"{len(ring)}", _AGAIN)
    ring = ring * scale
    if not (np.abs(ring) <= _FARTHEST).all():  # also refuses NaN
        worst = ring[~(np.abs(ring) <= _FARTHEST)][0]
        raise DataError("points in or near the picture", f"a coordinate of {worst:g}", _AGAIN)
    length = np.abs(ring - np.roll(ring, 1, 0)).max(1).sum()
    if length > _MOST_OUTLINE:
        raise DataError(f"an outline of {_MOST_OUTLINE:,} pixels at most", f"{length:,.0f}", _AGAIN)
    return ring


def fill_rectangle(
    size: Size,
    corner: Sequence,
    opposite: Sequence,
    degrees: object = 0,
    scale: tuple[float, float] = (1, 1),
    about_corner: bool = False,
) -> Area:
    """Between two corners, turned clockwise about its centre, or about the first corner."""
    (x, y), (u, v) = read_numbers((corner, opposite), (2, 2)) * scale
    about = (x, y) if about_corner else ((x + u) / 2, (y + v) / 2)
    return fill_rings(size, [_turn(((x, y), (u, y), (u, v), (x, v)), about, degrees)])


def fill_ellipse(
    size: Size, center: Sequence, radii: Sequence, degrees: object = 0, scale: tuple[float, float] = (1, 1)
) -> Area:
    """Of radii along x and y, turned clockwise; as a polygon with a corner every pixel or so."""
    center, radii = read_numbers((center, radii), (2, 2)) * scale
    if radii.min() < 0 or radii.max() > _MOST_OUTLINE / 8:
        raise DataError("radii of 0 or more, in or near the picture", f"{radii.min():g} and {radii.max():g}", _AGAIN)
    angles = np.linspace(0, 2 * math.pi, max(16, math.ceil(2 * math.pi * radii.max())), endpoint=False)
    return fill_rings(size, [_turn(center + np.stack([np.cos(angles), np.sin(angles)], 1) * radii, center, degrees)])


def _turn(points: Sequence, about: Sequence, degrees: object) -> np.ndarray:
    angle = math.radians(float(read_numbers(degrees, ())))
    turned = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray(points) if angle == 0 else (np.asarray(points) - about) @ turned + about


def read_numbers(values: object, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 of that shape, from numbers or words; what isn't finite, or farther than any picture, is refused."""
    try:
        numbers = np.array(values, float)
    except (ValueError, TypeError, OverflowError):
        numbers = np.full(1, np.nan)
    if numbers.shape != shape or not (np.abs(numbers) <= _FARTHEST).all():
        raise DataError("coordinates as numbers in or near the picture", f"{values!r:.80}", _AGAIN)
    return numbers


def fill_counts(size: Size, counts: Sequence[int], order: str = "F", box: Sequence[int] | None = None) -> Area:
    """A mask in run lengths, of pixels outside first.

    Args:
        order: `F` down the columns as in COCO, `C` along the rows.
        box: (left, top, width, height) that the runs fill; None is the picture.
    """
    left, top, width, height = (0, 0, size[1], size[0]) if box is None else box
    if not all(type(one) is int for one in (left, top, width, height, *counts)) or min(width, height, *counts) < 0:
        raise DataError("run lengths as whole numbers of 0 or more", "others", _AGAIN)
    if min(left, top) < 0 or left + width > size[1] or top + height > size[0]:
        found = f"{height}x{width} at row {top}, column {left}"
        raise DataError(f"a mask inside the picture of {size[0]}x{size[1]}", found, _AGAIN)
    if sum(counts) != height * width:
        raise DataError(f"run lengths of {height}x{width} = {height * width:,} pixels", f"{sum(counts):,}", _AGAIN)
    mask = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape((height, width), order=order)
    return Area(mask, top, left)


def read_counts(text: str) -> list[int]:
    """Run lengths from COCO's compressed form.

    pycocotools reads it too, but what is damaged makes it read beyond the end of its memory.

    Source: `rleFrString` of cocoapi's common/maskApi.c.
    """
    counts, value, shift = [], 0, 0
    for code in map(ord, text):
        code -= 48
        if not 0 <= code < 64 or shift > 30:
            raise DataError("compressed run lengths of COCO", f"`{text[:20]}...`", _AGAIN)
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise DataError("compressed run lengths of COCO", "ones that are cut short", _AGAIN)
    return counts


def paste_picture(size: Size, text: object, corner: tuple, packed: bool = False) -> Area:
    """A mask that is a picture in base64: its pixels that aren't 0 (and aren't transparent).

    Args:
        corner: x and y of its upper left corner.
        packed: The picture's file is packed by zlib, as Supervisely does.
    """
    left, top = read_numbers(corner, (2,)).astype(int).tolist()
    try:
        content = base64.b64decode(text, validate=True)
        if packed:  # no more than twice the pixels as they are
            content = zlib.decompressobj().decompress(content, 1 << 20 | 8 * size[0] * size[1])
    except (TypeError, ValueError, zlib.error) as error:
        raise DataError("a picture in base64", f"{error}", _AGAIN) from error
    with readable("mask, as a PNG picture", None, _AGAIN):
        picture = open_picture(content, "mask")
        if not (0 < picture.width <= size[1] and 0 < picture.height <= size[0]):
            found = f"{picture.height}x{picture.width}"
            raise DataError(f"a mask no larger than the picture, {size[0]}x{size[1]}", found, _AGAIN)
        pixels = np.asarray(picture.getchannel("A") if picture.mode in ("RGBA", "LA") else picture)
    return Area(pixels.reshape(*pixels.shape[:2], -1).any(2), top, left)
