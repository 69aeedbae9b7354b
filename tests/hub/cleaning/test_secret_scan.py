import base64
import hashlib
import html
import json
import random
import sys
import urllib.parse
import zlib
from pathlib import Path

import pytest
import yaml
from clean_machine import elsewhere  # noqa: F401
from markupsafe import escape
from PIL import Image
from run_folders import build_png

from hf_urbanseg.hub.cards.markdown import escape_markdown
from hf_urbanseg.hub.cleaning.secret_scan import (
    LOOKS_LIKE_ONE,
    collect_secrets,
    find_secret,
    hide_secrets,
    holds_secret,
)

SHAPED = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
ODD = "p$w'0\"r/d\\ +%4<1>&é_x*|`"
PLAIN = "0123456789abcdef0123456789abcdef01234567"


# ---- what counts as a secret ----


def test_collect_secrets__says_where_each_is_known_from(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", PLAIN)
    assert collect_secrets([], SHAPED, None, "") == {
        SHAPED: "the token that was given",
        PLAIN: "the value of WANDB_API_KEY in the environment",
    }


def test_collect_secrets__the_first_place_counts(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SHAPED)
    assert collect_secrets([], SHAPED) == {SHAPED: "the token that was given"}


@pytest.mark.parametrize("value", ["S3cr3t!x", "aB3dE6gH", "abcdefghijkl", "correct horse battery staple", ODD])
def test_collect_secrets__short_odd_and_long_ones(monkeypatch, value):
    monkeypatch.setenv("MY_PASSWORD", value)
    assert collect_secrets([]) == {value: "the value of MY_PASSWORD in the environment"}


@pytest.mark.parametrize(
    "value",
    [
        "false", "none", "disabled", "hunter2x", "aB3dE6g", "abcdefghijk", "100000000000", "xxxxxxxxxxxxxxxx", "*" * 40,
        "segmentation", "cross_entropy", "segformer_b0_kitti",
    ],
)  # fmt: skip
def test_collect_secrets__ordinary_values_are_none(monkeypatch, value):
    monkeypatch.setenv("MAX_TOKEN", value)
    assert collect_secrets([]) == {}


def test_collect_secrets__each_line_of_a_key(monkeypatch):
    monkeypatch.setenv("DEPLOY_KEY", "first-line-of-it\r\n  second-line-of-it\n---\n")
    assert set(collect_secrets([])) == {"first-line-of-it", "second-line-of-it"}


# ---- finding it ----

FORMS = {
    "as it is": lambda secret: secret,
    "JSON": json.dumps,
    "JSON with letters": lambda secret: json.dumps(secret, ensure_ascii=False),
    "JSON with escaped slashes": lambda secret: json.dumps(secret).replace("/", "\\/"),
    "JSON for a page": lambda secret: json.dumps(secret).replace("/", "\\u002f"),
    "YAML": lambda secret: yaml.safe_dump({"a": secret}, allow_unicode=True),
    "YAML in single quotes": lambda secret: "'" + secret.replace("'", "''") + "'",
    "Python": repr,
    "HTML": html.escape,
    "HTML text": lambda secret: html.escape(secret, quote=False),
    "Jinja": lambda secret: str(escape(secret)),
    "Markdown": lambda secret: str(escape_markdown(secret)),
    "URL": urllib.parse.quote,
    "part of a URL": lambda secret: urllib.parse.quote(secret, safe=""),
    "form": urllib.parse.quote_plus,
    "hexadecimal": lambda secret: secret.encode().hex(),
    "HEXADECIMAL": lambda secret: secret.encode().hex().upper(),
    "UTF-16": lambda secret: secret.encode("utf-16-le"),
    "UTF-16, big end first": lambda secret: secret.encode("utf-16-be"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [ODD, PLAIN, "S3cr3t!x"])
def test_find_secret__in_every_form(form, secret):
    written = FORMS[form](secret)
    written = written.encode() if isinstance(written, str) else written
    assert find_secret(b"before " + written + b" after", {secret: "the one"}) == "the one"
    assert find_secret(b"before and after", {secret: "the one"}) is None


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("before", range(7))
@pytest.mark.parametrize("after", range(4))
def test_find_secret__in_base64_wherever_it_begins(encode, before, after):
    content = encode(b"\xfe" * before + ODD.encode() + b"\xfd" * after)
    assert find_secret(b"data:image/png;base64," + content, {ODD: "it"}) == "it"
    assert find_secret(encode(b"\xfe" * before + ODD[:-1].encode() + b"-" + b"\xfd" * after), {ODD: "it"}) is None


def test_find_secret__percent_signs_in_small_letters():
    assert find_secret(b"?a=p%2fw%3a0-Rd", {"p/w:0-Rd": "it"}) == "it"


@pytest.mark.parametrize(
    "text",
    [
        SHAPED, f"x{SHAPED}", f"token%3D{SHAPED}", json.dumps(f"line\n{SHAPED}"), f"run_{SHAPED}.png",
        f"hf_oauth_{PLAIN}", "hf_" + hashlib.sha256(b"a").hexdigest()[:34], f"api_org_{SHAPED[3:]}",
        f"ghp_{SHAPED[3:]}",
        f"glpat-{SHAPED[3:]}",
        f"github_pat_{SHAPED[3:]}", f"key sk-{SHAPED[3:]}", "id AKIAIOSFODNN7EXAMPLE", f"xoxb-{SHAPED[3:]}",
        f"Authorization: Bearer {SHAPED[3:]}", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc",
        "-----BEGIN OPENSSH PRIVATE KEY-----", SHAPED.encode("utf-16-le").decode("latin-1"),
    ],
)  # fmt: skip
def test_find_secret__by_its_shape(text):
    content = text.encode("latin-1")
    assert find_secret(b"{" + content + b"}", {}) == LOOKS_LIKE_ONE
    assert holds_secret(content, set())


@pytest.mark.parametrize(
    "text",
    [
        "hf_urbanseg, hf_hub_download, hf_segformerfinetunedcityscapes", "hf_segformer",
        hashlib.sha512(b"a").hexdigest(),
        "task-based-learning-of-street-scenes-by-transformers", "Bearer of the ring", "ghost_" + "a" * 40,
        "AKIA and others", "BEGIN PRIVATE KEY", "hf_" + "a" * 50,
    ],
)  # fmt: skip
def test_find_secret__names_and_hashes_are_none(text):
    assert find_secret(text.encode(), {}) is None


def test_find_secret__random_numbers_and_pictures_are_none():
    """20 MB of base64 and bytes: no shape of a token, and not the known secrets, comes about by chance."""
    content = random.Random(0).randbytes(7_000_000)
    known = collect_secrets([], ODD, PLAIN, "S3cr3t!x", "aB3dE6gH")
    assert len(known) == 4
    for text in (content, base64.b64encode(content)):
        assert find_secret(text, known) is None


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"Comment\0%s"), (b"eXIf", b"MM\0*%s"), (b"iTXt", b"Comment\0\0\0en\0Kommentar\0%s"),
        (b"zTXt", b"Comment\0\0%z"), (b"iTXt", b"Comment\0\x01\0en\0Kommentar\0%z"),
    ],
)  # fmt: skip
def test_find_secret__in_the_metadata_of_a_picture(chunk):
    kind, data = chunk
    for secret, known, found in ((SHAPED, {}, LOOKS_LIKE_ONE), (ODD, {ODD: "it"}, "it")):
        packed = data.replace(b"%s", secret.encode()).replace(b"%z", zlib.compress(secret.encode()))
        assert find_secret(build_png((kind, packed)), known) == found
    assert find_secret(build_png((kind, data)), {ODD: "it"}) is None


def test_find_secret__in_the_exif_of_a_photograph(tmp_path):
    exif = Image.Exif()
    exif[0x9286] = SHAPED
    exif[0x9C9C] = ODD.encode("utf-16-le")  # Windows' comment
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert find_secret((tmp_path / "a.jpg").read_bytes(), {ODD: "it"}) == "it"
    assert find_secret((tmp_path / "a.jpg").read_bytes(), {}) == LOOKS_LIKE_ONE


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
        (["--data_dir", "x"], "x is hf_urbanseg", "x is hf_urbanseg"),
    ],
)
def test_hide_secrets__what_the_command_line_gives(monkeypatch, argv, text, hidden):
    monkeypatch.setattr(sys, "argv", ["finetune", *argv])
    assert hide_secrets(text) == hidden


def test_hide_secrets__what_the_machine_knows(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["finetune"])
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:aB3-dE6g@proxy:1")
    Path(".env").write_text(f"TOKEN={PLAIN}\n")
    text = f"http://ann:aB3-dE6g@proxy:1 {PLAIN} {ODD}"
    assert hide_secrets(text, ODD) == "http://ann:<token>@proxy:1 <token> <token>"


def test_hide_secrets__the_longest_first(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["finetune"])
    assert hide_secrets("a-longer-secret a-longer", "a-longer", "a-longer-secret") == "<token> <token>"


def test_hide_secrets__keeps_text_that_is_no_utf8(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["finetune"])
    assert hide_secrets(f"a\udcff{SHAPED} é") == "a\udcff<token> é"
