import json
import math
import os

import numpy as np
import pytest
import torch
import yaml

from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.run_files import describe_environment, describe_scores, write_json, write_yaml

SPACE = LabelSpace("three", ("road", "car", "sky"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)), {0: 0, 1: 1, 2: 2})
# Row = label: 6 road (4 right), 4 car (3 right), no sky anywhere.
MATRIX = [[4, 2, 0], [1, 3, 0], [0, 0, 0]]


@pytest.mark.parametrize("convert", [np.array, torch.tensor])
def test_describe_scores__hand_computed(convert):
    scores = describe_scores(convert(MATRIX), SPACE, constant_class=0)
    assert scores == {
        "mean_iou": pytest.approx((4 / 7 + 3 / 6) / 2),
        "mean_accuracy": pytest.approx((4 / 6 + 3 / 4) / 2),
        "overall_accuracy": 0.7,
        "iou": {"road": pytest.approx(4 / 7), "car": 0.5, "sky": None},
        "accuracy": {"road": pytest.approx(4 / 6), "car": 0.75, "sky": None},
        "support": {"road": 6, "car": 4, "sky": 0},
        "absent_classes": ["sky"],
        # Everything called road: 6 of 10 right, IoU 0.6 and 0.
        "constant_guess": {"class": "road", "mean_iou": 0.3, "mean_accuracy": 0.5, "overall_accuracy": 0.6},
        "confusion_matrix": MATRIX,
    }


def test_describe_scores__is_json_even_without_a_labelled_pixel():
    scores = describe_scores(np.zeros((3, 3), int), SPACE, constant_class=1)
    assert scores["mean_iou"] is None
    assert scores["absent_classes"] == ["road", "car", "sky"]
    assert scores["constant_guess"]["mean_iou"] is None
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_describe_scores__constant_guess_of_a_class_that_is_not_labelled():
    guess = describe_scores(np.array(MATRIX), SPACE, constant_class=2)["constant_guess"]
    assert guess == {"class": "sky", "mean_iou": 0.0, "mean_accuracy": 0.0, "overall_accuracy": 0.0}


def test_write_json__reads_back_and_keeps_the_order(tmp_path):
    content = {"zeta": 1.5, "alpha": [None, "Straße"]}
    write_json(tmp_path / "metrics.json", content)
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert text.index("zeta") < text.index("alpha")
    assert "Straße" in text
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, {1, 2}])
def test_write_json__a_failure_leaves_the_earlier_file(tmp_path, bad):
    path = tmp_path / "metrics.json"
    write_json(path, {"value": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"value": bad})
    assert json.loads(path.read_text()) == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_write_yaml__reads_back_in_order(tmp_path):
    write_yaml(tmp_path / "recipe.yaml", {"size": "b0", "crop_size": [368, 368], "eval_size": None})
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert list(yaml.safe_load(text)) == ["size", "crop_size", "eval_size"]


def test_describe_environment__versions_but_no_person_or_path():
    environment = describe_environment()
    assert environment["torch"] == torch.__version__
    assert {"python", "transformers", "accelerate", "datasets", "albumentations", "device"} <= set(environment)
    assert not any("/" in value or "\\" in value for value in environment.values())
    json.dumps(environment)


def test_write_json__killed_before_the_last_step_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(path, {"value": 1})

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"value": 2})
    assert json.loads(path.read_text()) == {"value": 1}
