"""A generated input: a folder of its own, what it is made from, and what a command may leave behind."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from robustness.tiny_runs import OPTIONS, write_words
from robustness.warm import call, run


@dataclass
class Case:
    """What a kind gets: it makes files in `folder` and returns the words of a command.

    Args:
        folder: Empty, its own.
        base: Good inputs to copy and spoil: kitti/, kitti.zip, set/, run/, taught/, model.pth, classes.json,
            weights.json.
    """

    folder: Path
    base: Path
    rng: Random
    environment: dict = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def copy(self, name: str) -> Path:
        target = self.folder / name
        (shutil.copytree if (self.base / name).is_dir() else shutil.copy)(self.base / name, target)
        return target

    def write(self, name: str, content) -> Path:
        """Text as it is, bytes as they are, the rest as JSON, which is YAML, too."""
        path = self.folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    def read_classes(self) -> dict:
        return json.loads((self.base / "classes.json").read_text())

    def pick(self, folder: Path, pattern: str) -> Path:
        return self.rng.choice(sorted(folder.glob(pattern)))

    # Words of commands.

    def finetune(self, **options) -> list[str]:
        given = {"data_dir": self.base / "kitti", "output_dir": self.out, "max_steps": 2} | options
        return ["finetune", *write_words(OPTIONS | given)]

    def use_data(self, data: Path, **options) -> list[str]:
        """Any command that reads data."""
        words = write_words({"data_dir": data} | options)
        ways = (
            ["prepare-data", "--output", self.out],
            ["class-weights", "--output", self.out / "weights.json"],
            ["browse-data", "--output", self.out],
            self.finetune(data_dir=data, **options),
        )
        chosen = self.rng.choice(ways)
        return chosen if chosen[0] == "finetune" else [*chosen, *words]

    def use_model(self, model: Path, processor: bool = False) -> list:
        """Any command that loads a model, or with `processor` its image processor, too."""
        image = next((self.base / "kitti").rglob("image_2/*.png"))
        ways = [
            ["predict", "--model", model, "--input", image, "--output", self.out],
            ["evaluate", "--model", model, "--data_dir", self.base / "kitti", "--output", self.out],
            self.finetune(init="pretrained", model_name_or_path=model),
            ["convert-checkpoint", model, "--to", "nvlabs", "--output", self.folder / "out.pth"],
            self.finetune(teacher=model),
            ["teach", "--teacher", model, "--data_dir", self.base / "kitti", "--output", self.out],
        ]
        return self.rng.choice(ways[:2] if processor else ways)

    def predict(self, *inputs) -> list:
        return ["predict", "--model", self.base / "run", "--output", self.out, "--input", *inputs]


def list_files(folder: Path) -> dict[str, tuple]:
    """Everything but empty folders, locks, and caches of what was read."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if (path.is_symlink() or not path.is_dir()) and not path.name.endswith(".lock"):
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def make_base(folder: Path) -> Path:
    from rendered_kitti import write_kitti

    folder.mkdir()
    call(write_kitti, folder / "kitti", range(8), (48, 96))
    shutil.make_archive(str(folder / "kitti"), "zip", folder / "kitti")
    for words in (
        ["prepare-data", "--data_dir", folder / "kitti", "--output", folder / "set"],
        Case(folder, folder, Random(0)).finetune(output_dir=folder / "run", cpu_threads=1),
        ["convert-checkpoint", folder / "run", "--to", "nvlabs", "--output", folder / "model.pth"],
        ["teach", "--teacher", folder / "run", "--data_dir", folder / "kitti", "--output", folder / "taught"],
    ):
        ended = run(words, folder)
        if ended.status != 0:
            raise SystemExit(f"nothing to spoil: {' '.join(map(str, words))}\n{ended.err}")
    shutil.copy(folder / "run" / "label_space.json", folder / "classes.json")
    shutil.copy(folder / "run" / "class_weights.json", folder / "weights.json")
    return folder


Kind = Callable[[Case], list]


def describe_fault(ended, before: dict, after: dict) -> str | None:
    """What is wrong with a refusal."""
    fault = ended.describe_refusal()
    if fault is None and before != after:
        changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        fault = f"left or changed {', '.join(sorted(changed)[:3])}"
    if fault is None and ended.seconds > 60:
        fault = f"{ended.seconds:.0f} s"
    if fault is None and ended.megabytes > 2048:
        fault = f"{ended.megabytes:.0f} MB"
    return fault
