"""The campaigns of inputs that others made, in their short form."""

import pytest
from campaigns import run_campaign


@pytest.mark.parametrize(("what", "cases"), [("bad", 48), ("odd", 8), ("hostile", 10)])
def test_inputs__pass_whole(what, cases):
    run_campaign("robustness_inputs.py", what, cases)
