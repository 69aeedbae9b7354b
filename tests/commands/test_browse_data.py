import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_urbanseg.commands.browse_data import main

HEIGHT, WIDTH = 48, 80
REAL = Path(os.environ.get("HF_URBANSEG_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture
def kitti(tmp_path, monkeypatch):
    """Eight frames in the KITTI layout: road, sky above, void at the left; a train in the last but one."""
    monkeypatch.setenv("HF_URBANSEG_CACHE", str(tmp_path / "cache"))
    for folder in ("image_2", "semantic"):
        (tmp_path / "kitti" / "training" / folder).mkdir(parents=True)
    for i in range(8):
        image = np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        label = np.full((HEIGHT, WIDTH), 7, np.uint8)
        label[:10], label[:, :8] = 23, 0
        if i == 6:
            label[20:30, 30:50] = 31
        Image.fromarray(image).save(tmp_path / "kitti" / "training" / "image_2" / f"{i:06d}_10.png")
        Image.fromarray(label).save(tmp_path / "kitti" / "training" / "semantic" / f"{i:06d}_10.png")
    names = [f"'{i:06d}_10'" for i in range(8)]
    (tmp_path / "splits.yaml").write_text(f"train: [{', '.join(names[2:])}]\ntest: [{', '.join(names[:2])}]\n")
    return tmp_path


def run(monkeypatch, folder, *words):
    data = ("--data_dir", f"{folder}/kitti", "--split_file", f"{folder}/splits.yaml", "--validation_fraction", "0")
    small = ("--crop_size", "64", "64", "--num_epochs", "2", "--output", f"{folder}/out")
    monkeypatch.setattr(sys, "argv", ["browse_data.py", *data, *small, *words])
    main()


def read(folder):
    return (folder / "out" / "index.html").read_text(encoding="utf-8")


def test_main__page_and_pictures(kitti, monkeypatch, capsys):
    run(monkeypatch, kitti, "--num_samples", "3", "--num_augmented", "2")
    text = read(kitti)
    assert sorted(path.name for path in (kitti / "out").iterdir()) == [
        "augmentations.png", "class_distribution.png", "index.html", "samples.png",
    ]  # fmt: skip
    samples = text.split('<section id="samples">')[1].split("</section>")[0]
    assert "3 of 6 frames: every class of the split is shown, rare ones first" in samples
    assert re.findall(r"<b>(\w+)</b> ([^<]*)<", samples) == [
        ("000006_10", "for train, sky, road"), ("000002_10", ""), ("000007_10", ""),
    ]  # fmt: skip
    assert samples.count("<img") == 6
    augmentation = text.split('<section id="augmentation">')[1]
    assert re.findall(r"<h3>(\w+)</h3>", augmentation) == ["000006_10", "000002_10"]
    assert re.findall(r"<figcaption>(epoch \d)<", augmentation) == ["epoch 0", "epoch 1"] * 2
    assert "epochs 0 to 1 at seed 42" in augmentation
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "Wrote" in capsys.readouterr().out


def test_main__counts_of_the_split(kitti, monkeypatch):
    run(monkeypatch, kitti, "--num_augmented", "0")
    rows = dict(re.findall(r'<th scope="row">(?:<[^>]*>)*([\w ]+)</span></th>\s*(.*?)</tr>', read(kitti), re.S))
    train = re.findall(r'data-value="([^"]*)"', rows["train"])
    pixels, labelled = 200, 6 * HEIGHT * (WIDTH - 8)
    assert [float(value) for value in train] == pytest.approx(
        [pixels / labelled, pixels, 1, 1 / 6, pixels / (HEIGHT * (WIDTH - 8))]
    )
    assert re.findall(r'data-value="([^"]*)"', rows["sky"])[1:3] == [str(6 * 10 * (WIDTH - 8)), "6"]
    assert "6 images of train; 10.0 % of their pixels are in no class" in read(kitti)
    assert '<th scope="row">48x80</th><td>6</td>' in read(kitti)


def test_main__crops_are_those_of_training(kitti, monkeypatch):
    """The very samples, in the sheet's own place: rows are frames, columns epochs."""
    from hf_urbanseg.data.loading import load_data
    from hf_urbanseg.data.preprocessing import TrainDataset
    from hf_urbanseg.data.transforms import build_train_transforms
    from hf_urbanseg.options.config import AugmentationArguments
    from hf_urbanseg.reports.data_pages import show_sample

    shown = []
    monkeypatch.setattr(
        "hf_urbanseg.reports.data_pages.show_sample",
        lambda sample, space: shown.append(sample) or show_sample(sample, space),
    )
    run(monkeypatch, kitti, "--num_augmented", "1", "--seed", "7", "--flip", "0.25")
    data = load_data(f"{kitti}/kitti", split_file=f"{kitti}/splits.yaml", validation_fraction=0)
    transforms = build_train_transforms((64, 64), AugmentationArguments().train_scales, 0.75, 0.25, True)
    dataset = TrainDataset(data.splits["train"], data.label_space, transforms, 7)
    place = list(data.splits["train"]["name"]).index("000006_10")
    assert len(shown) == 2
    for epoch, sample in enumerate(shown):
        for key, value in dataset[epoch, place].items():
            np.testing.assert_array_equal(sample[key].numpy(), value.numpy())


def test_main__a_split_that_is_not_augmented(kitti, monkeypatch):
    run(monkeypatch, kitti)
    assert (kitti / "out" / "augmentations.png").exists()
    run(monkeypatch, kitti, "--split", "test")
    assert not (kitti / "out" / "augmentations.png").exists()
    assert 'id="augmentation"' not in read(kitti)
    assert "2 images of test" in read(kitti)


def test_main__recipe_gives_augmentation_and_seed(kitti, monkeypatch):
    (kitti / "mine.yaml").write_text("seed: 5\nflip: 0.1\ntrain_scales: ['1.0']\nmax_steps: 3\nloss: ohem\n")
    run(monkeypatch, kitti, "--recipe", f"{kitti}/mine.yaml", "--num_augmented", "1")
    text = read(kitti)
    assert "at seed 5" in text
    assert "with probability 0.1" in text
    assert "<dd>1.0, one of them at random</dd>" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "val"], "error: expected a split of train, test; found `val`; choose one with `--split`."),
        (["--num_samples", "0"], "error: expected `num_samples` of 1..1,000,000,000; found 0; correct it."),
        (["--recipe", "dmeo"], "did you mean `demo`"),
        (["--output", "splits.yaml"], "error: splits.yaml: expected a folder to write to; found a file;"),
    ],
)
def test_main__bad_options_end_in_one_line(kitti, monkeypatch, capsys, words, message):
    monkeypatch.chdir(kitti)
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, kitti, *words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (kitti / "out").exists()


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL / "camvid").is_dir(), reason="CamVid's frames are not here")
def test_main__camvid(tmp_path, monkeypatch):
    words = ["--data_dir", str(REAL / "camvid"), "--label_space", "camvid", "--split", "validation"]
    monkeypatch.setattr(
        sys, "argv", ["browse_data.py", *words, "--num_samples", "4", "--output", str(tmp_path / "out")]
    )
    main()
    text = read(tmp_path)
    assert "101 images of validation" in text
    assert '<th scope="row">360x480</th><td>101</td>' in text
