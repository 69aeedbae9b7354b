import getpass
import json
import os
import socket
import struct
from pathlib import Path

import pytest
import yaml
from clean_machine import elsewhere  # noqa: F401
from run_folders import FORBIDDEN, build_png, build_run, hash_tree, plant_forbidden, read_content, read_tree
from safetensors.numpy import save_file

from hf_urbanseg.errors import DataError, ModelError
from hf_urbanseg.hub.repository import collect_card, collect_checkpoint, collect_repository, is_ours

SECRET = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


@pytest.fixture
def run(tmp_path):
    return build_run(tmp_path / "run")


def _contents(files):
    return {name: read_content(content) for name, content in files.items()}


def test_collect_repository__holds_what_a_stranger_needs_and_nothing_else(run):
    allowed = read_tree(run)
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
    assert all(is_ours(name) for name in read_tree(run))
    others = ("LICENSE", "demo.mp4", ".gitattributes", "docs/README.md", "onnx/model.onnx", "runs/x/events.tfevents.1")
    assert not any(is_ours(name) for name in (*FORBIDDEN, *others))


def test_collect_repository__takes_all_shards_or_none(run):
    (run / "model.safetensors").unlink()
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"metadata": {}, "weight_map": {"a": shards[0], "b": shards[1]}}
    (run / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({}, run / shards[0])
    with pytest.raises(ModelError, match=rf"no {shards[1]}; let scripts/finetune.py finish"):
        collect_repository(run)
    save_file({}, run / shards[1])
    assert {*shards, "model.safetensors.index.json"} <= set(collect_repository(run))


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("model.safetensors", "found no model.safetensors; let scripts/finetune.py finish (`--resume`)."),
        ("config.json", "found no config.json"),
        ("preprocessor_config.json", "found no preprocessor_config.json"),
        ("metrics.json", "measure it: scripts/evaluate.py --model RUN --output RUN."),
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
    assert set(files) == model | inputs
    assert all(files[name] == checkpoint / name for name in model)
    with pytest.raises(ModelError, match="checkpoint-5: expected a trained model"):
        collect_checkpoint(run, run / "checkpoint-5")


# ---- links ----


@pytest.mark.parametrize("target", ["../outside.png", ".env", "checkpoint-4/optimizer.pt", "push.json"])
def test_collect_repository__a_link_brings_nothing_in(run, caplog, target):
    plant_forbidden(run)
    (run.parent / "outside.png").write_bytes(b"outside")
    (run / "overlays" / "link.png").symlink_to(run / target)
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
    told = ["left out: 4 files that show images of Cityscapes, whose licence forbids to publish them"]
    assert [one.getMessage() for one in caplog.records] == (told if not shown and asked is None else [])


def test_collect_card__cleaned_as_all_else(run):
    (run / "README.md").write_text(f"see {run}/metrics.json\n")
    assert collect_card(run) == {"README.md": b"see metrics.json\n"}
    (run / "README.md").write_text(f"token {SECRET}\n")
    with pytest.raises(DataError, match=r"README.md: expected files without secrets"):
        collect_card(run)


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


def test_collect_repository__a_model_that_is_a_link_into_a_cache(run, tmp_path):
    (tmp_path / "blob").write_bytes((run / "model.safetensors").read_bytes())
    (run / "model.safetensors").unlink()
    (run / "model.safetensors").symlink_to(tmp_path / "blob")
    with pytest.raises(ModelError, match=r"found model.safetensors as a link to something that is not pushed; put the"):
        collect_repository(run)


def test_collect_repository__traps_of_every_kind_stay(run, tmp_path, caplog):
    before = set(collect_repository(run, tensorboard=True))
    overlays = run / "overlays"
    (overlays / "dangling.png").symlink_to("nowhere.png")
    (overlays / "loop.png").symlink_to("loop.png")
    (overlays / "folder.png").mkdir()
    (overlays / "folder.png" / "a.png").write_bytes(build_png())
    os.mkfifo(overlays / "pipe.png")
    os.mkfifo(run / "per_class_pipe.csv")
    os.mkfifo(run / ".env")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(overlays)
        server.bind("socket.png")
    os.chdir(tmp_path / "work")
    os.link(_write(run / "optimizer.pt", b"PK optimizer"), overlays / "hard.png")
    os.link(_write(tmp_path / "notes.txt", b"notes"), overlays / "hard2.png")
    for name in ("a\nb.png", "\u202ea.png", "a\\b.png", "..png", "...png", "A.PNG", "a.png.txt", "a.png "):
        _write(overlays / name, build_png())
    _write(Path(os.fsdecode(os.fsencode(overlays) + b"/\xff.png")), build_png())
    for name in ("METRICS.JSON", "Model.safetensors", "OVERLAYS/a.png", "wandb/config.yaml", "wandb/a.png", "core.123",
                 "overlays.png", "runs/tfevents.txt", "runs/a/b/events.out.tfevents.1", "runs/x/tfevents.1",
                 "model-1.safetensors", "per_class_.exe", "metrics.json~", "metrics.json.lock", ".git/README.md",
                 "overlays/.git/a.png", "checkpoint-4/README.md", "failures/a.PNG"):  # fmt: skip
        _write(run / name, struct.pack("<Q", 4) + b"crc1trapcrc2")  # an event file's record, too
    for name in ("scène – 1.png", "a b.png", "'quoted\".png", "%2e%2e.png", "a..b.png"):
        _write(overlays / name, build_png())
        before.add(f"overlays/{name}")
    assert set(collect_repository(run, tensorboard=True)) == before
    assert caplog.text.count("a name that not every system can hold") == 4
    assert caplog.text.count("is not what its name says") == 2
    assert all(line.isprintable() for line in caplog.text.splitlines())


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_collect_repository__a_run_that_is_a_loop(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ModelError, match="expected the folder of a run; found none"):
        collect_repository(tmp_path / "loop")


@pytest.mark.parametrize("name", ["metrics.json", "overlays/scene.png", "model.safetensors", "recipe.yaml"])
def test_collect_repository__a_file_that_can_not_be_read_is_named(run, monkeypatch, name):
    def refuse(path, *args, **kwargs):
        if path == run / name:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    opened = Path.open
    monkeypatch.setattr(Path, "open", refuse)  # nothing stops root from reading
    with pytest.raises(DataError, match=rf"{name}: expected .*; found Permission"):
        collect_repository(run)


def test_collect_repository__a_file_that_vanishes_is_named(run, monkeypatch):
    monkeypatch.setattr(
        "hf_urbanseg.hub.repository.list_local_folders", lambda *_: (run / "report.html").unlink() or []
    )
    with pytest.raises(DataError, match=r"report.html: expected a readable file; found No such file or directory"):
        collect_repository(run)


# ---- paths of this machine ----


def test_collect_repository__recipe_keeps_the_last_names_of_paths(tmp_path):
    home = Path.home()
    (tmp_path / "work" / "runs" / "pretrained").mkdir(parents=True)  # the working folder
    run = build_run(
        tmp_path / "run",
        data_dir=f"{home}/data/kitti",
        split_file="../lists/splits.yaml",
        class_weights="/mnt/disk/weights.json",
        label_space="cityscapes",
        model_name_or_path="runs/pretrained",
        train_scales=["0.5", "375x1242"],
        lists=["/opt/lists/a.txt", {"inside": "/opt/lists/b.txt"}],
        something_new="/opt/tools/run.sh",
        windows="C:\\Users\\ann\\kitti",
        learning_rate=1e-5,
    )
    published = yaml.safe_load(read_content(collect_repository(run)["recipe.yaml"]))
    assert published == {
        "data_dir": "kitti", "dataset": "synthetic", "output_dir": "run", "max_steps": 4, "split_file": "splits.yaml",
        "class_weights": "weights.json", "label_space": "cityscapes", "model_name_or_path": "pretrained",
        "train_scales": ["0.5", "375x1242"], "lists": ["a.txt", {"inside": "b.txt"}],
        "something_new": "run.sh", "windows": "kitti", "learning_rate": 1e-5,
    }  # fmt: skip
    hub = build_run(tmp_path / "hub", model_name_or_path="nvidia/mit-b0", dataset="user/streets")
    published = yaml.safe_load(read_content(collect_repository(hub)["recipe.yaml"]))
    assert (published["model_name_or_path"], published["dataset"]) == ("nvidia/mit-b0", "user/streets")


def test_collect_repository__texts_name_no_folder_of_this_machine(run, tmp_path):
    data = "/mnt/nas of ann/kitti"
    recipe = yaml.safe_load((run / "recipe.yaml").read_text()) | {"data_dir": data}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    home, work = Path.home(), Path.cwd()
    before = {
        "metrics.json": json.dumps({"data": {"name": f"{data}/training", "note": f"from {home}/x/y.zip, twice"}}),
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
    assert after["log_history.json"] == json.dumps({"path": "other"})  # the folder for temporary files holds it
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


def test_collect_repository__event_records_without_tensorboard_installed(run):
    def record(data: bytes) -> bytes:
        return struct.pack("<Q", len(data)) + b"crc1" + data + b"crc2"

    folder = run / "runs" / "Nov23_10-00-00_host.of.ann"
    folder.mkdir(parents=True)
    kept = [record(b"brain.Event:2"), record(b"loss 0.25")]
    content = kept[0] + record(f"args {run}/x".encode()) + kept[1] + record(b"half written")[:-3]
    (folder / "events.out.tfevents.1700000000.host.of.ann.12.0").write_bytes(content)
    (folder / "events.out.tfevents.1700000000.host.of.ann.12.1").write_bytes(kept[0])
    files = {n: read_content(c) for n, c in collect_repository(run, tensorboard=True).items() if "tfevents" in n}
    stem = "runs/Nov23_10-00-00/events.out.tfevents.1700000000"
    assert files == {f"{stem}.0": b"".join(kept), f"{stem}.1": kept[0]}


def test_collect_repository__damaged_files_are_named(run):
    (run / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(DataError, match=r"model.safetensors: expected a readable file"):
        collect_repository(run)
    (run / "model.safetensors").unlink()
    save_file({}, run / "model.safetensors")
    (run / "metrics.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"metrics.json: expected readable JSON"):
        collect_repository(run)
    (run / "metrics.json").write_text("{}")
    (run / "recipe.yaml").write_text("a: [")
    with pytest.raises(DataError, match=r"recipe.yaml: expected a recipe"):
        collect_repository(run)


def test_collect_repository__no_user_name_in_any_file(run):
    """The environment a run describes and the pictures it draws carry nobody's name."""
    name = getpass.getuser()
    assert not any(f"/{name}/".encode() in read_content(content) for content in collect_repository(run).values())
