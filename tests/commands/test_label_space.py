"""`urbanseg label-space`: from masks of which nobody knows anything to a run's label space."""

import numpy as np
import pytest
from PIL import Image

from hf_urbanseg.commands import label_space
from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.label_space_files import read_label_space
from hf_urbanseg.data.loading import load_data


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Writes masks beside noise; the working folder is another one."""
    monkeypatch.chdir(tmp_path)

    def write(masks):
        for index, mask in enumerate(masks):
            noise = np.random.default_rng(index).integers(0, 256, (*mask.shape[:2], 3), np.uint8)
            for kind, pixels in (("images", noise), ("masks", mask)):
                (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / "set" / kind / f"{index}.png")
        return tmp_path / "set"

    return write


def run(capsys, *words) -> tuple[int, str]:
    try:
        label_space.main([*map(str, words)])
    except SystemExit as end:
        return end.code, capsys.readouterr().err
    return 0, capsys.readouterr().out


def blocks(*values) -> np.ndarray:
    return np.array(values, np.uint8).repeat(64, 0).reshape(len(values) * 8, 8, *np.shape(values)[1:])


def test_main__ids(capsys, folder):
    root = folder([blocks(0, 3, 255, 3), blocks(0, 3, 3, 3)])
    status, out = run(capsys, "--data_dir", root)
    assert status == 0
    assert "set: label files of `encoding: ids`" in out
    assert "25.00% of the pixels, in 2 frames       class 0: 0\n" in out
    assert "62.50% of the pixels, in 2 frames       class 3: 3\n" in out
    assert "12.50% of the pixels                    void: 255\n" in out
    assert not (root / "label_space.yaml").exists()
    status, out = run(capsys, "--data_dir", root, "--write")
    text = (root / "label_space.yaml").read_text()
    (root / "label_space.yaml").write_text(text.replace("class 3", "kerb"))
    data = load_data(data_dir=str(root), test_fraction=0)
    assert data.label_space.names == ("class 0", "kerb")
    assert run(capsys, "--data_dir", root, "--write")[0] == 2  # what was edited stays


def test_main__colours_with_edges_between_them(capsys, folder):
    sharp = blocks([128, 64, 128], [10, 20, 30], [0, 0, 0]).repeat(4, 0).repeat(8, 1)
    smooth = Image.fromarray(sharp).resize((61, 91), Image.Resampling.BILINEAR)  # mixed along edges
    root = folder([sharp, np.array(smooth)])
    assert run(capsys, "--data_dir", root, "--write")[0] == 0
    space, _ = read_label_space(str(root / "label_space.yaml"))
    assert (space.encoding, space.names, len(space.label_ids)) == ("color", ("road", "class 1"), 3)
    data = load_data(data_dir=str(root), test_fraction=0, validation_fraction=0)
    found = read_train_ids(data.splits["train"][0]["label"], data.label_space)
    np.testing.assert_array_equal(found, np.array([0, 1, 255]).repeat(32)[:, None].repeat(64, 1))


def test_main__photographs_are_no_labels(capsys, folder):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8).repeat(2, 0).repeat(2, 1)
    many = np.dstack([noise, noise.T, noise])
    status, err = run(capsys, "--data_dir", folder([many]))
    assert status == 2
    assert "expected label files of 255 values at most; found" in err


def test_main__known_classes_are_shown(capsys, folder):
    root = folder([blocks(0, 1)])
    (root / "classes.txt").write_text("road\ncar")
    status, out = run(capsys, "--data_dir", root)
    assert (status, "50.00% of the pixels, in 1 frames       car: 1\n" in out) == (0, True)
    assert "Nobody lists" not in out
