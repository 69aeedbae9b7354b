"""What comes with a model from elsewhere: nothing of it runs, and what is hostile or damaged is one line."""

import ast
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSemanticSegmentation,
    ConvNextConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

import hf_urbanseg
from hf_urbanseg.commands import predict, profile_model
from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.errors import ModelError
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.metrics.mean_iou import MeanIoU
from hf_urbanseg.models.build import build_image_processor, build_random_model, load_pretrained_model
from hf_urbanseg.models.convert.from_hub import load_hub_model
from hf_urbanseg.models.loading import PRETRAINED, is_built_in, load_complete, load_config

_SOURCES = sorted(Path(hf_urbanseg.__file__).parent.rglob("*.py"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "saved"
    build_random_model("tiny", CITYSCAPES, decoder_hidden_size=16).save_pretrained(folder)
    build_image_processor((32, 64)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that code of the model would leave; whoever asks is told "y"."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


def change(folder: Path, name: str = "config.json", **values) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def add_code(folder: Path, marker: Path, model_type: str | None) -> None:
    (folder / "theirs.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n")
    classes = {"AutoConfig": "theirs.Config", "AutoModelForSemanticSegmentation": "theirs.Model"}
    change(folder, auto_map=classes, **({"model_type": model_type} if model_type else {}))


class Pickled:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize(
    "load",
    [
        Predictor.from_pretrained,
        lambda folder: load_pretrained_model(str(folder), CITYSCAPES),
        lambda folder: load_complete(AutoModelForSemanticSegmentation, folder),
        load_hub_model,
    ],
)
def test_load_config__code_of_a_model_is_neither_run_nor_asked_for(folder, marker, load, capsys):
    add_code(folder, marker, "theirs")
    with pytest.raises(ModelError, match=r"model type `theirs`, which .* comes with code, which is never run"):
        load(folder)
    assert "Do you wish" not in capsys.readouterr().out


@pytest.mark.parametrize("main", [predict.main, profile_model.main])
def test_load_config__code_of_a_model_is_one_line_of_a_command(folder, marker, main, fails):
    add_code(folder, marker, "theirs")
    picture = Path(__file__).parents[2] / "docs" / "ladder_tiny.png"
    assert "never run" in fails(main, "--model", folder, *(["--input", picture] if main is predict.main else []))


def test_load_config__code_of_a_known_type_is_left_alone(folder, marker):
    add_code(folder, marker, None)
    assert type(Predictor.from_pretrained(folder).model).__module__.startswith("transformers.models.segformer")


def test_load_config__no_kernel_is_fetched(folder):
    change(folder, attn_implementation="someone/kernel")
    assert load_config(folder)._attn_implementation is None
    assert Predictor.from_pretrained(folder).model.config._attn_implementation in ("sdpa", "eager")


def test_loading__is_the_only_place_that_calls_transformers_loaders():
    """Whatever has a `trust_remote_code` asks by default; and torch.load runs pickles unless told otherwise."""
    for path in _SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner, name = ast.unparse(node.func.value), node.func.attr
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in ("from_pretrained", "from_config") and owner not in ("Predictor", "cls"):
                assert path.name == "loading.py", f"{path}:{node.lineno}"
                assert given.get("trust_remote_code") == "False" or "options" in ast.unparse(node), node.lineno
            if (owner, name) == ("torch", "load"):
                assert given.get("weights_only") == "True", f"{path}:{node.lineno}"
            assert (owner, name) not in {("pickle", "load"), ("pickle", "loads"), ("evaluate", "load")}, path
            assert name != "load_dataset" or "trust_remote_code" not in given, path


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_sizes": [10**9] * 4}, "1000000000"),
        ({"num_labels": 10**9, "id2label": None, "label2id": None}, "1000000000"),
        ({"depths": [10**4] * 4}, "`depths` of 40000 blocks"),
        ({"hidden_sizes": ["16", "32", "80", "128"]}, "hidden_sizes"),
        ({"hidden_sizes": None}, "hidden_sizes"),
        ({"hidden_sizes": [16]}, "IndexError"),
        ({"num_attention_heads": [0] * 4}, "ZeroDivisionError"),
        ({"strides": [0] * 4}, "stride"),
        ({"hidden_dropout_prob": 2}, "dropout"),
        ({"id2label": ["road"]}, "the configuration of a model"),  # the reason is each version's own
        ({"num_labels": -1, "id2label": None, "label2id": None}, "no classes"),
        ({"architectures": 5}, "architectures"),
        ({"model_type": None}, "model type `None`"),
        ({"model_type": ["segformer"]}, "segformer"),
        ({"dtype": "os.system"}, "os.system"),
        ({"return_dict": False}, "AttributeError"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "bitsandbytes"),
        ({"quantization_config": "x"}, "AttributeError"),
    ],
)
def test_load_config__absurd_values_are_one_line(folder, values, said):
    change(folder, **values)
    for load in (Predictor.from_pretrained, lambda path: load_pretrained_model(str(path), CITYSCAPES)):
        with pytest.raises(ModelError) as caught:
            load(folder)
        assert str(folder) in str(caught.value)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"size": {"height": 10**9, "width": 10**9}},
        {"size": {"height": 0, "width": 0}},
        {"size": {"height": "64", "width": "96"}},
        {"size": "x"},
        {"image_mean": [1]},
        {"image_std": [0, 0, 0]},
        {"resample": 99},
        {"rescale_factor": "x"},
    ],
)
def test_load_image_processor__absurd_values_are_one_line(folder, values):
    change(folder, "preprocessor_config.json", **values)
    with pytest.raises(ModelError, match="expected an image processor's options"):
        Predictor.from_pretrained(folder)


def test_load_complete__a_pickle_is_not_run(folder, marker):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Pickled(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"found `posix.system` pickled in it, which could run any code"):
        Predictor.from_pretrained(folder)


def test_load_complete__a_tensor_larger_than_memory(folder):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state | {"decode_head.classifier.weight": torch.zeros(1).expand(10**12)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="of another shape"):
        Predictor.from_pretrained(folder)


def test_load_complete__a_configuration_without_a_number_of_channels(tmp_path):
    """UperNet's: that number is its backbone's."""
    backbone = ConvNextConfig(
        hidden_sizes=[4, 4, 8, 8], depths=[1] * 4, out_features=[f"stage{number}" for number in range(1, 5)]
    )
    config = UperNetConfig(backbone_config=backbone, hidden_size=8, auxiliary_channels=8, pool_scales=[1], num_labels=3)
    model = UperNetForSemanticSegmentation(config)
    assert not hasattr(model.config, "num_channels")
    model.save_pretrained(tmp_path)
    loaded = load_complete(AutoModelForSemanticSegmentation, tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


# Models inside the package


def test_locate__a_folder_of_the_same_name_goes_first(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_built_in("tiny-streets")
    assert not any(map(is_built_in, ("tiny-street", "./tiny-streets", "models/tiny-streets", "", ".", "..")))
    assert load_config("tiny-streets").decoder_hidden_size == 128
    shutil.copytree(saved, tmp_path / "tiny-streets")
    assert load_config("tiny-streets").decoder_hidden_size == 16
    assert not is_built_in("tiny-streets")


def test_tiny_streets__is_small_and_knows_streets_that_it_never_saw():
    files = {path.name: path.stat().st_size for path in (PRETRAINED / "tiny-streets").iterdir()}
    assert files.keys() == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert files["model.safetensors"] <= 1_500_000
    predictor, metric = Predictor.from_pretrained("tiny-streets"), MeanIoU(num_labels=19)
    assert predictor.model.dtype == torch.float32
    for seed in range(2**30, 2**30 + 4):
        image, label = render_scene(seed)
        metric.add(prediction=predictor.predict(image), reference=CITYSCAPES.train_id_table[label])
    assert metric.compute()["mean_iou"] > 0.25
