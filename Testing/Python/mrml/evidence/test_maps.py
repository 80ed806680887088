"""Maps of known deformations: their numbers, their nodes, the views that show them, and the way back."""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import fake_engine
import mrml_scene
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.evidence import Maps
from DeepAttentionRegLib.nodes import Deformation, Overlays, Record, Transforms
from DeepAttentionRegLib.nodes.Overlays import Map
from DeepAttentionRegLib.views.MapView import MapView
from mrml_cases import ENGINE, RIGID, put_under, register

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GRAY = 128
SIZE = 200
COLORED = 40


def deformation_of(
    displacement: np.ndarray, geometry: Geometry, fixed: np.ndarray | None = None, moving: np.ndarray | None = None
) -> Deformation.Deformation:
    """Return a deformation of two volumes, which are noise unless they are given."""
    noise = np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32)
    volumes = [
        mrml_scene.add_volume(noise if array is None else array, geometry, name)
        for name, array in (("CT1", fixed), ("CT2", moving))
    ]
    transform = Transforms.makeGridTransform(displacement.astype(np.float32), geometry)
    return Deformation.ofTransform(Transforms.createGridTransform(transform, "T", *volumes))


@pytest.fixture
def still(oblique_geometry) -> np.ndarray:
    return np.zeros((*oblique_geometry.shape, 3), np.float32)


class TestNumbers:
    @pytest.fixture
    def deformation(self, oblique_geometry, affine_displacement):
        return deformation_of(affine_displacement(oblique_geometry, np.diag([1.2, 1.0, 1.0, 1.0])), oblique_geometry)

    def test_jacobian_of_a_scaling_is_its_determinant(self, deformation):
        array, _geometry = Maps.compute(deformation, Map.JACOBIAN)
        np.testing.assert_allclose(array, 1.2, atol=1e-4)

    def test_log_jacobian_is_its_logarithm(self, deformation):
        array, _geometry = Maps.compute(deformation, Map.LOG_JACOBIAN)
        np.testing.assert_allclose(array, np.log(1.2), atol=1e-4)

    def test_magnitude_is_the_length(self, deformation, oblique_geometry, grid_points):
        array, geometry = Maps.compute(deformation, Map.MAGNITUDE)
        np.testing.assert_allclose(array, np.abs(0.2 * grid_points(oblique_geometry)[..., 0]), atol=1e-4)
        assert geometry.size == oblique_geometry.size

    def test_folds_are_where_the_field_turns_back(self, oblique_geometry, affine_displacement):
        mirrored = affine_displacement(oblique_geometry, np.diag([-0.5, 1.0, 1.0, 1.0]))
        assert Maps.countFolds(Maps.createFolds(deformation_of(mirrored, oblique_geometry))) == (14 * 11 * 9, 100.0)

    def test_inconsistency_of_the_exact_inverse_is_zero(self, oblique_geometry, affine_displacement):
        center = oblique_geometry.center_lps

        def about_center(scale: float) -> np.ndarray:
            matrix = np.diag([scale, scale, scale, 1.0])
            matrix[:3, 3] = (1 - scale) * center
            return affine_displacement(oblique_geometry, matrix)

        # Shrinking, so that all points stay within the grid.
        deformation, backward = (deformation_of(about_center(scale), oblique_geometry) for scale in (0.8, 1 / 0.8))
        Record.attach(deformation.transformNode, Maps.BACKWARD, backward.transformNode)
        np.testing.assert_allclose(Maps.compute(deformation, Map.INCONSISTENCY)[0], 0, atol=1e-4)

    def test_inconsistency_of_standing_still_on_the_way_back_is_the_displacement(
        self, deformation, still, oblique_geometry
    ):
        backward = deformation_of(still, oblique_geometry).transformNode
        Record.attach(deformation.transformNode, Maps.BACKWARD, backward)
        inconsistency, magnitude = (Maps.compute(deformation, kind)[0] for kind in (Map.INCONSISTENCY, Map.MAGNITUDE))
        np.testing.assert_allclose(inconsistency, magnitude, atol=1e-5)

    def test_inconsistency_needs_the_way_back(self, deformation):
        with pytest.raises(ValueError, match="Register T the other way round first"):
            Maps.compute(deformation, Map.INCONSISTENCY)


class TestSimilarity:
    @pytest.fixture
    def geometry(self) -> Geometry:
        return Geometry((40, 40, 20), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), AXIAL)

    @pytest.fixture
    def deformation(self, geometry):
        """The moving volume is the fixed one 6 mm further to the left (LPS x), and so is the deformation."""
        image = np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32)
        displacement = np.zeros((*geometry.shape, 3))
        displacement[..., 0] = 6.0
        return deformation_of(displacement, geometry, image, np.roll(image, 3, axis=2))

    def test_is_low_before_and_one_after(self, deformation):
        before, after = (Maps.compute(deformation, kind)[0] for kind in (Map.SIMILARITY_BEFORE, Map.SIMILARITY_AFTER))
        assert before.mean() < 0.1
        assert after[:, :, :-8].min() > 0.95

    def test_is_one_where_the_moving_volume_ends(self, deformation):
        after = Maps.compute(deformation, Map.SIMILARITY_AFTER)[0]
        assert (after[:, :, -2:] == 1).all()

    def test_before_is_where_the_registration_started(self, deformation):
        start = np.eye(4)
        start[0, 3] = -6.0  # RAS
        Record.remember(deformation.transformNode, Record.Record(start=start.ravel().tolist()))
        assert Maps.compute(deformation, Map.SIMILARITY_BEFORE)[0][:, :, :-8].min() > 0.95

    def test_moving_volume_under_the_deformation_itself_is_the_same(self, deformation):
        before = Maps.compute(deformation, Map.SIMILARITY_AFTER)[0]
        deformation.moving.SetAndObserveTransformNodeID(deformation.transformNode.GetID())
        np.testing.assert_array_equal(Maps.compute(deformation, Map.SIMILARITY_AFTER)[0], before)

    def test_constant_volume_is_refused_by_a_sentence(self, still, oblique_geometry):
        constant = np.ones(oblique_geometry.shape, np.float32)
        with pytest.raises(ValueError, match="is constant"):
            Maps.compute(deformation_of(still, oblique_geometry, moving=constant), Map.SIMILARITY_AFTER)


class TestChange:
    """A ball of tissue in noise, which has come or gone between two volumes 6 mm apart."""

    @pytest.fixture
    def geometry(self) -> Geometry:
        return Geometry((40, 40, 24), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), AXIAL)

    @pytest.fixture
    def ball(self, geometry) -> np.ndarray:
        k, j, i = np.indices(geometry.shape)
        return (k - 12) ** 2 + (j - 20) ** 2 + (i - 18) ** 2 < 6**2

    @pytest.fixture
    def deformation_to(self, geometry):
        def make(change: np.ndarray, values: Callable[[np.ndarray], np.ndarray] = lambda image: image):
            rng = np.random.default_rng(0)
            coarse = np.kron(rng.integers(0, 4, (4, 5, 5)) / 4, np.ones((6, 8, 8)))
            fixed = coarse + change + 0.02 * rng.normal(size=geometry.shape)
            moving = np.roll(values(coarse), 3, axis=2) + 0.02 * rng.normal(size=geometry.shape)
            displacement = np.zeros((*geometry.shape, 3))
            displacement[..., 0] = 6.0
            return deformation_of(displacement, geometry, fixed.astype(np.float32), moving.astype(np.float32))

        return make

    def test_is_where_a_ball_has_come(self, deformation_to, ball, geometry):
        node = Maps.create(deformation_to(1.5 * ball), Map.CHANGE)
        sure = slicer.util.arrayFromVolume(node) >= 0.5
        assert 2 * (sure & ball).sum() / (sure.sum() + ball.sum()) > 0.8
        size, unit = Maps.changedSize(node)
        assert (size, unit) == (pytest.approx(sure.sum() * 8 / 1000), "ml")

    def test_is_nowhere_without_a_change(self, deformation_to, ball):
        assert Maps.compute(deformation_to(0 * ball), Map.CHANGE)[0].max() < 0.5

    def test_is_zero_beyond_the_moving_volume(self, deformation_to, ball):
        deformation = deformation_to(0 * ball)
        fixed = slicer.util.arrayFromVolume(deformation.fixed)
        fixed[:, :, -3:] += 2
        assert (Maps.compute(deformation, Map.CHANGE)[0][:, :, -3:] == 0).all()

    def test_other_contrast_is_refused_by_a_sentence(self, deformation_to, ball):
        def scrambled(image: np.ndarray) -> np.ndarray:
            return np.random.default_rng(1).random(image.shape)

        with pytest.raises(ValueError, match="cannot be told"):
            Maps.compute(deformation_to(0 * ball, scrambled), Map.CHANGE)


class TestNodes:
    @pytest.fixture
    def deformation(self, still, oblique_geometry):
        return deformation_of(still, oblique_geometry)

    def test_showing_again_updates_the_node(self, scene, deformation):
        first = Maps.create(deformation, Map.MAGNITUDE)
        count = scene.GetNumberOfNodes()
        moved = np.full((*Transforms.readGrid(deformation.transformNode)[0].shape,), 2.0, np.float32)
        field = Transforms.makeGridTransform(moved, Transforms.readGrid(deformation.transformNode)[1])
        deformation.transformNode.SetAndObserveTransformFromParent(field)
        assert Maps.create(deformation, Map.MAGNITUDE) is first
        assert scene.GetNumberOfNodes() == count
        np.testing.assert_allclose(slicer.util.arrayFromVolume(first), np.sqrt(12.0), atol=1e-4)

    def test_showing_folds_again_updates_the_label_map(self, deformation):
        assert Maps.createFolds(deformation) is Maps.createFolds(deformation)

    def test_removed_map_is_made_anew(self, scene, deformation):
        scene.RemoveNode(Maps.create(deformation, Map.JACOBIAN))
        assert Maps.create(deformation, Map.JACOBIAN).GetScene() is scene

    def test_each_transform_has_its_own(self, still, deformation, oblique_geometry):
        other = deformation_of(still, oblique_geometry)
        assert Maps.create(deformation, Map.JACOBIAN) is not Maps.create(other, Map.JACOBIAN)

    def test_maps_are_named_after_the_transform_and_found_by_it(self, deformation):
        node = Maps.create(deformation, Map.LOG_JACOBIAN)
        assert node.GetName() == "T log Jacobian"
        assert Maps.of(deformation, Map.LOG_JACOBIAN) is node

    def test_jacobian_of_the_registration_is_the_one(self, inputs):
        outcome = register(inputs)
        deformation = Deformation.ofTransform(outcome.transformNode)
        assert Maps.create(deformation, Map.JACOBIAN) is outcome.jacobianVolumeNode

    def test_saved_scene_remembers_them(self, scene, deformation, tmp_path):
        Maps.create(deformation, Map.JACOBIAN)
        mrml_scene.save_and_reload(scene, tmp_path)
        transform = scene.GetFirstNode("T", "vtkMRMLTransformNode")
        loaded = Maps.of(Deformation.ofTransform(transform), Map.JACOBIAN)
        assert loaded.GetName() == "T Jacobian"


@pytest.fixture(scope="module")
def slice_view(application) -> mrml_scene.SliceView:
    return mrml_scene.SliceView(application, "Red", "Axial", (SIZE, SIZE))


class TestView:
    @pytest.fixture
    def geometry(self) -> Geometry:
        return Geometry((40, 40, 5), (2.0, 2.0, 3.0), (-39.0, -39.0, -6.0), AXIAL)

    @pytest.fixture
    def deformation(self, geometry, affine_displacement):
        """Tissue grows by a fifth along x in the left half of the picture and stays in the right one."""
        displacement = affine_displacement(geometry, np.diag([0.8, 1.0, 1.0, 1.0]))
        displacement[:, :, 20:] = 0
        gray = np.full(geometry.shape, GRAY, np.uint8)
        deformation = deformation_of(displacement, geometry, gray, gray)
        for volume in (deformation.fixed, deformation.moving):
            volume.GetDisplayNode().SetAutoWindowLevel(False)
            volume.GetDisplayNode().SetWindowLevelMinMax(0, 255)
        return deformation

    @staticmethod
    def halves(slice_view) -> list[float]:
        """Return mean red minus blue of both halves of the picture."""
        picture = slice_view.grab().astype(int)
        excess = picture[..., 0] - picture[..., 2]
        return [float(excess[120:180, 20:80].mean()), float(excess[120:180, 110:150].mean())]

    def test_stretching_is_blue_and_rest_is_transparent(self, slice_view, deformation):
        slice_view.show(deformation.moving)
        view = MapView()
        view.show(deformation, Maps.create(deformation, Map.JACOBIAN), 0.6)
        left, right = self.halves(slice_view)
        assert left < -COLORED
        assert abs(right) <= 1

    def test_threshold_above_the_change_hides_it(self, slice_view, deformation):
        slice_view.show(deformation.moving)
        node = Maps.create(deformation, Map.JACOBIAN)
        MapView().show(deformation, node, 0.6)
        Overlays.hideUnremarkable(node, Map.JACOBIAN, 25)
        left, right = self.halves(slice_view)
        assert max(abs(left), abs(right)) <= 1

    def test_opacity_shows_the_map_through(self, slice_view, deformation):
        slice_view.show(deformation.moving)
        view = MapView()
        view.show(deformation, Maps.create(deformation, Map.JACOBIAN), 1.0)
        opaque = self.halves(slice_view)[0]
        view.setOpacity(0.5)
        assert self.halves(slice_view)[0] == pytest.approx(opaque / 2, abs=2)

    def test_closing_gives_the_views_back(self, slice_view, deformation):
        slice_view.show(deformation.moving)
        before = slice_view.grab()
        view = MapView()
        view.show(deformation, Maps.create(deformation, Map.JACOBIAN), 0.6)
        view.showFolds(Maps.createFolds(deformation))
        view.close()
        np.testing.assert_array_equal(slice_view.grab(), before)

    def test_showing_another_map_still_gives_the_first_view_back(self, slice_view, deformation):
        slice_view.show(deformation.moving)
        before = slice_view.grab()
        view = MapView()
        for kind in (Map.JACOBIAN, Map.MAGNITUDE):
            view.show(deformation, Maps.create(deformation, kind), 0.6)
        view.close()
        np.testing.assert_array_equal(slice_view.grab(), before)

    def test_folds_are_marked_over_a_map(self, slice_view, geometry, affine_displacement):
        displacement = affine_displacement(geometry, np.diag([-0.5, 1.0, 1.0, 1.0]))
        displacement[:, :, 20:] = 0
        deformation = deformation_of(displacement, geometry)
        slice_view.show(deformation.fixed)
        view = MapView()
        view.show(deformation, Maps.create(deformation, Map.MAGNITUDE), 0.6)
        view.showFolds(Maps.createFolds(deformation))
        assert (slice_view.grab()[120:180, 20:80] == (255, 0, 255)).all()

    def test_closed_scene_is_no_trouble(self, scene, slice_view, deformation):
        slice_view.show(deformation.moving)
        view = MapView()
        view.show(deformation, Maps.create(deformation, Map.JACOBIAN), 0.6)
        view.showFolds(Maps.createFolds(deformation))
        scene.Clear(False)
        view.close()


class TestBackward:
    """The stand-in engine finds the same displacement whatever it is given."""

    @pytest.fixture
    def deformation(self, still, oblique_geometry):
        return deformation_of(still, oblique_geometry)

    @staticmethod
    def register(deformation, **options) -> slicer.vtkMRMLTransformNode:
        registration = Maps.BackwardRegistration(deformation, engine=ENGINE, **options)
        registration.start()
        return registration.wait()

    def test_outcome_leads_from_the_moving_to_the_fixed_volume(self, deformation):
        backward = Deformation.ofTransform(self.register(deformation))
        assert (backward.fixed, backward.moving) == (deformation.moving, deformation.fixed)
        assert backward.name == "T backward"

    def test_error_is_that_of_both_fields(self, deformation, oblique_geometry):
        self.register(deformation)
        array, _geometry = Maps.compute(deformation, Map.INCONSISTENCY)
        expected = fields.magnitude(fields.resize(*fake_engine.found_on(oblique_geometry), oblique_geometry))
        np.testing.assert_allclose(array, expected, atol=1e-3)

    def test_each_way_is_the_other_ones_way_back(self, deformation):
        backward = self.register(deformation)
        assert Maps.backwardOf(deformation) is backward
        assert Maps.backwardOf(Deformation.ofTransform(backward)) is deformation.transformNode

    def test_registering_again_updates_the_transform(self, deformation):
        assert self.register(deformation) is self.register(deformation)

    def test_remembered_settings_are_taken_on_the_device_of_now(self, deformation):
        settings = asdict(Settings(method="none", device="cuda:7", refinement_steps=5))
        Record.remember(deformation.transformNode, Record.Record(settings=settings))
        made = Record.recall(self.register(deformation, settings=Settings(device="cpu")))
        assert {name: made.settings[name] for name in ("method", "refinement_steps", "device")} == {
            "method": "none",
            "refinement_steps": 5,
            "device": "cpu",
        }

    def test_start_is_inverted(self, deformation):
        Record.remember(deformation.transformNode, Record.Record(start=RIGID.ravel().tolist()))
        made = Record.recall(self.register(deformation))
        np.testing.assert_allclose(np.reshape(made.start, (4, 4)) @ RIGID, np.eye(4), atol=1e-9)

    def test_grid_is_that_of_the_moving_volume_below_its_parent(self, deformation, oblique_geometry):
        put_under(deformation.moving, RIGID)
        _field, geometry = Transforms.readGrid(self.register(deformation))
        expected = fake_engine.found_on(oblique_geometry)[1]
        np.testing.assert_allclose(geometry.ijk_to_lps, expected.ijk_to_lps, atol=1e-4)

    def test_removed_volume_stops_it(self, scene, deformation, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "work until cancelled")
        registration = Maps.BackwardRegistration(deformation, engine=ENGINE)
        registration.start()
        scene.RemoveNode(deformation.moving)
        with pytest.raises(RuntimeError, match="was removed"):
            registration.wait()
        assert registration.failure.code == errors.CANCELLED

    def test_failure_leaves_the_scene_as_it_was(self, scene, deformation, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "fail")
        before = mrml_scene.scene_state(scene)
        with pytest.raises(RuntimeError, match="do not overlap"):
            self.register(deformation)
        assert mrml_scene.scene_state(scene) == before
