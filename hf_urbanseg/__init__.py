"""Fine-tune SegFormer on street scenes with Hugging Face Transformers."""

import os

# albumentations looks for a newer version online when it is imported, which stalls machines without a network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
