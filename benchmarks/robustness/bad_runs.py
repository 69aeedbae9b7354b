"""Bad folders of runs, for compare, publish, evaluate and --resume, and bad inputs of predict."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from robustness.bad_data import cut_short
from robustness.cases import Case, Kind
from robustness.damage import flip_bit

KINDS: dict[str, Kind] = {}

# Runs: compare, publish, evaluate, predict, resume


def _spoil_run(spoil, words) -> Kind:
    def kind(case: Case) -> list:
        run = case.copy("run")
        spoil(run, case)
        return words(case, run)

    return kind


def _compare(case: Case, run: Path) -> list:
    return ["compare", *case.rng.sample([case.base / "run", run], 2), "--output", case.out, "--show_images", "0"]


def _evaluate(case: Case, run: Path) -> list:
    return ["evaluate", run, "--output", case.out]


def _resume(case: Case, run: Path) -> list:
    (run / "metrics.json").unlink()
    return case.finetune(output_dir=run, resume="true", max_steps=4)


def _each_checkpoint(spoil):
    def spoil_run(run: Path, case: Case) -> None:
        for checkpoint in run.glob("checkpoint-*"):
            spoil(checkpoint, case)

    return spoil_run


def _json(name: str, change):
    def spoil(run: Path, case: Case) -> None:
        content = json.loads((run / name).read_text())
        change(content, case.rng)
        (run / name).write_text(json.dumps(content))

    return spoil


def _text(name: str, *texts: str):
    return lambda run, case: (run / name).write_text(case.rng.choice(texts))


def _predict_input(make) -> Kind:
    def kind(case: Case) -> list:
        return case.predict(*make(case))

    return kind


KINDS |= {
    "compare of one run": lambda case: ["compare", case.base / "run", "--output", case.out],
    "compare with no folder": lambda case: ["compare", case.base / "run", case.folder / "none", "--output", case.out],
    "compare, metrics no JSON": _spoil_run(
        _text("metrics.json", "{", "", "[]", '{"splits": 3}', '{"splits": {"test": 1}}'), _compare
    ),
    "compare, counts no JSON": _spoil_run(_text("per_image_test.json", "{", "[]", "{}", '{"names": []}'), _compare),
    "compare, counts missing": _spoil_run(lambda run, case: (run / "per_image_test.json").unlink(), _compare),
    "compare, counts spoilt": _spoil_run(
        _json(
            "per_image_test.json",
            lambda content, rng: content.update(
                {rng.choice(("hits", "labelled")): rng.choice(([], "x", [[-1] * 19] * 2, [[1]], None))}
            ),
        ),
        _compare,
    ),
    "compare, other images": _spoil_run(
        _json("per_image_test.json", lambda content, rng: content.update(names=["a", "b"])), _compare
    ),
    "compare, other classes": _spoil_run(
        _json("per_image_test.json", lambda content, rng: content.update(classes=[f"c{i}" for i in range(19)])),
        _compare,
    ),
    "publish without a name": lambda case: ["publish", case.copy("run")],
    "publish to no name": lambda case: [
        "publish",
        case.copy("run"),
        case.rng.choice(("a/b/c", "x", "a/", "a b/c", "../x", "a/b\n")),
    ],
    "publish of no run": lambda case: ["publish", case.folder / "none", "you/model", "--dry_run"],
    "publish of an empty folder": lambda case: [
        "publish",
        (case.folder / "m").mkdir() or case.folder / "m",
        "you/model",
        "--dry_run",
    ],
    "publish, ledger no JSON": _spoil_run(
        lambda run, case: (run / "push.json").write_text("{"), lambda case, run: ["publish", run]
    ),
    "publish of NaN": _spoil_run(
        lambda run, case: save_file(
            {name: tensor * float("nan") for name, tensor in load_file(run / "model.safetensors").items()},
            run / "model.safetensors",
            {"format": "pt"},
        ),
        lambda case, run: ["publish", run, "you/model", "--dry_run"],
    ),
    "evaluate, recipe no YAML": _spoil_run(_text("recipe.yaml", "a: [", "- a", "x"), _evaluate),
    "evaluate, data gone": _spoil_run(
        lambda run, case: (run / "recipe.yaml").write_text(
            (run / "recipe.yaml").read_text().replace(str(case.base / "kitti"), str(case.folder / "gone"))
        ),
        _evaluate,
    ),
    "evaluate, splits spoilt": _spoil_run(_text("splits.yaml", "train: [a]", "a", "- b", "train: {"), _evaluate),
    "evaluate, other classes": lambda case: [
        "evaluate",
        case.base / "run",
        "--data_dir",
        case.base / "kitti",
        "--label_space",
        "camvid",
    ],
    "resume, no manifest": _spoil_run(_each_checkpoint(lambda path, case: (path / "manifest.json").unlink()), _resume),
    "resume, manifest no JSON": _spoil_run(
        _each_checkpoint(lambda path, case: (path / "manifest.json").write_text(case.rng.choice(("{", "[]", "{}")))),
        _resume,
    ),
    "resume, models cut short": _spoil_run(
        _each_checkpoint(lambda path, case: cut_short(path / "model.safetensors", case)), _resume
    ),
    "resume, states missing": _spoil_run(
        _each_checkpoint(lambda path, case: (path / "trainer_state.json").unlink()), _resume
    ),
    "resume on fewer frames": _spoil_run(
        lambda run, case: None, lambda case, run: [*_resume(case, run), "--data_dir", _without_frame(case)]
    ),
    "resume of another size": _spoil_run(
        lambda run, case: None, lambda case, run: [*_resume(case, run), "--size", "b0"]
    ),
    "resume with other classes": _spoil_run(
        lambda run, case: None, lambda case, run: [*_resume(case, run), "--label_space", _swapped(case)]
    ),
    "resume with another seed": _spoil_run(
        lambda run, case: None, lambda case, run: [*_resume(case, run), "--seed", "77"]
    ),
    "predict of nothing": _predict_input(lambda case: [case.folder / "none.png"]),
    "predict of an empty folder": _predict_input(lambda case: [(case.folder / "m").mkdir() or case.folder / "m"]),
    "predict of text": _predict_input(lambda case: [case.write("a.txt", "text")]),
    "predict of a spoilt image": _predict_input(lambda case: [case.write("a.png", case.rng.randbytes(300))]),
    "predict of a spoilt video": _predict_input(lambda case: [case.write("a.mp4", case.rng.randbytes(300))]),
    "predict of two with one name": _predict_input(lambda case: _same_names(case)),
    "predict into a file": lambda case: [
        "predict",
        case.base / "run",
        case.base / "kitti/training/image_2",
        "--output",
        case.write("out", "mine"),
    ],
}


def _without_frame(case: Case) -> Path:
    data = case.copy("kitti")
    name = case.pick(data, "training/image_2/*.png").name
    for folder in data.glob("training/*"):
        (folder / name).unlink()
    return data


def _swapped(case: Case) -> Path:
    content = case.read_classes()
    one, other = case.rng.sample(content["classes"], 2)
    one["label_ids"], other["label_ids"] = other["label_ids"], one["label_ids"]
    return case.write("swapped.yaml", content)


def _same_names(case: Case) -> list[Path]:
    found = []
    for folder in ("one", "two"):
        (case.folder / folder).mkdir()
        found.append(case.folder / folder / "a.png")
        shutil.copy(case.pick(case.base / "kitti", "training/image_2/*.png"), found[-1])
    return found


# What a teacher wrote down


def _taught(spoil) -> Kind:
    def kind(case: Case) -> list:
        folder = case.copy("taught")
        options = spoil(folder, case)
        return case.finetune(teacher=folder, **(options if isinstance(options, dict) else {}))

    return kind


def _describe(change):
    return _json("taught.json", change)


KINDS |= {
    "taught, scores cut short": _taught(lambda folder, case: cut_short(folder / "scores.arrow", case)),
    "taught, scores missing": _taught(lambda folder, case: (folder / "scores.arrow").unlink()),
    "taught, scores of noise": _taught(lambda folder, case: (folder / "scores.arrow").write_bytes(b"x" * 999)),
    "taught, a bit of the scores": _taught(lambda folder, case: flip_bit(folder / "scores.arrow", case.rng)),
    "taught, description no JSON": _taught(_text("taught.json", "{", "", "[]", "3", "{}")),
    "taught, description spoilt": _taught(
        _describe(
            lambda content, rng: content.update(
                {rng.choice(("name", "classes", "parameters", "bits", "sha256")): rng.choice((None, [1], {}, 0.5))}
            )
        )
    ),
    "taught, other classes": _taught(_describe(lambda content, rng: content.update(classes=["a", "b", "c"]))),
    "taught, fewer classes": _taught(_describe(lambda content, rng: content.update(classes=content["classes"][:3]))),
    "taught, other frames": lambda case: case.finetune(
        data_dir=case.base / "kitti", teacher=case.copy("taught"), validation_fraction=0
    ),
    "taught, with what it can't do": _taught(
        lambda folder, case: case.rng.choice(
            ({"teacher_precision": "bf16"}, {"distill": "cwd", "distill_from": "features"}, {"teacher_revision": "v1"})
        )
    ),
    "nobody teaches": lambda case: case.finetune(
        **case.rng.choice(({"distill": "cwd"}, {"distill_weight": 2}, {"distill_void": "true"}))
    ),
}
