"""What is learned of errors whose distribution is known, and how often verdicts are right."""

import numpy as np
import pytest
import torch

pytest.importorskip("tqdm", reason="tqdm, which training needs, is not installed")

from DeepAttentionRegEngine.evidence.error_model import Layers
from training.calibration import calibrate, fitting, runs, tables, verdicts
from training.calibration.fitting import Judgement, KnownRun
from training.calibration.pairs import Recipe

pytestmark = pytest.mark.torch

RUNS, VOXELS = 20, 200
FAMILIES = ("shapes", "heads")


def run_of(index: int, weights: str = "none") -> KnownRun:
    """Return a run whose error is exponential, with a scale that the first of its clues tells; every fourth failed."""
    rng = np.random.default_rng(index)
    fault = "flipped" if index % 4 == 0 else "none"
    values = rng.uniform(0, 2, (VOXELS, 4)).astype(np.float32)
    scale = np.exp(values[:, 0]) * (20 if fault == "flipped" else 1)
    if fault == "flipped":
        values[:, 1] += 3
    error = (scale * rng.exponential(1.0, VOXELS)).astype(np.float32)
    plan = runs.Plan(Recipe(FAMILIES[index // 4 % len(FAMILIES)], "smooth", fault, 3, index), weights, "balanced")
    data = {
        "values": values,
        "means": values.mean(0),
        "mirrored": np.array([0.5, 0.1 if fault == "flipped" else -0.1], np.float32),
        "error": error,
        "extent": np.float32(60.0),
        "off": np.float32(np.mean(error > 0.03 * 60)) if fault == "flipped" else np.float32(0),
        "weights": np.array(weights),
    }
    return KnownRun(plan, data)


@pytest.fixture(scope="module")
def found() -> list[KnownRun]:
    return [run_of(index) for index in range(RUNS)]


@pytest.fixture(scope="module")
def learned(found: list[KnownRun]) -> tuple[calibrate.Learned, list[Judgement]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "LEAST_STEPS", 150)
        return calibrate.learn(found)


class TestPercentiles:
    def test_bounds_hold_as_often_as_they_say(self, learned: tuple[calibrate.Learned, list[Judgement]]) -> None:
        fresh = [run_of(index) for index in range(200, 220) if index % 4]
        judged = calibrate.judge(learned[0], fresh)
        inside = [(one.run.log_error <= one.logs[:, 1]).mean() for one in judged]
        assert 0.92 < np.mean(inside) < 0.98

    def test_medians_rank_errors(self, learned: tuple[calibrate.Learned, list[Judgement]]) -> None:
        sound = [one for one in learned[1] if not one.run.failed]
        told = [tables.rank_correlation(one.logs[:, 0], one.run.log_error) for one in sound]
        best = [tables.rank_correlation(one.run.data["values"][:, 0], one.run.log_error) for one in sound]
        assert np.mean(told) > 0.8 * np.mean(best)

    def test_margin_is_what_bounds_lack(self, found: list[KnownRun]) -> None:
        logs = [np.stack([run.log_error, run.log_error - 0.3], 1) for run in found]
        assert fitting.margin(found, logs) == pytest.approx(0.3, abs=1e-5)

    def test_come_from_fits_that_saw_none_of_the_family(
        self, found: list[KnownRun], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def families(taught: list[KnownRun]) -> set[str]:
            return {run.plan.recipe.family for run in taught}

        monkeypatch.setattr(fitting, "fitted", families)
        monkeypatch.setattr(fitting, "predicted", lambda seen, run: run.plan.recipe.family in seen)
        assert fitting.without_family(found) == [False] * RUNS

    def test_exported_layers_say_the_same(
        self, learned: tuple[calibrate.Learned, list[Judgement]], found: list[KnownRun]
    ) -> None:
        values = torch.from_numpy(found[0].data["values"])
        layers = learned[0].percentiles.exported()
        torch.testing.assert_close(layers(values.T).T, learned[0].percentiles(values), rtol=1e-2, atol=1e-2)
        assert isinstance(layers, Layers)


class TestVerdicts:
    def test_failures_are_found(self, learned: tuple[calibrate.Learned, list[Judgement]]) -> None:
        counts = calibrate.counted(learned[0].limits, learned[1])
        assert (counts.failures, counts.found, counts.suspected) == (5, 5, 0)

    def test_sentence_tells_the_counts(self) -> None:
        text = verdicts.Counts(20, 18, 80, 4, 1).sentence
        assert "20 failures among 100 registrations" in text
        assert "90 %" in text
        assert "5 % of the others" in text

    def test_thresholds_spare_sound_runs(self) -> None:
        chances = np.linspace(0, 1, 101)
        limits = verdicts.thresholds(chances, np.zeros(101, bool))
        assert (chances >= limits["failed"]).mean() == pytest.approx(0.02, abs=0.011)
        assert (chances >= limits["suspicious"]).mean() == pytest.approx(0.05, abs=0.011)


class TestUnusual:
    def test_runs_like_those_that_taught_are_usual(self, learned: tuple[calibrate.Learned, list[Judgement]]) -> None:
        assert sum(one.is_unusual for one in learned[1]) < 2

    def test_others_are_not(self, learned: tuple[calibrate.Learned, list[Judgement]]) -> None:
        strange = run_of(300)
        strange.data["means"] = strange.data["means"] + 50
        assert calibrate.judge(learned[0], [strange])[0].is_unusual


class TestDocument:
    def test_has_a_row_of_each_kind(self, learned: tuple[calibrate.Learned, list[Judgement]]) -> None:
        parts = {"all": learned[1]}
        text = tables.section(3, parts, learned[0].limits, calibrate.counted(learned[0].limits, learned[1]))
        for name in ("| shapes |", "| none, balanced |", "| flipped |"):
            assert name in text

    def test_rank_correlation_is_spearmans(self) -> None:
        assert tables.rank_correlation(np.array([1.0, 2, 4]), np.array([3.0, 9, 10])) == pytest.approx(1)
        assert tables.rank_correlation(np.array([1.0, 2, 4]), np.array([3.0, 2, 1])) == pytest.approx(-1)
