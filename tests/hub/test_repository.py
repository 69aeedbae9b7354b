import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from clean_machine import elsewhere  # noqa: F401
from folder_contents import read_folder
from run_folders import FORBIDDEN, build_run, hash_tree, plant_forbidden, read_content
from safetensors.numpy import save_file

from hf_urbanseg.errors import ModelError
from hf_urbanseg.hub.repository import collect_checkpoint, collect_repository, is_ours


@pytest.fixture
def run(tmp_path):
    return build_run(tmp_path / "run")


def _contents(files):
    return {name: read_content(content) for name, content in files.items()}


def test_collect_repository__holds_what_a_stranger_needs_and_nothing_else(run):
    allowed = read_folder(run, ["push.json"])
    plant_forbidden(run)
    before = hash_tree(run)
    files = _contents(collect_repository(run))
    assert set(files) == set(allowed)
    assert {name: files[name] for name in files if name != "recipe.yaml"} == {
        name: allowed[name] for name in allowed if name != "recipe.yaml"
    }
    assert not any(b"forbidden" in content for content in files.values())
    assert hash_tree(run) == before


def test_is_ours__knows_every_file_of_a_push_and_none_that_stays(run):
    assert all(is_ours(name) for name in read_folder(run, ["push.json"]))
    others = ("LICENSE", "demo.mp4", ".gitattributes", "docs/README.md", "onnx/model.onnx", "runs/x/events.tfevents.1")
    assert not any(is_ours(name) for name in (*FORBIDDEN, *others))


def test_collect_repository__takes_all_shards_or_none(run):
    (run / "model.safetensors").unlink()
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"metadata": {}, "weight_map": {"a": shards[0], "b": shards[1]}}
    (run / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({}, run / shards[0])
    with pytest.raises(ModelError, match=rf"no {shards[1]}; let `urbanseg finetune` finish"):
        collect_repository(run)
    save_file({}, run / shards[1])
    assert {*shards, "model.safetensors.index.json"} <= set(collect_repository(run))


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("model.safetensors", "found no model.safetensors; let `urbanseg finetune` finish (`--resume`)."),
        ("config.json", "found no config.json"),
        ("preprocessor_config.json", "found no preprocessor_config.json"),
        ("metrics.json", "measure it: `urbanseg evaluate --model RUN --output RUN`."),
    ],
)
def test_collect_repository__refuses_an_unfinished_run_and_names_the_command(run, missing, line):
    (run / missing).unlink()
    with pytest.raises(ModelError) as raised:
        collect_repository(run)
    assert line in str(raised.value)
    assert str(raised.value).startswith(f"{run}: ")
    assert "\n" not in str(raised.value)


def test_collect_repository__no_folder(tmp_path):
    with pytest.raises(ModelError, match="expected the folder of a run; found none"):
        collect_repository(tmp_path / "nowhere")


def test_collect_checkpoint__its_model_beside_the_inputs_of_the_run(run):
    checkpoint = run / "checkpoint-4"
    checkpoint.mkdir()
    save_file({}, checkpoint / "model.safetensors")
    for name in ("config.json", "preprocessor_config.json", "trainer_state.json", "optimizer.pt", "manifest.json"):
        (checkpoint / name).write_text(json.dumps({"of": name}))
    files = collect_checkpoint(run, checkpoint)
    model = {"model.safetensors", "config.json", "preprocessor_config.json"}
    inputs = {"recipe.yaml", "splits.yaml", "label_space.json", "class_weights.json", "class_distribution.png"}
    assert set(files) == model | inputs | {"teacher.json"}
    assert all(files[name] == checkpoint / name for name in model)
    with pytest.raises(ModelError, match="checkpoint-5: expected a trained model"):
        collect_checkpoint(run, run / "checkpoint-5")


# ---- links ----


def test_collect_repository__a_link_out_of_the_folder_brings_nothing_in(run, caplog):
    (run.parent / "outside.png").write_bytes(b"outside")
    (run / "overlays" / "link.png").symlink_to(run / "../outside.png")
    files = collect_repository(run)
    assert "overlays/link.png" not in files
    assert "overlays/scene.png" in files
    assert "left out: overlays/link.png" in caplog.text


PICTURES = {"report.html", "overlays/scene.png", "failures/scene.png", "failures/scene.html"}


@pytest.mark.parametrize(
    ("data", "asked", "shown"),
    [
        ("kitti", None, True),
        ("kitti", False, False),
        ("user/streets", None, True),
        ("camvid_as_cityscapes", None, True),
        ("cityscapes", None, False),
        ("idd_as_cityscapes", None, False),
        ("kitti_360", None, False),
        ("kitti_360", True, True),
        ("user/Cityscapes-fine", None, False),
        ("cityscapes", False, False),
        ("cityscapes", True, True),
    ],
)
def test_collect_repository__pictures_of_data_that_may_not_be_published(run, caplog, data, asked, shown):
    (run / "metrics.json").write_text(json.dumps({"splits": {}, "data": {"name": data}}))
    everything = set(collect_repository(run, pictures=True))
    caplog.clear()
    found = set(collect_repository(run, pictures=asked))
    assert everything - found == (set() if shown else PICTURES)
    known = data in ("cityscapes", "user/Cityscapes-fine")
    whose = "Cityscapes, whose licence forbids" if known else f"{data}, whose licence may forbid"
    told = [f"left out: 4 files that show images of {whose} to publish them"]
    assert [one.getMessage() for one in caplog.records] == (told if not shown and asked is None else [])


def test_collect_repository__a_linked_folder_brings_nothing_in(run, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "face.png").write_bytes(b"private")
    for path in (run / "overlays").iterdir():
        path.unlink()
    (run / "overlays").rmdir()
    (run / "overlays").symlink_to(tmp_path / "private")
    assert not any(name.startswith("overlays") for name in collect_repository(run))


def test_collect_repository__the_run_itself_may_be_a_link(run, tmp_path):
    (tmp_path / "latest").symlink_to(run)
    assert set(collect_repository(tmp_path / "latest")) == set(collect_repository(run))


# ---- paths of this machine ----


def test_collect_repository__texts_name_no_folder_of_this_machine(run, tmp_path):
    data = "/mnt/nas of ann/kitti"
    recipe = yaml.safe_load((run / "recipe.yaml").read_text()) | {"data_dir": data}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    home, work = Path.home(), Path.cwd()
    before = {
        "metrics.json": json.dumps(
            {"splits": {}, "data": {"name": f"{data}/training", "note": f"from {home}/x/y.zip, twice"}}
        ),
        "README.md": f"---\nlicense: mit\n---\nRun `{run}` of ({work}/runs). See https://x.org{home}/page.\n",
        "report.html": f'<img src="file://{run}/overlays/scene.png"><td>{home}</td>',
        "log_history.json": json.dumps({"path": f"{home}land/other"}),  # another folder, whose name begins alike
    }
    for name, text in before.items():
        (run / name).write_text(text)
    files = collect_repository(run)
    after = {name: read_content(files[name]).decode() for name in before}
    assert json.loads(after["metrics.json"])["data"] == {"name": "training", "note": "from y.zip, twice"}
    assert after["README.md"] == f"---\nlicense: mit\n---\nRun `run` of (runs). See https://x.org{home}/page.\n"
    assert after["report.html"] == '<img src="scene.png"><td>home</td>'
    assert json.loads(after["log_history.json"]) == {"path": "other"}  # the folder for temporary files holds it
    assert (run / "metrics.json").read_text() == before["metrics.json"]
    clean = {name: content for name, content in files.items() if name not in before and name != "recipe.yaml"}
    assert all(content == run / name for name, content in clean.items())


def test_collect_repository__event_files_without_host_names_and_paths(run):
    torch_writer = pytest.importorskip("torch.utils.tensorboard", reason="needs the package tensorboard")
    folder = run / "runs" / "Nov23_10-00-00_secret-host"
    with torch_writer.SummaryWriter(folder) as writer:
        writer.add_text("args", json.dumps({"output_dir": str(run), "x": 1}))
        writer.add_scalar("loss", 0.25, 1)
        writer.add_scalar("loss", 0.125, 2)
    assert not any("tfevents" in name for name in collect_repository(run))
    files = {n: read_content(c) for n, c in collect_repository(run, tensorboard=True).items() if "tfevents" in n}
    (name,) = files
    assert name.startswith("runs/Nov23_10-00-00/events.out.tfevents.")
    assert "host" not in name
    assert str(run).encode() not in files[name]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    copy = run.parent / "copy" / Path(name).name
    copy.parent.mkdir()
    copy.write_bytes(files[name])
    events = EventAccumulator(str(copy)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.25), (2, 0.125)]


def test_collect_repository__another_model_than_was_measured(run):
    measured = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    (run / "metrics.json").write_text(json.dumps({"splits": {"test": {"weights_sha256": measured}}}))
    collect_repository(run)
    (run / "model.safetensors").write_bytes(b"another")
    with pytest.raises(ModelError, match="expected the weights that test was measured with"):
        collect_repository(run)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_collect__refuses_weights_that_are_not_finite(run, tmp_path, value):
    checkpoint = tmp_path / "checkpoint-4"
    checkpoint.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (checkpoint / name).write_text("{}")
    for folder, collect in ((run, collect_repository), (checkpoint, partial(collect_checkpoint, run))):
        save_file({"fine": np.ones(3), "decode_head.bias": np.array([0, value])}, folder / "model.safetensors")
        with pytest.raises(ModelError) as error:
            collect(folder)
        expected = f"{folder}/model.safetensors: expected finite weights; found inf or NaN in `decode_head.bias`; "
        assert str(error.value).startswith(expected)


def test_collect_repository__refuses_damaged_weights(run):
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"expected readable weights; found .*; copy or train the model again"):
        collect_repository(run)
