"""Images of more than three channels, from their files to a model that plain transformers loads."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from transformers import AutoModelForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

import hf_urbanseg
from hf_urbanseg.commands import evaluate, predict
from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.errors import ConfigError, DataError, ModelError

SIZE = (40, 60)


def add_band(image, label):
    """What a camera can't see: the fourth channel alone tells what is a car."""
    return np.dstack([image, np.where(label == 26, 255, 0).astype(np.uint8)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """KITTI's layout with GeoTIFFs' two arrangements and RGBA pictures as images, and the same as arrays beside it."""
    root = tmp_path_factory.mktemp("bands")
    images, labels = (root / "training" / kind for kind in ("image_2", "semantic"))
    images.mkdir(parents=True)
    labels.mkdir()
    (root / "arrays").mkdir()
    for number in range(8):
        image, label = render_scene(number, (SIZE[0] + number % 3, SIZE[1]))
        pixels, name = add_band(image, label), f"{number:06d}_10"
        Image.fromarray(label).save(labels / f"{name}.png")
        np.save(root / "arrays" / f"{name}.npy", pixels)
        match number % 3:
            case 0:
                options = {"photometric": "minisblack", "planarconfig": "contig", "compression": "lzw"}
                tifffile.imwrite(images / f"{name}.tif", pixels, **options)
            case 1:
                planes = np.moveaxis(pixels, -1, 0)
                tifffile.imwrite(images / f"{name}.tif", planes, photometric="rgb", planarconfig="separate")
            case 2:
                Image.fromarray(pixels).save(images / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return hf_urbanseg.finetune(
        "segformer_b0_kitti", init="random", size="tiny", data_dir=data, channels=4,
        output_dir=tmp_path_factory.mktemp("runs") / "four", crop_size=[64, 64], train_scales=["1.0"], max_steps=3,
        warmup_steps=1, eval_steps=3, save_steps=3, per_device_train_batch_size=2, num_overlays=2, cpu_threads=1,
        learning_rate=1e-2, dataloader_num_workers=0,
    )  # fmt: skip


def test_channels__plain_transformers_predicts_the_same(trained, data):
    predictor = hf_urbanseg.Predictor.from_pretrained(trained.path, "cpu")
    processor = SegformerImageProcessorPil.from_pretrained(trained.path)
    model = AutoModelForSemanticSegmentation.from_pretrained(trained.path).eval()
    assert model.config.num_channels == 4
    files = sorted([*(data / "training" / "image_2").iterdir(), *(data / "arrays").iterdir()])
    for file, found in zip(files, predictor.predict(files), strict=True):
        number = int(file.stem[:6])
        pixels = add_band(*render_scene(number, (SIZE[0] + number % 3, SIZE[1])))
        for form in (pixels, torch.from_numpy(pixels).permute(2, 0, 1)):
            np.testing.assert_array_equal(predictor.predict(form), found)
        with torch.no_grad():
            outputs = model(**processor(pixels, input_data_format="channels_last", return_tensors="pt"))
        expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[pixels.shape[:2]])[0].numpy()
        assert (found == expected).mean() > 0.999
    weights = model.segformer.stages[0].patch_embeddings.proj.weight
    assert weights[:, 3].abs().max() > 0  # it has learnt something of the fourth


def test_channels__measured_again_and_predicted_by_the_commands(trained, data, tmp_path, monkeypatch, capsys):
    scores = trained.read_metrics()["splits"]["test"]
    evaluate.main([str(trained.path), "--output", str(tmp_path / "again"), "--device", "cpu"])
    again = hf_urbanseg.RunFolder(tmp_path / "again").read_metrics()["splits"]["test"]
    assert (again["mean_iou"], again["protocol"]) == (scores["mean_iou"], scores["protocol"])
    predict.main([str(trained.path), str(data / "arrays"), "--output", str(tmp_path / "predictions")])
    assert "for 8 images" in capsys.readouterr().out
    assert Image.open(tmp_path / "predictions" / "000000_10_overlay.png").mode == "RGB"


def test_channels__what_does_not_fit_is_refused(trained, data, tmp_path):
    options = {"init": "random", "size": "tiny", "data_dir": data, "output_dir": tmp_path / "run"}
    for given, error, said in (
        (
            {},
            DataError,
            "found bands that Pillow doesn't know",
        ),
        ({"channels": 5}, DataError, "000000_10.tif: expected an image of 5 channels; found 4"),
        ({"channels": 4, "freeze_encoder": True}, ConfigError, "`channels` 4 without `freeze_encoder`"),
        ({"channels": 4, "teacher": "nobody"}, ConfigError, "`channels` 4 without `teacher`"),
        (
            {"channels": 4, "unlabelled": ["none"], "unlabelled_teacher": "nobody"},
            ConfigError,
            "`channels` 4 without `unlabelled_teacher`",
        ),
        ({"channels": 4, "architecture": "unet"}, ModelError, "found a `"),
    ):
        with pytest.raises(error) as caught:
            hf_urbanseg.finetune("segformer_b0_kitti", **options | given)
        assert said in str(caught.value)
    assert not (tmp_path / "run").exists()
    predictor = hf_urbanseg.Predictor.from_pretrained(trained.path, "cpu")
    for image in (Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(DataError, match=r"an array \(H, W, 4\) or a tensor \(4, H, W\), both uint8; found"):
            predictor.predict(image)
    Image.new("RGB", (8, 8)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match=r"rgb\.png: expected an image of 4 channels; found 3"):
        predictor.predict(tmp_path / "rgb.png")
