"""Files on their way in and out of the loopback Hub: upload modes, LFS objects, commits, downloads."""

import base64
import binascii
import hashlib
import hmac
import json
import re
from urllib.parse import quote

import loopback_cards
from loopback_requests import Answer, answer_json
from loopback_store import Blob, Refusal

# ---- uploads --------------------------------------------------------------------------------------------------------


def preupload(hub, request, repository, revision) -> Answer:
    commit, files = repository.resolve(revision), []
    for asked in request.json["files"]:
        lfs = repository.is_lfs(asked["path"], asked["size"], base64.b64decode(asked["sample"]), revision)
        known = commit.files.get(asked["path"])
        mode = "lfs" if lfs else "regular"
        files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known and known.etag})
    return answer_json({"files": files, "commitOid": commit.oid})


def lfs_batch(hub, request, repository) -> Answer:
    objects = []
    for asked in request.json["objects"]:
        oid, size = asked["oid"], asked["size"]
        entry = {"oid": oid, "size": size}
        if not re.fullmatch("[0-9a-f]{64}", oid) or size <= 0:
            entry["error"] = {"code": 422, "message": "Your request is not valid: a sha256 and a size are needed"}
        elif oid not in repository.objects:
            base = f"{hub.storage}/{repository.kind}/{quote(repository.name, safe='')}/{oid}/{size}"
            verify = {"href": f"{hub.endpoint}/{repository.url_path}.git/info/lfs/objects/verify"}
            upload = {"href": f"{base}?{hub.sign(oid)}"}
            entry |= {"authenticated": True, "actions": {"upload": upload, "verify": verify}}
        objects.append(entry)
    return answer_json({"transfer": "basic", "objects": objects})


def _signed(hub, request, oid: str) -> None:
    """Storage outside the Hub believes the signature in the URL, and refuses a token sent along with it."""
    if not hmac.compare_digest(request.url.partition("?")[2], hub.sign(oid)):
        raise Refusal(403, "SignatureDoesNotMatch")
    if request.token:
        raise Refusal(400, "InvalidArgument: Only one auth mechanism allowed: a token was sent to the storage host")


def store_object(hub, request, kind, name, oid, size) -> Answer:
    _signed(hub, request, oid)
    hub.repository(name, kind).add_object(oid, request.body, int(size))
    return Answer(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


def verify_object(hub, request, repository) -> Answer:
    stored = repository.objects.get(request.json["oid"])
    if stored is None or len(stored) != request.json["size"]:
        raise Refusal(404, f"Object {request.json['oid']} was not uploaded, or has another size")
    return answer_json({"success": True})


def commit(hub, request, repository, revision) -> Answer:
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    if not lines or lines[0]["key"] != "header" or not lines[0]["value"].get("summary"):
        raise Refusal(400, "The first line of a commit must be its header, with a summary")
    changes = []
    for line in lines[1:]:
        key, value = line["key"], line["value"]
        if key == "file":
            try:
                content = base64.b64decode(value["content"], validate=True)
            except binascii.Error as error:
                raise Refusal(400, f"{value['path']}: content is not base64: {error}") from error
            key, value = "blob", {"path": value["path"], "content": content}
            if value["path"] == "README.md":
                errors, _ = loopback_cards.check_card(content.decode(), repository.kind)
                if errors:
                    raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))
        changes.append((key, value))
    made, number = repository.apply(revision, lines[0]["value"], changes, bool(request.query.get("create_pr")))
    base = f"{hub.endpoint}/{repository.url_path}"
    done = {"success": True, "commitOid": made.oid, "commitUrl": f"{base}/commit/{made.oid}", "hookOutput": ""}
    return answer_json(done | ({"pullRequestUrl": f"{base}/discussions/{number}"} if number else {}))


# ---- downloads ------------------------------------------------------------------------------------------------------


def resolve(hub, request, repository, revision, path) -> Answer:
    made = repository.resolve(revision)
    headers = {"X-Repo-Commit": made.oid}
    blob = made.files.get(path)
    if blob is None:
        raise Refusal(404, f"Entry not found: {path}", "EntryNotFound", headers)
    if not blob.lfs:
        return _content(request, blob, headers)
    headers |= {"X-Linked-Size": str(len(blob.content)), "X-Linked-Etag": f'"{blob.sha256}"'}
    where = f"{hub.storage}/{repository.kind}/{quote(repository.name, safe='')}/{blob.sha256}"
    return Answer(b"Found. Redirecting", 302, {"Location": f"{where}?{hub.sign(blob.sha256)}", **headers})


def load_object(hub, request, kind, name, oid) -> Answer:
    _signed(hub, request, oid)
    return _content(request, Blob(hub.repository(name, kind).objects[oid], lfs=True), {})


def _content(request, blob: Blob, headers: dict) -> Answer:
    headers = {**headers, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    headers["Content-Type"] = "application/octet-stream"
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if not match or not any(match.groups()):
        return Answer(blob.content, 200, headers)
    total = len(blob.content)
    start = int(match[1]) if match[1] else max(0, total - int(match[2]))
    end = min(int(match[2]), total - 1) if match[1] and match[2] else total - 1
    if start > end:
        raise Refusal(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{total}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{total}"
    return Answer(blob.content[start : end + 1], 206, headers)
