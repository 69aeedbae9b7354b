import errno

import pytest
from datasets import config
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import httpx

from hf_urbanseg.data.hub_errors import hub_errors_in_one_line
from hf_urbanseg.errors import DataError

REQUEST = httpx.Request("GET", "https://huggingface.co/a?Signature=secret")


def answered(kind, status):
    return kind(
        "refused at https://huggingface.co/a?Signature=secret", response=httpx.Response(status, request=REQUEST)
    )


def line_of(error, dataset="user/set"):
    with pytest.raises(DataError) as caught, hub_errors_in_one_line(dataset, "v1"):
        raise error
    return str(caught.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (answered(RepositoryNotFoundError, 404), "found status 404: no such data set, branch or commit, or a private"),
        (answered(HfHubHTTPError, 403), "found status 403: no such data set, branch or commit, or a private one"),
        (answered(GatedRepoError, 403), "found a gated set, whose terms have not been accepted, or nobody is logged"),
        (answered(HfHubHTTPError, 429), "found status 429 from the Hub; check the network and run it again later"),
        (answered(HfHubHTTPError, 503), "found status 503 from the Hub; check the network and run it again"),
        (httpx.ReadTimeout("slow"), "or one that broke off (ReadTimeout); check the network"),
        (httpx.ConnectError("refused"), "or one that broke off (ConnectError); check the network"),
        (OfflineModeIsEnabled("off"), "found offline mode, and no earlier download; unset HF_HUB_OFFLINE"),
        (OSError(errno.ENOSPC, "No space left"), "found No space left at the cache, /the/home; free some room"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "found Quota exceeded at the cache, /the/home; free"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "Permission denied at /a/b; free some room"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system at the cache, /the/home; free"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrapped", [False, True])
def test_hub_errors_in_one_line__by_type_and_status(monkeypatch, error, message, wrapped):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(config, "HF_CACHE_HOME", "/the/home")
    if wrapped:
        outer = DatasetGenerationError("An error occurred while generating the dataset")
        outer.__cause__ = error
        error = outer
    line = line_of(error)
    assert line.startswith("user/set: expected a Hub data set that can be read; ")
    assert message in line
    assert "secret" not in line


def test_hub_errors_in_one_line__our_own_get_the_name_of_the_set():
    assert line_of(DataError("a", "b", "c")) == "user/set: expected a; found b; c."
    assert line_of(DataError("a", "b", "c", "file")) == "file: expected a; found b; c."


def test_hub_errors_in_one_line__else_in_its_own_words(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    error = ValueError("https://cdn.example/a?Signature=secret said,\nas the next release may, no to hf_" + "x" * 34)
    words = "found ValueError: <address> said, as the next release may, no to <token>; correct the "
    assert line_of(error).endswith(f"{words}id, `--dataset_revision` or `--dataset_config`, whichever it means.")
    assert f"{words}folder or `--dataset_config`" in line_of(error, str(tmp_path))
    assert len(line_of(ValueError("word " * 1000))) < 400
