"""A temperature fitted on a split: the known one, by any number of processes, kept beside the weights it is of."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from hf_urbanseg.errors import ModelError
from hf_urbanseg.inference import temperature
from hf_urbanseg.inference.calibration_file import find_temperature, write_calibration
from hf_urbanseg.inference.plan import PLAIN, PredictionPlan
from hf_urbanseg.inference.temperature import fit_shared


class _Scaled(torch.nn.Module):
    """Logits that are the pixels, times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.device = torch.nn.Parameter(torch.tensor(factor)), torch.device("cpu")

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.factor * F.avg_pool2d(pixel_values, 4))


class _Split(torch.utils.data.Dataset):
    """Six frames of three classes, labelled as the softmax of twice their logits has it, some pixels void.

    Or `mixed`: those with much void as the softmax of a quarter has it.
    """

    def __init__(self, ratios=(1.0,), mixed=False):
        generator, self.names, self.samples = torch.Generator().manual_seed(0), [*"abcdef"], []
        for index in range(6):
            view = F.interpolate(torch.randn(1, 3, 8, 12, generator=generator) * 2, (64, 96))[0]
            logits = F.interpolate(F.avg_pool2d(view, 4)[None], (48, 80), mode="bilinear")[0]
            factor = 0.25 if mixed and index > 2 else 2
            labels = torch.multinomial((factor * logits).softmax(0).flatten(1).T, 1, generator=generator).view(48, 80)
            labels[: (7 if mixed else 5) * index] = 255
            views = [F.interpolate(view[None], scale_factor=ratio)[0] for ratio in ratios]
            self.samples.append({"views": views, "labels": labels.to(torch.uint8), "index": index})

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.samples[index]


def _fit(factor=1.0, plan=PLAIN, batch_size=2, processes=None, mixed=False):
    predictor = SimpleNamespace(model=_Scaled(factor), plan=plan)
    return fit_shared(predictor, _Split(plan.ratios, mixed), batch_size, 0, processes)


def test_fit_shared__finds_the_factor_of_the_logits():
    plain = _fit()
    assert plain["temperature"] == pytest.approx(0.5, rel=0.03)
    assert plain["nll"][1] < plain["nll"][0]
    assert (plain["images"], plain["pixels"]) == (6, 6 * 48 * 80 - 80 * 5 * 15)
    assert _fit(4.0)["temperature"] == pytest.approx(4 * plain["temperature"], rel=1e-5)  # logits of fp32
    windows = _fit(4.0, PredictionPlan(window=(64, 96)))
    assert windows["temperature"] == pytest.approx(4 * plain["temperature"], rel=1e-5)
    # Several passes are averaged and so less sure; what sharpens them is found, too.
    assert _fit(1.0, PredictionPlan((0.5, 1.0)))["temperature"] < plain["temperature"]


def test_fit_shared__some_pixels_of_each_image_stand_for_all(monkeypatch):
    whole, mixed = _fit(), _fit(mixed=True)
    monkeypatch.setattr(temperature, "_PIXELS", 6 * 1000)
    some = _fit()
    assert some["pixels"] == 6000
    assert some["temperature"] == pytest.approx(whole["temperature"], rel=0.05)
    assert _fit(mixed=True)["temperature"] == pytest.approx(mixed["temperature"], rel=0.05)
    # The same pixels whatever the batches and processes.
    assert _fit(batch_size=5)["temperature"] == pytest.approx(some["temperature"], rel=1e-9)
    gathered = []

    def gather(part):
        gathered.append(part)
        return gathered[:]

    monkeypatch.setattr(temperature, "gather_parts", gather)
    monkeypatch.setattr(temperature, "fit_temperature", lambda *samples: gathered[0] and 1.0)
    for rank in range(2):
        _fit(processes=SimpleNamespace(process_index=rank, num_processes=2))
    assert [sorted(part) for part in gathered] == [[0, 2, 4], [1, 3, 5]]
    monkeypatch.undo()
    monkeypatch.setattr(temperature, "_PIXELS", 6 * 1000)
    monkeypatch.setattr(temperature, "gather_parts", lambda part: gathered)
    assert _fit() == some


def test_find_temperature__of_these_weights_and_this_way_of_testing(tmp_path, caplog):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert find_temperature(tmp_path, None, "single scale") == 1
    path = write_calibration(tmp_path, {"temperature": 1.5}, "single scale", "kitti")
    assert find_temperature(tmp_path, None, "single scale") == 1.5
    assert not caplog.messages
    assert find_temperature(tmp_path, None, "12 passes") == 1
    assert caplog.messages[-1] == f"{path} was fitted for single scale and is left out for 12 passes"
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert find_temperature(tmp_path, None, "single scale") == 1
    assert caplog.messages[-1].startswith(f"{path} was fitted for other weights")


@pytest.mark.parametrize("change", [None, {"temperature": 0}, {"temperature": True}, {"temperature": "1"},
                                    {"protocol": 7}, {"weights_sha256": []}])  # fmt: skip
def test_find_temperature__a_damaged_file_is_one_line(tmp_path, change):
    path = write_calibration(tmp_path, {"temperature": 1.5}, "single scale", "kitti")
    path.write_text("{" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=r"calibration.json: expected ") as caught:
        find_temperature(tmp_path, None, "single scale")
    assert "\n" not in str(caught.value)
