"""What a run becomes as a Space of the Hub: the page of `urbanseg demo`, with the model and the package beside it."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from huggingface_hub import SpaceCardData
from packaging.requirements import Requirement

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.hub.cards.front_matter import slugify
from hf_urbanseg.hub.cards.markdown import render_markdown
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.hub.publish import PublishResult, publish
from hf_urbanseg.hub.repository import Files, collect_repository, is_model
from hf_urbanseg.runs.folder import CARD, LABEL_SPACE

GRADIO = "6.31.0"
"""The version that a Space runs: the one that the page was tested with."""
_SOURCES = (".py", ".yaml")
_APP = '''"""What `urbanseg demo` shows of the model in `model`; pictures in a folder `examples` are offered."""

from pathlib import Path

from hf_urbanseg.demo.page import build_demo, start_demo
from hf_urbanseg.inference.predictor import Predictor

here = Path(__file__).parent
demo = build_demo({{{name!r}: Predictor.from_pretrained(here / "model")}}, sorted(here.glob("examples/[!.]*")))
start_demo(demo)
demo.block_thread()
'''


def collect_space(run: str | Path, ledger: PushLedger, name: str) -> Files:
    """The files of a Space that runs by itself: it fetches neither the model nor hf_urbanseg from anywhere.

    Args:
        ledger: Its repository, if the run was pushed to one, is linked.
        name: Of the Space; the page's name for the model.
    """
    files = collect_repository(run, pictures=False)
    package = Path(__file__).parents[1]
    sources = (path for path in sorted(package.rglob("*")) if path.suffix in _SOURCES and path.is_file())
    return {
        "app.py": _APP.format(name=slugify(name)).encode(),
        "requirements.txt": _list_requirements().encode(),
        CARD: _build_card(RunSummary.read(run), ledger, name).encode(),
        **{f"model/{path}": content for path, content in files.items() if path == LABEL_SPACE or is_model(path)},
        **{f"{package.name}/{path.relative_to(package).as_posix()}": path for path in sources},
    }


def publish_space(
    run: Path,
    repo_id: str,
    ledger: PushLedger,
    show: Callable[[Files], None],
    private: bool | None = None,
    dry_run: bool = False,
    message: str | None = None,
) -> PublishResult | None:
    """Pushes what `collect_space` gives, after `show` has seen it; a dry run stops there. Private as the run's is."""
    files = collect_space(run, ledger, repo_id.rpartition("/")[2])
    show(files)
    if dry_run:
        return None
    private = ledger.private if private is None else private
    message = message or "Upload a demo"
    return publish(files, repo_id, kind="space", private=private, message=message, beside=run, replaces=is_ours)


def is_ours(path: str) -> bool:
    """Whether a later push may remove this path of a Space; what others put beside it stays."""
    room, _, rest = path.partition("/")
    match room:
        case "model":
            return rest == LABEL_SPACE or is_model(rest)
        case "hf_urbanseg":
            return rest.endswith(_SOURCES)
    return path in ("app.py", "requirements.txt", CARD)


def _list_requirements() -> str:
    try:
        found = [Requirement(line) for line in requires("hf_urbanseg") or ()]
    except PackageNotFoundError as error:
        raise ConfigError("hf_urbanseg as pip installs it", "its code alone", "`pip install -e .` first") from error
    needed = [one for one in found if one.marker is None or one.marker.evaluate({"extra": "video"})]
    lines = [
        "# For a Space with a GPU, take the next line out",
        "--extra-index-url https://download.pytorch.org/whl/cpu",
    ]
    return "\n".join([*lines, *(f"{one.name}{one.specifier}" for one in needed)]) + "\n"


def _build_card(run: RunSummary, ledger: PushLedger, name: str) -> str:
    licence, pushed = run.licence, ledger.repo_id if ledger.success else None
    front = SpaceCardData(
        title=slugify(name), sdk="gradio", sdk_version=GRADIO, python_version="3.12", app_file="app.py",
        license=licence.id, license_name=licence.name, license_link=licence.link,
        models=[pushed] if pushed else None, tags=[run.architecture, "semantic-segmentation", "hf_urbanseg"],
    )  # fmt: skip
    split = next(iter(run.splits), None)
    body = render_markdown("space_card.md.j2", run=run, split=split, title=slugify(name), repo_id=pushed)
    yaml = front.to_yaml(line_break="\n").rstrip()
    return f"---\n{yaml}\n---\n\n{body.strip()}\n"
