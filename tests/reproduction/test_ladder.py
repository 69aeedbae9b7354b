"""The ladder as one command: runs, interruption, continuation, and what it says before it starts."""

import json
import shutil
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rendered_kitti import write_kitti
from safetensors.torch import load_file
from started_runs import TINY, Starts, metrics_of, read_failure, reproduce_here

from hf_urbanseg.commands import reproduce
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.locks import locked
from hf_urbanseg.reproduction import checks, processes
from hf_urbanseg.reproduction.ladder import describe_equal_rungs, plan_ladder, write_ladder_report
from hf_urbanseg.reproduction.results import Finished, describe_measurement, describe_options
from hf_urbanseg.training.trainer import UrbanSegTrainer


@pytest.fixture(scope="module")
def kitti(tmp_path_factory):
    return write_kitti(tmp_path_factory.mktemp("data") / "kitti", range(8), (64, 160), vary=False)


def run(monkeypatch, data, output, *words, extra=TINY, starts=None, rungs=(4, 5), seeds=(0, 1)) -> Starts:
    argv = ["ladder", "--data_dir", data, "--output_dir", output, "--rungs", *rungs, "--seeds", *seeds, *words]
    return reproduce_here(monkeypatch, argv, extra, starts)


def fails(monkeypatch, capsys, *arguments, status=2, **options) -> tuple[str, list[str]]:
    """The last error line and the problems listed before it."""
    return read_failure(capsys, lambda: run(monkeypatch, *arguments, **options), status)


@pytest.fixture(scope="module")
def ladder(kitti, tmp_path_factory):
    """Two rungs with two seeds, and what was said."""
    output = tmp_path_factory.mktemp("runs") / "ladder"
    with pytest.MonkeyPatch.context() as monkeypatch:
        starts = run(monkeypatch, kitti, output)
    assert starts.names == [
        "4_class_balanced_seed0", "4_class_balanced_seed1", "5_ohem_seed0", "5_ohem_seed1",
    ]  # fmt: skip
    return output


def test_write_ladder_report__random_in_the_title_only_where_every_rung_is(tmp_path):
    for words, model in ((), "SegFormer-tiny"), (("--init", "random"), "SegFormer-tiny, random at the start,"):
        plan = plan_ladder("tiny", [0], tmp_path, ["--data_dir", "kitti", *words])
        write_ladder_report(tmp_path, plan, [0], words)
        assert json.loads((tmp_path / "ladder.json").read_text())["model"] == model


def test_reproduce__table_holds_what_the_runs_measured(ladder):
    content = json.loads((ladder / "ladder.json").read_text(), parse_constant=pytest.fail)
    assert content["split"] == "test"
    for rung in content["rungs"]:
        if rung["number"] not in (4, 5):
            assert rung["status"] == "not run"
            assert [rung[key] for key in ("mean_iou", "iou", "seconds", "change")] == [None] * 4
            continue
        runs = [metrics_of(ladder, f"{rung['number']}_{rung['name']}_seed{seed}") for seed in (0, 1)]
        values = [content["splits"]["test"]["mean_iou"] for content in runs]
        assert rung["mean_iou"]["mean"] == pytest.approx(np.mean(values), abs=1e-12)
        assert rung["mean_iou"]["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        assert rung["mean_iou"]["values"] == {"0": values[0], "1": values[1]}
        seconds = [content["training"]["seconds"] for content in runs]
        assert rung["seconds"]["total"] >= sum(seconds)
    assert [rung["report_mean_iou"] for rung in content["rungs"]] == [
        0.6141, 0.6831, 0.7234, 0.7467, 0.7598, 0.7812, 0.7845,
    ]  # fmt: skip
    text = (ladder / "ladder.md").read_text()
    assert text.startswith("# The ladder of tricks: SegFormer-tiny, random at the start, on kitti, test mIoU\n")
    assert text.count("not run") == 5
    assert "--init random" in text
    assert "With these options rung 2 is the same as rung 1" in text
    assert "SegFormer-B2's" in text
    assert np.asarray(Image.open(ladder / "ladder.png").convert("L")).std() > 5
    assert all((ladder / "logs" / f"5_ohem_seed{seed}.log").stat().st_size for seed in (0, 1))


def test_reproduce__each_run_has_its_rung_and_seed(ladder):
    recipes = {
        name: yaml.safe_load((ladder / name / "recipe.yaml").read_text())
        for name in ("4_class_balanced_seed0", "5_ohem_seed0", "5_ohem_seed1")
    }
    assert [recipe["loss"] for recipe in recipes.values()] == ["cross_entropy", "ohem", "ohem"]
    assert [recipe["seed"] for recipe in recipes.values()] == [0, 0, 1]
    weights = [load_file(ladder / name / "model.safetensors")["decode_head.classifier.weight"] for name in recipes]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_reproduce__finished_runs_stay(ladder, kitti, monkeypatch, capsys):
    before = (ladder / "ladder.json").read_text()
    starts = run(monkeypatch, kitti, ladder)
    assert starts.words == []
    assert "4 runs, 4 of them finished" in capsys.readouterr().out
    assert (ladder / "ladder.json").read_text() == before


def test_reproduce__table_keeps_rungs_that_are_not_asked_for_now(ladder, kitti, monkeypatch):
    run(monkeypatch, kitti, ladder, rungs=(4,))
    rungs = json.loads((ladder / "ladder.json").read_text())["rungs"]
    assert [rung["number"] for rung in rungs if rung["status"] == "run"] == [4, 5]


def test_reproduce__a_run_whose_numbers_are_not_trainings_is_left_out(ladder, kitti, tmp_path, monkeypatch):
    output = tmp_path / "ladder"
    shutil.copytree(ladder, output)
    metrics = metrics_of(output, "5_ohem_seed0")
    (output / "5_ohem_seed0" / "metrics.json").write_text(json.dumps({"splits": metrics["splits"]}))
    run(monkeypatch, kitti, output, rungs=(4,))
    rungs = json.loads((output / "ladder.json").read_text())["rungs"]
    assert rungs[4]["mean_iou"]["values"].keys() == {"1"}
    left_out = "5_ohem_seed0/metrics.json: expected the metrics of a training run; found no selection, training"
    assert left_out in (output / "ladder.md").read_text()


def test_reproduce__continues_where_it_was_interrupted(ladder, kitti, tmp_path, monkeypatch):
    output = tmp_path / "ladder"
    save = UrbanSegTrainer._save_checkpoint

    class Interrupted(Starts):
        def __call__(self, launcher, words, log, what):
            if len(self.words) == 1:

                def stop(trainer, *arguments):
                    save(trainer, *arguments)
                    raise KeyboardInterrupt

                monkeypatch.setattr(UrbanSegTrainer, "_save_checkpoint", stop)
            if super().__call__(launcher, words, log, what) == 130:
                raise KeyboardInterrupt  # Ctrl-C reaches both processes
            return 0

    starts = Interrupted()
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, kitti, output, starts=starts, seeds=(0,))
    assert stop.value.code == 130
    assert starts.names == ["4_class_balanced_seed0", "5_ohem_seed0"]
    rungs = json.loads((output / "ladder.json").read_text())["rungs"]
    assert [rung["status"] for rung in rungs if rung["number"] in (4, 5)] == ["run", "not run"]

    monkeypatch.setattr(UrbanSegTrainer, "_save_checkpoint", save)
    starts = run(monkeypatch, kitti, output, seeds=(0,))
    assert starts.names == ["5_ohem_seed0"]
    assert starts.words[0][-1] == "--resume"
    for name in ("4_class_balanced_seed0", "5_ohem_seed0"):  # as if nothing had happened
        assert metrics_of(output, name)["splits"] == metrics_of(ladder, name)["splits"]
    seconds = json.loads((output / "logs" / "seconds.json").read_text())
    assert {name: len(starts) for name, starts in seconds.items()} == {"4_class_balanced_seed0": 1, "5_ohem_seed0": 2}
    rung = json.loads((output / "ladder.json").read_text())["rungs"][4]
    assert rung["seconds"]["total"] >= sum(seconds["5_ohem_seed0"])


def test_reproduce__not_beside_a_run_that_is_left_over(kitti, tmp_path, monkeypatch, capsys):
    starts = Starts()
    with locked(tmp_path / "4_class_balanced_seed0"):
        error, _ = fails(monkeypatch, capsys, kitti, tmp_path, starts=starts, rungs=(4,), seeds=(0,))
        assert f"{tmp_path / '4_class_balanced_seed0'}: expected no other process that writes there; found one" in error
    assert starts.names == []


def test_reproduce__another_recipe_is_refused(ladder, kitti, tmp_path, monkeypatch, capsys):
    before = (ladder / "ladder.md").read_text()
    starts = Starts()
    other = [*TINY, "--max_steps", "3", "--flip", "0"]
    error, _ = fails(monkeypatch, capsys, kitti, ladder, extra=other, starts=starts, rungs=(4,), seeds=(0,))
    assert f"{ladder / '4_class_balanced_seed0'}: expected the finished run of the same recipe" in error
    assert "`flip` 0.5 instead of 0.0, `max_steps` 2 instead of 3" in error
    error, problems = fails(monkeypatch, capsys, kitti, ladder, extra=other, starts=starts)
    assert "the 4 problems above" in error
    assert len(problems) == 4

    unfinished = tmp_path / "ladder" / "4_class_balanced_seed0"
    shutil.copytree(ladder / "4_class_balanced_seed0", unfinished)
    (unfinished / "metrics.json").unlink()
    error, _ = fails(
        monkeypatch, capsys, kitti, tmp_path / "ladder", extra=other, starts=starts, rungs=(4,), seeds=(0,)
    )
    assert "expected the unfinished run of the same recipe" in error
    assert starts.words == []
    assert (ladder / "ladder.md").read_text() == before


def test_reproduce__everything_missing_is_named_before_the_first_run(tmp_path, monkeypatch, capsys):
    def no_network(name, *_, **__):
        raise OSError("no network")

    monkeypatch.setattr(checks, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(checks, "hf_hub_download", no_network)
    starts = Starts()
    output = tmp_path / "out"
    error, problems = fails(
        monkeypatch, capsys, tmp_path / "nothing", output, extra=[], starts=starts, rungs=range(1, 8)
    )
    assert "everything that 14 runs need; found the 3 problems above" in error
    assert str(tmp_path / "nothing") in problems[0]
    assert "run `hf download nvidia/mit-b0`" in problems[1]
    assert "run `hf download nvidia/segformer-b0-finetuned-cityscapes-768-768`" in problems[2]
    assert starts.words == []
    assert not output.exists()


def test_reproduce__weights_in_a_folder_or_the_cache(kitti, ladder, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    plan = plan_ladder("b0", [0], tmp_path, ["--data_dir", str(kitti), "--model_name_or_path", str(folder)])
    (problem,) = checks.find_problems([plan[1, 0], plan[2, 0]])
    assert str(problem).startswith(f"{folder}: expected a model folder with config.json and weights")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(ladder / "5_ohem_seed0" / name, folder)
    assert checks.find_problems([plan[1, 0]]) == []

    cached = {"config.json", "pytorch_model.bin"}
    monkeypatch.setattr(checks, "try_to_load_from_cache", lambda _, f, revision: f"/cache/{f}" if f in cached else None)
    plan = plan_ladder("b0", [0], tmp_path, ["--data_dir", str(kitti)])
    assert checks.find_problems([plan[1, 0]]) == []
    cached.discard("pytorch_model.bin")
    (problem,) = checks.find_problems([plan[1, 0]])  # the tests are offline
    assert "nvidia/mit-b0" in str(problem)


def test_reproduce__a_failing_run_names_its_log(kitti, tmp_path, monkeypatch, capsys):
    starts = Starts()
    output = tmp_path / "out"
    extra = [*TINY, "--class_weights", "missing.json"]  # which finetune looks for only when the data is read
    error, _ = fails(monkeypatch, capsys, kitti, output, extra=extra, starts=starts)
    log = output / "logs" / "4_class_balanced_seed0.log"
    assert error.startswith(f"error: {log}: expected 4_class_balanced_seed0 to finish; found exit status 2 (")
    assert "missing.json" in error
    assert starts.names == ["4_class_balanced_seed0"]
    assert "| 4 class_balanced | class-balanced loss |  | not run |" in (output / "ladder.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ladr"], "`ladder`"),
        ([], "`ladder`"),
        (["ladder", "--rungs", "8"], "`rungs` of 1..7; found [8]"),
        (["ladder", "--seeds", "-1"], "`seeds` of 0..4,294,967,295; found [-1]"),
        (["ladder", "--size", "b1"], "'b1'"),
        (["ladder", "--", "--seed", "3"], "`--seed`, which every run has its own of"),
        (["ladder", "--", "--output-dir=x"], "`--output-dir=x`"),
        (["ladder", "--", "--bogus", "3"], "--bogus"),
        (["ladder", "--bogus", "3"], "--bogus"),
    ],
)
def test_reproduce__bad_words_are_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        reproduce.main(words)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: expected ")
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_reproduce__output_that_is_a_single_run(ladder, kitti, monkeypatch, capsys):
    error, _ = fails(monkeypatch, capsys, kitti, ladder / "5_ohem_seed0")
    assert "expected a folder for a ladder; found a single run" in error


def test_describe_measurement__without_a_test_split(ladder, tmp_path, kitti):
    plan = plan_ladder("b0", [0, 1], ladder, ["--data_dir", str(kitti), *TINY])
    runs = {key: plan[key] for key in ((4, 0), (5, 0))}
    metrics = {key: metrics_of(ladder, run.name) for key, run in runs.items()}
    assert not any(
        "There is no test split" in note for note in describe_measurement(Finished(runs, metrics, "test", {}, []), "")
    )
    metrics[5, 0]["training"]["processes"] = 4
    notes = " ".join(describe_measurement(Finished(runs, metrics, "validation", {}, []), ""))
    assert "There is no test split: these are scores of `validation`, which also selected" in notes
    assert "1 process or 4 processes" in notes
    assert "different batches" in notes


def test_describe_equal_rungs__that_add_nothing(tmp_path):
    assert describe_options([]) == describe_equal_rungs(plan_ladder("b2", [0], tmp_path, [])) == []
    words = ["--class_weights", "none", "--loss", "cross_entropy"]
    assert describe_options(words) == ["Options of every run: `--class_weights none --loss cross_entropy`."]
    assert describe_equal_rungs(plan_ladder("b2", [0], tmp_path, words)) == [
        "With these options rung 4 is the same as rung 3: it adds nothing.",
        "With these options rung 5 is the same as rung 4: it adds nothing.",
    ]


def test_start_finetune__a_real_process(kitti, tmp_path):
    log = tmp_path / "logs" / "run.log"
    assert processes.start_finetune([], ["--recipe", "nothing"], log, "run") == 2
    text = log.read_text()
    assert text.startswith("error: expected a recipe of demo")
    assert processes.describe_end(log) == f" ({text.strip().removeprefix('error: ')})"


def launcher(tmp_path, body: str) -> list[str]:
    path = tmp_path / "launcher.py"
    path.write_text(f"import sys, time\n{body}\n")
    return [sys.executable, str(path)]


def test_start_finetune__keeps_the_log_and_the_exit_status(tmp_path):
    log = tmp_path / "run.log"
    command = launcher(tmp_path, "print('out', *sys.argv[1:], flush=True); sys.exit('err')")
    for _ in range(2):
        assert processes.start_finetune(command, ["--seed", "3"], log, "run") == 1
    assert log.read_text() == "out -m hf_urbanseg finetune --seed 3\nerr\n" * 2
    assert processes.describe_end(log) == " (err)"
    with pytest.raises(ConfigError, match="`--launcher` that starts"):
        processes.start_finetune([str(tmp_path / "no_such_program")], [], log, "run")


def test_start_finetune__ends_its_process_when_terminated(tmp_path):
    log, ended = tmp_path / "run.log", tmp_path / "ended"
    command = launcher(
        tmp_path,
        "import os, signal\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(ended)!r}, 'w').close(), sys.exit(0)))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)",
    )
    start = time.time()
    with pytest.raises(KeyboardInterrupt):
        processes.start_finetune(command, [], log, "run")
    assert ended.exists()
    assert time.time() - start < 50
