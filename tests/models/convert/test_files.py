import collections
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hostile_files import ENDLESS

from hf_urbanseg.errors import ModelError
from hf_urbanseg.models.convert.files import read_checkpoint_file

TENSORS = {"a": torch.arange(3.0), "b": torch.tensor(4)}


class Config:
    """Stands for anything that isn't a tensor, a number or a name."""


class Runs:
    def __reduce__(self):
        return exec, ("raise SystemError('ran code of the file')",)


class HistoryBuffer:
    """Pickled as mmengine's: arrays, and methods that its pickle fetches through `getattr`."""

    def __init__(self):
        self.values = np.arange(3.0)
        self.statistics = {"mean": HistoryBuffer.mean}

    def mean(self):
        return 0


# The method's, too: Python 3.13 pickles it by the module it names itself.
HistoryBuffer.__module__ = HistoryBuffer.mean.__module__ = "mmengine.logging.history_buffer"


def assert_tensors(file):
    assert list(file.tensors) == ["a", "b"]
    assert torch.equal(file.tensors["a"], TENSORS["a"])


@pytest.mark.parametrize("zipped", [True, False])
def test_read_checkpoint_file__wrappings(tmp_path, zipped):
    path = tmp_path / "model.pth"
    for content in (
        TENSORS,
        collections.OrderedDict(TENSORS),
        {"state_dict": TENSORS},
        {"state_dict": TENSORS, "meta": None},
        {"model": TENSORS, "epoch": 3},
        # mmengine's EMAHook swaps the two when it saves: the averaged weights are in `state_dict`.
        {"ema_state_dict": {"steps": torch.tensor(2), "module.a": torch.zeros(3)}, "state_dict": TENSORS},
    ):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        file = read_checkpoint_file(path)
        assert_tensors(file)
        assert file.class_names is None
        assert file.path == path


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ("x", "y"), "PALETTE": np.zeros((2, 3), np.uint8), "config": "model = dict()", "epoch": 1},
        {"dataset_meta": {"classes": ["x", "y"]}, "seed": np.int64(3), "score": np.float32(0.5)},
        {"dataset_meta": {"CLASSES": ("x", "y")}, "CLASSES": None, "ok": np.bool_(True)},
    ],
)
def test_read_checkpoint_file__class_names(tmp_path, meta):
    torch.save({"state_dict": TENSORS, "meta": meta}, tmp_path / "model.pth")
    file = read_checkpoint_file(tmp_path / "model.pth")
    assert_tensors(file)
    assert file.class_names == ("x", "y")


def test_read_checkpoint_file__unpublished_mmengine(tmp_path, monkeypatch):
    import sys
    import types

    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "iter_1.pth"
    torch.save({"state_dict": TENSORS, "message_hub": {"log_scalars": {"loss": HistoryBuffer()}}}, path)
    monkeypatch.undo()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert_tensors(read_checkpoint_file(path))


def test_read_checkpoint_file__pickled_objects(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"state_dict": TENSORS, "meta": Config()}, path)
    with pytest.raises(ModelError, match=r"model\.pth: .*Config` pickled in it.*state_dict"):
        read_checkpoint_file(path)
    torch.save({"state_dict": TENSORS, "meta": Runs()}, path)
    with pytest.raises(ModelError, match="`exec` pickled in it"):
        read_checkpoint_file(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelError, match=r"model\.pth"):
        read_checkpoint_file(path)


def test_read_checkpoint_file__allows_nothing_afterwards(tmp_path):
    torch.save(TENSORS, tmp_path / "model.pth")
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint_file(tmp_path / "model.pth")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("zipped", [True, False])
def test_read_checkpoint_file__truncated_anywhere(tmp_path, zipped):
    path = tmp_path / "model.pth"
    torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"model\.pth"):
            read_checkpoint_file(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.zeros(2)], "list"),
        (torch.zeros(2), "Tensor"),
        ({}, "dict"),
        ({"state_dict": {}}, "dict"),
        ({"epoch": 3}, "`epoch`, int"),
        ({"state_dict": {"a": torch.zeros(2), "b": [1]}}, "`b`, list"),
        ({"state_dict": {"a": torch.tensor([1.0, float("nan")])}}, "inf or NaN in `a`"),
    ],
)
def test_read_checkpoint_file__not_a_checkpoint(tmp_path, content, found):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=rf"model\.pth: .*{found}"):
        read_checkpoint_file(tmp_path / "model.pth")


def test_read_checkpoint_file__no_file(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        read_checkpoint_file(tmp_path / "model.pth")
    with pytest.raises(ModelError, match="a folder"):
        read_checkpoint_file(tmp_path)
    (tmp_path / "text.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"text\.pth: expected a file written by torch\.save"):
        read_checkpoint_file(tmp_path / "text.pth")


def save_expanded(path):
    torch.save({"a": torch.zeros(1).expand(200_000_000_000)}, path)


def save_sparse(path):
    empty = torch.sparse_coo_tensor(torch.empty(1, 0, dtype=torch.int64), torch.empty(0), (200_000_000_000,))
    torch.save({"a": empty}, path)


def save_without_numbers(path):
    torch.save({"a": torch.empty(200_000_000_000, device="meta")}, path)


def save_packed(path):
    torch.save({"a": torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)


@pytest.mark.parametrize(
    ("save", "found"),
    [
        *ENDLESS[:2],
        (save_expanded, r"tensors in full; found `a` .200000000000,. with other numbers than the file holds"),
        (save_sparse, "tensors in full"),
        (save_without_numbers, "tensors in full"),
        (save_packed, r"a file written by torch.save; found [\d,]+ bytes packed in it"),
    ],
)
def test_read_checkpoint_file__fills_no_memory(tmp_path, save, found):
    save(tmp_path / "model.pth")
    with pytest.raises(ModelError, match=f"model.pth: expected .*{found}"):
        read_checkpoint_file(tmp_path / "model.pth")


@pytest.mark.parametrize("meta", [{"CLASSES": 5}, {"dataset_meta": [1]}, {"hf_urbanseg": "x"}, {"CLASSES": "road"}])
def test_read_checkpoint_file__meta_data_of_another_kind(tmp_path, meta):
    torch.save({"state_dict": TENSORS, "meta": meta}, tmp_path / "model.pth")
    file = read_checkpoint_file(tmp_path / "model.pth")
    assert (file.class_names, file.said) == (None, None)
