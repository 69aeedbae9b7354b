import copy
import pickle
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import SegformerForSemanticSegmentation
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models import _decode_blocks
from hf_urbanseg.models.auxiliary_head import attach_auxiliary_head
from hf_urbanseg.models.build import build_config
from hf_urbanseg.models.decode_head import (
    FastSegformerDecodeHead,
    apply_fast_decode_head,
    restore_stock_decode_head,
)
from hf_urbanseg.models.ema import ExponentialMovingAverage

SMALL = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 24, "drop_path_rate": 0.3}
MODES = ("training", "frozen", "evaluation", "no_grad")
PATHS = ("blocks", "plain")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Four rows each, so that small maps have several blocks."""
    monkeypatch.setattr(_decode_blocks, "_ELEMENTS_PER_THREAD", 1)


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """Both ways to compute: in blocks, as on CPU, and as plain tensor code, as elsewhere."""
    if request.param == "plain":
        monkeypatch.setattr(FastSegformerDecodeHead, "_goes_by_blocks", lambda *_: False)
    return request.param


def build(dtype=torch.float64, **config) -> SegformerForSemanticSegmentation:
    """With weights and statistics that are far from their simple initial values."""
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(build_config("tiny", CITYSCAPES, **SMALL | config))
    for parameter in model.decode_head.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.decode_head.batch_norm.running_mean.normal_()
    model.decode_head.batch_norm.running_var.uniform_(0.5, 2)
    return model.to(dtype)


def build_pair(dtype=torch.float64, **config):
    stock = build(dtype, **config)
    fast = copy.deepcopy(stock)
    assert apply_fast_decode_head(fast)
    return stock, fast


def set_mode(model, mode: str) -> None:
    model.train(mode in ("training", "frozen"))
    if mode == "frozen":
        model.decode_head.batch_norm.eval()


def random_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(tensor.dtype)


def run(model, mode: str, pixel_values, context=nullcontext):
    """Logits, all gradients of a random function of them, and the random number that follows the pass."""
    set_mode(model, mode)
    model.zero_grad()
    torch.manual_seed(1)
    with torch.set_grad_enabled(mode != "no_grad"), context():
        logits = model(pixel_values=pixel_values).logits
    following = torch.rand(1)
    if mode != "no_grad":
        (logits * random_like(logits)).sum().backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return logits.detach(), gradients, following


def assert_equal_gradients(found: dict, expected: dict) -> None:
    """Each within 1e-12 of its own size, or as close to nothing as stock's where mathematics says zero.

    A constant added to all keys changes nothing, nor does one before a BatchNorm in training.
    """
    assert found.keys() == expected.keys()
    size = max((float(one.abs().max()) for one in expected.values()), default=0)
    for name, gradient in expected.items():
        if gradient.abs().max() < 1e-13 * size:
            assert found[name].abs().max() < 1e-13 * size, name
        else:
            assert relative(found[name], gradient) < 1e-12, name


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((2, 3, 96, 128), {}),
        ((2, 3, 75, 138), {}),  # stages of 19x35, 10x18, 5x9, 3x5
        ((1, 3, 75, 138), {}),  # memory format and dropout mask of a single image are others
        ((3, 3, 32, 32), {}),  # last stage 1x1
        ((2, 3, 64, 32), {"decoder_hidden_size": 768}),
        ((2, 3, 64, 96), {"hidden_sizes": [32, 64, 160, 256], "decoder_hidden_size": 256}),
    ],
)
def test_forward__equals_stock(path, mode, shape, config):
    stock, fast = build_pair(**config)
    pixel_values = torch.randn(shape, dtype=torch.float64)
    expected, expected_gradients, following = run(stock, mode, pixel_values)
    logits, gradients, found = run(fast, mode, pixel_values)
    assert torch.equal(found, following)  # as many draws
    assert relative(logits, expected) < 1e-12
    assert logits.stride() == expected.stride()
    assert_equal_gradients(gradients, expected_gradients)
    for (name, buffer), found in zip(stock.named_buffers(), fast.buffers(), strict=True):
        torch.testing.assert_close(found, buffer, rtol=1e-12, atol=1e-12, msg=name)


def test_forward__equals_stock_over_steps(path):
    """Statistics, their counter and the weights of four steps of SGD; crops of two sizes."""
    models = build_pair()
    for model in models:
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        torch.manual_seed(3)
        for step in range(4):
            logits = model(pixel_values=torch.randn(2, 3, 64, 64 + 32 * (step % 2), dtype=torch.float64)).logits
            (logits * random_like(logits)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    states = [model.state_dict() for model in models]
    assert states[1]["decode_head.batch_norm.num_batches_tracked"] == 4
    for name, expected in states[0].items():
        torch.testing.assert_close(states[1][name], expected, rtol=1e-11, atol=1e-12, msg=name)


@pytest.mark.parametrize("elements", [1, 24 * 32 * 7, 2**19])
def test_forward__whatever_the_blocks(monkeypatch, elements):
    monkeypatch.setattr(_decode_blocks, "_ELEMENTS_PER_THREAD", elements)
    stock, fast = build_pair()
    pixel_values = torch.randn(2, 3, 120, 128, dtype=torch.float64)
    expected, expected_gradients, _ = run(stock, "training", pixel_values)
    logits, gradients, _ = run(fast, "training", pixel_values)
    assert relative(logits, expected) < 1e-12
    assert_equal_gradients(gradients, expected_gradients)


def test_forward__large_mean(path):
    """The variance is not the small difference of two large numbers."""
    stock, fast = build_pair(torch.float32)
    reference = copy.deepcopy(stock).double()
    for model in (stock, fast, reference):
        model.decode_head.linear_projections[0].proj.bias.data.add_(1e3)
    pixel_values = torch.randn(2, 3, 64, 64)
    truth, _, _ = run(reference, "no_grad", pixel_values.double())
    for model in (stock, fast, reference):
        model.decode_head.dropout.p = 0.0
        model.decode_head.batch_norm.train()
    truth, ours, theirs = (
        model.decode_head([one.to(model.dtype) for one in stages_of(reference, pixel_values.double())])
        for model in (reference, fast, stock)
    )
    assert relative(ours.double(), truth) < 2 * relative(theirs.double(), truth)


def stages_of(model, pixel_values):
    with torch.no_grad():
        return model.eval().segformer(pixel_values, output_hidden_states=True).hidden_states


def test_blocked_head__statistics_are_of_the_sums_before_they_are_rounded():
    torch.manual_seed(0)
    fine, weight, coarse = torch.randn(2, 48, 5), torch.eye(7, 5), torch.randn(2, 6, 8, 7) + 30
    classifier, bias = torch.randn(3, 7), torch.randn(3)
    given = [one.bfloat16() for one in (fine, weight, classifier, bias, coarse)]
    fine, weight, classifier, bias, coarse = given
    scale, shift = torch.ones(7), torch.zeros(7)
    _, mean, variance = _decode_blocks.BlockedHead.apply(
        (6, 8), 1e-5, None, fine, weight, scale, shift, classifier, bias, coarse
    )
    sums = fine.double() @ weight.double().T + coarse.double().flatten(1, 2)
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(mean.double(), sums.mean((0, 1)), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), sums.var((0, 1), correction=0), rtol=2e-6, atol=0)


def test_blocked_head__blocks_are_added_in_single_precision():
    """600 blocks of four pixels with a gradient of 1 each: bf16 would stop at 1024."""
    one = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    fine = torch.ones(1, 2400, 1, dtype=torch.bfloat16)
    coarse = torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    classifier = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.bfloat16, requires_grad=True)
    logits, *_ = _decode_blocks.BlockedHead.apply(
        (2400, 1), 1e-5, None, fine, one, None, None, classifier, bias, coarse
    )
    logits.backward(torch.ones_like(logits))
    assert [float(tensor.grad) for tensor in (one, coarse, classifier, bias)] == [2400] * 4


@pytest.mark.parametrize("norm", [True, False])
def test_blocked_head__autocast_around_the_backward_pass_changes_nothing(norm):
    torch.manual_seed(0)
    shapes = [(2, 48, 5), (7, 5), (7,), (7,), (3, 7), (3,), (2, 3, 4, 7)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    fine, weight, scale, shift, *others = inputs
    scale, shift = (scale, shift) if norm else (None, None)
    logits, *_ = _decode_blocks.BlockedHead.apply((6, 8), 1e-5, None, fine, weight, scale, shift, *others)
    expected, found = [], []
    for gradients, autocast in ((expected, False), (found, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            gradients += torch.autograd.grad(logits, inputs, random_like(logits), retain_graph=True, allow_unused=True)
    used = [one is not None for one in expected]
    assert used == [True, True, norm, norm, True, True, True]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True) if pair[0] is not None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("autocast", [True, False])
def test_forward__bf16_is_as_good_as_stock(path, mode, autocast):
    """Mean distance from the fp64 truth; dropout off, since the truth is one function.

    Gradients differ by the pixels whose ReLU flips, hence the number of pixels. Weights that are bf16 themselves, which
    is for predicting, are rounded once more when they are multiplied.
    """
    errors = {"fast": [], "stock": []}
    for seed in range(4):
        stock, fast = build_pair(torch.float32, decoder_hidden_size=64)
        truth = copy.deepcopy(stock).double()
        if not autocast:
            stock, fast = stock.bfloat16(), fast.bfloat16()
            truth.load_state_dict(stock.state_dict())
        torch.manual_seed(seed)
        stages = [torch.randn(2, size, 48 >> i, 64 >> i).bfloat16() for i, size in enumerate(SMALL["hidden_sizes"])]
        results = {}
        for name, model in (("truth", truth), ("stock", stock), ("fast", fast)):
            head = model.decode_head
            head.dropout.p = 0.0
            set_mode(model, mode)
            inputs = [one.to(head.classifier.weight.dtype, copy=True).requires_grad_() for one in stages]
            cast = torch.autocast("cpu", torch.bfloat16, enabled=autocast and name != "truth")
            with torch.set_grad_enabled(mode != "no_grad"), cast:
                logits = head(inputs)
            results[name] = [logits.detach()]
            if autocast and mode != "no_grad":
                (logits * random_like(logits)).sum().backward()
                results[name] += [inputs[0].grad, inputs[3].grad, head.linear_fuse.weight.grad]
                results[name] += [head.classifier.weight.grad, head.batch_norm.weight.grad]
        assert results["fast"][0].dtype == results["stock"][0].dtype == torch.bfloat16
        for name in errors:
            pairs = zip(results[name], results["truth"], strict=True)
            errors[name].append([float((a.double() - b).norm() / b.norm()) for a, b in pairs])
    ours, theirs = (torch.tensor(errors[name]).mean(0) for name in ("fast", "stock"))
    assert (ours <= (1.1 if autocast else 1.2) * theirs).all(), (ours, theirs)


def test_forward__with_checkpointing_and_auxiliary_head(path):
    stock = build()
    attach_auxiliary_head(stock, stage=3, channels=12, dropout=0.0)
    fast = copy.deepcopy(stock)
    apply_fast_decode_head(fast)
    fast.gradient_checkpointing_enable({"use_reentrant": False})
    pixel_values = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    results = []
    for model in (stock, fast):
        model.train()
        torch.manual_seed(1)
        output = model(pixel_values=pixel_values)
        (output.logits.square().mean() + output.auxiliary_logits.square().mean()).backward()
        results.append((output, {name: one.grad for name, one in model.named_parameters()}))
    (expected, expected_gradients), (found, gradients) = results
    assert relative(found.logits, expected.logits) < 1e-12
    assert relative(found.auxiliary_logits, expected.auxiliary_logits) < 1e-12
    assert_equal_gradients(gradients, expected_gradients)


@pytest.mark.parametrize("mode", MODES)
def test_forward__sync_batch_norm(mode):
    """Without other processes it is a BatchNorm, computed by itself."""
    stock, fast = build_pair()
    nn.SyncBatchNorm.convert_sync_batchnorm(fast)
    assert type(fast.decode_head.batch_norm) is nn.SyncBatchNorm
    pixel_values = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected, found = (run(model, mode, pixel_values) for model in (stock, fast))
    assert relative(found[0], expected[0]) < 1e-12
    assert_equal_gradients(found[1], expected[1])


def test_forward__frozen_encoder_and_frozen_head(path):
    stock, fast = build_pair()
    pixel_values = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for frozen in ("segformer", "decode_head"):
        for model in (stock, fast):
            model.requires_grad_(True)
            getattr(model, frozen).requires_grad_(False)
        expected, found = (run(model, "training", pixel_values)[1] for model in (stock, fast))
        assert not any(name.startswith(frozen) for name in found)
        assert_equal_gradients(found, expected)


class TwiceLinear(nn.Linear):
    """As adapters are: its weight alone is not what it computes."""

    def forward(self, tokens):
        return 2 * super().forward(tokens)


def replace(name, build):
    def change(head):
        torch.manual_seed(4)
        setattr(head, name, build().double())

    return change


def drop_bias(name):
    return lambda head: setattr(head.get_submodule(name), "bias", None)


def prune_and_train(name):
    def change(head):
        layer = head.get_submodule(name)
        prune.l1_unstructured(layer, "weight", 0.5)
        layer.weight_orig.data.mul_(-1.5)  # as a step of training: `weight` is made of it before each call

    return change


def add_hook(name, kind):
    def change(head):
        layer = head.get_submodule(name)
        whole = layer.forward
        match kind:
            case "after":
                layer.register_forward_hook(lambda module, inputs, output: 2 * output)
            case "before":
                layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
            case "gradient":
                layer.register_full_backward_hook(lambda module, inputs, outputs: (2 * inputs[0],))
            case "gradient before":
                layer.register_full_backward_pre_hook(lambda module, outputs: (2 * outputs[0],))
            case "instead":
                layer.forward = lambda x: 3 * whole(x)

    return change


LAYERS = ["linear_projections.1", "linear_projections.1.proj", "linear_fuse", "batch_norm", "activation", "dropout"]
LAYERS += ["classifier"]
KINDS = ["after", "before", "gradient", "gradient before", "instead"]
CHANGES = {
    **{f"hook {kind} {name}": add_hook(name, kind) for name in LAYERS for kind in KINDS},
    **{f"prune {name}": prune_and_train(name) for name in (LAYERS[1], LAYERS[2], LAYERS[6])},
    "adapter": lambda head: setattr(head.linear_projections[2].proj, "__class__", TwiceLinear),
    "projection without bias": drop_bias("linear_projections.2.proj"),
    "fuse with bias": lambda head: setattr(head.linear_fuse, "bias", nn.Parameter(torch.ones(24).double())),
    "classifier without bias": drop_bias("classifier"),
    "momentum of all": replace("batch_norm", lambda: nn.BatchNorm2d(24, momentum=None)),
    "momentum of none": replace("batch_norm", lambda: nn.BatchNorm2d(24, momentum=0.0)),
    "momentum": replace("batch_norm", lambda: nn.BatchNorm2d(24, momentum=0.7)),
    "epsilon": replace("batch_norm", lambda: nn.BatchNorm2d(24, eps=0.3)),
    "not affine": replace("batch_norm", lambda: nn.BatchNorm2d(24, affine=False)),
    "no statistics": replace("batch_norm", lambda: nn.BatchNorm2d(24, track_running_stats=False)),
    "no norm": replace("batch_norm", nn.Identity),
    "other activation": replace("activation", nn.GELU),
    "dropout of maps": replace("dropout", lambda: nn.Dropout2d(0.3)),
    "dropout of all": replace("dropout", lambda: nn.Dropout(1.0)),
    "dropout of none": replace("dropout", lambda: nn.Dropout(0.0)),
    "one label": replace("classifier", lambda: nn.Conv2d(24, 1, 1)),
    "many labels": replace("classifier", lambda: nn.Conv2d(24, 150, 1)),
    "classifier of 3x3": replace("classifier", lambda: nn.Conv2d(24, 5, 3, padding=1)),
    "padded classifier": replace("classifier", lambda: nn.Conv2d(24, 5, 1, padding=1)),
    "classifier in steps": replace("classifier", lambda: nn.Conv2d(24, 5, 1, stride=2)),
    "classifier in groups": replace("classifier", lambda: nn.Conv2d(24, 6, 1, groups=3)),
}


@pytest.fixture(scope="module")
def built():
    return build().decode_head


@pytest.mark.parametrize("mode", ["training", "frozen", "no_grad"])
@pytest.mark.parametrize("change", CHANGES)
def test_forward__changed_layers_do_what_they_do_in_stock(path, built, change, mode):
    results = []
    for kind in (SegformerDecodeHead, FastSegformerDecodeHead):
        head = copy.deepcopy(built)
        head.__class__ = kind
        CHANGES[change](head)
        head.train(mode != "no_grad")
        if mode == "frozen":
            head.batch_norm.eval()
        torch.manual_seed(5)
        sizes = enumerate(SMALL["hidden_sizes"])
        stages = [torch.randn(2, size, 16 >> i, 12 >> i, dtype=torch.float64).requires_grad_() for i, size in sizes]
        with torch.set_grad_enabled(mode != "no_grad"):
            logits = head(stages)
        following = torch.rand(1)
        if mode != "no_grad":
            (logits * random_like(logits)).sum().backward()
        gradients = {name: one.grad for name, one in head.named_parameters() if one.grad is not None}
        gradients |= {f"stage {i}": one.grad for i, one in enumerate(stages) if one.grad is not None}
        results.append((logits.detach(), gradients, following, dict(head.named_buffers())))
    (expected, expected_gradients, draw, buffers), (logits, gradients, found, own_buffers) = results
    assert torch.equal(found, draw)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    assert_equal_gradients(gradients, expected_gradients)
    for name, buffer in buffers.items():
        torch.testing.assert_close(own_buffers[name], buffer, rtol=1e-12, atol=1e-12, msg=name)


def test_forward__nothing_of_transformers_makes_it_slow_again():
    """It hangs hooks on layers of its own accord, in the first forward; a hook here would mean the stock way."""
    _, fast = build_pair()
    fast.gradient_checkpointing_enable({"use_reentrant": False})
    pixel_values = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    fast.train()(pixel_values=pixel_values, output_hidden_states=True, output_attentions=True).logits.sum().backward()
    with mock.patch.object(SegformerDecodeHead, "forward", side_effect=AssertionError("stock")):
        fast(pixel_values=pixel_values)
    in_blocks = mock.patch.object(FastSegformerDecodeHead, "_forward_by_blocks", side_effect=LookupError("blocks"))
    with in_blocks, pytest.raises(LookupError, match="blocks"):
        fast(pixel_values=pixel_values)


@pytest.mark.parametrize("norm_trains", [True, False])
def test_forward__without_gradients_layers_keep_their_own_modes(path, norm_trains):
    """Statistics may be measured anew, and dropout drawn, without training."""
    stock, fast = build_pair()
    results = []
    for model in (stock, fast):
        model.eval()
        model.decode_head.batch_norm.train(norm_trains)
        model.decode_head.dropout.train()
        torch.manual_seed(1)
        with torch.no_grad():
            results.append(model(pixel_values=random_like(torch.empty(2, 3, 64, 96, dtype=torch.float64))).logits)
    assert relative(results[1], results[0]) < 1e-12
    for (name, buffer), found in zip(stock.named_buffers(), fast.buffers(), strict=True):
        torch.testing.assert_close(found, buffer, rtol=1e-12, atol=1e-12, msg=name)


def test_forward__dropout_needs_no_training_head(path):
    """And none draws in a head that trains while its dropout doesn't."""
    results = []
    for model in build_pair():
        model.train()
        model.decode_head.dropout.eval()
        results.append(run_in_own_mode(model))
    assert relative(results[1], results[0]) < 1e-12


def run_in_own_mode(model):
    torch.manual_seed(1)
    return model(pixel_values=random_like(torch.empty(2, 3, 64, 96, dtype=torch.float64))).logits.detach()


@pytest.mark.parametrize("mode", ["training", "frozen"])
def test_forward__a_second_derivative_is_refused_in_blocks(mode):
    """Also where the gradient from above is a constant, and autograd itself would return a constant."""
    _, fast = build_pair()
    set_mode(fast, mode)
    stages = [torch.randn(2, size, 8, 8, dtype=torch.float64, requires_grad=True) for size in SMALL["hidden_sizes"]]
    with pytest.raises(RuntimeError, match="expected a decode head that is differentiated once; found create_graph"):
        torch.autograd.grad(fast.decode_head(stages).sum(), stages, create_graph=True)


def test_forward__backward_twice_over_a_kept_graph():
    _, fast = build_pair()
    set_mode(fast, "training")
    stages = [torch.randn(2, size, 8, 8, dtype=torch.float64, requires_grad=True) for size in SMALL["hidden_sizes"]]
    logits = fast.decode_head(stages)
    first, again = (
        torch.autograd.grad(logits, stages, random_like(logits), retain_graph=True) for _ in range(2)
    )  # fmt: skip
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def test_forward__traced_serves_other_sizes():
    stock, fast = build_pair()
    traced = torch.jit.trace(fast.eval().requires_grad_(False), random_like(torch.empty(1, 3, 64, 64)).double(),
                             check_trace=False, strict=False)  # fmt: skip
    pixel_values = random_like(torch.empty(2, 3, 64, 128)).double()
    with torch.no_grad():
        assert relative(traced(pixel_values)["logits"], stock.eval()(pixel_values).logits) < 1e-12


def test_forward__whatever_device_is_the_default():
    stock, fast = build_pair()
    pixel_values = random_like(torch.empty(2, 3, 64, 160, dtype=torch.float64))  # a plan that nobody has made before
    expected = run(stock, "training", pixel_values)
    logits, gradients, _ = run(fast, "training", pixel_values, lambda: torch.device("meta"))
    assert relative(logits, expected[0]) < 1e-12
    assert_equal_gradients(gradients, expected[1])


def test_forward__plans_made_without_autograd_serve_training():
    """Inference mode makes tensors that autograd refuses; no plan is one."""
    stock, fast = build_pair()
    pixel_values = random_like(torch.empty(2, 3, 64, 224, dtype=torch.float64))
    with torch.inference_mode():
        fast.eval()(pixel_values=pixel_values)
    found, expected = (run(model, "training", pixel_values)[1] for model in (fast, stock))
    assert_equal_gradients(found, expected)


def test_forward__autocast_leaves_fp64_alone(path):
    stock, fast = build_pair()
    stages = [torch.randn(2, size, 8, 8, dtype=torch.float64) for size in SMALL["hidden_sizes"]]
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = (model.decode_head.eval()(stages) for model in (stock, fast))
    assert found.dtype == expected.dtype == torch.float64
    assert relative(found, expected) < 1e-12


def test_forward__last_stage_without_height_and_width():
    """Stock takes its square root there, whether or not that fits; so it is asked."""
    stock, fast = build_pair(reshape_last_stage=False)
    stages = [torch.randn(1, size, 16 >> i, 16 >> i, dtype=torch.float64) for i, size in enumerate((8, 16, 24))]
    stages.append(torch.randn(1, 32, 4, dtype=torch.float64))
    stock.decode_head.eval()
    fast.decode_head.eval()
    try:
        expected = stock.decode_head(stages)
    except RuntimeError as error:
        with pytest.raises(RuntimeError, match=str(error)[:20]):
            fast.decode_head(stages)
    else:
        assert torch.equal(fast.decode_head(stages), expected)


def test_forward__one_pixel_in_training_is_refused_as_in_stock():
    for model in build_pair():
        stages = [torch.randn(1, size, 1, 1, dtype=torch.float64) for size in SMALL["hidden_sizes"]]
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model.decode_head.train()(stages)


def test_forward__compiles_without_a_break():
    """Traced, not generated: what the code generator makes of it is torch's affair and takes minutes."""
    torch._dynamo.reset()
    stock, fast = build_pair()
    stages = [
        torch.randn(2, size, 16 >> i, 24 >> i, dtype=torch.float64) for i, size in enumerate(SMALL["hidden_sizes"])
    ]
    compiled = torch.compile(fast.decode_head.eval(), backend="aot_eager", fullgraph=True)
    logits = compiled(stages)
    expected = stock.decode_head.eval()(stages)
    assert relative(logits.detach(), expected.detach()) < 1e-12
    for one, head in ((logits, fast.decode_head), (expected, stock.decode_head)):
        (one * random_like(one)).sum().backward()
        assert head.linear_fuse.weight.grad is not None
    assert relative(fast.decode_head.linear_fuse.weight.grad, stock.decode_head.linear_fuse.weight.grad) < 1e-12


class Allocations(TorchDispatchMode):
    """The largest result of any operation, in elements."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.untyped_storage().nbytes() // out.element_size())
        return out


def build_head(size: str, height: int, width: int, count: int = 1):
    config = build_config(size, CITYSCAPES)
    torch.manual_seed(0)
    stock = SegformerDecodeHead(config)
    fast = copy.deepcopy(stock)
    fast.__class__ = FastSegformerDecodeHead
    stages = [torch.randn(count, c, height >> i, width >> i) for i, c in enumerate(config.hidden_sizes)]
    return stock, fast, stages


@pytest.mark.parametrize(("size", "stock_flops", "most"), [("b2", 162e9, 9.5e9), ("b0", 18.54e9, 2.5e9)])
def test_forward__flops(monkeypatch, size, stock_flops, most):
    """At 512x1024, multiplications and additions of convolutions and matrix products."""
    monkeypatch.undo()
    stock, fast, stages = build_head(size, 128, 256)
    counts = []
    for head, inputs in ((stock.to("meta"), [one.to("meta") for one in stages]), (fast, stages)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            head.eval()(inputs)
        counts.append(counter.get_total_flops())
    assert counts[0] == pytest.approx(stock_flops, rel=0.01)
    assert counts[1] < most
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        fast.to("meta")([one.to("meta") for one in stages])
    assert counter.get_total_flops() <= counts[1]  # without blocks; resizing counts for nothing there


def test_forward__prediction_makes_no_full_map(monkeypatch):
    monkeypatch.undo()
    _, fast, stages = build_head("b2", 96, 128)
    full = 96 * 128 * 768
    with torch.no_grad(), Allocations() as allocations:
        fast.eval()(stages)
    assert allocations.largest < full / 3
    with (
        torch.no_grad(),
        Allocations() as allocations,
        mock.patch.object(FastSegformerDecodeHead, "_goes_by_blocks", return_value=False),
    ):
        fast(stages)
    assert allocations.largest == full


@pytest.mark.parametrize(("mode", "most"), [("training", 1.4), ("frozen", 1.3)])
def test_forward__saved_bytes(monkeypatch, mode, most):
    """In maps of full width; stock keeps eight, ours one, a byte per element and the products of weights."""
    monkeypatch.undo()
    stock, fast, stages = build_head("b2", 64, 64, count=2)
    full = 2 * 64 * 64 * 768 * 4
    sizes = []
    for head in (stock, fast):
        head.train()
        if mode == "frozen":
            head.batch_norm.eval()
        known = {one.untyped_storage().data_ptr() for one in (*head.parameters(), *head.buffers())}
        saved = {}

        def pack(tensor, known=known, saved=saved):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = head([one.clone().requires_grad_() for one in stages])  # graph alive: no address is used twice
        sizes.append(sum(saved.values()) / full)
        del logits
    assert sizes[0] > 7.9
    assert sizes[1] - sum(one.nbytes for one in stages) / full < most


def test_apply_fast_decode_head__changes_nothing_but_the_class(tmp_path):
    stock, fast = build_pair(torch.float32)
    assert type(fast) is SegformerForSemanticSegmentation
    assert list(fast.state_dict()) == list(stock.state_dict())
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in stock.named_modules()]
    for name, model in (("stock", stock), ("fast", fast)):
        model.save_pretrained(tmp_path / name)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "stock" / file).read_bytes() == (tmp_path / "fast" / file).read_bytes()
    loaded = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "fast")
    assert type(loaded.decode_head) is SegformerDecodeHead
    expected = fast.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_apply_fast_decode_head__survives_copies_and_pickles():
    _, fast = build_pair()
    others = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]
    pixel_values = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = run(fast, "no_grad", pixel_values)[0]
    for other in others:
        assert type(other.decode_head) is FastSegformerDecodeHead
        other.decode_head.classifier.bias.data.add_(1)  # its own weights are used
        torch.testing.assert_close(run(other, "no_grad", pixel_values)[0], expected + 1)


def test_apply_fast_decode_head__averaged_weights():
    stock, fast = build_pair()
    averages = []
    for model in (stock, fast):
        average = ExponentialMovingAverage(model, 0.5)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        average.update(5)
        averages.append(average)
    pixel_values = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with averages[0].swap(), averages[1].swap():
        swapped = [run(model, "no_grad", pixel_values)[0] for model in (stock, fast)]
    assert relative(swapped[1], swapped[0]) < 1e-12
    after = run(fast, "no_grad", pixel_values)[0]
    assert relative(after, run(stock, "no_grad", pixel_values)[0]) < 1e-12
    assert relative(after, swapped[1]) > 1e-3


class OtherHead(SegformerDecodeHead):
    pass


def test_apply_fast_decode_head__leaves_other_models_alone():
    model = build()
    model.decode_head.__class__ = OtherHead
    assert not apply_fast_decode_head(model)
    assert type(model.decode_head) is OtherHead
    assert not apply_fast_decode_head(nn.Linear(2, 2))


def test_restore_stock_decode_head__and_apply_twice():
    stock, fast = build_pair()
    assert apply_fast_decode_head(fast)
    restore_stock_decode_head(fast)
    assert type(fast.decode_head) is SegformerDecodeHead
    pixel_values = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert torch.equal(run(fast, "no_grad", pixel_values)[0], run(stock, "no_grad", pixel_values)[0])
    restore_stock_decode_head(nn.Linear(2, 2))


def test_apply_fast_decode_head__operations_can_be_counted():
    """By any counter that listens to the dispatcher, here torch's own: the fast head's are less than half."""
    counts = []
    for model in build_pair(torch.float32):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(torch.zeros(1, 3, 64, 96))
        counts.append(sum(counter.get_flop_counts()["SegformerForSemanticSegmentation.decode_head"].values()))
    assert 0 < counts[1] < counts[0] / 2
