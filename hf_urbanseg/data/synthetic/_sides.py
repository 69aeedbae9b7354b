"""What stands beside a rendered street; `side` is -1 (left) or 1 (right), `x` the distance to the middle."""

from hf_urbanseg.data.synthetic._canvas import GLASS, PAINT, Canvas, shade


def draw_building(c: Canvas, side: int, x: float, z0: float, z1: float, height: float, gable: bool) -> None:
    color, trim = c.pick(c.town.masonry, 0.2), c.pick(c.town.masonry, 0.2)
    glass = c.pick((GLASS, (84, 98, 112), (58, 54, 50)), 0.2)
    face, back = side * x, side * (x + 9)
    roof = c.pick(c.town.roofs, 0.15)
    c.across(face, back, 0, height, z0, shade(color, c.lit(0)), "building")
    if gable:
        ridge = (side * (x + 4.5), height + 3)
        c.polygon([(face, height, z0), (*ridge, z0), (back, height, z0)], shade(color, c.lit(0)), "building")
        c.polygon([(face, height, z0), (*ridge, z0), (*ridge, z1), (face, height, z1)], roof, "building")
    front = shade(color, c.lit(-side))
    c.along(face, 0, height, z0, z1, front, "building")
    if not gable:
        c.along(face, height - 0.5, height, z0, z1, shade(trim, c.lit(-side)))
    if z0 > 70:
        return
    step, shop = c.between(2.2, 3.6), c.chance(0.4) and not gable
    width, tall = step * c.between(0.35, 0.6), c.between(1.2, 1.9)
    y = 0.9
    while y + tall < height - 0.4:
        ground_floor = y < 1
        z = z0 + 0.8
        while z + width < z1 - 0.4:
            pane = shade(glass, c.between(0.7, 1.4))
            if ground_floor and shop:
                c.along(face, 0.4, 2.5, z, z + step * 0.85, pane)
            elif ground_floor and c.chance(0.2):
                c.along(face, 0, 2.2, z, z + 1.1, c.pick(((70, 48, 36), (52, 66, 60)), 0.2))
            else:
                c.along(face, y - 0.12, y + tall + 0.1, z - 0.12, z + width + 0.12, shade(trim, c.lit(-side)))
                c.along(face, y, y + tall, z, z + width, pane)
            z += step
        if ground_floor and shop:
            c.along(face, 2.6, 3.1, z0 + 0.3, z1 - 0.3, c.pick(PAINT, 0.3))
        for k in range(3):
            u = side * (x + 1.2 + 2.6 * k)
            c.across(u, u + side, y, y + tall, z0, shade(glass, c.between(0.7, 1.3)))
        y += 3.0


def draw_wall(c: Canvas, side: int, x: float, z0: float, z1: float) -> None:
    height, color = c.between(1.3, 2.6), c.pick(c.town.masonry, 0.2)
    c.across(side * x, side * (x + 0.4), 0, height, z0, color, "wall")
    c.along(side * x, 0, height, z0, z1, shade(color, c.lit(-side)), "wall")
    for k in range(1, 5):  # courses of stone
        c.along(side * x, height * k / 5, height * k / 5 + 0.05, z0, z1, shade(color, 0.6), alpha=150)
    c.along(side * x, height - 0.15, height, z0, z1, shade(color, 1.15))


def draw_fence(c: Canvas, side: int, x: float, z0: float, z1: float) -> None:
    height, solid = c.between(1.0, 1.9), c.chance(0.4)
    color = c.pick(((122, 92, 66), (210, 208, 200), (60, 66, 62), (128, 122, 116)), 0.2)
    tone = shade(color, c.lit(-side))
    c.along(side * x, 0, height, z0, z1, shade(tone, 0.8 if solid else 1), "fence", 255 if solid else 70)
    z, step = z0, 0.5 if z1 < 45 else 1.2
    while z + step < z1:
        c.along(side * x, 0, height, z, z + step * 0.4, tone)
        z += step
    for y in (0.15, height - 0.25):
        c.along(side * x, y, y + 0.12, z0, z1, shade(tone, 1.1))


def draw_foliage(c: Canvas, x: float, y: float, z: float, wide: float, high: float, color, blobs: int = 16) -> None:
    for k in range(blobs):
        dx, dy = c.between(-0.75, 0.75), -0.7 + 1.4 * k / blobs  # from the dark underside up to the lit top
        size = c.between(0.32, 0.55)
        light = 0.62 + 0.3 * (dy + 0.7) + c.between(-0.1, 0.1) - 0.18 * c.sunny * dx * c.sun
        leaves = shade(color, light)
        c.disc(x + dx * wide, y + dy * high, z, size * wide, size * high, leaves, "vegetation")


def draw_tree(c: Canvas, x: float, z: float) -> None:
    height, spread = c.between(4.5, 9.5), c.between(1.5, 2.8)
    trunk = height * 0.4
    c.across(x - 0.16, x + 0.16, 0, trunk + 0.5, z, c.pick(((74, 58, 46), (92, 84, 74)), 0.2), "vegetation")
    draw_foliage(c, x, (height + trunk) / 2, z, spread, (height - trunk) / 1.6, c.pick(c.town.leaves, 0.25))


def draw_hedge(c: Canvas, side: int, x: float, z0: float, z1: float) -> None:
    height, color = c.between(0.9, 2.4), c.pick(c.town.leaves, 0.25)
    c.along(side * x, 0, height * 0.9, z0, z1, shade(color, c.lit(-side) * 0.85), "vegetation")
    z = z1
    while z > z0:
        draw_foliage(c, side * (x + 0.3), height * 0.6, z, 0.9, height * 0.45, color, 5)
        z -= 1.1
