"""Hostile inputs: what would run, write outside its folder, ask the network, or do something where it is shown."""

import hashlib
import json
import os
import pickle
import stat
import zipfile
from pathlib import Path

from robustness.cases import Case, Kind
from robustness.warm import call
from robustness.watching import MARK, OUTSIDE

KINDS: dict[str, Kind] = {}


class Payload:
    """Pickled, it makes the mark when it is loaded."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"touch {self.folder / MARK}",)


# What runs


def _model_with(add) -> Kind:
    def kind(case: Case) -> list:
        model = case.copy("run")
        add(model, case)
        return case.use_model(model)

    return kind


def _name_code(model: Path, case: Case) -> None:
    (model / "mine.py").write_text(
        f"import os\nos.system('touch {case.folder / MARK}')\n"
        "from transformers import PretrainedConfig, PreTrainedModel\n"
        "class C(PretrainedConfig):\n    model_type = 'mine'\nclass M(PreTrainedModel):\n    config_class = C\n"
    )
    config = json.loads((model / "config.json").read_text())
    auto = {"AutoConfig": "mine.C", "AutoModel": "mine.M", "AutoModelForSemanticSegmentation": "mine.M"}
    config |= {"auto_map": auto} | case.rng.choice(
        ({"model_type": "mine"}, {}, {"model_type": "mine", "architectures": ["M"]})
    )
    (model / "config.json").write_text(json.dumps(config))


def _name_processor_code(model: Path, case: Case) -> None:
    _name_code(model, case)
    (model / "config.json").write_bytes((case.base / "run" / "config.json").read_bytes())
    content = json.loads((model / "preprocessor_config.json").read_text())
    content |= {"image_processor_type": "Mine", "auto_map": {"AutoImageProcessor": "mine.C"}}
    (model / "preprocessor_config.json").write_text(json.dumps(content))


def _pickle_model(model: Path, case: Case) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(case.folder)))


def _pickle_beside(model: Path, case: Case) -> None:
    for name in ("training_args.bin", "optimizer.pt", "pytorch_model.bin", "model.pkl"):
        (model / name).write_bytes(pickle.dumps(Payload(case.folder)))


def _resume_with(name: str) -> Kind:
    """A pickle in a checkpoint whose manifest vouches for it."""

    def kind(case: Case) -> list:
        run = case.copy("run")
        (run / "metrics.json").unlink()
        for checkpoint in run.glob("checkpoint-*"):
            (checkpoint / name).write_bytes(pickle.dumps(Payload(case.folder)))
            manifest = json.loads((checkpoint / "manifest.json").read_text())
            content = (checkpoint / name).read_bytes()
            manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            (checkpoint / "manifest.json").write_text(json.dumps(manifest))
        return case.finetune(output_dir=run, resume="true", max_steps=4)

    return kind


def _tag(case: Case) -> str:
    call = f'["touch {case.folder / MARK}"]'
    tags = (
        "!!python/object/apply:os.system",
        "!!python/object/new:os.system",
        "!!python/name:os.system",
        "!python/object/apply:os.system",
    )
    return f"name: {case.rng.choice(tags)} {call}\nclasses: []\ntrain: []\n"


def _recorded_tag(name: str) -> Kind:
    def kind(case: Case) -> list:
        run = case.copy("run")
        (run / name).write_text(_tag(case))
        return case.rng.choice(
            (
                ["evaluate", run],
                ["publish", run, "you/model", "--dry_run"],
                ["compare", run, case.base / "run", "--output", case.out],
            )
        )

    return kind


def _hostile_pth(case: Case) -> list:
    import torch

    path = case.folder / "a.pth"
    if case.rng.random() < 0.5:
        path.write_bytes(pickle.dumps(Payload(case.folder)))
    else:
        torch.save({"state_dict": {"a": torch.zeros(2)}, "meta": Payload(case.folder)}, path)
    return ["convert-checkpoint", path, "--output", case.out]


def _script_in_set(case: Case) -> list:
    data = case.copy("set")
    for name in ("set.py", "dataset.py", "__init__.py", "sitecustomize.py", "conftest.py"):
        (data / name).write_text(f"import os\nos.system('touch {case.folder / MARK}')\n")
    return case.use_data(data)


KINDS |= {
    "config that names code": _model_with(_name_code),
    "processor that names code": _model_with(_name_processor_code),
    "model that is a pickle": _model_with(_pickle_model),
    "pickles beside a model": _model_with(_pickle_beside),
    "pth that calls": _hostile_pth,
    "label space with a tag": lambda case: case.use_data(
        case.base / "kitti", label_space=case.write("a.yaml", _tag(case))
    ),
    "split file with a tag": lambda case: case.use_data(
        case.base / "kitti", split_file=case.write("a.yaml", _tag(case))
    ),
    "recipe with a tag": lambda case: case.finetune(recipe=case.write("a.yaml", _tag(case))),
    "recorded recipe with a tag": _recorded_tag("recipe.yaml"),
    "recorded splits with a tag": _recorded_tag("splits.yaml"),
    "scripts in a saved set": _script_in_set,
} | {
    f"resume with {name}": _resume_with(name)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")
}


# What leads outside


def _lead_outside(case: Case) -> list:
    archive, up = case.folder / "a.zip", "../" * case.rng.randint(1, 6)
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in sorted((case.base / "kitti").rglob("*.png")):
            bundle.write(path, path.relative_to(case.base / "kitti"))
        for name in (
            f"{up}{MARK}",
            f"training/image_2/{up}{MARK}",
            f"{case.folder.parent}/{MARK}",
            f"training\\..\\{MARK}",
        ):
            bundle.writestr(name, "x")
    return case.use_data(archive)


def _link_outside(case: Case) -> list:
    archive = case.folder / "a.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in sorted((case.base / "kitti").rglob("*.png")):
            bundle.write(path, path.relative_to(case.base / "kitti"))
        info = zipfile.ZipInfo("training/image_2/link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(info, OUTSIDE)
        bundle.writestr("training/semantic/link.png", "x")
    return case.use_data(archive)


def _replace_paths(path: Path, image: str, label: str) -> None:
    """In an Arrow file. (`save_to_disk` would ask the network itself.)"""
    import pyarrow

    with pyarrow.ipc.open_stream(path.read_bytes()) as stream:
        table = stream.read_all()
    for name, url in (("image", image), ("label", label)):
        column = pyarrow.array([{"bytes": None, "path": url}] * len(table), table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    with pyarrow.ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table)


def _set_of(image: str, label: str) -> Kind:
    def kind(case: Case) -> list:
        data = case.copy("set")
        for path in data.glob("*/*.arrow"):
            call(_replace_paths, path, image, label)
        return case.use_data(data)

    return kind


KINDS |= {
    "archive that leads outside": _lead_outside,
    "archive with a link": _link_outside,
    "saved set of URLs": _set_of("http://127.0.0.1:9/a.png", "http://127.0.0.1:9/b.png"),
    "saved set of files outside": _set_of(OUTSIDE, OUTSIDE),
    "saved set of chained URLs": _set_of("zip://a.png::https://127.0.0.1:9/a.zip", "hf://datasets/a/b/c.png"),
    "model id in a config": _model_with(
        lambda model, case: (model / "config.json").write_text(
            json.dumps(
                json.loads((model / "config.json").read_text())
                | {"_name_or_path": "you/model", "backbone": "resnet50", "use_timm_backbone": True}
            )
        )
    ),
}

# What does something where it is shown

NAMES = (
    f"<script>{MARK}</script>", f"<img src=http://127.0.0.1:9/{MARK}>", f"![x](http://127.0.0.1:9/{MARK})",
    f"[x](javascript:{MARK})", f"=cmd|' /C {MARK}'!A0", f"+{MARK}", f"@SUM({MARK})", f"-cmd|{MARK}",
    f"\x1b]0;{MARK}\x07",
    f"{{{{ {MARK} }}}}", f"$(touch {MARK})", f"a | {MARK} | b", f"</title><svg onload={MARK}>", f"[{MARK}](http://127.0.0.1:9)",
    f"a\n<script>{MARK}</script>", f"\u202e{MARK}", f"<a href=//127.0.0.1:9/{MARK}>x</a>",
)  # fmt: skip


def _class_names(then) -> Kind:
    def kind(case: Case) -> list:
        content = case.read_classes()
        for one, name in zip(content["classes"], case.rng.sample(NAMES, 4), strict=False):
            one["name"] = name
        path = case.write("classes.json", content)
        return then(case, path)

    return kind


def _named_run(case: Case) -> Path:
    """A run whose model and records have hostile class names."""
    run, names = case.copy("run"), case.rng.sample(NAMES, 4)
    for path in (*run.glob("*.json"), *run.glob("*.yaml")):
        text = path.read_text()
        for old, new in zip(("road", "sidewalk", "building", "wall"), names, strict=True):
            text = text.replace(f'"{old}"', json.dumps(new))
        path.write_text(text)
    return run


def _frame_names(then) -> Kind:
    def kind(case: Case) -> list:
        data = case.copy("kitti")
        for number, name in enumerate(case.rng.sample(NAMES, 4)):
            for folder in ("image_2", "semantic"):
                path = data / "training" / folder / f"{number:06d}_10.png"
                path.rename(path.with_name(name.replace("/", "_") + ".png"))
        return then(case, data)

    return kind


KINDS |= {
    "class names, trained": _class_names(lambda case, path: case.finetune(max_steps=1, label_space=path)),
    "class names, browsed": _class_names(
        lambda case, path: [
            "browse-data",
            "--data_dir",
            case.base / "kitti",
            "--label_space",
            path,
            "--output",
            case.out,
        ]
    ),
    "class names, weighed": _class_names(
        lambda case, path: [
            "class-weights",
            "--data_dir",
            case.base / "kitti",
            "--label_space",
            path,
            "--output",
            case.folder / "w.json",
        ]
    ),
    "class names, prepared": _class_names(
        lambda case, path: [
            "prepare-data",
            "--data_dir",
            case.base / "kitti",
            "--label_space",
            path,
            "--output",
            case.out,
        ]
    ),
    "class names, compared": lambda case: [
        "compare",
        _named_run(case),
        case.folder / "run",
        "--output",
        case.out,
        "--show_images",
        "0",
    ],
    "class names, evaluated": lambda case: [
        "evaluate",
        _named_run(case),
        "--output",
        case.out,
        "--report",
        case.folder / "report.html",
    ],
    "frame names, trained": _frame_names(lambda case, data: case.finetune(data_dir=data, max_steps=1, num_overlays=2)),
    "frame names, evaluated": _frame_names(
        lambda case, data: [
            "evaluate",
            case.base / "run",
            "--data_dir",
            data,
            "--output",
            case.out,
            "--report",
            case.folder / "report.html",
        ]
    ),
    "frame names, browsed": _frame_names(lambda case, data: case.use_data(data)),
    "frame names, predicted": _frame_names(lambda case, data: case.predict(data / "training" / "image_2")),
    "frame names in errors": _frame_names(
        lambda case, data: (case.pick(data, f"training/image_2/*{MARK}*").write_bytes(b"x"), case.use_data(data))[1]
    ),
    "words with escapes": lambda case: case.finetune(
        data_dir=f"\x1b]0;{MARK}\x07", recipe=case.rng.choice(("demo", f"\x1b]0;{MARK}\x07"))
    ),
}
