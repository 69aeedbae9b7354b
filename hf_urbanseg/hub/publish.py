"""Makes a repository on the Hub equal to a set of files, in one commit."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from hf_urbanseg.errors import ConfigError, HubError, UrbanSegError
from hf_urbanseg.hub.client import clean_token, describe_failure, ensure_bounds
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.hub.repository import Files, is_ours
from hf_urbanseg.hub.secrets import check_files, collect_secrets, find_secret


@dataclass(frozen=True)
class PublishResult:
    """Where a push went: the page, the commit that holds the files, and the paths that it changed (maybe none)."""

    url: str
    commit: str
    added: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()


def publish(
    files: Files,
    repo_id: str,
    *,
    kind: str = "model",
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Upload a trained model",
    beside: str | Path | None = None,
    replaces: Callable[[str], bool] = is_ours,
    threads: int = 5,
) -> PublishResult:
    """Makes the repository's files equal to `files`, in one commit; the repository and the branch are made if missing.

    What is there and differs is replaced. What is there and missing in `files` is removed if a push like this one
    could have written it (`replaces`); what others added stays. If nothing differs there is no commit, so a push
    whose answer was lost can simply be made again. Nothing is sent if a file holds a secret.

    Args:
        files: Path in the repository -> file or content.
        token: Default: HF_TOKEN, or what `hf auth login` saved.
        private: True makes a new repository private, and refuses to push into a public one. None: the Hub's default.
        revision: Branch (or `refs/pr/3`) that gets the commit; default main.
        create_pr: Open a pull request instead of changing main; one that already proposes these files is found.
        beside: Folder the files come from: `.env` there, above it and in the working folder name secrets.
        replaces: Whether a path may be removed.
        threads: Large files uploaded at a time. 1 uploads them in the calling thread.

    Raises:
        HubError: The Hub is away or refuses.
        DataError: A file holds a secret.
        ConfigError: Options that contradict each other.
    """
    check_target(repo_id, revision, create_pr)
    if not files:
        raise ConfigError("files to push", "none", "name a folder that holds some")
    token, folders = clean_token(token), {Path.cwd()}
    if beside is not None:
        folders |= {Path(beside).absolute(), Path(beside).absolute().parent}
    secrets = collect_secrets(folders, token)
    if find_secret(f"{repo_id} {revision} {message}".encode(), secrets):
        raise ConfigError("names and a message without secrets", "something like a token", "leave it out")
    check_files(files, secrets)
    with _told_as_hub_errors(repo_id, token):
        target = _Target(repo_id, kind, revision, token)
        target.prepare(private)
        return target.push(files, create_pr, message, replaces, threads)


def publish_owed(files: Files, ledger: PushLedger, what: str, message: str, **options) -> PublishResult:
    """`publish` to where the ledger says, which then notes that `what` has arrived."""
    result = publish(
        files, ledger.repo_id, private=ledger.private, revision=ledger.revision, create_pr=ledger.create_pr,
        message=message, beside=ledger.run, **options,
    )  # fmt: skip
    ledger.settle(what, result.commit, result.url)
    return result


def check_target(repo_id: str, revision: str | None = None, create_pr: bool = False) -> None:
    """Checks the words that name a target, without asking the Hub; impossible ones are a ConfigError."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError("a repository as user/name", f"`{repo_id}`", "correct it") from error
    if repo_id.count("/") != 1:
        raise ConfigError("a repository as user/name", f"`{repo_id}`", "put your user name or organisation in front")
    if create_pr and revision not in (None, "main"):
        raise ConfigError("either `create_pr` or `revision`", "both", "drop one: a pull request goes to main")


def check_access(
    repo_id: str, token: str | None = None, private: bool | None = None, revision: str | None = None
) -> None:
    """Makes a model's repository, and so finds out before the first push whether one could work: else a HubError."""
    with _told_as_hub_errors(repo_id, token):
        target = _Target(repo_id, "model", revision, token)
        target.check_token()
        target.prepare(private)


@contextlib.contextmanager
def _told_as_hub_errors(repo_id: str, token: str | None) -> Iterator[None]:
    try:
        yield
    except UrbanSegError:
        raise
    except Exception as error:  # whatever the network or the library comes up with
        raise HubError(f"the Hub to take a push to {repo_id}", *describe_failure(error, token)) from error


class _Target:
    """A branch of a repository on the Hub."""

    def __init__(self, repo_id: str, kind: str, revision: str | None, token: str | None):
        ensure_bounds()
        self.api = HfApi(token=token)
        self.repo = {"repo_id": repo_id, "repo_type": kind}
        self.revision = revision or "main"
        self.page = f"{constants.ENDPOINT}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"

    def check_token(self) -> None:
        """Asks who the token belongs to; making a repository alone doesn't tell, where it exists already."""
        role = (self.api.whoami().get("auth") or {}).get("accessToken", {}).get("role")
        if role == "read":
            found, fix = "a token that can only read", "make one with write permission, huggingface.co/settings/tokens"
            raise HubError(f"the Hub to take a push to {self.repo['repo_id']}", found, fix)

    def prepare(self, private: bool | None) -> None:
        """Makes the repository and the branch where they are missing."""
        sdk = "gradio" if self.repo["repo_type"] == "space" else None
        self.api.create_repo(**self.repo, private=private, exist_ok=True, space_sdk=sdk)
        if private and not self.api.repo_info(**self.repo).private:
            fix = "make it private in its settings, or push without `--private`"
            raise HubError(f"a private repository {self.repo['repo_id']}", "a public one", fix)
        if self.revision != "main" and not self.revision.startswith("refs/"):
            self.api.create_branch(**self.repo, branch=self.revision, exist_ok=True)

    def push(self, files, create_pr: bool, message: str, replaces, threads: int) -> PublishResult:
        head, added, deleted = self.compare(files, self.revision, replaces)
        if not added and not deleted:
            return self.result(head)
        if create_pr and (known := self.find_pull_request(files, replaces)):
            return known
        operations = [CommitOperationAdd(path, files[path]) for path in added]
        if threads == 1:
            # One by one, which starts no threads: those of a pool would keep the interpreter from exiting.
            if "README.md" in added:  # `create_commit` does it first of all; here it would come after the uploads
                card = files["README.md"]
                text = (card if isinstance(card, bytes) else card.read_bytes()).decode("utf-8")
                self.api._validate_yaml(text, repo_type=self.repo["repo_type"])
            for operation in filter(_is_large, operations):
                self.api.preupload_lfs_files(
                    additions=[operation], **self.repo, revision=self.revision, create_pr=create_pr, free_memory=False
                )
        operations += [CommitOperationDelete(path, is_folder=False) for path in deleted]
        done = self.api.create_commit(
            **self.repo, operations=operations, commit_message=message, revision=self.revision,
            parent_commit=head, create_pr=create_pr, num_threads=threads,
        )  # fmt: skip
        number = int(done.pr_num) if create_pr else None
        return self.result(done.oid, added, deleted, number)

    def compare(self, files, revision: str, replaces) -> tuple[str, list[str], list[str]]:
        """The commit a revision stands at, the paths that differ there, and those that must go."""
        head = self.api.repo_info(**self.repo, revision=revision).sha
        entries = self.api.list_repo_tree(**self.repo, revision=head, recursive=True)
        there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        added = [path for path, content in sorted(files.items()) if not _is_same(there.get(path), content)]
        return head, added, sorted(path for path in there.keys() - files.keys() if replaces(path))

    def find_pull_request(self, files, replaces) -> PublishResult | None:
        """The newest pull request that holds the same files: a push whose answer was lost, or one made twice."""
        refs = self.api.list_repo_refs(**self.repo, include_pull_requests=True)
        numbers = [int(ref.ref.rsplit("/", 1)[-1]) for ref in refs.pull_requests or []]
        for number in sorted(numbers, reverse=True)[:20]:
            head, added, deleted = self.compare(files, f"refs/pr/{number}", replaces)
            if not added and not deleted:
                return self.result(head, pull_request=number)
        return None

    def result(self, commit: str, added=(), deleted=(), pull_request: int | None = None) -> PublishResult:
        url = self.page
        if self.revision.startswith("refs/pr/"):
            pull_request = int(self.revision.rsplit("/", 1)[-1])
        if pull_request is not None:
            url += f"/discussions/{pull_request}"
        elif self.revision != "main":
            url += f"/tree/{self.revision}"
        return PublishResult(url, commit, tuple(added), tuple(deleted))


def _is_large(operation: CommitOperationAdd) -> bool:
    """Whether the Hub may want a file by itself: it does for binary and for large ones; the rest goes in the commit."""
    suffix = Path(operation.path_in_repo).suffix
    return suffix not in (".json", ".yaml", ".md", ".csv", ".html", ".txt") or operation.upload_info.size > 2**22


def _is_same(entry: RepoFile | None, content: Path | bytes) -> bool:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if entry is None or entry.size != size:
        return False
    operation = CommitOperationAdd(entry.path, content)
    if entry.lfs is not None:
        return operation.upload_info.sha256.hex() == entry.lfs.sha256
    with operation.as_file() as file:
        return git_hash(file.read()) == entry.blob_id
