"""The campaigns of inputs that others made, in their short form: about one case a kind."""

import pytest
from campaigns import run_campaign


@pytest.mark.parametrize(("what", "cases"), [("bad", 250), ("odd", 30), ("hostile", 33)])
def test_campaign__passes_whole(what, cases):
    run_campaign("robustness_inputs.py", what, cases)
