"""A run belongs to what it was started with: a resume on anything else is refused, and writes nothing."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_urbanseg import finetuning
from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.finetuning import run_finetuning
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.options.finetune_arguments import parse_finetuning
from hf_urbanseg.runs.folder import RunFolder


def pair(folder: Path, name: str) -> list[Path]:
    return [folder / "training" / kind / f"{name}.png" for kind in ("image_2", "semantic")]


def remove_two(folder):
    for path in pair(folder, "000000_10") + pair(folder, "000001_10"):
        path.unlink()


def rename(folder):
    for path in pair(folder, "000000_10"):
        path.rename(path.with_name("000099_10.png"))


def add(folder):
    for path in pair(folder, "000000_10"):
        picture = Image.open(path)
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_name("000099_10.png"))


def change_one_pixel(which):
    def change(folder):
        path = pair(folder, "000000_10")[which]
        pixels = np.array(Image.open(path))
        pixels[0, 0] = 7
        Image.fromarray(pixels).save(path)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove_two, "splits.yaml: expected frame `00000"),
        (rename, "splits.yaml: expected frame `000000_10` in "),
        (add, "frames in "),
        (change_one_pixel(0), "frames.json: expected the image of `000000_10` with SHA-256 "),
        (change_one_pixel(1), "frames.json: expected the label of `000000_10` with SHA-256 "),
    ],
)
def test_resume__on_other_frames(resume, kitti, tmp_path, change, said):
    folder = tmp_path / "kitti"
    shutil.copytree(kitti, folder)
    assert resume(data_dir=folder) is None  # the same frames in another place
    change(folder)
    line = resume(data_dir=folder)
    assert said in line
    assert ", as the run was started; found " in line
    assert "go on all the same with `--accept_changes`." in line


def swap(space):
    space["classes"][0], space["classes"][8] = space["classes"][8], space["classes"][0]


def make_void(space):
    space["void"] += space["classes"].pop()["label_ids"]


def swap_ids(space):
    one, other = space["classes"][11], space["classes"][12]
    one["label_ids"], other["label_ids"] = other["label_ids"], one["label_ids"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swap, "expected class 0 `road`, as the run was started; found `vegetation` (and 1 more difference)"),
        (make_void, "expected class 18 `bicycle`, as the run was started; found `None` (and "),
        (swap_ids, "expected label id 24 as `person`, as the run was started; found `rider` (and 1 more difference)"),
        (lambda space: space["void"].append(200), "expected label id 200 as none of the classes' ids, nor void, as "),
        (lambda space: space["classes"][0].update(category="void"), "expected `road` in the category `flat`, as "),
        (lambda space: space.update(encoding="red"), "expected `encoding` ids, as the run was started; found red; "),
        (lambda space: space["classes"][0].update(color=[1, 2, 3]), None),
    ],
)
def test_resume__on_other_classes(resume, tmp_path, change, said):
    space = describe_label_space(CITYSCAPES)
    change(space)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(space))
    line = resume(label_space=tmp_path / "mine.yaml")
    assert line is None if said is None else f"label_space.json: {said}" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 7}, "`seed` 0, as the run was started; found 7;"),
        ({"seed": 7, "flip": 0.25}, "`flip` 0.5, as the run was started; found 0.25 (and 1 more difference);"),
        ({"loss": "focal"}, "`loss` ohem"),
        ({"normalizer": "weight_sum"}, "`normalizer` valid_pixels"),
        ({"rare_class_share": 0.5}, "`rare_class_share` 0.0"),
        ({"crop_size": "96 64"}, "`crop_size` [64, 64], as the run was started; found [96, 64];"),
        ({"max_steps": 6}, "`max_steps` 4"),
        ({"learning_rate": 1e-4}, "`learning_rate` 0.001"),
        ({"optim": "adafactor", "accept_changes": "true"}, "`optim` adamw"),
        ({"lr_scheduler_type": "linear", "accept_changes": "true"}, "`lr_scheduler_type` polynomial"),
        ({"lr_scheduler_type": "linear"}, "`lr_scheduler_type` polynomial"),
        ({"freeze_stages": 1, "accept_changes": "true"}, "`freeze_stages` 0"),
        ({"lora_rank": 4, "accept_changes": "true"}, "`lora_rank` 0"),
        ({"per_device_train_batch_size": 1}, "`per_device_train_batch_size` 2"),
        ({"gradient_accumulation_steps": 2}, "`gradient_accumulation_steps` 1"),
        ({"adam_beta2": 0.99}, "`adam_beta2` 0.999"),
        ({"ema_decay": 0.9}, "`ema_decay` 0.0"),
        ({"eval_steps": 1, "save_steps": 1}, "`eval_steps` 2"),
        ({"drop_path_rate": 0}, "`drop_path_rate` 0.1"),
        ({"eval_size": "96 192"}, "`eval_size` [64, 192]"),
        ({"class_weights": "enet"}, "a weight of `road` "),
        ({"class_weights": "none"}, "a weight of `road` "),
        ({"split_seed": 1}, "frame `"),
        ({"validation_fraction": 0.2}, " in train, as the run was started; found it in validation"),
        ({"logging_steps": 2, "dataloader_num_workers": 1, "per_device_eval_batch_size": 1, "num_overlays": 0}, None),
        ({"save_total_limit": 1, "gradient_checkpointing": "true", "cache_images": "false"}, None),
        ({"early_stopping_patience": 2, "early_stopping_threshold": 0.1}, None),
    ],
)
def test_resume__with_other_options(resume, options, said):
    line = resume(**options)
    assert line is None if said is None else f"expected {said}" in line or said in line


def test_resume__with_a_changed_file_of_weights_or_splits(resume, killed, tmp_path):
    weights = json.loads((killed / "class_weights.json").read_text())
    (tmp_path / "weights.json").write_text(json.dumps(weights))
    splits = RunFolder(killed).read_splits()
    (tmp_path / "splits.yaml").write_text(yaml.safe_dump(splits))
    files = {"class_weights": tmp_path / "weights.json", "split_file": tmp_path / "splits.yaml"}
    assert resume(**files) is None
    weights["weights"]["car"] *= 1.5
    (tmp_path / "weights.json").write_text(json.dumps(weights))
    assert "class_weights.json: expected a weight of `car` " in resume(**files)
    splits["test"].append(splits["train"].pop())
    (tmp_path / "splits.yaml").write_text(yaml.safe_dump(splits))
    line = resume(split_file=tmp_path / "splits.yaml")
    assert re.search(r"expected frame `\w+` in train, as the run was started; found it in test \(and \d+ more", line)


def test_resume__of_a_run_of_an_older_version(resume, killed, kitti, tmp_path):
    (killed / "frames.json").unlink()
    arguments = json.loads((killed / "training_arguments.json").read_text())
    assert arguments.pop("world_size") == 1
    (killed / "training_arguments.json").write_text(json.dumps(arguments))
    recipe = yaml.safe_load((killed / "recipe.yaml").read_text())
    del recipe["auxiliary_weight"]
    (killed / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"an_option_of_old": 1}))
    assert resume() is None
    assert "`auxiliary_weight` 0.4" in resume(auxiliary_weight=1)
    folder = tmp_path / "kitti"
    shutil.copytree(kitti, folder)
    name = RunFolder(killed).read_splits()["train"][0]
    path = pair(folder, name)[1]
    label = np.array(Image.open(path))
    label[:5] = 7
    Image.fromarray(label).save(path)
    assert "class_weights.json: expected a weight of `" in resume(data_dir=folder)
    remove_two(folder)
    assert "splits.yaml: expected frame `" in resume(data_dir=folder)


@pytest.mark.parametrize("name", ["recipe.yaml", "splits.yaml", "frames.json", "label_space.json"])
def test_resume__of_a_damaged_record(resume, killed, name):
    path = killed / name
    path.write_text(path.read_text()[:50])
    assert str(path) in resume()


@pytest.mark.parametrize("digests", [None, []])
def test_resume__of_frames_whose_digests_are_gone(resume, killed, digests):
    path = killed / "frames.json"
    frames = json.loads(path.read_text())
    frames["train"][next(iter(frames["train"]))] = digests
    path.write_text(json.dumps(frames))
    line = f"{path}: expected frames of each split with two digests; found something else; restore it, or delete it: "
    assert resume() == f"{line}then names alone are compared."


def test_resume__on_other_processes(resume, killed):
    path = killed / "training_arguments.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"world_size": 4}))
    assert "training_arguments.json: expected 4 process(es), as the run was started; found 1;" in resume()


def test_resume__accepts_changes_and_keeps_trained_frames_out_of_test(killed, words, kitti, tmp_path, caplog):
    """Twice: what was accepted stays accepted, and what was ever trained on stays out of test."""
    data, split_file = tmp_path / "kitti", tmp_path / "mine.yaml"
    shutil.copytree(kitti, data)
    splits = RunFolder(killed).read_splits()
    first, second, third, *train = splits["train"]
    # One trained frame is called test, one is called otherwise in test, one is gone.
    for path in pair(data, second):
        path.rename(path.with_name("renamed.png"))
    split_file.write_text(yaml.safe_dump(splits | {"train": train, "test": [*splits["test"], first, "renamed"]}))
    argv = words(data_dir=data, split_file=split_file, output_dir=killed, num_overlays=0)
    run_finetuning(parse_finetuning([*argv, "--resume", "--accept_changes"]))

    run = RunFolder(killed)
    assert run.read_splits() == splits | {"train": train}
    assert run.read_counts("test")[0].names == tuple(splits["test"])
    assert set(run.read_frames()["trained_before"]) == {first, second, third}
    (change,) = run.read_metrics()["training"]["changes"]
    assert change["step"] == 2
    assert f"frame `{third}` in train, then no such frame (splits.yaml)" in change["differences"]
    assert "test: 2 frames left out, because the run was trained on them" in caplog.text
    assert "resumed with other data or options" in (killed / "README.md").read_text()

    run_finetuning(parse_finetuning([*argv, "--resume"]))
    assert run.read_metrics()["training"]["changes"] == [change]
    assert run.read_counts("test")[0].names == tuple(splits["test"])
    assert set(run.read_frames()["trained_before"]) == {first, second, third}


def test_finetune__messages_lead_somewhere(words, kitti, killed, monkeypatch):
    """Resume what has no checkpoint, start where a run is: what the line says to do is then not refused."""

    class Trained(Exception):
        pass

    def train(*_, **__):
        raise Trained

    monkeypatch.setattr(finetuning.UrbanSegTrainer, "train", train)

    def start(*more) -> str:
        try:
            run_finetuning(parse_finetuning([*words(data_dir=kitti, output_dir=killed), *more]))
        except Trained:
            return "trained"
        except UrbanSegError as error:
            return str(error)

    assert "add `--resume` to continue it, `--overwrite` to replace it" in start()
    assert start("--resume") == start("--overwrite") == "trained"
    (killed / "checkpoint-2" / "manifest.json").unlink()
    assert "start anew with `--overwrite` in place of `--resume`" in start("--resume")
    shutil.rmtree(killed / "checkpoint-2")
    (killed / "metrics.json").write_text("{}")  # a finished run without checkpoints
    assert "add `--overwrite` to replace it" in start()
    assert "start anew with `--overwrite` in place of `--resume`" in start("--resume")
    assert start("--overwrite") == "trained"


@pytest.mark.parametrize("what", ["folder", "content"])
def test_finetune__its_folder_deleted_while_it_runs(words, kitti, tmp_path, monkeypatch, what):
    output = tmp_path / "run"
    keep = finetuning.Keeper.on_train_begin

    def delete(*args, **kwargs):
        keep(*args, **kwargs)
        assert (output / "recipe.yaml").exists()
        if what == "content":
            for path in output.iterdir():
                if not path.name.startswith("."):
                    path.unlink()
        else:
            shutil.rmtree(output)

    monkeypatch.setattr(finetuning.Keeper, "on_train_begin", delete)
    with pytest.raises(ConfigError, match="deleted"):
        run_finetuning(parse_finetuning(words(data_dir=kitti, output_dir=output, save_steps=1, eval_steps=1)))
    assert not output.exists() or not os.listdir(output)
