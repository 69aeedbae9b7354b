import pytest

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.inference.plan import PLAIN, REPORT_RATIOS, PredictionPlan


def test_input_sizes__the_reports_six():
    # 1280x384 (width x height in the report) times each ratio needs no rounding.
    assert PredictionPlan(REPORT_RATIOS, flip=True).input_sizes((384, 1280), (375, 1242)) == [
        (192, 640), (288, 960), (384, 1280), (480, 1600), (576, 1920), (672, 2240),
    ]  # fmt: skip


def test_input_sizes__nearest_multiple_of_32_and_at_least_32():
    plan = PredictionPlan((0.1, 0.75, 1.3))
    # 0.75 x 64 = 48 lies between 32 and 64: up; 1.3 x 96 = 124.8.
    assert plan.input_sizes((64, 96), (1, 1)) == [(32, 32), (64, 64), (96, 128)]


def test_input_sizes__ratio_1_is_the_base_itself():
    assert PLAIN.input_sizes((375, 1242), (10, 10)) == [(375, 1242)]
    assert PredictionPlan((1.0, 2.0)).input_sizes([50, 70], (10, 10)) == [(50, 70), (96, 128)]


def test_input_sizes__without_a_base_the_images_own_size():
    assert PredictionPlan((0.5, 1.0)).input_sizes(None, (75, 124)) == [(32, 64), (75, 124)]


def test_input_sizes__with_a_window_the_image_scaled_to_the_pixel():
    plan = PredictionPlan((0.1, 0.5, 1.0, 1.75), window=(64, 64))
    assert plan.input_sizes((384, 1280), (75, 124)) == [(32, 32), (38, 62), (75, 124), (131, 217)]


def test_count_inputs__by_hand():
    assert PLAIN.count_inputs((384, 1280), {(375, 1242): 3, (370, 1224): 2}) == {(384, 1280): 5}
    assert PLAIN.count_inputs(None, {(375, 1242): 3, (370, 1224): 2}) == {(375, 1242): 3, (370, 1224): 2}
    plan = PredictionPlan((0.5, 1.0), flip=True)
    assert plan.count_inputs((64, 128), {(10, 10): 3}) == {(32, 64): 6, (64, 128): 6}
    # Windows at 0, 32, 36 of the height and at 0, 40 of the width; half the image is smaller than one.
    plan = PredictionPlan((0.5, 1.0), window=(64, 64), stride=(32, 40))
    assert plan.count_inputs((384, 1280), {(100, 104): 2}) == {(50, 52): 2, (64, 64): 2 * 3 * 2}


def test_steps__two_thirds_of_the_window():
    assert PredictionPlan(window=(512, 1024)).steps == (341, 682)
    assert PredictionPlan(window=(512, 1024), stride=(512, 300)).steps == (512, 300)


def test_is_plain__only_the_default():
    assert PLAIN.is_plain
    assert PredictionPlan([1.0], max_batch_pixels=5000).is_plain
    for plan in (PredictionPlan((0.5,)), PredictionPlan(flip=True), PredictionPlan(window=(64, 64))):
        assert not plan.is_plain


def test_prediction_plan__lists_are_as_good_as_tuples():
    plan = PredictionPlan([0.5, 1.0], window=[64, 96], stride=[32, 32])
    assert plan == PredictionPlan((0.5, 1.0), window=(64, 96), stride=(32, 32))
    assert hash(plan) == hash(PredictionPlan((0.5, 1.0), window=(64, 96), stride=(32, 32)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": ()}, r"expected `ratios` above 0, up to 16; found \[\]; "),
        ({"ratios": (1.0, 0.0)}, r"`ratios` above 0"),
        ({"ratios": (-1.0,)}, r"`ratios` above 0"),
        ({"ratios": (float("nan"),)}, r"found \[nan\]"),
        ({"ratios": (17.0,)}, r"up to 16; found \[17.0\]"),
        ({"ratios": (0.5, 1.0, 0.5)}, r"each of the `ratios` once"),
        ({"window": (512,)}, r"`window` as height and width of 32..16,384; found \[512\]"),
        ({"window": (512, 31)}, r"`window` as height and width of 32..16,384; found \[512, 31\]"),
        ({"window": (64, 64), "stride": (0, 64)}, r"`stride` as height and width of 32..16,384"),
        ({"window": (64, 64), "stride": (64, 65)}, r"`stride` up to the `window`; found \[64, 65\]"),
        ({"stride": (64, 64)}, r"a sliding `window` with `stride`; found none"),
        ({"max_batch_pixels": 0}, r"`max_batch_pixels` of 1,024..1,000,000,000,000; found 0"),
    ],
)
def test_prediction_plan__refuses_what_makes_no_sense(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        PredictionPlan(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("plan", "base_size", "passes", "text"),
    [
        (PLAIN, (384, 1280), 1, "single scale of 384x1280 (height x width)"),
        (PredictionPlan((0.5, 1.0)), None, 2, "2 passes: ratios 0.5 1"),
        (
            PredictionPlan((0.5, 1.75), flip=True),
            (64, 96),
            4,
            "4 passes: ratios 0.5 1.75 of 64x96 (height x width), with and without flip",
        ),
        (PredictionPlan(window=(64, 96)), (1, 1), 1, "single scale of the image's own size, sliding window 64x96"),
        (
            PredictionPlan((0.5, 1.0), flip=True, window=(64, 96), stride=(48, 32)),
            None,
            4,
            "4 passes: ratios 0.5 1 of the image's own size, with and without flip, sliding window 64x96, stride 48x32",
        ),
        # The default, said or not: two thirds, whole pixels.
        (
            PredictionPlan(window=(64, 96), stride=(42, 64)),
            None,
            1,
            "single scale of the image's own size, sliding window 64x96",
        ),
        (
            PredictionPlan(window=(64, 96), stride=(42, 63)),
            None,
            1,
            "single scale of the image's own size, sliding window 64x96, stride 42x63",
        ),
        # Ratios as they are, and as short as they can be.
        (PredictionPlan((1 / 3, 2.0, 1.25)), None, 3, "3 passes: ratios 0.3333333333333333 2 1.25"),
    ],
)
def test_describe__says_what_is_done(plan, base_size, passes, text):
    assert plan.passes == passes
    assert plan.describe(base_size) == text
