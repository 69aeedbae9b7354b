"""Every number that a user can give has a range, which is checked before anything is read or written."""

import importlib
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, get_args, get_type_hints

import numpy as np
import pytest

import hf_urbanseg
from hf_urbanseg.__main__ import NAMES
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.options import config
from hf_urbanseg.options.fields import Options, option
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.options.training_options import TrainingOptions
from hf_urbanseg.ranges import InputSize, Range, check_options, find_ranges

INF, NAN = float("inf"), float("nan")
WITHOUT = {"local_rank"}  # the launcher's, and read by nobody

MODULES = [config, *(importlib.import_module(f"hf_urbanseg.commands.{name.replace('-', '_')}") for name in NAMES)]
FOUND = {value for module in MODULES for value in vars(module).values() if is_dataclass(value)}
TYPES = sorted(FOUND - {TrainingOptions}, key=lambda one: one.__name__)
TYPES = [*(one for one in TYPES if fields(one)), UrbanSegTrainingArguments]


def numbers(options_type):
    """Names of the fields that take numbers."""

    def takes(hint) -> bool:
        return hint in (int, float) or any(map(takes, get_args(hint)))

    hidden = getattr(options_type, "HIDDEN", ())
    hints = get_type_hints(options_type)
    return [f.name for f in fields(options_type) if f.init and f.name not in hidden and takes(hints[f.name])]


OPTIONS = [(one, name) for one in TYPES for name in numbers(one) if name not in WITHOUT]


@pytest.mark.parametrize("options_type", TYPES, ids=lambda one: one.__name__)
def test_options__every_number_has_a_range(options_type):
    assert set(numbers(options_type)) - find_ranges(options_type).keys() <= WITHOUT
    assert issubclass(options_type, Options | UrbanSegTrainingArguments)  # which check them


def test_options__of_every_command_are_here():
    assert len(TYPES) >= 16
    assert len(OPTIONS) >= 70


@pytest.mark.parametrize(("options_type", "name"), OPTIONS, ids=lambda one: getattr(one, "__name__", one))
def test_options__out_of_range_is_one_line_that_names_the_option(options_type, name):
    found = find_ranges(options_type)[name]
    needed = {f.name: "x" for f in fields(options_type) if f.default is f.default_factory is MISSING}
    for wrong in (found.least - 1, found.most + 1, NAN, -INF, 10**400):
        if wrong != found.also:
            value = [wrong] if get_type_hints(options_type)[name] == list[int] else wrong
            with pytest.raises(ConfigError, match=f"`{name}` ") as caught:
                options_type(**needed | {name: value})
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("found", "inside", "outside", "said"),
    [
        (Range(0, 1), [0, 1, 0.5, np.float64(1), True], [-1e-9, 1.1, "0", None, [0]], "of 0..1"),
        (Range(0), [0, 1e300], [-1, INF, NAN], "of 0 or more"),
        (Range(0, above=True), [1e-9], [0, -INF], "above 0"),
        (Range(0, 16, above=True), [16], [0, 16.1], "above 0, up to 16"),
        (Range(0, 1, below=True), [0, 0.999], [1], "of 0 to below 1"),
        (Range(1, 10_000, also=-1), [-1, 1], [0, -2], "of 1..10,000 or -1"),
        (Range(32, 96, multiple=32), [32, 64.0, 96], [0, 33, 128, 94], "of 32..96 in multiples of 32"),
    ],
)
def test_range__bounds(found, inside, outside, said):
    assert [one for one in inside if one not in found] == []
    assert [one for one in outside if one in found] == []
    assert str(found) == said


@dataclass
class Some(Options):
    """What the tests make."""

    share: Annotated[float, Range(0, 1)] = option(0.5, "A share.")
    size: Annotated[list[int], Range(32, sides=True)] | None = option(None, "A size.")
    input_size: InputSize | None = option(None, "A size of a network's input.")
    numbers: list[Annotated[int, Range(1, 7)]] = option([1], "Numbers.")
    word: str = option("a", "A word.")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"share": "abc"}, "expected `share` of 0..1; found abc; correct it."),
        ({"share": None}, "expected a value for `share`; found none; give one or leave the option out."),
        ({"word": None}, "expected a value for `word`; found none; give one or leave the option out."),
        ({"size": [64]}, "expected `size` as height and width of 32 or more; found [64]; correct it."),
        ({"size": 64}, "expected `size` as height and width of 32 or more; found 64; correct it."),
        ({"size": (64, 31)}, "expected `size` as height and width of 32 or more; found [64, 31]; correct it."),
        (
            {"input_size": [94, 310]},
            "expected `input_size` as height and width of 32..16,384 in multiples of 32; found [94, 310]; give for "
            "example 96 320.",
        ),
        (
            {"input_size": [94]},
            "expected `input_size` as height and width of 32..16,384 in multiples of 32; found [94]; correct it.",
        ),
        (
            {"input_size": [5, 99_999]},
            "expected `input_size` as height and width of 32..16,384 in multiples of 32; found [5, 99999]; give for "
            "example 32 16384.",
        ),
        ({"numbers": [1, 8]}, "expected `numbers` of 1..7; found [1, 8]; correct it."),
        ({"numbers": []}, "expected `numbers` of 1..7; found []; correct it."),
    ],
)
def test_check_options__lines(given, line):
    with pytest.raises(ConfigError) as caught:
        Some(**given)
    assert str(caught.value) == line


def test_check_options__what_is_right():
    check_options(Some(1, (32, 64), (32, 96), [7], ""))
    check_options(Some(size=None))


def test_parse_arguments__a_number_out_of_range_is_blamed_on_its_file():
    for recipe in ({"share": 2}, {"share": 2, "word": None}):
        with pytest.raises(ConfigError, match=r"mine.yaml: expected `share` of 0..1; found 2.0"):
            parse_arguments((Some,), [], recipe, "mine.yaml")
    with pytest.raises(ConfigError, match=r"^expected `share` of 0..1; found 3.0"):
        parse_arguments((Some,), ["--share", "3"], {"word": "b"}, "mine.yaml")


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"learning_rate": -1}, "`learning_rate` of 0 or more; found -1.0"),
        ({"drop_path_rate": 1.5}, "`drop_path_rate` of 0 to below 1; found 1.5"),
        ({"max_steps": 0}, "`max_steps` of 1..1,000,000,000 or -1; found 0"),
        ({"seed": 2**32}, "`seed` of 0..4,294,967,295; found 4294967296"),
        ({"logging_steps": 0}, "`logging_steps` above 0, up to 1,000,000,000; found 0.0"),
        ({"seed": 1.5}, "invalid int value: '1.5'"),
        ({"learning_rate": "abc"}, "invalid float value: 'abc'"),
        ({"crop_size": [368]}, "`crop_size` as height and width of 32..16,384; found [368]"),
        ({"train_scales": ["0.5-99"]}, "scales like 375x1242 (height x width), 0.75 or 0.5-2.0"),
        ({"train_scales": ["375x99999"]}, "scales like 375x1242 (height x width), 0.75 or 0.5-2.0"),
        ({"add_losses": ["dice=inf"]}, "loss weights of 0 or more; found inf for `dice`"),
        ({"add_losses": ["dice"]}, "`add_losses` as name=weight; found `dice`"),
        ({"loss": "ohem", "ohem_min_kept": 0}, "`min_kept` above 0 or a `threshold`; found 0 and none"),
        ({"class_weights": "inverse"}, "`class_weights` of inverse_log"),
        ({"lr_cycles": 7, "max_steps": 10, "warmup_steps": 5}, "a warm-up within the first of 7 cycles"),
        ({"bf16": "maybe"}, "maybe"),
        ({"metric_for_best_model": "loss"}, "`metric_for_best_model` of mean_iou"),
        ({"metric_for_best_model": "ema_mean_iou"}, "`ema_decay` with averaged weights"),
    ],
)
def test_finetune__refuses_before_it_reads_or_writes(tmp_path, monkeypatch, wrong, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        hf_urbanseg.finetune(data_dir="nowhere", output_dir="run", **wrong)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
