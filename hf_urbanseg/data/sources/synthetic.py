"""The rendered streets inside the package."""

from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.data.synthetic import build_synthetic_splits


def matches(request: DataRequest) -> bool:
    """Whether the request is for `synthetic`."""
    return request.dataset == "synthetic"


def load(request: DataRequest) -> FoundData:
    """The default splits of `build_synthetic_splits`."""
    return FoundData(build_synthetic_splits(), request.street_classes, "synthetic")
