import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the loopback Hub's modules, plain files without a package

from loopback_fixtures import hub, hub_here, run_with_hub, waits  # noqa: F401
