"""Pixel counts per class -> weights of the loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.json_yaml import read_json, write_json
from hf_urbanseg.labels import LabelSpace

Scheme = Literal["inverse_log", "effective_number", "enet", "median_frequency", "none"]
SCHEMES: tuple[str, ...] = get_args(Scheme)


def compute_class_weights(counts: np.ndarray, scheme: Scheme = "inverse_log", beta: float = 0.9999) -> np.ndarray:
    """Weights that raise rare classes in the loss.

    With n_c pixels of class c, p_c its share of all labelled pixels, and P classes that occur (n_c > 0):

    - `inverse_log`: P * a_c / sum(a), a_c = 1 / ln(1 + n_c). Mean 1.
    - `effective_number`: P * e_c / sum(e), e_c = (1 - beta) / (1 - beta^n_c). Mean 1. No class counts as more than
      1 / (1 - beta) samples, so weights differ only among classes of fewer pixels than about that: with the default
      0.9999 all classes above 1e5 pixels weigh the same. Whole streets, 1e4 to 1e8 pixels a class, want 1 - 1e-7 or
      nearer to 1.
    - `enet`: 1 / ln(1.02 + p_c), as published: not normalised, from 1.42 (p = 1) to 50.5 (p = 0).
    - `median_frequency`: median(f) / f_c, f_c = n_c / all labelled pixels of the images in which c occurs.
    - `none`: 1.

    A class without pixels takes no part in any sum, mean or median, and gets the largest weight of the others: finite,
    and without effect on a training set in which it doesn't occur.

    Args:
        counts: (C,) or (N, C) int64 pixels per class (and image); void is left out. `median_frequency` needs (N, C).
        scheme: Defaults to the report's `inverse_log`.
        beta: Of `effective_number`, in [0, 1).

    Returns:
        (C,) float64, finite and positive.

    Source: `inverse_log` from the code of Liu and Wang 2022 (arXiv:2206.12571), whose text cites Cui et al. 2019
    (arXiv:1901.05555), here `effective_number` with pixels for samples; `enet` from Paszke et al. 2016
    (arXiv:1606.02147); `median_frequency` from Eigen and Fergus 2015 (arXiv:1411.4734), with labelled pixels where
    they say pixels, so that void doesn't change a class's frequency.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"a scheme of {', '.join(SCHEMES)}", f"`{scheme}`", "choose one of them")
    counts = np.asarray(counts)
    totals = counts.reshape(-1, counts.shape[-1]).sum(0)
    present = totals > 0
    if not present.any():
        raise ConfigError("pixels of at least one class", "counts of zero everywhere", "check the labels and the split")
    if not 0 <= beta < 1:
        raise ConfigError("`beta` of at least 0 and below 1", f"{beta!r}", "use 0.9999 or nearer to 1")
    n = totals[present].astype(np.float64)
    match scheme:
        case "inverse_log":
            found = 1 / np.log1p(n)
        case "effective_number":
            # 1 - beta^n, exact where beta^n is near 1 and where beta is.
            found = 1 / (-np.expm1(n * np.log1p(beta - 1)) / (1 - beta)) if beta else np.ones_like(n)
        case "enet":
            found = 1 / np.log(1.02 + n / n.sum())
        case "median_frequency":
            pixels_around = (counts.sum(1, keepdims=True) * (counts > 0)).sum(0)[present]
            frequency = n / pixels_around
            found = np.median(frequency) / frequency
        case "none":
            found = np.ones_like(n)
    if scheme in ("inverse_log", "effective_number"):
        found = len(found) * found / found.sum()
    weights = np.full(present.shape, found.max())
    weights[present] = found
    return weights


def save_class_weights(
    path: str | Path, weights: np.ndarray, label_space: LabelSpace, *, scheme: str, counts: np.ndarray, source: str
) -> None:
    """Writes weights and pixel counts, (C,) in train-id order, by class name as JSON; `source` is what was counted."""
    by_name = {
        "weights": dict(zip(label_space.names, map(float, weights), strict=True)),
        "counts": dict(zip(label_space.names, map(int, counts), strict=True)),
    }
    write_json(path, {"scheme": scheme, **by_name, "source": source}, indent=2)


def load_class_weights(path: str | Path, label_space: LabelSpace) -> np.ndarray:
    """Reads what `save_class_weights` wrote, or a file written by hand with `weights` alone.

    Returns:
        (C,) float64 in train-id order.
    """
    again = "write the file anew with `urbanseg class-weights`"
    content = read_json(path)
    if content is None:
        raise ConfigError("a file of class weights", "no such file", again, path)
    weights = content.get("weights")
    if not isinstance(weights, Mapping):
        raise ConfigError("a mapping `weights` of class names to numbers", "none", again, path)
    missing = [name for name in label_space.names if name not in weights]
    unknown = [name for name in weights if name not in label_space.names]
    if missing or unknown:
        found = f"{len(weights)} weights" + (f"; none for {', '.join(missing)}" if missing else "")
        found += f"; one for the unknown {', '.join(unknown)}" if unknown else ""
        expected = f"weights of the {label_space.num_labels} classes of `{label_space.name}`"
        raise ConfigError(expected, found, again, path)
    for name, weight in weights.items():
        if type(weight) not in (int, float) or not 1e-30 < weight < 1e30:  # beyond, the loss's float32 has 0 or inf
            raise ConfigError("positive, finite weights", f"{weight!r} for {name}", "correct it, or " + again, path)
    return np.array([weights[name] for name in label_space.names], np.float64)
