"""Under which terms weights can be published."""

import pytest
from card_pages import build_card_run

from hf_urbanseg.hub.cards.licence import allows_pictures, choose_licence, recognise_data
from hf_urbanseg.hub.cards.model_card import build_model_card


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


def test_choose_licence__links_everything_that_binds():
    licence = choose_licence("nvidia/mit-b0", True, "kitti", False)
    assert licence.terms == (
        ("nvidia-source-code-license-for-segformer", "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"),
        ("cc-by-nc-sa-3.0", "https://creativecommons.org/licenses/by-nc-sa/3.0/"),
    )
    assert choose_licence(None, False, "synthetic", False).terms == ()


@pytest.mark.parametrize("size", range(6))
@pytest.mark.parametrize("name", ["/models/segformer-b{}-x", "~/MIT_B{}.pth", "me/segformer_b{}"])
def test_choose_licence__copies_of_nvidias_weights_by_their_names(name, size):
    licence = choose_licence(name.format(size), name.startswith("me/"), "synthetic", False)
    assert licence.name == "nvidia-source-code-license-for-segformer"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("KITTI", "kitti"), ("user/kitti-48", "kitti"), ("camvid_as_cityscapes", "camvid"), ("cityscapes", "cityscapes"),
     ("synthetic", "synthetic"), ("synthetic_fog", None), ("mine", None)],
)  # fmt: skip
def test_recognise_data__by_name(name, expected):
    assert recognise_data(name) == expected


@pytest.mark.parametrize(
    ("options", "said", "unsaid"),
    [
        ({"init": "random", "data": "mine"}, "So the licence of these weights is not known", "strict reading"),
        ({"init": "random", "data": "synthetic"}, "So the weights are under Apache-2.0", "strict reading"),
        ({}, "strict reading", "So the"),
        ({"model_name_or_path": "/models/mine"}, "the folder mine, whose terms this card doesn't know", "So the"),
    ],
)
def test_build_model_card__says_what_follows_from_the_terms(tmp_path, options, said, unsaid):
    section = build_model_card(build_card_run(tmp_path / "run", **options)).partition("## Licence")[2]
    section = " ".join(section.partition("## Citations")[0].split())
    assert said in section
    assert unsaid not in section
    assert ("[cc-by-nc-sa-3.0](https://creativecommons.org/licenses/by-nc-sa/3.0/)" in section) == (
        "data" not in options
    )


def test_allows_pictures__not_where_the_licence_forbids_it():
    assert [allows_pictures(name) for name in ("kitti", "user/own", "camvid_as_cityscapes")] == [True] * 3
    assert [allows_pictures(name) for name in ("cityscapes", "user/Cityscapes-fine")] == [False] * 2
