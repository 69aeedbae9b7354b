"""How the colours of `--palette colorblind` were chosen, and how far apart they are.

    python benchmarks/palette.py           # the least distances of both palettes
    python benchmarks/palette.py --choose  # the table of hf_urbanseg/palettes.py anew, about a minute

Distances are CIEDE2000, the least over normal vision and full protanopia, deuteranopia and tritanopia (Machado 2009).
Of a grid of colours that are not too dark to tell over a dark picture, 19 are chosen whose least distance, also from
the void colours and the greys of an error map, is largest: farthest-point starts, then exchanges of one colour of the
closest pair, as long as that helps. They are given to Cityscapes' classes so that those beside each other in a street
are far apart, and close to the colours that people know. Further colours follow one by one, each the farthest from all
before it.
"""

import argparse
import itertools

import numpy as np

from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.palettes import COLORBLIND
from hf_urbanseg.reports.overlays import FADED_VOID

# sRGB, linear, for severity 1.0: Machado, Oliveira and Fernandes 2009, table 1.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
ANCHORS = [(0, 0, 0), FADED_VOID, *((grey,) * 3 for grey in (176, 201, 226, 251))]
"""What lies beside the classes in pictures: void, pixels without a label, and what is right in an error map."""
NEIGHBOURS = {
    "road": "sidewalk, terrain, car, person, rider, bicycle",
    "sidewalk": "building, terrain, vegetation, person, wall",
    "building": "vegetation, sky, person, car, pole",
    "wall": "fence, vegetation",
    "fence": "vegetation, terrain",
    "pole": "traffic light, traffic sign, vegetation, sky",
    "traffic light": "traffic sign, vegetation, sky",
    "traffic sign": "vegetation, sky",
    "vegetation": "terrain, sky, person, car",
    "person": "rider, car, bicycle",
    "rider": "bicycle, motorcycle",
    "car": "truck, bus",
    "truck": "bus",
    "bus": "train",
    "motorcycle": "bicycle",
}


DARKEST, NEIGHBOURS_APART = 30, 16
"""Lightness of CIELAB, 0..100; least distance of classes beside each other."""
LARGE = ("road", "sidewalk", "building", "vegetation", "sky", "car")
"""Classes that count four times where colours shall be like those that people know."""


def simulate(colors: np.ndarray, vision: str) -> np.ndarray:
    """(..., 3) sRGB of 0..255 as CIELAB (D65), seen by an eye of that kind."""
    values = np.asarray(colors, float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ VISIONS[vision].T, 0, 1)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    ratios = linear @ to_xyz.T / (0.95047, 1.0, 1.08883)
    roots = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(roots, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def ciede2000(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances of (..., 3) CIELAB colours: Sharma, Wu and Dalal 2005."""
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(one, -1, 0), np.moveaxis(other, -1, 0)
    mean_chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1, h2 = np.arctan2(b1, a1 * stretch) % (2 * np.pi), np.arctan2(b2, a2 * stretch) % (2 * np.pi)
    turn = np.where(c1 * c2 == 0, 0, (h2 - h1 + np.pi) % (2 * np.pi) - np.pi)
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = np.where(c1 * c2 == 0, h1 + h2, h1 + turn / 2)
    weight = 1 - 0.17 * np.cos(hue - np.pi / 6) + 0.24 * np.cos(2 * hue)
    weight += 0.32 * np.cos(3 * hue + np.pi / 30) - 0.2 * np.cos(4 * hue - np.radians(63))
    scale_l = 1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2)
    scale_c, scale_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * weight
    bump = np.exp(-(((np.degrees(hue) % 360 - 275) / 25) ** 2))
    rotation = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(60) * bump)
    d_l, d_c, d_h = (l2 - l1) / scale_l, (c2 - c1) / scale_c, 2 * np.sqrt(c1 * c2) * np.sin(turn / 2) / scale_h
    return np.sqrt(d_l**2 + d_c**2 + d_h**2 + rotation * d_c * d_h)


def distances(colors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, M) least distances over all kinds of vision."""
    pairs = (ciede2000(simulate(colors, v)[:, None], simulate(others, v)[None]) for v in VISIONS)
    return np.minimum.reduce([one.astype(np.float32) for one in pairs])


def choose(count: int, more: int, starts: int, rng: np.random.Generator) -> np.ndarray:
    steps = np.arange(0, 256, 15)
    grid = np.array(list(itertools.product(steps, steps, steps)))
    grid = grid[simulate(grid, "normal")[:, 0] > DARKEST]
    apart = np.concatenate([distances(part, grid) for part in np.array_split(grid, 64)])
    away = distances(grid, np.array(ANCHORS)).min(1)
    best, chosen = 0.0, None
    for _ in range(starts):
        members = [int(rng.integers(len(grid)))]
        while len(members) < count:
            members.append(int(np.minimum(apart[members].min(0), away).argmax()))
        members, score = _exchange(members, apart, away)
        if score > best:
            best, chosen = score, members
            print(f"least distance {best:.2f}")
    members = list(chosen)
    for _ in range(more):
        members.append(int(np.minimum(apart[members].min(0), away).argmax()))
    return grid[members]


def _exchange(members: list[int], apart: np.ndarray, away: np.ndarray) -> tuple[list[int], float]:
    """Replaces a colour of the closest pair as long as the least distance grows, or as many pairs have it no more."""

    def rate(own: list[int]) -> tuple[np.ndarray, np.ndarray]:
        table = apart[np.ix_(own, own)].copy()
        np.fill_diagonal(table, away[own])
        return table, np.sort(table[np.triu_indices(len(own))])[:6]

    table, score = rate(members)
    while True:
        place = np.unravel_index(table.argmin(), table.shape)
        found = None
        for index in sorted(set(map(int, place))):
            rest = members[:index] + members[index + 1 :]
            for candidate in np.minimum(apart[rest].min(0), away).argsort()[-5:]:
                trial = [*rest[:index], int(candidate), *rest[index:]]
                rated = rate(trial)
                if tuple(rated[1]) > tuple(score if found is None else found[2]):
                    found = trial, *rated
        if found is None:
            return members, float(score[0])
        members, table, score = found


def assign(colors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The colours in the order of Cityscapes' classes: the best of climbs by exchanges of two."""
    names = CITYSCAPES.names
    pairs = [(names.index(one), names.index(other)) for one in NEIGHBOURS for other in NEIGHBOURS[one].split(", ")]
    ones, others = np.array(pairs).T
    apart = distances(colors, colors)
    known = ciede2000(simulate(colors, "normal")[:, None], simulate(np.array(CITYSCAPES.colors), "normal")[None])
    known[:, [names.index(one) for one in LARGE]] *= 4

    def cost(order: np.ndarray) -> float:
        beside = apart[order[ones], order[others]]
        too_close = 1e4 * max(0, NEIGHBOURS_APART - beside.min())
        return known[order, range(len(order))].sum() + 10 * ((15 / beside) ** 2).sum() + too_close

    def climb(order: np.ndarray) -> tuple[float, np.ndarray]:
        best, improved = cost(order), True
        while improved:
            improved = False
            for i, j in itertools.combinations(range(len(order)), 2):
                trial = order.copy()
                trial[[i, j]] = trial[[j, i]]
                if (found := cost(trial)) < best:
                    order, best, improved = trial, found, True
        return best, order

    _, order = min((climb(rng.permutation(len(colors))) for _ in range(40)), key=lambda found: found[0])
    print(f"neighbours are at least {apart[order[ones], order[others]].min():.1f} apart")
    return colors[order]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--starts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.choose:
        rng, count = np.random.default_rng(args.seed), CITYSCAPES.num_labels
        colors = choose(count, 13, args.starts, rng)
        colors[:count] = assign(colors[:count], rng)
        print("\n".join(f"    {tuple(color)}," for color in colors.tolist()))
        return
    for name, colors in (("cityscapes", CITYSCAPES.colors), ("colorblind", COLORBLIND)):
        for count in dict.fromkeys((len(CITYSCAPES.colors), len(colors))):
            table = distances(np.array(colors[:count]), np.array(colors[:count]))
            least = table[np.triu_indices(len(table), 1)].min()
            print(f"{name}, {count} colours: least distance {least:.2f}")


if __name__ == "__main__":
    main()
