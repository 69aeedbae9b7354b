"""Gradients are the same for any layout of a step, and what two processes do they do together."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSemanticSegmentation

from hf_urbanseg.data.collator import collate_train
from hf_urbanseg.data.normalization import normalize_batch
from hf_urbanseg.inference.evaluation import build_eval_loader, measure
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX

sys.path.insert(0, str(Path(__file__).parents[1] / "workers"))
import compiled

WORKERS = Path(__file__).parents[1] / "workers"


@pytest.fixture(scope="module")
def two_processes(launch, tmp_path_factory):
    """What tests/workers left and said: all of it by two processes, whose start takes longer than any part."""
    folder = tmp_path_factory.mktemp("two_processes")
    result = launch(WORKERS / "two_processes.py", folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return SimpleNamespace(folder=folder, stdout=result.stdout, stderr=result.stderr)


@pytest.fixture(scope="module")
def reference_gradients(worker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return {name: worker.compute_gradients(folder, 8, 1, name, use_cpu=True) for name in worker.LOSSES}


def test_gradient__same_for_any_accumulation(worker, reference_gradients, tmp_path):
    for loss, expected in reference_gradients.items():
        for batch_size, accumulation in ((4, 2), (1, 8)):
            gradients = worker.compute_gradients(tmp_path, batch_size, accumulation, loss)
            # Rounding of fp32 over other batches: 0.4e-6 to 1.1e-6 over the losses.
            assert worker.relative_error(gradients, expected) < 2e-6, (loss, batch_size, accumulation)


@pytest.mark.parametrize(
    ("architecture", "size", "error"),
    [
        ("encoder_decoder", "tiny", 2e-6),
        # Where two values of a pool are almost the same, rounding decides which has the gradient: 1e-7 to 3e-5.
        ("encoder_decoder", "tiny_unpooling", 2e-4),
        ("unet", "tiny", 2e-4),
        ("deeplabv3plus", "tiny", 2e-6),
        ("pspnet", "tiny", 2e-6),
        ("swin_segformer", "tiny", 2e-6),
    ],
)
def test_gradient__of_a_baseline_same_for_any_accumulation(worker, tmp_path, architecture, size, error):
    together, one_by_one = (
        worker.compute_gradients(tmp_path, *layout, "auxiliary", architecture, size) for layout in ((4, 1), (1, 4))
    )
    assert len(together) > 20
    assert worker.relative_error(one_by_one, together) < error


def test_gradient__same_on_two_processes(worker, reference_gradients, two_processes, tmp_path):
    for name, case in worker.TWO_PROCESS_CASES.items():
        expected = reference_gradients.get(name) or worker.compute_gradients(tmp_path, 8, 1, *case)
        for batch_size, accumulation in worker.TWO_PROCESS_LAYOUTS:
            gradients = torch.load(two_processes.folder / "gradients" / f"{name}_{batch_size}_{accumulation}.pt")
            assert worker.relative_error(gradients, expected) < 1e-6, (name, batch_size, accumulation)


@pytest.mark.gpu
def test_gradient__same_on_a_gpu(worker, reference_gradients, exact_convolutions, tmp_path):
    for name, expected in reference_gradients.items():
        gradients = worker.compute_gradients(tmp_path, 4, 2, name)
        assert next(iter(gradients.values())).is_cuda
        # Where pixels are selected, or sorted, rounding decides some of them.
        error = 1e-2 if name in ("bare", "lovasz", "ohem_threshold", "ohem_top", "unlabelled") else 1e-4
        assert worker.relative_error(gradients, expected) < error, name


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_gradient__in_half_precision_on_a_gpu(worker, reference_gradients, tmp_path, precision):
    gradients = worker.compute_gradients(tmp_path, 8, 1, "cross_entropy", **{precision: True})
    assert worker.relative_error(gradients, reference_gradients["cross_entropy"]) < 0.1


@pytest.mark.gpu
def test_gradient__synchronised_batch_norm_on_one_gpu(worker, exact_convolutions, tmp_path):
    """Statistics of two processes' halves of the batch are those of the whole batch in one process."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*command, str(WORKERS / "synchronised.py"), str(tmp_path)], check=True, timeout=600)
    found = torch.load(tmp_path / "step.pt")
    expected, trainer = compiled.compute_gradients(tmp_path, "auxiliary", per_device_train_batch_size=8)
    assert found["layers"] == 2
    assert worker.relative_error(found["gradients"], expected) < 1e-4
    for name, buffer in trainer.model.named_buffers():
        torch.testing.assert_close(found["buffers"][name], buffer, rtol=1e-4, atol=1e-5)


def test_gradient__losses_differ(worker, reference_gradients):
    """Else the comparisons above would prove little."""
    names = list(reference_gradients)
    for first, second in itertools.pairwise(names):
        common = reference_gradients[first].keys() & reference_gradients[second].keys()
        pair = [{key: reference_gradients[name][key] for key in common} for name in (first, second)]
        assert worker.relative_error(*pair) > 1e-3, (first, second)


def test_gradient__equals_plain_autograd(worker, reference_gradients, tmp_path):
    """The Trainer's gradient is that of torch's own loss over the same eight crops in one batch."""
    trainer = worker.build_trainer(
        worker.build_arguments(tmp_path, per_device_train_batch_size=8), drop_path_rate=0.0, classifier_dropout_prob=0.0
    )
    sampler = trainer._get_train_sampler()
    batch = normalize_batch(collate_train([trainer.train_dataset[key] for key in sampler]))
    labels, model = batch["labels"], trainer.model.eval()
    logits = model(pixel_values=batch["pixel_values"]).logits
    logits = torch.nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    weights = torch.linspace(0.5, 1.5, 19)
    loss = torch.nn.functional.cross_entropy(logits, labels, weights, ignore_index=255)  # divided by summed weights
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert worker.relative_error(reference_gradients["weighted_weight_sum"], gradients) < 1e-6


def test_confusion_matrix__same_on_two_processes(worker, two_processes):
    folder = two_processes.folder / "evaluation"
    first, second = torch.load(folder / "matrix_0.pt"), torch.load(folder / "matrix_1.pt")
    assert torch.equal(first, second)
    assert [(folder / f"stopped_{rank}.txt").read_text() for rank in (0, 1)] == ["2", "2"]
    here = worker.build_trainer(worker.build_arguments(folder / "here"))
    # The step that was NaN on one rank is skipped by both.
    trained = [torch.load(folder / f"trained_{rank}.pt") for rank in (0, 1)]
    assert [one["skipped"] for one in trained] == [[2], [2]]
    assert all(tensor.isfinite().all() for one in trained for tensor in one["state"].values())
    for name, _ in here.model.named_parameters():
        assert torch.equal(*(one["state"][name] for one in trained)), name
    images = json.loads((folder / "images.json").read_text())
    sampler, names = here._get_train_sampler(), here.train_dataset.names
    sampler.step_size = 4
    step = [names[index] for index in sampler.list_step(1)]
    line = f"its images: {', '.join(step)}; alone, too: {', '.join(step[2:])}\n"  # the second process's
    assert line in two_processes.stderr
    dataset = here.eval_dataset
    model = AutoModelForSemanticSegmentation.from_pretrained(folder / "model")
    for batch_size in (1, 3):
        alone = measure(model, build_eval_loader(dataset, batch_size), dataset.names, CITYSCAPES.names, boundary=True)
        assert torch.equal(alone.matrix, first)
        assert alone.images.to_dict() == images  # in the same order, boundaries included
    labelled = sum(int((dataset[i]["labels"] != IGNORE_INDEX).sum()) for i in range(len(dataset)))
    assert int(first.sum()) == labelled  # every pixel of every image once


def test_gradient__compiled_or_computed_again_on_two_processes(worker, two_processes, tmp_path):
    expected, _ = compiled.compute_gradients(
        tmp_path, "auxiliary", per_device_train_batch_size=8, freeze_batch_norm=True
    )
    for name in compiled.LAYOUTS:
        gradients = torch.load(two_processes.folder / "compiled" / f"{name}.pt")
        assert worker.relative_error(gradients, expected) < 2e-6, name


def test_train__two_processes_stop_together(two_processes):
    assert sorted(re.findall(r"rank\d:\w+", two_processes.stdout)) == ["rank0:exact", "rank1:exact"]


def test_save_checkpoint__on_one_of_two_processes(two_processes):
    folder = two_processes.folder / "full_disk"
    said = [(folder / f"said_{rank}").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert "checkpoint-4: expected room for it; found No space left on device" in said[0]
    assert [path.name for path in (folder / "run").iterdir()] == ["checkpoint-2"]


def test_train__what_one_of_two_processes_cannot_read(two_processes):
    said = [(two_processes.folder / "unread" / f"said_{rank}").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert said[0].splitlines() == [
        "train-3.parquet: expected a file that can be read; found none; bring it back; `--resume` goes on behind step "
        "2.",
        "test-0.parquet: expected a file that can be read; found none; bring it back.",
        "from step 2: True",
    ]
