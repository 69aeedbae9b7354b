"""What a run adds to its own: the same from random weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_urbanseg.commands import finetune
from hf_urbanseg.errors import ModelError
from hf_urbanseg.finetuning import run_finetuning
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.options.finetune_arguments import parse_finetuning

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def start(words, kitti, tmp_path):
    """The command line of a run from pre-trained weights into `run`, its baseline beside it."""
    pretrained = {"init": "pretrained", "model_name_or_path": "tiny-streets", "random_baseline": "true"}
    return lambda **more: words(data_dir=kitti, **{"output_dir": tmp_path / "run", "max_steps": 2} | pretrained | more)


def test_random_baseline__is_the_run_from_random_weights(start, launch, tmp_path):
    # Through accelerate, whose processes must not be taken apart between the two.
    result = launch(SCRIPTS / "finetune.py", *start(), processes=1)
    assert result.returncode == 0, result.stderr[-3000:]
    printed = result.stdout
    finetune.main(start(output_dir=tmp_path / "alone", init="random", decoder_hidden_size=128))
    baseline, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("run/random_baseline", "alone"))
    assert baseline.keys() == alone.keys()
    assert all(torch.equal(baseline[name], alone[name]) for name in alone)
    assert not (tmp_path / "alone" / "random_baseline").exists()  # random weights are their own
    for folder in ("run", "run/random_baseline"):
        score = json.loads((tmp_path / folder / "metrics.json").read_text())["splits"]["test"]["mean_iou"]
        assert f"{score:.2%}" in printed
    # Whichever of the two was cut off, resuming ends both.
    shutil.rmtree(tmp_path / "run" / "random_baseline")
    (tmp_path / "run" / "metrics.json").unlink()
    finetune.main([*start(), "--resume"])
    again = load_file(tmp_path / "run" / "random_baseline" / "model.safetensors")
    assert all(torch.equal(again[name], alone[name]) for name in alone)
    finetune.main([*start(), "--resume"])


def test_random_baseline__of_a_size_without_a_name_is_refused(start, tmp_path):
    model = build_random_model("tiny", CITYSCAPES, depths=[1, 1, 1, 1])
    model.save_pretrained(tmp_path / "odd")
    with pytest.raises(ModelError, match=r"odd: expected weights of a size that `--init random` knows"):
        run_finetuning(parse_finetuning(start(model_name_or_path=tmp_path / "odd")))
    assert not (tmp_path / "run").exists()
