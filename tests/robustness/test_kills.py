"""The campaigns of kills in their short form."""

import pytest
from campaigns import run_campaign


@pytest.mark.parametrize(("what", "cases"), [("kills", 7), ("streamed", 1)])
def test_kills__resume_is_identical(what, cases):
    run_campaign("robustness_kills.py", what, cases, "--processes", "1")
