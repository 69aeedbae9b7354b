import pytest
from huggingface_hub import HfApi


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """The folder of unpacked archives and of the preflight's results."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HF_URBANSEG_CACHE", str(folder))
    return folder


@pytest.fixture
def upload(hub_here):
    """Puts files into the data set user/set of the loopback Hub."""

    def run(files, private=None):
        api = HfApi()
        api.create_repo("user/set", repo_type="dataset", exist_ok=True, private=private)
        for path, content in files.items():
            api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="user/set", repo_type="dataset")
        return hub_here

    return run
