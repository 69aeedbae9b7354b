import json
import struct
import zlib
from pathlib import Path

import pytest
import yaml
from clean_machine import elsewhere  # noqa: F401
from run_folders import build_png, build_run
from safetensors.numpy import save_file

from hf_urbanseg.errors import DataError
from hf_urbanseg.hub.repository import check_files, collect_repository

SECRET = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
OPAQUE = "0123456789abcdef0123456789abcdef01234567"  # as a key of Weights & Biases: no shape tells that it is one


@pytest.fixture
def run(tmp_path):
    return build_run(tmp_path / "run")


def _refuses(run, name, known="something like a token or password"):
    with pytest.raises(DataError) as raised:
        collect_repository(run)
    text = str(raised.value)
    assert text.startswith(f"{name}: expected files without secrets; found {known}")
    assert ("if it is no secret, take it away from there" in text) == (known != "something like a token or password")
    assert SECRET not in text
    assert OPAQUE not in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["recipe.yaml", "README.md", "metrics.json", "log_history.json", "report.html"])
def test_collect_repository__refuses_what_looks_like_a_token(run, name):
    text = (run / name).read_text()
    (run / name).write_text(json.dumps({"a": SECRET}) if name.endswith(".json") else f"{text}\nnote: {SECRET}\n")
    _refuses(run, name)


def _by_environment(monkeypatch, run):
    monkeypatch.setenv("WANDB_API_KEY", OPAQUE)
    return "the value of WANDB_API_KEY in the environment; "


def _by_dotenv_of_the_run(monkeypatch, run):
    (run / ".env").write_text(f"# keys\nexport WANDB_API_KEY='{OPAQUE}'  # mine\n")
    return f"the value of WANDB_API_KEY in {run / '.env'}; "


def _by_dotenv_of_the_working_folder(monkeypatch, run):
    Path(".env").write_text(f"HF_TOKEN={OPAQUE}\n")
    return f"the value of HF_TOKEN in {Path.cwd() / '.env'}; "


def _by_dotenv_of_the_data(monkeypatch, run):
    data = run.parent / "disk" / "kitti"
    data.mkdir(parents=True)
    (data.parent / ".env").write_text(f"API_KEY={OPAQUE}\n")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text()) | {"data_dir": str(data)}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return f"the value of API_KEY in {data.parent / '.env'}; "


def _by_login(monkeypatch, run):
    (Path.home() / "token").write_text(OPAQUE + "\n")
    return "the token that `hf auth login` saved; "


def _by_a_second_login(monkeypatch, run):
    (Path.home() / "stored_tokens").write_text(f"[work]\nhf_token = {OPAQUE}\n")
    return "the value of hf_token that `hf auth login` saved; "


def _by_netrc(monkeypatch, run):
    (Path.home() / ".netrc").write_text(f"machine api.wandb.ai login user password {OPAQUE}\n")
    (Path.home() / ".netrc").chmod(0o644)
    return f"a password of {Path.home() / '.netrc'}; "


@pytest.mark.parametrize(
    "known",
    [
        _by_environment, _by_dotenv_of_the_run, _by_dotenv_of_the_working_folder, _by_dotenv_of_the_data,
        _by_login, _by_a_second_login,
        _by_netrc,
    ],
)  # fmt: skip
def test_collect_repository__refuses_a_secret_this_machine_knows(run, monkeypatch, known):
    (run / "log_history.json").write_text(json.dumps({"note": OPAQUE}))
    assert "log_history.json" in collect_repository(run)  # nobody knows yet that it is one
    said = known(monkeypatch, run)
    _refuses(run, "log_history.json", said)


def test_collect_repository__refuses_the_token_it_is_given(run):
    (run / "log_history.json").write_text(json.dumps({"note": OPAQUE}))
    with pytest.raises(DataError, match=r"log_history.json: expected files without secrets"):
        collect_repository(run, token=OPAQUE)


def test_collect_repository__refuses_a_token_in_a_picture(run):
    (run / "overlays" / "scene.png").write_bytes(build_png((b"zTXt", b"Comment\0\0" + zlib.compress(SECRET.encode()))))
    _refuses(run, "overlays/scene.png")


def test_collect_repository__refuses_a_token_in_the_header_of_the_weights(run):
    save_file({}, run / "model.safetensors", {"format": "pt", "note": SECRET})
    _refuses(run, "model.safetensors")


def test_collect_repository__refuses_a_token_in_an_event_file(run):
    (run / "runs" / "x").mkdir(parents=True)
    data = b"args " + SECRET.encode()
    record = struct.pack("<Q", len(data)) + b"crc1" + data + b"crc2"
    (run / "runs" / "x" / "events.out.tfevents.1.h").write_bytes(record)
    with pytest.raises(DataError, match=r"tfevents.1.0: expected files without secrets"):
        collect_repository(run, tensorboard=True)


def test_check_files__refuses_a_token_in_a_name_without_showing_it():
    with pytest.raises(DataError) as raised:
        check_files({f"overlays/{SECRET}.png": b""}, set())
    assert SECRET not in str(raised.value)


def test_collect_repository__ordinary_words_are_no_secrets(run, monkeypatch):
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false", "SOME_TOKEN": "none", "TOKEN_LIMIT": "100000000000",
        "MY_KEY": "segmentation",
        "TOKEN_URL": "https://huggingface.co", "HF_TOKEN_PATH": "/home/x/token-of-hf", "GITHUB_ACTIONS": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    text = "segmentation, hf_urbanseg: false, none, 100000000000, https://huggingface.co, /home/x/token-of-hf\n"
    (run / "README.md").write_text(f"---\nlicense: mit\n---\n{text}")
    assert "README.md" in collect_repository(run)
