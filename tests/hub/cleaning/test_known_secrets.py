import os
from pathlib import Path

import pytest
from clean_machine import elsewhere  # noqa: F401

from hf_urbanseg.hub.cleaning.known_secrets import list_given_secrets, list_known_secrets

SECRET = "p4ss-W0rd+of/the=tests"


def known(*folders) -> dict[str, str]:
    """Value -> where it is kept, without what is empty."""
    return {value: where for value, where in list_known_secrets([Path(folder) for folder in folders]) if value}


def test_list_known_secrets__a_machine_without_any():
    assert known(Path.cwd()) == {}


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID",
        "DB_PASSWORD", "MYSQL_PWD", "SSH_PASSPHRASE", "GOOGLE_CREDENTIALS", "PROXY_AUTH", "SLACK_WEBHOOK", "SENTRY_DSN",
        "AZURE_STORAGE_CONNECTION_STRING", "db_pass", "Session_Cookie", "ENCRYPTION_KEY",
    ],
)  # fmt: skip
def test_list_known_secrets__variables_that_are_named_like_one(monkeypatch, name):
    monkeypatch.setenv(name, SECRET)
    assert known() == {SECRET: f"the value of {name} in the environment"}


@pytest.mark.parametrize(
    "name",
    [
        "TOKENIZERS_PARALLELISM", "TOKENIZER", "GIT_AUTHOR_NAME", "HF_TOKEN_PATH", "SSH_AUTH_SOCK", "OLDPWD", "PWD",
        "GOOGLE_CREDENTIALS_FILE", "SECRETS_DIR", "KEYBOARD", "COMPASS", "PASSENGERS", "HF_HOME",
    ],
)  # fmt: skip
def test_list_known_secrets__other_variables(monkeypatch, name):
    monkeypatch.setenv(name, SECRET)
    assert known() == {}


@pytest.mark.parametrize(
    ("value", "secrets"),
    [
        ("http://ann:p%40ss%2Fword@proxy:3128", {"p%40ss%2Fword", "p@ss/word"}),
        ("https://0123456789abcdef@git.example/x.git", {"0123456789abcdef"}),
        ("https://ann@git.example/x.git", set()),
        ("https://proxy.example:3128/a@b", set()),
        ("one=http://a:first-one@x, two=http://b:second-one@y", {"first-one", "second-one"}),
    ],
)
def test_list_known_secrets__passwords_in_urls_of_any_variable(monkeypatch, value, secrets):
    monkeypatch.setenv("https_proxy", value)
    assert set(known()) == secrets
    assert all("https_proxy" in where for where in known().values())


def test_list_known_secrets__an_address_is_no_secret_but_one_with_a_key_is(monkeypatch):
    monkeypatch.setenv("TOKEN_URL", "https://huggingface.co/oauth/token")
    assert known() == {}
    monkeypatch.setenv("TOKEN_URL", "https://huggingface.co/oauth/token?key=abcdefg")
    assert set(known()) == {"https://huggingface.co/oauth/token?key=abcdefg"}


@pytest.mark.parametrize("name", [".env", ".env.local", ".envrc"])
@pytest.mark.parametrize("place", ["", "..", "../.."])
def test_list_known_secrets__env_files_of_a_folder_and_above(tmp_path, name, place):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    file = (folder / place).resolve() / name
    lines = [
        "# TOKEN=commented-out", "NAME=a-plain-value", f"export API_KEY='{SECRET}1'  # mine", f'SECRET="{SECRET}2"',
        f"  PASSWORD = {SECRET}3 # mine", f"TOKEN={SECRET}#4", "DATABASE=postgres://ann:in-the-url@host/db", "TOKEN",
    ]  # fmt: skip
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = known(folder)
    assert set(found) == {f"{SECRET}1", f"{SECRET}2", f"{SECRET}3", f"{SECRET}#4", "in-the-url"}
    assert found[f"{SECRET}1"] == f"the value of API_KEY in {file}"


def test_list_known_secrets__through_links(tmp_path):
    (tmp_path / "real" / "run").mkdir(parents=True)
    (tmp_path / "real" / ".env").write_text(f"TOKEN={SECRET}")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "run")
    assert set(known(tmp_path / "link")) == {SECRET}
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert known(tmp_path / "loop") == {}


def test_list_known_secrets__what_is_no_plain_file_does_not_hold_it_up(tmp_path):
    os.mkfifo(tmp_path / ".env")
    os.mkfifo(tmp_path / ".envrc")
    (tmp_path / ".env.d").mkdir()
    (tmp_path / ".env.x").symlink_to("nowhere")
    os.mkfifo(tmp_path / "home" / ".netrc")
    os.mkfifo(tmp_path / "home" / "token")
    assert known(tmp_path) == {}


def test_list_known_secrets__remotes_of_git(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text(f'[remote "origin"]\n\turl = https://ann:{SECRET[:8]}@github.com/a/b\n')
    assert known(tmp_path / "runs" / "x") == {SECRET[:8]: "a remote of git"}


def test_list_known_secrets__logins(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "token").write_text("first-token\n")
    (home / "stored_tokens").write_text("[work]\nhf_token = second-token\n")
    (home / ".netrc").write_text(
        "machine api.wandb.ai login user password third-one\nmachine x\n login a\n password fourth\n"
        'machine x login b password "the fifth"\n'
    )
    (home / ".netrc").chmod(0o644)
    (home / ".git-credentials").write_text("https://ann:sixth@github.com\n")
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text("[default]\naws_access_key_id = AKI7\naws_secret_access_key = eighth\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "other"))
    (tmp_path / "other").write_text("default login a password ninth")
    assert known() == {
        "first-token": "the token that `hf auth login` saved",
        "second-token": "the value of hf_token that `hf auth login` saved",
        **dict.fromkeys(("third-one", "fourth", "the fifth"), f"a password of {home / '.netrc'}"),
        "sixth": f"a password of {home / '.git-credentials'}",
        "AKI7": "the value of aws_access_key_id of the AWS credentials",
        "eighth": "the value of aws_secret_access_key of the AWS credentials",
        "ninth": f"a password of {tmp_path / 'other'}",
    }


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--hub_token", "x"], ["x"]),
        (["--hub_tokn", "x", "--seed", "1"], ["x"]),
        (["--hub-token=x=y"], ["x=y"]),
        (["--tken=x"], ["x"]),
        (["--password", "x", "y"], ["x"]),
        (["--hub_token"], []),
        (["--hub_token", "--seed", "1"], []),
        (["--hub_token="], []),
        (["--keep_together", "a,b", "--seed", "1", "token", "y"], []),
    ],
)
def test_list_given_secrets__of_options_right_and_misspelt(words, given):
    assert list(list_given_secrets(words)) == given
