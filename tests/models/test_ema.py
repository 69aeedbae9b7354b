import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from hf_urbanseg.errors import CheckpointError
from hf_urbanseg.models.auxiliary_head import attach_auxiliary_head
from hf_urbanseg.models.ema import EMA_WEIGHTS, ExponentialMovingAverage


def build(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def move(model, seed: int) -> None:
    """Stands for a step of training: every parameter and buffer changes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
            else:
                tensor.add_(1)


def copy_state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_state(model, expected) -> None:
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def recurrence(values: list[list[float]], decay: float) -> list[float]:
    """Plain python: the first entry is the start, the others are steps 1, 2, ..."""
    average = values[0]
    for t, value in enumerate(values[1:], 1):
        d = min(decay, (1 + t) / (10 + t))
        average = [d * a + (1 - d) * v for a, v in zip(average, value, strict=True)]
    return average


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("decay", [0.9, 0.999, 0.0])
def test_exponential_moving_average__equals_the_recurrence(dtype, tolerance, decay):
    model = build().to(dtype)
    ema = ExponentialMovingAverage(model, decay)
    history = {name: [p.flatten().tolist()] for name, p in model.named_parameters()}
    for step in range(1, 201):  # at 0.9 the warm-up ends at step 80
        move(model, step)
        ema.update(step)
        for name, parameter in model.named_parameters():
            history[name].append(parameter.flatten().tolist())
    state = ema.state_dict()
    for name, values in history.items():
        average = state[f"parameters.{name}"]
        assert average.dtype == dtype
        assert average.flatten().tolist() == pytest.approx(recurrence(values, decay), rel=tolerance, abs=tolerance)


def test_exponential_moving_average__begins_where_it_is_told_to():
    """Until then it is the model bit for bit, and from there the recurrence with its own count of steps."""
    model = build()
    ema = ExponentialMovingAverage(model, 0.9, start=3)
    values = []
    for step in range(1, 9):
        move(model, step)
        ema.update(step)
        if step <= 3:
            assert torch.equal(ema.state_dict()["parameters.0.weight"], model[0].weight.detach())
        if step >= 3:
            values.append(model[0].weight.flatten().tolist())
    found = ema.state_dict()["parameters.0.weight"].flatten().tolist()
    assert found == pytest.approx(recurrence(values, 0.9), rel=1e-5, abs=1e-5)


def test_exponential_moving_average__first_steps_by_hand():
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 11.0)
    ema = ExponentialMovingAverage(model, 0.2)
    averages = []
    for step in (1, 2):
        nn.init.constant_(model.weight, 0.0)
        ema.update(step)
        averages.append(ema.state_dict()["parameters.weight"].item())
    # d is 2/11 at step 1, and 0.2, not 3/12, at step 2.
    assert averages == pytest.approx([2.0, 0.4], abs=1e-15)


def test_exponential_moving_average__buffers_are_copied():
    model = build()
    ema = ExponentialMovingAverage(model)
    move(model, 1)
    ema.update(1)
    state = ema.state_dict()
    for name, buffer in model.named_buffers():
        assert torch.equal(state[f"buffers.{name}"], buffer), name
        assert state[f"buffers.{name}"].dtype == buffer.dtype
        assert state[f"buffers.{name}"].data_ptr() != buffer.data_ptr()


def test_exponential_moving_average__half_precision_is_averaged_in_fp32():
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(model.weight, 1.0)
    ema = ExponentialMovingAverage(model, 0.999)
    nn.init.constant_(model.weight, 2.0)
    ema.update(10**6)
    # In bfloat16 1.001 would round to 1: the average would stand still.
    assert ema.state_dict()["parameters.weight"].item() == pytest.approx(1.001, abs=1e-6)
    with ema.swap():
        assert model.weight.dtype == torch.bfloat16
        assert model.weight.item() == 1.0
    assert model.weight.item() == 2.0


def test_exponential_moving_average__constant_weights_stay_exactly():
    model = build()
    ema = ExponentialMovingAverage(model)
    for step in range(1, 50):
        ema.update(step)
    with ema.swap():
        swapped = copy_state(model)
    assert_state(model, swapped)


def test_exponential_moving_average__updating_leaves_the_model_alone():
    model = build()
    ema = ExponentialMovingAverage(model)
    move(model, 1)
    before = copy_state(model)
    ema.update(1)
    assert_state(model, before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_swap__averages_inside_raw_weights_outside():
    model = build()
    ema = ExponentialMovingAverage(model)
    move(model, 1)
    ema.update(1)
    raw, state = copy_state(model), ema.state_dict()
    parameters = list(model.parameters())
    with ema.swap() as swapped:
        assert swapped is model
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, state[f"parameters.{name}"]), name
            assert not torch.equal(parameter, raw[name]), name
        x = torch.randn(5, 3)
        inside = model.eval()(x)
    assert_state(model, raw)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    other = build(1)
    other.load_state_dict({name.split(".", 1)[1]: tensor for name, tensor in state.items() if name != "step"})
    assert torch.equal(other.eval()(x), inside)


def test_use__is_for_good():
    model = build()
    ema = ExponentialMovingAverage(model)
    move(model, 1)
    ema.update(1)
    with ema.swap():
        expected = copy_state(model)
    ema.use()
    assert_state(model, expected)


def test_swap__restores_after_an_exception_and_undoes_changes_inside():
    model = build()
    ema = ExponentialMovingAverage(model)
    move(model, 1)
    ema.update(1)
    raw, averages = copy_state(model), {name: tensor.clone() for name, tensor in ema.state_dict().items()}

    def evaluate():
        with ema.swap():
            move(model, 2)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        evaluate()
    assert_state(model, raw)
    for name, tensor in ema.state_dict().items():
        assert torch.equal(tensor, averages[name]), name


def test_swap__restores_values_that_are_not_numbers():
    model = build()
    ema = ExponentialMovingAverage(model)
    nn.init.constant_(model[0].weight, float("nan"))
    nn.init.constant_(model[0].bias, -0.0)
    raw = model[0].weight.detach().view(torch.int32).clone(), model[0].bias.detach().view(torch.int32).clone()
    with ema.swap():
        assert not model[0].weight.isnan().any()
    assert torch.equal(model[0].weight.detach().view(torch.int32), raw[0])
    assert torch.equal(model[0].bias.detach().view(torch.int32), raw[1])


def test_swap__training_goes_on_as_if_nothing_happened():
    def train(swapping: bool) -> dict:
        model = build()
        ema = ExponentialMovingAverage(model, 0.9)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(3)
        for step in range(1, 8):
            model(torch.randn(6, 3, generator=generator)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            ema.update(step)
            if swapping:
                with ema.swap(), torch.no_grad():
                    model(torch.randn(6, 3))  # in training mode: moves BatchNorm's statistics, until the swap ends
        return copy_state(model) | ema.state_dict()

    expected, found = train(False), train(True)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_load__resuming_gives_identical_averages(tmp_path):
    model = build()
    ema = ExponentialMovingAverage(model, 0.9)
    for step in range(1, 21):
        move(model, step)
        ema.update(step)
        if step == 9:
            ema.save(tmp_path)
            weights = copy_state(model)
    other = build(5)
    other.load_state_dict(weights)
    resumed = ExponentialMovingAverage(other, 0.9)
    resumed.load(tmp_path)
    assert resumed.step == 9
    for step in range(10, 21):
        move(other, step)
        resumed.update(step)
    for name, tensor in ema.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert resumed.step == 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("parameters.2.bias"), "`parameters.2.bias` missing"),
        (lambda state: state.pop("step"), "`step` missing"),
        (lambda state: state.update({"parameters.9": torch.zeros(1)}), "`parameters.9` left over"),
        (lambda state: state.update({"parameters.2.bias": torch.zeros(3)}), "`parameters.2.bias` (3,)"),
        (
            lambda state: state.update({"parameters.2.bias": torch.zeros(2).double()}),
            "as torch.float64 instead of torch.float32",
        ),
    ],
)
def test_load__different_tensors_change_nothing(tmp_path, change, words):
    ema = ExponentialMovingAverage(build(1))
    ema.save(tmp_path)
    path = tmp_path / EMA_WEIGHTS
    state = load_file(path)
    change(state)
    save_file(state, path)
    other = ExponentialMovingAverage(build(2))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        other.load(tmp_path)
    assert str(caught.value).startswith(f"{path}: expected averages of this very model; found")
    assert words in str(caught.value)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("damaged", [True, False])
def test_load__no_readable_file(tmp_path, damaged):
    ema = ExponentialMovingAverage(build())
    if damaged:
        (tmp_path / EMA_WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(CheckpointError) as caught:
        ema.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / EMA_WEIGHTS}: expected the saved averages; found ")
    assert "\n" not in str(caught.value)


def test_swap__averaged_segformer_is_exported_plain(tmp_path):
    torch.manual_seed(0)
    config = SegformerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16, num_labels=3)
    model = SegformerForSemanticSegmentation(config)
    attach_auxiliary_head(model, 3, channels=8)
    ema = ExponentialMovingAverage(model, 0.9)
    move(model, 1)
    with torch.no_grad():
        model.decode_head.batch_norm.running_var.fill_(1.0)
    ema.update(1)
    x = torch.randn(1, 3, 64, 64)
    with ema.swap(), torch.no_grad():
        model.save_pretrained(tmp_path)
        expected = model.eval()(x).logits
    loaded, info = SegformerForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded.eval()(x).logits, expected)
    assert not torch.equal(model(x).logits, expected)


def test_load__averages_that_are_not_finite_change_nothing(tmp_path):
    ruined, ema = ExponentialMovingAverage(build()), ExponentialMovingAverage(build(1))
    ruined.state_dict()["parameters.0.bias"][1] = torch.nan
    ruined.save(tmp_path)
    before = {name: tensor.clone() for name, tensor in ema.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"expected finite weights; found inf or NaN in `parameters.0.bias`; "):
        ema.load(tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ema.state_dict().items())
