import base64
import hashlib
import json
import math
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    constants,
    hf_hub_download,
    set_client_factory,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http

httpx = getattr(_http, "httpx2", None) or _http.httpx  # huggingface_hub 2 or 1
WEIGHTS = hashlib.sha512(b"weights").digest() * 4000  # 256 kB that do not compress
CARD = "---\nlicense: mit\n---\n# A model\n"


@pytest.fixture
def api(hub_here):
    return HfApi()


@pytest.fixture
def folder(tmp_path):
    """A card, a large binary file, a text file in a folder, an empty file and an unexpected binary one."""
    files = {
        "README.md": CARD.encode(), "model.safetensors": WEIGHTS, "logs/notes.txt": b"first\n", "empty.txt": b"",
        "picture.xyz": b"\x89PNG\0\0",
    }  # fmt: skip
    for path, content in files.items():
        (tmp_path / "run" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / path).write_bytes(content)
    return tmp_path / "run", files


# ---- what works -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part_size", [2**20, 100_000])
def test_upload_folder__comes_back_as_it_was(hub, api, folder, tmp_path, part_size):
    hub.part_size = part_size
    api.create_repo("user/name")
    done = api.upload_folder(repo_id="user/name", folder_path=folder[0])

    assert hub.tree("user/name") == folder[1]
    assert done.oid == hub.repository("user/name").branches["main"]
    assert hub.names().count("lfs-put") == (2 if part_size > len(WEIGHTS) else 4)
    lfs = {path for path, blob in hub.repository("user/name").resolve("main").files.items() if blob.lfs}
    assert lfs == {"model.safetensors", "picture.xyz"}

    local = snapshot_download("user/name", local_dir=tmp_path / "back")
    for path, content in folder[1].items():
        assert (tmp_path / "back" / path).read_bytes() == content, local
    assert hub.unknown == []
    assert all(request.token is None for request in hub.requests if request.path.startswith("/storage"))


def test_upload_folder__sends_only_what_changed(hub, api, folder):
    api.create_repo("user/name")
    api.upload_folder(repo_id="user/name", folder_path=folder[0])
    (folder[0] / "logs/notes.txt").write_bytes(b"second\n")
    hub.requests.clear()

    api.upload_folder(repo_id="user/name", folder_path=folder[0])

    assert "lfs-put" not in hub.names()
    lines = [json.loads(line) for line in hub.requests[-1].body.splitlines()]
    # The client can't tell that an empty file is unchanged once it has switched it from LFS to a regular one.
    assert [line["value"]["path"] for line in lines[1:]] == ["logs/notes.txt"]
    assert hub.tree("user/name")["logs/notes.txt"] == b"second\n"


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


def test_create_commit__pull_request_branch_and_tag(hub, api):
    api.create_repo("user/name")
    api.create_branch("user/name", branch="v1")
    api.upload_file(path_or_fileobj=b"branch", path_in_repo="x", repo_id="user/name", revision="v1")
    done = api.upload_file(path_or_fileobj=b"asked", path_in_repo="x", repo_id="user/name", create_pr=True)
    more = api.upload_file(path_or_fileobj=b"more", path_in_repo="y", repo_id="user/name", revision=done.pr_revision)
    api.create_tag("user/name", tag="t", revision="v1")

    assert done.pr_revision == "refs/pr/1"
    assert done.pr_url == f"{hub.endpoint}/user/name/discussions/1"
    assert hub.tree("user/name") == {}
    assert hub.tree("user/name", "refs/pr/1") == {"x": b"asked", "y": b"more"}
    refs = api.list_repo_refs("user/name", include_pull_requests=True)
    assert {ref.name for ref in refs.branches} == {"main", "v1"}
    assert [ref.name for ref in refs.tags] == ["t"]
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests] == [("refs/pr/1", more.oid)]
    for revision, content in [("v1", b"branch"), ("t", b"branch"), ("refs/pr/1", b"asked")]:
        assert Path(hf_hub_download("user/name", "x", revision=revision)).read_bytes() == content
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("user/name", branch="v1")
    api.merge_pull_request("user/name", 1)
    assert hub.tree("user/name")["x"] == b"asked"
    api.delete_branch("user/name", branch="v1")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("user/name", revision="v1")


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
    api.delete_repo("user/name")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("user/name")


def test_token_required__closes_public_repositories(hub, api):
    api.create_repo("user/name")
    assert api.model_info("user/name", token=False).id == "user/name"
    hub.token_required = True
    with pytest.raises(HfHubHTTPError, match="401"):
        api.model_info("user/name", token=False)


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
    # `printf 'first\n' | git hash-object --stdin`
    assert files["logs/notes.txt"].blob_id == "9c59e24b8393179a5d712de4f990178df5734d99"
    assert files["logs/notes.txt"].lfs is None


def test_list_repo_tree__pages_and_folders(hub, api):
    api.create_repo("user/name")
    paths = [f"f{n}/x.txt" for n in range(5)] + ["a.txt"]
    api.create_commit("user/name", [CommitOperationAdd(p, p.encode()) for p in paths], commit_message="all")
    hub.page_size = 3

    assert {entry.path for entry in api.list_repo_tree("user/name")} == {".gitattributes", "a.txt"} | {
        f"f{n}" for n in range(5)
    }
    assert {entry.path for entry in api.list_repo_tree("user/name", "f1")} == {"f1/x.txt"}
    assert set(api.list_repo_files("user/name")) == {".gitattributes", *paths}
    assert [entry.path for entry in api.get_paths_info("user/name", ["f2", "a.txt", "none"])] == ["f2", "a.txt"]


def test_read_range__through_the_file_system(hub, api):
    api.create_repo("user/name")
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="x.bin", repo_id="user/name")
    with HfFileSystem().open("user/name/x.bin", "rb", block_size=1000) as file:
        file.seek(100_000)
        assert file.read(50) == WEIGHTS[100_000:100_050]
    assert hub.requests[-1].status == 206
    assert "Authorization" not in hub.requests[-1].headers


def test_hub_here__leaves_no_trace(hub, request):
    import datasets

    before = constants.ENDPOINT, constants.HF_HUB_OFFLINE, datasets.config.HF_ENDPOINT, constants.HF_HUB_CACHE
    request.getfixturevalue("hub_here")
    assert constants.ENDPOINT == datasets.config.HF_ENDPOINT == HfApi().endpoint == hub.endpoint
    test_hub_here__leaves_no_trace.before = before


def test_hub_here__is_gone_in_the_next_test():
    import datasets

    before = getattr(test_hub_here__leaves_no_trace, "before", None)
    if before is None:
        pytest.skip("the test before this one did not run")
    assert before == (
        constants.ENDPOINT, constants.HF_HUB_OFFLINE, datasets.config.HF_ENDPOINT, constants.HF_HUB_CACHE,
    )  # fmt: skip


# ---- what is refused ------------------------------------------------------------------------------------------------


def _post(hub, path, **words):
    return _http.get_session().post(hub.endpoint + path, headers={"authorization": f"Bearer {hub.token}"}, **words)


def _commit(hub, *lines, header=None):
    body = [{"key": "header", "value": header or {"summary": "test"}}, *lines]
    return _post(hub, "/api/models/user/name/commit/main", content="\n".join(map(json.dumps, body)))


def _announce(hub, content, size=None):
    oid = hashlib.sha256(content).hexdigest()
    objects = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": size or len(content)}]}
    answer = _post(hub, "/user/name.git/info/lfs/objects/batch", json=objects).json()["objects"][0]
    return oid, answer["actions"]["upload"]["href"]


def test_lfs__wrong_hash_wrong_size_and_forged_address(hub, api):
    api.create_repo("user/name")
    oid, href = _announce(hub, b"promised")
    assert "BadDigest" in _http.get_session().put(href, content=b"other---").text
    assert "EntityTooSmall" in _http.get_session().put(href, content=b"short").text
    assert _http.get_session().put(href.partition("?")[0], content=b"promised").status_code == 403
    authorization = {"authorization": f"Bearer {hub.token}"}
    assert _http.get_session().put(href, content=b"promised", headers=authorization).status_code == 400
    pointer = {"key": "lfsFile", "value": {"path": "x.bin", "algo": "sha256", "oid": oid, "size": 8}}
    refused = _commit(hub, pointer)
    assert refused.status_code == 400
    assert "was not uploaded" in refused.json()["error"]

    assert _http.get_session().put(href, content=b"promised").status_code == 200
    pointer["value"]["size"] = 9
    assert "pointer says 9 bytes" in _commit(hub, pointer).json()["error"]
    pointer["value"]["size"] = 8
    assert _commit(hub, pointer).status_code == 200
    assert hub.tree("user/name") == {"x.bin": b"promised"}


def test_lfs__multipart_with_a_missing_part(hub, api, monkeypatch):
    hub.part_size = 100_000
    api.create_repo("user/name")
    monkeypatch.setattr("huggingface_hub.lfs._get_completion_payload", lambda headers, oid: {
        "oid": oid, "parts": [{"partNumber": n, "etag": h["etag"]} for n, h in enumerate(headers, 1)][:-1],
    })  # fmt: skip
    with pytest.raises(RuntimeError, match="Error while uploading") as raised:
        api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="x.bin", repo_id="user/name")
    assert "EntityTooSmall" in str(raised.value.__cause__)


@pytest.mark.parametrize(
    "path", ["../x", "a/../x", "/x", "a//x", "", ".git/config", "a\\b", "x" * 256, "/".join(["long-name"] * 120)]
)
def test_commit__path_that_git_or_the_reader_could_not_hold(hub, api, path):
    api.create_repo("user/name")
    done = _commit(hub, {"key": "file", "value": {"path": path, "content": "", "encoding": "base64"}})
    assert done.status_code == 400
    assert hub.tree("user/name") == {}


def test_commit__large_or_binary_content_inline_and_name_clash(hub, api):
    api.create_repo("user/name")

    def inline(path, content):
        value = {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}
        return _commit(hub, {"key": "file", "value": value})

    assert "must be an LFS file" in inline("x.safetensors", b"text").json()["error"]
    assert "must be an LFS file" in inline("x.txt", b"\0").json()["error"]
    assert inline("x", b"text").status_code == 200
    assert "cannot have the same name" in inline("x/y", b"text").json()["error"]


GOOD = """license: other
license_name: nvidia
library_name: transformers
pipeline_tag: image-segmentation
base_model: nvidia/mit-b0
base_model_relation: finetune
datasets: [user/set]
tags: [segformer]
model-index:
- name: demo
  results:
  - task: {type: image-segmentation}
    dataset: {type: user/set, name: KITTI, split: validation}
    metrics:
    - {type: mean_iou, value: 0.5, name: mean IoU}
"""


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("license: othr", "license: other", '"license" must be one of'),
        ("pipeline_tag: segmentation", "pipeline_tag: image-segmentation", '"pipeline_tag" with value'),
        ("library_name: [a]", "library_name: transformers", '"library_name" must be a string'),
        ("base_model: a b", "base_model: nvidia/mit-b0", '"base_model" with value "a b" is not valid'),
        ("relation: tuned", "relation: finetune", '"base_model_relation" must be one of'),
        ("datasets: user/set", "datasets: [user/set]", '"datasets" must be an array'),
        ("tags: [1]", "tags: [segformer]", '"tags" must be an array of strings'),
        ("- names: demo", "- name: demo", '"model-index[0].name" is required'),
        ("dataset: {name: KITTI}", "dataset: {type: user/set, name: KITTI, split: validation}", "dataset.type"),
        ("type: mean_iou, name", "type: mean_iou, value: 0.5, name", "metrics[0].value"),
        ("value: .nan", "value: 0.5", "must be a finite number"),
        ("license: [", "license: other", "YAML Metadata Error"),
    ],
)
def test_validate_yaml__names_what_is_wrong(hub, api, wrong, right, message):
    api.create_repo("user/name")
    api.upload_file(path_or_fileobj=f"---\n{GOOD}---\n".encode(), path_in_repo="README.md", repo_id="user/name")
    assert right in GOOD
    card = f"---\n{GOOD.replace(right, wrong)}---\n".encode()
    with pytest.raises(ValueError, match="Invalid metadata in README") as raised:
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="user/name")
    assert message in str(raised.value)
    # A client that does not ask first is refused all the same.
    value = {"path": "README.md", "content": base64.b64encode(card).decode(), "encoding": "base64"}
    assert message.replace('"', "") in _commit(hub, {"key": "file", "value": value}).json()["error"].replace('"', "")


def test_validate_yaml__warns_of_an_empty_card(hub, api):
    api.create_repo("user/name")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_file(path_or_fileobj=b"# Title\n", path_in_repo="README.md", repo_id="user/name")


# ---- failures -------------------------------------------------------------------------------------------------------


def _push(api, folder):
    api.create_repo("user/name", exist_ok=True)
    return api.upload_folder(repo_id="user/name", folder_path=folder)


def _root(error: BaseException) -> BaseException:
    """The client wraps a failed LFS upload in a RuntimeError; what matters is its cause."""
    return error.__cause__ if type(error) is RuntimeError else error


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("refuse", (httpx.RemoteProtocolError, httpx.ReadError)),
        ("reset", (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)),
        ("lost", (httpx.ReadError, httpx.RemoteProtocolError)),
        *[(status, HfHubHTTPError) for status in (401, 403, 409, 412, 413, 429, 500, 503)],
    ],
)
@pytest.mark.parametrize("place", ["create-repo", "preupload", "lfs-put", "commit"])
def test_fail__reaches_the_client_as_in_the_wild(hub, api, folder, waits, how, expected, place):
    if how in (403, 401, 409) and place == "create-repo":
        api.create_repo("user/name")  # otherwise the client finds out that the repository is missing and says so
    hub.fail(how, matching=place, times=math.inf)
    if how in (401, 403, 409) and place == "create-repo":
        return _create_repo_goes_on(hub, api, folder[0], how)
    with pytest.raises((*((expected,) if isinstance(expected, type) else expected), RuntimeError)) as raised:
        _push(api, folder[0])

    error = _root(raised.value)
    assert isinstance(error, expected)
    if isinstance(how, int):
        assert error.response.status_code == how
    retried = place in ("preupload", "lfs-put") and (isinstance(how, str) or how in (429, 500, 503))
    assert hub.names().count(place) >= 6 if retried else hub.names().count(place) <= 2  # two LFS files at once
    assert set(waits) == ({1, 2, 4, 8} if retried else set())


def _create_repo_goes_on(hub, api, folder, how):
    """`exist_ok` makes the client go on after 401 and 403 when the repository is there, and after 409 in any case."""
    if how == 409:
        with pytest.raises(KeyError, match="url"):  # a 409 without an address breaks the client itself
            _push(api, folder)
    else:
        _push(api, folder)
        assert hub.names()[2:4] == ["info", "validate-yaml"]


def test_fail__429_is_retried_after_what_the_header_says(hub, api, folder, waits):
    api.create_repo("user/name")
    hub.fail(429, matching="preupload", retry_after=7)
    _push(api, folder[0])
    assert waits == [8.0]
    assert hub.tree("user/name") == folder[1]


def test_fail__hang_ends_only_by_a_timeout_of_the_clients_owner(hub, api, folder):
    def impatient():
        client = _http.default_client_factory()
        client.timeout = 0.3
        return client

    assert _http.default_client_factory().timeout.read is None  # the library itself waits for ever
    set_client_factory(impatient)
    try:
        hub.fail("hang", matching="commit")
        with pytest.raises(httpx.ReadTimeout):
            _push(api, folder[0])
        assert hub.tree("user/name") == {}
        _push(api, folder[0])
    finally:
        set_client_factory(_http.default_client_factory)
    assert hub.tree("user/name") == folder[1]


@pytest.mark.parametrize("how", ["cut", "reset"])
def test_fail__download_in_mid_body(hub, api, waits, monkeypatch, how):
    """The client takes up a download that ended early; it lets a reset connection pass as an error, and starts anew."""
    api.create_repo("user/name")
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="x.bin", repo_id="user/name")
    hub.requests.clear()
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # it keeps whole pieces only, of 10 MiB
    hub.fail(how, matching="lfs-get")
    if how == "reset":
        with pytest.raises(httpx.ReadError):
            hf_hub_download("user/name", "x.bin")
    assert Path(hf_hub_download("user/name", "x.bin")).read_bytes() == WEIGHTS
    gets = [request for request in hub.requests if request.name == "lfs-get"]
    assert [request.status for request in gets] == ([how, 206] if how == "cut" else [how, 200])
    assert gets[1].headers.get("Range") == (f"bytes={len(WEIGHTS) // 2}-" if how == "cut" else None)


def test_fail__at_and_times_count_matching_requests(hub, api):
    hub.fail(500, at=2, times=2, matching="whoami")
    answers = []
    for _ in range(5):
        try:
            answers.append(api.whoami()["name"])
        except HfHubHTTPError as error:
            answers.append(error.response.status_code)
    assert answers == ["user", 500, 500, "user", "user"]
    with pytest.raises(ValueError, match="`how` must be one of"):
        hub.fail("explode")


def test_outage__refuses_and_comes_back_with_everything(hub, api, folder, waits):
    _push(api, folder[0])
    port = hub.port
    with hub.outage():
        with pytest.raises(httpx.ConnectError):
            api.model_info("user/name")
        with pytest.raises(LocalEntryNotFoundError):
            hf_hub_download("user/name", "README.md")
    assert hub.port == port
    assert Path(hf_hub_download("user/name", "README.md")).read_text() == CARD


@pytest.mark.parametrize("how", ["refuse", "reset", "lost", 403, 500])
def test_push__failing_at_every_request_is_completed_by_the_next_one(hub, api, folder, waits, how):
    """The loop that a test of the project's own publishing needs: n grows until the push outlives its failure."""
    broken = []
    for n in range(1, 30):
        hub.repositories.clear()
        hub.requests.clear()
        hub.fail(how, at=n, times=math.inf)
        try:
            _push(api, folder[0])
            break
        except Exception as error:
            broken.append(type(_root(error)).__name__)
        reached = len(hub.requests)
        assert reached >= n
        hub.heal()
        _push(api, folder[0])
        assert hub.tree("user/name") == folder[1]
        assert len(hub.repository("user/name").commits) <= 3
    assert len(broken) == n - 1 >= 8, broken
    assert hub.tree("user/name") == folder[1]


# ---- canaries -------------------------------------------------------------------------------------------------------


def test_seen__finds_a_text_wherever_it_went(hub, api, folder, waits):
    canary = "hf_CanaryCanaryCanary"
    _push(api, folder[0])
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
    api.model_info("user/name", revision="main", expand=["sha"])
    _http.get_session().get(f"{hub.endpoint}/api/models/user/name?q={canary}%35")
    assert hub.where(canary + "5")
    assert "URL" in hub.where(canary + "5")[0]

    hub.fail(500, matching="preupload", times=math.inf)
    with pytest.raises(HfHubHTTPError):
        upload(f"{canary}6".encode())  # nothing is stored, but the sample of the file has left the machine
    assert hub.where(canary + "6")
    assert all("preupload" in place for place in hub.where(canary + "6"))


# ---- the other libraries, in processes of their own -----------------------------------------------------------------

PUSH_MODEL = """
import sys, torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
torch.manual_seed(0)
config = SegformerConfig(num_labels=19, depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16,
    num_attention_heads=[1, 1, 2, 2])
model = SegformerForSemanticSegmentation(config).eval()
model.push_to_hub("user/name")
SegformerImageProcessorPil(size={"height": 32, "width": 64}).push_to_hub("user/name")
torch.save(model(torch.ones(1, 3, 32, 64)).logits, sys.argv[1])
"""
# The processor's class is named, because AutoImageProcessor needs torchvision in transformers 5.17.
LOAD_MODEL = """
import sys, torch
from PIL import Image
from transformers import SegformerForSemanticSegmentation, pipeline
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
model = SegformerForSemanticSegmentation.from_pretrained("user/name").eval()
assert torch.equal(model(torch.ones(1, 3, 32, 64)).logits, torch.load(sys.argv[1]))
processor = SegformerImageProcessorPil.from_pretrained("user/name")
assert processor.size == {"height": 32, "width": 64}
found = pipeline("image-segmentation", "user/name", image_processor=processor)(Image.new("RGB", (30, 20)))
assert found[0]["mask"].size == (30, 20)
print("same", len(found))
"""


def test_from_pretrained__bit_identical_in_a_fresh_process(hub, run_with_hub, tmp_path):
    run_with_hub(PUSH_MODEL, tmp_path / "logits.pt")
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= set(hub.tree("user/name"))
    done = run_with_hub(LOAD_MODEL, tmp_path / "logits.pt", home="another", token=False)
    assert done.stdout.startswith("same")
    assert hub.unknown == []


PUSH_SET = """
import io
import numpy as np
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pil

def png(seed):
    buffer = io.BytesIO()
    Pil.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 24, 3), dtype=np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}

features = Features(image=Image(), number=Value("int64"))
train = Dataset.from_dict({"image": [png(n) for n in range(5)], "number": range(5)}, features=features)
DatasetDict(train=train, validation=train.select([0])).push_to_hub("user/set")
"""
LOAD_SET = """
import numpy as np
from datasets import load_dataset
expected = [np.random.default_rng(n).integers(0, 255, (16, 24, 3), dtype=np.uint8) for n in range(5)]
whole = load_dataset("user/set")
assert whole["validation"].num_rows == 1
for rows in (whole["train"], load_dataset("user/set", split="train", streaming=True)):
    rows = list(rows)
    assert [row["number"] for row in rows] == list(range(5))
    assert all(np.array_equal(np.asarray(row["image"]), image) for row, image in zip(rows, expected, strict=True))
print("same")
"""


def test_load_dataset__whole_and_streaming(hub, run_with_hub):
    run_with_hub(PUSH_SET)
    assert {path for path in hub.tree("user/set", kind="dataset") if path.endswith(".parquet")} == {
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
    }
    assert run_with_hub(LOAD_SET, home="another").stdout == "same\n"
    assert "user/set" not in [name for kind, name in hub.repositories if kind == "model"]
    assert any(request.status == 206 for request in hub.requests)  # streaming reads ranges
    assert hub.unknown == []
