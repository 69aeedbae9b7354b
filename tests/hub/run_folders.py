"""Folders of finished runs, written by hand in a moment: everything that is pushed, and everything that never is."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import yaml
from folder_contents import read_folder
from safetensors.numpy import save_file

from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.labels import CITYSCAPES

CARD = "---\nlicense: apache-2.0\nlibrary_name: transformers\ntags:\n- segformer\n---\n# A model\n"
FORBIDDEN = (
    "training_args.bin", ".env", "push.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
    "checkpoint-4/optimizer.pt", "checkpoint-4/model.safetensors", "checkpoint-4/config.json", "notes.txt",
    ".staging-export/model.safetensors", ".staging-push-1/model.safetensors", ".metrics.json.tmp", "id_rsa",
    "overlays/.hidden.png", "overlays/deep/scene.png", "overlays/notes.txt", "failures/.env", "__pycache__/x.pyc",
    "pytorch_model.bin", "secrets.json", ".git/config", "runs/demo/notes.txt", "auxiliary_head.safetensors",
    "ema.safetensors",
)  # fmt: skip


def build_png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one pixel with further chunks in front of its end."""
    header = (1).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    body = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def build_run(folder: Path, **recipe) -> Path:
    """A finished run with a card; `recipe` holds further options."""
    for name in ("overlays", "failures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    save_file({"decode_head.classifier.weight": weights}, folder / "model.safetensors", {"format": "pt"})
    options = {"data_dir": None, "dataset": "synthetic", "output_dir": str(folder), "max_steps": 4} | recipe
    texts = {
        "README.md": CARD,
        "config.json": json.dumps({"model_type": "segformer", "semantic_loss_ignore_index": 255}),
        "preprocessor_config.json": json.dumps({"size": {"height": 64, "width": 192}}),
        "recipe.yaml": yaml.safe_dump(options, sort_keys=False),
        "splits.yaml": "train: [a]\ntest: [b]\n",
        "label_space.json": json.dumps(describe_label_space(CITYSCAPES)),
        "class_weights.json": "{}",
        "metrics.json": json.dumps({"splits": {"test": {"mean_iou": 0.5}}}),
        "log_history.json": "{}",
        "teacher.json": json.dumps({"name": "b5", "sha256": "0"}),
        "per_class_test.md": "| road | 0.5 |\n",
        "per_class_test.csv": "road,0.5\n",
        "per_image_test.json": "{}",
        "report.html": "<p>report</p>\n",
        "failures/scene.html": "<p>failure</p>\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("class_distribution", "training_curves", "per_class_test", "overlays/scene", "failures/scene"):
        (folder / f"{name}.png").write_bytes(build_png((b"tEXt", b"Title\0" + name.encode())))
    return folder


def plant_forbidden(folder: Path) -> None:
    """Everything a push must leave alone, each with a content of its own."""
    for name in FORBIDDEN:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}" if name == "push.json" else f"forbidden {name}".encode())


def hash_tree(folder: Path) -> str:
    """Of every file but push.json."""
    digest = hashlib.sha256()
    for name, content in read_folder(folder, ["push.json"]).items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def read_content(content: Path | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()
