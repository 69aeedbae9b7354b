import configparser
from pathlib import Path

import pytest
import yaml
from clean_machine import elsewhere  # noqa: F401
from packaging.requirements import Requirement
from run_folders import FORBIDDEN, build_run, plant_forbidden

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.hub import space
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.hub.space import GRADIO, collect_space, is_ours, publish_space

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    folder = build_run(tmp_path / "run")
    plant_forbidden(folder)
    return folder


def read_front(content: bytes) -> dict:
    return yaml.safe_load(content.decode().split("---\n")[1])


def test_collect_space__model_package_and_what_starts_them(run):
    files = collect_space(run, PushLedger(run), "street demo")
    model = {"model.safetensors", "config.json", "preprocessor_config.json", "label_space.json"}
    assert {path.removeprefix("model/") for path in files if path.startswith("model/")} == model
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hf_urbanseg").rglob("*.py")}
    assert package <= files.keys()
    rest = {path for path in files if not path.startswith(("model/", "hf_urbanseg/"))}
    assert rest == {"app.py", "requirements.txt", "README.md"}
    assert not any(f"model/{path}" in files for path in FORBIDDEN)
    assert all(map(is_ours, files))
    assert not any(map(is_ours, ["examples/a.png", ".gitattributes", "notes.md", "model/mine.txt", "data/app.py"]))
    compile(files["app.py"], "app.py", "exec")
    assert b'"street-demo"' in files["app.py"].replace(b"'", b'"')


def test_collect_space__front_matter_links_what_was_pushed(run):
    front = read_front(collect_space(run, PushLedger(run, "user/model"), "x")["README.md"])
    assert (front["sdk"], front["sdk_version"], front["license"]) == ("gradio", GRADIO, "apache-2.0")
    assert "models" not in front  # named, and never arrived
    pushed = PushLedger(run, "user/model", success={"commit": "0", "url": "x", "time": "x"})
    assert read_front(collect_space(run, pushed, "x")["README.md"])["models"] == ["user/model"]


def test_collect_space__what_pip_is_to_bring(run, monkeypatch):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert GRADIO in Requirement(setup["options.extras_require"]["demo"].strip()).specifier
    listed = ["torch>=2.11,<3", 'av>=17; extra == "video"', 'pytest>=8; extra == "test"']
    monkeypatch.setattr(space, "requires", lambda name: listed)
    lines = collect_space(run, PushLedger(run), "x")["requirements.txt"].decode().splitlines()
    assert lines[1:] == ["--extra-index-url https://download.pytorch.org/whl/cpu", "torch<3,>=2.11", "av>=17"]

    def tell(name):
        raise space.PackageNotFoundError

    monkeypatch.setattr(space, "requires", tell)
    with pytest.raises(ConfigError, match="expected hf_urbanseg as pip installs it"):
        collect_space(run, PushLedger(run), "x")


def test_publish_space__private_as_the_run_and_others_files_stay(hub_here, run):
    shown, ledger = [], PushLedger(run, "user/model", private=True)
    assert publish_space(run, "user/demo", ledger, shown.append, dry_run=True) is None
    assert not hub_here.requests
    result = publish_space(run, "user/demo", ledger, shown.append)
    assert result.url == f"{hub_here.endpoint}/spaces/user/demo"
    assert hub_here.repository("user/demo", "space").private
    tree = hub_here.tree("user/demo", kind="space")
    assert tree.keys() - {".gitattributes"} == shown[-1].keys()
    assert tree["model/model.safetensors"] == (run / "model.safetensors").read_bytes()
    again = publish_space(run, "user/demo", ledger, shown.append)
    assert (again.added, again.deleted) == ((), ())
    assert (run / "push.json").read_bytes() == b"{}"
    assert not hub_here.seen("forbidden")
