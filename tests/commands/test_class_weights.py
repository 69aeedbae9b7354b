import json
import logging
import sys

import numpy as np
import pytest
from PIL import Image

from hf_urbanseg.commands.class_weights import main
from hf_urbanseg.data.class_weights import compute_class_weights, load_class_weights
from hf_urbanseg.labels import CITYSCAPES

HEIGHT, WIDTH = 8, 12


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Its plot is looked at."""


@pytest.fixture
def kitti(tmp_path, monkeypatch):
    """Eight frames in the KITTI layout; road (7) everywhere but for i + 1 pixels of car (26) and two of void."""
    monkeypatch.setenv("HF_URBANSEG_CACHE", str(tmp_path / "cache"))
    for folder in ("image_2", "semantic"):
        (tmp_path / "kitti" / "training" / folder).mkdir(parents=True)
    for i in range(8):
        image = np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        label = np.full((HEIGHT, WIDTH), 7, np.uint8)
        label[0, : i + 1], label[1, :2] = 26, 0
        Image.fromarray(image).save(tmp_path / "kitti" / "training" / "image_2" / f"{i:06d}_10.png")
        Image.fromarray(label).save(tmp_path / "kitti" / "training" / "semantic" / f"{i:06d}_10.png")
    (tmp_path / "splits.yaml").write_text(
        "train: ['000000_10', '000003_10']\nvalidation: ['000001_10']\n"
        "test: ['000002_10', '000004_10', '000005_10', '000006_10', '000007_10']\n"
    )
    return tmp_path


def run(monkeypatch, folder, *words):
    words = ("--data_dir", f"{folder}/kitti", "--split_file", f"{folder}/splits.yaml", *words)
    monkeypatch.setattr(sys, "argv", ["class_weights.py", *words])
    main()


def test_main__counts_the_training_split_only(kitti, monkeypatch, capsys):
    run(monkeypatch, kitti, "--output", f"{kitti}/out/weights.json")
    counts = np.zeros(19, int)
    counts[[0, 13]] = 2 * (HEIGHT * WIDTH - 2) - (1 + 4), 1 + 4
    content = json.loads((kitti / "out" / "weights.json").read_text())
    assert list(content["counts"].values()) == counts.tolist()
    assert (content["scheme"], content["source"]) == ("inverse_log", "kitti, train, 2 images")
    expected = compute_class_weights(counts, "inverse_log")
    assert load_class_weights(kitti / "out" / "weights.json", CITYSCAPES).tolist() == expected.tolist()
    chart = np.asarray(Image.open(kitti / "out" / "weights.png").convert("L"))
    assert chart.std() > 5
    printed = capsys.readouterr().out
    (car,) = [line for line in printed.splitlines() if line.startswith("│ car ")]
    assert car.replace("│", " ").split() == ["car", "5", "2.660%", f"{expected[13]:.8f}"]
    assert sorted(entry.name for entry in (kitti / "out").iterdir()) == ["weights.json", "weights.png"]


def test_main__without_an_output_into_a_folder_of_its_own(kitti, monkeypatch, capsys):
    (kitti / "here").mkdir()
    monkeypatch.chdir(kitti / "here")
    run(monkeypatch, kitti)
    folder = kitti / "here" / "class_weights"
    assert list((kitti / "here").iterdir()) == [folder]
    assert sorted(entry.name for entry in folder.iterdir()) == ["class_weights.json", "class_weights.png"]
    assert "Wrote class_weights/class_weights.json and class_weights/class_weights.png." in capsys.readouterr().out


def test_main__median_frequency_has_counts_per_image(kitti, monkeypatch):
    run(monkeypatch, kitti, "--scheme", "median_frequency", "--output", f"{kitti}/weights.json")
    weights = load_class_weights(kitti / "weights.json", CITYSCAPES)
    road, car = 183 / 188, 5 / 188
    np.testing.assert_allclose(weights[[0, 13]], [(road + car) / 2 / road, (road + car) / 2 / car], rtol=1e-12)


def test_main__beta_reaches_the_scheme(kitti, monkeypatch):
    words = ("--scheme", "effective_number", "--beta", "0.5", "--output", f"{kitti}/weights.json")
    run(monkeypatch, kitti, *words)
    weights = load_class_weights(kitti / "weights.json", CITYSCAPES)
    np.testing.assert_allclose(weights[13] / weights[0], 1 / (1 - 0.5**5), rtol=1e-12)


def test_main__statistics_of_another_split_warn(kitti, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        run(monkeypatch, kitti, "--split", "test", "--output", f"{kitti}/weights.json")
    assert "Weights from the statistics of test leak them into training" in caplog.text
    assert json.loads((kitti / "weights.json").read_text())["counts"]["car"] == 3 + 5 + 6 + 7 + 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scheme", "inverse"], "invalid choice: 'inverse'"),
        (
            ["--split", "val"],
            "error: expected a split of train, validation, test; found `val`; choose one with `--split`.",
        ),
        (
            ["--output", "weights.png"],
            "error: expected a .json file as `output`; found `weights.png`; end its name in .json.",
        ),
    ],
)
def test_main__bad_options_end_in_one_line(kitti, monkeypatch, capsys, words, message):
    monkeypatch.chdir(kitti)
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, kitti, *words)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(kitti.glob("*weights*"))


def test_main__bad_pair_in_another_split_ends_in_one_line(kitti, monkeypatch, capsys):
    label = kitti / "kitti" / "training" / "semantic" / "000007_10.png"
    label.write_bytes(label.read_bytes()[:-20])
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, kitti, "--output", f"{kitti}/weights.json")
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {label}: expected a readable label file; found a truncated or damaged file")
    assert not (kitti / "weights.json").exists()
