"""The campaigns of what is left of a run that ends before its time, in their short form."""

import pytest
from campaigns import run_campaign


@pytest.mark.parametrize(("what", "cases"), [("kills", 30), ("damage", 6), ("lock", 2), ("signals", 4), ("disk", 4)])
def test_campaign__passes_whole(what, cases):
    run_campaign("robustness_kills.py", what, cases)
