"""The canvas that rendered streets are painted on: a pinhole camera, image and label side by side, and the colours."""

import numpy as np
from PIL import Image, ImageDraw

from hf_urbanseg.data.synthetic._towns import Town
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX

LABEL_IDS = {CITYSCAPES.names[t]: label_id for label_id, t in CITYSCAPES.label_ids.items() if t != IGNORE_INDEX}
SUPERSAMPLING = 2  # the image is averaged from this many samples per side; the label keeps one of them
NEAR = 1.0  # metres; nothing nearer is drawn
# Cosines and sines of 12 directions as constants: libm may round them differently from machine to machine.
CIRCLE = ((1, 0), (0.866, 0.5), (0.5, 0.866), (0, 1), (-0.5, 0.866), (-0.866, 0.5))
CIRCLE += tuple((-a, -b) for a, b in CIRCLE)

PAINT = ((30, 32, 38), (200, 202, 205), (120, 124, 130), (140, 26, 30), (34, 58, 110), (232, 232, 230), (60, 84, 70))
CLOTHES = ((38, 40, 52), (150, 40, 44), (54, 74, 120), (200, 196, 186), (84, 92, 66), (180, 140, 60))
GLASS, RUBBER, METAL = (46, 58, 70), (26, 26, 28), (112, 116, 118)


def shade(color, factor: float) -> tuple[int, ...]:
    return tuple(min(255, max(0, int(channel * factor))) for channel in color)


class Canvas:
    """Image and label of one scene, drawn in metres: x right of the camera, y above the ground, z ahead."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator, town: Town):
        height, width = (SUPERSAMPLING * side for side in size)
        self.rng, self.height, self.width, self.town = rng, height, width, town
        self.focal = town.focal[0] * width + town.focal[1] * height  # of both, so that it is moderate at any shape
        self.center = width * self.between(0.42, 0.58)
        self.horizon = height * self.between(*town.horizon)
        self.sun = self.between(-1.3, 1.3)  # shadows fall this many metres to the right per metre of height
        self.sunny = rng.random() < town.sunny
        self.haze = self.pick(town.haze, 0.05)
        self.image = Image.new("RGB", (width, height))
        self.label = Image.new("L", (width, height), LABEL_IDS["sky"])
        self.paint = ImageDraw.Draw(self.image, "RGBA")
        self.mark = ImageDraw.Draw(self.label)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, colors, jitter: float = 0.12):
        """One of `colors`, lighter or darker by up to `jitter`."""
        color = colors[int(self.rng.random() * len(colors))]
        return shade(color, 1 + self.between(-jitter, jitter))

    def lit(self, facing: int) -> float:
        """Brightness of a vertical face that looks left (-1), right (1) or at the camera (0)."""
        if not self.sunny:
            return 0.82 if facing else 0.9
        return 0.85 if facing == 0 else 0.9 - 0.25 * facing * max(-1.0, min(1.0, 2 * self.sun))

    def project(self, x: float, y: float, z: float) -> tuple[int, int]:
        u, v = self.center + self.focal * x / z, self.horizon - self.focal * (y - self.town.camera_height) / z
        return int(u // 1), int(v // 1)

    def hazy(self, color, z: float) -> tuple[int, ...]:
        share = z / (z + self.town.fog)
        return tuple(int(channel + (far - channel) * share) for channel, far in zip(color, self.haze, strict=True))

    def polygon(self, points, color, label: str | None = None, alpha: int = 255) -> None:
        """Draws a polygon of (x, y, z); without `label` it is paint on something that already has one."""
        clipped = []
        for (x0, y0, z0), (x1, y1, z1) in zip(points, (*points[1:], points[0]), strict=True):
            if z0 >= NEAR:
                clipped.append((x0, y0, z0))
            if (z0 >= NEAR) != (z1 >= NEAR):
                t = (NEAR - z0) / (z1 - z0)
                clipped.append((x0 + t * (x1 - x0), y0 + t * (y1 - y0), NEAR))
        if len(clipped) < 3:
            return
        flat = [self.project(*point) for point in clipped]
        self.paint.polygon(flat, fill=(*self.hazy(color, min(p[2] for p in clipped)), alpha))
        if label is not None:
            self.mark.polygon(flat, fill=LABEL_IDS[label])

    def ground(self, x0, x1, z0, z1, color, label=None, alpha=255) -> None:
        self.polygon([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], color, label, alpha)

    def across(self, x0, x1, y0, y1, z, color, label=None) -> None:
        """A rectangle that faces the camera."""
        self.polygon([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], color, label)

    def along(self, x, y0, y1, z0, z1, color, label=None, alpha=255) -> None:
        """A rectangle that runs along the street."""
        self.polygon([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], color, label, alpha)

    def disc(self, x, y, z, radius_x, radius_y, color, label=None) -> None:
        self.polygon([(x + a * radius_x, y + b * radius_y, z) for a, b in CIRCLE], color, label)

    def shadow(self, x0, x1, height, z0, z1) -> None:
        """Darkens the ground beside something `height` tall; under an overcast sky only below it."""
        reach = self.sun * height if self.sunny else 0.0
        self.ground(x0 + min(0.0, reach), x1 + max(0.0, reach), z0, z1, (12, 14, 24), alpha=105 if self.sunny else 60)

    def noise(self, cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """(height, width) float in 0..1: random values on a grid, smoothly enlarged to `size`."""
        grid = Image.fromarray((self.rng.random(cells) * 255).astype(np.uint8))
        return np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC)) / 255.0
