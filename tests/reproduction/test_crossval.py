"""Cross-validation as one command: folds, runs, the pooled score, a comparison; and soups of its runs."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from rendered_kitti import write_kitti
from safetensors.torch import load_file
from started_runs import TINY, metrics_of, read_failure, reproduce_here

from hf_urbanseg.commands import crossval, soup
from hf_urbanseg.metrics.bootstrap import paired_bootstrap
from hf_urbanseg.metrics.mean_iou import compute_scores
from hf_urbanseg.runs.folder import RunFolder

OPTIONS = {"eval_strategy": "no", "load_best_model_at_end": False, "validation_fraction": 0.0, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def kitti(tmp_path_factory):
    return write_kitti(tmp_path_factory.mktemp("data") / "kitti", range(6), (64, 160), vary=False)


def write_recipes(folder, **recipes):
    for name, options in recipes.items():
        content = {"base": "ladder/4_class_balanced", "export_ema": True} | OPTIONS | options
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return [folder / f"{name}.yaml" for name in recipes]


def run(monkeypatch, data, output, recipes, *words, seeds=(0, 1)):
    argv = ["--recipe", *recipes, "--data_dir", data, "--output_dir", output, "--folds", 2, "--seeds", *seeds, *words]
    return reproduce_here(monkeypatch, argv, TINY, command=crossval)


@pytest.fixture(scope="module")
def made(kitti, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    recipes = write_recipes(folder, plain={}, slow={"learning_rate": 1e-6})
    output, extra = folder / "crossval", [*TINY]
    del extra[extra.index("--learning_rate") : extra.index("--learning_rate") + 2]
    with pytest.MonkeyPatch.context() as monkeypatch:
        argv = ["--recipe", *recipes, "--data_dir", kitti, "--output_dir", output, "--folds", 2, "--seeds", 0, 1]
        starts = reproduce_here(monkeypatch, [*argv, "--final", "true"], extra, command=crossval)
        assert starts.names == [
            *(f"{name}_fold{fold}_seed{seed}" for name in ("plain", "slow") for fold in (0, 1) for seed in (0, 1)),
            "slow_final_seed0",
        ]
        again = reproduce_here(monkeypatch, [*argv, "--final", "true"], extra, command=crossval)
        assert again.names == []
    return output


def test_crossval__every_frame_is_measured_once_by_a_model_that_did_not_see_it(made):
    folds = yaml.safe_load((made / "folds.yaml").read_text())["folds"]
    names = [f"{number:06d}_10" for number in range(6)]
    assert sorted(name for fold in folds for name in fold) == names
    for fold, held_out in enumerate(folds):
        splits = RunFolder(made / f"plain_fold{fold}_seed0").read_splits()
        assert splits == {"train": sorted(set(names) - set(held_out)), "test": held_out}
        assert metrics_of(made, f"plain_fold{fold}_seed0")["selection"] == {
            "exported_step": 2, "by": "last step", "averaged": True,
        }  # fmt: skip
    assert RunFolder(made / "slow_final_seed0").read_splits() == {"train": names}
    assert metrics_of(made, "slow_final_seed0")["splits"] == {}


def test_crossval__report_is_what_the_runs_measured(made):
    content = json.loads((made / "crossval.json").read_text(), parse_constant=pytest.fail)
    pooled = {}
    for entry, name in zip(content["recipes"], ("plain", "slow"), strict=True):
        for seed in (0, 1):
            runs = [metrics_of(made, f"{name}_fold{fold}_seed{seed}")["splits"]["test"] for fold in (0, 1)]
            matrix = sum(np.array(one["confusion_matrix"]) for one in runs)
            pooled[name, seed] = compute_scores(matrix)["mean_iou"]
            assert entry["mean_iou"]["values"][str(seed)] == pytest.approx(pooled[name, seed], abs=1e-12)
        assert entry["mean_iou"]["mean"] == pytest.approx(np.mean([pooled[name, 0], pooled[name, 1]]), abs=1e-12)
        assert np.sum(entry["confusion_matrix"]) == 2 * np.sum(matrix)
        assert entry["interval"]["low"] <= entry["mean_iou"]["mean"] <= entry["interval"]["high"]
    change = content["recipes"][1]["change"]
    difference = np.mean([pooled["slow", seed] - pooled["plain", seed] for seed in (0, 1)])
    assert change["difference"] == pytest.approx(difference, abs=1e-12)
    counts = {
        name: [
            type(parts[0]).concatenate(parts)
            for parts in (
                [RunFolder(made / f"{name}_fold{fold}_seed{seed}").read_counts("test")[0] for fold in (0, 1)]
                for seed in (0, 1)
            )
        ]
        for name in ("plain", "slow")
    }
    assert change["p_value"] == paired_bootstrap(counts["plain"], counts["slow"]).p_value
    text = (made / "crossval.md").read_text()
    assert text.startswith("# Cross-validation on kitti: 2 folds\n")
    assert "measured once a seed" in text
    assert (made / "crossval.png").stat().st_size > 1000


def test_crossval__other_folds_than_before_are_refused(made, kitti, monkeypatch, capsys, tmp_path):
    copied = shutil.copytree(made, tmp_path / "crossval")
    (recipe,) = write_recipes(tmp_path, plain={})
    argv = ["--recipe", recipe, "--data_dir", kitti, "--output_dir", copied, "--folds", 3]
    error, _ = read_failure(capsys, lambda: reproduce_here(monkeypatch, argv, command=crossval))
    assert "folds.yaml: expected 3 folds of the 6 frames here; found 2 folds of 6 frames" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--folds", 7), "expected at least 7 scenes for 7 folds; found 6 frames in 6 scenes"),
        (("--fold", 1), "expected no `fold` for several; found 1"),
        (("--recipe", "demo", "other/demo.yaml"), "expected a recipe"),
    ],
)
def test_crossval__refuses_before_anything_is_trained(kitti, monkeypatch, capsys, tmp_path, words, message):
    (recipe,) = write_recipes(tmp_path, plain={})
    error, _ = read_failure(capsys, lambda: run(monkeypatch, kitti, tmp_path / "out", [recipe], *words))
    assert message in error or "other/demo.yaml" in error
    assert not list((tmp_path / "out").glob("*_seed*"))


def test_soup__mean_of_weights_and_statistics_of_its_own(made, tmp_path, capsys):
    runs = [made / f"plain_fold0_seed{seed}" for seed in (0, 1)]
    for run_folder in runs:
        assert load_file(run_folder / "model.safetensors")
    output = tmp_path / "soup"
    soup.main([*map(str, runs), "--output", str(output), "--calibration_batches", "3", "--batch_size", "2"])
    assert "the mean of 2 runs" in capsys.readouterr().out
    found, one, two = (load_file(folder / "model.safetensors") for folder in (output, *runs))
    statistics = [name for name in found if "running" in name or "num_batches" in name]
    assert len(statistics) == 3
    for name in found.keys() - set(statistics):
        torch.testing.assert_close(found[name], (one[name].double() + two[name].double()).div(2).float())
    assert found["decode_head.batch_norm.num_batches_tracked"] == 3
    assert not torch.equal(found["decode_head.batch_norm.running_var"], one["decode_head.batch_norm.running_var"])
    assert RunFolder(output).read_splits() == RunFolder(runs[0]).read_splits()
    other = tmp_path / "other"
    soup.main([str(runs[0]), str(made / "plain_fold1_seed0"), "--output", str(other), "--calibration_batches", "1"])
    assert RunFolder(other).read_splits() is None  # of two folds nothing is held out


def test_soup__refuses_what_is_unlike(made, tmp_path, capsys):
    first, second = made / "plain_fold0_seed0", shutil.copytree(made / "plain_fold0_seed1", tmp_path / "other")
    config = json.loads((second / "config.json").read_text())
    config["id2label"]["0"], config["id2label"]["1"] = config["id2label"]["1"], config["id2label"]["0"]
    (second / "config.json").write_text(json.dumps(config))
    for words, message in (
        ([first, second], f"{second}: expected the 19 classes of {first}, in their order"),
        ([first, first], "expected two or more different runs"),
    ):
        output = tmp_path / "soup"
        error, _ = read_failure(capsys, lambda: soup.main([*map(str, words), "--output", str(output)]))  # noqa: B023
        assert message in error
        assert not output.exists()
