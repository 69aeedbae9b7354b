"""Bad recipes, options and class weights."""

import json

from robustness.bad_data import YAML_FAULTS
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
    "auxiliary_stage", "auxiliary_channels", "decoder_hidden_size"
)  # fmt: skip
TOO_LARGE = {
    "drop_path_rate": "1.5",
    "classifier_dropout_prob": "2",
    "max_class_share": "1.1",
    "flip": "7",
    "ema_decay": "1",
    "lr_end": "2",
    "test_fraction": "1.5",
    "validation_fraction": "1",
    "per_device_train_batch_size": "1" + "0" * 18,
    "dataloader_num_workers": "1000000000",
    "cpu_threads": "1000000000",
    "auxiliary_stage": "9",
    "seed": "1" + "0" * 30,
    "auxiliary_channels": "1" + "0" * 15,
    "decoder_hidden_size": "1" + "0" * 15,
    "ohem_threshold": "1.5",
    "adam_beta1": "1.5",
    "max_steps": "1" + "0" * 40,
    "num_overlays": "1" + "0" * 30,
}
COMMANDS = {
    "predict": (
        "--alpha -1",
        "--alpha nan",
        "--batch_size 0",
        "--ratios 0",
        "--ratios nan",
        "--ratios -1 1",
        "--sliding_window 1 1",
        "--sliding_window 64 64 --stride 0 0",
        "--max_batch_pixels 0",
        "--device moon",
        "--ratios 1e9",
        "--alpha x",
        "--video_frames photo",
    ),
    "evaluate": (
        "--failures -1",
        "--num_workers -1",
        "--split dev",
        "--report page.txt",
        "--batch_size -2",
        "--num_workers 1000000000",
        "--failures x",
        "--output metrics.json",
        "--test_fraction 2",
    ),
    "profile-model": (
        "--image_size 0 0",
        "--batch_size 0",
        "--seconds nan",
        "--seconds -1",
        "--sizes b9",
        "--num_labels 0",
        "--repeats 0",
        "--precision int8",
        "--image_size 64",
        "--num_labels 1000000000000",
    ),
    "class-weights": (
        "--scheme effective_number --beta 2",
        "--scheme magic",
        "--split dev",
        "--output w.txt",
        "--test_fraction -0.5",
        "--scheme effective_number --beta nan",
    ),
    "browse-data": (
        "--num_samples 0",
        "--num_epochs -1",
        "--split dev",
        "--crop_size 0 0",
        "--seed -1",
        "--train_scales x",
        "--train_scales -1",
        "--train_scales 0",
        "--train_scales nan",
    ),
}
EXCLUSIVE = (
    {"resume": "true", "overwrite": "true"}, {"export_ema": "true"}, {"dataset": "synthetic"}, {"fsdp": "full_shard"},
    {"num_train_epochs": 3}, {"save_steps": 3}, {"push_to_hub": "true"}, {"deepspeed": "ds.json"},
    {"report_to": "nobody"}, {"crop_size": "64"}, {"eval_size": "70 -3"},
    {"fp16": "true", "bf16": "true"},
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
