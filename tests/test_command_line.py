"""What all commands have in common: their names, their help, and how they end on a mistake."""

import errno
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import hf_urbanseg
from hf_urbanseg import files
from hf_urbanseg.__main__ import NAMES
from hf_urbanseg.__main__ import main as urbanseg
from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.commands import evaluate, finetune, predict, publish, reproduce
from hf_urbanseg.errors import ConfigError, DataError, ModelError, OutOfMemoryError
from hf_urbanseg.options.fields import option, required

TOKEN = "hf_" + "CanaryOfTheTests" * 2
OPAQUE = "dataPassWord-1"


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (finetune.main, ["--hub_tokn", TOKEN]),
        (finetune.main, [f"--hub_tokn={TOKEN}"]),
        (finetune.main, ["--hub_tokn", OPAQUE]),
        (finetune.main, ["--push_to_hub", TOKEN]),
        (finetune.main, ["--loss", TOKEN]),
        (finetune.main, ["--recipe", TOKEN]),
        (finetune.main, ["--max_steps", TOKEN]),
        (evaluate.main, ["--model", "x", "--hub_token", OPAQUE]),
        (predict.main, ["--token", OPAQUE]),
        (publish.main, ["run", TOKEN]),
        (publish.main, ["run", "user/name", "--token", OPAQUE]),
        (reproduce.main, ["ladder", "--", "--hub_token", OPAQUE]),
        (reproduce.main, ["ladder", "--", f"--hub_token={OPAQUE}"]),
        (reproduce.main, ["table", "--", "--hub_token", OPAQUE]),
    ],
)
def test_run_command__a_misplaced_token_is_not_repeated(main, words, fails, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = fails(main, *words)
    assert TOKEN not in text
    assert OPAQUE not in text
    assert not list(tmp_path.iterdir())


def test_run_command__the_rest_of_the_line_stays(fails):
    assert fails(finetune.main, "--lss", "ohem", "--hub_token", OPAQUE).count("--lss") >= 1


def test_command__names_are_the_files_of_commands():
    folder = Path(hf_urbanseg.__file__).parent / "commands"
    assert {path.stem.replace("_", "-") for path in folder.glob("[a-z]*.py")} == set(NAMES)
    assert not list(folder.glob("_[a-z]*.py"))  # what a command needs lives in a room


def said(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stop:
        urbanseg(words)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_urbanseg__lists_its_commands(capsys):
    urbanseg([])
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in NAMES)
    urbanseg(["--version"])
    assert capsys.readouterr().out == f"hf_urbanseg {hf_urbanseg.__version__}\n"


@pytest.mark.parametrize(("word", "fix"), [("evalute", "did you mean `evaluate`"), ("zzz", "see `urbanseg --help`")])
def test_urbanseg__unknown_command(capsys, word, fix):
    with pytest.raises(SystemExit) as stop:
        urbanseg([word])
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f"found `{word}`; {fix}.\n")


@pytest.mark.parametrize("name", NAMES)
def test_help__of_every_command_is_short_and_has_its_options(capsys, name):
    lines = said(capsys, name, "--help").splitlines()
    assert lines[0].startswith(f"usage: urbanseg {name} ")
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 120
    assert sum(line.startswith("  --") for line in lines) >= 3
    assert "training_arguments" not in said(capsys, name.replace("-", "_"), "-h")


def test_help__all_shows_those_of_transformers(capsys):
    text = said(capsys, "finetune", "--help", "all")
    assert "--gradient_accumulation_steps" in text
    assert "--ohem_min_kept" in text
    assert "--lr_end" in text
    assert "--lr_end" not in said(capsys, "finetune", "--help")


def test_help__and_the_package_wait_for_no_library():
    code = (
        "import sys\nimport hf_urbanseg\nfrom hf_urbanseg.__main__ import NAMES, main\n"
        "for name in NAMES:\n    try:\n        main([name, '--help'])\n    except SystemExit:\n        pass\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'albumentations', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_package__names_load_when_touched():
    for name in hf_urbanseg.__all__:
        assert getattr(hf_urbanseg, name) is not None
    assert hf_urbanseg.LabelSpace.__module__ == "hf_urbanseg.labels"
    assert set(hf_urbanseg.__all__) <= set(dir(hf_urbanseg))
    with pytest.raises(AttributeError, match="has no attribute 'finetun'"):
        hf_urbanseg.finetun  # noqa: B018


@dataclass
class Words:
    """What the tests parse."""

    run: str = required("A run.")
    others: list[str] = option([], "More of them.")
    flag: bool = option(False, "A flag.")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["a", "b", "c", "--flag"], ("a", ["b", "c"], True)),
        (["a"], ("a", [], False)),
        (["--run", "a", "--others", "b"], ("a", ["b"], False)),
        (["a", "--others", "b"], ("a", ["b"], False)),
    ],
)
def test_parse_command_line__positionals(argv, expected):
    (words,) = parse_command_line((Words,), argv, "", positionals=("run", "others"))
    assert (words.run, words.others, words.flag) == expected


def test_parse_command_line__a_positional_twice():
    with pytest.raises(ConfigError, match=r"expected `run` either first or behind `--run`; found both `a` in front"):
        parse_command_line((Words,), ["a", "--run", "b"], "", positionals=("run", "others"))


def test_command__an_interrupt_ends_with_130():
    @command
    def main(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 130


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG])
def test_command__a_disk_that_fails_is_one_line(fails, number):
    @command
    def main(argv):
        raise OSError(number, os.strerror(number), "runs/mine/metrics.json")

    line = fails(main)
    assert line.startswith(
        f"error: runs/mine/metrics.json: expected files that can be read and written; found {os.strerror(number)};"
    )
    assert "`--resume`" in line


def test_command__an_error_that_is_no_disk_s_stays(capsys):
    @command
    def main(argv):
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    with pytest.raises(ConnectionResetError):
        main([])


def raising(error: BaseException, cause: BaseException | None = None):
    @command
    def main(argv):
        raise error from cause

    return main


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("Unable to allocate 9 TiB")]
)
def test_command__memory_that_runs_out_is_one_line(fails, error):
    line = fails(raising(error))
    assert line.startswith(f"error: expected memory for this command; found {error}; make batches, images or the model")


def test_command__memory_is_not_the_fault_of_what_was_tried(fails):
    short = torch.OutOfMemoryError("CUDA out of memory")
    line = fails(raising(ModelError("a teacher that segments", "CUDA out of memory", "choose another", "mine"), short))
    assert line.startswith("error: expected memory for this command; found CUDA out of memory;")
    # Bytes that are damaged may ask for any amount.
    damaged = fails(raising(DataError("a readable file", "MemoryError", "repair it", "a.png"), MemoryError()))
    assert damaged == "error: a.png: expected a readable file; found MemoryError; repair it."


def test_command__who_has_no_memory_says_so(fails, monkeypatch):
    """Of a launch the first process speaks; what another one alone has met, that one says."""
    for name, value in {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    error = OutOfMemoryError("memory", "none", "take less")
    assert fails(raising(error)) == "error: process 5: expected memory; found none; take less."
    for other in (pickle.loads(pickle.dumps(error)), DataError("a", "b", "c")):  # of which all know
        with pytest.raises(AssertionError, match="0 == 1"):
            fails(raising(other))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("can't start new thread"),
            "processes and threads; found can't start new thread; allow more (`",
        ),
        (BlockingIOError(errno.EAGAIN, "Try again"), "processes and threads; found Try again; allow more (`ulimit -u`"),
        (OSError(errno.EMFILE, "Too many", "a.png"), "open files; found Too many; allow more (`ulimit -n`)."),
    ],
)
def test_command__what_a_process_may_have_no_more_of(fails, error, line):
    assert fails(raising(error)).startswith(f"error: expected enough {line}")
    blamed = ModelError("a readable model", str(error), "copy or train it again", "mine")
    assert fails(raising(blamed, error)).startswith(f"error: expected enough {line}")


def test_command__a_rank_left_over_silences_nobody(fails, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert fails(raising(DataError("a", "b", "c"))) == "error: expected a; found b; c."


def test_command__closed_streams_are_nobodys(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    command(lambda argv: print("said"))([])
    assert sys.stdin.read() == ""
    with pytest.raises(SystemExit) as stop:
        raising(DataError("a", "b", "c"))([])
    assert stop.value.code == 2


def test_command__without_a_working_folder(fails, monkeypatch):
    def gone():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "getcwd", gone)
    line = fails(raising(AssertionError("begun")))
    assert (
        line
        == "error: expected a working folder; found No such file or directory; change into one that is there (`cd`)."
    )


def test_command__an_error_is_told_where_no_file_can_be_opened(fails, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "glob", refuse)  # for files with secrets, which are not to be shown
    assert fails(raising(DataError("a", "b", "c"))) == "error: expected a; found b; c."


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (
            RuntimeError(
                "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1. "
                "This is typically caused by a remote worker crashing. GLHF!"
            ),
            "Connection closed by peer [127.0.0.1]:1.",
        ),
        (
            torch.distributed.DistBackendError("NCCL error in: x.cpp:1\nLast error:\nreset"),
            "NCCL error in: x.cpp:1 Last",
        ),
    ],
)
def test_command__a_process_that_is_gone(fails, error, found):
    line = fails(raising(error))
    assert line.startswith(f"error: expected an answer of every process of the launch; found one that is gone ({found}")
    assert "typically" not in line
    assert line.endswith("training goes on with `--resume` where it saved a checkpoint.")


def test_command__other_errors_of_torch_stay():
    with pytest.raises(RuntimeError, match="shapes differ"):
        raising(RuntimeError("shapes differ"))([])


def start(code: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    code = f"from hf_urbanseg.command_line import command\n@command\ndef main(argv):\n{code}\nmain([])"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, env=environment, timeout=120, **options)


def test_command__a_terminal_of_ascii_does_not_end_a_run():
    code = " print('Straße')\n from rich.console import Console\n Console().print('Straße')"
    result = start(code, stdout=subprocess.PIPE)
    assert (result.returncode, result.stdout.split()) == (0, [rb"Stra\xdfe"] * 2)


def test_command__a_reader_that_has_seen_enough():
    reading, writing = os.pipe()
    os.close(reading)
    result = start(" print('x' * 100_000)", stdout=writing)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")


PLACES = [
    ["finetune", "--dataset", "synthetic", "--output_dir"],
    ["evaluate", "no/model", "--output"],
    ["predict", "no/model", "no/image.png", "--output"],
    ["compare", "no/run", "no/other", "--output"],
    ["browse-data", "--dataset", "synthetic", "--output"],
    ["prepare-data", "--dataset", "synthetic", "--output"],
]
FILES = [
    ["evaluate", "no/model", "--report", ".html"],
    ["class-weights", "--dataset", "synthetic", "--output", ".json"],
    ["convert-checkpoint", "no/model.pth", "--output", ""],
    ["make-submission", "--model", "no/model", "--data_dir", "no/data", "--output", ".zip"],
    ["profile-model", "--sizes", "tiny", "--output", ".json"],
]


@pytest.mark.parametrize("words", [*PLACES, *(words[:-1] for words in FILES)], ids=" ".join)
@pytest.mark.parametrize("case", ["below_a_file", "read_only"])
def test_urbanseg__what_cannot_be_written_is_said_before_anything_is_read(fails, monkeypatch, tmp_path, words, case):
    """Neither the data nor the models that these name are there, which is not what is complained of."""

    def refuse(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    suffix = next((one[-1] for one in FILES if one[:-1] == words), "")
    if case == "read_only":
        monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr("hf_urbanseg.data.loading.load_data", lambda **options: pytest.fail("data were read"))
    line = fails(urbanseg, *words, f"file/out{suffix}" if case == "below_a_file" else f"out{suffix}")
    assert "to write to; found " + ("Read-only file system" if case == "read_only" else "") in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_publish__a_folder_that_cannot_note_what_is_owed(fails, monkeypatch, tmp_path):
    def refuse(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    assert "expected a folder to write to; found Read-only" in fails(publish.main, tmp_path, "user/name")
