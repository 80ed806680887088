"""Our metrics against those of others: SimpleITK, MONAI and surface-distance."""

import numpy as np
import pytest
import SimpleITK as sitk

from DeepAttentionRegEngine.volume import fields, images, metrics
from DeepAttentionRegEngine.volume.geometry import Geometry
from metric_cases import RADIUS_MM, SHIFT_MM, ball, roomy

monai = pytest.importorskip("monai.metrics", reason="MONAI is not installed", exc_type=ImportError)
surface_distance = pytest.importorskip("surface_distance", reason="surface-distance is not installed")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning"),  # of surface-distance, about SciPy
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of MONAI, about itself
]

SINGLE = 2e-5  # distance maps are float32


@pytest.fixture
def grid(oblique_geometry: Geometry) -> Geometry:
    return roomy(oblique_geometry)


def ragged(grid: Geometry, seed: int) -> np.ndarray:
    """Return a structure with holes, corners and islands, which reaches the border."""
    noise = sitk.GetImageFromArray(np.random.default_rng(seed).standard_normal(grid.shape))
    return sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(noise, 2.5)) > 0.02


PAIRS = {
    "balls": lambda grid: (
        ball(grid, np.zeros(3), RADIUS_MM),
        ball(grid, SHIFT_MM, 0.8 * RADIUS_MM),
    ),
    "nested": lambda grid: (
        ball(grid, np.zeros(3), RADIUS_MM),
        ball(grid, np.zeros(3), 0.5 * RADIUS_MM),
    ),
    "ragged": lambda grid: (ragged(grid, 1), ragged(grid, 2)),
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, grid: Geometry) -> tuple[np.ndarray, np.ndarray]:
    return PAIRS[request.param](grid)


@pytest.fixture
def balls(grid: Geometry) -> tuple[np.ndarray, np.ndarray]:
    return PAIRS["balls"](grid)


def one_hot(mask: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(mask.astype(np.float32))[None, None]


class TestSimpleItk:
    @staticmethod
    def both(pair: tuple[np.ndarray, np.ndarray], grid: Geometry) -> list[sitk.Image]:
        return [images.to_sitk(mask.astype(np.uint8), grid) for mask in pair]

    def test_dice(self, pair: tuple[np.ndarray, np.ndarray], grid: Geometry) -> None:
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*self.both(pair, grid))
        assert metrics.agreement(*pair, grid).dice == pytest.approx(overlap.GetDiceCoefficient())
        assert metrics.dice(*(mask.astype(np.uint8) for mask in pair))[1] == pytest.approx(overlap.GetDiceCoefficient())

    def test_volume(self, pair: tuple[np.ndarray, np.ndarray], grid: Geometry) -> None:
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(self.both(pair, grid)[1])
        assert metrics.agreement(*pair, grid).volume_ml == pytest.approx(shape.GetPhysicalSize(1) / 1000)

    def test_surface_distances_by_another_distance_map(self, balls: tuple[np.ndarray, np.ndarray], grid: Geometry):
        contours = [sitk.LabelContour(image) for image in self.both(balls, grid)]
        maps = [sitk.DanielssonDistanceMap(contour, True, False, True) for contour in contours]
        surfaces = [sitk.GetArrayFromImage(contour) > 0 for contour in contours]
        directed = [sitk.GetArrayFromImage(maps[1 - side])[surfaces[side]] for side in (0, 1)]
        found = metrics.surface_distances(*balls, grid)
        # Danielsson's map is an approximation from neighbor to neighbor.
        assert found.hd95_mm == pytest.approx(max(np.percentile(part, 95) for part in directed), abs=0.05)
        assert found.assd_mm == pytest.approx(np.concatenate(directed).mean(), abs=0.01)

    def test_jacobian_determinant_where_no_axis_is_turned(self, grid: Geometry, smooth_displacement) -> None:
        # On other grids SimpleITK leaves the directions out.
        straight = Geometry.from_arrays(grid.size, grid.spacing, grid.origin, np.eye(3))
        field = smooth_displacement(straight, peak_mm=3.0)
        image = sitk.GetImageFromArray(field.astype(np.float64), isVector=True)
        image.SetSpacing(straight.spacing)
        expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
        inner = (slice(1, -1),) * 3
        ours = fields.jacobian_determinant(field, straight)
        np.testing.assert_allclose(ours[inner], expected[inner], atol=1e-5)


class TestMonai:
    def test_dice(self, pair: tuple[np.ndarray, np.ndarray], grid: Geometry) -> None:
        expected = monai.compute_dice(*map(one_hot, pair)).item()
        assert metrics.agreement(*pair, grid).dice == pytest.approx(expected)

    def test_hd95(self, pair: tuple[np.ndarray, np.ndarray], grid: Geometry) -> None:
        options = {"include_background": True, "percentile": 95, "spacing": grid.spacing[::-1]}
        expected = monai.compute_hausdorff_distance(*map(one_hot, pair), **options).item()
        assert metrics.agreement(*pair, grid).hd95_mm == pytest.approx(expected, abs=SINGLE)

    def test_assd(self, pair: tuple[np.ndarray, np.ndarray], grid: Geometry) -> None:
        options = {"include_background": True, "symmetric": True, "spacing": grid.spacing[::-1]}
        expected = monai.compute_average_surface_distance(*map(one_hot, pair), **options).item()
        assert metrics.agreement(*pair, grid).assd_mm == pytest.approx(expected, abs=SINGLE)


class TestSurfaceDistance:
    """It measures between elements of area amid the voxels, so that it may differ by a part of a voxel."""

    @pytest.fixture
    def measured(self, balls: tuple[np.ndarray, np.ndarray], grid: Geometry) -> dict[str, np.ndarray]:
        return surface_distance.compute_surface_distances(*balls, grid.spacing[::-1])

    def test_dice(self, pair: tuple[np.ndarray, np.ndarray], grid: Geometry) -> None:
        expected = surface_distance.compute_dice_coefficient(*pair)
        assert metrics.agreement(*pair, grid).dice == pytest.approx(expected)

    def test_hd95(self, balls, measured: dict[str, np.ndarray], grid: Geometry) -> None:
        expected = surface_distance.compute_robust_hausdorff(measured, 95)
        assert metrics.agreement(*balls, grid).hd95_mm == pytest.approx(expected, abs=max(grid.spacing) / 2)

    def test_assd(self, balls, measured: dict[str, np.ndarray], grid: Geometry) -> None:
        areas = [measured[f"surfel_areas_{side}"] for side in ("gt", "pred")]
        distances = [measured[f"distances_{name}"] for name in ("gt_to_pred", "pred_to_gt")]
        expected = sum(map(np.dot, distances, areas)) / sum(map(np.sum, areas))
        assert metrics.agreement(*balls, grid).assd_mm == pytest.approx(expected, abs=max(grid.spacing) / 2)
