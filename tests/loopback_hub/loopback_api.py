"""The requests that huggingface_hub, datasets and transformers send, answered from the loopback Hub's repositories."""

import hashlib
import re
from urllib.parse import parse_qs, unquote

import loopback_cards
import loopback_transfer as transfer
from loopback_requests import Answer, answer_json, answer_refusal
from loopback_store import Blob, Commit, Refusal, Repository

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
    if kind == "space" and not request.json.get("sdk"):
        raise Refusal(400, '"sdk" is required')
    repository.private = request.json.get("visibility") == "private" or bool(request.json.get("private"))
    hub.repositories[kind, repository.name] = repository
    return answer_json({"url": url, "name": repository.name, "id": repository.name})


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
    return answer_json(inside)


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
    branches = rows(repository.branches, "refs/heads/")
    return answer_json({"branches": branches, "converts": [], "tags": [], "pullRequests": requests})


def create_branch(hub, request, repository, branch) -> Answer:
    if branch in repository.branches:
        raise Refusal(409, f"Reference already exists: refs/heads/{branch}")
    repository.branches[branch] = repository.resolve(request.json.get("startingPoint") or "main").oid
    return answer_json({"success": True})


def nothing(hub, request) -> Answer:
    return answer_json({})


# Name, method, path and handler. `{repo}` is looked up and its rights checked before the handler runs. The last word
# says who may ask: "write" needs the token, "read" needs it for private repositories, "open" never does.
_API = "/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
_WEB = "/(?P<kind>datasets/|spaces/)?(?P<repo>[^/]+/[^/]+)"
_STORED = "/(?P<kind>model|dataset|space)/(?P<name>[^/]+)/(?P<oid>[0-9a-f]+)"
ROUTES = [
    ("whoami", "GET", "/api/whoami-v2", whoami, "write"),
    ("validate-yaml", "POST", "/api/validate-yaml", validate_yaml, "open"),
    ("create-repo", "POST", "/api/repos/create", create_repository, "write"),
    ("preupload", "POST", f"{_API}/preupload/(?P<revision>[^/]+)", transfer.preupload, "write"),
    ("lfs-batch", "POST", rf"{_WEB}\.git/info/lfs/objects/batch", transfer.lfs_batch, "write"),
    ("lfs-verify", "POST", rf"{_WEB}\.git/info/lfs/objects/verify", transfer.verify_object, "write"),
    ("lfs-put", "PUT", rf"/storage{_STORED}/(?P<size>\d+)", transfer.store_object, "open"),
    ("lfs-get", "GET", f"/storage{_STORED}", transfer.load_object, "open"),
    ("commit", "POST", f"{_API}/commit/(?P<revision>[^/]+)", transfer.commit, "write"),
    ("tree", "GET", f"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", list_tree, "read"),
    ("paths-info", "POST", f"{_API}/paths-info/(?P<revision>[^/]+)", list_paths, "read"),
    ("commits", "GET", f"{_API}/commits/(?P<revision>[^/]+)", list_commits, "read"),
    ("refs", "GET", f"{_API}/refs", list_refs, "read"),
    ("create-branch", "POST", f"{_API}/branch/(?P<branch>[^/]+)", create_branch, "write"),
    ("info", "GET", f"{_API}(?:/revision/(?P<revision>[^/]+))?", describe, "read"),
    ("resolve", "GET", f"{_WEB}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", transfer.resolve, "read"),
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
        if access == "write" and not request.token:
            raise Refusal(401, "Invalid username or password.")
        if "repo" in words:
            words["repository"] = hub.repository(words.pop("repo"), words.pop("kind", "model").rstrip("s/"))
            if words["repository"].private and not request.token:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        return handler(hub, request, **words)
    except Refusal as refusal:
        return answer_refusal(refusal)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return answer_refusal(Refusal(400, f"malformed request: {type(error).__name__}: {error}"))
