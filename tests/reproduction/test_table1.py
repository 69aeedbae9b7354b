"""Table 1 as one command: rows, sizes, continuation, and what it says before it starts."""

import json
import shutil
from functools import partial

import pytest
import yaml
from PIL import Image
from rendered_kitti import write_kitti
from started_runs import TINY, Starts, metrics_of, read_failure, reproduce_here

from hf_urbanseg.commands import reproduce
from hf_urbanseg.models.complexity import count_macs, count_parameters
from hf_urbanseg.models.loading import load_config
from hf_urbanseg.reports.systems import ROWS
from hf_urbanseg.reproduction import checks, table1
from hf_urbanseg.reproduction.plan import find_state
from hf_urbanseg.reproduction.table1 import plan_table, write_table_report

ROWS_RUN = ("unet", "segformer_b0_cityscapes")


@pytest.fixture(scope="module")
def kitti(tmp_path_factory):
    return write_kitti(tmp_path_factory.mktemp("data") / "kitti", range(8), (64, 160), vary=False)


def run(monkeypatch, data, output, *words, extra=TINY, starts=None, rows=ROWS_RUN) -> Starts:
    monkeypatch.setattr(table1, "measure_latency", partial(table1.measure_latency, repeats=3, warmup=1))
    chosen = ["--rows", *rows] if rows else []
    argv = ["table", "--data_dir", data, "--output_dir", output, *chosen, *words]
    return reproduce_here(monkeypatch, argv, extra, starts)


@pytest.fixture(scope="module")
def table(kitti, tmp_path_factory):
    """Two rows, really trained and timed."""
    output = tmp_path_factory.mktemp("runs") / "table"
    with pytest.MonkeyPatch.context() as monkeypatch:
        starts = run(monkeypatch, kitti, output)
    assert starts.names == ["unet_seed0", "segformer_b0_cityscapes_seed0"]
    return output


def read_rows(output) -> dict[str, dict]:
    content = json.loads((output / "table.json").read_text(), parse_constant=pytest.fail)
    return {entry["row"]: entry for entry in content["rows"]}


def test_reproduce_table__holds_what_the_runs_measured(table):
    rows = read_rows(table)
    assert list(rows) == list(ROWS)
    for row, entry in rows.items():
        if row not in ROWS_RUN:
            assert entry["status"] == "not run"
            assert entry["mean_iou"] is entry["gmac"] is entry["latency_ms"] is None
            continue
        folder = table / f"{row}_seed0"
        config = load_config(folder)
        assert entry["mean_iou"]["values"] == {"0": metrics_of(table, folder.name)["splits"]["test"]["mean_iou"]}
        assert entry["gmac"] == count_macs(config) / 1e9
        assert entry["parameters"] == count_parameters(config)["total"]
        assert entry["latency_ms"] > 0
    assert [load_config(table / f"{row}_seed0").model_type for row in ROWS_RUN] == ["urbanseg_unet", "segformer"]
    text = (table / "table.md").read_text()
    assert text.startswith("# The report's Table 1 on kitti, test mIoU\n")
    assert text.count("not run") == 16
    assert "| UNet (ours: tiny) | none | 0 |" in text
    assert "| SegFormer-B0 (ours: tiny, random weights) | Cityscapes | 0 |" in text
    assert "*The report's* numbers (arXiv:2206.12571)" in text
    assert "- Latency: median of one image at 375x1242" in text
    assert "these rows are the same: pspnet_resnet18, pspnet_resnet50, pspnet_resnet101." in text
    with Image.open(table / "table.png") as picture:
        assert picture.width > 1200


def test_reproduce_table__each_run_has_its_recipe_and_the_size_behind_the_dashes(table):
    unet, segformer = (yaml.safe_load((table / f"{row}_seed0" / "recipe.yaml").read_text()) for row in ROWS_RUN)
    assert (unet["architecture"], unet["loss"], unet["optim"]) == ("unet", "cross_entropy", "sgd")
    assert (segformer["architecture"], segformer["loss"], segformer["weight_decay"]) == ("segformer", "ohem", 0.01)
    assert {(recipe["size"], recipe["init"], recipe["seed"]) for recipe in (unet, segformer)} == {("tiny", "random", 0)}


def test_reproduce_table__finished_runs_stay_and_latency_can_be_left_out(table, kitti, tmp_path, monkeypatch, capsys):
    output = tmp_path / "table"
    shutil.copytree(table, output)
    recipe = output / "unet_seed0" / "recipe.yaml"
    before = (recipe.stat().st_mtime_ns, read_rows(output))
    starts = run(monkeypatch, kitti, output, "--latency", "false", rows=("unet",))
    assert starts.words == []
    assert "1 runs, 1 of them finished" in capsys.readouterr().out
    rows = read_rows(output)
    assert recipe.stat().st_mtime_ns == before[0]
    assert [row for row, entry in rows.items() if entry["mean_iou"]] == list(ROWS_RUN)  # one was not asked for now
    assert all(entry["mean_iou"] == before[1][row]["mean_iou"] for row, entry in rows.items())
    assert [rows[row]["latency_ms"] for row in ROWS_RUN] == [None, None]
    assert (output / "table.md").read_text().count("not measured") == 2


def test_reproduce_table__resumes_what_was_stopped(table, kitti, tmp_path, monkeypatch):
    output = tmp_path / "table"
    shutil.copytree(table, output)
    for name in ("metrics.json", "model.safetensors"):
        (output / "segformer_b0_cityscapes_seed0" / name).unlink()
    starts = run(monkeypatch, kitti, output, "--latency", "false")
    assert starts.names == ["segformer_b0_cityscapes_seed0"]
    assert starts.words[0][-1] == "--resume"
    values = [read_rows(folder)["segformer_b0_cityscapes"]["mean_iou"] for folder in (output, table)]
    assert values[0] == values[1]


def finish(plan, scores, seconds, config):
    """Leaves what finished runs leave, as far as the table reads it."""
    for key, score in scores.items():
        folder = plan[key].folder
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(plan[key].recipe))
        (folder / "splits.yaml").write_text("train: [a]\nvalidation: [b]\ntest: [c]\n")
        metrics = {
            "splits": {"test": {"mean_iou": score, "iou": {"road": score}, "num_images": 50}},
            "selection": {"by": "validation mean_iou"}, "data": {"name": "kitti"},
            "training": {"processes": 1, "seconds": seconds}, "environment": {"device": "a GPU"},
        }  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(metrics))
        shutil.copy(config, folder / "config.json")


def test_write_table_report__made_up_results(table, kitti, tmp_path):
    plan = plan_table(ROWS, [0, 1, 2], tmp_path, ["--data_dir", str(kitti)])
    scores = {("pspnet_resnet18", seed): 0.58 + seed / 50 for seed in (0, 1, 2)} | {("unet", 1): 0.4}
    finish(plan, scores, 3600, table / "segformer_b0_cityscapes_seed0" / "config.json")
    said = write_table_report(tmp_path, plan, [0, 1, 2], []).splitlines()
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert (
        "| PSPNet R18 | ImageNet encoder | 0, 1, 2 | 60.00 ± 2.00 | *59.33* | 3.9249 | *97.213* | 0.69 | not measured "
        "| 1:00:00 |"
    ) in lines
    assert (
        "| UNet | none | 1 (others not run) | 40.00 | *45.55* | 3.9249 | *356* | 0.69 | not measured | 1:00:00 |"
    ) in lines
    assert "| PSPNet R101 | ImageNet encoder |  | not run | *63.70* |  | *459* |  |  |  |" in lines
    assert "  pspnet_resnet18          60.00 ± 2.00      59.33" in said
    assert "  pspnet_resnet50          not run           -" in said
    assert not any("these rows are the same" in line for line in lines)
    assert read_rows(tmp_path)["pspnet_resnet18"]["seconds"] == {"mean": 3600, "total": 10800}


def test_plan_table__rows_that_dont_take_the_words_are_left_out_unless_asked_for(tmp_path):
    plan = plan_table(["pspnet_resnet18"], [0], tmp_path, ["--size", "resnet50"])
    assert [row for row, _ in plan] == [row for row in ROWS if row.startswith(("deeplab", "pspnet", "cwd_pspnet"))]
    assert {run.model.model_name_or_path for run in plan.values()} == {"microsoft/resnet-50"}
    assert len(plan_table(ROWS, [0, 1], tmp_path, [])) == 2 * len(ROWS)


def test_plan_table__a_row_is_taught_by_another_of_its_seed(tmp_path):
    plan = plan_table(["pspnet_resnet101", "cwd_pspnet_resnet18"], [0, 3], tmp_path, [])
    for seed in (0, 3):
        assert plan["cwd_pspnet_resnet18", seed].recipe["teacher"] == str(plan["pspnet_resnet101", seed].folder)


def test_find_state__a_moved_table_is_still_finished(table, kitti, tmp_path):
    plan = plan_table(ROWS, [0], tmp_path / "one", ["--data_dir", str(kitti)])
    finish(plan, {("cwd_pspnet_resnet18", 0): 0.5}, 3600, table / "segformer_b0_cityscapes_seed0" / "config.json")
    (tmp_path / "one").rename(tmp_path / "two")
    plan = plan_table(["cwd_pspnet_resnet18", "pspnet_resnet101"], [0], tmp_path / "two", ["--data_dir", str(kitti)])
    assert find_state(plan["cwd_pspnet_resnet18", 0]) == "finished"


def test_plan_table__own_model_of_one_row(tmp_path):
    plan = plan_table(ROWS, [0], tmp_path, [], "runs/swin_on_cityscapes")
    models = {row: run.model.model_name_or_path for (row, _), run in plan.items()}
    assert models["swin_cityscapes"] == "runs/swin_on_cityscapes"
    assert models["swin_imagenet"] == "microsoft/swin-tiny-patch4-window7-224"


@pytest.mark.parametrize(("words", "left_out"), [([], ["swin_cityscapes"]), (["--swin_cityscapes", "model"], [])])
def test_reproduce_table__rows_by_default(words, left_out):
    args, _, _ = reproduce._parse(["table", *words])
    assert args.rows == [row for row in ROWS if row not in left_out]
    assert reproduce._parse(["table", "--rows", "unet", "baseline_180", "unet"])[0].rows == ["baseline_180", "unet"]


def test_reproduce_table__everything_missing_is_named_before_the_first_run(tmp_path, monkeypatch, capsys):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(checks, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(checks, "hf_hub_download", no_network)
    output, starts = tmp_path / "out", Starts()
    call = partial(run, monkeypatch, tmp_path / "nothing", output, extra=[], starts=starts)
    error, problems = read_failure(capsys, partial(call, rows=("swin_cityscapes", "pspnet_resnet101", "unet")))
    assert "everything that 3 runs need; found the 3 problems above" in error
    assert str(tmp_path / "nothing") in problems[0]
    assert "expected a model that the row `swin_cityscapes` starts from; found none; name" in problems[1]
    assert "run `hf download microsoft/resnet-101`" in problems[2]
    _, problems = read_failure(capsys, partial(call, rows=()))
    downloads = [problem.split("run `hf download ")[1].split("`")[0] for problem in problems[1:]]
    assert downloads == [
        *(f"microsoft/resnet-{depth}" for depth in (18, 50, 101)),
        "microsoft/swin-tiny-patch4-window7-224",
        *(f"nvidia/mit-{size}" for size in ("b0", "b2", "b5")),
        "nvidia/segformer-b0-finetuned-cityscapes-768-768",
        *(f"nvidia/segformer-{size}-finetuned-cityscapes-1024-1024" for size in ("b2", "b5")),
    ]
    assert starts.words == []
    assert not output.exists()


def test_reproduce_table__a_size_that_a_row_lacks(kitti, tmp_path, monkeypatch, capsys):
    extra = ["--init", "random", "--size", "b0"]
    error, _ = read_failure(capsys, lambda: run(monkeypatch, kitti, tmp_path / "out", extra=extra, starts=Starts()))
    assert "expected a size of tiny, s5-d16; found `b0`" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "unet", "unnet"], "'unnet' (choose from "),
        (
            ["--rows", "cwd_pspnet_resnet18"],
            "pspnet_resnet101_seed0: expected the row pspnet_resnet101, which teaches cwd_pspnet_resnet18; found",
        ),
        (["--seeds", "-1"], "`seeds` of 0..4,294,967,295; found [-1]"),
        (["--rungs", "1"], "--rungs"),
        (["--size", "b0"], "--size"),
        (["--", "--seed", "3"], "`--seed`, which every run has its own of"),
        (["--", "--bogus", "3"], "--bogus"),
        (["--rows", "pspnet_resnet18", "--", "--size", "b0"], "expected a size of tiny, resnet18, resnet50, resnet101"),
    ],
)
def test_reproduce_table__bad_words_are_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    error, problems = read_failure(capsys, lambda: reproduce.main(["table", *words]))
    assert said in error
    assert problems == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "other"), [(["table"], "--rungs"), (["ladder"], "--rows"), ([], "--rows")])
def test_reproduce__help_shows_the_options_of_what_is_asked_for(capsys, words, other):
    with pytest.raises(SystemExit) as stop:
        reproduce.main([*words, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    own = {"--rows": "--rungs 1 2 3", "--rungs": "--swin_cityscapes"}[other]
    assert own in text
    assert f"  {other}" not in text
    assert all(row in text for row in ROWS) == (words == ["table"])
    assert max(map(len, text.splitlines())) <= 121
