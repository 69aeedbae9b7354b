import pytest


@pytest.fixture(autouse=True, scope="module")
def _quick(quick_runs):
    """Runs in this process."""
