import json
import re
import shutil
import socket
import sys
from dataclasses import asdict

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from hf_urbanseg.commands import evaluate
from hf_urbanseg.commands.compare import main
from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.files import hash_file
from hf_urbanseg.inference.plan import PLAIN
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.json_yaml import read_json, write_json
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.models.build import build_image_processor, build_random_model
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.reports.comparison import compare_runs
from hf_urbanseg.reports.comparison_pictures import NoPictures, draw_pictures
from hf_urbanseg.runs.measured import load_measurement
from hf_urbanseg.runs.scores import describe_scores


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two untrained models measured on three frames, with what training leaves beside them."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("image_2", "semantic"):
        (folder / "kitti" / "training" / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"{i:06d}_10" for i in range(4)]
    for name in names:
        image, label = rng.integers(0, 256, (48, 80, 3), np.uint8), rng.choice([0, 7, 23, 26], (48, 80))
        Image.fromarray(image).save(folder / "kitti" / "training" / "image_2" / f"{name}.png")
        Image.fromarray(label.astype(np.uint8)).save(folder / "kitti" / "training" / "semantic" / f"{name}.png")
    splits = {"train": names[3:], "test": names[:3]}
    recipe = {"data_dir": str(folder / "kitti"), "validation_fraction": 0.0, "max_steps": 1}
    (folder / "splits.yaml").write_text(json.dumps(splits))
    data = load_data(recipe["data_dir"], split_file=str(folder / "splits.yaml"), validation_fraction=0)
    rows, space = data.splits["test"], data.label_space
    for seed in (0, 1):
        torch.manual_seed(seed)
        model, processor = build_random_model("tiny", space), build_image_processor((32, 64))
        model.save_pretrained(folder / f"seed{seed}")
        processor.save_pretrained(folder / f"seed{seed}")
        (folder / f"seed{seed}" / "recipe.yaml").write_text(json.dumps(recipe))
        (folder / f"seed{seed}" / "splits.yaml").write_text(json.dumps(splits))
        matrices = []
        predictor = Predictor(model, processor)
        for row in rows:
            label = space.train_id_table[np.asarray(row["label"])]
            prediction = predictor.predict([row["image"].convert("RGB")])[0]
            valid = label != 255
            pairs = 19 * label[valid].astype(int) + prediction[valid]
            matrices.append(np.bincount(pairs, minlength=361).reshape(19, 19))
        matrix = np.stack(matrices)
        counts = ImageCounts(
            tuple(rows["name"]), space.names, np.einsum("nii->ni", matrix), matrix.sum(2), matrix.sum(1)
        )
        said = {"protocol": "single scale", "data": "kitti", "plan": asdict(PLAIN), "inputs": [[32, 64, 3]]}
        content = {"split": "test", **said, **counts.to_dict()}
        write_json(folder / f"seed{seed}" / "per_image_test.json", content)
        scores = describe_scores(matrix.sum(0), space, 0)
        write_json(folder / f"seed{seed}" / "metrics.json", {"splits": {"test": scores}})
    return folder


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, words)])
    main()


def check_no_pictures(output, capsys) -> str:
    """The note on the terminal; the page says why in words, and has nothing of an error."""
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: no pictures: ")]
    page = (output / "comparison.html").read_text()
    (said,) = re.findall(r"There are no pictures: (.*?)\.</p>", page)
    assert said in line.replace("'", "&#39;")
    assert not re.search(r"expected |; found |Error", said)
    assert "<article>" not in page
    return line


def test_main__writes_everything(runs, tmp_path, monkeypatch, capsys):
    run(monkeypatch, runs / "seed0", runs / "seed1", "--output", tmp_path / "out", "--show_images", 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "comparison.csv", "comparison.html", "comparison.md", "miou_over_gmac.png",
    ]  # fmt: skip
    printed = capsys.readouterr().out
    scores = [json.loads((runs / name / "metrics.json").read_text())["splits"]["test"] for name in ("seed0", "seed1")]
    first, second = (one["mean_iou"] for one in scores)
    assert f"seed0  mIoU {first:.2%} (" in printed
    assert f"{100 * (second - first):+.2f} points, p " in printed
    assert "no pictures" not in printed
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert 1 <= page.count("<article>") <= 2
    assert page.count("<img") == 6 * page.count("<article>")
    _, _, before, after, *_ = re.findall(r'<img src="([^"]*)"', page)
    assert before != after
    assert "some pixels differ" not in page  # predicted again, the same pixels


def test_main__runs_by_name_and_without_pictures(runs, tmp_path, monkeypatch):
    words = ("--output", tmp_path / "out", "--show_images", 0)
    run(monkeypatch, *words, "--runs", runs / "seed1", runs / "seed0")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<h1>seed1 vs seed0</h1>" in page
    assert "<article>" not in page
    assert "There are no pictures" not in page


def test_main__colours_of_the_run(runs, tmp_path, monkeypatch):
    for name in ("seed0", "seed1"):
        shutil.copytree(runs / name, tmp_path / name)
    names = Predictor.from_pretrained(runs / "seed0").label_space.names
    space = LabelSpace("mine", names, tuple((i, 1, 2) for i in range(19)), {})
    (tmp_path / "seed0" / "label_space.json").write_text("{")  # a damaged one is passed over
    write_json(tmp_path / "seed1" / "label_space.json", describe_label_space(space))
    folders = tmp_path / "seed0", tmp_path / "seed1"
    run(monkeypatch, *folders, "--output", tmp_path / "out", "--show_images", 0)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert re.findall(r"--class: rgb\((\d+) 1 2\)", page) == [str(i) for i in range(19)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "recipe.yaml").write_text("data_dir: /nowhere\n"), "/nowhere"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model"),
        (lambda folder: (folder / "recipe.yaml").unlink(), "recipe.yaml"),
    ],
    ids=["no data", "no model", "no recipe"],
)
def test_main__without_data_or_model_the_numbers_stand(runs, tmp_path, monkeypatch, capsys, change, reason):
    for name in ("seed0", "seed1"):
        shutil.copytree(runs / name, tmp_path / name)
        change(tmp_path / name)
    run(monkeypatch, tmp_path / "seed0", tmp_path / "seed1", "--output", tmp_path / "out")
    said = check_no_pictures(tmp_path / "out", capsys)
    assert reason in said


def test_main__pictures_of_other_labels_are_refused(runs, tmp_path, monkeypatch, capsys):
    for name in ("seed0", "seed1"):
        shutil.copytree(runs / name, tmp_path / name)
        for file in ("per_image_test.json", "metrics.json"):
            path = tmp_path / name / file
            content = json.loads(path.read_text())
            if file == "metrics.json":
                matrix = np.array(content["splits"]["test"]["confusion_matrix"])
                matrix[0, 0] += 3
                content["splits"]["test"]["confusion_matrix"] = matrix.tolist()
            else:
                for key in ("hits", "labelled", "predicted"):
                    for row in range(3):
                        content[key][row][0] += 1
            path.write_text(json.dumps(content))
    run(monkeypatch, tmp_path / "seed0", tmp_path / "seed1", "--output", tmp_path / "out")
    assert "the label of 000" in check_no_pictures(tmp_path / "out", capsys)


def test_main__measured_elsewhere_has_pictures_until_model_or_data_change(runs, tmp_path, monkeypatch, capsys):
    """As `evaluate --output` left it, in several passes, which are repeated."""
    for name in ("kitti", "seed0", "seed1"):
        shutil.copytree(runs / name, tmp_path / name)
    shutil.copy(runs / "splits.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, words in (("one", []), ("two", ["--ratios", "1", "2", "--flip"])):
        data = ["--data_dir", "kitti", "--split_file", "splits.yaml", "--validation_fraction", "0"]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", f"seed{name == 'two':d}", "--output", name, *data, *words])
        evaluate.main()
    found = read_json(tmp_path / "two" / "measured.json")
    weights = hash_file(tmp_path / "seed1" / "model.safetensors")
    data = {"data_dir": str(tmp_path / "kitti"), "validation_fraction": 0.0}
    assert found == {"model": str(tmp_path / "seed1"), "revision": None, "weights_sha256": weights, "data": data}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folders = tmp_path / "one", tmp_path / "two"
    run(monkeypatch, *folders, "--output", tmp_path / "out", "--show_images", 1)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<article>" in page
    assert "some pixels differ" not in page
    assert "no pictures" not in capsys.readouterr().out
    comparison = compare_runs([load_measurement(folder, "test") for folder in folders], "test")
    frame = tmp_path / "kitti" / "training" / "image_2" / "000000_10.png"
    for path, content, reason in (
        (frame, frame.read_bytes() + b" ", "frames are missing or others than one was measured on, first 000000_10"),
        (tmp_path / "seed1" / "model.safetensors", b"others", "the weights of two are others than were measured"),
        (tmp_path / "seed1" / "config.json", None, "the model of two can't be loaded"),
        (
            tmp_path / "kitti" / "training" / "semantic" / "000000_10.png",
            None,
            "that one was measured on can't be read",
        ),
    ):
        before = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(NoPictures, match=reason):
            draw_pictures(comparison, DataArguments(), 1)
        path.write_bytes(before)


def test_main__pictures_at_addresses_are_not_asked_for(runs, tmp_path, monkeypatch, capsys):
    """The run of others has a folder of files as its data, whose pictures are elsewhere."""
    address, asked = "http://127.0.0.1:9/a.png", []
    kinds = {"image": datasets.Image(), "label": datasets.Image(), "name": datasets.Value("string")}
    (tmp_path / "set").mkdir()
    for split, names in json.loads((runs / "splits.yaml").read_text()).items():
        stored = [{"bytes": None, "path": address}] * len(names)
        table = pa.table({"image": stored, "label": stored, "name": names})
        parquet.write_table(table.cast(datasets.Features(kinds).arrow_schema), tmp_path / "set" / f"{split}.parquet")
    recipe = {"dataset": str(tmp_path / "set"), "label_space": "cityscapes", "validation_fraction": 0.0}
    for name in ("seed0", "seed1"):
        shutil.copytree(runs / name, tmp_path / name)
        (tmp_path / name / "recipe.yaml").write_text(json.dumps(recipe))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda *words: asked.append(words))
    run(monkeypatch, tmp_path / "seed0", tmp_path / "seed1", "--output", tmp_path / "out")
    assert f"({address}: expected pictures on this machine" in check_no_pictures(tmp_path / "out", capsys)
    assert asked == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{0}"], "error: expected two runs or more; found 1; name the folder of another run."),
        (["{0}", "{0}/../seed0"], "expected each run once; found it twice; remove one."),
        (["{0}", "--runs", "{1}"], "expected `runs` either first or behind `--runs`; found both `"),
        (["{0}", "{1}", "--split", "train"], "seed0: expected a split of test; found `train`; choose one with"),
        (["{0}", "nowhere"], "error: nowhere: expected the folder of a run; found nothing there; train with"),
        (["{0}", "{1}", "--num_images", "-1"], "expected `num_images` of 0..10,000; found -1;"),
        (["--split", "test", "{0}", "{1}"], "error: expected valid options"),
    ],
)
def test_main__bad_input_ends_in_one_line(runs, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *(word.format(runs / "seed0", runs / "seed1") for word in words))
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "comparison").exists()
