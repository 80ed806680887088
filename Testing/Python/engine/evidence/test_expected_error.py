"""The bound of the error and the verdict: what is told of good, bad and unknown registrations and written by jobs."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from DeepAttentionRegEngine import Registered, Settings, expected_error, register
from DeepAttentionRegEngine.evidence import error_model
from DeepAttentionRegEngine.evidence import expected_error as module
from DeepAttentionRegEngine.evidence.error_model import Layers, load_calibration
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.phantom.thorax import PhantomPair, default_geometry, make_phantom
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.contract import RegisterJob, build
from DeepAttentionRegEngine.protocol.registry import resources
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.fields import resize
from DeepAttentionRegEngine.volume.segments import as_segments
from engine_cases import quiet

pytestmark = pytest.mark.torch

PLAIN = Settings(method="none", alignment="none", device="cpu", refinement_steps=15)
FLAT = pytest.mark.parametrize("flat", [False, True], ids=["volume", "slice"])


def phantom(*, flat: bool = False) -> PhantomPair:
    size = (96, 96, 1) if flat else (40, 34, 40)
    spacing = (330 / 96,) * 3 if flat else (330 / 40, 275 / 34, 330 / 40)
    return make_phantom(default_geometry(size, spacing, flat=flat))


def registered(pair: PhantomPair, settings: Settings = PLAIN, *, mirrored: bool = False) -> Registered:
    moving = pair.moving[:, :, ::-1].copy() if mirrored else pair.moving
    return register((pair.fixed, pair.fixed_geometry), (moving, pair.moving_geometry), settings)


@pytest.fixture(scope="module")
def good() -> Registered:
    return registered(phantom())


class TestGoodRegistration:
    @FLAT
    def test_is_unremarkable(self, flat: bool) -> None:
        told = expected_error(registered(phantom(flat=flat))).told
        assert told["known"]
        assert told["verdict"] == "unremarkable"
        assert told["probability"] < 0.3
        assert told["regions"] == []

    def test_bound_holds_for_most_of_the_body(self, good: Registered) -> None:
        pair, found = phantom(), expected_error(good)
        bound = resize(found.within_mm[..., None], found.geometry, good.geometry)[..., 0]
        error = np.linalg.norm(good.displacement_lps_mm - pair.displacement_lps_mm, axis=-1)
        # 95 % of many registrations; of a single one it may be less.
        assert (error <= bound)[pair.fixed_labels > 0].mean() > 0.8

    def test_map_covers_the_field_of_view(self, good: Registered) -> None:
        found = expected_error(good)
        assert found.within_mm.shape == found.geometry.shape
        assert found.within_mm.dtype == np.float32
        assert (found.within_mm > 0).all()
        corners = np.array([[0, 0, 0], np.array(good.geometry.size) - 1], float)
        index = found.geometry.lps_to_index(good.geometry.index_to_lps(corners))
        assert (index > -0.51).all()
        assert (index < np.array(found.geometry.size) - 0.49).all()

    def test_tells_no_warning(self, good: Registered) -> None:
        assert expected_error(good).warnings == []


class TestFailedRegistration:
    @FLAT
    def test_is_said_to_have_failed(self, flat: bool) -> None:
        found = expected_error(registered(phantom(flat=flat), mirrored=True))
        assert found.told["verdict"] == "failed"
        assert found.warnings == [found.told["sentence"]]
        assert "probably failed" in found.told["sentence"]

    def test_has_no_bound(self) -> None:
        found = expected_error(registered(phantom(), mirrored=True))
        assert found.within_mm is None
        assert "mm" not in found.told

    def test_names_where(self) -> None:
        regions = expected_error(registered(phantom(), mirrored=True)).told["regions"]
        assert regions
        assert regions[0]["volume_mm3"] > 1e5


class TestRegions:
    def test_lie_where_errors_are_likely(self, good: Registered) -> None:
        clues = module.gather(good.search.pair, good.search.displacement)
        off = torch.zeros_like(clues.seen)
        off[5:15, 10:20, 12:22] = True
        found = module._regions(clues, off.flatten(), torch.full((off.numel(),), 12.0), None)
        assert len(found) == 1
        expected = clues.geometry.index_to_lps(np.array([[16.5, 14.5, 9.5]]))[0]
        np.testing.assert_allclose(found[0]["center_lps"], expected, atol=1e-6)
        assert found[0]["volume_mm3"] == pytest.approx(1000 * np.prod(clues.geometry.spacing))
        assert found[0]["within_mm"] == 12.0

    def test_are_told_in_words_of_the_patient(self) -> None:
        text = module._place({"center_lps": [-10.0, 20.0, 30.0], "volume_mm3": 12000.0})
        assert text == "around R 10, P 20, S 30 (12 ml)"

    def test_of_slices_have_an_area(self) -> None:
        text = module._place({"center_lps": [10.0, -20.0, -30.0], "area_mm2": 55.2})
        assert text == "around L 10, A 20, I 30 (55 mm2)"

    def test_are_called_by_the_segment_that_holds_most_of_them(self, good: Registered) -> None:
        pair, clues = phantom(), module.gather(good.search.pair, good.search.displacement)
        labels = as_segments((pair.fixed_labels, pair.fixed_geometry))
        points = pair.fixed_geometry.index_to_lps(np.argwhere(pair.fixed_labels == 5)[:, ::-1].astype(float))
        assert module._segment_at(labels, points) == "5"
        assert module._segment_at(labels, points + 1000.0) == ""
        assert "mostly in Liver" in module._place({"center_lps": [0, 0, 0], "volume_mm3": 1e3, "segment": "Liver"})
        whole = as_segments((np.ones_like(pair.fixed_labels), pair.fixed_geometry))
        everywhere = module._regions(clues, clues.seen.flatten(), torch.ones(clues.seen.numel()), whole)
        assert everywhere[0]["segment"] == "1"

    def test_are_named_where_a_run_is_suspicious(self) -> None:
        region = {"center_lps": [0.0, 0.0, 0.0], "volume_mm3": 1000.0}
        verdicts = load_calibration(3).verdicts
        word, sentence = module._verdict(verdicts, verdicts.suspicious, 9.9, [region])
        assert word == "suspicious"
        assert sentence.startswith("Errors above 9.9 mm are likely around ")


class TestUnknown:
    def reason(self, found: Registered) -> str:
        told = expected_error(found).told
        assert not told["known"]
        return told["reason"]

    def test_method_that_was_not_calibrated(self) -> None:
        settings = replace(PLAIN, method="bspline", refinement_steps=0, recursions=2)
        assert "not calibrated for bspline" in self.reason(registered(phantom(flat=True), settings))

    def test_weights_that_have_changed(self, good: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
        good = replace(good, measures={**good.measures, "weights": "rman-general"})
        assert expected_error(good).told["known"]
        listed = error_model.listed_weights("rman-general")
        monkeypatch.setattr(error_model, "listed_weights", lambda name: replace(listed, sha256="0"))
        assert "not calibrated for rman-general" in self.reason(good)

    def test_weights_of_ones_own(self, good: Registered) -> None:
        assert "mine.pt" in self.reason(replace(good, measures={**good.measures, "weights": "mine.pt"}))

    def test_run_unlike_all_that_is_known(self, good: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
        known = replace(load_calibration(3), limit=0.0)
        monkeypatch.setattr(module, "load_calibration", lambda axes: known)
        assert "unlike" in self.reason(good)

    def test_thin_volume(self, good: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "LEAST_SIDE", 1000)
        assert "thinner" in self.reason(good)

    def test_judging_that_fails_loses_nothing(self, good: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            msg = "CUDA error"
            raise RuntimeError(msg)

        monkeypatch.setattr(module, "gather", broken)
        assert "could not be computed (RuntimeError)" in self.reason(good)

    def test_damaged_calibration(self, good: Registered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / "calibration.json"
        path.write_text("{}", encoding="ascii")
        monkeypatch.setattr(module, "load_calibration", lambda axes: load_calibration(axes, path))
        assert "damaged" in self.reason(good)


class TestJob:
    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, str]:
        pair = phantom()
        found = {name: str(tmp_path / f"{name}.mha") for name in ("fixed", "moving")}
        for name, file in found.items():
            images.write_volume(file, getattr(pair, name), pair.fixed_geometry)
        return found

    def test_writes_the_bound_and_tells_the_verdict(self, files: dict[str, str], tmp_path: Path) -> None:
        target = str(tmp_path / "error.nrrd")
        result = run(build(RegisterJob, {**self.plain(), **files, "output_error": target}), quiet())
        assert result.outputs["error"] == target
        assert images.read_volume(target).array.min() > 0
        assert result.values["expected_error"]["verdict"] == "unremarkable"
        json.dumps(result.values)

    def test_tells_the_verdict_without_a_file(self, files: dict[str, str]) -> None:
        result = run(build(RegisterJob, {**self.plain(), **files}), quiet())
        assert result.values["expected_error"]["known"]
        assert "error" not in result.outputs

    def test_writes_none_where_the_error_is_not_known(self, files: dict[str, str], tmp_path: Path) -> None:
        target = tmp_path / "error.nrrd"
        job = {**self.plain(), **files, "method": "bspline", "recursions": 2, "refinement_steps": 0}
        result = run(build(RegisterJob, {**job, "output_error": str(target)}), quiet())
        assert not target.exists()
        assert "error" not in result.outputs
        assert not result.values["expected_error"]["known"]

    def plain(self) -> dict[str, Any]:
        return asdict(PLAIN)


class TestLayers:
    def test_are_dense_layers_with_silu_between(self) -> None:
        layers = Layers([1.0], [2.0], [[[3.0]], [[5.0]]], [[0.5], [7.0]])
        inner = torch.tensor(3.0 * (5.0 - 1.0) / 2.0 + 0.5)
        expected = 5 * inner * torch.sigmoid(inner) + 7
        torch.testing.assert_close(layers(torch.tensor([[5.0]]))[0, 0], expected)

    def test_inputs_far_off_count_no_more_than_the_farthest(self) -> None:
        layers = Layers([0.0], [1.0], [[[1.0]]], [[0.0]])
        assert layers(torch.tensor([[100.0]])).item() == error_model.BEYOND


class TestShippedCalibration:
    @pytest.mark.parametrize("axes", [2, 3])
    def test_stands_for_the_general_weights_as_they_are(self, axes: int) -> None:
        known = load_calibration(axes)
        suffix = "-2d" if axes == 2 else ""
        for weights in ("none", f"rman-general{suffix}", f"adregnet-general{suffix}"):
            assert known.covers(weights)
        assert not known.covers("agf-brain")

    def test_stands_for_no_other_weights_of_the_same_name(self) -> None:
        known = replace(load_calibration(3), digests={"rman-general": "0" * 64, "bspline": ""})
        assert not known.covers("rman-general")
        assert known.covers("bspline")  # has no weights

    def test_tells_how_it_was_made(self) -> None:
        made = json.loads((resources() / error_model.FILE).read_text(encoding="ascii"))["made"]
        assert made["command"].startswith("python -m training calibrate")

    def test_damaged_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "calibration.json"
        path.write_text('{"3": {}}', encoding="ascii")
        with pytest.raises(errors.EngineError, match="damaged"):
            load_calibration(3, path)
