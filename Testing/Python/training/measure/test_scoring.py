"""Figures of pairs: distances, folds, landmarks, summaries."""

import math

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import need

need("scipy")

from DeepAttentionRegEngine.volume import metrics
from DeepAttentionRegEngine.volume.geometry import Geometry
from training.measure import scoring
from training.measure.medpy import MedpySurfaces, medpy_figures


class TestScoring:
    def test_distances_of_shifted_squares(self) -> None:
        first, second = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
        first[5:10, 5:10] = 1
        second[5:10, 8:13] = 1
        figures = medpy_figures(*(MedpySurfaces(labels, 1, (0.5, 0.5)) for labels in (first, second)))
        assert figures["hd_px"] == 3
        assert figures["hd_mm"] == 1.5
        assert scoring.dice(first, second, 1) == pytest.approx(0.4)
        # Six of sixteen boundary pixels are three pixels from the other square, and so on.
        assert figures["assd_px"] == pytest.approx(1.5, abs=0.3)

    def test_average_distance_is_that_of_the_engine_for_equal_boundaries(self) -> None:
        first, second = np.zeros((12, 14, 16), np.uint8), np.zeros((12, 14, 16), np.uint8)
        first[2:6, 3:8, 4:9] = 1
        second[4:8, 5:10, 5:10] = 1
        spacing = (2.0, 1.0, 0.5)
        _, assd = MedpySurfaces(first, 1, spacing).distances(MedpySurfaces(second, 1, spacing))
        geometry = Geometry.from_arrays((16, 14, 12), spacing[::-1], (0, 0, 0), np.eye(3))
        assert assd == pytest.approx(metrics.surface_distances(first, second, geometry).assd_mm, abs=1e-5)

    def test_label_on_one_side_alone_has_no_distance(self) -> None:
        full, empty = np.ones((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
        assert math.isnan(MedpySurfaces(full, 1, ()).distances(MedpySurfaces(empty, 1, ()))[0])
        assert math.isnan(scoring.dice(empty, empty, 1))

    @pytest.mark.parametrize("nd", [2, 3])
    def test_determinants_of_scaling_and_reflection(self, nd: int) -> None:
        grid = torch.stack(torch.meshgrid(*[torch.arange(6.0)] * nd, indexing="ij"))[None]
        assert np.allclose(scoring.determinants(0.1 * grid), 1.1**nd, atol=1e-5)
        mirrored = grid * torch.tensor([-2.0] + [0.0] * (nd - 1)).view(1, -1, *[1] * nd)
        figures = scoring.fold_figures(scoring.determinants(mirrored))
        assert figures["folded_px"] == 6**nd
        assert figures["folded_percent"] == 100

    def test_likeliest_label_after_a_shift(self) -> None:
        channels = torch.zeros(1, 2, 1, 6)
        channels[0, 0, 0, 1:3] = 1
        channels[0, 1, 0, 3:5] = 1
        shift = torch.zeros(1, 2, 1, 6)
        shift[:, 1] = 1
        assert scoring.warped_map(channels, shift).tolist() == [[[1, 1, 2, 2, 0, 0]]]

    def test_landmarks_are_moved_in_mm_without_rounding(self) -> None:
        shift = torch.zeros(1, 2, 8, 8)
        shift[:, 1] = 0.25
        fixed = torch.tensor([[2.0, 3.0], [4.0, 4.0]])
        errors = scoring.landmark_errors(shift, fixed, fixed + torch.tensor([0.0, 1.25]), (1.0, 2.0))
        assert errors == pytest.approx([2.0, 2.0])

    def test_summary_counts_what_could_not_be_told(self) -> None:
        summary = scoring.summarized([{"hd": 1.0}, {"hd": math.nan}, {"hd": 3.0}])
        assert summary["hd"] == {"mean": 2.0, "sd": 1.0, "missing": 1}
