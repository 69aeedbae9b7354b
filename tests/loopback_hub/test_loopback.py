import hashlib
import math
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http

WEIGHTS = hashlib.sha512(b"weights").digest() * 4000  # 256 kB


def test_upload_folder__comes_back_as_it_was(hub, api, folder, tmp_path):
    api.create_repo("user/name")
    done = api.upload_folder(repo_id="user/name", folder_path=folder[0])

    assert hub.tree("user/name") == folder[1]
    assert done.oid == hub.repository("user/name").branches["main"]
    assert hub.names().count("lfs-put") == 2
    lfs = {path for path, blob in hub.repository("user/name").resolve("main").files.items() if blob.lfs}
    assert lfs == {"model.safetensors", "picture.xyz"}

    local = snapshot_download("user/name", local_dir=tmp_path / "back")
    for path, content in folder[1].items():
        assert (tmp_path / "back" / path).read_bytes() == content, local
    assert hub.unknown == []
    assert all(request.token is None for request in hub.requests if request.path.startswith("/storage"))


def test_create_commit__conflict_delete_and_history(hub, api):
    first = api.create_repo("user/name") and api.create_commit(
        "user/name", [CommitOperationAdd("a/x.txt", b"1"), CommitOperationAdd("b.txt", b"2")], commit_message="one"
    )
    api.create_commit("user/name", [CommitOperationDelete("a/")], commit_message="two", parent_commit=first.oid)
    assert hub.tree("user/name") == {"b.txt": b"2"}
    assert hub.tree("user/name", first.oid) == {"a/x.txt": b"1", "b.txt": b"2"}

    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        api.create_commit("user/name", [CommitOperationAdd("c", b"3")], commit_message="late", parent_commit=first.oid)
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        api.delete_file("c", "user/name")
    assert [commit.title for commit in api.list_repo_commits("user/name")] == ["two", "one", "initial commit"]


def test_create_commit__pull_request_and_branch(hub, api):
    api.create_repo("user/name")
    api.create_branch("user/name", branch="v1")
    api.upload_file(path_or_fileobj=b"branch", path_in_repo="x", repo_id="user/name", revision="v1")
    done = api.upload_file(path_or_fileobj=b"asked", path_in_repo="x", repo_id="user/name", create_pr=True)
    more = api.upload_file(path_or_fileobj=b"more", path_in_repo="y", repo_id="user/name", revision=done.pr_revision)

    assert done.pr_revision == "refs/pr/1"
    assert done.pr_url == f"{hub.endpoint}/user/name/discussions/1"
    assert hub.tree("user/name") == {}
    assert hub.tree("user/name", "refs/pr/1") == {"x": b"asked", "y": b"more"}
    refs = api.list_repo_refs("user/name", include_pull_requests=True)
    assert {ref.name for ref in refs.branches} == {"main", "v1"}
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests] == [("refs/pr/1", more.oid)]
    for revision, content in [("v1", b"branch"), ("refs/pr/1", b"asked")]:
        assert Path(hf_hub_download("user/name", "x", revision=revision)).read_bytes() == content
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("user/name", branch="v1")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("user/name", revision="v2")


def test_create_repo__rights_and_repetition(hub, api):
    assert api.create_repo("name", private=True).repo_id == "user/name"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("name")
    assert api.create_repo("name", exist_ok=True).repo_id == "user/name"
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("stranger/name")
    assert api.model_info("user/name").private
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("user/name", token=False)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(token=False).create_repo("other")


def test_model_info__tells_what_the_card_says(hub, api, folder):
    api.create_repo("user/name")
    (folder[0] / "README.md").write_text("---\nlicense: mit\npipeline_tag: image-segmentation\ntags: [a]\n---\n")
    api.upload_folder(repo_id="user/name", folder_path=folder[0])

    info = api.model_info("user/name", files_metadata=True)

    assert info.pipeline_tag == "image-segmentation"
    assert info.tags == ["a"]
    assert info.card_data.license == "mit"
    files = {sibling.rfilename: sibling for sibling in info.siblings}
    assert files["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize %d\n"
    pointer %= (hashlib.sha256(WEIGHTS).hexdigest().encode(), len(WEIGHTS))
    as_git_does = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
    assert files["model.safetensors"].blob_id == as_git_does
    assert files["model.safetensors"].lfs.pointer_size == len(pointer)
    # `printf 'first\n' | git hash-object --stdin`
    assert files["logs/notes.txt"].blob_id == "9c59e24b8393179a5d712de4f990178df5734d99"
    assert files["logs/notes.txt"].lfs is None


def test_seen__finds_a_text_wherever_it_went(hub, api, folder, push, waits):
    canary = "hf_CanaryCanaryCanary"
    push(folder[0])
    assert not hub.seen(canary)
    assert not hub.seen(hub.token)

    def upload(content=b"text", path="x.txt", message="m"):
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="user/name", commit_message=message)

    for place, words in {
        "regular content": {"content": f"a {canary}1".encode()},
        "LFS content": {"content": b"\0" * 1000 + f"{canary}2".encode()},
        "path": {"path": f"{canary}3.txt"},
        "commit message": {"message": f"{canary}4"},
    }.items():
        upload(**words)
        number = str(["regular content", "LFS content", "path", "commit message"].index(place) + 1)
        assert hub.seen(canary + number), place
    hub.requests.clear()
    for number in "1234":
        assert len(hub.where(canary + number)) >= 1, "stored, whoever sent it"
    api.model_info("user/name", revision="main", expand=["sha"])
    _http.get_session().get(f"{hub.endpoint}/api/models/user/name?q={canary}%35")
    assert hub.where(canary + "5")
    assert "URL" in hub.where(canary + "5")[0]

    hub.fail(500, matching="preupload", times=math.inf)
    with pytest.raises(HfHubHTTPError):
        upload(f"{canary}6".encode())  # nothing is stored, but the sample of the file has left the machine
    assert hub.where(canary + "6")
    assert all("preupload" in place for place in hub.where(canary + "6"))
