"""Under which terms weights can be published."""

import pytest

from hf_urbanseg.hub.licence import choose_licence


@pytest.mark.parametrize(
    ("base", "is_hub", "data", "expected"),
    [
        (None, False, "synthetic", ("apache-2.0", None)),
        (None, False, "kitti", ("cc-by-nc-sa-3.0", None)),
        (None, False, "my streets", ("unknown", None)),
        (None, False, "camvid", ("unknown", None)),
        (None, False, "cityscapes", ("other", "cityscapes-license")),
        ("/models/mine", False, "kitti", ("other", "cc-by-nc-sa-3.0-and-unknown-terms")),
        ("nvidia/mit-b0", True, "synthetic", ("other", "nvidia-source-code-license-for-segformer")),
        ("/models/segformer-b2-ade", False, "synthetic", ("other", "nvidia-source-code-license-for-segformer")),
        ("nvidia/mit-b0", True, "kitti", ("other", "nvidia-source-code-license-for-segformer-and-cc-by-nc-sa-3.0")),
        ("me/Street_Net", True, "synthetic", ("other", "terms-of-me-street-net")),
        ("/models/mine", False, "synthetic", ("unknown", None)),
        ("nvidia/mit-b0", True, "my streets", ("other", "nvidia-source-code-license-for-segformer-and-unknown-terms")),
    ],
)
def test_choose_licence__by_weights_and_data(base, is_hub, data, expected):
    licence = choose_licence(base, is_hub, data, False)
    assert (licence.id, licence.name) == expected
    assert (licence.link is not None) == (licence.id == "other")
    assert len(licence.reasons) == 2
