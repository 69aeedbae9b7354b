"""A folder in which the names that the pages use exist, small enough for a command to take a second."""

import json
import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import segformer_references as references
import torch
from PIL import Image
from rendered_kitti import write_kitti

from hf_urbanseg.__main__ import main
from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import SIZES, build_random_model
from hf_urbanseg.models.convert.from_hub import convert_from_hub, save_checkpoint_file

FRAMES, TOGETHER = range(36, 48), "000043_10,000044_10,000046_10,000047_10"
"""Among the frames are those that the pages keep together."""
RUN = "runs/segformer_b2_kitti"
SAME_RUN = ("runs/demo", "runs/b0", "runs/b2", "runs/pretrain_camvid_tiny", "runs/segformer_b5_kitti")
SAME_RUN += ("runs/pretrain_camvid_b0", "runs/teacher")


def build_miniature(root: Path) -> None:
    """Fills the working folder `root`. Runs are made by the commands themselves, so those must be capped already."""
    write_kitti(root / "kitti48", FRAMES, (48, 160), vary=False)
    with zipfile.ZipFile(root / "data_semantics.zip", "w") as archive:
        for file in sorted((root / "kitti48").rglob("*.png")):
            archive.write(file, file.relative_to(root / "kitti48"))
    shutil.copytree(root / "kitti48", root / "kitti")
    _write_kitti_test(root / "kitti", root / "submission.zip")
    _write_camvid(root / "camvid")
    shutil.copytree(root / "camvid", root / "folder")
    _write_masks(root / "my_masks", 3, 1)
    _write_masks(root / "binary_masks", 2, 255)
    camvid = Path(__file__).parents[2] / "hf_urbanseg" / "data" / "label_spaces" / "camvid.yaml"
    shutil.copy(camvid, root / "classes.yaml")
    image, _ = render_scene(1, (64, 96))
    Image.fromarray(image).save(root / "street.png")
    _write_video(root / "drive.mp4")
    _write_export(root / "my_export")

    main(["finetune", "--recipe", "segformer_b2_kitti", "--data_dir", "data_semantics.zip"])
    for name in SAME_RUN:
        shutil.copytree(root / RUN, root / name, ignore=shutil.ignore_patterns("checkpoint-*"))
    main(["export", "runs/demo", "--frames", "1"])
    shutil.copy(root / RUN / "splits.yaml", root / "splits.yaml")
    main(["prepare-data", "--data_dir", "data_semantics.zip", "--output", "prepared/kitti"])
    shards = ["--output", "prepared/shards", "--rows_per_shard", "1000"]
    main(["prepare-data", "--data_dir", "data_semantics.zip", *shards])
    main(["teach", "--teacher", RUN, "--data_dir", "data_semantics.zip", "--output", "runs/taught_by_b5"])
    cuts = ["--test_fraction", "0.25", "--validation_fraction", "0", "--keep_together", TOGETHER]
    main(["teach", "--teacher", RUN, "--data_dir", "kitti48", *cuts, "--output", "runs/taught"])

    torch.manual_seed(0)
    build_random_model("tiny", CITYSCAPES, "pspnet").save_pretrained(root / "runs" / "pspnet")
    model = build_random_model("tiny", CITYSCAPES)
    save_checkpoint_file(convert_from_hub(model, "nvlabs"), root / "nvlabs.pth", CITYSCAPES.colors)
    widths, depths = SIZES["tiny"]["hidden_sizes"], SIZES["tiny"]["depths"]
    segmentor = references.Segmentor(references.MmsegEncoder(widths, depths), references.MmsegHead(widths, 16, 19))
    torch.save({"state_dict": references.randomize(segmentor).state_dict()}, root / "mmsegmentation.pth")
    main(["convert-checkpoint", "nvlabs.pth", "--output", "converted/nvlabs"])


def _write_kitti_test(root: Path, submission: Path) -> None:
    """The 200 test images, and a zip that the server would take."""
    folder = root / "testing" / "image_2"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    label = BytesIO()
    Image.fromarray(np.full((32, 64), 23, np.uint8)).save(label, format="PNG")
    with zipfile.ZipFile(submission, "w") as archive:
        for number in range(200):
            Image.fromarray(noise.integers(0, 256, (32, 64, 3), np.uint8)).save(folder / f"{number:06d}_10.png")
            archive.writestr(f"semantic/{number:06d}_10.png", label.getvalue())


def _write_camvid(root: Path) -> None:
    for number, split in enumerate(["train"] * 4 + ["val"] * 2):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        image, label = render_scene(100 + number, (48, 96))
        Image.fromarray(image).save(root / split / "images" / f"{number:04d}.png")
        Image.fromarray(label % 12).save(root / split / "labels" / f"{number:04d}.png")


def _write_masks(root: Path, count: int, step: int) -> None:
    """Plain folders of images and masks, without a list of classes."""
    for number in range(4):
        image, label = render_scene(200 + number, (48, 96))
        for kind, pixels in (("images", image), ("masks", label % count * np.uint8(step))):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / kind / f"{number:04d}.png")


def _write_export(folder: Path) -> None:
    """COCO's JSON of one polygon a picture."""
    folder.mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "car"}]}
    for number in range(6):
        Image.fromarray(render_scene(200 + number, (48, 96))[0]).save(folder / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 96})
        outline = [[9, 9, 60, 9, 60 - number, 40]]
        content["annotations"].append({"image_id": number, "category_id": 1, "segmentation": outline})
    (folder / "annotations.json").write_text(json.dumps(content))


def _write_video(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(render_scene(number, (64, 96))[0], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
