import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation

from hf_urbanseg.commands import evaluate, predict
from hf_urbanseg.commands.convert_checkpoint import main
from hf_urbanseg.data.label_space_files import describe_label_space, write_label_space
from hf_urbanseg.data.own_files import LABEL_SPACE_FILE
from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES, LabelSpace
from hf_urbanseg.models.build import SIZES, build_random_model, load_pretrained_model
from hf_urbanseg.models.convert.from_hub import convert_from_hub, save_checkpoint_file
from hf_urbanseg.models.loading import SegformerImageProcessorPil, quiet_transformers

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "segformer_references", ROOT / "tests" / "models" / "convert" / "segformer_references.py"
)
references = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(references)
SIZE = ("--eval_size", "64", "96")
SCENE = render_scene(4, (75, 190))[0]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_random_model("tiny", CITYSCAPES, decoder_hidden_size=24).eval()


@pytest.fixture
def checkpoint(model, tmp_path):
    save_checkpoint_file(convert_from_hub(model, "nvlabs"), tmp_path / "model.pth", CITYSCAPES.colors)
    return tmp_path / "model.pth"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command; returns the status and what was printed where."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@torch.no_grad()
def logits(model):
    return model(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))).logits


def test_convert_checkpoint__folder_that_predicts(run, checkpoint, model, tmp_path):
    status, out, err = run(checkpoint, "--output", tmp_path / "run", *SIZE)
    assert (status, err) == (0, "")
    assert "SegFormer-tiny, 19 classes, decoder of width 24: 136 tensors used, each once (NVlabs layout)" in out
    assert "dropped: classifier that NVlabs' forward never reads, 2 tensors" in out
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["architectures"] == ["SegformerForSemanticSegmentation"]
    assert config["id2label"]["13"] == "car"
    assert config["semantic_loss_ignore_index"] == 255
    with quiet_transformers():
        assert torch.equal(logits(AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "run")), logits(model))
    predictor = Predictor.from_pretrained(tmp_path / "run", "cpu")
    assert predictor.image_processor.size == {"height": 64, "width": 96}
    assert predictor.predict([Image.new("RGB", (50, 40))])[0].shape == (40, 50)


def test_convert_checkpoint__same_layout_as_transformers_saves(run, checkpoint, model, tmp_path):
    # One file for every supported version of transformers: the names that they all write and read.
    run(checkpoint, "--output", tmp_path / "run", *SIZE)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "saved")
    one, two = (load_file(tmp_path / folder / "model.safetensors") for folder in ("run", "saved"))
    assert one.keys() == two.keys()
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in one
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_convert_checkpoint__there_and_back(run, checkpoint, tmp_path):
    run(checkpoint, "--output", tmp_path / "run", *SIZE)
    status, out, _ = run(tmp_path / "run", "--to", "nvlabs", "--output", tmp_path / "again.pth")
    assert status == 0
    assert "138 tensors written" in out
    one, two = (torch.load(path, weights_only=True) for path in (checkpoint, tmp_path / "again.pth"))
    assert two["meta"].pop("hf_urbanseg")["image_processor"]["size"] == {"height": 64, "width": 96}
    assert one["meta"] == two["meta"]
    assert one["state_dict"].keys() == two["state_dict"].keys()
    assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in one["state_dict"])


@pytest.fixture
def folder(tmp_path):
    """A folder that says in every way something else than what is assumed where nothing is said."""
    space = LabelSpace("mine", ("road", "rest"), ((9, 8, 7), (6, 5, 4)), {3: 0, 7: 1})
    torch.manual_seed(3)
    model = build_random_model(
        "tiny", space, decoder_hidden_size=24, classifier_dropout_prob=0.3, drop_path_rate=0.25,
        hidden_dropout_prob=0.2, semantic_loss_ignore_index=254,
    )  # fmt: skip
    for name, tensor in model.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 1.5)
    processor = SegformerImageProcessorPil(
        size={"height": 64, "width": 160}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], resample=3
    )
    with torch.no_grad():  # both classes are predicted
        road, rest = model.eval()(**processor(Image.fromarray(SCENE), return_tensors="pt")).logits[0]
        model.decode_head.classifier.bias[0] -= (road - rest).median()
    model.save_pretrained(tmp_path / "mine")
    processor.save_pretrained(tmp_path / "mine")
    write_label_space(tmp_path / "mine" / LABEL_SPACE_FILE, space)
    return tmp_path / "mine"


def predict_both(one, two) -> list[np.ndarray]:
    """At the image's own size, and the colours of the classes."""
    image = Image.fromarray(SCENE)
    predictors = [Predictor.from_pretrained(folder, "cpu") for folder in (one, two)]
    assert predictors[0].label_space == predictors[1].label_space
    return [predictor.predict(image) for predictor in predictors]


@pytest.mark.parametrize("layout", ["nvlabs", "mmsegmentation"])
def test_convert_checkpoint__a_folder_comes_back_as_it_was(run, folder, tmp_path, layout):
    assert run(folder, "--to", layout, "--output", tmp_path / "file.pth")[0] == 0
    status, _, err = run(tmp_path / "file.pth", "--output", tmp_path / "back")
    assert (status, err) == (0, "")
    for name in ("config.json", "preprocessor_config.json", LABEL_SPACE_FILE):
        one, two = (json.loads((path / name).read_text()) for path in (folder, tmp_path / "back"))
        assert one == two, name
    before, after = predict_both(folder, tmp_path / "back")
    assert len(np.unique(before)) == 2
    assert np.array_equal(before, after)
    assert torch.load(tmp_path / "file.pth", weights_only=True)["meta"]["PALETTE"] == [[9, 8, 7], [6, 5, 4]]
    if layout == "nvlabs":  # MMSegmentation's decoder is the same function in other numbers
        one, two = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
        assert all(torch.equal(one[name], two[name]) for name in one | two)


@pytest.mark.parametrize("key", ["do_reduce_labels", "reduce_labels"])
def test_convert_checkpoint__a_processor_that_reduces_labels_comes_back_as_it_is(run, folder, tmp_path, caplog, key):
    """As the Hub's folders for ADE20K have it."""
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: True}))
    assert run(folder, "--to", "nvlabs", "--output", tmp_path / "file.pth")[0] == 0
    assert run(tmp_path / "file.pth", "--output", tmp_path / "back")[0] == 0
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
    before, after = (SegformerImageProcessorPil.from_pretrained(one) for one in (folder, tmp_path / "back"))
    assert after.to_dict() == before.to_dict()
    assert key == "reduce_labels" or after.do_reduce_labels


def test_convert_checkpoint__another_size_keeps_the_rest(run, folder, tmp_path):
    run(folder, "--to", "nvlabs", "--output", tmp_path / "file.pth")
    assert run(tmp_path / "file.pth", "--output", tmp_path / "back", *SIZE)[0] == 0
    processor = json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())
    assert (processor["size"], processor["image_mean"]) == ({"height": 64, "width": 96}, [0.4, 0.5, 0.6])


def test_convert_checkpoint__a_file_of_others_says_no_size(run, checkpoint, tmp_path, caplog):
    assert run(checkpoint, "--output", tmp_path / "run")[0] == 0
    assert f"{checkpoint} says no input size: taken as 1024 2048, Cityscapes' own; see `--eval_size`" in caplog.text
    assert Predictor.from_pretrained(tmp_path / "run").base_size == (1024, 2048)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("image_processor", {"size": "x"}),
        ("label_space", {"classes": 5}),
        ("config", {"drop_path_rate": "x"}),
        ("config", {"classifier_dropout_prob": 5}),
    ],
)
def test_convert_checkpoint__a_file_that_says_nonsense(run, folder, tmp_path, part, value):
    run(folder, "--to", "nvlabs", "--output", tmp_path / "file.pth")
    content = torch.load(tmp_path / "file.pth", weights_only=True)
    content["meta"]["hf_urbanseg"][part] = value
    torch.save(content, tmp_path / "file.pth")
    status, _, err = run(tmp_path / "file.pth", "--output", tmp_path / "back")
    assert (status, err.count("\n")) == (2, 1)
    assert not (tmp_path / "back").exists()


def test_convert_checkpoint__mmsegmentation(run, checkpoint, model, tmp_path):
    run(checkpoint, "--output", tmp_path / "run", *SIZE)
    status, out, _ = run(tmp_path / "run", "--to", "mmsegmentation", "--output", tmp_path / "mm.pth")
    assert status == 0
    assert "equal at inference" in out
    file = torch.load(tmp_path / "mm.pth", weights_only=True)
    status, out, _ = run(tmp_path / "mm.pth", "--output", tmp_path / "back", *SIZE)
    assert status == 0
    with quiet_transformers():
        back = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "back")
    assert torch.allclose(logits(back), logits(model), atol=1e-5)
    # As after training there: ReLUs that cut.
    file["state_dict"]["decode_head.convs.2.bn.bias"] -= 5
    torch.save(file, tmp_path / "trained.pth")
    status, out, err = run(tmp_path / "trained.pth", "--output", tmp_path / "no", *SIZE)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {tmp_path / 'trained.pth'}: expected a decoder without non-linear layers")
    assert "`--decoder keep`" in err
    assert "`--decoder drop`" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "no").exists()


@pytest.fixture
def kept(run, tmp_path):
    """A folder with MMSegmentation's decoder, and the network it was converted from."""
    widths, depths = SIZES["tiny"]["hidden_sizes"], SIZES["tiny"]["depths"]
    network = references.Segmentor(references.MmsegEncoder(widths, depths), references.MmsegHead(widths, 256, 19))
    references.randomize(network, seed=6)
    torch.save({"state_dict": network.state_dict(), "meta": {"CLASSES": CITYSCAPES.names}}, tmp_path / "mmseg.pth")
    status, out, err = run(tmp_path / "mmseg.pth", "--output", tmp_path / "kept", "--decoder", "keep", *SIZE)
    assert (status, err) == (0, "")
    assert "hf_urbanseg loads it, plain transformers refuses the folder" in out
    return tmp_path / "kept", network


def test_convert_checkpoint__kept_decoder_there_and_back(run, kept, tmp_path):
    folder, network = kept
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "segformer_conv_decoder"
    assert config["architectures"] == ["SegformerConvDecoderForSemanticSegmentation"]
    status, out, _ = run(folder, "--to", "mmsegmentation", "--output", tmp_path / "again.pth")
    assert status == 0
    assert "equal at inference" not in out  # it is equal in training, too
    again = torch.load(tmp_path / "again.pth", weights_only=True)["state_dict"]
    assert again.keys() == network.state_dict().keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in network.state_dict().items())
    status, _, err = run(folder, "--to", "nvlabs", "--output", tmp_path / "nvlabs.pth")
    assert status == 2
    assert err.count("\n") == 1
    words = ("--to", "mmsegmentation", "--decoder", "drop", "--output", tmp_path / "encoder.pth")
    status, out, _ = run(folder, *words)
    assert status == 0
    assert "dropped: decoder, 32 tensors" in out
    encoder = torch.load(tmp_path / "encoder.pth", weights_only=True)["state_dict"]
    assert encoder.keys() == network.backbone.state_dict().keys()


def test_convert_checkpoint__other_networks_are_one_line(run, tmp_path):
    with quiet_transformers():
        build_random_model("tiny", CITYSCAPES, "pspnet").save_pretrained(tmp_path / "pspnet")
    status, _, err = run(tmp_path / "pspnet", "--to", "mmsegmentation", "--output", tmp_path / "out.pth")
    found = "expected a SegFormer; found model type `urbanseg_pspnet`; choose another model."
    assert (status, err) == (2, f"error: {tmp_path}/pspnet: {found}\n")
    assert not (tmp_path / "out.pth").exists()


def test_convert_checkpoint__kept_decoder_without_this_package(kept):
    # In a process that never imports hf_urbanseg: every Auto class and pipeline begins with the configuration.
    code = "import sys, transformers; transformers.AutoConfig.from_pretrained(sys.argv[1])"
    command = [sys.executable, "-c", code, str(kept[0])]
    result = subprocess.run(command, capture_output=True, text=True, cwd=kept[0].parent)
    assert result.returncode == 1
    assert "ValueError" in result.stderr
    assert "model type `segformer_conv_decoder`" in result.stderr


@torch.no_grad()
def test_convert_checkpoint__kept_decoder_predicts_and_is_measured(kept, tmp_path, monkeypatch):
    folder, network = kept
    for kind in ("image_2", "semantic"):
        (tmp_path / "data" / "training" / kind).mkdir(parents=True)
    matrix = np.zeros((19, 19))
    for number in range(3):
        image, label = render_scene(number, (64, 96))
        for kind, pixels in (("image_2", image), ("semantic", label)):
            Image.fromarray(pixels).save(tmp_path / "data" / "training" / kind / f"{number:06d}_10.png")
        normalized = (image / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        logits = network.double()(torch.tensor(normalized).permute(2, 0, 1)[None])
        predicted = F.interpolate(logits, (64, 96), mode="bilinear", align_corners=False)[0].argmax(0).numpy()
        truth = CITYSCAPES.train_id_table[label]
        if number > 0:
            np.add.at(matrix, (truth[truth != 255], predicted[truth != 255]), 1)
    image = tmp_path / "data" / "training" / "image_2" / "000002_10.png"
    words = f"predict.py --model {folder} --input {image} --output {tmp_path / 'out'}"
    monkeypatch.setattr(sys, "argv", words.split())
    predict.main()
    written = np.asarray(Image.open(tmp_path / "out" / "000002_10_train_id.png"))
    assert (written == predicted).mean() > 0.999  # a tie in single precision
    (tmp_path / "splits.yaml").write_text("train: [000000_10]\ntest: [000001_10, 000002_10]\n")
    words = f"evaluate.py --model {folder} --data_dir {tmp_path / 'data'} --split_file {tmp_path / 'splits.yaml'}"
    words += f" --validation_fraction 0 --num_workers 0 --output {tmp_path / 'scores'}"
    monkeypatch.setattr(sys, "argv", words.split())
    evaluate.main()
    found = json.loads((tmp_path / "scores" / "metrics.json").read_text())["splits"]["test"]
    assert np.abs(np.array(found["confusion_matrix"]) - matrix).sum() <= 0.002 * matrix.sum()


def test_convert_checkpoint__encoder_alone(run, checkpoint, model, tmp_path, caplog):
    status, out, _ = run(checkpoint, "--output", tmp_path / "run", "--decoder", "drop", *SIZE)
    assert status == 0
    assert "encoder alone" in out
    assert "dropped: decoder, 18 tensors" in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["architectures"] == ["SegformerModel"]
    loaded = load_pretrained_model(str(tmp_path / "run"), CITYSCAPES)
    assert "the decode head starts from random weights" in caplog.text
    state = model.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[name]) or name.startswith("decode_head.")
    (tmp_path / "run" / "preprocessor_config.json").unlink()  # encoders of others may have none
    caplog.clear()
    status, out, _ = run(tmp_path / "run", "--to", "mmsegmentation", "--output", tmp_path / "encoder.pth")
    assert (status, caplog.messages) == (0, [])
    assert "layers.0.0.projection.weight" in torch.load(tmp_path / "encoder.pth", weights_only=True)["state_dict"]


def test_convert_checkpoint__label_space(run, model, tmp_path):
    torch.save({"state_dict": convert_from_hub(model, "nvlabs").tensors}, tmp_path / "model.pth")
    space = LabelSpace("mine", tuple(f"class {i}" for i in range(19)), CITYSCAPES.colors, {0: 0})
    (tmp_path / "mine.json").write_text(json.dumps(describe_label_space(space)))
    words = ("--label_space", tmp_path / "mine.json", *SIZE)
    assert run(tmp_path / "model.pth", "--output", tmp_path / "run", *words)[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["id2label"]["18"] == "class 18"


def test_convert_checkpoint__wrong_options(run, checkpoint, tmp_path):
    (tmp_path / "there").mkdir()
    new = tmp_path / "new"
    for words, found in (
        ((), "--checkpoint"),
        ((checkpoint,), "--output"),
        ((checkpoint, "--output", tmp_path / "there"), "something there already"),
        ((checkpoint, "--output", new, "--eval_size", "64"), "height and width"),
        ((checkpoint, "--output", new, "--eval_size", "60", "90"), "multiples of 32"),
        ((checkpoint, "--output", new, "--to", "onnx"), "onnx"),
        ((checkpoint, "--output", new, "--label_space", "nowhere"), "nowhere"),
        ((checkpoint, "--output", new, "--to", "nvlabs", "--label_space", "cityscapes"), "--label_space"),
        ((tmp_path / "there", "--output", new, "--to", "nvlabs"), "end its name in .pth"),
        ((tmp_path / "there", "--output", tmp_path / "n.pth", "--to", "nvlabs"), "config.json"),
        ((tmp_path / "there", "--output", new), "found a folder"),
        ((checkpoint, "--output", checkpoint / "below"), "a folder to write to"),
    ):
        status, out, err = run(*words)
        assert (status, out) == (2, ""), words
        assert found in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pth", "there"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("No space left on device")])
def test_convert_checkpoint__failed_write_leaves_nothing(run, checkpoint, tmp_path, monkeypatch, error):
    run(checkpoint, "--output", tmp_path / "run", *SIZE)
    before = sorted(tmp_path.iterdir())

    def save(converted, path, *rest):
        path.write_bytes(b"half a file")
        raise error

    monkeypatch.setattr("hf_urbanseg.models.convert.from_hub.save_checkpoint_file", save)
    status, _, err = run(tmp_path / "run", "--to", "nvlabs", "--output", tmp_path / "again.pth")
    assert status == 2
    assert "again.pth: expected a place to write to; found No space left on device" in err
    assert sorted(tmp_path.iterdir()) == before


def test_convert_checkpoint__script(checkpoint, tmp_path):
    command = [sys.executable, "-m", "hf_urbanseg", "convert-checkpoint", checkpoint, "--output", "run"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0
    assert result.stderr.count("\n") == 1
    assert "see `--eval_size`" in result.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()
