"""The campaign of kills in its short form, and its other half in `test_kills_more.py`: files are spread over workers."""

from campaigns import run_campaign


def test_kills__resume_is_identical():
    run_campaign("robustness_kills.py", "kills", 15, "--processes", "1")
