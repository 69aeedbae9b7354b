"""`hf_urbanseg.finetune`: the same run from Python as from the shell."""

import subprocess
import sys

import pytest
import torch
from PIL import Image
from rendered_kitti import write_kitti
from safetensors.torch import load_file

import hf_urbanseg
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.options.finetune_arguments import parse_finetuning

KINDS = ("image_2", "semantic")


@pytest.fixture
def options(words):
    """The options of the tests' runs as Python has them."""
    given, name = {}, None
    for word in words():
        if word.startswith("--"):
            name, given[word[2:]] = word[2:], []
        else:
            given[name].append(word)
    return {name: values if len(values) > 1 else values[0] for name, values in given.items()}


def test_finetune__the_call_does_what_the_script_does(run, kitti, options, tmp_path):
    found = hf_urbanseg.finetune(data_dir=kitti, output_dir=tmp_path / "run", **options)
    assert found.path == tmp_path / "run"
    weights, expected = (load_file(folder / "model.safetensors") for folder in (found.path, run))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    metrics = hf_urbanseg.RunFolder(run).read_metrics()
    assert found.read_metrics()["splits"] == metrics["splits"]
    assert {path.name for path in found.path.iterdir()} == {path.name for path in run.iterdir()}
    recipe = found.read_recipe()
    assert recipe.pop("output_dir") == str(found.path)
    assert recipe == {key: value for key, value in hf_urbanseg.RunFolder(run).read_recipe().items() if key in recipe}
    with pytest.raises(ConfigError, match="an `output_dir` without a run"):
        hf_urbanseg.finetune(data_dir=kitti, output_dir=found.path, **options)


def test_finetune__a_script_that_its_own_workers_run_again(tmp_path):
    """Where they are spawned, as on Windows and macOS, each would train, too, or find the folder in use."""
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\nimport hf_urbanseg\n"
        "if __name__ != '__main__':\n    hf_urbanseg.finetune(data_dir='missing', dataloader_num_workers=2)\n"
        "else:\n    worker = multiprocessing.get_context('spawn').Process(target=print)\n"
        "    worker.start()\n    worker.join()\n"
    )
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    line = found.stderr.splitlines()[-1]
    assert "expected a script that trains once; found it run again by the workers that it has spawned; put the" in line


def test_finetune__pictures_of_any_size_and_mode_in_one_set(options, tmp_path):
    """From a thumbnail to a photograph, one of them taken upright, one grey, one half transparent, one of a scanner."""
    folders = [write_kitti(tmp_path / "kitti", range(8), (40, 60), vary=False) / "training" / kind for kind in KINDS]
    sizes = {0: (6, 4), 1: (800, 600), 2: (300, 9)}
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(8):
        for path in (folder / f"{number:06d}_10.png" for folder in folders):
            picture = Image.open(path)
            picture = picture.resize(sizes.get(number, picture.size), Image.Resampling.NEAREST)
            if number == 3:
                picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
            else:
                picture.save(path)
    for number, mode, suffix in ((4, "L", "png"), (5, "RGBA", "png"), (6, "CMYK", "jpg")):
        path = folders[0] / f"{number:06d}_10.png"
        picture = Image.open(path).convert(mode)
        if mode == "RGBA":
            picture.putalpha(128)
        path.unlink()
        picture.save(path.with_suffix(f".{suffix}"))
    options |= {"max_steps": 2, "num_overlays": 0}
    run = hf_urbanseg.finetune(data_dir=tmp_path / "kitti", output_dir=tmp_path / "run", **options)
    predictor = hf_urbanseg.Predictor.from_pretrained(run.path)
    images = sorted(folders[0].iterdir())
    found = [one.shape for one in predictor.predict(images)]
    assert found == [sizes.get(number, (60, 40))[::-1] for number in range(8)]


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"data_dir": "nowhere"}, DataError, "nowhere: expected a folder or .zip archive"),
        ({"data_dr": "x"}, ConfigError, "found `data_dr`; did you mean `data_dir`"),
        ({"recipe": "segformer_b9_kitti"}, ConfigError, "`segformer_b9_kitti`"),
        ({"size": "b3"}, ConfigError, "expected a size of b0, b2, b5 for this recipe; found `b3`"),
        ({"max_steps": "many"}, ConfigError, "invalid int value: 'many'"),
    ],
)
def test_finetune__raises_instead_of_exiting(tmp_path, monkeypatch, wrong, error, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        hf_urbanseg.finetune(**{"recipe": "segformer_b0_kitti", "output_dir": "runs/x"} | wrong)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_parse_finetuning__data_of_ones_own_take_the_place_of_the_recipes(tmp_path):
    for given in (["--data_dir", "mine"], ["--data_dir=mine"]):
        data = parse_finetuning(given).data
        assert (data.data_dir, data.dataset) == ("mine", None)
    assert parse_finetuning(options={"data_dir": "mine"}).data.dataset is None
    assert parse_finetuning().data.dataset == "synthetic"
    (tmp_path / "mine.yaml").write_text("base: demo\ndataset: null\ndata_dir: x\n")
    data = parse_finetuning(["--recipe", str(tmp_path / "mine.yaml"), "--dataset", "user/set"]).data
    assert (data.data_dir, data.dataset) == (None, "user/set")


def test_parse_finetuning__data_without_a_recipe_start_from_tiny_streets():
    """Another model has the rates that suit it; without data it is the demo."""
    for argv, model, rate, steps in (
        (["--data_dir", "mine"], "tiny-streets", 1e-3, 500),
        (["--dataset=user/set", "--max_steps", "7"], "tiny-streets", 1e-3, 7),
        (["--data_dir", "mine", "--size", "b2"], "nvidia/segformer-b2-finetuned-cityscapes-1024-1024", 1e-5, 20_000),
        (["--data_dir", "mine", "--model_name_or_path", "me/mine"], "me/mine", 1e-5, 10_000),
        (["--dataset", "synthetic"], "tiny-streets", 1e-3, 250),
        ([], "tiny-streets", 1e-3, 250),
    ):
        arguments = parse_finetuning(argv)
        args = arguments.training
        assert (arguments.model.model_name_or_path, args.learning_rate, args.max_steps) == (model, rate, steps)
        assert arguments.run.random_baseline == (steps == 250)
        sizes = arguments.augmentation.crop_size, arguments.augmentation.train_scales, arguments.model.eval_size
        assert (sizes == (None, None, None)) == (steps != 250)


@pytest.mark.parametrize(("size", "crop"), [((40, 60), "64x96"), ((300, 130), "288x128")])
def test_finetune__data_without_a_recipe(size, crop, tmp_path, caplog):
    """Pictures of any size train; what was taken is said, and the folder's record repeats it."""
    frames = write_kitti(tmp_path / "frames", range(6), size, vary=False)
    found = hf_urbanseg.finetune(
        data_dir=frames, output_dir=tmp_path / "run", max_steps=2, warmup_steps=0, eval_steps=2, save_steps=2,
        per_device_train_batch_size=2, dataloader_num_workers=0, num_overlays=0,
    )  # fmt: skip
    assert f"so this is `own_data`: 2 steps from tiny-streets at learning rate 0.001, crops of {crop} at" in caplog.text
    assert "`--size b0` starts from SegFormer-B0 on the Hub" in caplog.text
    assert "for pictures like these say" not in caplog.text
    assert found.read_recipe()["crop_size"] is None
    assert "| augmentation | scales by the pictures' size" in (found.path / "README.md").read_text()


def test_finetune__shows_the_resolved_recipe(capsys, tmp_path, monkeypatch):
    from hf_urbanseg.commands import finetune, recipes

    monkeypatch.chdir(tmp_path)
    finetune.main(["--recipe", "segformer_b2_kitti", "--show", "--max_steps", "7"])
    shown = capsys.readouterr().out
    assert "auxiliary_head: true\n" in shown
    assert "max_steps: 7\n" in shown
    assert "head_lr_multiplier: 10.0\n" in shown  # a default, too
    assert not list(tmp_path.iterdir())
    recipes.main(["ladder/3_schedule", "--size", "b5", "--show"])
    assert "warmup_steps: 5000\n" in capsys.readouterr().out
    recipes.main([])
    listed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in listed][:3] == ["demo", "own_data", "pretrain_camvid_tiny"]
    assert any(line.startswith("ladder/5_ohem ") and "rung 5 of 7: online hard example" in line for line in listed)
