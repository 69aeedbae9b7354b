"""Under which terms weights can be published."""

import pytest
from card_pages import build_card_run

from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.hub.cards.licence import choose_data_licence, choose_licence, recognise_data
from hf_urbanseg.hub.cards.model_card import build_model_card

FRAMES = ["000000_10"]


@pytest.mark.parametrize(
    ("base", "is_hub", "data", "expected"),
    [
        (None, False, "synthetic", ("apache-2.0", None)),
        (None, False, "kitti", ("cc-by-nc-sa-3.0", None)),
        (None, False, "my streets", ("unknown", None)),
        (None, False, "camvid", ("unknown", None)),
        (None, False, "cityscapes", ("other", "cityscapes-license")),
        ("tiny-streets", False, "kitti", ("cc-by-nc-sa-3.0", None)),
        ("tiny-streets", False, "synthetic", ("apache-2.0", None)),
        ("/models/tiny-streets", False, "synthetic", ("unknown", None)),
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
    licence = choose_licence(base, is_hub, data)
    assert (licence.id, licence.name) == expected
    assert (licence.link is not None) == (licence.id == "other")
    assert len(licence.reasons) == 2


def test_choose_licence__links_everything_that_binds():
    licence = choose_licence("nvidia/mit-b0", True, "kitti")
    assert licence.terms == (
        ("nvidia-source-code-license-for-segformer", "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"),
        ("cc-by-nc-sa-3.0", "https://creativecommons.org/licenses/by-nc-sa/3.0/"),
    )
    assert choose_licence(None, False, "synthetic").terms == ()


@pytest.mark.parametrize("size", range(6))
@pytest.mark.parametrize("name", ["/models/segformer-b{}-x", "~/MIT_B{}.pth", "me/segformer_b{}"])
def test_choose_licence__copies_of_nvidias_weights_by_their_names(name, size):
    licence = choose_licence(name.format(size), name.startswith("me/"), "synthetic")
    assert licence.name == "nvidia-source-code-license-for-segformer"


def test_choose_licence__no_other_network_has_nvidias_weights():
    """A run's folder may be called after the recipe that it was trained by."""
    licence = choose_licence("runs/segformer_b0_kitti", False, "synthetic", "pspnet")
    reason = "The weights started from the folder segformer_b0_kitti, whose terms this card doesn't know."
    assert (licence.id, licence.reasons[0]) == ("unknown", reason)
    assert choose_licence("microsoft/resnet-50", True, "synthetic", "pspnet").name == "terms-of-microsoft-resnet-50"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("KITTI", "kitti"), ("user/kitti-48", "kitti"), ("camvid_as_cityscapes", "camvid"), ("cityscapes", "cityscapes"),
     ("synthetic", "synthetic"), ("synthetic_fog", None), ("mine", None), ("idd_as_cityscapes", None),
     ("kitti_360", None), ("user/KITTI-STEP", None)],
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
    section = build_model_card(build_card_run(tmp_path / "run", **options)).partition("## Data and licence")[2]
    section = " ".join(section.partition("## Training")[0].split())
    assert said in section
    assert unsaid not in section
    assert ("[cc-by-nc-sa-3.0](https://creativecommons.org/licenses/by-nc-sa/3.0/)" in section) == (
        "data" not in options
    )


# ---- data sets ----


def test_choose_data_licence__known_origins_and_what_the_user_says():
    kitti = choose_data_licence("kitti", FRAMES, None, None)
    assert (kitti.id, kitti.terms[0][0]) == ("cc-by-nc-sa-3.0", "cc-by-nc-sa-3.0")
    assert "CC BY-NC-SA 3.0" in kitti.reasons[0]
    assert choose_data_licence("synthetic", ["a"], None, None).id == "apache-2.0"
    mine = choose_data_licence(None, ["a"], "cc-by-4.0", None)
    assert (mine.id, mine.reasons) == ("cc-by-4.0", ("Published under cc-by-4.0, as stated by whoever pushed it.",))
    own_in_kitti_layout = choose_data_licence("kitti", FRAMES, "mit", None)
    assert (own_in_kitti_layout.id, "KITTI" in own_in_kitti_layout.reasons[0]) == ("mit", False)
    for origin in (None, "camvid"):
        with pytest.raises(ConfigError, match=r"found none; add for example `--license cc-by-4.0`"):
            choose_data_licence(origin, ["a"], None, False)
    unknown = choose_data_licence(None, ["a"], None, True)
    assert (unknown.id, "ask before you use it" in unknown.reasons[0]) == ("unknown", True)
    with pytest.raises(ConfigError, match="found `CC BY`"):
        choose_data_licence(None, ["a"], "CC BY", True)


@pytest.mark.parametrize(
    ("origin", "names"),
    [
        ("cityscapes", ["a"]),
        (None, ["a", "zurich_000012_000019"]),
        ("kitti", ["frankfurt_000001_062396"]),
        (None, ["berlin_000000_000019_leftImg8bit"]),
        (None, ["val_lindau_000000_000019"]),
    ],
)
@pytest.mark.parametrize("private", [None, False])
def test_choose_data_licence__cityscapes_only_in_private(origin, names, private):
    with pytest.raises(DataError, match=r"Cityscapes, whose licence forbids to distribute it .*; add `--private`"):
        choose_data_licence(origin, names, "mit", private, "prepared")
    licence = choose_data_licence(origin, names, "mit", True)
    assert (licence.id, licence.name) == ("other", "cityscapes")
    assert licence.link.startswith("https://www.cityscapes-dataset.com/")
    assert "Keep this repository private." in licence.reasons


def test_choose_data_licence__other_names_with_numbers_are_no_cityscapes():
    names = ["paris_000012_000019", "zurich_12", "neuulm_000012_000019", "ulm_000012_0000190"]
    assert choose_data_licence(None, names, "mit", None).id == "mit"
