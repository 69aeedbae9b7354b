"""A KITTI folder and a run trained on it, which the tests of several commands share."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from folder_contents import read_folder
from rendered_kitti import write_kitti

from hf_urbanseg import finetuning
from hf_urbanseg.errors import UrbanSegError
from hf_urbanseg.options.finetune_arguments import parse_finetuning

SCRIPTS = Path(__file__).parents[2] / "scripts"
OPTIONS = {
    "recipe": "segformer_b0_kitti", "init": "random", "size": "tiny", "crop_size": "64 64", "eval_size": "64 192",
    "train_scales": "0.75 1.0", "max_steps": 4, "warmup_steps": 1, "eval_steps": 2, "save_steps": 2,
    "logging_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "dataloader_num_workers": 0,
    "cpu_threads": 1, "num_overlays": 2,
}  # fmt: skip


def build_words(**options) -> list[str]:
    return [word for key, value in (OPTIONS | options).items() for word in (f"--{key}", *str(value).split())]


@pytest.fixture(autouse=True, scope="module")
def _quick(quick_runs):
    """Runs in this process."""


@pytest.fixture(scope="session")
def kitti(tmp_path_factory):
    """Rendered streets in KITTI's official layout, sizes varying by a few pixels as there."""
    return write_kitti(tmp_path_factory.mktemp("data") / "kitti", range(16), (60, 200))


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


@pytest.fixture(scope="session")
def words():
    """Options of finetune.py for a run of seconds, as its command line."""
    return build_words


@pytest.fixture
def killed(run, tmp_path):
    """The run as it was after its second step."""
    output = tmp_path / "run"
    shutil.copytree(run, output)
    (output / "metrics.json").unlink()
    shutil.rmtree(output / "checkpoint-4")
    return output


@pytest.fixture
def resume(killed, words, kitti, monkeypatch):
    """Resumes the killed run with other options; training itself is reached, not done."""

    class Trained(Exception):
        pass

    def train(*_, **__):
        raise Trained

    monkeypatch.setattr(finetuning.UrbanSegTrainer, "train", train)

    def start(*more, **options) -> str | None:
        """What is refused in one line, if anything is; the folder is left as it was."""
        before = read_folder(killed)
        argv = words(**{"data_dir": kitti, "output_dir": killed} | options)
        try:
            finetuning.run_finetuning(parse_finetuning([*argv, "--resume", *more]))
        except Trained:
            return None
        except UrbanSegError as error:
            return str(error)
        finally:
            assert read_folder(killed) == before

    return start
