import base64
import hashlib
import json

import pytest
from huggingface_hub.utils import _http

WEIGHTS = hashlib.sha512(b"weights").digest() * 4000  # 256 kB


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
