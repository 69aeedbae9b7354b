"""Repositories of the loopback Hub: content-addressed blobs, commits, branches and pull requests, in memory."""

import fnmatch
import functools
import hashlib
import itertools
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

# What huggingface.co writes into a new repository; the second list is added for data sets.
LFS_PATTERNS = """*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy
    *.npz *.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar
    *.tflite *.tgz *.wasm *.xz *.zip *.zst *tfevents*"""
DATASET_LFS_PATTERNS = """*.lz4 *.mds *.pcm *.sam *.raw *.aac *.flac *.mp3 *.ogg *.wav *.bmp *.gif *.png *.tiff *.jpg
    *.jpeg *.webp *.mp4 *.webm"""
REGULAR_LIMIT = 10 * 2**20  # bytes; anything larger must be an LFS file
INITIAL_MESSAGE = "initial commit"


class Refusal(Exception):
    """An answer other than success, in the form huggingface.co gives it: a status, an error code and a message."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **extra):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers, self.extra = headers or {}, extra


@functools.lru_cache(4096)
def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Blob:
    content: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return _hash(self.content)  # of each range of a file that is asked for

    @property
    def pointer(self) -> bytes:
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize %d\n" % (
            self.sha256.encode(),
            len(self.content),
        )

    @property
    def git_oid(self) -> str:
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    files: dict[str, Blob]
    title: str
    message: str
    date: str


@dataclass
class Repository:
    kind: str  # "model", "dataset" or "space"
    name: str  # "user/name"
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[int, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS objects by sha256, committed or not

    def __post_init__(self):
        patterns = LFS_PATTERNS.split() + (DATASET_LFS_PATTERNS.split() if self.kind == "dataset" else [])
        text = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns)
        self.initial_attributes = Blob(text.encode())
        first = self._commit(None, {".gitattributes": self.initial_attributes}, INITIAL_MESSAGE, "")
        self.branches["main"] = first.oid

    @property
    def url_path(self) -> str:
        return self.name if self.kind == "model" else f"{self.kind}s/{self.name}"

    def _commit(self, parent: str | None, files: dict[str, Blob], title: str, message: str) -> Commit:
        listing = "".join(f"{path}\0{blob.etag}\n" for path, blob in sorted(files.items()))
        seed = f"{self.kind}/{self.name}\n{len(self.commits)}\n{parent}\n{title}\n{message}\n{listing}"
        date = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), parent, dict(files), title, message, date)
        self.commits[commit.oid] = commit
        return commit

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, `refs/pr/N`, or a commit's own hash names."""
        oid = self.branches.get(revision) or self.branches.get(revision[len("refs/heads/") :])
        if match := re.fullmatch(r"refs/pr/(\d+)", revision):
            oid = self.pull_requests.get(int(match[1]))
        if oid is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            oid = next((known for known in self.commits if known.startswith(revision)), None)
        if oid is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str) -> list[Commit]:
        """The commits from `revision` back to the first."""
        commit, commits = self.resolve(revision), []
        while commit:
            commits.append(commit)
            commit = self.commits.get(commit.parent)
        return commits

    def is_lfs(self, path: str, size: int, sample: bytes, revision: str) -> bool:
        """Whether a file goes to LFS: by .gitattributes, by size, or because its first bytes are not text."""
        files = self.resolve(revision).files
        attributes = files[".gitattributes"].content.decode() if ".gitattributes" in files else ""
        for line in attributes.splitlines():
            pattern, *words = line.split() or [""]
            name = path if "/" in pattern else path.rsplit("/", 1)[-1]
            if "filter=lfs" in words and fnmatch.fnmatchcase(name, pattern.replace("**/", "*")):
                return True
        return size > REGULAR_LIMIT or b"\0" in sample

    def add_object(self, oid: str, content: bytes, size: int) -> None:
        """Stores an uploaded LFS object after comparing it with what the upload was announced as."""
        if len(content) != size:
            raise Refusal(400, f"EntityTooSmall: {len(content)} bytes were uploaded, {size} announced")
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refusal(400, "BadDigest: the sha256 you specified did not match what we received")
        self.objects[oid] = content

    def apply(
        self, revision: str, header: dict, changes: list[tuple[str, dict]], create_pr: bool
    ) -> tuple[Commit, int]:
        """Makes a commit on a branch or pull request, or opens a pull request: the commit and the request's number."""
        base, parent = self.resolve(revision), header.get("parentCommit")
        if create_pr and parent:
            base = self.resolve(parent)
        elif parent and not base.oid.startswith(parent):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(base.files)
        for key, value in changes:
            path = checked_path(value["path"])
            if key == "blob":
                blob = Blob(value["content"])
                if blob.content and self.is_lfs(path, len(blob.content), blob.content[:512], base.oid):
                    raise Refusal(400, f"{path} must be an LFS file, but its content came inside the commit")
                self._place(files, path, blob)
            elif key == "lfsFile":
                if value.get("algo") != "sha256" or value["oid"] not in self.objects:
                    raise Refusal(400, f"{path}: LFS object {value['oid']} was not uploaded")
                blob = Blob(self.objects[value["oid"]], lfs=True)
                if value.get("size") not in (None, len(blob.content)):
                    raise Refusal(400, f"{path}: pointer says {value['size']} bytes, object has {len(blob.content)}")
                self._place(files, path, blob)
            elif key == "deletedFile":
                if files.pop(path, None) is None:
                    raise Refusal(404, f"{path}: A file with this name doesn't exist", "EntryNotFound")
            elif key == "deletedFolder":
                inside = [known for known in files if known.startswith(path.rstrip("/") + "/")]
                if not inside:
                    raise Refusal(404, f"{path}: A folder with this name doesn't exist", "EntryNotFound")
                for known in inside:
                    del files[known]
            else:
                raise Refusal(400, f"unknown commit operation {key!r}")
        return self._advance(revision, base, files, header, create_pr)

    @staticmethod
    def _place(files: dict[str, Blob], path: str, blob: Blob) -> None:
        if any(known.startswith(path + "/") or path.startswith(known + "/") for known in files):
            raise Refusal(400, f"{path}: a file and a folder cannot have the same name")
        files[path] = blob

    def _advance(self, revision, base, files, header, create_pr) -> tuple[Commit, int]:
        pull_request = re.fullmatch(r"refs/pr/(\d+)", revision)
        if not create_pr and not pull_request and revision not in self.branches:
            raise Refusal(400, f"{revision} is not a branch: commits go to branches and pull requests only")
        commit = self._commit(base.oid, files, header["summary"], header.get("description") or "")
        if create_pr:
            number = next(n for n in itertools.count(1) if n not in self.pull_requests)
            self.pull_requests[number] = commit.oid
            return commit, number
        if pull_request:
            self.pull_requests[int(pull_request[1])] = commit.oid
            return commit, int(pull_request[1])
        self.branches[revision] = commit.oid
        return commit, 0


def checked_path(path: str) -> str:
    """A path inside the repository, refused when it could leave it or when git could not hold it."""
    parts = path.rstrip("/").split("/")
    if not path or any(part in ("", ".", "..", ".git") for part in parts) or "\\" in path or "\0" in path:
        raise Refusal(400, f"Invalid path in commit: {path!r}")
    if any(len(part.encode()) > 255 for part in parts) or len(path.encode()) > 1024:
        raise Refusal(400, f"Path too long in commit: {path[:60]!r}...")
    return path
