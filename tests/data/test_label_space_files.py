import json
from dataclasses import replace

import pytest
import yaml

from hf_urbanseg.data.label_space_files import (
    describe_label_space,
    parse_label_space,
    read_label_space,
    shipped_label_spaces,
    write_label_space,
)
from hf_urbanseg.errors import ConfigError, DataError, UrbanSegError
from hf_urbanseg.labels import CITYSCAPES, LabelSpace


def test_read_label_space__built_in():
    assert read_label_space("cityscapes") == (CITYSCAPES, {})
    space, _ = read_label_space("cityscapes_train_ids")
    assert space.label_ids[18] == 18
    assert space.names == CITYSCAPES.names


def test_read_label_space__camvid():
    space, folders = read_label_space("camvid")
    assert " ".join(space.names) == "sky building pole road pavement tree sign fence car pedestrian bicyclist"
    assert dict(space.label_ids) == {train_id: train_id for train_id in range(11)} | {11: 255}
    assert folders["splits"]["validation"] == {"images": "val/images", "labels": "val/labels"}


def test_read_label_space__camvid_as_cityscapes():
    camvid, _ = read_label_space("camvid")
    space, _ = read_label_space("camvid_as_cityscapes")
    assert (space.names, space.colors) == (CITYSCAPES.names, CITYSCAPES.colors)
    renamed = {"pavement": "sidewalk", "tree": "vegetation", "sign": "traffic sign", "pedestrian": "person"}
    renamed["bicyclist"] = "rider"
    expected = {camvid.label2id[name]: space.label2id[renamed.get(name, name)] for name in camvid.names}
    assert dict(space.label_ids) == expected | {11: 255}


def test_shipped_label_spaces__all_readable():
    assert set(shipped_label_spaces()) >= {"camvid", "camvid_as_cityscapes"}
    for name in shipped_label_spaces():
        assert read_label_space(name)[0].name == name


def test_write_label_space__reads_back(tmp_path):
    for space in (CITYSCAPES, read_label_space("camvid_as_cityscapes")[0]):
        write_label_space(tmp_path / "space.json", space)
        assert read_label_space(str(tmp_path / "space.json")) == (space, {})


@pytest.mark.parametrize(
    "space",
    [
        CITYSCAPES,
        CITYSCAPES.with_train_ids(),
        LabelSpace("two", ("road", "car"), ((1, 2, 3), (4, 5, 6)), {0: 255, 1: 0, 2: 0}),
    ],
)
def test_describe_label_space__is_read_back_through_yaml(space):
    again = parse_label_space(yaml.safe_load(yaml.safe_dump(describe_label_space(space))))
    assert (again.name, again.names, again.colors) == (space.name, space.names, space.colors)
    assert dict(again.label_ids) == dict(space.label_ids)


def test_parse_label_space__names_are_enough():
    space = parse_label_space({"classes": [{"name": "road"}, {"name": "kerb"}]})
    assert (space.colors[0], dict(space.label_ids)) == ((128, 64, 128), {0: 0, 1: 1})
    assert space.colors[1] not in (space.colors[0], (0, 0, 0))


def test_parse_label_space__tells_all_faults_of_one_start(caplog):
    classes = [CAR, CAR | {"name": "bus", "color": 7, "label_ids": [1]}, {"name": 7, "label_ids": [2]}]
    with pytest.raises(ConfigError, match=r"found 7 for bus \(and 2 more faults\)"):
        parse_label_space({"classes": classes, "void": ["x"]})
    assert ["found 7;" in caplog.messages[0], "'x' in void" in caplog.messages[1]] == [True, True]


def test_parse_label_space__defaults():
    space = parse_label_space({"classes": [{"name": n, "color": [0, 0, 9]} for n in ("a", "b")]}, "mine.yaml")
    assert space.name == "mine.yaml"
    assert dict(space.label_ids) == {0: 0, 1: 1}  # the position is the id


CAR = {"name": "car", "color": [1, 2, 3]}


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({}, "expected a list `classes`; found None"),
        ({"classes": "car"}, "expected a list `classes`; found 'car'"),
        ({"classes": []}, "expected a list `classes`; found []"),
        ({"classes": ["car"]}, "expected a `name` for every class; found 'car'"),
        ({"classes": [CAR | {"colour": 1}]}, "expected keys name, color, label_ids, category; found colour; remove"),
        ({"classes": [CAR | {"label_colors": [[1, 2, 3]]}]}, "label_colors; say `encoding: color` for label files of"),
        ({"classes": [CAR | {"label_ids": [1]}], "encoding": "color"}, "found label_ids; write `label_colors`, or le"),
        ({"classes": [CAR], "void": [0], "encoding": "color"}, "expected colours as three whole numbers of 0..255; f"),
        ({"classes": [CAR], "void": [[1, 2, 3]], "encoding": "color"}, "each colour in one class; found [1, 2, 3] aga"),
        ({"classes": [{"name": "car"}], "encoding": "color"}, "expected `color` as three whole numbers of 0..255; fou"),
        ({"classes": [CAR | {"color": [1, 2]}]}, "found [1, 2] for car"),
        ({"classes": [CAR | {"color": [1, 2, 256]}]}, "found [1, 2, 256] for car"),
        ({"classes": [CAR | {"color": [1, 2, 0.5]}]}, "found [1, 2, 0.5] for car"),
        ({"classes": [CAR | {"label_ids": ["7"]}]}, "expected whole-number label ids; found '7' in car"),
        ({"classes": [CAR | {"label_ids": [True]}]}, "expected whole-number label ids; found True in car"),
        ({"classes": [CAR | {"label_ids": [3, 3]}]}, "expected each label id in one class; found 3 again in car"),
        ({"classes": [CAR | {"label_ids": [3]}], "void": [3]}, "found 3 again in void"),
        ({"classes": [CAR | {"color": 7}]}, "for car"),
        ({"classes": [CAR | {"color": "red"}]}, "for car"),
        ({"classes": [CAR | {"label_ids": 7}]}, "7 in car"),
        ({"classes": [CAR], "void": 0}, "0 in void"),
        ({"classes": [CAR], "void": "0"}, "'0' in void"),
        (["car"], "['car']"),
        ({"classes": [CAR | {"name": None}]}, "found None; correct it, and put numbers and words such as `null` in q"),
        ({"classes": [CAR | {"name": ["x"]}]}, "found ['x']"),
        ({"classes": [CAR | {"name": 7}]}, "expected names as text of 1 to 100 characters on one line; found 7"),
        ({"classes": [CAR | {"name": ""}]}, "found ''"),
        ({"classes": [CAR | {"name": " "}]}, "found ' '"),
        ({"classes": [CAR | {"name": "a\nb"}]}, r"found 'a\nb'"),
        ({"classes": [CAR | {"name": "a\u2028b"}]}, r"found 'a\u2028b'"),
        ({"classes": [CAR | {"name": "\x1b]0;a\x07"}]}, r"found '\x1b]0;a\x07'"),
        ({"classes": [CAR | {"name": "\ud800"}]}, r"found '\ud800'"),
        ({"classes": [CAR | {"name": "x" * 101}]}, "found 'xxx"),
        ({"classes": [CAR | {"category": True}]}, "found True"),
        ({"classes": [CAR | {"category": ""}]}, "found ''"),
        ({"classes": [CAR], "name": ["x"]}, "expected a `name` on one line; found ['x']"),
        ({"classes": [CAR], "name": "a\nb"}, r"expected a `name` on one line; found 'a\nb'"),
    ],
)
def test_parse_label_space__refuses_in_one_line_that_names_the_file(description, words):
    with pytest.raises(ConfigError) as caught:
        parse_label_space(description, "classes.yaml")
    assert str(caught.value).startswith("classes.yaml: expected ")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 100, "<b>", "=a", "道路", "traffic light", "$x$", "a|b", "7", "\u202eb"])
def test_label_space__any_text_is_a_name(name):
    assert LabelSpace("one", (name,), ((1, 2, 3),), {}).id2label[0] == name
    # Numbers and an absent name of the whole aren't mistaken for text.
    assert parse_label_space({"classes": [CAR | {"name": name}], "name": None}, "mine.yaml").name == "mine.yaml"


def test_parse_label_space__empty_void_is_no_void():
    assert dict(parse_label_space({"classes": [CAR], "void": None}).label_ids) == {0: 0}


def test_categories__survive_the_round_trip_and_train_ids():
    assert parse_label_space(describe_label_space(CITYSCAPES)).categories == CITYSCAPES.categories
    assert CITYSCAPES.with_train_ids().categories == CITYSCAPES.categories


def test_categories__for_every_class_or_for_none():
    description = describe_label_space(CITYSCAPES)
    del description["classes"][3]["category"]
    with pytest.raises(ConfigError, match="expected a `category` for every class or for none; found 18 of 19"):
        parse_label_space(description)
    for entry in description["classes"]:
        entry.pop("category", None)
    assert parse_label_space(description).categories == ()


def test_read_label_space__unknown_name_lists_the_known():
    with pytest.raises(
        DataError, match=r"cityscapes, cityscapes_train_ids, a2d2, .*camvid.*or a \.yaml file; found `kamvid`"
    ):
        read_label_space("kamvid")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [{name: a, color: [1, 2, 3]}]\nsplit: {}", "found `split`; did you mean `splits`"),
        ("classes: [{name: a, color: [1, 2, 3]}]\nreduce_labels: true", "list the unlabelled id under `void`"),
        ("classes: [{name: a}]\nignore: 11", "found `ignore`; did you mean `void`"),
        ("classes: [{name: a}]\nval: {}", "found `val`; did you mean `splits`"),
        ("id2label: {0: a}\nencoding: color", "expected `encoding` of files of ids with `id2label`; found `color`"),
        ("classes: [{name: a}]\nid2label: {0: a}\nfoo: 1", "found `foo` (and 1 more fault); remove it"),
        ("classes: [", "a label space file in YAML"),
        ("- a", "found list"),
    ],
)
def test_read_label_space__bad_file(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_label_space(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_read_label_space__bad_classes(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("classes: [{name: a, color: [1, 2, 3], label_ids: [4]}]\nvoid: [4]")
    with pytest.raises(ConfigError, match=r"mine\.yaml: expected each label id in one class; found 4 again in void"):
        read_label_space(str(path))


@pytest.mark.parametrize("void", [None, [], [2]])
def test_read_label_space__of_id2label(tmp_path, void):
    description = {"name": "mine", "id2label": {"0": "void", "1": "road", "2": "background"}}
    (tmp_path / "a.json").write_text(json.dumps(description | ({} if void is None else {"void": void})))
    space, folders = read_label_space(str(tmp_path / "a.json"))
    assert (space.name, folders) == ("mine", {})
    classes = {None: ("road", "background"), (): ("void", "road", "background"), (2,): ("void", "road")}
    assert space.names == classes[None if void is None else tuple(void)]


def test_read_label_space__classes_of_another(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("classes: cityscapes_train_ids\nencoding: red")
    space, _ = read_label_space(str(path))
    assert space == replace(CITYSCAPES.with_train_ids(), name=str(path), encoding="red")
    path.write_text("classes: cityscapes\nlabel_ids: {road: [1, 4]}")
    assert read_label_space(str(path))[0].label_ids == {1: 0, 4: 0}  # Cityscapes' void went with its ids
    path.write_text("classes: cityscapes\nlabel_ids: {road: [1, 4], rider: [2]}\nvoid: [0]")
    space, _ = read_label_space(str(path))
    assert (space.names, space.categories) == (CITYSCAPES.names, CITYSCAPES.categories)
    assert space.label_ids == {1: 0, 4: 0, 2: 12, 0: 255}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: mine.yaml", "a list `classes`, or the name of a label space; found `mine.yaml`; list them, or"),
        ("classes: cityscapes\nlabel_ids: {raod: [1], cat: []}", r"of road, sidewalk, .*found `raod`, `cat`"),
        ("classes: cityscapes\nlabel_ids: [1]", r"found \[1\]"),
        ("classes: [{name: a}]\nlabel_ids: {a: [1]}", "`label_ids` only with the name of a label space"),
        ("classes: cityscapes\nlabel_ids: {road: [1], wall: [1]}", "each label id in one class; found 1 again in wall"),
    ],
)
def test_read_label_space__bad_classes_of_another(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UrbanSegError, match=message):
        read_label_space(str(tmp_path / "mine.yaml"))


def test_read_label_space__of_a_bare_id2label_with_folders(tmp_path):
    (tmp_path / "ids.json").write_text('{"0": "unlabeled", "1": "road", "255": "void"}')
    assert read_label_space(str(tmp_path / "ids.json"))[0].names == ("road",)
    (tmp_path / "ids.yaml").write_text("id2label: {0: road}\nimages: x\nlabels: y\n")
    space, folders = read_label_space(str(tmp_path / "ids.yaml"))
    assert (space.name, space.names, folders) == ("ids", ("road",), {"images": "x", "labels": "y"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0": "a", "1": "b", "0": "c"}', "found the key `0` again in line 1, column 22; correct it."),
        ('{"0": "a", "00": "b"}', "expected every id once; found 0 again as `00`"),
        ('{"0": "a", "1": "b", "2": "a"}', "a name of its own for every id; found `a` for ids 0 and 2; correct"),
        ('{"0": null}', "a name in words for every id; found None for id 0"),
        ('{"0": "a", "1": 1}', "a name in words for every id; found 1 for id 1"),
        ('{"0": "a", "1": " "}', "a name in words for every id; found ' ' for id 1"),
        ('{"0": "a", "1": ["b"]}', "a name in words for every id; found ['b'] for id 1"),
        ('{"0": "a", "16777216": "b"}', "ids of 0..16777215, or -1 for void; found `16777216`"),
        ('{"0": "a", "-2": "b"}', "ids of 0..16777215, or -1 for void; found `-2`"),
        ('{"0": "unlabeled", "255": "void"}', "at least one class that isn't void; found"),
        ('{"id2label": ["a"]}', "\"id\": \"name\" pairs; found ['a']; correct the file or give `--label_space`"),
        ('{"id2label": {"a": 0}}', '"id": "name" pairs; found `a` as an id'),
        ('{"id2label": {"0": "a"}, "void": 0}', "`void` as a list of label ids; found 0; write [0] or []"),
        ('{"id2label": {"0": "a"}, "void": ["0"]}', "`void` as a list of label ids; found ['0']"),
        ('{"id2label": {"0": "a"}, "classes": []}', "either `classes` or `id2label`; found both"),
        ('{"classes": [{"name": "a", "name": "b"}]}', "found the key `name` again in line 1"),
        ("{}", "expected a list `classes`"),
        ("", "a label space file of `key: value` lines; found NoneType"),
    ],
)  # fmt: skip
def test_read_label_space__bad_id2label(tmp_path, text, message):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UrbanSegError) as caught:
        read_label_space(str(tmp_path / "mine.json"))
    assert str(caught.value).startswith(f"{tmp_path / 'mine.json'}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
