"""How every command ends on a mistake: one line, status 2, and nothing of a token that was given in the wrong place."""

import pytest

from hf_urbanseg.commands import evaluate, finetune, predict, publish, reproduce

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
