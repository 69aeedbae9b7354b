"""The second half of `test_kills.py`."""

from campaigns import run_campaign


def test_kills__resume_is_identical():
    run_campaign("robustness_kills.py", "kills", 15, "--processes", "1", "--seed", "15")
