import sys
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from hf_urbanseg.commands import make_submission
from hf_urbanseg.data import submission
from hf_urbanseg.inference.plan import PredictionPlan
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES

torch.set_num_threads(1)


def save_model(folder, names):
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    network = SegformerForSemanticSegmentation(config)
    torch.nn.init.normal_(network.decode_head.classifier.weight, std=1.0)
    network.save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 64, "width": 96}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), CITYSCAPES.names)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command where KITTI has three test images; returns exit status and the two streams."""
    small = replace(
        submission.BENCHMARKS["kitti", "test"],
        counts={"testing/image_2": 3},
        names=tuple(f"{index:06d}_10" for index in range(3)),
    )
    monkeypatch.setitem(submission.BENCHMARKS, ("kitti", "test"), small)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "testing" / "image_2"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(3):
        pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60 + index, 40)).save(folder / f"{index:06d}_10.png")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["make_submission.py", *map(str, words)])
        try:
            make_submission.main()
            status = 0
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


def refused(result, *parts):
    status, out, err = result
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert all(part in last for part in parts), last


def test_main__predicts_writes_and_checks(run, model, tmp_path):
    status, out, _ = run("--data_dir", "data", "--model", model, "--flip", "--batch_size", 2)
    assert status == 0
    assert out.startswith("submission.zip: 3 label-id files for KITTI test, checked; predicted with 2 passes: ")
    predictor = Predictor.from_pretrained(model, "cpu", plan=PredictionPlan(flip=True))
    to_label_id = {train_id: label_id for label_id, train_id in CITYSCAPES.label_ids.items()}
    with zipfile.ZipFile("submission.zip") as bundle:
        for index in range(3):
            found = np.asarray(Image.open(BytesIO(bundle.read(f"semantic/{index:06d}_10.png"))))
            image = Image.open(f"data/testing/image_2/{index:06d}_10.png")
            expected = np.vectorize(to_label_id.get)(predictor.predict([image])[0])
            assert found.shape == (40, 60 + index)
            assert (found == expected).mean() > 0.999  # batches of other sizes may flip ties
    before = (tmp_path / "submission.zip").read_bytes()
    assert run("--data_dir", "data", "--model", model, "--flip", "--batch_size", 2, "--output", "b.zip")[0] == 0
    assert (tmp_path / "b.zip").read_bytes() == before
    status, out, _ = run("--data_dir", "data", "--check", "b.zip")
    assert (status, out) == (0, "b.zip: right for KITTI test, 3 files\n")


def test_main__check_refuses(run, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no zip")
    refused(run("--data_dir", "data", "--check", "a.zip"), "a.zip: expected a readable .zip")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"no picture",
        lambda content: content[:20] + b"\xff" + content[21:],
        lambda content: content[:-30],
    ],
    ids=["noise", "header", "cut"],
)
def test_main__check_names_an_image_that_cannot_be_read(run, tmp_path, damage):
    """Of the data, not of the zip, which would be written again for nothing."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        for index in range(3):
            content = submission.encode_label_ids(np.full((40, 60 + index), 13, np.uint8))
            bundle.writestr(f"semantic/{index:06d}_10.png", content)
    assert run("--data_dir", "data", "--check", "a.zip")[0] == 0
    path = tmp_path / "data/testing/image_2/000001_10.png"
    path.write_bytes(damage(path.read_bytes()))
    result = run("--data_dir", "data", "--check", "a.zip")
    refused(result, "error: data/testing/image_2/000001_10.png: expected a readable image; found ", "; replace it.")
    assert result[2].count("\n") == 1


def test_main__a_model_of_other_classes(run, tmp_path):
    other = save_model(tmp_path / "other", CITYSCAPES.names[::-1])
    refused(run("--data_dir", "data", "--model", other), "expected a model for the 19 classes of Cityscapes in their")
    assert not (tmp_path / "submission.zip").exists()


def test_main__unreadable_images_stop_before_the_first_prediction(run, model, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Predictor, "predict", None)
    for index in (2, 0):
        path = tmp_path / f"data/testing/image_2/00000{index}_10.png"
        path.write_bytes(path.read_bytes()[:-30])
        parts = f"00000{index}_10.png: expected a readable image", f"; {1 + index // 2} of 3 could be read, and"
        refused(run("--data_dir", "data", "--model", model, "--batch_size", 1), *parts)
    assert [name in caplog.text for name in ("000000_10.png: ", "000001_10.png: ", "000002_10.png: ")] == [1, 0, 1]
    assert not (tmp_path / "submission.zip").exists()


def test_main__a_missing_image(run, model, tmp_path):
    (tmp_path / "data/testing/image_2/000001_10.png").unlink()
    refused(run("--data_dir", "data", "--model", model), "found 2, without 000001_10")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--model", "x"], "expected `--data_dir`"),
        (["--data_dir", "data"], "expected `--model` to make a zip or `--check` to check one; found neither"),
        (["--data_dir", "data", "--model", "x", "--check", "y"], "found both"),
        (["--data_dir", "data", "--model", "x", "--split", "val"], "found `kitti val`"),
        (["--data_dir", "data", "--model", "x", "--batch_size", "0"], "`batch_size` of 1..4,096"),
        (["--data_dir", "data", "--model", "x", "--benchmark", "camvid"], "camvid"),
    ],
)
def test_main__bad_options(run, words, part):
    refused(run(*words), part)


def test_main__no_folder_for_the_zip(run, model):
    Path("no").touch()
    refused(
        run("--data_dir", "data", "--model", model, "--output", "no/a.zip"), "no/a.zip: expected a file to write to"
    )
