import hashlib

import pytest
from huggingface_hub import HfApi


@pytest.fixture
def api(hub_here):
    return HfApi()


@pytest.fixture
def folder(tmp_path):
    """A card, a large binary file, a text file in a folder, an empty file and an unexpected binary one."""
    files = {
        "README.md": b"---\nlicense: mit\n---\n# A model\n",
        "model.safetensors": hashlib.sha512(b"weights").digest() * 4000,
        "logs/notes.txt": b"first\n",
        "empty.txt": b"",
        "picture.xyz": b"\x89PNG\0\0",
    }
    for path, content in files.items():
        (tmp_path / "run" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / path).write_bytes(content)
    return tmp_path / "run", files


@pytest.fixture
def push(api):
    """Creates the repository if needed and uploads a folder: what every way of publishing comes down to."""

    def run(folder):
        api.create_repo("user/name", exist_ok=True)
        return api.upload_folder(repo_id="user/name", folder_path=folder)

    return run
