"""What recursions leave behind, as nodes: they hold what the engine told, and outlive saving and loading."""

from dataclasses import replace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")

import vtk

import evidence_cases
import fake_engine
import mrml_scene
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegLib.evidence.RecursionEvidence import RecursionEvidence
from DeepAttentionRegLib.nodes import Deformation, EvidenceFiles, Record, Transforms
from mrml_cases import add_pair, register

pytestmark = pytest.mark.mrml

RECURSIONS = 2
WHOLE = {"recursions": RECURSIONS, "keepAttention": True}


@pytest.fixture
def evidence(inputs) -> RecursionEvidence:
    """What a registration of two recursions and no refinement left behind."""
    return RecursionEvidence(register(inputs, **WHOLE).transformNode)


@pytest.fixture(params=["fresh", "loaded"])
def any_evidence(request, scene, evidence, tmp_path) -> RecursionEvidence:
    """The same, as it is at first and after saving and loading."""
    if request.param == "fresh":
        return evidence
    name = evidence.transformNode.GetName()
    mrml_scene.save_and_reload(scene, tmp_path)
    return RecursionEvidence(scene.GetFirstNode(name, "vtkMRMLTransformNode"))


def field_of(evidence: RecursionEvidence, step: int) -> np.ndarray:
    return Transforms.readGrid(evidence.steps.GetNthDataNode(step))[0]


class TestSteps:
    def test_are_the_alignment_and_the_fields_after_the_recursions(self, any_evidence, oblique_geometry):
        whole = fake_engine.field_on(oblique_geometry)
        for step in range(RECURSIONS + 1):
            np.testing.assert_allclose(field_of(any_evidence, step), whole * step / RECURSIONS, atol=1e-5)
        assert any_evidence.count == RECURSIONS + 1

    def test_end_with_the_result_where_it_was_refined(self, inputs, oblique_geometry):
        options = {"recursions": RECURSIONS, "refinementSteps": 1, "keepRecursions": True}
        evidence = RecursionEvidence(register(inputs, **options).transformNode)
        labels = [evidence.label(step) for step in range(evidence.count)]
        assert labels == ["Before: aligned only", "Recursion 1 of 2", "Recursion 2 of 2", "Result"]
        result = fields.resize(*fake_engine.found_on(oblique_geometry), oblique_geometry)
        np.testing.assert_allclose(field_of(evidence, 3), result, atol=1e-5)

    def test_refinement_alone_has_two(self, inputs):
        evidence = RecursionEvidence(
            register(inputs, method="none", refinementSteps=1, keepRecursions=True).transformNode
        )
        assert [evidence.label(step) for step in range(evidence.count)] == ["Before: aligned only", "Result"]

    def test_large_fields_are_kept_coarser(self, scene, monkeypatch):
        monkeypatch.setattr(EvidenceFiles, "STEP_VOXELS", 500)
        fixed = Geometry.from_arrays((20, 20, 20), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), np.eye(3))
        evidence = RecursionEvidence(register(add_pair(fixed), **WHOLE).transformNode)
        field, grid = Transforms.readGrid(evidence.steps.GetNthDataNode(RECURSIONS))
        assert np.prod(grid.size) <= 500
        np.testing.assert_allclose(field, fake_engine.field_on(grid), atol=1e-5)

    def test_browser_plays_them(self, any_evidence):
        for step in (0, 2, 1):
            any_evidence.browser.SetSelectedItemNumber(step)
            shown = Transforms.readGrid(any_evidence.shownTransform)[0]
            np.testing.assert_allclose(shown, field_of(any_evidence, step), atol=1e-5)
            assert any_evidence.step == step

    def test_present_step_can_be_inspected_itself(self, any_evidence):
        any_evidence.step = 1
        deformation = Deformation.ofTransform(any_evidence.shownTransform)
        assert (deformation.fixed.GetName(), deformation.moving.GetName()) == ("CT1", "CT2")

    def test_step_that_is_none_is_refused(self, evidence):
        with pytest.raises(ValueError, match="no step 3"):
            evidence.step = 3

    def test_measures_are_in_a_table(self, any_evidence):
        table = any_evidence.table.GetTable()
        rows = [[float(table.GetValue(row, column).ToString()) for column in range(3)] for row in range(3)]
        np.testing.assert_allclose(rows, [[0, 0.5, 0], [1, 0.6, 0], [2, 0.7, 0]])


class TestOthers:
    def test_maps_that_are_not_of_the_network_are_left_out(self, evidence):
        Record.attach(evidence.transformNode, "MapJacobian", evidence.table)
        assert len(RecursionEvidence(evidence.transformNode).maps) == 2


class TestAttention:
    def test_layers_are_named(self, any_evidence):
        assert any_evidence.layers == [evidence_cases.LAYER]

    def test_a_point_looks_where_the_engine_said(self, any_evidence, oblique_geometry):
        any_evidence.step = 2
        expected = evidence_cases.looks_ahead(oblique_geometry)
        for index in ((0, 0, 0), (13, 10, 8), (5, 6, 7)):
            point = oblique_geometry.index_to_lps(np.array([index]))[0]
            weights, grid = any_evidence.heatMap(evidence_cases.LAYER, flip_lps_ras(point[None])[0])
            wanted, wanted_grid = expected.heat_map(oblique_geometry, point)
            np.testing.assert_allclose(weights, wanted, atol=1e-6)
            np.testing.assert_allclose(grid.ijk_to_lps, wanted_grid.ijk_to_lps, atol=1e-6)

    def test_a_recursion_that_kept_none_shows_that_of_the_next(self, any_evidence, oblique_geometry):
        for role in ("Query1", "Key1"):
            Record.attached(any_evidence.transformNode, role).RemoveDataNodeAtValue("1")
        any_evidence.step = 1
        assert (any_evidence.recursion, any_evidence.attending(evidence_cases.LAYER)) == (1, 2)
        point = oblique_geometry.index_to_lps(np.array([[5, 6, 7]]))[0]
        weights, _grid = any_evidence.heatMap(evidence_cases.LAYER, flip_lps_ras(point[None])[0])
        wanted, _grid = evidence_cases.looks_ahead(oblique_geometry).heat_map(oblique_geometry, point)
        np.testing.assert_allclose(weights, wanted, atol=1e-6)

    @pytest.mark.parametrize("shape", [(2, 30, 5), (1, 30, 16)])
    def test_stacking_is_undone(self, shape):
        grid = Geometry.from_arrays((5, 3, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
        tokens = np.random.default_rng(0).normal(size=shape)
        again = EvidenceFiles.unstacked(EvidenceFiles.stacked(tokens, grid), shape[0], 2)
        np.testing.assert_array_equal(again, tokens)


class TestMaps:
    def test_are_in_the_order_of_the_network(self, tmp_path, inputs, oblique_geometry):
        index = evidence_cases.recursions.Index("agf", oblique_geometry, np.eye(4), [])
        step = evidence_cases.write_evidence(tmp_path, oblique_geometry, 1)
        names = [f"gate {number}" for number in range(12)]
        maps = [{**step.maps[0], "name": name} for name in names]
        displacement = evidence_cases.shifts(oblique_geometry, [1.0])[0]
        evidence_cases.images.write_displacement(tmp_path / "f.nrrd", displacement, oblique_geometry)
        index.recursions.append(replace(step, displacement="f.nrrd", maps=maps))
        evidence_cases.recursions.write_index(tmp_path, index)
        result = evidence_cases.contract.Result(
            {"recursions": str(tmp_path / "recursions.json")}, {"similarity": [0, 1]}
        )
        node = register(inputs).transformNode
        EvidenceFiles.commit(EvidenceFiles.read(result, displacement, oblique_geometry), node)
        assert [name for name, _image in RecursionEvidence(node).maps] == names

    def test_are_those_of_the_recursion(self, any_evidence, oblique_geometry):
        assert any_evidence.maps == [(evidence_cases.RELEVANCE, "fixed"), (evidence_cases.MASK, "moving")]
        for step, recursion in ((0, 1), (1, 1), (2, 2)):
            any_evidence.step = step
            shown = any_evidence.map(evidence_cases.RELEVANCE, "fixed")
            expected = recursion * evidence_cases.ramp(oblique_geometry.shape)
            np.testing.assert_allclose(slicer.util.arrayFromVolume(shown), expected)

    def test_those_of_the_moving_image_lie_where_the_alignment_leads(self, tmp_path, oblique_geometry):
        sheared = np.eye(4)
        sheared[0, 1], sheared[2, 3] = 0.2, 7.0
        index = evidence_cases.recursions.Index("agf", oblique_geometry, sheared, [])
        index.recursions.append(evidence_cases.write_evidence(tmp_path, oblique_geometry, 1))
        role = f"{EvidenceFiles.MAP}2"
        volume = EvidenceFiles.readMaps(tmp_path, index)[role].GetNthDataNode(0)
        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        expected = np.diag([-1.0, -1.0, 1.0, 1.0]) @ sheared @ oblique_geometry.ijk_to_lps
        np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix), expected, atol=1e-9)


class TestGaussians:
    def test_are_those_of_the_recursion(self, any_evidence, oblique_geometry):
        any_evidence.step = 2
        (gaussian,) = any_evidence.gaussians()
        np.testing.assert_allclose(gaussian.center, flip_lps_ras(oblique_geometry.center_lps[None])[0], atol=1e-4)
        np.testing.assert_allclose(gaussian.axes, np.diag([-1, -1, 1]), atol=1e-6)
        np.testing.assert_allclose(gaussian.sigma, evidence_cases.SIGMA_MM)
        np.testing.assert_allclose(gaussian.vector, [-4, 0, 0])


class TestMissing:
    def test_transform_without_evidence_says_what_to_do(self, inputs):
        node = register(inputs).transformNode
        with pytest.raises(ValueError, match="register again"):
            RecursionEvidence(node)

    @pytest.mark.parametrize("part", ["steps", "browser"])
    def test_removed_node_says_so(self, scene, evidence, part):
        scene.RemoveNode(getattr(evidence, part))
        with pytest.raises(ValueError, match="register again"):
            RecursionEvidence(evidence.transformNode)

    def test_nothing_is_left_if_the_result_cannot_be_loaded(self, scene, inputs, monkeypatch):
        def fail(*_arguments):
            msg = "no memory"
            raise RuntimeError(msg)

        before = mrml_scene.scene_state(scene)
        monkeypatch.setattr(EvidenceFiles.Record, "attach", fail)
        with pytest.raises(RuntimeError, match="could not be loaded"):
            register(inputs, **WHOLE)
        assert mrml_scene.scene_state(scene) == before
