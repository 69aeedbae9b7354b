"""What robustness_kills.py and robustness_inputs.py are made of.

The environment is set here, before anything imports numpy or torch: processes are forked from one that has imported
everything, and a fork keeps the forking thread alone, so there must be no others.
"""

import os
import sys
from pathlib import Path

os.environ |= {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "MPLBACKEND": "agg",
}  # fmt: skip
sys.path.append(str(Path(__file__).parents[2] / "tests" / "common"))  # rendered frames in KITTI's layout
