"""Bad model folders and .pth files."""

import json
import os
import pickle
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from robustness.bad_data import NO_REGULAR_FILE, cut_short
from robustness.cases import Case, Kind

KINDS: dict[str, Kind] = {}

# Models


def _spoil_model(spoil, processor: bool = False) -> Kind:
    def kind(case: Case) -> list:
        model = case.copy("run")
        for path in model.glob("checkpoint-*"):
            shutil.rmtree(path)
        spoil(model, case)
        return case.use_model(model, processor)

    return kind


def _config(change, name: str = "config.json", new_head: bool = False) -> Kind:
    """With `new_head`, what training takes: it makes a classifier of its own."""

    def spoil(model: Path, case: Case) -> None:
        content = json.loads((model / name).read_text())
        change(content, case.rng)
        (model / name).write_text(json.dumps(content))

    return _spoil_model(spoil, processor=new_head or name != "config.json")


def _tensors(change) -> Kind:
    def spoil(model: Path, case: Case) -> None:
        tensors = load_file(model / "model.safetensors")
        change(
            tensors, case.rng.choice(sorted(name for name in tensors if tensors[name].is_floating_point())), case.rng
        )
        save_file(tensors, model / "model.safetensors", {"format": "pt"})

    return _spoil_model(spoil)


def _file(name: str, spoil) -> Kind:
    return _spoil_model(lambda model, case: spoil(model / name, case), processor=name == "preprocessor_config.json")


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
    "config no JSON": _file(
        "config.json", lambda path, case: path.write_text(case.rng.choice(("{", "", "[]", "3", "\0")))
    ),
    "config missing": _file("config.json", lambda path, case: path.unlink()),
    "config of another model": _config(
        lambda content, rng: content.update(model_type=rng.choice(("bert", "mine", "vit", 3)))
    ),
    "config with wrong shapes": _config(
        lambda content, rng: content.update(hidden_sizes=[8, 16, 32, rng.randint(1, 500)])
    ),
    "config with no numbers": _config(
        lambda content, rng: content.update(
            {rng.choice(("hidden_sizes", "depths", "sr_ratios")): rng.choice(("x", None, [], ["a"] * 4, -1))}
        )
    ),
    "config of 1e9 channels": _config(lambda content, rng: content.update(hidden_sizes=[10**9] * 4)),
    "config of -1 channels": _config(lambda content, rng: content.update(decoder_hidden_size=rng.choice((-1, 0, 1.5)))),
    "config of other classes": _config(
        lambda content, rng: content.update(id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}), new_head=True
    ),
    "config of wrong id2label": _config(
        lambda content, rng: content.update(id2label=rng.choice((["a"], {"x": "a"}, 3)))
    ),
    "config that names code": _config(
        lambda content, rng: content.update(
            model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForSemanticSegmentation": "mine.M"}
        )
    ),
    "model cut short": _file("model.safetensors", cut_short),
    "model of noise": _file("model.safetensors", lambda path, case: path.write_bytes(case.rng.randbytes(9000))),
    "model empty": _file("model.safetensors", lambda path, case: path.write_bytes(b"")),
    "model without weights": _file("model.safetensors", lambda path, case: path.unlink()),
    "model with an endless header": _file(
        "model.safetensors", lambda path, case: path.write_bytes(b"\xff" * 7 + b"\x7f" + b"{" * 99)
    ),
    "model without a tensor": _tensors(lambda tensors, name, rng: tensors.pop(name)),
    "model with a strange tensor": _tensors(
        lambda tensors, name, rng: tensors.update({"more." + name: tensors[name].clone()})
    ),
    "model with another shape": _tensors(lambda tensors, name, rng: tensors.update({name: torch.zeros(3, 5, 7)})),
    "model with a number not finite": _tensors(_set_bad_number),
    "model of NaN": _tensors(
        lambda tensors, name, rng: [
            tensor.fill_(float("nan")) for tensor in tensors.values() if tensor.is_floating_point()
        ]
    ),
    "model of half a pickle": _spoil_model(_pickle_only),
    "processor no JSON": _file(
        "preprocessor_config.json", lambda path, case: path.write_text(case.rng.choice(("{", "[]", "")))
    ),
    "processor of no size": _config(
        lambda content, rng: content.update(
            size=rng.choice(
                (
                    {"height": 0, "width": 0},
                    {"height": -1, "width": 9},
                    "x",
                    {"a": 1},
                    {"height": 10**9, "width": 10**9},
                )
            )
        ),
        "preprocessor_config.json",
    ),
    "processor of no mean": _config(
        lambda content, rng: content.update(image_std=rng.choice(([0, 0, 0], [1], "x", [float("nan")] * 3))),
        "preprocessor_config.json",
    ),
} | {f"weights file {name}": _file("model.safetensors", spoil) for name, spoil in NO_REGULAR_FILE.items()}

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
    "pth of 2e11 elements": _pth_tensors(
        lambda tensors, name, rng: tensors.update({name: torch.zeros(1).expand(2 * 10**11)})
    ),
    "pth to what is there": lambda case: [
        "convert-checkpoint",
        case.base / "model.pth",
        "--output",
        case.write("out", ""),
    ],
    "pth of no classes": lambda case: [
        "convert-checkpoint",
        case.base / "model.pth",
        "--output",
        case.out,
        "--label_space",
        case.write("two.json", {"name": "two", "classes": [{"name": "a", "color": [0, 0, 0], "label_ids": [1]}]}),
    ],
}
