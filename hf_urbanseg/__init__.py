"""Fine-tune SegFormer on street scenes with Hugging Face Transformers."""

import importlib
import os
import warnings
from typing import Any

# albumentations looks for a newer version online when it is imported, which stalls machines without a network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# tqdm draws its bars as text where ipywidgets is missing, and would say so under the first cell of every notebook.
warnings.filterwarnings("ignore", "IProgress not found")

__version__ = "0.1.0"

# The names people use, each in the module that has it: loaded when touched, as some take seconds.
_HOMES = {
    "finetune": "finetuning",
    "UrbanSegTrainer": "training.trainer",
    "UrbanSegTrainingArguments": "options.training_arguments",
    "Predictor": "inference.predictor",
    "PredictionPlan": "inference.plan",
    "MeanIoU": "metrics.mean_iou",
    "load_data": "data.loading",
    "compute_class_weights": "data.class_weights",
    "CITYSCAPES": "labels",
    "LabelSpace": "labels",
    "WeightedSumLoss": "losses.composition",
    "CrossEntropyLoss": "losses.cross_entropy",
    "OhemCrossEntropyLoss": "losses.ohem",
    "FocalLoss": "losses.focal",
    "DiceLoss": "losses.dice",
    "LovaszSoftmaxLoss": "losses.lovasz",
    "RunFolder": "runs.folder",
    "UrbanSegError": "errors",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
