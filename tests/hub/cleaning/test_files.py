import json
import struct

import pytest
import yaml
from clean_machine import elsewhere  # noqa: F401
from PIL import Image
from run_folders import build_png
from safetensors.numpy import save_file

from hf_urbanseg.errors import DataError
from hf_urbanseg.hub.cleaning.files import clean_file, read_options

FOLDERS = ["/home/ann", "/home/zoë"]


@pytest.fixture
def clean(tmp_path):
    """Writes a file and cleans it."""

    def run(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        cleaned = clean_file(name, path, FOLDERS)
        return "the file" if cleaned == path else cleaned

    return run


def test_clean_file__what_names_no_path_goes_as_it_is(clean):
    png, jpg = build_png((b"tEXt", b"Software\0matplotlib, /usr/bin")), b"\xff\xd8\xff\xe0\0\4ab"
    for name, content in {
        "README.md": "https://x.org/home/ann", "splits.yaml": "train: [a]  # mine", "a.json": '{"a":\n 1e-05}',
        "a.csv": "a",
        "report.html": "<p>", "overlays/a.png": png, "failures/a.jpg": jpg,
    }.items():  # fmt: skip
        assert clean(name, content) == "the file"


def test_clean_file__recipe_by_its_values(clean):
    recipe = {
        "data_dir": "/data/yes", "split_file": "/home/ann/2020", "note": "see /home/ann/*x", "seed": 1, "on": True,
        "lists": ["/home/zoë/@a", {"/home/ann/k": "/home/ann/- b"}], "rate": 1e-5, "none": None,
    }  # fmt: skip
    cleaned = yaml.safe_load(clean("recipe.yaml", yaml.safe_dump(recipe, sort_keys=False)))
    assert cleaned == {
        "data_dir": "yes", "split_file": "2020", "note": "see *x", "seed": 1, "on": True,
        "lists": ["@a", {"k": "- b"}], "rate": 1e-5, "none": None,
    }  # fmt: skip
    assert list(cleaned) == list(recipe)


@pytest.mark.parametrize("style", [None, "'", '"'])
def test_clean_file__other_yaml_stays_valid(clean, style):
    splits = {"train": ["/home/ann/yes", "/home/zoë/*x", "a"], "test": ["/home/ann/0001"]}
    text = yaml.safe_dump(splits, default_style=style)
    assert yaml.safe_load(clean("splits.yaml", text)) == {"train": ["yes", "*x", "a"], "test": ["0001"]}


def test_clean_file__where_a_model_was_loaded_from(clean):
    config = {"_name_or_path": "/scratch/x/run", "name_or_path": 'D:\\x\\y"z', "id2label": {"0": "/m/0k4j"}}
    config |= {"inside": {"_name_or_path": "nvidia/mit-b0", "a": 0.1}}
    cleaned = json.loads(clean("config.json", json.dumps(config, indent=2)))
    expected = {"_name_or_path": "run", "name_or_path": 'y"z'}
    assert cleaned == config | expected


@pytest.mark.parametrize(
    "content",
    [
        build_png((b"tEXt", b"Source\0/home/ann/a.png")),
        build_png((b"eXIf", "MM/home/zoë/a".encode("utf-16-le"))),
        b"TOKEN=1",
        b"",
    ],
)
def test_clean_file__pictures_with_a_path_and_what_is_none_stay(clean, content, caplog):
    assert clean("overlays/a.png", content) is None
    assert "left out: " in caplog.text
    assert "overlays/a.png" in caplog.text
    assert "ann" not in caplog.text


def test_clean_file__photographs_with_a_path_stay(clean, tmp_path, caplog):
    exif = Image.Exif()
    exif[0x9286] = "/home/ann/camera"
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", exif=exif)
    assert clean("failures/a.jpg", (tmp_path / "x.jpg").read_bytes()) is None
    assert "whose metadata name a folder of this machine" in caplog.text
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", comment=b"a street")
    assert clean("failures/a.jpg", (tmp_path / "x.jpg").read_bytes()) == "the file"


def test_clean_file__weights_with_a_path_are_refused(clean, tmp_path):
    save_file({}, tmp_path / "x", {"format": "pt", "from": "/home/zoë/x"})
    with pytest.raises(DataError, match=r"model.safetensors: expected weights without paths; found one of this"):
        clean("model.safetensors", (tmp_path / "x").read_bytes())
    save_file({}, tmp_path / "x", {"format": "pt"})
    assert clean("model.safetensors", (tmp_path / "x").read_bytes()) == "the file"


def test_clean_file__event_records_in_every_notation(clean):
    def record(data: str) -> bytes:
        return struct.pack("<Q", len(data.encode())) + b"crc1" + data.encode() + b"crc2"

    kept = [record("version"), record("loss")]
    args = [json.dumps({"output_dir": f"{folder}/x"}) for folder in FOLDERS]
    content = kept[0] + record(args[0]) + record("A" + FOLDERS[1]) + kept[1] + record(args[1])
    assert r"\u00eb" in args[1]
    assert clean("runs/events.out.tfevents.1.0", content) == b"".join(kept)
    assert clean("runs/events.out.tfevents.1.0", record(args[0])) is None
    assert clean("runs/events.out.tfevents.1.0", b"") == b""  # begun, and nothing written yet
    assert clean("runs/events.out.tfevents.1.0", b"no events at all, but twenty bytes and more") is None


def test_clean_file__a_text_that_is_none(clean):
    with pytest.raises(DataError, match=r"metrics.json: expected a text file in UTF-8; found UnicodeDecodeError"):
        clean("metrics.json", b"\xff\xfe")


def test_read_options__says_what_is_wrong(tmp_path):
    path = tmp_path / "recipe.yaml"
    with pytest.raises(DataError, match=r"recipe.yaml: expected valid YAML; found FileNotFoundError"):
        read_options(path)
    path.write_text("- a")
    with pytest.raises(DataError, match=r"recipe.yaml: expected a mapping of options; found list"):
        read_options(path)
    path.write_text("a: [")
    with pytest.raises(DataError, match=r"recipe.yaml: expected valid YAML; found ParserError"):
        read_options(path)
