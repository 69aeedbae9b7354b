"""Which colours classes have in pictures."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import CITYSCAPES, LabelSpace

PALETTES = ("cityscapes", "colorblind")
COLORBLIND = (
    (135, 30, 90), (150, 90, 240), (75, 75, 60), (150, 165, 195), (150, 90, 105), (210, 135, 255), (60, 60, 150),
    (120, 105, 60), (210, 255, 120), (135, 150, 90), (105, 135, 150), (210, 105, 0), (210, 180, 135), (105, 0, 240),
    (105, 210, 0), (150, 0, 0), (0, 165, 135), (60, 105, 135), (180, 210, 255), (195, 45, 0), (150, 120, 105),
    (120, 120, 180), (105, 90, 180), (210, 120, 135), (135, 180, 75), (210, 210, 120), (180, 210, 180), (165, 30, 75),
    (180, 240, 255), (165, 240, 0), (165, 45, 120), (165, 150, 165),
)  # fmt: skip
"""Colours that eyes of any colour vision can tell apart, those of Cityscapes' 19 classes first: the least CIEDE2000
distance of these is 11.1 and of all 7.0, that of Cityscapes' own colours 2.6 (benchmarks/palette.py, which says how
they came about)."""


def choose_colors(names: Sequence[str], palette: str = "cityscapes") -> tuple[tuple[int, int, int], ...]:
    """A colour for every class: those of Cityscapes' have the same ones wherever they occur.

    Args:
        names: Of the classes.
        palette: `cityscapes`, in which others have the generated colour farthest from all in use, so the same names
            always get the same ones; or `colorblind`, in which they have the next of `COLORBLIND` that is free.

    Raises:
        ConfigError: No such palette, or more classes than it has colours.
    """
    if palette == "cityscapes":
        return _generate_others(names)
    if palette != "colorblind":
        raise ConfigError(f"`palette` of {', '.join(PALETTES)}", f"`{palette}`", "choose one of them")
    if len(names) > len(COLORBLIND):
        found = f"colorblind, which has {len(COLORBLIND)}"
        raise ConfigError(f"a palette with {len(names)} colours", found, "choose `--palette cityscapes`")
    known = dict(zip(CITYSCAPES.names, COLORBLIND, strict=False))
    free = iter([color for color in COLORBLIND if color not in {known.get(name) for name in names}])
    return tuple(known[name] if name in known else next(free) for name in names)


def recolor(label_space: LabelSpace, palette: str | None) -> LabelSpace:
    """The same classes in the colours of a palette; None leaves those that they have."""
    return label_space if palette is None else replace(label_space, colors=choose_colors(label_space.names, palette))


def _generate_others(names: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    known = dict(zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True))
    colors = [known.get(name) for name in names]
    steps = np.linspace(0, 255, 9).round()
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    # Black is void, so the first generated colour keeps away from it too.
    distance = np.linalg.norm(candidates, axis=1)
    for color in filter(None, colors):
        distance = np.minimum(distance, np.linalg.norm(candidates - color, axis=1))
    for index, color in enumerate(colors):
        if color is None:
            best = candidates[distance.argmax()]
            distance = np.minimum(distance, np.linalg.norm(candidates - best, axis=1))
            colors[index] = tuple(int(channel) for channel in best)
    return tuple(colors)
