"""A KITTI folder and a run trained on it, which the tests of several commands share."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hf_urbanseg.data.synthetic import render_scene

SCRIPTS = Path(__file__).parents[2] / "scripts"
OPTIONS = {
    "recipe": "segformer_b0_kitti", "init": "random", "size": "tiny", "crop_size": "64 64", "eval_size": "64 192",
    "train_scales": "0.75 1.0", "max_steps": 4, "warmup_steps": 1, "eval_steps": 2, "save_steps": 2,
    "logging_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "dataloader_num_workers": 0,
    "cpu_threads": 1, "num_overlays": 2,
}  # fmt: skip


def build_words(**options) -> list[str]:
    return [word for key, value in (OPTIONS | options).items() for word in (f"--{key}", *str(value).split())]


@pytest.fixture(scope="session")
def kitti(tmp_path_factory):
    """Rendered streets in KITTI's official layout, sizes varying by a few pixels as there."""
    root = tmp_path_factory.mktemp("data") / "kitti"
    for kind in ("image_2", "semantic"):
        (root / "training" / kind).mkdir(parents=True)
    for number in range(16):
        image, label = render_scene(number, (60 + number % 3, 200 + number % 2))
        Image.fromarray(image).save(root / "training" / "image_2" / f"{number:06d}_10.png")
        Image.fromarray(label).save(root / "training" / "semantic" / f"{number:06d}_10.png")
    return root


@pytest.fixture(scope="session")
def run(kitti, tmp_path_factory):
    """A finished run of the script as a user starts it."""
    output = tmp_path_factory.mktemp("runs") / "tiny"
    command = [sys.executable, SCRIPTS / "finetune.py", *build_words(data_dir=kitti, output_dir=output)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "always guessing" in result.stdout
    assert "test mIoU" in result.stdout
    return output


@pytest.fixture
def words():
    """Options of finetune.py for a run of seconds, as its command line."""
    return build_words
