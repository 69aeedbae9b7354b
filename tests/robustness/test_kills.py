"""The campaign of kills in its short form."""

from campaigns import run_campaign


def test_kills__resume_is_identical():
    run_campaign("robustness_kills.py", "kills", 8, "--processes", "1")
