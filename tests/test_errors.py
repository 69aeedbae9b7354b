import pickle
from pathlib import Path

import pytest
import torch

from hf_urbanseg.errors import CheckpointError, ConfigError, DataError, ModelError, UrbanSegError

KINDS = [DataError, ConfigError, ModelError, CheckpointError]


@pytest.mark.parametrize("kind", KINDS)
def test_error__says_expected_found_fix_and_file_on_one_line(kind):
    error = kind("an 8-bit label", "mode I;16", "convert it", Path("semantic/000003_10.png"))
    assert str(error) == "semantic/000003_10.png: expected an 8-bit label; found mode I;16; convert it."
    assert isinstance(error, UrbanSegError)


def test_error__without_a_file_has_no_prefix():
    assert str(DataError("a split", "none", "add one")) == "expected a split; found none; add one."


def test_error__line_breaks_of_a_cause_become_spaces():
    error = ModelError("a model", "OSError: first\n  second\tthird", "check it", "a\nb")
    assert str(error) == "a b: expected a model; found OSError: first second third; check it."


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [None, "a.png", Path("b/c.png")])
def test_error__survives_pickling(kind, path):
    # Data-loader workers and process pools send their errors back pickled.
    error = kind("this", "that", "do so", path)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert (copy.expected, copy.found, copy.fix, copy.path) == ("this", "that", "do so", path)


@pytest.mark.parametrize("kind", KINDS)
def test_error__is_no_other_kind(kind):
    assert [other for other in KINDS if issubclass(kind, other)] == [kind]


@pytest.mark.parametrize("path", [None, "a: b.png"])
def test_error__arrives_whole_from_a_worker_of_a_loader(path):
    """torch makes it anew, of the text of its traceback."""

    class Bad(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, _):
            raise error

    error = DataError("this; and that", "one: two", "do so; or not", path)
    with pytest.raises(DataError) as bad:
        next(iter(torch.utils.data.DataLoader(Bad(), num_workers=1)))
    assert str(bad.value) == str(error)
