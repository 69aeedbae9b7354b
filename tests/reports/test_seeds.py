import pytest

from hf_urbanseg.reports.seeds import RunResult, describe_score, describe_seeds, summarise_seeds

RESULTS = {0: RunResult(0.50, {}, 10.0), 2: RunResult(0.54, {}, 30.0)}


def test_summarise_seeds__hand_computed():
    summary = summarise_seeds(RESULTS, [0, 1, 2])
    assert (summary["status"], summary["seeds"]) == ("partly run", [0, 2])
    assert summary["mean_iou"] == {
        "mean": pytest.approx(0.52),
        "std": pytest.approx(0.0282842712),  # sample: 0.04 / sqrt(2)
        "min": 0.50,
        "max": 0.54,
        "values": {"0": 0.50, "2": 0.54},
    }
    assert summary["seconds"] == {"mean": 20.0, "total": 40.0}
    assert (describe_score(summary), describe_seeds(summary)) == ("52.00 ± 2.83", "0, 2 (others not run)")


def test_summarise_seeds__one_has_no_spread():
    summary = summarise_seeds({0: RESULTS[0]}, [0])
    assert (summary["status"], summary["mean_iou"]["std"]) == ("run", None)
    assert (describe_score(summary), describe_seeds(summary)) == ("50.00", "0")


def test_summarise_seeds__not_run_is_no_number():
    summary = summarise_seeds({}, [0, 1])
    assert summary == {"status": "not run", "seeds": [], "mean_iou": None, "seconds": None}
    assert (describe_score(summary), describe_seeds(summary)) == ("not run", "")
