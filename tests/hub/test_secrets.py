"""Which values are secrets, where they are found, and that no line for people shows one."""

import json
import os
import random
import sys
from pathlib import Path

import pytest
from clean_machine import elsewhere  # noqa: F401

from hf_urbanseg.errors import DataError
from hf_urbanseg.hub.secrets import check_files, collect_secrets, find_secret, hide_secrets

SHAPED = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
OPAQUE = "0123456789abcdef0123456789abcdef01234567"  # as a key of Weights & Biases: no shape tells that it is one
ODD = "p$w'0\"r/d\\ +%4<1>&é_x*|`"


# ---- what counts as a secret ----


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MYSQL_PWD", "GOOGLE_CREDENTIALS"]
)
@pytest.mark.parametrize("value", [OPAQUE, "S3cr3t!x", "correct-horse", ODD])
def test_collect_secrets__of_the_environment(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert collect_secrets() == {value: f"the value of {name} in the environment"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "correct-horse"), ("HF_TOKEN_PATH", "/home/x/token-of-hf"),
        ("OLDPWD", "/home/ann/x"),
        ("TOKEN_URL", "https://huggingface.co"), ("GIT_AUTHOR_NAME", "Ann of 1234"), ("SOME_TOKEN", "none"),
        ("TOKEN_LIMIT", "100000000000"), ("MY_KEY", "segmentation"), ("MASKED_TOKEN", "****************"),
    ],
)  # fmt: skip
def test_collect_secrets__ordinary_values_are_none(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert collect_secrets() == {}


def test_collect_secrets__passwords_in_urls_of_any_variable(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:aB3-dE6g@proxy:3128")
    assert collect_secrets() == {"aB3-dE6g": "the value of HTTPS_PROXY in the environment"}


def test_collect_secrets__given_and_saved_by_a_login(tmp_path):
    (tmp_path / "home" / "token").write_text(OPAQUE + "\n")
    assert collect_secrets([], SHAPED, None, "") == {
        SHAPED: "the token that was given",
        OPAQUE: "the token that `hf auth login` saved",
    }


@pytest.mark.parametrize("name", [".env", ".env.local", ".envrc"])
def test_collect_secrets__env_files(tmp_path, name):
    lines = [
        "# TOKEN=commented-out", "NAME=a-plain-value", f"export API_KEY='{OPAQUE}1'  # mine", f'SECRET="{OPAQUE}2"',
        f"  PASSWORD = {OPAQUE}3 # mine", f"TOKEN={OPAQUE}#4", "DATABASE=postgres://ann:in-the-url@host/db", "TOKEN",
    ]  # fmt: skip
    (tmp_path / name).write_text("\r\n".join(lines))
    found = collect_secrets([tmp_path])
    assert set(found) == {f"{OPAQUE}1", f"{OPAQUE}2", f"{OPAQUE}3", f"{OPAQUE}#4", "in-the-url"}
    assert found[f"{OPAQUE}1"] == f"the value of API_KEY in {tmp_path / name}"


def test_collect_secrets__what_is_no_plain_file_does_not_hold_it_up(tmp_path):
    os.mkfifo(tmp_path / ".env")
    (tmp_path / ".env.d").mkdir()
    (tmp_path / ".env.x").symlink_to("nowhere")
    assert collect_secrets([tmp_path]) == {}


# ---- finding it ----


@pytest.mark.parametrize("write", [str, json.dumps, lambda secret: json.dumps(secret, ensure_ascii=False)])
@pytest.mark.parametrize("secret", [ODD, OPAQUE])
def test_find_secret__as_it_is_and_as_json(write, secret):
    assert find_secret(b"before " + write(secret).encode() + b" after", {secret: "the one"}) == "the one"
    assert find_secret(b"before and after", {secret: "the one"}) is None


@pytest.mark.parametrize(
    "text",
    [
        SHAPED, f"x{SHAPED}", json.dumps(f"line\n{SHAPED}"), f"hf_oauth_{OPAQUE}", f"ghp_{SHAPED[3:]}",
        f"github_pat_{SHAPED[3:]}", f"key sk-{SHAPED[3:]}", "id AKIAIOSFODNN7EXAMPLE",
        f"Authorization: Bearer {SHAPED[3:]}", "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)  # fmt: skip
def test_find_secret__by_its_shape(text):
    assert find_secret(f"{{{text}}}".encode(), {}) == "something like a token or password"


def test_find_secret__names_hashes_and_numbers_are_none():
    names = b"hf_urbanseg, hf_hub_download, hf_segformerfinetunedcityscapes, task-based-learning-of-street-scenes, AKIA"
    assert find_secret(names, {}) is None
    assert find_secret(random.Random(0).randbytes(7_000_000), dict.fromkeys((ODD, OPAQUE), "it")) is None


@pytest.mark.parametrize("name", ["metrics.json", "README.md", "overlays/a.png", "model.safetensors"])
def test_check_files__names_the_file_and_the_place_and_not_the_secret(tmp_path, name):
    path = tmp_path / Path(name).name
    path.write_bytes(b"\x89 before " + OPAQUE.encode())
    for content in (path, path.read_bytes()):
        with pytest.raises(DataError) as raised:
            check_files({"a": b"", name: content}, {OPAQUE: "the value of X in the environment"})
        text = str(raised.value)
        assert text.startswith(f"{name}: expected files without secrets; found the value of X in the environment; ")
        assert "if it is no secret, take it away from there" in text
        assert OPAQUE not in text
    check_files({name: path}, {})
    with pytest.raises(DataError, match="expected file names without secrets") as raised:
        check_files({f"overlays/{SHAPED}.png": b""}, {})
    assert SHAPED not in str(raised.value)


# ---- hiding it ----


@pytest.mark.parametrize(
    ("argv", "text", "hidden"),
    [
        ([], f"found {SHAPED}; correct it.", "found <token>; correct it."),
        (["--hub_tokn", "opaque"], "not used: ['--hub_tokn', 'opaque']", "not used: ['--hub_tokn', '<token>']"),
        (["--hub_tokn=opaque"], "not used: ['--hub_tokn=opaque']", "not used: ['--hub_tokn=<token>']"),
        (["--hub_token", "ab"], "about `ab`, ab/c and cab", "about `<token>`, <token>/c and cab"),
        (["--hub_token", "a'\\b"], repr(["a'\\b"]), '["<token>"]'),
        (["--hub_token", "--seed"], "--seed", "--seed"),
        (["--data_dir", "x", "--keep_together", "y"], "x, y is hf_urbanseg", "x, y is hf_urbanseg"),
    ],
)
def test_hide_secrets__what_the_command_line_gives(monkeypatch, argv, text, hidden):
    monkeypatch.setattr(sys, "argv", ["finetune", *argv])
    assert hide_secrets(text) == hidden


def test_hide_secrets__what_the_machine_knows_the_longest_first(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["finetune"])
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:aB3-dE6g@proxy:1")
    Path(".env").write_text(f"TOKEN={OPAQUE}\n")
    assert (
        hide_secrets(f"http://ann:aB3-dE6g@proxy:1 {OPAQUE} {ODD}", ODD) == "http://ann:<token>@proxy:1 <token> <token>"
    )
    assert hide_secrets("a-longer-secret a-longer", "a-longer", "a-longer-secret") == "<token> <token>"
    assert hide_secrets(f"a\udcff{SHAPED} é") == "a\udcff<token> é"
