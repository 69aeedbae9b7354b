"""A canary in every place where people keep secrets, and what a run, its push and its logs hold of them: nothing."""

import json
import sys
import urllib.parse
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import constants

from hf_urbanseg.commands import publish

SCRIPTS = Path(__file__).parents[2] / "scripts"
CANARIES = {
    "argument": "hf_" + "CanaryOfTheTests" * 2,
    "login": "hf_" + "SecondCanaryHere" * 2,
    "environment": "0aaabbbcccdddeee0123456789abcdef01234567",  # as Weights & Biases' keys: no shape tells
    "AWS": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "proxy": "pr0xyP4ssword",
    ".env of the run": 'run\'s "pass" & <word> \\1',
    ".env of the working folder": "p4ss/word+of=cwd%41",
    ".env above the run": "p4rent-Pass-Word",
}


def spell(secret: str) -> set[bytes]:
    """Ways in which a file may hold a secret."""
    return {secret.encode(), json.dumps(secret)[1:-1].encode(), urllib.parse.quote(secret, safe="").encode()}


def find(content: bytes) -> list[str]:
    return [name for name, secret in CANARIES.items() if any(form in content for form in spell(secret))]


def read_all(folder: Path, planted: set[Path]):
    """Name and content of each file, members of archives (every .pt is one) included."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in planted:
            yield path.name, path.name.encode() + path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        yield f"{path.name}: {name}", name.encode() + archive.read(name)


@pytest.fixture
def planted(tmp_path, kitti):
    """Files that hold canaries."""
    files = {
        "runs/my run/.env": f"SOME_SECRET={CANARIES['.env of the run']}",
        "runs/.env": f"API_KEY={CANARIES['.env above the run']}",
        ".env": f"HF_TOKEN={CANARIES['.env of the working folder']}",
        "hub home/token": CANARIES["login"],
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kitti").symlink_to(kitti)
    return {tmp_path / name for name in files}


def test_finetune__no_canary_remains_anywhere(hub, run_with_hub, words, planted, tmp_path):
    """With the log at its loudest; the Hub refuses at first, and `urbanseg publish` completes the push."""
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    hub.token = CANARIES["argument"]
    hub.fail(403, matching="commit", times=1)
    run = tmp_path / "runs" / "my run"
    environment = {
        "HOME": tmp_path / "user", "WANDB_API_KEY": CANARIES["environment"], "AWS_SECRET_ACCESS_KEY": CANARIES["AWS"],
        "HTTPS_PROXY": f"http://ann:{CANARIES['proxy']}@127.0.0.1:9", "HF_DEBUG": "1",
        "TRANSFORMERS_VERBOSITY": "debug", "HF_HUB_VERBOSITY": "debug",
    }  # fmt: skip
    argv = words(
        data_dir=tmp_path / "data" / "kitti", num_overlays=1, max_steps=2, eval_steps=1, save_steps=1,
        push_to_hub="true", hub_model_id="user/tiny", hub_token=CANARIES["argument"], report_to="tensorboard",
        hub_tensorboard="true", log_level="debug",
    )  # fmt: skip
    argv += ["--output_dir", str(run)]
    trained = run_with_hub(
        SCRIPTS / "finetune.py", *argv, home="hub home", token=False, HF_HUB_DISABLE_IMPLICIT_TOKEN=0, **environment
    )
    (run / "metrics.json").write_text((run / "metrics.json").read_text() + "\n")
    published = run_with_hub("-m", "hf_urbanseg", "publish", run, home="hub home", **environment)
    assert "pushed " in published.stdout
    for done in (trained, published):
        assert "Traceback" not in done.stderr
        assert find((done.stdout + done.stderr).encode()) == []
    contents = dict(read_all(tmp_path, planted))
    assert {"optimizer.pt", "trainer_state.json", "push.json", "recipe.yaml"} <= set(contents)
    assert any("optimizer.pt: " in name for name in contents)
    assert any("tfevents" in name for name in contents)
    assert {name: found for name, content in contents.items() if (found := find(content))} == {}
    assert {name: hub.where(secret) for name, secret in CANARIES.items() if hub.seen(secret)} == {}
    tree = hub.tree("user/tiny")
    assert any("tfevents" in name for name in tree)
    assert {name: found for name, content in tree.items() if (found := find(content))} == {}
    here = [str(tmp_path), urllib.parse.quote(str(run)), str(SCRIPTS.parent), sys.prefix]
    assert [(name, folder) for name, content in tree.items() for folder in here if folder.encode() in content] == []


def test_publish__refuses_each_canary_and_says_where_it_is_from(
    hub_here, run, planted, tmp_path, monkeypatch, fails, capsys
):
    """The same machine, with the secret in a file that is pushed."""
    folder = tmp_path / "runs" / "my run"
    for path in run.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    recipe = [line for line in (folder / "recipe.yaml").read_text().splitlines() if not line.startswith("data_dir:")]
    (folder / "recipe.yaml").write_text("\n".join([*recipe, f"data_dir: {tmp_path / 'data' / 'kitti'}", ""]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hub home" / "token"))
    for name, value in {
        "HOME": tmp_path / "user", "HF_TOKEN": CANARIES["argument"], "WANDB_API_KEY": CANARIES["environment"],
        "AWS_SECRET_ACCESS_KEY": CANARIES["AWS"], "HTTPS_PROXY": f"http://ann:{CANARIES['proxy']}@127.0.0.1:9",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    said = {
        "argument": "HF_TOKEN in the environment", "login": "the token that `hf auth login` saved",
        "environment": "WANDB_API_KEY in the environment", "AWS": "AWS_SECRET_ACCESS_KEY in the environment",
        "proxy": "HTTPS_PROXY in the environment", ".env of the run": f"SOME_SECRET in {folder / '.env'}",
        ".env of the working folder": f"HF_TOKEN in {tmp_path / '.env'}",
        ".env above the run": f"API_KEY in {tmp_path / 'runs' / '.env'}",
    }  # fmt: skip
    for name, secret in CANARIES.items():
        (folder / "log_history.json").write_text(json.dumps({"note": secret}))
        text = fails(publish.main, folder, "user/name")
        assert text.startswith("error: log_history.json: expected files without secrets; found "), name
        assert said[name] in text
        assert find((text + capsys.readouterr().out).encode()) == []
    assert hub_here.requests == []
