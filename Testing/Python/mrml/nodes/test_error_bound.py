"""What is known of the error of a registration: the verdict among its values, and the bound at places of the world."""

import math

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import fake_engine
import inspection_cases as cases
import mrml_cases
import mrml_scene
from DeepAttentionRegEngine.volume.geometry import flip_lps_ras
from DeepAttentionRegLib.nodes import ErrorBound, Record

pytestmark = pytest.mark.mrml

SINGLE = 1e-5  # maps are float32


def known(**changes: object) -> dict[str, object]:
    return {"expected_error": {**fake_engine.UNREMARKABLE, **changes}}


class TestVerdict:
    def test_says_what_was_found_and_how_good_that_is(self):
        verdict = ErrorBound.verdictOf(known())
        assert verdict.text == f"Nothing suspicious was found. {fake_engine.MEASURED}"
        assert (verdict.kind, verdict.medianMm, verdict.p95Mm) == (ErrorBound.UNREMARKABLE, 3.0, 4.5)

    def test_without_one_the_reason_is_told(self):
        verdict = ErrorBound.verdictOf({"expected_error": {"known": False, "reason": "It was not measured."}})
        assert (verdict.text, verdict.kind) == ("It was not measured.", "")
        assert math.isnan(verdict.medianMm)

    def test_records_of_former_releases_have_none(self):
        assert ErrorBound.verdictOf({}) is None

    @pytest.mark.parametrize("told", [None, "failed", [1], 3.0])
    def test_what_is_no_verdict_is_none(self, told):
        assert ErrorBound.verdictOf({"expected_error": told}) is None

    @pytest.mark.parametrize("mm", [None, [1.0], {"median": "1"}, {}])
    def test_bound_that_is_no_number_is_not_known(self, mm):
        verdict = ErrorBound.verdictOf(known(mm=mm))
        assert math.isnan(verdict.medianMm)
        assert verdict.kind == ErrorBound.UNREMARKABLE


class TestBound:
    @pytest.fixture
    def outcome(self, inputs):
        return mrml_cases.register(inputs)

    def test_at_points_is_that_of_the_map_between_its_nodes(self, outcome, oblique_geometry, grid_points):
        points = grid_points(oblique_geometry).reshape(-1, 3)[::7]
        found = ErrorBound.atPoints(outcome.transformNode, flip_lps_ras(points))
        np.testing.assert_allclose(found, fake_engine.bound_at(points), atol=SINGLE)

    def test_within_a_mask_is_that_of_its_voxels(self, outcome, oblique_geometry, grid_points):
        mask = cases.box(oblique_geometry, (3, 2, 1), (5, 4, 6))
        values = fake_engine.bound_at(grid_points(oblique_geometry)[mask])
        found = ErrorBound.within(outcome.transformNode, mask, oblique_geometry)
        np.testing.assert_allclose(found, np.percentile(values, (50, 95)), atol=SINGLE)

    def test_within_nothing_there_is_no_number(self, outcome, oblique_geometry):
        nothing = np.zeros(oblique_geometry.shape, bool)
        assert np.isnan(ErrorBound.within(outcome.transformNode, nothing, oblique_geometry)).all()

    def test_map_is_read_where_it_lies(self, outcome, oblique_geometry):
        center = flip_lps_ras(oblique_geometry.center_lps)
        lift = np.eye(4)
        lift[:3, 3] = 0.0, 0.0, 40.0
        mrml_cases.put_under(outcome.errorVolumeNode, lift)
        expected = fake_engine.bound_at(oblique_geometry.center_lps)
        found = ErrorBound.atPoints(outcome.transformNode, center[None] + (0.0, 0.0, 40.0))
        np.testing.assert_allclose(found, expected, atol=SINGLE)

    @pytest.mark.parametrize("how", ["removed", "emptied", "warped"])
    def test_map_that_cannot_be_read_is_none(self, scene, outcome, oblique_geometry, how):
        node = outcome.errorVolumeNode
        {
            "removed": lambda: scene.RemoveNode(node),
            "emptied": lambda: node.SetAndObserveImageData(None),
            "warped": lambda: node.SetAndObserveTransformNodeID(outcome.transformNode.GetID()),
        }[how]()
        assert ErrorBound.mapOf(outcome.transformNode) is None
        assert ErrorBound.atPoints(outcome.transformNode, np.zeros((1, 3))) is None
        mask = np.ones(oblique_geometry.shape, bool)
        assert ErrorBound.within(outcome.transformNode, mask, oblique_geometry) is None

    def test_reloaded_scene_still_tells_verdict_and_bound(self, scene, outcome, oblique_geometry, tmp_path):
        name, center = outcome.transformNode.GetName(), flip_lps_ras(oblique_geometry.center_lps)[None]
        told = ErrorBound.verdictOf(Record.recall(outcome.transformNode).values)
        bound = ErrorBound.atPoints(outcome.transformNode, center)
        mrml_scene.save_and_reload(scene, tmp_path)
        transform = scene.GetFirstNodeByName(name)
        assert ErrorBound.verdictOf(Record.recall(transform).values) == told
        np.testing.assert_allclose(ErrorBound.atPoints(transform, center), bound, atol=SINGLE)
