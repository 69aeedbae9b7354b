"""Pictures of predictions in TensorBoard, trackio and wandb while a run trains."""

from collections.abc import Iterator

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.rgb import to_array, to_rgb
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.overlays import blend
from hf_urbanseg.reports.run_report import pick_evenly
from hf_urbanseg.runs.first_process import refusing_together

_SIDE = 1920


class TrackerPictures(TrainerCallback):
    """At each evaluation of a training sends image, prediction and label of the same few images to the trackers.

    The first process alone predicts them once more, with the weights that train. Training goes on as if nothing had
    been: same mode, same random numbers.

    Args:
        trainer: Whose trackers are asked; its evaluations are the cadence.
        rows: Of the validation split.
        count: Images, evenly picked.

    Raises:
        ConfigError: Nothing will be evaluated.
    """

    def __init__(self, trainer: Trainer, rows: Dataset | None, label_space: LabelSpace, count: int):
        if rows is None or trainer.args.eval_strategy == "no":
            raise ConfigError("evaluations with `report_pictures`", "none", "name a validation split, or leave it out")
        self.trainer, self.label_space = trainer, label_space
        self.rows = rows.select(sorted(pick_evenly(len(rows), count)))

    def on_evaluate(self, args, state, control, **kwargs):
        if self.trainer.is_in_train:
            with refusing_together():  # a frame that is streamed may be out of reach now
                if state.is_world_process_zero:
                    self._send(state)

    def _send(self, state: TrainerState) -> None:
        model = self.trainer.model
        device, mode = model.device, model.training
        with torch.random.fork_rng([] if device.type == "cpu" else [device]):
            pictures = dict(self._draw(Predictor(model, self.trainer.processing_class)))
        model.train(mode)
        for tracker in self.trainer.callback_handler.callbacks:
            if isinstance(tracker, TensorBoardCallback):
                for tag, picture in pictures.items():
                    tracker.tb_writer.add_image(tag, picture, state.global_step, dataformats="HWC")
            elif isinstance(tracker, TrackioCallback | WandbCallback):  # which are called alike
                module = tracker._trackio if isinstance(tracker, TrackioCallback) else tracker._wandb
                caption = f"image, prediction, label; step {state.global_step}"
                logs = {tag: module.Image(picture, caption=caption) for tag, picture in pictures.items()}
                module.log(logs | {"train/global_step": state.global_step})

    def _draw(self, predictor: Predictor) -> Iterator[tuple[str, np.ndarray]]:
        """The name of each picture, and the picture, (height, width, 3) uint8; of wide images one below the other."""
        space = self.label_space
        for row in self.rows:
            image = to_rgb(row["image"])
            maps = predictor.predict(to_array(row["image"])), read_train_ids(row["label"], space)
            cells = [np.asarray(image), *(blend(image, one, space) for one in maps)]
            wide = image.width >= 1.8 * image.height
            picture = Image.fromarray(np.concatenate(cells, axis=0 if wide else 1))
            picture.thumbnail((_SIDE, _SIDE))
            yield f"predictions/{row['name']}", np.asarray(picture)
