"""`calibration.json` beside a model: the temperature that was fitted, and for which weights and way of testing."""

import logging
from pathlib import Path

from transformers.utils import SAFE_WEIGHTS_NAME

from hf_urbanseg.errors import ModelError
from hf_urbanseg.files import hash_file
from hf_urbanseg.json_yaml import read_json, write_json
from hf_urbanseg.metrics.calibration import TEMPERATURE
from hf_urbanseg.models.loading import find_file

logger = logging.getLogger(__name__)

CALIBRATION = "calibration.json"


def find_temperature(name_or_path: str | Path, revision: str | None, protocol: str) -> float:
    """The temperature fitted for a folder's or Hub model's weights and `PredictionPlan.describe`; 1 if there is none.

    Raises:
        ModelError: A damaged file.
    """
    path = _find(name_or_path, CALIBRATION, revision)
    if path is None:
        return 1.0
    found = read_json(path, ModelError) or {}
    words = isinstance(found.get("protocol"), str) and isinstance(found.get("weights_sha256"), str | None)
    if not words or isinstance(found.get("temperature"), bool) or found.get("temperature") not in TEMPERATURE:
        expected = f"a `temperature` {TEMPERATURE}, its `protocol` and `weights_sha256`"
        raise ModelError(expected, "others", "delete it, or fit it again: --fit_temperature", path)
    weights = _find(name_or_path, SAFE_WEIGHTS_NAME, revision)
    if found["weights_sha256"] != (weights and hash_file(weights)):
        logger.warning("%s was fitted for other weights and is left out; fit it again: --fit_temperature", path)
    elif found["protocol"] != protocol:
        logger.warning("%s was fitted for %s and is left out for %s", path, found["protocol"], protocol)
    else:
        return found["temperature"]
    return 1.0


def write_calibration(folder: str | Path, fitted: dict, protocol: str, data: str) -> Path:
    """Writes what `fit_shared` found on `data` for the model in a folder."""
    path, weights = Path(folder) / CALIBRATION, Path(folder) / SAFE_WEIGHTS_NAME
    sha = hash_file(weights) if weights.is_file() else None
    write_json(path, {**fitted, "protocol": protocol, "data": data, "split": "validation", "weights_sha256": sha})
    return path


def _find(name_or_path: str | Path, name: str, revision: str | None) -> Path | None:
    try:
        return find_file(name_or_path, name, revision)
    except ModelError:
        return None
