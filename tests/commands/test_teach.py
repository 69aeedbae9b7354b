"""A run that another network teaches: online, and by what it wrote down."""

import json
import shutil

import pytest
import torch
from rendered_kitti import write_kitti
from safetensors.torch import load_file
from transformers import SegformerForSemanticSegmentation

from hf_urbanseg.commands import finetune, teach
from hf_urbanseg.data.collator import stack_views
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.preprocessing import build_views
from hf_urbanseg.data.teacher_cache import TeacherCache, expand_scores
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_image_processor
from hf_urbanseg.runs.folder import RunFolder

PLAIN = {"train_scales": "1.0", "flip": 0, "photometric": "false", "max_class_share": 1, "validation_fraction": 0}


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """All of one size that no model resizes."""
    return write_kitti(tmp_path_factory.mktemp("frames"), range(8), (64, 192), vary=False)


def write_down(teacher, data, output, *more):
    words = ["--teacher", teacher, "--data_dir", data, "--output", output, "--validation_fraction", "0", *more]
    teach.main([str(word) for word in words])
    return output


def start(words, output, *more, **options):
    finetune.main([*words(output_dir=output, **options), *map(str, more)])
    history = json.loads((output / "log_history.json").read_text())["log_history"]
    return [entry["loss_distillation"] for entry in history if "loss_distillation" in entry]


@pytest.mark.parametrize("kind", ["soft", "cwd"])
def test_online_and_written_down_agree(run, frames, words, tmp_path, kind):
    """Where no augmentation comes between what the teacher saw and what the student sees."""
    cache = write_down(run, frames, tmp_path / "cache", "--bits", 16)
    plain = PLAIN | {"data_dir": frames, "crop_size": "64 192", "distill": kind, "distill_void": "true"}
    online = start(words, tmp_path / "online", teacher=run, **plain)
    cached = start(words, tmp_path / "cached", teacher=cache, **plain)
    assert len(online) == 4
    assert min(online) > 1e-3
    assert cached == pytest.approx(online, rel=2e-3)


def test_run_that_is_taught(run, frames, words, tmp_path, capsys):
    cache = write_down(run, frames, tmp_path / "cache")
    assert "6 frames, 19 of 19 classes" in capsys.readouterr().out
    output, options = tmp_path / "run", PLAIN | {"data_dir": frames}
    start(words, output, teacher=cache, distill_temperature=2, distill_weight=0.5, **options)
    record = RunFolder(output).read_metrics()["training"]["teacher"]
    assert record == RunFolder(output).read_teacher()
    assert record["name"] == run.name  # and no path of this machine
    assert (record["cached"], record["loss"], record["weight"], record["temperature"]) == (True, "soft", 0.5, 2.0)
    student = load_file(output / "model.safetensors")
    assert student.keys() == load_file(run / "model.safetensors").keys()
    _, report = SegformerForSemanticSegmentation.from_pretrained(output, output_loading_info=True)
    assert not any(report.values())
    # A run without a teacher in its place leaves nothing of it.
    start(words, output, "--overwrite", **options)
    assert RunFolder(output).read_teacher() is None
    assert "teacher" not in RunFolder(output).read_metrics()["training"]


def test_features_are_adapted_and_not_exported(run, frames, words, tmp_path):
    options = PLAIN | {"data_dir": frames, "teacher": run, "distill": "cwd", "distill_from": "features"}
    assert min(start(words, tmp_path / "run", **options)) > 1e-3
    assert load_file(tmp_path / "run" / "model.safetensors").keys() == load_file(run / "model.safetensors").keys()
    adapter = load_file(tmp_path / "run" / "checkpoint-4" / "feature_adapter.safetensors")
    assert {name: tuple(one.shape) for name, one in adapter.items()} == {
        "conv.weight": (128, 128, 1, 1), "conv.bias": (128,),
    }  # fmt: skip
    assert RunFolder(tmp_path / "run").read_teacher()["from"] == "features"


def test_a_taught_run_teaches(run, frames, words, tmp_path):
    """Its folder says who taught it, and is no cache."""
    start(words, tmp_path / "first", **PLAIN, data_dir=frames, teacher=run)
    assert start(words, tmp_path / "second", **PLAIN, data_dir=frames, teacher=tmp_path / "first")
    write_down(tmp_path / "second", frames, tmp_path / "cache")


def test_several_passes_are_averaged(run, frames, tmp_path):
    more = ["--ratios", 0.5, 1, "--flip", "--bits", 16]
    cache = write_down(run, frames, tmp_path / "cache", *more)
    rows = load_data(data_dir=str(frames), validation_fraction=0).splits["train"]
    model = SegformerForSemanticSegmentation.from_pretrained(run).eval()
    processor, total = build_image_processor((64, 192)), 0
    sizes = [(32, 96), (64, 192)]
    for view in stack_views([build_views(rows[1]["image"], processor, lambda _: sizes)]):
        for flip in (False, True):
            with torch.no_grad():
                logits = model(view.flip(-1) if flip else view).logits
            logits = torch.nn.functional.interpolate(logits, (64, 192), mode="bilinear", align_corners=False)
            total = total + (logits.flip(-1) if flip else logits).softmax(1)
    expected = torch.nn.functional.avg_pool2d(total / 4, 4)[0]
    frame = inspect_pairs(load_data(data_dir=str(frames), validation_fraction=0).splits, CITYSCAPES).pairs["train"][1]
    found = TeacherCache(cache, CITYSCAPES.names, {frame.name: frame.file_digests[0]})
    probabilities = torch.from_numpy(expand_scores(found.read(0), 19)).exp()
    assert (probabilities - expected).abs().max() < 2e-3 * expected.max()
    assert expected.std() > 1e-3


def test_resume_asks_for_the_same_teacher(run, frames, words, tmp_path, fails):
    cache, output = write_down(run, frames, tmp_path / "cache"), tmp_path / "run"
    options = PLAIN | {"data_dir": frames, "eval_strategy": "no", "load_best_model_at_end": "false"}
    start(words, output, teacher=cache, **options)
    whole = load_file(output / "model.safetensors")
    (output / "metrics.json").unlink()
    shutil.rmtree(output / "checkpoint-4")
    other = write_down(run, frames, tmp_path / "other", "--bits", 16)
    resumed = [*words(output_dir=output, **options), "--resume"]
    line = fails(finetune.main, *resumed, "--teacher", other)
    assert "teacher.json: expected a teacher with SHA-256" in line
    assert "teacher.json: expected a teacher with SHA-256" in fails(finetune.main, *resumed)
    moved = shutil.move(cache, tmp_path / "moved")
    start(words, output, "--resume", teacher=moved, **options)
    again = load_file(output / "model.safetensors")
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_what_is_refused_leaves_nothing(run, frames, kitti, words, tmp_path, fails):
    def refuse(**options):
        line = fails(finetune.main, *words(**{"data_dir": frames, "output_dir": tmp_path / "run", **PLAIN} | options))
        assert not (tmp_path / "run" / "recipe.yaml").exists()
        return line

    assert "a `teacher` with `distill`; found none" in refuse(distill="cwd")
    assert "a `teacher` with `distill_weight`; found none" in refuse(distill_weight=2)
    assert "a `teacher` with `distill_void`; found none" in refuse(distill_void="true")
    assert "`distill_temperature` above 0" in refuse(teacher=run, distill_temperature=0)
    assert "found nothing there" in refuse(teacher=tmp_path / "none")
    cache = write_down(run, frames, tmp_path / "cache")
    assert "no `teacher_precision` with what a teacher wrote down" in refuse(teacher=cache, teacher_precision="bf16")
    assert "no `paste_share` with what a teacher wrote down" in refuse(teacher=cache, paste_share=0.5)
    assert "scores of every training frame" in refuse(teacher=cache, data_dir=kitti)
    features = {"distill": "cwd", "distill_from": "features"}
    assert "no `distill_from` with what a teacher wrote down" in refuse(teacher=cache, **features)
    assert "`distill` cwd with `distill_from` features; found `soft`" in refuse(teacher=run, distill_from="features")
    few = write_down(run, frames, tmp_path / "few", "--top_k", 3)
    assert "scores of all classes for soft at temperature 2; found 3" in refuse(teacher=few, distill_temperature=2)
    assert "scores of all classes for cwd at temperature 4; found 3" in refuse(teacher=few, distill="cwd")
    averaged = write_down(run, frames, tmp_path / "averaged", "--flip")
    assert "of one pass for cwd; found the mean of several" in refuse(teacher=averaged, distill="cwd")
    (tmp_path / "cache" / "scores.arrow").write_bytes(b"")
    assert "scores.arrow: expected the scores that were written with it" in refuse(teacher=cache)


def test_teach__refuses(run, frames, tmp_path, fails):
    def refuse(**options):
        given = {"teacher": run, "data_dir": frames, "output": tmp_path / "cache"} | options
        return fails(teach.main, *[word for key, value in given.items() for word in (f"--{key}", *str(value).split())])

    assert "found nothing there" in refuse(teacher=tmp_path / "none")
    assert "`top_k` of 1..255" in refuse(top_k=0)
    assert "invalid choice: 4" in refuse(bits=4)
    assert "invalid choice: 12" in refuse(bits=12)
    assert "something else there already" in refuse(output=frames)
    assert "something else there already" in refuse(output=run, overwrite="true")
    assert "in multiples of 32; found [60, 90]; give for example 64 96." in refuse(input_size="60 90")
    assert "`input_size` or `sliding_window`; found both" in refuse(input_size="64 96", sliding_window="64 64")
    assert not (tmp_path / "cache").exists()
    write_down(run, frames, tmp_path / "cache")
    before = (tmp_path / "cache" / "scores.arrow").read_bytes()
    assert "found what a teacher wrote down; choose another or add" in refuse()
    assert (tmp_path / "cache" / "scores.arrow").read_bytes() == before
    write_down(run, frames, tmp_path / "cache", "--overwrite", "--top_k", 1)
    assert len((tmp_path / "cache" / "scores.arrow").read_bytes()) < len(before)
