"""The rendered streets inside the package."""

from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.data.synthetic import build_synthetic_splits


def matches(request: DataRequest) -> bool:
    """Whether the request is for `synthetic`."""
    return request.dataset == "synthetic"


def load(request: DataRequest) -> FoundData:
    """The splits of `build_synthetic_splits` for the town that `config` names."""
    splits = build_synthetic_splits(town=request.config) if request.config else build_synthetic_splits()
    return FoundData(splits, request.street_classes, "synthetic")
