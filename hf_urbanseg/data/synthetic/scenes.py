"""Street scenes: what stands where, and the pictures and rows made of it.

A small painter's renderer: a pinhole camera in a car, a ground plane, and objects drawn from the far and outer ones to
the near and inner ones. Every polygon is drawn twice, in colour and as a label id, so that labels fit to the pixel.
"""

import functools
import io
import itertools
from functools import partial

import datasets
import numpy as np
from PIL import Image

from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.data.synthetic import _objects, _sides
from hf_urbanseg.data.synthetic._canvas import LABEL_IDS, NEAR, PAINT, SUPERSAMPLING, Canvas, shade
from hf_urbanseg.data.synthetic._towns import TOWNS
from hf_urbanseg.errors import DataError
from hf_urbanseg.progress import show_progress

SCENES_PER_SEED = 2**20
"""Scene seeds of `build_synthetic_splits(seed=s)` start at s times this, so two seeds share no scene."""

_EGO_VEHICLE, _BORDER = 1, 3  # void label ids of Cityscapes

# Strength of the multiplied (coarse, fine) texture by class; the others get the last entry.
_TEXTURE = {"road": (0.10, 0.10), "sidewalk": (0.10, 0.16), "building": (0.10, 0.08), "wall": (0.16, 0.14)}
_TEXTURE |= {"vegetation": (0.30, 0.50), "terrain": (0.22, 0.34), "sky": (0.0, 0.0), "other": (0.05, 0.06)}


def _backdrop(c: Canvas, city: bool) -> None:
    """Sky with clouds, and what closes the view at the end of the street."""
    top, low = c.pick(c.town.sky, 0.12), shade(c.haze, 1.08)
    share = np.linspace(0, 1, c.height)[:, None, None] / (c.horizon / c.height)
    sky = np.array(top) + (np.array(low) - np.array(top)) * np.minimum(share, 1.0)
    clouds = np.maximum(c.noise((7, 12), (c.height, c.width)) - 0.45, 0)[:, :, None] * c.between(0.0, 2.0)
    c.image.paste(Image.fromarray((sky + (250 - sky) * np.minimum(clouds, 1)).astype(np.uint8)))
    x = -130.0
    while x < 130:
        width = c.between(8, 20)
        if city and c.chance(0.5):
            c.across(x, x + width, 0, c.between(6, 20), 130, c.pick(c.town.masonry, 0.2), "building")
        else:
            _sides.draw_foliage(c, x + width / 2, 2, 125, width, c.between(4, 12), c.pick(c.town.leaves, 0.2), 8)
        x += width * 0.8


def _roadway(c: Canvas, edges: dict, walks: dict, grassy: dict) -> None:
    """The ground from the horizon to the bonnet: terrain, pavements, asphalt, markings."""
    left, right, far = -edges[-1], edges[1], 140.0
    grass = c.pick(c.town.grass, 0.2)
    c.ground(-200, 200, NEAR, 500, grass, "terrain")
    stone, asphalt = c.pick(c.town.stone, 0.15), c.between(*c.town.asphalt)
    for side, edge in ((-1, left), (1, right)):
        outer = edge + side * (walks[side] if grassy[side] else 60)
        c.ground(edge, outer, NEAR, far, stone, "sidewalk")
        for k in range(0, 40):  # joints between the slabs
            c.ground(edge, edge + side * walks[side], 2 + k, 2.06 + k, shade(stone, 0.8), alpha=130)
    road = (asphalt, asphalt, asphalt * c.between(0.98, 1.07))
    c.ground(left, right, NEAR, far, shade(road, 1), "road")
    for _ in range(3):  # repaired patches
        x, z = c.between(left, right - 2), c.between(4, 30)
        c.ground(x, x + c.between(0.8, 2), z, z + c.between(1, 8), shade(road, c.between(0.75, 1.2)), alpha=130)
    paint = shade((232, 230, 222), c.between(0.75, 1.0))
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
        c.ground(edge, edge + side * 0.18, NEAR, far, shade(stone, 1.2), "sidewalk")


def _roadside(c: Canvas, side: int, line: float, style: str, grassy: bool) -> list:
    """Buildings, walls, fences, hedges and trees of one side, as (distance from the middle, z, draw)."""
    items, z = [], 1.2
    while z < 105:
        length = c.between(8, 22)
        end, draw = z + length, float(c.rng.random())
        if style == "city" and draw < 0.8:
            height = 3.0 * int(c.between(2, 6)) + 1.2
            items.append((line, z, partial(_sides.draw_building, c, side, line, z, end, height, False)))
        else:
            if draw > 0.35 and style != "country":
                house = end - c.between(1, 4)
                items.append((line + 5, z, partial(_sides.draw_building, c, side, line + 5, z, house, 5.6, True)))
            edge = c.chance(0.9) and ("wall", "fence", "fence", "hedge", "open")[int(c.between(0, 5))]
            plain = {"wall": _sides.draw_wall, "fence": _sides.draw_fence, "hedge": _sides.draw_hedge}
            if edge in plain:
                items.append((line, z, partial(plain[edge], c, side, line, z, end)))
            for _ in range(int(c.between(1, 4)) + (style == "country")):
                x, at = line + c.between(1.5, 4.5), c.between(z, end)
                items.append((x, at, partial(_sides.draw_tree, c, side * x, at)))
        z = end + (c.between(0, 3) if style == "city" else c.between(0.5, 5))
    for _ in range(int(c.between(0, 5)) if grassy or c.chance(0.4) else 0):
        at = c.between(9, 60)
        items.append((line - 0.8, at, partial(_sides.draw_tree, c, side * (line - 0.8), at)))
    return items


def _traffic(c: Canvas, featured: int, edges: dict, parking: dict, walks: dict) -> list:
    """Poles, people and vehicles as (distance from the middle, z, draw); `featured` names the rare guest."""
    items = []

    def put(x: float, z: float, draw, *args) -> None:
        # Who drives in the own lane overlaps its middle, where only the distance orders two objects.
        items.append((abs(x) if abs(x) > 1.7 else 0.0, z, partial(draw, c, x, z, *args)))

    # Own lane and the oncoming ones.
    oncoming, ahead = c.between(9, 22), c.between(8, 24)
    rare = {0: _objects.draw_train, 1: _objects.draw_bus, 2: _objects.draw_truck}.get(featured)
    same_way = rare not in (None, _objects.draw_train) and c.chance(0.5)
    if rare is not None:
        put(0 if same_way else -3.5, ahead if same_way else oncoming, rare, same_way)
    elif featured in (3, 4):
        kind = "motorcycle" if featured == 3 else "bicycle"
        put(c.between(0.2, 1.2), c.between(6, 12), _objects.draw_two_wheeler, kind, True)
        ahead += 8
    if not same_way and c.chance(0.6):
        put(c.between(-0.2, 0.2), ahead, _objects.draw_car, True)
    z = oncoming + (38 if rare is not None and not same_way else 0)
    while z < 75:
        if c.chance(0.5):
            put(-3.5 + c.between(-0.2, 0.2), z, _objects.draw_truck if c.chance(0.06) else _objects.draw_car, False)
        z += c.between(8, 22)
    for side in (-1, 1):
        edge, z = edges[side], c.between(3, 9)
        while z < 60 and parking[side]:
            if c.chance(0.65):
                put(side * (edge - 1.1), z, _objects.draw_car, side > 0)
            z += c.between(5.4, 7)
        z = c.between(6, 16)
        while z < 65:
            kind = ("lamp", "lamp", "sign", "sign", "light")[int(c.between(0, 5))]
            put(side * (edge + 0.5), z, _objects.draw_pole, kind)
            z += c.between(7, 20)
        for _ in range(int(c.between(0, 3.2)) + 2 * (featured == 6)):
            put(side * (edge + c.between(0.8, max(1.0, walks[side] - 0.3))), c.between(5.5, 24), _objects.draw_person)
        if featured == 5 or c.chance(0.2):
            z = c.between(6, 12)
            for k in range(1 + int(c.between(0, 3))):
                kind = "motorcycle" if featured == 5 and side > 0 else "bicycle"
                put(side * (edge + 0.75), z + 1.4 * k, _objects.draw_two_wheeler, kind, False)
    if featured == 6:
        put(c.between(-2.5, 0.8), c.between(8, 14), _objects.draw_person)
    return items


def _frame(c: Canvas) -> None:
    """The own bonnet and the black border of a rectified picture: void, as in Cityscapes."""
    if c.chance(0.5):
        top, color = c.height * c.between(0.93, 0.97), c.pick(PAINT, 0.2)
        box = [int(-0.15 * c.width), int(top), int(1.15 * c.width), int(top + 0.4 * c.height)]
        c.paint.ellipse(box, fill=color)
        c.mark.ellipse(box, fill=_EGO_VEHICLE)
    if c.chance(0.25):
        border = [0, 0, int(c.width * c.between(0.005, 0.02)), c.height]
        c.paint.rectangle(border, fill=(0, 0, 0))
        c.mark.rectangle(border, fill=_BORDER)


def _photograph(c: Canvas, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Texture, light, lens and sensor; only the image changes."""
    label = np.asarray(c.label)[::SUPERSAMPLING, ::SUPERSAMPLING].copy()
    strength = np.array([_TEXTURE["other"]] * 256)
    for name, amounts in _TEXTURE.items():
        if name in LABEL_IDS:
            strength[LABEL_IDS[name]] = amounts
    coarse, fine = c.noise((20, 40), size) - 0.5, c.noise((96, 192), size) - 0.5
    texture = 1 + strength[label, 0] * 2 * coarse + strength[label, 1] * 2 * fine
    pixels = np.asarray(c.image.reduce(SUPERSAMPLING)).astype(np.float64) * texture[:, :, None]
    soft = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    soft = (soft[:-2] + 2 * soft[1:-1] + soft[2:]) / 4
    soft = (soft[:, :-2] + 2 * soft[:, 1:-1] + soft[:, 2:]) / 4
    pixels += c.between(0.2, 0.8) * (soft - pixels)
    tint = np.array([c.between(0.93, 1.07) for _ in range(3)]) * c.town.tint
    pixels = 118 + c.between(0.8, 1.15) * (pixels * tint * c.between(*c.town.light) - 118)
    # A sum of uniforms, not a normal: it needs no logarithm, which may differ from machine to machine.
    noise = c.rng.random((3, *pixels.shape)).sum(0) - 1.5
    pixels += c.between(*c.town.noise) * noise
    return np.clip(pixels, 0, 255).astype(np.uint8), label


def render_scene(
    seed: int, size: tuple[int, int] = (192, 384), town: str = "riverside"
) -> tuple[np.ndarray, np.ndarray]:
    """Renders one street as seen from a car.

    The same seed and size give the same pixels on any machine (same Pillow and numpy: only they may round otherwise);
    another size shows the same street. The remainder of `seed` by 8 chooses a guest (train, bus, truck, motorcyclist,
    cyclist, parked motorcycles, pedestrians, none), so any 8 seeds in a row have about the same mix of rare classes.

    Args:
        seed: Scene number, 0 or more.
        size: (height, width) in pixels, 32 or more.
        town: `riverside`, `hillside` or `harbour`: other materials, weather and camera.

    Returns:
        image: (height, width, 3) uint8, RGB.
        label: (height, width) uint8, raw Cityscapes *label ids* (7 road, 8 sidewalk, ...), not train ids.
    """
    c = Canvas(size, np.random.default_rng(seed), TOWNS[town])
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
            c.shadow(*sorted((side * line, side * (line + 6))), 3.5, NEAR, 90)
        items += _roadside(c, side, line, styles[side], grassy[side])
    # On each side of the camera the inner of two objects hides the outer, and at equal distance the nearer the farther.
    for _, _, draw in sorted(items, key=lambda item: (-item[0], -item[1])):
        draw()
    _frame(c)
    return _photograph(c, size)


def build_synthetic_splits(
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    size: tuple[int, int] = (192, 384),
    seed: int = 0,
    town: str = "riverside",
) -> datasets.DatasetDict:
    """Renders a data set of different streets for training, model selection and test.

    Args:
        train, validation, test: Scenes per split; None is the town's own number: 64, 16, 16, and 3,000, 48, 48 of
            `hillside`, which `tiny-streets` is pre-trained on.
        size: (height, width) in pixels.
        seed: Another number gives other streets.
        town: As of `render_scene`; the demo is fine-tuned on `harbour`. No two towns have a street in common.

    Returns:
        Splits `train`, `validation`, `test` with columns `image` and `label` (PNG bytes inside the set: RGB, and
        single-channel Cityscapes label ids) and `name`, unique over all splits.

    Raises:
        DataError: There is no such town.
    """
    if town not in TOWNS:
        raise DataError(f"a town of {', '.join(TOWNS)}", f"`{town}`", "choose one of them", "synthetic")
    asked = zip((train, validation, test), TOWNS[town].frames, strict=True)
    counts = tuple(own if count is None else count for count, own in asked)
    first = TOWNS[town].first_scene + seed * SCENES_PER_SEED
    return datasets.DatasetDict(_render_splits(counts, tuple(size), first, town))


@functools.lru_cache(maxsize=1)  # a run, its baseline, and the next run in a notebook have the same streets
def _render_splits(counts: tuple[int, ...], size: tuple[int, int], first: int, town: str) -> dict:
    splits, numbers = {}, itertools.count()
    with show_progress(sum(counts), "rendering", "street", hidden=sum(counts) < 500) as bar:
        for split, count in zip(("train", "validation", "test"), counts, strict=True):
            rows = {"image": [], "label": [], "name": []}
            for number in itertools.islice(numbers, count):
                for column, pixels in zip(("image", "label"), render_scene(first + number, size, town), strict=True):
                    rows[column].append({"bytes": _encode(pixels), "path": None})
                rows["name"].append(f"synthetic_{number:06d}")
                bar.update()
            splits[split] = datasets.Dataset.from_dict(rows, features=FEATURES, split=split)
    return splits


def _encode(pixels: np.ndarray) -> bytes:
    """As PNG; thousands of pictures are held in a fraction of the memory then."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
