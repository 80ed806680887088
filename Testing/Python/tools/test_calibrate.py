"""What the calibration says of predictions whose errors are known, and what it writes."""

import csv
import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import calibrate

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def predicted() -> np.ndarray:
    """Uncertainties from 0.5 to 4 mm."""
    return np.random.default_rng(0).uniform(0.5, 4.0, 20000)


def errors_of(predicted: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Return lengths of vectors whose root mean square is the prediction times a factor."""
    vectors = np.random.default_rng(1).normal(size=(len(predicted), 3)) / np.sqrt(3)
    return factor * predicted * np.linalg.norm(vectors, axis=1)


def summary_of(predicted: np.ndarray, error: np.ndarray) -> dict:
    return calibrate.summarize(predicted, error, calibrate.group(predicted, error))


class TestSummary:
    def test_perfect_predictions_are_calibrated(self, predicted):
        found = summary_of(predicted, errors_of(predicted))
        assert found["factor"] == pytest.approx(1.0, abs=0.02)
        assert found["calibration_error"] < 0.03
        assert found["rank_correlation"] > 0.6

    def test_errors_of_twice_the_size_double_the_factor(self, predicted):
        found = summary_of(predicted, errors_of(predicted, 2.0))
        assert found["factor"] == pytest.approx(2.0, abs=0.04)
        assert found["calibration_error"] == pytest.approx(1.0, abs=0.05)

    def test_unrelated_errors_have_no_rank_correlation(self, predicted):
        shuffled = np.random.default_rng(2).permutation(errors_of(predicted))
        assert abs(summary_of(predicted, shuffled)["rank_correlation"]) < 0.03

    def test_shares_are_those_of_a_normal_distribution(self, predicted):
        # Of three components: chi with 3 degrees of freedom, within sqrt(3) and 2 sqrt(3).
        found = summary_of(predicted, errors_of(predicted))
        assert (found["within_one"], found["within_two"]) == pytest.approx((0.608, 0.993), abs=0.01)


def test_groups_are_of_equal_size_and_in_order(predicted):
    rows = calibrate.group(predicted, errors_of(predicted))
    assert {row["voxels"] for row in rows} == {2000}
    assert [row["predicted_from_mm"] for row in rows] == sorted(row["predicted_from_mm"] for row in rows)


def test_whole_way_writes_table_and_numbers(tmp_path):
    phantoms = ["--phantoms", "1", "--voxels", "36", "32", "36"]
    settings = ["--refinement-steps", "2", "--samples", "2", "--device", "cpu"]
    calibrate.main([*phantoms, *settings, "--output", str(tmp_path)])
    with open(tmp_path / "calibration.csv", encoding="ascii", newline="") as file:
        assert len(list(csv.DictReader(file))) == calibrate.GROUPS
    found = json.loads((tmp_path / "calibration.json").read_text(encoding="ascii"))
    assert found["error_rms_mm"] > 0
