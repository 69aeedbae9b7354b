"""README, CONTRIBUTING and docs do what they say: every command and every piece of Python runs, every name exists."""

import configparser
import contextlib
import importlib
import inspect
import os
import re
import shutil
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from benchmark_options import parse_benchmark
from miniature import RUN, build_miniature
from packaging.requirements import Requirement
from pages import PAGES, ROOT, Command, read_anchors, read_blocks, read_commands, read_links, read_prose
from PIL import Image

import hf_urbanseg
from hf_urbanseg import finetuning
from hf_urbanseg.__main__ import NAMES
from hf_urbanseg.__main__ import main as urbanseg
from hf_urbanseg.commands import demo, finetune
from hf_urbanseg.data.sources import synthetic
from hf_urbanseg.data.synthetic import build_synthetic_splits
from hf_urbanseg.inference import profile
from hf_urbanseg.inference.latency import measure_latency
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.models.loading import is_built_in
from hf_urbanseg.options import config
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments, resolve_recipe
from hf_urbanseg.reports.figures import OURS
from hf_urbanseg.reproduction import checks, running, table1
from hf_urbanseg.training import network

# A command that stands on two pages runs once.
COMMANDS = list({(one.words, one.environment): one for page in reversed(PAGES) for one in read_commands(page)}.values())
PYTHON = [(page, line, code) for page in PAGES for line, code in read_blocks(page, "python")]
ON_THE_HUB = re.compile(
    r"nvidia/(mit-b[0-5]|segformer-b[0-5]-finetuned-cityscapes-(768-768|1024-1024))"
    r"|microsoft/(resnet-(18|50|101)|swin-tiny-patch4-window7-224)"
)
WRITTEN = {"runs", "prepared", "converted"}
"""What of the miniature commands write into; the rest they only read."""
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def capped(quick_runs):
    """Trainings of a step on a tiny model, the Hub's checkpoints without a network, timings of a moment."""
    with pytest.MonkeyPatch.context() as patch:
        cap(patch)
        yield patch


def cap(patch: pytest.MonkeyPatch) -> None:
    run, load, measure = finetuning.run_finetuning, network.load_pretrained_model, profile.measure_costs

    def run_capped(arguments):
        args = arguments.training
        args.max_steps = args.eval_steps = args.save_steps = args.logging_steps = 1
        args.accept_changes = args.resume  # the miniature's run was started with other options
        args.per_device_train_batch_size, args.warmup_steps, args.dataloader_num_workers = 2, 0, 0
        args.dataloader_persistent_workers, args.cpu_threads, args.overwrite = False, 1, not args.resume
        arguments.augmentation.crop_size, arguments.model.eval_size = [64, 64], [32, 96]
        arguments.model.size, arguments.run.num_overlays = "tiny", min(arguments.run.num_overlays, 1)
        return run(arguments)

    def load_tiny(name, space, revision=None, architecture="segformer", new_classifier=False, **options):
        if Path(name).is_dir() or is_built_in(name):
            return load(name, space, revision, architecture, new_classifier, **options)
        assert ON_THE_HUB.fullmatch(name), f"{name}: not a checkpoint that the pages may name"
        return build_random_model("tiny", space, architecture, **options)

    def measure_briefly(config, image_size, *args, **limits):
        return measure(config, (32, 64), *args, **limits | {"repeats": 1, "warmup": 1, "seconds": 0.1})

    def time_briefly(model, image_size, **limits):
        return measure_latency(model, (32, 64), repeats=1, warmup=1)

    def find_in_cache(name, *rest, **options):
        return name if ON_THE_HUB.fullmatch(name) else cached(name, *rest, **options)

    cached = checks.try_to_load_from_cache
    patch.setattr(finetuning, "run_finetuning", run_capped)
    patch.setattr(network, "load_pretrained_model", load_tiny)
    patch.setattr(profile, "measure_costs", measure_briefly)
    patch.setattr(table1, "measure_latency", time_briefly)
    patch.setattr(profile, "measure_peak_memory", lambda *_: None)  # as where it can't be measured; takes a process
    patch.setattr(checks, "try_to_load_from_cache", find_in_cache)
    patch.setattr(synthetic, "build_synthetic_splits", partial(build_synthetic_splits, 6, 2, 2, (48, 96)))
    patch.setattr(running, "start_finetune", copy_finished_run)
    patch.setattr(demo, "serve", lambda *_: None)  # until Ctrl-C
    run_all = running.run_all
    patch.setattr(running, "run_all", lambda *runs: run_all(*runs[:-1], report=str))  # reported once, at the end


def copy_finished_run(launcher, words, log, what) -> int:
    """In place of the processes of `reproduce`: reads their command line, and leaves a run that has ended."""
    if launcher:
        script, argv = parse_launch([*launcher, "-m", "hf_urbanseg", "finetune", *words])
        assert (script, argv[0]) == ("hf_urbanseg", "finetune")
    arguments = finetuning.parse_finetuning(words)
    output = Path(arguments.training.output_dir)
    shutil.copytree(RUN, output, ignore=shutil.ignore_patterns("checkpoint-*"))
    (output / "recipe.yaml").write_text(yaml.safe_dump(resolve_recipe(*arguments)))
    return 0


@pytest.fixture(scope="module")
def miniature(capped, tmp_path_factory):
    root = tmp_path_factory.mktemp("miniature")
    capped.setenv("HF_URBANSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
    with contextlib.chdir(root):
        build_miniature(root)
    return root


@pytest.fixture
def reader(miniature, tmp_path, monkeypatch):
    """A reader's working folder: the miniature's names, which a command may write over and into."""
    folder = tmp_path / "reader"
    folder.mkdir()
    for path in miniature.iterdir():
        if path.name in WRITTEN:
            shutil.copytree(path, folder / path.name, copy_function=copy_or_link)
        else:
            (folder / path.name).symlink_to(path)
    for name in ("scripts", "accelerate_config.yaml"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    return folder


def copy_or_link(source: str, target: str) -> None:
    """Checkpoints are large, and replaced as a whole or not at all."""
    if "checkpoint-" in source:
        os.symlink(source, target)
    else:
        shutil.copy(source, target)


@pytest.fixture
def you(request, reader):
    """A Hub on which `you` has a model and a data set, or nothing yet."""

    def prepare(pushed: bool) -> None:
        request.getfixturevalue("hub").user = "you"
        request.getfixturevalue("hub_here")
        if pushed:
            urbanseg(["publish", RUN, "you/segformer-b2-kitti"])
            urbanseg(["publish", "prepared/kitti", "you/kitti"])
            for name in ("runs", "prepared"):
                shutil.rmtree(name)

    return prepare


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command__runs_as_written(command, reader, you, monkeypatch, capsys, request):
    for name, value in command.environment:
        if value != "...":  # to be filled in by the reader
            monkeypatch.setenv(name, value)
    if named := [word for word in command.words if word.startswith("you/")]:
        pushes = {"publish", "--push_to_hub"} & set(command.words)
        you(pushed=not pushes)
        assert set(named) <= {"you/segformer-b2-kitti", "you/kitti", "you/street-demo"}
    try:
        run(command, request.config)
    except SystemExit as end:
        if end.code:
            pytest.fail(f"{command}: exit status {end.code}, {capsys.readouterr().err[-500:]}")


def run(command: Command, pytest_config) -> None:
    """As the shell would, but in this process; what needs more than a test's seconds is parsed by its own parser."""
    match list(command.words):
        case ["urbanseg", *argv]:
            if argv[0] in ("prepare-data", "convert-checkpoint", "teach"):  # others start from what it makes
                shutil.rmtree(argv[argv.index("--output") + 1], ignore_errors=True)
            urbanseg(argv)
        case ["accelerate", "launch", *argv]:
            script, argv = parse_launch(["accelerate", "launch", *argv])
            {"scripts/finetune.py": finetune.main, "hf_urbanseg": urbanseg}[script](argv)
        case ["python", script, *argv] if script.startswith("benchmarks/"):
            parse_benchmark(ROOT / script, argv)
        case ["pip", "install", *argv]:
            check_install(argv)
        case ["pytest", *argv]:
            options = pytest_config._parser.parse(argv)
            assert all((ROOT / path).exists() for path in options.file_or_dir)
        case _:
            # The remaining ones are other programs', and run where all of this is checked.
            known = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
            assert " ".join(command.words) in known, f"{command}: the test doesn't know how to run this"


def parse_launch(words: list[str]) -> tuple[str, list[str]]:
    """What accelerate's own parser takes for the script or module, and the words it passes on."""
    assert words[:2] == ["accelerate", "launch"]
    args = launch_command_parser().parse_args(words[2:])
    assert args.config_file is None or Path(args.config_file).is_file()
    assert bool(args.module) == (args.training_script == "hf_urbanseg")
    return args.training_script, args.training_script_args


def read_requirements() -> dict[str, list[str]]:
    """Names of the packages needed, by extra; under "" those always needed."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = {"": setup["options"]["install_requires"], **setup["options.extras_require"]}
    lines = {extra: [line for line in text.splitlines() if line and line[0] != "#"] for extra, text in lists.items()}
    return {extra: [Requirement(line).name for line in content] for extra, content in lines.items()}


def check_install(argv: list[str]) -> None:
    match argv:
        case ["-e", project]:
            extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", project)[1]
            assert set((extras or "").split(",")) <= {"", *read_requirements()}
        case [package, "--index-url", url]:
            assert package in read_requirements()[""]
            assert url.startswith("https://download.pytorch.org/")
        case _:
            pytest.fail(f"pip install {argv}: the test doesn't know this form")


@pytest.mark.parametrize(("page", "line", "code"), PYTHON, ids=[f"{page.name}:{line}" for page, line, _ in PYTHON])
def test_python__runs(page, line, code, reader, capsys):
    exec(compile(code, f"{page.name}:{line}", "exec"), {"__name__": "__main__"})


# What the pages say about the repository


def test_readme__is_read_in_ten_minutes():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_readme__has_the_line_that_ci_runs():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(r'pip install -e "\.\[test\]" && pytest', line)] == [
        'pip install -e ".[test]" && pytest -n 2 --dist loadfile'
    ]


def test_readme__the_first_training_needs_no_configuration_of_accelerate():
    first = next(command for command in read_commands(README) if command.words[0] in ("accelerate", "urbanseg"))
    assert first.words[:4] == ("accelerate", "launch", "--config_file", "accelerate_config.yaml")


def test_readme__map_names_every_room_and_nothing_else():
    rows = re.search(r"^## Where is.*?(?=^## )", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[0]
    cells = [row.split("|")[1] for row in rows.splitlines() if row.startswith("| `")]
    named = {path for cell in cells for path in re.findall(r"`([\w./]+)`", cell)}
    assert not [path for path in named if not (ROOT / path).exists()]
    package = ROOT / "hf_urbanseg"
    rooms = {f"hf_urbanseg/{path.name}" for path in package.glob("*.py") if path.name != "__init__.py"}
    rooms |= {f"hf_urbanseg/{path.name}/" for path in package.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert {path for path in named if path.startswith("hf_urbanseg/")} == rooms


def test_readme__table_of_commands_is_complete():
    rows = re.findall(r"^\| `urbanseg ([\w-]+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == [name for name in NAMES if name[0] not in "-_"]


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.png")), ids=lambda path: path.name)
def test_pictures__have_their_colours(path):
    """A palette of few colours had turned those of the classes grey."""
    with Image.open(path) as picture:
        assert picture.mode in ("RGB", "RGBA"), "stored with a palette: store it again in full colour"
        colors = {color[:3] for _, color in picture.getcolors(picture.width * picture.height)}
    of_a_page = path.name == "evaluation_report.png"
    assert colors >= ({*CITYSCAPES.colors} if of_a_page else {tuple(bytes.fromhex(OURS[1:]))})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links__lead_somewhere(page):
    for link in read_links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in read_anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names__of_tests_and_files_exist(page):
    for path, name in re.findall(
        r"`((?:tests|hf_urbanseg|benchmarks|scripts)/[\w./*]*)(?:::(\w+)\*?)?`", read_prose(page)
    ):
        if path.endswith("/mine.py") or path.endswith("/mine.yaml"):  # to be written by the reader
            assert (ROOT / path).parent.is_dir(), path
            continue
        files = list(ROOT.glob(path))
        assert files, path
        assert not name or f"def {name}" in files[0].read_text(encoding="utf-8"), name


def test_words__the_share_of_a_class_that_is_found_has_one_name():
    """The field's, as in `mean_accuracy`: MMSegmentation's Acc and mAcc."""
    package = ROOT / "hf_urbanseg"
    files = [*PAGES, *package.rglob("*.py"), *package.rglob("*.j2"), *(ROOT / "notebooks").glob("*.ipynb")]
    assert len(files) > 150
    for file in files:
        other = re.search(r"\b(recall|pixel accuracy|pixels right)\b", file.read_text(encoding="utf-8"), re.IGNORECASE)
        assert other is None, f"{file.name}: accuracy is called {other[0]}"


def test_names__of_options_exist():
    types = [UrbanSegTrainingArguments]
    for module in [
        config,
        *(importlib.import_module(f"hf_urbanseg.commands.{name.replace('-', '_')}") for name in NAMES),
    ]:
        types += [value for _, value in inspect.getmembers(module, is_dataclass)]
    known = {field.name for one in types for field in fields(one)} | {"help"}
    known |= {word.lstrip("-") for action in launch_command_parser()._actions for word in action.option_strings}
    for page in PAGES:
        for code in re.findall(r"`([^`]+)`", read_prose(page)):
            script = ROOT / code.split()[0]
            own = re.findall(r'"--(\w+)"', script.read_text("utf-8")) if script.match("benchmarks/*.py") else ()
            unknown = [name for name in re.findall(r"(?<!\S)--(\w+)", code) if name not in {*known, *own}]
            assert not unknown or code.startswith(("pytest", "pip", "docker")), f"{page.name}: --{unknown[0]}"


def test_names__in_python_can_be_imported():
    for name in hf_urbanseg.__all__:
        assert getattr(hf_urbanseg, name) is not None


def test_citation__is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}  # what the format demands
    assert (citation["version"], citation["license"]) == (hf_urbanseg.__version__, "Apache-2.0")
    assert "https://arxiv.org/abs/2206.12571" in README.read_text(encoding="utf-8")
    assert any(one["url"].endswith("2206.12571") for one in citation["references"])


def test_scripts__that_begin_a_command_line_can_be_run():
    scripts = [ROOT / ".ci" / "run", *(ROOT / "scripts").iterdir()]
    scripts += [ROOT / command.words[0] for command in COMMANDS if "/" in command.words[0]]
    for script in [path for path in scripts if path.is_file()]:
        assert os.access(script, os.X_OK), script
        assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env "), script


# The reader of the pages itself


def test_read_commands__understands_the_shell_of_the_pages(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('```bash\nexport A=1\nB="2 3" x \\\n  --y "z w"  # why\nv && w -u\n```\n```python\nno\n```\n')
    assert [(command.place, command.words, dict(command.environment)) for command in read_commands(page)] == [
        ("page.md:3", ("x", "--y", "z w"), {"A": "1", "B": "2 3"}),
        ("page.md:5", ("v",), {"A": "1"}),
        ("page.md:5", ("w", "-u"), {"A": "1"}),
    ]


@pytest.mark.parametrize("line", ["a | b", "a > b", "a; b", "a $B", "a `b`", "a &", "a *", "export A"])
def test_read_commands__refuses_other_shell(line, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```bash\n{line}\n```\n")
    with pytest.raises(ValueError, match=r"^page\.md:2: shell"):
        read_commands(page)


WRONG = [
    "make it",
    "urbanseg evaluat runs/demo",
    "urbanseg evaluate runs/demo --multiscale true",
    "accelerate launch --processes 2 scripts/finetune.py",
    "scripts/finetune.py",
    "python benchmarks/loss.py --turns 3",
    "pip install -e .[gpu]",
    "pytest tests/nowhere.py",
]


@pytest.mark.parametrize("line", WRONG)
def test_run__a_wrong_command_is_noticed(line, reader, request, capsys):
    with pytest.raises((AssertionError, SystemExit, KeyError, pytest.fail.Exception)):
        run(Command("page.md:1", tuple(line.split())), request.config)
