import numpy as np
import pytest
import torch
from transformers import SegformerForSemanticSegmentation

from hf_urbanseg.inference import latency
from hf_urbanseg.inference.latency import measure_latency, measure_peak_memory
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_config

torch.set_num_threads(1)

CONFIG = build_config("tiny", CITYSCAPES)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SegformerForSemanticSegmentation(CONFIG)


@pytest.fixture
def clock(monkeypatch):
    """Scripted time: each pass takes the next of `durations` to the logits and a quarter of it more to the labels."""
    durations, state = [], {"now": 100.0, "reads": 0}

    def read():
        phase, state["reads"] = state["reads"] % 3, state["reads"] + 1
        if phase:
            state["now"] += durations[0] * (1 if phase == 1 else 0.25)
        if phase == 2:
            durations.pop(0)
        return state["now"]

    monkeypatch.setattr(latency, "perf_counter", read)
    return durations


def test_measure_latency__warm_up_is_left_out(model, clock):
    clock += [9.0, 7.0, *[2.0, 4.0, 8.0, 6.0]]
    result = measure_latency(model, (32, 64), batch_size=2, repeats=4, warmup=2)
    assert result["warmup_passes"] == 2
    assert (result["logits"]["median_ms"], result["label_map"]["median_ms"]) == pytest.approx((5000, 6250))
    assert (result["logits"]["min_ms"], result["label_map"]["max_ms"]) == pytest.approx((2000, 10000))
    assert result["logits"]["images_per_second"] == pytest.approx(2 / 5)
    assert clock == []


@pytest.mark.parametrize(
    ("seconds", "is_warm"),
    [([1, 1, 1, 1], True), ([1, 3, 1.04, 3], True), ([3, 2, 1, 1], False), ([1, 1, 1, 2, 2], False)],
)
def test_measure_latency__passes_that_do_not_settle_are_said(model, clock, seconds, is_warm):
    clock += seconds
    result = measure_latency(model, (32, 64), repeats=len(seconds), warmup=0)
    assert (result["warmup_passes"], result["is_warm"]) == (0, is_warm)


def test_measure_latency__limit_in_seconds(model, clock):
    # 5 s a pass: one warms up, three are measured at least; with 17 s there are four.
    for warmup, seconds, expected in ((5, 3, (1, 3)), (0, 17, (0, 4)), (5, 0, (1, 3))):
        clock[:] = [4.0] * 8
        result = measure_latency(model, (32, 64), repeats=30, warmup=warmup, seconds=seconds)
        assert (result["warmup_passes"], result["logits"]["passes"]) == expected


def test_measure_latency__runs_what_a_prediction_runs(model, monkeypatch):
    seen, upsample = [], latency.upsample_argmax

    def watch(logits, sizes):
        seen.append((tuple(logits.shape), logits.dtype, sizes, torch.is_grad_enabled(), model.training))
        return upsample(logits, sizes)

    monkeypatch.setattr(latency, "upsample_argmax", watch)
    result = measure_latency(model.bfloat16().train(), (45, 70), batch_size=3, repeats=2, warmup=1)
    shape = ((3, 19, 12, 18), torch.bfloat16, [(45, 70)] * 3, False, False)
    assert seen == [shape] * (2 + result["warmup_passes"])
    assert 0 < result["logits"]["min_ms"] < result["label_map"]["min_ms"]


def test_measure_latency__values_of_the_passes(model, clock):
    clock += list(np.random.default_rng(0).permutation(np.arange(1, 101) / 1000))
    values = measure_latency(model, (32, 32), batch_size=4, repeats=100, warmup=0)["logits"]
    assert values == pytest.approx(
        {
            "median_ms": 50.5, "p10_ms": 10.9, "p90_ms": 90.1, "p99_ms": 99.01, "min_ms": 1.0, "max_ms": 100.0,
            "images_per_second": 4 / 0.0505, "passes": 100,
        }
    )  # fmt: skip


@pytest.mark.parametrize(("passes", "known"), [(9, []), (10, [10, 90]), (99, [10, 90])])
def test_measure_latency__no_percentile_of_too_few_passes(model, clock, passes, known):
    clock += [1.0] * passes
    values = measure_latency(model, (32, 32), repeats=passes, warmup=0)["logits"]
    assert [percent for percent in (10, 90, 99) if values[f"p{percent}_ms"] is not None] == known


def test_measure_peak_memory__cpu():
    height, width = 256, 512
    memory = measure_peak_memory(CONFIG, (height, width))
    if memory is None:
        pytest.skip("no /proc/self/clear_refs here: the resident set can't be watched")
    model = SegformerForSemanticSegmentation(CONFIG)
    assert memory["weights_bytes"] == sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    assert memory["peak_bytes"] == memory["weights_bytes"] + memory["working_bytes"]
    # Where the head joins its four maps, they and their copy live at once: 32 MiB, and the encoder's maps beside them.
    # The interpreter and its libraries alone have hundreds.
    maps = 4 * (height // 4) * (width // 4) * CONFIG.decoder_hidden_size * 4
    assert 2 * maps < memory["working_bytes"] < 5 * maps


def test_measure_peak_memory__failing_child_is_a_warning(monkeypatch, caplog):
    if not latency.Path("/proc/self/clear_refs").exists():
        pytest.skip("no /proc/self/clear_refs here: no child is started")
    monkeypatch.setattr(latency.sys, "executable", "/bin/false")
    assert measure_peak_memory(CONFIG, (32, 32)) is None
    assert "Peak memory could not be measured: exit status 1, as when memory is short" in caplog.text


@pytest.mark.gpu
def test_measure_peak_memory__cuda():
    memory = measure_peak_memory(CONFIG, (512, 1024), device="cuda")
    maps = 4 * 128 * 256 * CONFIG.decoder_hidden_size * 4
    assert memory["method"] == "torch.cuda.max_memory_allocated"
    assert 2 * maps < memory["working_bytes"] < 10 * 2 * maps
    result = measure_latency(SegformerForSemanticSegmentation(CONFIG).cuda().half(), (512, 1024), repeats=5)
    assert 0 < result["logits"]["min_ms"] < result["label_map"]["min_ms"]
