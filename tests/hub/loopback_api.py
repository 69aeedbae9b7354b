"""The requests that huggingface_hub, datasets and transformers send, answered from the loopback Hub's repositories."""

import base64
import binascii
import hashlib
import hmac
import itertools
import json
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote

import loopback_cards
from loopback_store import Blob, Commit, Refusal, Repository


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def answer_json(data, status: int = 200, **headers) -> Answer:
    return Answer(json.dumps(data).encode(), status, {"Content-Type": "application/json", **headers})


def answer_refusal(refusal: Refusal) -> Answer:
    headers = {"X-Error-Message": refusal.message.splitlines()[0], **refusal.headers}
    if refusal.code:
        headers["X-Error-Code"] = refusal.code
    return answer_json({"error": refusal.message, **refusal.extra}, refusal.status, **headers)


# ---- the account and its repositories -------------------------------------------------------------------------------


def whoami(hub, request) -> Answer:
    token = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": "write"}}
    return answer_json({"type": "user", "id": "1", "name": hub.user, "fullname": hub.user, "orgs": [], "auth": token})


def validate_yaml(hub, request) -> Answer:
    errors, warnings = loopback_cards.check_card(request.json["content"], request.json["repoType"])
    found = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return answer_json(found, 400 if errors else 200)


def create_repository(hub, request) -> Answer:
    kind, name = request.json.get("type") or "model", request.json["name"]
    owner = request.json.get("organization") or hub.user
    if owner != hub.user:
        raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
    if not re.fullmatch(r"(?!.*(--|\.\.))[\w][\w.-]{0,95}", name) or name.endswith((".git", ".ipynb")):
        raise Refusal(400, f"Invalid repository name: {name!r}")
    known = hub.repositories.get((kind, f"{owner}/{name}"))
    repository = known or Repository(kind, f"{owner}/{name}")
    url = f"{hub.endpoint}/{repository.url_path}"
    if known:
        raise Refusal(409, f"You already created this {kind} repo: {known.name}", url=url)
    repository.private = request.json.get("visibility") == "private" or bool(request.json.get("private"))
    hub.repositories[kind, repository.name] = repository
    return answer_json({"url": url, "name": repository.name, "id": repository.name})


def delete_repository(hub, request) -> Answer:
    kind, owner = request.json.get("type") or "model", request.json.get("organization") or hub.user
    if hub.repositories.pop((kind, f"{owner}/{request.json['name']}"), None) is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    return Answer(b"OK")


def change_settings(hub, request, repository) -> Answer:
    repository.private = request.json.get("visibility") == "private"
    return answer_json({"private": repository.private})


# ---- what is in a repository ----------------------------------------------------------------------------------------


def describe(hub, request, repository, revision="main") -> Answer:
    commit = repository.resolve(revision)
    siblings = []
    for path, blob in sorted(commit.files.items()):
        entry = {"rfilename": path}
        if request.query.get("blobs"):
            entry |= {"size": len(blob.content), "blobId": blob.git_oid}
            if blob.lfs:
                entry["lfs"] = {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
        siblings.append(entry)
    first = repository.history(revision)[-1]
    info = {
        "_id": hashlib.sha1(repository.name.encode()).hexdigest()[:24], "id": repository.name,
        "author": repository.name.split("/")[0], "sha": commit.oid, "lastModified": commit.date,
        "createdAt": first.date, "private": repository.private, "gated": False, "disabled": False, "downloads": 0,
        "likes": 0, "siblings": siblings, "usedStorage": sum(map(len, repository.objects.values())),
    }  # fmt: skip
    card = commit.files.get("README.md")
    data = loopback_cards.read_front_matter(card.content.decode()) if card else {}
    info |= {"cardData": data, "tags": list(data.get("tags") or [])}
    if repository.kind == "model":
        info |= {"modelId": repository.name, "pipeline_tag": data.get("pipeline_tag")}
        info |= {"library_name": data.get("library_name"), "model-index": data.get("model-index")}
    return answer_json(info)


def _entry(path: str, blob: Blob, commit: Commit, expand: bool) -> dict:
    entry = {"type": "file", "oid": blob.git_oid, "size": len(blob.content), "path": path}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
    if expand:
        entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
    return entry


def _folders(commit: Commit) -> dict[str, str]:
    """Every folder of a commit with a hash of what it holds."""
    folders = {}
    for path, blob in sorted(commit.files.items()):
        for end in (match.start() for match in re.finditer("/", path)):
            folders[path[:end]] = hashlib.sha1(f"{folders.get(path[:end])}{path}{blob.etag}".encode()).hexdigest()
    return folders


def list_tree(hub, request, repository, revision, folder="") -> Answer:
    commit, prefix = repository.resolve(revision), f"{folder}/" if folder else ""
    if folder and folder not in _folders(commit):
        raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    entries = [{"type": "directory", "oid": oid, "size": 0, "path": path} for path, oid in _folders(commit).items()]
    entries += [_entry(path, blob, commit, request.flag("expand")) for path, blob in commit.files.items()]
    inside = [entry for entry in entries if entry["path"].startswith(prefix)]
    if not request.flag("recursive"):
        inside = [entry for entry in inside if "/" not in entry["path"][len(prefix) :]]
    inside.sort(key=lambda entry: entry["path"])
    start = int(request.query.get("cursor", 0))
    page, headers = inside[start : start + hub.page_size], {}
    if start + hub.page_size < len(inside):
        kept = "&".join(f"{key}={value}" for key, value in request.query.items() if key != "cursor")
        headers["Link"] = f'<{hub.endpoint}{request.path}?{kept}&cursor={start + hub.page_size}>; rel="next"'
    return answer_json(page, **headers)


def list_paths(hub, request, repository, revision) -> Answer:
    form = request.json if request.is_json else parse_qs(request.body.decode())
    expand = form.get("expand") in (True, ["true"], ["True"])
    commit, paths = repository.resolve(revision), form.get("paths", [])
    folders, found = _folders(commit), []
    for path in [paths] if isinstance(paths, str) else paths:
        if path in commit.files:
            found.append(_entry(path, commit.files[path], commit, expand))
        elif path in folders:
            found.append({"type": "directory", "oid": folders[path], "size": 0, "path": path})
    return answer_json(found)


def list_commits(hub, request, repository, revision) -> Answer:
    return answer_json(
        [
            {"id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.date,
             "authors": [{"user": hub.user}]}
            for commit in repository.history(revision)
        ]
    )  # fmt: skip


def list_refs(hub, request, repository) -> Answer:
    def rows(names: dict, prefix: str):
        return [{"name": str(name), "ref": f"{prefix}{name}", "targetCommit": oid} for name, oid in names.items()]

    requests = rows(repository.pull_requests, "refs/pr/") if request.query.get("include_prs") else []
    branches, tags = rows(repository.branches, "refs/heads/"), rows(repository.tags, "refs/tags/")
    return answer_json({"branches": branches, "converts": [], "tags": tags, "pullRequests": requests})


def create_branch(hub, request, repository, branch) -> Answer:
    if branch in repository.branches:
        raise Refusal(409, f"Reference already exists: refs/heads/{branch}")
    repository.branches[branch] = repository.resolve(request.json.get("startingPoint") or "main").oid
    return answer_json({"success": True})


def delete_branch(hub, request, repository, branch) -> Answer:
    if branch == "main" or branch not in repository.branches:
        raise Refusal(403 if branch == "main" else 404, f"Cannot delete {branch}", "RevisionNotFound")
    del repository.branches[branch]
    return answer_json({"success": True})


def create_tag(hub, request, repository, revision) -> Answer:
    if request.json["tag"] in repository.tags:
        raise Refusal(409, f"Tag already exists: {request.json['tag']}")
    repository.tags[request.json["tag"]] = repository.resolve(revision).oid
    return answer_json({"success": True})


def merge(hub, request, repository, number) -> Answer:
    repository.branches["main"] = repository.resolve(f"refs/pr/{number}").oid
    return answer_json({"success": True})


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
            if size > hub.part_size and "multipart" in request.json["transfers"]:
                parts = range(1, -(-size // hub.part_size) + 1)
                header = {str(part): f"{base}/{part}?{hub.sign(oid)}" for part in parts}
                upload = {"href": f"{hub.endpoint}/api/complete_multipart{base[len(hub.storage) :]}?{hub.sign(oid)}"}
                upload["header"] = {"chunk_size": str(hub.part_size), **header}
            else:
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


def store_object(hub, request, kind, name, oid, size, part=None) -> Answer:
    _signed(hub, request, oid)
    repository = hub.repository(name, kind)
    if part is None:
        repository.add_object(oid, request.body, int(size))
    else:
        repository.parts[oid, int(part)] = request.body
    return Answer(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


def complete_multipart(hub, request, kind, name, oid, size) -> Answer:
    _signed(hub, request, oid)
    repository, content = hub.repository(name, kind), b""
    for part in request.json["parts"]:
        piece = repository.parts.get((oid, part["partNumber"]), b"")
        if part["etag"].strip('"') != hashlib.md5(piece).hexdigest():
            raise Refusal(400, f"InvalidPart: part {part['partNumber']} is missing or has another etag")
        content += piece
    repository.add_object(oid, content, int(size))
    return answer_json({"success": True})


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


def nothing(hub, request) -> Answer:
    return answer_json({})


# Name, method, path and handler. `{repo}` is looked up and its rights checked before the handler runs. The last word
# says who may ask: "write" needs the token, "read" needs it for private repositories, "open" never does.
_API = "/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
_WEB = "/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)"
_STORED = "/(?P<kind>model|dataset)/(?P<name>[^/]+)/(?P<oid>[0-9a-f]+)"
ROUTES = [
    ("whoami", "GET", "/api/whoami-v2", whoami, "write"),
    ("validate-yaml", "POST", "/api/validate-yaml", validate_yaml, "open"),
    ("create-repo", "POST", "/api/repos/create", create_repository, "write"),
    ("delete-repo", "DELETE", "/api/repos/delete", delete_repository, "write"),
    ("settings", "PUT", f"{_API}/settings", change_settings, "write"),
    ("preupload", "POST", f"{_API}/preupload/(?P<revision>[^/]+)", preupload, "write"),
    ("lfs-batch", "POST", rf"{_WEB}\.git/info/lfs/objects/batch", lfs_batch, "write"),
    ("lfs-verify", "POST", rf"{_WEB}\.git/info/lfs/objects/verify", verify_object, "write"),
    ("lfs-complete", "POST", rf"/api/complete_multipart{_STORED}/(?P<size>\d+)", complete_multipart, "open"),
    ("lfs-put", "PUT", rf"/storage{_STORED}/(?P<size>\d+)(?:/(?P<part>\d+))?", store_object, "open"),
    ("lfs-get", "GET", f"/storage{_STORED}", load_object, "open"),
    ("commit", "POST", f"{_API}/commit/(?P<revision>[^/]+)", commit, "write"),
    ("tree", "GET", f"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", list_tree, "read"),
    ("paths-info", "POST", f"{_API}/paths-info/(?P<revision>[^/]+)", list_paths, "read"),
    ("commits", "GET", f"{_API}/commits/(?P<revision>[^/]+)", list_commits, "read"),
    ("refs", "GET", f"{_API}/refs", list_refs, "read"),
    ("create-branch", "POST", f"{_API}/branch/(?P<branch>[^/]+)", create_branch, "write"),
    ("delete-branch", "DELETE", f"{_API}/branch/(?P<branch>[^/]+)", delete_branch, "write"),
    ("create-tag", "POST", f"{_API}/tag/(?P<revision>[^/]+)", create_tag, "write"),
    ("merge", "POST", rf"{_API}/discussions/(?P<number>\d+)/merge", merge, "write"),
    ("info", "GET", f"{_API}(?:/revision/(?P<revision>[^/]+))?", describe, "read"),
    ("resolve", "GET", f"{_WEB}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve, "read"),
]
# Asked once per process or day, whatever is pushed: answered, but neither counted nor made to fail.
NOISE = re.compile(r"/api/(agent-harnesses|telemetry/.*)")


def find_route(method: str, path: str):
    """The route of a request and the words its path holds; None and no words when there is none."""
    for route in ROUTES:
        match = re.fullmatch(route[2], path)
        if match and route[1] == ("GET" if method == "HEAD" else method):
            return route, {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
    return None, {}


def handle(hub, request) -> Answer:
    """The answer to a request, a refusal included."""
    try:
        if NOISE.fullmatch(request.path):
            return nothing(hub, request)
        route, words = find_route(request.method, request.path)
        if request.token is not None and request.token != hub.token and not request.path.startswith("/storage"):
            raise Refusal(401, "Invalid credentials in Authorization header")
        if route is None:
            hub.unknown.append(f"{request.method} {request.url}")
            raise Refusal(404, f"Sorry, we can't find the page you are looking for: {request.path}")
        _, _, _, handler, access = route
        closed = access == "write" or (access == "read" and hub.token_required)
        if closed and not request.token:
            raise Refusal(401, "Invalid username or password.")
        if "repo" in words:
            words["repository"] = hub.repository(words.pop("repo"), words.pop("kind", "model").strip("s/"))
            if words["repository"].private and not request.token:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        return handler(hub, request, **words)
    except Refusal as refusal:
        return answer_refusal(refusal)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return answer_refusal(Refusal(400, f"malformed request: {type(error).__name__}: {error}"))


def texts_of(body: bytes) -> itertools.chain:
    """The bodies a request carries in other clothes: the base64 of file contents and of the samples of files."""
    packed = re.findall(rb'"(?:content|sample)": ?"([A-Za-z0-9+/=]*)"', body)
    return itertools.chain([body], (base64.b64decode(piece) for piece in packed))
