"""A machine without anybody's secrets, for tests that plant their own."""

import os

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working and a home folder of the test's own, and an environment without secrets."""
    for name in ("work", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    for name in [name for name, value in os.environ.items() if "TOKEN" in name or "KEY" in name or "@" in value]:
        monkeypatch.delenv(name)
