"""Pictures that trackers get, and a training that doesn't notice."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations import TrackioCallback, WandbCallback

from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.reports.overlays import blend
from hf_urbanseg.reports.tracker_pictures import TrackerPictures
from hf_urbanseg.runs import first_process

OPTIONS = {
    "max_steps": 3, "per_device_train_batch_size": 2, "eval_strategy": "steps", "eval_steps": 1,
    "metric_for_best_model": "mean_iou",
}  # fmt: skip


def start(worker, folder, count=2, callbacks=(), **options):
    trainer = worker.build_trainer(worker.build_arguments(folder, **OPTIONS | options))
    for callback in callbacks:
        trainer.add_callback(callback)
    if count:
        trainer.add_callback(TrackerPictures(trainer, trainer.eval_dataset.rows, CITYSCAPES, count))
    return trainer


def draw(trainer, index) -> np.ndarray:
    """Image | prediction | label by hand."""
    row = trainer.eval_dataset.rows[index]
    image, label = row["image"].convert("RGB"), CITYSCAPES.train_id_table[np.asarray(row["label"])]
    prediction = Predictor(trainer.model, trainer.processing_class).predict(image)
    return np.hstack([image, blend(image, prediction, CITYSCAPES), blend(image, label, CITYSCAPES)])


def test_train__tensorboard_has_the_pictures(worker, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = start(worker, tmp_path / "run", report_to=["tensorboard"])
    trainer.train()
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"images": 0}).Reload()
    names = trainer.eval_dataset.names
    assert events.Tags()["images"] == [f"predictions/{names[0]}", f"predictions/{names[-1]}"]
    for index in (0, -1):
        found = events.Images(f"predictions/{names[index]}")
        assert [one.step for one in found] == [1, 2, 3]
        (tmp_path / "picture.png").write_bytes(found[-1].encoded_image_string)
        assert np.array_equal(Image.open(tmp_path / "picture.png"), draw(trainer, index))  # of the last step's weights


def test_train__same_with_and_without_pictures(worker, tmp_path, monkeypatch):
    """Dropout, drop path and frozen stages on."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    states = []
    for count in (0, 3):
        trainer = start(worker, tmp_path / str(count), count, report_to=["tensorboard"], freeze_stages=1)
        trainer.train()
        states.append(trainer.model.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_on_evaluate__what_the_first_process_can_not_read_ends_the_others(monkeypatch):
    refusal = DataError("a file that can be read", "none", "bring it back")
    rows, trainer = Dataset.from_dict({"image": [0]}), SimpleNamespace(args=SimpleNamespace(eval_strategy="steps"))
    trainer.is_in_train = True
    pictures, gathered = TrackerPictures(trainer, rows, CITYSCAPES, 1), []
    pictures._send = lambda _: (_ for _ in ()).throw(refusal)
    monkeypatch.setattr(first_process, "gather_parts", lambda part: gathered.append(part) or gathered)
    for first in (True, False):
        with pytest.raises(DataError, match="bring it back"):
            pictures.on_evaluate(None, SimpleNamespace(is_world_process_zero=first), None)
    assert gathered == [refusal, None]


@pytest.mark.parametrize(("callback", "name"), [(TrackioCallback, "_trackio"), (WandbCallback, "_wandb")])
def test_train__other_trackers(worker, tmp_path, callback, name):
    """Neither package is here: a stub of the two calls that their documentation has, `Image` and `log`."""
    logs = []
    stub = SimpleNamespace(Image=lambda value, caption: (value, caption), log=logs.append)

    class Tracker(callback):
        def __init__(self):
            setattr(self, name, stub)

        def on_train_begin(self, *_, **__):
            pass

        on_log = on_predict = on_train_end = on_train_begin

    trainer = start(worker, tmp_path, callbacks=[Tracker()])
    trainer.train()
    assert [one.pop("train/global_step") for one in logs] == [1, 2, 3]
    names = trainer.eval_dataset.names
    assert [*logs[-1]] == [f"predictions/{names[0]}", f"predictions/{names[-1]}"]
    picture, caption = logs[-1][f"predictions/{names[0]}"]
    assert np.array_equal(picture, draw(trainer, 0))
    assert caption == "image, prediction, label; step 3"
    trainer.evaluate()  # not in a training: no tracker listens
    assert len(logs) == 3


def test_tracker_pictures__without_evaluation(worker, tmp_path):
    with pytest.raises(ConfigError, match=r"^expected evaluations with `report_pictures`; found none; "):
        start(worker, tmp_path, eval_strategy="no")
