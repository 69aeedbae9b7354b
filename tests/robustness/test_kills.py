"""The campaign of kills in its short form; the other half is in `test_kills_more.py`, for another worker."""

from campaigns import run_campaign


def test_kills__resume_is_identical():
    run_campaign("robustness_kills.py", "kills", 15, "--processes", "1")
