"""Rendered street scenes with exact labels: the data of the demo and of the tests, nothing to download."""

from hf_urbanseg.data.synthetic.scenes import build_synthetic_splits, render_scene

__all__ = ["build_synthetic_splits", "render_scene"]
