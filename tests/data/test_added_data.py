import shutil

import numpy as np
import pytest
from PIL import Image
from rendered_kitti import write_kitti

from hf_urbanseg.data.added_data import _complete_shares, _parse, adapt_label_space, describe_shares, load_added_data
from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.label_space_files import parse_label_space, read_label_space
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.errors import ConfigError, DataError, UrbanSegError
from hf_urbanseg.labels import CITYSCAPES


def build_space(*names, **more):
    return parse_label_space({"name": "some", "classes": [{"name": name} for name in names], "void": [255], **more})


# How they are named


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("sets/camvid", ("sets/camvid", None, None)),
        ("sets/camvid:camvid", ("sets/camvid", "camvid", None)),
        ("sets/camvid:0.5", ("sets/camvid", None, 0.5)),
        ("sets/camvid:mine.yaml:5e-1", ("sets/camvid", "mine.yaml", 0.5)),
        ("sets/camvid::0.5", ("sets/camvid", None, 0.5)),
        ("C:\\sets", ("C:\\sets", None, None)),
        ("C:\\sets:D:\\mine.yaml:0.25", ("C:\\sets", "D:\\mine.yaml", 0.25)),
        ("sets/camvid:0.5:0.25", ("sets/camvid:0.5", None, 0.25)),  # a folder of that name is there, too
        ("sets/camvid:0.5:camvid", ("sets/camvid:0.5", "camvid", None)),
        ("user/set:camvid:0.5", ("user/set", "camvid", 0.5)),
        ("synthetic:0.5", ("synthetic", None, 0.5)),
    ],
)
def test_parse__from_the_right_and_by_what_is_there(tmp_path, monkeypatch, word, parts):
    monkeypatch.chdir(tmp_path)
    for name in ("sets/camvid", "C:\\sets") + (("sets/camvid:0.5",) if word.count("0.5:") else ()):
        (tmp_path / name).mkdir(parents=True)
    assert _parse(word) == parts


def test_complete_shares__those_without_one_have_the_main_datas():
    assert _complete_shares([None]) == [0.5]
    assert _complete_shares([0.4, None, None]) == pytest.approx([0.4, 0.2, 0.2])
    assert _complete_shares([0.7, 0.2]) == [0.7, 0.2]
    for shares in ([0.0], [-0.5], [1.0], [float("nan")], [0.5, 0.5], [0.7, None, 0.4]):
        with pytest.raises(ConfigError, match="shares"):
            _complete_shares(shares)


# Which classes they have


def test_adapt_label_space__classes_by_name_and_the_rest_void(caplog):
    theirs = build_space("Traffic_Sign", "lawn", "road, street", "sky")
    ours = build_space("sky", "sidewalk", "street", "traffic sign")
    space = adapt_label_space(theirs, ours, "lawns")
    assert dict(space.label_ids) == {0: 3, 1: 255, 2: 2, 3: 0, 255: 255}
    assert (space.names, space.colors) == (ours.names, ours.colors)
    assert caplog.messages == ["lawns: void, for the main data has no class of that name: lawn"]
    picture = Image.fromarray(np.array([[0, 1, 2], [3, 255, 0]], np.uint8))
    assert read_train_ids(picture, space).tolist() == [[3, 255, 2], [0, 255, 3]]


@pytest.mark.parametrize("rest", ["background", "Other", "other-vehicle", "unlabeled", "void_dynamic"])
def test_adapt_label_space__a_class_for_the_rest_is_void_where_a_class_is_missing(caplog, rest):
    ours = build_space(rest, "car", "bus")
    assert adapt_label_space(build_space(rest, "car"), ours, "cars").label_ids[0] == 255
    assert caplog.messages == [f"cars: {rest} counts as void, because bus may be in it, which it has no class for"]
    # A class without a value in the files is missing, too.
    listed = parse_label_space({
        "name": "some",
        "classes": [{"name": rest}, {"name": "car"}, {"name": "bus", "label_ids": []}],
    })  # fmt: skip
    assert adapt_label_space(listed, ours, "cars").label_ids[0] == 255
    assert adapt_label_space(build_space("car", "bus", rest), ours, "cars").label_ids == {0: 1, 1: 2, 2: 0, 255: 255}
    with pytest.raises(ConfigError, match="a class of the main data's by name"):
        adapt_label_space(build_space(rest, "lawn"), ours, "lawns")


def test_adapt_label_space__keeps_how_files_spell():
    theirs, _ = read_label_space("camvid_colors")
    space = adapt_label_space(theirs, CITYSCAPES, "camvid")
    assert (space.encoding, space.label_ids.keys()) == (theirs.encoding, theirs.label_ids.keys())
    pairs = zip(theirs.label_ids.values(), space.label_ids.values(), strict=True)
    meaning = {theirs.names[their]: space.names[our] for their, our in pairs if our != 255}
    names = ["Building", "Car", "Fence", "Road", "Sidewalk", "Sky", "Train", "Wall"]
    assert meaning == {name: name.lower() for name in names}
    with pytest.raises(ConfigError, match="`person, rider`, which names several"):
        adapt_label_space(build_space("person, rider"), CITYSCAPES, "people")


# What they may not hold


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    folder = write_kitti(tmp_path_factory.mktemp("main") / "kitti", range(8), (32, 64))
    data = load_data(str(folder))
    return folder, data, inspect_pairs(data.splits, data.label_space)


def load(main, *words):
    return load_added_data([str(word) for word in words], str(main[0]), *main[1:], progress=False)


def test_load_added_data__train_alone_and_names_of_its_own(main, tmp_path):
    folder = write_kitti(tmp_path / "more", range(50, 53), (40, 40))
    first, second = load(main, folder, f"{write_kitti(tmp_path / 'third', range(60, 62), (32, 48))}:0.25")
    assert [*first.frames][:1] == ["kitti-2/000050_10"]
    assert (len(first.rows), len(second.rows)) == (3, 2)  # nothing is cut off
    assert (second.name, first.share, second.share) == ("kitti-3", 0.375, 0.25)
    note = describe_shares(main[1], (first, second))
    assert note.startswith("shares of the training samples: 0.375 kitti, 0.375 kitti-2 (3 images, ")


def copy_of_a_split(main, folder, split):
    name = main[1].splits[split]["name"][0]
    for kind in ("image_2", "semantic"):
        target = folder / "training" / kind
        target.mkdir(parents=True)
        shutil.copy(main[0] / "training" / kind / f"{name}.png", target / "other.png")
    return folder


def test_load_added_data__refuses_held_out_images(main, tmp_path, caplog):
    for split in ("validation", "test"):
        with pytest.raises(DataError, match=f"kitti-2/other: .*; found the same pixels as {split}/0000"):
            load(main, copy_of_a_split(main, tmp_path / split, split))
    load(main, copy_of_a_split(main, tmp_path / "train", "train"))
    assert "kitti-2: 1 of its images are in the main data's train, too: other" in caplog.messages


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{main}"], "expected each data set once in `add_data`; found the main data again; leave it out."),
        (["{main}/../kitti/:0.5"], "found the main data again"),
        (["{more}", "{more}:0.2"], "more: expected each data set once in `add_data`; found one twice"),
        (["{more}:camvd"], "expected `label_space` of cityscapes, "),
        (["{more}:nowhere.yaml"], "nowhere.yaml: expected a readable label space file; found "),
        (["{more}x"], "expected `add_data` as folder:label_space:share, the last two optional; found `"),
        (["{more}:-0.5"], "expected shares above 0 and below 1 in `add_data`; found -0.5"),
        (["{more}:1"], "expected shares above 0 and below 1 in `add_data`; found 1"),
        (["{more}:0.6", "{main}/training:0.4"], "found 0.6 + 0.4, which leave none of the samples to the main data"),
        (["{more}:lawn.yaml"], "expected a class of the main data's by name (road, sidewalk, building, ...); found l"),
        (["{more}:half.yaml"], "expected a split `train`; found test; leave the set out"),
    ],
)
def test_load_added_data__one_line(main, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    more = write_kitti(tmp_path / "more", [70], (32, 64))
    (tmp_path / "lawn.yaml").write_text("name: lawn\nclasses: [{name: lawn}]\n")
    folders = "{images: training/image_2, labels: training/semantic}"
    (tmp_path / "half.yaml").write_text(f"name: half\nclasses: cityscapes\nsplits:\n  test: {folders}\n")
    with pytest.raises(UrbanSegError) as caught:
        load(main, *(word.format(main=main[0], more=more) for word in words))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
