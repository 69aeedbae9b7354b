"""What of a run's folder goes into its repository: an allow-list, without secrets and paths of this machine."""

import json
import logging
import mmap
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from hf_urbanseg.errors import DataError, ModelError
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.hub.cleaning.files import clean_file, read_header, read_options, unreadable
from hf_urbanseg.hub.cleaning.local_paths import PATH_OPTIONS, is_absolute, list_local_folders
from hf_urbanseg.hub.cleaning.secret_scan import LOOKS_LIKE_ONE, collect_secrets, find_secret

logger = logging.getLogger(__name__)

Files = dict[str, Path | bytes]
"""Path in the repository -> the file, or its content where it differs from the file."""

# `*` is anything without a slash; names that begin with a dot never match.
_MODEL = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "config.json")
_MODEL += ("preprocessor_config.json",)
_INPUTS = (
    "recipe.yaml",
    "training_arguments.json",
    "splits.yaml",
    "label_space.json",
    "class_weights.json",
    "class_distribution.png",
)
_RESULTS = (
    "README.md", "metrics.json", "log_history.json", "training_curves.png", "report.html",
    "per_class_*.md", "per_class_*.csv", "per_class_*.png", "per_image_*.json", "overlays/*.png", "overlays/*.jpg",
    "failures/*.png", "failures/*.jpg", "failures/*.md", "failures/*.json", "failures/*.html",
)  # fmt: skip
# Of them, those made from the data's images, which have a licence of their own.
_PICTURES = ("report.html", "overlays/*.png", "overlays/*.jpg", "failures/*.png", "failures/*.jpg", "failures/*.html")
# TensorBoard's
_EVENTS = ("runs/events.out.tfevents.*", "runs/*/events.out.tfevents.*")


def is_ours(path: str) -> bool:
    """Whether a later push of a run may remove this path of a repository: whether an earlier one could have written it.

    Event files stay: they are of earlier runs, or were put there by others' tools.
    """
    return _matches(path, (*_MODEL, *_INPUTS, *_RESULTS))


def collect_repository(
    run: str | Path, tensorboard: bool = False, token: str | None = None, pictures: bool | None = None
) -> Files:
    """The files of a finished run's repository.

    Everything comes from an allow-list (`is_ours`), so checkpoints, optimizer states, `training_args.bin`, `.env`,
    push.json and whatever else lies in the folder stay. In texts the paths of this machine are cut to their last
    name; a link that leads out of the folder is left out.

    Args:
        run: Folder written by finetune.
        tensorboard: Also TensorBoard's event files, without host names and without the records that hold paths.
        token: A secret to look for, beside those the machine knows.
        pictures: Also what shows images of the data: overlays, failures, the report. Default: unless the data's terms
            are known to forbid it.

    Raises:
        ModelError: No model, or no metrics.json.
        DataError: A file holds a secret, or can't be read.
    """
    run = Path(run)
    found = _find(run, (*_MODEL, *_INPUTS, *_RESULTS))
    _check_complete(run, found)
    shown = [name for name in found if _matches(name, _PICTURES)]
    if shown and not (summary := RunSummary.read(run)).shows_pictures(pictures):
        if pictures is None:
            logger.warning(
                "left out: %d files that show images of %s, whose licence forbids to publish them",
                len(shown), summary.data_title,
            )  # fmt: skip
        found = {name: path for name, path in found.items() if name not in shown}
    return _prepare(run, found | (_find_events(run) if tensorboard else {}), token)


def collect_card(run: str | Path, token: str | None = None) -> Files:
    """The card alone, for one that was written after everything else had been collected.

    Args, Raises: As for `collect_repository`.
    """
    return _prepare(Path(run), _find(Path(run), ("README.md",)), token)


def collect_checkpoint(
    run: str | Path, checkpoint: str | Path, tensorboard: bool = False, token: str | None = None
) -> Files:
    """The files of a repository in the middle of training: the checkpoint's model, and what went into the run.

    Args, Raises: As for `collect_repository`.
    """
    run, checkpoint = Path(run), Path(checkpoint)
    found = _find(checkpoint, _MODEL)
    _check_model(checkpoint, found)
    return _prepare(run, _find(run, _INPUTS) | found | (_find_events(run) if tensorboard else {}), token)


def check_files(files: Mapping[str, Path | bytes], secrets: Iterable[str]) -> None:
    """Refuse files of which one holds a secret, in its name or content.

    Args:
        files: Path in the repository -> file or content.
        secrets: From `collect_secrets`.

    Raises:
        DataError: Names the file and where the secret is known from, and not the secret.
    """
    for path, content in files.items():
        if found := find_secret(path.encode("utf-8", "surrogateescape"), secrets):
            raise DataError("file names without secrets", found, "rename the file", "a file")
        with _open_readable_part(path, content) as text:
            found = find_secret(text, secrets)
        if found:
            fix = "remove it from the file (and revoke it, if others have seen the file), then push again"
            if found != LOOKS_LIKE_ONE:
                fix += "; if it is no secret, take it away from there for the push"
            raise DataError("files without secrets", found, fix, path)


@contextmanager
def _open_readable_part(path: str, content: Path | bytes) -> Iterator[bytes | mmap.mmap]:
    """A file's bytes, not all in memory at a time; of safetensors the header, which is all that can hold text."""
    if isinstance(content, bytes):
        yield content
        return
    try:
        with content.open("rb") as file:
            if path.endswith(".safetensors"):
                yield read_header(file)
            elif os.fstat(file.fileno()).st_size == 0:
                yield b""
            else:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    yield mapped
    except (OSError, struct.error) as error:
        raise unreadable(content, error) from error


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    if any(part.startswith(".") for part in path.split("/")):
        return False
    return any(re.fullmatch(re.escape(one).replace(r"\*", "[^/]*"), path) for one in patterns)


def _find(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    """Plain files of these names: no folders, pipes or sockets, and no link that leads to anything else."""
    found = {}
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder).as_posix()
            if not _matches(name, (pattern,)) or not path.is_file():
                continue
            if not name.isprintable() or "\\" in name:
                logger.warning("left out: %s in %s, a name that not every system can hold", ascii(name), folder)
                continue
            # A link must not bring in what its own name would keep out.
            root, target = folder.resolve(), path.resolve()
            if target.is_relative_to(root) and _matches(target.relative_to(root).as_posix(), patterns):
                found[name] = path
            else:
                logger.warning("left out: %s in %s is a link to something that is not pushed", name, folder)
    return found


def _find_events(run: Path) -> dict[str, Path]:
    """TensorBoard's files under names without the host's: TensorBoard itself puts it into folder and file."""
    found = {}
    for name, path in _find(run, _EVENTS).items():
        *_, folder, file = PurePosixPath("runs", name).parts
        started = re.match(r"[A-Z][a-z]{2}\d{2}_\d{2}-\d{2}-\d{2}(?=_)", folder)
        number = re.search(r"tfevents\.(\d+)", file)
        target = "" if folder == "runs" else f"{started[0] if started else folder}/"
        stem = f"runs/{target}events.out.tfevents.{number[1] if number else 0}"
        same = sum(known.startswith(stem) for known in found)
        found[f"{stem}.{same}"] = path
    return found


def _check_complete(run: Path, found: Mapping) -> None:
    if not run.is_dir():
        raise ModelError("the folder of a run", "none", "correct the path", run)
    _check_model(run, found)
    if "metrics.json" not in found:
        fix = "let scripts/finetune.py finish (`--resume`), or measure it: scripts/evaluate.py --model RUN --output RUN"
        raise ModelError("a measured model with metrics.json", "none", fix, run)


def _check_model(folder: Path, found: Mapping[str, Path]) -> None:
    missing = [name for name in ("config.json", "preprocessor_config.json") if name not in found]
    if index := found.get("model.safetensors.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelError("an index of weight files", f"{type(error).__name__}", "save it again", index) from error
        missing += sorted(shards - set(found))
    elif "model.safetensors" not in found:
        missing.insert(0, "model.safetensors")
    if links := [name for name in missing if (folder / name).is_symlink()]:
        found = f"{', '.join(links)} as a link to something that is not pushed"
        raise ModelError("a trained model", found, "put the file itself in its place", folder)
    if missing:
        raise ModelError(
            "a trained model", f"no {', '.join(missing)}", "let scripts/finetune.py finish (`--resume`)", folder
        )


def _prepare(run: Path, found: Mapping[str, Path], token: str | None) -> Files:
    options = read_options(found["recipe.yaml"]) if "recipe.yaml" in found else {}
    folders = list_local_folders(run, options)
    files: Files = {}
    for name, path in sorted(found.items()):
        try:
            content = clean_file(name, path, folders)
        except OSError as error:
            raise unreadable(path, error) from error
        if content is not None:
            files[name] = content
    data = [Path(value) for key in PATH_OPTIONS if is_absolute(value := options.get(key))]
    check_files(files, collect_secrets({run, Path.cwd(), *data}, token))
    return files
