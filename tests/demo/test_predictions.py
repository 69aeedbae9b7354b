from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hf_urbanseg.demo import predictions
from hf_urbanseg.demo.predictions import (
    Prediction,
    describe_classes,
    describe_pixel,
    draw_confidence,
    predict_confidence,
    read_upload,
    with_plan,
)
from hf_urbanseg.inference.plan import PredictionPlan
from hf_urbanseg.labels import CITYSCAPES

torch.set_num_threads(1)


def made(train_ids, confidence) -> Prediction:
    train_ids = np.array(train_ids, np.uint8)
    return Prediction(np.zeros((*train_ids.shape, 3), np.uint8), train_ids, np.array(confidence, np.float32))


@pytest.mark.parametrize("plan", [PredictionPlan(), PredictionPlan(ratios=(1.0, 1.5), flip=True)])
def test_predict_confidence__classes_of_predict_and_transformers_probabilities(build_predictor, street, plan):
    predictor = with_plan(build_predictor(), plan)
    picture, note = read_upload(street)
    found = predict_confidence(predictor, picture)
    assert note == ""
    assert np.array_equal(found.train_ids, predictor.predict(street))
    assert np.array_equal(found.image, np.asarray(Image.open(street)))
    assert len(np.unique(found.train_ids)) > 2
    if plan.is_plain:
        inputs = predictor.image_processor(picture, return_tensors="pt")
        with torch.no_grad():
            logits = predictor.model(**inputs).logits
        logits = torch.nn.functional.interpolate(logits, (80, 120), mode="bilinear", align_corners=False)
        assert np.allclose(found.confidence, logits.softmax(1).max(1).values[0].numpy(), atol=1e-6)


def test_with_plan__keeps_the_colours(build_predictor):
    predictor = build_predictor()
    predictor.label_space = replace(CITYSCAPES, colors=CITYSCAPES.colors[::-1])
    assert with_plan(predictor, PredictionPlan(flip=True)).label_space.colors == CITYSCAPES.colors[::-1]


def test_read_upload__large_pictures_are_made_smaller_and_it_is_said(street, monkeypatch):
    monkeypatch.setattr(predictions, "MOST_PIXELS", 2400)
    picture, note = read_upload(street)
    assert picture.size == (60, 40)
    assert note == "made smaller for this page, from 80x120 to 40x60 (height x width)"


def test_draw_confidence__ends_of_viridis():
    drawn = draw_confidence(made([[0, 0]], [[0.0, 1.0]]), 1.0)
    assert np.abs(drawn[0].astype(int) - [(68, 1, 84), (253, 231, 37)]).max() <= 1
    assert draw_confidence(made([[0]], [[1.0]]), 0.0).max() == 0


def test_describe_classes__shares_largest_first():
    shown = describe_classes(made([[13, 0, 0, 0]], [[0.5, 0.9, 0.8, 0.7]]), CITYSCAPES)
    assert shown.index("road") < shown.index("75.0 %") < shown.index("80.0 %") < shown.index("car")
    assert shown.index("car") < shown.index("25.0 %") < shown.index("50.0 %")
    assert "rgb(0,0,142)" in shown
    assert "sky" not in shown


def test_describe__names_are_text():
    space = replace(CITYSCAPES, names=("<u>&", *CITYSCAPES.names[1:]))
    one = made([[0]], [[1.0]])
    for shown in (describe_classes(one, space), describe_pixel([one, one], {"<i>": space, "y": space}, 0, 0)):
        assert "&lt;u&gt;&amp;" in shown
        assert "<u>" not in shown
    assert "&lt;i&gt;" in shown


def test_describe_pixel__column_and_row():
    one = made([[0, 1], [2, 13]], [[0.1, 0.2], [0.3, 0.4]])
    shown = describe_pixel([one], {"a": CITYSCAPES}, 0, 1)
    assert "column 0, row 1" in shown
    assert CITYSCAPES.names[2] in shown
    assert "30.0 %" in shown
    assert describe_pixel([one], {"a": CITYSCAPES}, 2, 0) == describe_pixel([one], {"a": CITYSCAPES}, 0, -1) == ""
