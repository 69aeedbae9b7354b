import hashlib
import json
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
    run_with_hub(PUSH_MODEL, tmp_path / "logits.pt", HF_HUB_DISABLE_XET=1)
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
    run_with_hub(PUSH_SET, HF_HUB_DISABLE_XET=1)
    assert {path for path in hub.tree("user/set", kind="dataset") if path.endswith(".parquet")} == {
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
    }
    assert run_with_hub(LOAD_SET, home="another").stdout == "same\n"
    assert "user/set" not in [name for kind, name in hub.repositories if kind == "model"]
    assert any(request.status == 206 for request in hub.requests)  # streaming reads ranges
    assert hub.unknown == []
