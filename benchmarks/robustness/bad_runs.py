"""Bad recipes, options, class weights, models, .pth files, and folders of runs."""

import json
import os
import pickle
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from robustness.bad_data import NO_REGULAR_FILE, YAML_FAULTS, cut_short
from robustness.cases import Case, Kind

KINDS: dict[str, Kind] = {}

# Recipes


def _recipe(make) -> Kind:
    return lambda case: case.finetune(recipe=case.write("mine.yaml", make(case)))


def _circle(case: Case) -> list:
    case.write("other.yaml", {"base": "mine.yaml"})
    return case.finetune(recipe=case.write("mine.yaml", {"base": "other.yaml"}))


KINDS |= {f"recipe {name}": _recipe(fault) for name, fault in YAML_FAULTS.items() if name != "nothing"} | {
    "recipe missing": lambda case: case.finetune(recipe=case.folder / "none.yaml"),
    "recipe of an unknown name": lambda case: case.finetune(recipe=case.rng.choice(("kitti", "", "../demo", "DEMO"))),
    "recipe with a misspelt key": _recipe(lambda case: {"learning_rates": 1}),
    "recipe with reduce_labels": _recipe(lambda case: {"reduce_labels": True}),
    "recipe with a wrong type": _recipe(
        lambda case: case.rng.choice(({"flip": "often"}, {"focal_gamma": [1, 2]}, {"num_overlays": {"a": 1}}))
    ),
    "recipe with a number out of range": _recipe(lambda case: {"focal_gamma": -1}),
    "recipe with infinity": _recipe(lambda case: "weight_decay: .inf\n"),
    "recipe based on itself": _circle,
    "recipe based on none": _recipe(lambda case: {"base": case.rng.choice(("nothing", "none.yaml", 3, ["demo"]))}),
    "recipe with wrong sizes": _recipe(lambda case: {"sizes": case.rng.choice((["b0"], {"b0": 3}, "b0", {"b0": [1]}))}),
}

# Options

NEGATIVE = (
    "learning_rate", "per_device_train_batch_size", "per_device_eval_batch_size", "seed", "dataloader_num_workers",
    "cpu_threads", "save_steps", "eval_steps", "logging_steps", "weight_decay", "drop_path_rate", "warmup_steps",
    "classifier_dropout_prob", "lr_power", "head_lr_multiplier", "max_grad_norm", "ema_decay", "num_overlays",
    "gradient_accumulation_steps", "auxiliary_weight", "ohem_min_kept", "ohem_threshold", "focal_gamma",
    "test_fraction", "validation_fraction", "max_class_share", "flip", "hub_timeout", "adam_beta1", "adam_epsilon",
    "auxiliary_stage", "auxiliary_channels", "decoder_hidden_size", "lr_cycles", "lr_cycle_decay",
)  # fmt: skip
NOT_FINITE = (
    "learning_rate", "weight_decay", "drop_path_rate", "classifier_dropout_prob", "warmup_steps", "lr_power", "lr_end",
    "head_lr_multiplier", "max_grad_norm", "ema_decay", "auxiliary_weight", "focal_gamma", "test_fraction", "flip",
    "validation_fraction", "max_class_share", "hub_timeout", "adam_beta2", "lr_cycle_decay", "warmup_start",
)  # fmt: skip
ZERO = (
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "lr_cycles",
    "auxiliary_stage", "auxiliary_channels", "decoder_hidden_size", "ohem_min_kept",
)  # fmt: skip
TOO_LARGE = {
    "drop_path_rate": "1.5", "classifier_dropout_prob": "2", "max_class_share": "1.1", "flip": "7", "ema_decay": "1",
    "lr_end": "2", "test_fraction": "1.5", "validation_fraction": "1", "per_device_train_batch_size": "1" + "0" * 18,
    "dataloader_num_workers": "1000000000", "cpu_threads": "1000000000", "auxiliary_stage": "9", "seed": "1" + "0" * 30,
    "auxiliary_channels": "1" + "0" * 15, "decoder_hidden_size": "1" + "0" * 15, "ohem_threshold": "1.5",
    "adam_beta1": "1.5", "max_steps": "1" + "0" * 40, "num_overlays": "1" + "0" * 30,
}  # fmt: skip
COMMANDS = {
    "predict": ("--alpha -1", "--alpha nan", "--batch_size 0", "--ratios 0", "--ratios nan", "--ratios -1 1",
                "--sliding_window 1 1", "--sliding_window 64 64 --stride 0 0", "--max_batch_pixels 0", "--device moon",
                "--ratios 1e9", "--alpha x", "--video_frames photo"),
    "evaluate": ("--failures -1", "--num_workers -1", "--split dev", "--report page.txt", "--batch_size -2",
                 "--num_workers 1000000000", "--failures x", "--output metrics.json", "--test_fraction 2"),
    "profile-model": ("--image_size 0 0", "--batch_size 0", "--seconds nan", "--seconds -1", "--sizes b9",
                      "--num_labels 0", "--repeats 0", "--precision int8", "--image_size 64",
                      "--num_labels 1000000000000"),
    "class-weights": ("--scheme effective_number --beta 2", "--scheme magic", "--split dev", "--output w.txt",
                      "--test_fraction -0.5", "--scheme effective_number --beta nan"),
    "browse-data": ("--num_samples 0", "--num_epochs -1", "--split dev", "--crop_size 0 0", "--seed -1",
                    "--train_scales x", "--train_scales -1", "--train_scales 0", "--train_scales nan"),
}  # fmt: skip
EXCLUSIVE = (
    {"resume": "true", "overwrite": "true"}, {"export_ema": "true"}, {"dataset": "synthetic"}, {"fsdp": "full_shard"},
    {"num_train_epochs": 3}, {"save_steps": 3}, {"push_to_hub": "true"}, {"deepspeed": "ds.json"},
    {"neftune_noise_alpha": 5}, {"report_to": "nobody"}, {"crop_size": "64"}, {"eval_size": "70 -3"},
    {"label_smoothing_factor": 0.3}, {"do_train": "false"}, {"fp16": "true", "bf16": "true"}, {"model_revision": "x y"},
)  # fmt: skip
RARE = {"ohem_min_kept": {"loss": "ohem"}, "ohem_threshold": {"loss": "ohem"}, "focal_gamma": {"loss": "focal"}} | {
    name: {"auxiliary_head": "true"} for name in ("auxiliary_stage", "auxiliary_channels", "auxiliary_weight")
}
"""What makes an option matter: out of its range it is refused with or without."""


def _option(names, values) -> Kind:
    def kind(case: Case) -> list:
        name = case.rng.choice(list(names))
        value = values[name] if isinstance(values, dict) else case.rng.choice(values)
        return case.finetune(**RARE.get(name, {}), **{name: value})

    return kind


def _command_option(case: Case) -> list:
    command = case.rng.choice(list(COMMANDS))
    words = case.rng.choice(COMMANDS[command]).split()
    run, data = case.base / "run", case.base / "kitti"
    first = {
        "predict": ["--model", run, "--input", data / "training/image_2", "--output", case.out],
        "evaluate": ["--model", run, "--data_dir", data],
        "profile-model": [],
        "class-weights": ["--data_dir", data, *([] if "--output" in words else ["--output", case.folder / "w.json"])],
        "browse-data": ["--data_dir", data, "--output", case.out],
    }
    return [command, *first[command], *words]


KINDS |= {
    "option negative": _option(NEGATIVE, ("-1", "-3", "-7")),
    "option not finite": _option(NOT_FINITE, ("nan", "inf", "-inf")),
    "option zero": _option(ZERO, ("0",)),
    "option too large": _option(TOO_LARGE, TOO_LARGE),
    "option no number": _option([*NEGATIVE, *NOT_FINITE], ("x", "1,5", "0x10", "one")),
    "option unknown": _option(("learnin_rate", "lr", "batch_size", "flips", "a" * 5000, "x\x1b[31m"), ("1",)),
    "option without a value": lambda case: [*case.finetune(), f"--{case.rng.choice(NEGATIVE)}"],
    "option of no choice": _option(
        ("loss", "init", "normalizer", "cache_images", "hub_strategy", "size"), ("x", "None")
    ),
    "options that exclude each other": lambda case: case.finetune(**case.rng.choice(EXCLUSIVE)),
    "option of another command": _command_option,
    "command unknown": lambda case: [case.rng.choice(("train", "fintune", "", "-x", "evaluate2", "__init__"))],
    "word too much": lambda case: [*case.finetune(), case.rng.choice(("x", "-", "--", "---"))],
    "output that is a file": lambda case: case.finetune(output_dir=case.write("out", "mine")),
    "output below a file": lambda case: case.finetune(output_dir=case.write("file", "mine") / "run"),
    "output of a run": lambda case: case.finetune(output_dir=case.copy("run")),
    "nothing to resume": lambda case: case.finetune(resume="true"),
    "no data": lambda case: [
        "finetune",
        "--recipe",
        "segformer_b0_kitti",
        "--init",
        "random",
        "--output_dir",
        case.out,
    ],
}

# Class weights


def _weights(change) -> Kind:
    def kind(case: Case) -> list:
        content = json.loads((case.base / "weights.json").read_text())
        change(content, case.rng.choice(list(content["weights"])), case.rng)
        return case.finetune(class_weights=case.write("w.json", content))

    return kind


def _weights_text(text) -> Kind:
    return lambda case: case.finetune(class_weights=case.write("w.json", text))


KINDS |= {
    "weights without a class": _weights(lambda content, name, rng: content["weights"].pop(name)),
    "weights of an unknown class": _weights(lambda content, name, rng: content["weights"].update(tram=1.0)),
    "weights out of range": _weights(
        lambda content, name, rng: content["weights"].update(
            {name: rng.choice((0, -1, float("inf"), float("nan"), 1e400))}
        )
    ),
    "weights no numbers": _weights(
        lambda content, name, rng: content["weights"].update({name: rng.choice(("1", None, [1], True, {"a": 1}))})
    ),
    "weights missing": _weights(lambda content, name, rng: content.pop("weights")),
    "weights a list": _weights(lambda content, name, rng: content.update(weights=[1.0] * 19)),
    "weights no JSON": _weights_text("{'road': 1}"),
    "weights deeply nested": _weights_text('{"weights": ' + "[" * 20_000),
    "weights with a class twice": lambda case: case.finetune(
        class_weights=case.write(
            "w.json", (case.base / "weights.json").read_text().replace('"road"', '"road": 9, "road"', 1)
        )
    ),
    "weights that aren't there": lambda case: case.finetune(class_weights=case.folder / "none.json"),
}

# Models


def _spoil_model(spoil) -> Kind:
    def kind(case: Case) -> list:
        model = case.copy("run")
        for path in model.glob("checkpoint-*"):
            shutil.rmtree(path)
        spoil(model, case)
        return case.use_model(model)

    return kind


def _config(change, name: str = "config.json") -> Kind:
    def spoil(model: Path, case: Case) -> None:
        content = json.loads((model / name).read_text())
        change(content, case.rng)
        (model / name).write_text(json.dumps(content))

    return _spoil_model(spoil)


def _tensors(change) -> Kind:
    def spoil(model: Path, case: Case) -> None:
        tensors = load_file(model / "model.safetensors")
        change(
            tensors, case.rng.choice(sorted(name for name in tensors if tensors[name].is_floating_point())), case.rng
        )
        save_file(tensors, model / "model.safetensors", {"format": "pt"})

    return _spoil_model(spoil)


def _file(name: str, spoil) -> Kind:
    return _spoil_model(lambda model, case: spoil(model / name, case))


def _set_bad_number(tensors: dict, name: str, rng) -> None:
    tensors[name].view(-1)[rng.randrange(tensors[name].numel())] = float(rng.choice(("nan", "inf", "-inf")))


def _pickle_only(model: Path, case: Case) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    content = bytearray((model / "pytorch_model.bin").read_bytes())
    content[len(content) // 3 : len(content) // 3 + 50] = bytes(50)
    (model / "pytorch_model.bin").write_bytes(content[: len(content) // 2])


KINDS |= {
    "model missing": lambda case: case.use_model(case.folder / "none"),
    "model that is a file": lambda case: case.use_model(case.write("model", "text")),
    "model folder empty": lambda case: case.use_model((case.folder / "m").mkdir() or case.folder / "m"),
    "config no JSON": _file("config.json", lambda path, case: path.write_text(case.rng.choice(("{", "", "[]", "3", "\0")))),
    "config missing": _file("config.json", lambda path, case: path.unlink()),
    "config of another model": _config(lambda content, rng: content.update(model_type=rng.choice(("bert", "mine", "vit", 3)))),
    "config with wrong shapes": _config(lambda content, rng: content.update(hidden_sizes=[8, 16, 32, rng.randint(1, 500)])),
    "config with no numbers": _config(
        lambda content, rng: content.update({rng.choice(("hidden_sizes", "depths", "sr_ratios")): rng.choice(("x", None, [], ["a"] * 4, -1))})
    ),
    "config of 1e9 channels": _config(lambda content, rng: content.update(hidden_sizes=[10**9] * 4)),
    "config of -1 channels": _config(lambda content, rng: content.update(decoder_hidden_size=rng.choice((-1, 0, 1.5)))),
    "config of other classes": _config(lambda content, rng: content.update(id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})),
    "config of wrong id2label": _config(lambda content, rng: content.update(id2label=rng.choice((["a"], {"x": "a"}, 3)))),
    "config that names code": _config(
        lambda content, rng: content.update(model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForSemanticSegmentation": "mine.M"})
    ),
    "model cut short": _file("model.safetensors", cut_short),
    "model of noise": _file("model.safetensors", lambda path, case: path.write_bytes(case.rng.randbytes(9000))),
    "model empty": _file("model.safetensors", lambda path, case: path.write_bytes(b"")),
    "model without weights": _file("model.safetensors", lambda path, case: path.unlink()),
    "model with an endless header": _file("model.safetensors", lambda path, case: path.write_bytes(b"\xff" * 7 + b"\x7f" + b"{" * 99)),
    "model without a tensor": _tensors(lambda tensors, name, rng: tensors.pop(name)),
    "model with a strange tensor": _tensors(lambda tensors, name, rng: tensors.update({"more." + name: tensors[name].clone()})),
    "model with another shape": _tensors(lambda tensors, name, rng: tensors.update({name: torch.zeros(3, 5, 7)})),
    "model with a number not finite": _tensors(_set_bad_number),
    "model of NaN": _tensors(lambda tensors, name, rng: [tensor.fill_(float("nan")) for tensor in tensors.values() if tensor.is_floating_point()]),
    "model of half a pickle": _spoil_model(_pickle_only),
    "processor no JSON": _file("preprocessor_config.json", lambda path, case: path.write_text(case.rng.choice(("{", "[]", "")))),
    "processor of no size": _config(
        lambda content, rng: content.update(size=rng.choice(({"height": 0, "width": 0}, {"height": -1, "width": 9}, "x", {"a": 1}, {"height": 10**9, "width": 10**9}))),
        "preprocessor_config.json",
    ),
    "processor of no mean": _config(lambda content, rng: content.update(image_std=rng.choice(([0, 0, 0], [1], "x", [float("nan")] * 3))), "preprocessor_config.json"),
} | {f"weights file {name}": _file("model.safetensors", spoil) for name, spoil in NO_REGULAR_FILE.items()}  # fmt: skip

# .pth files


class _Runs:
    def __reduce__(self):
        return os.getpid, ()


def _pth(make) -> Kind:
    def kind(case: Case) -> list:
        path = case.copy("model.pth")
        content = make(path, case)
        if content is not None:
            torch.save(content, path)
        return ["convert-checkpoint", path, "--output", case.out, "--eval_size", "64", "96"]

    return kind


def _pth_tensors(change) -> Kind:
    def make(path: Path, case: Case):
        content = torch.load(path, weights_only=True)
        tensors = content["state_dict"]
        change(
            tensors, case.rng.choice(sorted(name for name in tensors if tensors[name].is_floating_point())), case.rng
        )
        return content

    return _pth(make)


KINDS |= {
    "pth missing": _pth(lambda path, case: path.unlink()),
    "pth cut short": _pth(cut_short),
    "pth of noise": _pth(lambda path, case: path.write_bytes(case.rng.randbytes(5000)) and None),
    "pth empty": _pth(lambda path, case: path.write_bytes(b"") or None),
    "pth of nothing": _pth(lambda path, case: case.rng.choice(({}, {"state_dict": {}}, [], 3, "x", {"a": 1}))),
    "pth that calls": _pth(lambda path, case: {"state_dict": {}, "meta": _Runs()}),
    "pth of a bare pickle": _pth(lambda path, case: path.write_bytes(pickle.dumps(_Runs())) and None),
    "pth without a tensor": _pth_tensors(lambda tensors, name, rng: tensors.pop(name)),
    "pth with a strange tensor": _pth_tensors(lambda tensors, name, rng: tensors.update({"x." + name: tensors[name]})),
    "pth with another shape": _pth_tensors(lambda tensors, name, rng: tensors.update({name: torch.zeros(3, 5, 7)})),
    "pth with a number not finite": _pth_tensors(_set_bad_number),
    "pth of 2e11 elements": _pth_tensors(lambda tensors, name, rng: tensors.update({name: torch.zeros(1).expand(2 * 10**11)})),
    "pth to what is there": lambda case: ["convert-checkpoint", case.base / "model.pth", "--output", case.write("out", "")],
    "pth of no classes": lambda case: [
        "convert-checkpoint", case.base / "model.pth", "--output", case.out, "--label_space",
        case.write("two.json", {"name": "two", "classes": [{"name": "a", "color": [0, 0, 0], "label_ids": [1]}]}),
    ],
}  # fmt: skip

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
    "compare, metrics no JSON": _spoil_run(_text("metrics.json", "{", "", "[]", '{"splits": 3}', '{"splits": {"test": 1}}'), _compare),
    "compare, counts no JSON": _spoil_run(_text("per_image_test.json", "{", "[]", "{}", '{"names": []}'), _compare),
    "compare, counts missing": _spoil_run(lambda run, case: (run / "per_image_test.json").unlink(), _compare),
    "compare, counts spoilt": _spoil_run(
        _json("per_image_test.json", lambda content, rng: content.update({rng.choice(("hits", "labelled")): rng.choice(([], "x", [[-1] * 19] * 2, [[1]], None))})), _compare,
    ),
    "compare, other images": _spoil_run(_json("per_image_test.json", lambda content, rng: content.update(names=["a", "b"])), _compare),
    "compare, other classes": _spoil_run(_json("per_image_test.json", lambda content, rng: content.update(classes=[f"c{i}" for i in range(19)])), _compare),
    "publish without a name": lambda case: ["publish", case.copy("run")],
    "publish to no name": lambda case: ["publish", case.copy("run"), case.rng.choice(("a/b/c", "x", "a/", "a b/c", "../x", "a/b\n"))],
    "publish of no run": lambda case: ["publish", case.folder / "none", "you/model", "--dry_run"],
    "publish of an empty folder": lambda case: ["publish", (case.folder / "m").mkdir() or case.folder / "m", "you/model", "--dry_run"],
    "publish, ledger no JSON": _spoil_run(lambda run, case: (run / "push.json").write_text("{"), lambda case, run: ["publish", run]),
    "publish of NaN": _spoil_run(
        lambda run, case: save_file({name: tensor * float("nan") for name, tensor in load_file(run / "model.safetensors").items()}, run / "model.safetensors", {"format": "pt"}),
        lambda case, run: ["publish", run, "you/model", "--dry_run"],
    ),
    "evaluate, recipe no YAML": _spoil_run(_text("recipe.yaml", "a: [", "- a", "x"), _evaluate),
    "evaluate, data gone": _spoil_run(
        lambda run, case: (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace(str(case.base / "kitti"), str(case.folder / "gone"))), _evaluate,
    ),
    "evaluate, splits spoilt": _spoil_run(_text("splits.yaml", "train: [a]", "a", "- b", "train: {"), _evaluate),
    "evaluate, other classes": lambda case: ["evaluate", case.base / "run", "--data_dir", case.base / "kitti", "--label_space", "camvid"],
    "resume, no manifest": _spoil_run(_each_checkpoint(lambda path, case: (path / "manifest.json").unlink()), _resume),
    "resume, manifest no JSON": _spoil_run(_each_checkpoint(lambda path, case: (path / "manifest.json").write_text(case.rng.choice(("{", "[]", "{}")))), _resume),
    "resume, models cut short": _spoil_run(_each_checkpoint(lambda path, case: cut_short(path / "model.safetensors", case)), _resume),
    "resume, states missing": _spoil_run(_each_checkpoint(lambda path, case: (path / "trainer_state.json").unlink()), _resume),
    "resume on fewer frames": _spoil_run(lambda run, case: None, lambda case, run: [*_resume(case, run), "--data_dir", _without_frame(case)]),
    "resume of another size": _spoil_run(lambda run, case: None, lambda case, run: [*_resume(case, run), "--size", "b0"]),
    "resume with other classes": _spoil_run(lambda run, case: None, lambda case, run: [*_resume(case, run), "--label_space", _swapped(case)]),
    "resume with another seed": _spoil_run(lambda run, case: None, lambda case, run: [*_resume(case, run), "--seed", "77"]),
    "predict of nothing": _predict_input(lambda case: [case.folder / "none.png"]),
    "predict of an empty folder": _predict_input(lambda case: [(case.folder / "m").mkdir() or case.folder / "m"]),
    "predict of text": _predict_input(lambda case: [case.write("a.txt", "text")]),
    "predict of a spoilt image": _predict_input(lambda case: [case.write("a.png", case.rng.randbytes(300))]),
    "predict of a spoilt video": _predict_input(lambda case: [case.write("a.mp4", case.rng.randbytes(300))]),
    "predict of two with one name": _predict_input(lambda case: _same_names(case)),
    "predict into a file": lambda case: ["predict", case.base / "run", case.base / "kitti/training/image_2", "--output", case.write("out", "mine")],
}  # fmt: skip


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
