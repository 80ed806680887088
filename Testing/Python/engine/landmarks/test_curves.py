"""Curves as landmarks: points that belong together whichever way, and from wherever, the curves were drawn."""

from pathlib import Path

import numpy as np
import pytest

from DeepAttentionRegEngine.landmarks.curves import matched, smooth, spread
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.points import Markups

TURNS = np.linspace(0, 1, 9)
VESSEL = np.stack([60 * TURNS, 20 * np.sin(4 * TURNS), 10 * TURNS**2], 1)
RING = np.stack([30 * np.cos(2 * np.pi * TURNS[:-1]), 18 * np.sin(2 * np.pi * TURNS[:-1]), 5 * TURNS[:-1]], 1)
SHIFT = np.array([4.0, -3.0, 2.0])


class TestMatched:
    @pytest.mark.parametrize("turned", [False, True])
    def test_open_curves_belong_together_whichever_way_they_were_drawn(self, turned: bool) -> None:
        moving = VESSEL[::-1] + SHIFT if turned else VESSEL + SHIFT
        fixed, partners = matched(Markups(VESSEL, "curve"), Markups(moving, "curve"))
        assert len(fixed) == 27
        np.testing.assert_allclose(partners - fixed, np.tile(SHIFT, (27, 1)), atol=1e-9)

    @pytest.mark.parametrize("start", [0, 3])
    @pytest.mark.parametrize("way", [1, -1])
    def test_closed_ones_from_wherever(self, start: int, way: int) -> None:
        moving = np.roll(RING, start, axis=0)[::way] + SHIFT
        fixed, partners = matched(Markups(RING, "closed curve"), Markups(moving, "closed curve"))
        apart = np.linalg.norm(partners - fixed - SHIFT, axis=1)
        assert apart.max() < 4  # half a step along the ring, at most

    def test_as_many_points_of_both_however_many_were_placed(self) -> None:
        fixed, partners = matched(Markups(VESSEL, "curve"), Markups(VESSEL[::2] + SHIFT, "curve"))
        assert len(fixed) == len(partners)
        assert np.linalg.norm(partners - fixed - SHIFT, axis=1).max() < 2

    def test_points_stay_as_they_are(self) -> None:
        fixed, moving = matched(Markups(VESSEL), Markups(RING))
        assert fixed is VESSEL
        assert moving is RING

    @pytest.mark.parametrize(("fixed", "moving"), [("points", "curve"), ("curve", "closed curve")])
    def test_different_kinds_are_refused(self, fixed: str, moving: str) -> None:
        with pytest.raises(EngineError, match="fixed landmarks are"):
            matched(Markups(VESSEL, fixed), Markups(VESSEL, moving))

    def test_a_curve_of_one_point_is_refused(self) -> None:
        with pytest.raises(EngineError, match="too few points"):
            matched(Markups(VESSEL[:1], "curve"), Markups(VESSEL, "curve"))


class TestCurve:
    def test_runs_smoothly_through_its_points(self) -> None:
        line = smooth(VESSEL, closed=False)
        np.testing.assert_allclose(line[::10], VESSEL, atol=1e-12)
        along = np.linspace(0, 1, len(line))
        truth = np.stack([60 * along, 20 * np.sin(4 * along), 10 * along**2], 1)
        assert np.linalg.norm(line - truth, axis=1).max() < 0.4

    def test_is_divided_into_equal_shares(self) -> None:
        points = spread(smooth(RING, closed=True), 16, closed=True)
        steps = np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=1)
        assert steps.std() < 0.1 * steps.mean()

    @pytest.mark.parametrize("closed", [False, True])
    def test_file_tells_its_kind(self, tmp_path: Path, closed: bool) -> None:
        path = tmp_path / "curve.mrk.json"
        images.write_curve(path, RING, closed=closed)
        assert images.read_markups(path).kind == ("closed curve" if closed else "curve")
        np.testing.assert_allclose(images.read_points(path), RING)

    def test_other_files_hold_points(self, tmp_path: Path) -> None:
        path = tmp_path / "points.csv"
        images.write_points(path, RING)
        assert images.read_markups(path).kind == "points"
