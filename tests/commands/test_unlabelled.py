"""A run that trains on frames without labels, too: what it leaves, what it goes on with, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hf_urbanseg.commands import finetune
from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.runs.folder import RunFolder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Streets of another size and town."""
    folder = tmp_path_factory.mktemp("unlabelled") / "drive"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(render_scene(number, (60, 120), "harbour")[0]).save(folder / f"{number}.png")
    return folder


def read_log(output):
    history = json.loads((output / "log_history.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def test_run_with_unlabelled_frames(kitti, pictures, run, words, tmp_path, fails, caplog):
    """The teacher is a finished run; then the same is resumed, with what it had and with something else."""
    trained = kitti / "training" / "image_2" / f"{RunFolder(run).read_splits()['train'][0]}.png"
    more = tmp_path / "more"
    more.mkdir()
    shutil.copy(trained, more / "again.png")
    output, options = tmp_path / "run", {"data_dir": kitti, "unlabelled_threshold": 0.05, "eval_strategy": "no"}
    options |= {"load_best_model_at_end": "false", "unlabelled_teacher": run}
    finetune.main(words(output_dir=output, unlabelled=f"{pictures} {more}", **options))
    assert "unlabelled: 1 of its images are in the main data's train, too: more/again" in caplog.text
    log = read_log(output)
    assert len(log) == 4
    assert all(entry["loss_unlabelled"] > 0.1 and entry["unlabelled_confident"] > 0.5 for entry in log)
    record = RunFolder(output).read_unlabelled()
    assert list(record["frames"]) == ["drive/0", "drive/1", "drive/2", "drive/3", "drive/4", "more/again"]
    assert record["teacher"]["name"] == run.name  # and no path of this machine
    assert RunFolder(output).read_metrics()["training"]["unlabelled"] == record | {"frames": 6}
    assert "| unlabelled | 6 frames" in (output / "README.md").read_text()
    whole = load_file(output / "model.safetensors")
    (output / "metrics.json").unlink()
    shutil.rmtree(output / "checkpoint-4")
    resume = [*words(output_dir=output, **options), "--resume", "--unlabelled", str(more)]
    assert "unlabelled.json: expected 6 unlabelled frames, as the run was started; found 1" in fails(
        finetune.main, *resume
    )
    moved = shutil.copytree(pictures, tmp_path / "moved" / "street")
    resume = [*resume, str(moved)]  # in another order
    assert "unlabelled.json: expected an unlabelled frame `drive/0`" in fails(finetune.main, *resume)
    finetune.main([*words(output_dir=output, unlabelled=f"{moved} {more}", **options), "--resume"])
    again = load_file(output / "model.safetensors")
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert read_log(output) == log


def test_what_was_seen_without_a_label_is_not_measured_later(kitti, pictures, words, tmp_path):
    """A run that goes on with other data leaves out of test what it was trained on before."""
    output, options = tmp_path / "run", {"ema_decay": 0.9, "num_overlays": 0, "validation_fraction": 0}
    options |= {"eval_strategy": "no", "load_best_model_at_end": "false", "output_dir": output}
    seen = tmp_path / "seen"
    shutil.copytree(kitti / "training" / "image_2", seen)
    few = tmp_path / "few"
    shutil.copytree(kitti, few)
    for number in range(8, 16):
        for kind in ("image_2", "semantic"):
            (few / "training" / kind / f"{number:06d}_10.png").unlink()
    for number in range(9):  # one of those that come later is among the unlabelled frames
        (seen / f"{number:06d}_10.png").unlink(missing_ok=number < 8)
    later = {f"{number:06d}_10" for number in range(9, 16)}
    finetune.main(words(data_dir=few, unlabelled=seen, max_steps=2, **options))
    (output / "metrics.json").unlink()
    more = ["--resume", "--accept_changes", "--unlabelled", str(pictures)]
    finetune.main([*words(data_dir=kitti, max_steps=4, test_fraction=0.5, **options), *more])
    run = RunFolder(output)
    assert not later & set(run.read_splits()["test"])
    assert any("frames left out" in note for note in run.read_metrics()["data"]["notes"])
    # Still known when it is resumed once more, with those frames no longer among the unlabelled ones.
    assert {f"unlabelled/seen/{name}" for name in later} <= run.read_frames()["trained_before"].keys()


def test_what_is_refused_leaves_nothing(kitti, pictures, run, words, tmp_path, fails, monkeypatch):
    def refuse(*folders, **options):
        options = {"data_dir": kitti, "output_dir": tmp_path / "run", "ema_decay": 0.9} | options
        named = {"unlabelled": " ".join(map(str, folders))} if folders else {}
        line = fails(finetune.main, *words(**named | options))
        assert not (tmp_path / "run").exists()
        return line

    def save(name, pixels):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "a.png", **{"compress_level": 0})
        return tmp_path / name

    splits = RunFolder(run).read_splits()
    for split in ("test", "validation"):
        with Image.open(kitti / "training" / "image_2" / f"{splits[split][0]}.png") as picture:
            leak = save(f"leak_{split}", np.asarray(picture))  # other bytes, the same pixels
        line = refuse(pictures, leak)
        assert line.startswith(f"error: unlabelled/leak_{split}/a: expected none of the main data's held-out images")
        assert f"found the same pixels as {split}/{splits[split][0]}" in line
    broken = save("broken", render_scene(1, (40, 60))[0])
    content = (broken / "a.png").read_bytes()
    (broken / "a.png").write_bytes(content[: len(content) // 2])
    assert f"{broken}/a.png: expected a readable image file" in refuse(broken)
    (tmp_path / "empty").mkdir()
    assert "empty: expected image files" in refuse(tmp_path / "empty")
    assert "none: expected a folder of images" in refuse(tmp_path / "none")
    assert "`ema_decay` with the run's own averages as teacher; found 0" in refuse(pictures, ema_decay=0)
    assert "found nothing there" in refuse(pictures, unlabelled_teacher=tmp_path / "none")
    assert "an even number of unlabelled crops in a step; found 1" in refuse(pictures, unlabelled_share=0.5)
    assert "`unlabelled` with `unlabelled_share`; found none" in refuse(unlabelled_share=2)
    bands = tmp_path / "bands"
    bands.mkdir()
    np.save(bands / "a.npy", np.zeros((40, 60, 5), np.uint8))
    assert f"{bands}/a.npy: expected" in refuse(bands)
