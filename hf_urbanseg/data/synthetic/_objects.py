"""What stands or moves in a rendered street; `x` is the signed centre of an object, `z` its nearest point."""

from itertools import pairwise

from hf_urbanseg.data.synthetic._canvas import CIRCLE, CLOTHES, GLASS, METAL, PAINT, RUBBER, Canvas, shade


def draw_pole(c: Canvas, x: float, z: float, kind: str) -> None:
    color, inward = c.pick((METAL, (70, 76, 72), (140, 138, 132)), 0.2), -1 if x > 0 else 1
    height = {"lamp": c.between(5.5, 8.5), "light": 3.6, "sign": c.between(2.5, 3.1)}[kind]
    width = 0.10 if kind != "sign" else 0.06
    c.across(x - width, x + width, 0, height, z, shade(color, c.lit(0)), "pole")
    c.across(x - width, x - width * 0.2, 0, height, z, shade(color, 0.65))
    if kind == "lamp":
        tip, arm = x + inward * 1.8, height + 0.3
        c.polygon([(x, height, z), (tip, arm, z), (tip, arm + 0.15, z), (x, height + 0.2, z)], color, "pole")
        c.across(tip, tip + inward * 0.7, arm - 0.05, arm + 0.2, z, color, "pole")
    elif kind == "light":
        c.across(x - 0.24, x + 0.24, 2.5, 3.6, z - 0.05, (24, 28, 26), "traffic light")
        on = int(c.between(0, 3))
        for k, lamp in enumerate(((60, 225, 130), (250, 190, 60), (240, 50, 40))):
            c.disc(x, 2.7 + 0.35 * k, z - 0.05, 0.14, 0.14, lamp if k == on else shade(lamp, 0.25))
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


def _body(c: Canvas, x: float, z: float, dims, shape: str, color, label: str, away: bool, glazed=True, y0=0.0) -> None:
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
        tone = shade(color, 1.15 if flat else 1.0 if slope else c.lit(0))
        c.polygon([(left, ya, za), (right, ya, za), (right, yb, zb), (left, yb, zb)], tone, label)
        high, low = max(ya, yb), min(ya, yb)
        if glazed and high > 0.9 * height and not flat:  # a pane in the upper part of an end
            ends = sorted(((ya, za), (yb, zb)))
            cut = [(low + s * (high - low), ends[0][1] + s * (ends[1][1] - ends[0][1])) for s in (0.12, 0.88)]
            if shape == "box":
                cut = [(0.5 * height, za), (0.88 * height, za)]
            a, b = left + 0.1 * width, right - 0.1 * width
            c.polygon([(a, *cut[0]), (b, *cut[0]), (b, *cut[1]), (a, *cut[1])], shade(GLASS, 1.1))
    if flank is not None:
        c.polygon([(flank, y, zz) for y, zz in outline], shade(color, c.lit(-1 if flank > 0 else 1)), label)
        if glazed:
            panes = 2 if shape in ("hatchback", "saloon") else max(3, int(length / 2))
            first, last = (0.24, 0.68) if panes == 2 else (0.03, 0.97)
            for k in range(panes):
                a, b = (first + (last - first) * (k + e) / panes for e in (0.05, 0.92))
                za, zb = sorted(z + length * (t if away else 1 - t) for t in (a, b))
                low = 0.66 if panes == 2 else 0.5
                c.along(flank, low * height, 0.92 * height if panes == 2 else 0.85 * height, za, zb, GLASS)
    wheel = 0.32 if height < 2 else 0.48
    if shape != "tram" and y0 < 0.6:
        for side in (left + 0.02, right - 0.22):
            c.across(side, side + 0.2, 0, wheel, z + 0.1, RUBBER, label)
        for t in (0.18, 0.8):
            if flank is not None:
                hub = z + length * t
                for size, tint in ((1, RUBBER), (0.55, (130, 132, 136))):
                    ring = [(flank, wheel * (1 + b * size), hub + a * wheel * size) for a, b in CIRCLE]
                    c.polygon(ring, tint, label)
    lamp = (196, 30, 28) if away else (250, 244, 214)
    for side in (left + 0.05, right - 0.33):
        c.across(side, side + 0.28, y0 + 0.4 * min(height, 1.7), y0 + 0.52 * min(height, 1.7), z, lamp)


def draw_car(c: Canvas, x: float, z: float, away: bool) -> None:
    dims = (c.between(1.65, 1.85), c.between(1.38, 1.75), c.between(3.7, 4.7))
    c.shadow(x - dims[0] / 2 - 0.1, x + dims[0] / 2 + 0.1, 0.7, z - 0.2, z + dims[2])
    _body(c, x, z, dims, "saloon" if c.chance(0.4) else "hatchback", c.pick(PAINT, 0.2), "car", away)


def draw_truck(c: Canvas, x: float, z: float, away: bool) -> None:
    long, tall = c.between(4.5, 8), c.between(2.9, 3.6)
    c.shadow(x - 1.3, x + 1.3, tall / 2, z - 0.2, z + long + 2)
    load = c.pick(((225, 225, 220), (196, 190, 178), (70, 96, 140), (170, 60, 48), (90, 110, 84)), 0.15)
    parts = [
        (z + (0 if away else 2.1), (2.45, tall - 0.5, long), load, False, 0.5),
        (z + (long + 0.1 if away else 0), (2.3, 2.6, 2), c.pick(PAINT), True, 0.2),
    ]
    for start, dims, color, glazed, y0 in sorted(parts, key=lambda part: -part[0]):
        _body(c, x, start, dims, "box", color, "truck", away, glazed, y0)


def draw_bus(c: Canvas, x: float, z: float, away: bool) -> None:
    long = c.between(9, 12)
    c.shadow(x - 1.3, x + 1.3, 1.6, z - 0.2, z + long)
    color = c.pick(((200, 44, 40), (226, 180, 50), (228, 228, 224), (50, 90, 150), (60, 130, 84)), 0.12)
    _body(c, x, z, (2.5, 3.1, long), "box", color, "bus", away)
    c.across(x - 0.8, x + 0.8, 2.78, 3.0, z, (30, 30, 26))
    c.across(x - 0.6, x + 0.5, 2.84, 2.94, z, (240, 170, 40))


def draw_train(c: Canvas, x: float, z: float, away: bool) -> None:
    long = c.between(24, 34)
    c.shadow(x - 1.3, x + 1.3, 1.6, z, z + long)
    color = c.pick(((222, 214, 190), (170, 40, 44), (60, 110, 90), (230, 230, 232), (210, 170, 60)), 0.12)
    _body(c, x, z, (2.5, 3.5, long), "tram", color, "train", away)
    flank = x - 1.25 if x > 0 else x + 1.25
    c.along(flank, 0.9, 1.3, z + 0.4, z + long - 0.4, c.pick(PAINT, 0.2))
    for k in (1, 2):
        c.along(flank, 0.3, 3.5, z + long * k / 3, z + long * k / 3 + 0.8, (40, 40, 44))
    c.polygon(
        [(x - 0.7, 4.4, z + 6), (x + 0.7, 4.4, z + 6), (x + 0.1, 3.5, z + 6), (x - 0.1, 3.5, z + 6)], METAL, "train"
    )


def draw_person(c: Canvas, x: float, z: float, label: str = "person", seat: float = 0.0) -> None:
    """Somebody `seat` metres above their standing height; a rider's legs are bent."""
    h, step = c.between(1.5, 1.9), c.between(0.06, 0.26)
    coat, trousers, skin = c.pick(CLOTHES, 0.2), c.pick(CLOTHES, 0.25), c.pick(((206, 164, 138), (140, 98, 74)), 0.15)
    foot, hip, neck = (seat * 0.7, 0.5 * h + seat - 0.12, 0.84 * h + seat - 0.12) if seat else (0.0, 0.5 * h, 0.84 * h)
    if not seat:
        c.shadow(x - 0.2, x + 0.2, 0.8, z - 0.1, z + 0.25)
    for lean, tone in ((-step, 0.75), (step, 0.95)):
        leg = [(x - 0.1, hip, z), (x + 0.1, hip, z), (x + lean + 0.09, foot, z), (x + lean - 0.09, foot, z)]
        c.polygon(leg, shade(trousers, tone), label)
    c.polygon(
        [(x - 0.16, hip - 0.1, z), (x + 0.16, hip - 0.1, z), (x + 0.23, neck, z), (x - 0.23, neck, z)], coat, label
    )
    for arm in (-1, 1):
        limb = ((0.2, neck), (0.29, neck - 0.05), (0.32, hip), (0.22, hip))
        c.polygon([(x + arm * a, b, z) for a, b in limb], shade(coat, 0.8), label)
    c.disc(x, neck + 0.12, z, 0.11, 0.15, skin, label)
    c.disc(x, neck + 0.19, z, 0.12, 0.1, c.pick(((36, 28, 24), (110, 84, 56), (210, 210, 214)), 0.1), label)


def draw_two_wheeler(c: Canvas, x: float, z: float, label: str, ridden: bool) -> None:
    heavy, turn = label == "motorcycle", c.between(0.3, 0.95)
    radius, half = (0.31, 0.68) if heavy else (0.34, 0.52)
    color = c.pick((*PAINT, (190, 60, 30), (40, 120, 70)), 0.2)
    c.shadow(x - half * turn, x + half * turn, 0.5, z - 0.15, z + 0.2)
    for hub in (-half * turn, half * turn):
        c.disc(x + hub, radius, z, radius * turn, radius, RUBBER, label)
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
    c.across(x + half * 0.45 * turn - 0.22, x + half * 0.45 * turn + 0.22, tall + 0.12, tall + 0.2, z, RUBBER, label)
    if ridden:
        draw_person(c, x, z - 0.02, "rider", seat=0.32)
