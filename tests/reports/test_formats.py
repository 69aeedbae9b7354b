import pytest

from hf_urbanseg.reports.formats import format_change, format_percent, format_seconds


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        (0.12344, {}, "12.34"),
        (0.12344, {"digits": 0}, "12"),
        (0.5, {"sign": "+"}, "+50.00"),
        (0.0, {}, "0.00"),
        (None, {}, "-"),
        (float("nan"), {"sign": "+"}, "-"),
    ],
)
def test_format_percent__values(value, options, text):
    assert format_percent(value, **options) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+1.23"), (-0.5, "-50.00"), (0.0, "0"), (1e-9, "+0.00"), (None, "-")]
)
def test_format_change__values(value, text):
    assert format_change(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (60, "0:01:00"), (3599.6, "1:00:00"), (90_061, "25:01:01")]
)
def test_format_seconds__values(seconds, text):
    assert format_seconds(seconds) == text
