import hashlib
import math
import traceback

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id
from run_folders import CARD, build_png

from hf_urbanseg.errors import ConfigError, DataError, HubError
from hf_urbanseg.hub.client import bound_requests
from hf_urbanseg.hub.publish import check_access, check_target, publish

WEIGHTS = hashlib.sha512(b"weights").digest() * 4000  # 256 kB
SECRET = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
# A request that hangs ends after 0.1 s, and the client tries some of them six times.
KINDS = ["refuse", "reset", "lost", "hang", 401, 403, 409, 413, 429, 500]


@pytest.fixture(autouse=True)
def default_timeout():
    yield
    bound_requests(30)


@pytest.fixture
def files(tmp_path):
    """A run in small: a card, weights and a picture that go to LFS, a text."""
    content = {"README.md": CARD.encode(), "model.safetensors": WEIGHTS, "metrics.json": b'{"mean_iou": 0.5}'}
    content["overlays/scene.png"] = build_png((b"tEXt", b"Title\0scene"))
    for name, data in content.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(data)
    on_disk = {name: tmp_path / "run" / name for name in content} | {"metrics.json": content["metrics.json"]}
    return on_disk, content


@pytest.mark.parametrize("threads", [1, 5])
def test_publish__remote_tree_equals_the_files(hub_here, files, threads):
    result = publish(files[0], "user/name", message="First", threads=threads)
    assert hub_here.tree("user/name") == files[1]
    assert result.url == f"{hub_here.endpoint}/user/name"
    assert result.commit == hub_here.repository("user/name").branches["main"]
    assert result.added == tuple(sorted(files[1]))
    assert [commit.title for commit in hub_here.repository("user/name").history("main")] == ["First", "initial commit"]
    assert not hub_here.unknown


def test_publish__one_thread_starts_none(hub_here, files, monkeypatch):
    """Those of a pool would keep the interpreter from exiting while one of them hangs."""

    def refuse(*_, **__):
        raise AssertionError("a pool of threads")

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    publish(files[0], "user/name", threads=1)
    assert hub_here.tree("user/name") == files[1]
    with pytest.raises(HubError, match="a pool of threads"):
        publish(files[0], "user/other", threads=5)


def test_publish__changes_adds_and_removes_in_one_commit(hub_here, files):
    publish(files[0], "user/name")
    api = HfApi()
    others = {"demo.mp4": b"film", "docs/usage.md": b"how", "runs/old/events.out.tfevents.1.0": b"curve"}
    for name, content in others.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="user/name")
    changed = {**files[1], "metrics.json": b'{"mean_iou": 0.6}', "config.json": b"{}"}
    del changed["overlays/scene.png"]
    before = len(hub_here.repository("user/name").commits)
    result = publish(changed, "user/name")
    assert hub_here.tree("user/name") == changed | others
    assert result.added == ("config.json", "metrics.json")
    assert result.deleted == ("overlays/scene.png",)
    assert len(hub_here.repository("user/name").commits) == before + 1


def test_publish__same_size_other_content(hub_here, files):
    """Equal sizes say nothing: both kinds of files are compared by their hash."""
    publish(files[1], "user/name")
    changed = files[1] | {"metrics.json": b'{"mean_iou": 0.9}', "model.safetensors": WEIGHTS[::-1]}
    assert publish(changed, "user/name").added == ("metrics.json", "model.safetensors")
    assert hub_here.tree("user/name") == changed


def test_publish__nothing_new_makes_no_commit(hub_here, files):
    first = publish(files[0], "user/name")
    hub_here.requests.clear()
    second = publish(files[0], "user/name")
    assert (second.url, second.commit, second.added, second.deleted) == (first.url, first.commit, (), ())
    assert hub_here.names() == ["create-repo", "info", "tree"]


def test_publish__a_data_set_loses_nothing_unless_asked(hub_here):
    publish({"data/train-0.parquet": b"PAR1\0", "data/old.parquet": b"PAR1\0\0"}, "user/set", kind="dataset")
    new = {"data/train-0.parquet": b"PAR1\0\0\0", "README.md": b"---\nlicense: mit\n---\n# A set\n"}
    kept = publish(new, "user/set", kind="dataset")
    assert kept.deleted == ()
    assert kept.url == f"{hub_here.endpoint}/datasets/user/set"
    assert set(hub_here.tree("user/set", kind="dataset")) == {*new, "data/old.parquet"}
    publish(new, "user/set", kind="dataset", replaces=lambda path: path.startswith("data/"))
    assert hub_here.tree("user/set", kind="dataset") == new


# ---- where it goes ----


def test_publish__branch_is_made_and_main_left_alone(hub_here, files):
    result = publish(files[0], "user/name", revision="step/500")
    assert hub_here.tree("user/name", "step/500") == files[1]
    assert hub_here.tree("user/name") == {}
    assert result.url == f"{hub_here.endpoint}/user/name/tree/step/500"
    again = publish(files[0], "user/name", revision="step/500")
    assert again.commit == result.commit


def test_publish__private(hub_here, files):
    publish(files[0], "user/hidden", private=True)
    assert hub_here.repository("user/hidden").private
    publish(files[0], "user/hidden", private=True)
    publish({"config.json": b"{}"}, "user/open")
    assert not hub_here.repository("user/open").private
    with pytest.raises(HubError, match="expected a private repository user/open; found a public one; make it private"):
        publish(files[0], "user/open", private=True)
    assert set(hub_here.tree("user/open")) == {"config.json"}


def test_publish__pull_request_once(hub_here, files):
    first = publish(files[0], "user/name", create_pr=True)
    assert first.url == f"{hub_here.endpoint}/user/name/discussions/1"
    assert hub_here.tree("user/name", "refs/pr/1") == files[1]
    assert hub_here.tree("user/name") == {}
    again = publish(files[0], "user/name", create_pr=True)
    assert (again.url, again.commit, again.added) == (first.url, first.commit, ())
    changed = files[1] | {"metrics.json": b"{}"}
    assert publish(changed, "user/name", create_pr=True).url.endswith("/discussions/2")
    assert publish(changed, "user/name", revision="refs/pr/1").url == first.url
    assert hub_here.tree("user/name", "refs/pr/1") == changed


def test_publish__pull_request_whose_answer_was_lost_is_found(hub_here, files):
    hub_here.fail("lost", matching="commit")
    with pytest.raises(HubError, match="no answer"):
        publish(files[0], "user/name", create_pr=True)
    assert publish(files[0], "user/name", create_pr=True).url.endswith("/discussions/1")
    assert list(hub_here.repository("user/name").pull_requests) == [1]


def test_publish__somebody_else_in_between(hub_here, files):
    """What was compared is what is changed: a commit made meanwhile is not undone."""
    publish(files[0], "user/name")
    late = HfApi()

    def meanwhile(request):
        if request.name == "preupload" and not meanwhile.done:
            meanwhile.done = True
            hub_here.repository("user/name").apply("main", {"summary": "theirs"}, [], False)
        return False

    meanwhile.done = False
    hub_here.fail(500, matching=meanwhile)
    with pytest.raises(HubError, match=r"status 412 .*A commit has happened since.*; run it again later"):
        publish(files[1] | {"metrics.json": b"{}"}, "user/name", message="Mine")
    assert late.list_repo_commits("user/name")[0].title == "theirs"


@pytest.mark.parametrize("name", ["name", "a/b/c", "user/na me", "user/name.git", ""])
def test_check_target__names(name):
    with pytest.raises(ConfigError, match="expected a repository as user/name"):
        check_target(name)
    validate_repo_id("user/name")
    check_target("user/name", "main", create_pr=True)
    with pytest.raises(ConfigError, match="expected either `create_pr` or `revision`; found both"):
        check_target("user/name", "dev", create_pr=True)


# ---- what the Hub refuses ----


def test_publish__front_matter_is_checked_before_anything_is_uploaded(hub_here, files):
    bad = files[1] | {"README.md": b"---\nlicense: mine\n---\n"}
    with pytest.raises(HubError, match=r'README.md. - "license" must be one of.*; correct the front matter') as raised:
        publish(bad, "user/name", threads=5)
    assert "\n" not in str(raised.value)
    assert "preupload" not in hub_here.names()
    with pytest.raises(HubError, match="correct the front matter"):
        publish(bad, "user/name", threads=1)
    assert "preupload" not in hub_here.names()


@pytest.mark.parametrize("how", KINDS)
def test_publish__failing_at_every_request_is_completed_by_the_next(hub_here, files, waits, how):
    """At the n-th request and all that follow, until a push needs fewer than n."""
    untouched = {name: path.read_bytes() for name, path in files[0].items() if name != "metrics.json"}
    for n in range(1, 30):
        hub_here.repositories.clear()
        hub_here.requests.clear()
        hub_here.fail(how, at=n, times=math.inf)
        try:
            bound_requests(0.1 if how == "hang" else 5)
            publish(files[0], "user/name")
            break
        except HubError as error:
            text = str(error)
        assert text.startswith("expected the Hub to take a push to user/name; found ")
        assert "\n" not in text
        assert text.count("; ") >= 2  # with a fix
        words = f"status {how}" if isinstance(how, int) else "no answer from http"
        assert words in text
        hub_here.heal()
        bound_requests(5)
        publish(files[0], "user/name")
        assert hub_here.tree("user/name") == files[1]
        assert len(hub_here.repository("user/name").commits) == 2
    assert n >= 10, "requests of a push"
    assert hub_here.tree("user/name") == files[1]
    assert untouched == {name: path.read_bytes() for name, path in files[0].items() if name != "metrics.json"}


# ---- access ----


def test_check_access__makes_the_repository_and_the_branch(hub_here):
    check_access("user/name", private=True, revision="dev")
    assert hub_here.repository("user/name").private
    assert "dev" in hub_here.repository("user/name").branches


def test_check_access__a_wrong_token_is_noticed_even_where_the_repository_exists(hub_here, files):
    publish(files[0], "user/name")
    with pytest.raises(HubError, match=r"status 401 .*; log in with `hf auth login`, or put a token") as raised:
        check_access("user/name", token=SECRET)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_check_access__no_token(hub_here, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="log in with `hf auth login`, or put a token with write permission into"):
        check_access("user/name")


def test_check_access__a_token_that_can_only_read(hub_here, monkeypatch):
    role = {"name": "user", "auth": {"accessToken": {"role": "read"}}}
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda self: role)
    with pytest.raises(HubError, match="found a token that can only read; make one with write permission"):
        check_access("user/name")


# ---- secrets ----


def test_publish__refuses_a_file_with_a_secret_and_sends_nothing(hub_here, files, monkeypatch):
    with pytest.raises(DataError, match=r"notes.md: expected files without secrets"):
        publish(files[1] | {"notes.md": f"token {SECRET}".encode()}, "user/name")
    monkeypatch.setenv("SERVICE_PASSWORD", "correct-horse-battery")
    with pytest.raises(DataError, match=r"notes.md: expected files without secrets"):
        publish(files[1] | {"notes.md": b"correct-horse-battery"}, "user/name")
    with pytest.raises(DataError, match=r"notes.md: expected files without secrets"):
        publish(files[1] | {"notes.md": b"argument-token"}, "user/name", token="argument-token")
    with pytest.raises(ConfigError, match="expected names and a message without secrets") as raised:
        publish(files[0], "user/name", message=f"with {SECRET}")
    assert SECRET not in str(raised.value)
    assert not hub_here.requests


@pytest.mark.parametrize("how", ["refuse", 401, 403, 500, "lost"])
def test_publish__no_exception_and_no_request_holds_the_token(hub_here, files, waits, caplog, how):
    token, told = hub_here.token, []
    for place in ("create-repo", "info", "tree", "validate-yaml", "preupload", "lfs-batch", "lfs-put", "commit"):
        hub_here.repositories.clear()
        hub_here.fail(how, matching=place, times=math.inf)
        try:
            publish(files[0], "user/name", token=token)
        except HubError as error:
            told.append("".join(traceback.format_exception(error)))
        hub_here.heal()
    publish(files[0], "user/name", token=token)
    assert len(told) >= 6
    assert not any(token in text for text in told)
    assert not hub_here.seen(token)
    assert token not in caplog.text
