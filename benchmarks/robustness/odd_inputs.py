"""Odd but right inputs: what people really have, and what must not be refused."""

import json
import os
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from robustness.cases import Case, Kind

KINDS: dict[str, Kind] = {}


def _frames(data: Path, folder: str = "image_2") -> list[Path]:
    return sorted((data / "training" / folder).glob("*.png"))


def _data(change) -> Kind:
    def kind(case: Case) -> list:
        data = case.copy("kitti")
        data = change(data, case) or data
        return case.use_data(data)

    return kind


def _edit_image(edit) -> Kind:
    def change(data: Path, case: Case) -> None:
        path = case.rng.choice(_frames(data))
        edit(Image.open(path), path, case.rng)

    return _data(change)


def _to_palette(data: Path, case: Case) -> None:
    for path in _frames(data, "semantic"):
        image = Image.fromarray(np.array(Image.open(path)), "L").convert("P")
        image.putdata(list(Image.open(path).getdata()))
        image.putpalette(case.rng.randbytes(768))
        image.save(path)


def _rename(old: str, new: str):
    def change(data: Path, case: Case) -> None:
        for folder in ("image_2", "semantic"):
            for path in _frames(data, folder):
                path.rename(path.with_name(path.name.replace(old, new)))

    return change


def _add_files(*names: str):
    def change(data: Path, case: Case) -> None:
        for name in names:
            for folder in (data, data / "training", data / "training" / "image_2", data / "training" / "semantic"):
                (folder / name).write_text("x")

    return change


def _link(data: Path, case: Case) -> None:
    for path in _frames(data):
        target = path.parents[2] / path.name
        path.rename(target)
        path.symlink_to(target)


def _move(name: str):
    return lambda data, case: data.rename(data.with_name(name))


def _zip(inside: str, method: int = zipfile.ZIP_DEFLATED):
    def kind(case: Case) -> list:
        archive = case.folder / "data.zip"
        with zipfile.ZipFile(archive, "w", method) as bundle:
            for path in sorted((case.base / "kitti").rglob("*.png")):
                bundle.write(path, inside + str(path.relative_to(case.base / "kitti")))
        return case.use_data(archive)

    return kind


def _void_one(data: Path, case: Case) -> None:
    path = case.rng.choice(_frames(data, "semantic"))
    Image.new("L", Image.open(path).size, 0).save(path)


KINDS |= {
    "image in grey": _edit_image(lambda image, path, rng: image.convert("L").save(path)),
    "image with alpha": _edit_image(lambda image, path, rng: image.convert("RGBA").save(path)),
    "image with a palette": _edit_image(lambda image, path, rng: image.convert("P").save(path)),
    "image that is a JPEG": _edit_image(
        lambda image, path, rng: (image.save(path.with_suffix(".JPG"), "JPEG"), path.unlink())
    ),
    "image that is a BMP": _edit_image(lambda image, path, rng: (image.save(path.with_suffix(".bmp")), path.unlink())),
    "image with EXIF, not turned": _edit_image(lambda image, path, rng: image.save(path, exif=_exif(1))),
    "image with a text chunk": _edit_image(lambda image, path, rng: image.save(path, dpi=(72, 72))),
    "image all black": _edit_image(lambda image, path, rng: Image.new("RGB", image.size).save(path)),
    "label with a palette": _data(_to_palette),
    "label void in one frame": _data(_void_one),
    "frames with spaces": _data(_rename("_10", " 10")),
    "frames in unicode": _data(_rename("_10", "_straße_東京")),
    "frames with dots": _data(_rename("_10", ".v2.10")),
    "frames like numbers": _data(_rename("_10", "")),
    "frames with signs": _data(_rename("_10", "=1+1,'#[x]&")),
    "frames with long names": _data(_rename("_10", "_" + "x" * 200)),
    "hidden files beside": _data(_add_files(".DS_Store", "._000000_10.png", ".gitignore")),
    "other files beside": _data(_add_files("Thumbs.db", "notes.txt", "README")),
    "frames as links": _data(_link),
    "folder with spaces": _data(_move("my data")),
    "folder in unicode": _data(_move("Straßen 東京")),
    "folder named like an archive": _data(_move("data.zip")),
    "folder with a quote": _data(_move("it's [1] {x}")),
    "zip of one folder": _zip("data_semantics/"),
    "zip stored": _zip("", zipfile.ZIP_STORED),
    "data read-only": _data(lambda data, case: [path.chmod(0o444) for path in data.rglob("*.png")] and None),
    "path relative": lambda case: [
        *case.use_data(Path("data")),
        *(case.copy("kitti").rename(case.folder / "data") and []),
    ],
}


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# Classes, splits, recipes


def _classes(change) -> Kind:
    def kind(case: Case) -> list:
        content = case.read_classes()
        change(content, case.rng)
        return case.use_data(case.base / "kitti", label_space=case.write("classes.yaml", content))

    return kind


NAMES = (
    "Straße",
    "a b",
    "=1+1",
    "<b>",
    "a|b",
    "1",
    "off",
    "[x]",
    "it's",
    '"',
    "x" * 80,
    "東京",
    "a,b",
    "a: b",
    "#1",
    "*",
)


def _split_file(make) -> Kind:
    def kind(case: Case) -> list:
        names = [path.stem for path in _frames(case.base / "kitti")]
        case.rng.shuffle(names)
        return case.use_data(case.base / "kitti", split_file=case.write("splits.yaml", make(names)))

    return kind


KINDS |= {
    "class of an odd name": _classes(
        lambda content, rng: rng.choice(content["classes"]).update(name=rng.choice(NAMES))
    ),
    "classes all of odd names": _classes(
        lambda content, rng: [
            one.update(name=f"{NAMES[i % len(NAMES)]}{i}") for i, one in enumerate(content["classes"])
        ]
    ),
    "classes without categories": _classes(lambda content, rng: [one.pop("category") for one in content["classes"]]),
    "classes of one colour": _classes(lambda content, rng: [one.update(color=[9, 9, 9]) for one in content["classes"]]),
    "class with two ids": _classes(lambda content, rng: content["classes"][0].update(label_ids=[7, 200])),
    "classes in two": _classes(
        lambda content, rng: content.update(
            classes=[
                {"name": "road", "color": [1, 2, 3], "label_ids": [7]},
                {
                    "name": "rest",
                    "color": [4, 5, 6],
                    "label_ids": [i for i in range(8, 34) if i not in content["void"]],
                },
            ]
        )
    ),
    "splits without validation": _split_file(lambda names: {"train": names[:5], "test": names[5:]}),
    "splits of train alone": _split_file(lambda names: {"train": names}),
    "splits of one frame each": _split_file(
        lambda names: {"train": names[:1], "validation": names[1:2], "test": names[2:3]}
    ),
    "splits with comments": _split_file(
        lambda names: "# mine\ntrain:\n" + "".join(f"- {name}  # x\n" for name in names[:5])
    ),
    "splits with a byte order mark": _split_file(
        lambda names: "\ufeff" + json.dumps({"train": names[:5], "test": names[5:]})
    ),
    "splits with carriage returns": _split_file(
        lambda names: "train:\r\n" + "".join(f"- {name}\r\n" for name in names[:5])
    ),
}


# Runs of one step, predictions, comparisons


def _train(**choices) -> Kind:
    def kind(case: Case) -> list:
        options = {name: case.rng.choice(values) for name, values in choices.items()}
        return case.finetune(max_steps=1, **options)

    return kind


def _predict(make) -> Kind:
    return lambda case: case.predict(*make(case))


def _image(name: str, mode: str, size: tuple[int, int]):
    def make(case: Case) -> list[Path]:
        pixels = np.frombuffer(random.Random(0).randbytes(size[0] * size[1] * 3), np.uint8).reshape(size[1], size[0], 3)
        Image.fromarray(pixels).convert(mode).save(case.folder / name)
        return [case.folder / name]

    return make


def _moved_run(case: Case) -> list:
    run = case.copy("run").rename(case.folder / "my run (1)")
    return case.rng.choice(
        (
            ["evaluate", run],
            ["compare", case.base / "run", run, "--output", case.out, "--show_images", "0"],
            ["publish", run, "you/model", "--dry_run"],
            ["profile-model", "--model", run, "--counts_only"],
            [
                "convert-checkpoint",
                run,
                "--to",
                "mmsegmentation",
                "--decoder",
                "keep",
                "--output",
                case.folder / "a.pth",
            ],
        )
    )


def _deep_output(case: Case) -> list:
    return case.finetune(max_steps=1, output_dir=case.folder / "a" / "b c" / "ü" / "run")


KINDS |= {
    "run with odd options": _train(
        learning_rate=(0, "1e-30", 1),
        weight_decay=(0, 1),
        flip=(0, 1),
        max_class_share=(0.1, 1),
        warmup_steps=(0, 0.5, 9),
        lr_scheduler_type=("polynomial", "constant", "cosine"),
        gradient_accumulation_steps=(1, 3),
        class_weights=("none", "enet"),
    ),
    "run with odd losses": _train(
        loss=("focal", "dice", "lovasz", "ohem"),
        ohem_min_kept=(1, 10**9),
        normalizer=("valid_pixels", "weight_sum"),
        focal_gamma=(0, 5),
        auxiliary_head=("true", "false"),
        auxiliary_stage=(1, 4),
    ),
    "run with odd batches": _train(
        per_device_train_batch_size=(1, 9), per_device_eval_batch_size=(1, 50), dataloader_num_workers=(0, 1)
    ),
    "run with odd scales": _train(
        train_scales=("0.5-2.0", "48x96", "3", "0.4 1"), crop_size=("32 32", "96 32", "128 256")
    ),
    "run without held-out frames": _train(
        test_fraction=(0,), validation_fraction=(0,), eval_strategy=("no",), load_best_model_at_end=("false",)
    ),
    "run in a deep folder": _deep_output,
    "run in an existing folder": lambda case: (
        case.out.mkdir(),
        (case.out / "notes.txt").write_text("mine"),
        case.finetune(max_steps=1),
    )[-1],
    "run that is moved": _moved_run,
    "predict of grey": _predict(_image("a.png", "L", (90, 50))),
    "predict of one pixel": _predict(_image("a.png", "RGB", (1, 1))),
    "predict of a strip": _predict(_image("a.bmp", "RGB", (400, 2))),
    "predict of alpha": _predict(_image("ü =1.png", "RGBA", (64, 64))),
    "predict of CMYK": _predict(_image("a.jpg", "CMYK", (64, 64))),
    "predict of a folder with others": _predict(lambda case: [_mixed(case)]),
}


def _mixed(case: Case) -> Path:
    folder = case.folder / "mixed"
    folder.mkdir()
    shutil.copy(case.pick(case.base / "kitti", "training/image_2/*.png"), folder / "a.png")
    (folder / "notes.txt").write_text("x")
    (folder / "below").mkdir()
    os.symlink(folder / "a.png", folder / "b.png")
    return folder
