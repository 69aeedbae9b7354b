"""The fixtures that put a loopback Hub under a test; tests/conftest.py imports them for every room."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from loopback import Hub


@pytest.fixture
def hub():
    """A loopback Hub, running, empty, with the user "user"."""
    server = Hub().start()
    yield server
    server.heal()
    server.stop()


@pytest.fixture
def run_with_hub(hub, tmp_path):
    """Runs Python code, a script or (`-m`) a module with its arguments, as a process that talks to the loopback Hub."""

    def run(*words, home="home", token=True, timeout=120, check=True, **environment) -> subprocess.CompletedProcess:
        command = [sys.executable, *(("-c",) if "\n" in str(words[0]) else ()), *words]
        known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
        known |= hub.environment(tmp_path / home, token) | {key: str(value) for key, value in environment.items()}
        done = subprocess.run(
            [str(word) for word in command], env=known, capture_output=True, text=True, timeout=timeout, cwd=tmp_path
        )
        if check and done.returncode:
            raise AssertionError(f"{words[0]} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture
def waits(monkeypatch):
    """Lets the client's retries in this process come at once; the list holds the seconds it would have waited."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    slept = []
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=slept.append, time=time.time))
    return slept


@pytest.fixture
def hub_here(hub, tmp_path, monkeypatch):
    """Points the libraries of this very process at the loopback Hub; everything is put back afterwards.

    They copy the environment at import, into constants, default clients and caches of file systems.
    """
    import datasets
    import huggingface_hub
    from huggingface_hub import HfFileSystem, constants, hf_api
    from huggingface_hub.utils import _http, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import hub as transformers_hub

    home = tmp_path / "home"
    for key, value in hub.environment(home).items():
        monkeypatch.setenv(key, value)
    for name, value in {
        "ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HOME": str(home),
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"), "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"}, "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_TELEMETRY": True, "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value, raising=False)
    if hasattr(_http, "_HUB_ORIGINS"):  # from huggingface_hub 2
        monkeypatch.setattr(_http, "_HUB_ORIGINS", _http._HUB_ORIGINS | {("http", "127.0.0.1", hub.port)})
    monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)
    monkeypatch.setattr(transformers_hub, "_hf_api", None)
    for name, value in {
        "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": False, "HF_DATASETS_OFFLINE": False,
        "HUB_DATASETS_URL": hub.endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}",
        "HF_CACHE_HOME": str(home), "HF_DATASETS_CACHE": home / "datasets", "HF_MODULES_CACHE": str(home / "modules"),
        "DOWNLOADED_DATASETS_PATH": home / "datasets" / "downloads",
    }.items():  # fmt: skip
        monkeypatch.setattr(datasets.config, name, value, raising=False)
    HfFileSystem.clear_instance_cache()
    huggingface_hub.close_session()
    silent = are_progress_bars_disabled()
    disable_progress_bars()
    yield hub
    if not silent:
        enable_progress_bars()
    HfFileSystem.clear_instance_cache()
    huggingface_hub.close_session()
