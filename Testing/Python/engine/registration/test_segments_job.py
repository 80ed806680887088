"""Registrations of segments: each is measured and warped by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import EngineError, Settings, jobs, register
from DeepAttentionRegEngine.protocol.batch import job_of
from DeepAttentionRegEngine.protocol.contract import BatchJob, MetricsJob, WarpJob
from DeepAttentionRegEngine.protocol.pair_table import Pair
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.volume import images, segments
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.segment_pairs import Segment
from DeepAttentionRegEngine.volume.segments import Segments
from engine_cases import blob_source, centered, matrix4, moved_grid

pytestmark = pytest.mark.torch

GRID = centered((32, 32, 32), (2.0, 2.0, 2.0))
SHIFT = (4.0, 0.0, 0.0)  # two voxels
MOVED = moved_grid(GRID, matrix4(np.eye(3), SHIFT))
STILL = Settings(method="none", alignment="none", refinement_steps=0, device="cpu")
BOXES = {
    "Liver": (slice(8, 16), slice(8, 16), slice(8, 16)),
    "Heart": (slice(20, 24),) * 3,
    "Body": (slice(5, 27),) * 3,
}


def layered(geometry: Geometry, names: list[str], value: int = 1) -> Segments:
    """Return boxes, one within another, each in a layer of its own and all of one value."""
    layers = []
    for name in names:
        layer = np.zeros(geometry.shape, np.uint8)
        layer[BOXES[name]] = value
        layers.append(layer)
    return Segments(layers, geometry, [Segment(name, value, layer) for layer, name in enumerate(names)])


def found(fixed: Any, moving: Any, **options: Any) -> Any:
    image = blob_source(GRID).array
    return register((image, GRID), (image, MOVED), STILL, fixed_labels=fixed, moving_labels=moving, **options)


def expected_dice(name: str) -> float:
    """Return the overlap of a box with itself two voxels further."""
    i = BOXES[name][2]
    return 1 - 2 / (i.stop - i.start)


class TestOverlap:
    @pytest.mark.parametrize("names", [["Liver", "Heart"], ["Liver", "Heart", "Body"]])
    def test_segments_are_measured_as_if_each_were_alone(self, names):
        scores = found(layered(GRID, names), layered(MOVED, names)).measures["after"]["dice"]
        assert {name: scores[name] for name in names} == pytest.approx({name: expected_dice(name) for name in names})
        assert scores["mean"] == pytest.approx(np.mean([expected_dice(name) for name in names]))

    def test_order_and_values_of_the_other_side_do_not_matter(self):
        moving = layered(MOVED, ["Body", "Liver", "Heart"], value=3)
        scores = found(layered(GRID, ["Liver", "Heart", "Body"]), moving).measures["after"]["dice"]
        assert scores["Heart"] == pytest.approx(expected_dice("Heart"))

    def test_label_map_against_a_segmentation_of_its_values_is_paired_by_value(self):
        plain = layered(GRID, ["Liver"]).layers[0]
        result = found((plain, GRID), layered(MOVED, ["Liver"]))
        assert result.measures["after"]["dice"]["Liver"] == pytest.approx(expected_dice("Liver"))
        assert "Paired by label value, not by name: 1 with Liver." in result.warnings

    def test_label_map_against_layers_of_one_value_is_refused(self):
        first, second = layered(GRID, ["Liver", "Heart"]).layers
        with pytest.raises(EngineError, match=r"No segment of the fixed image \(1, 2\)"):
            found((first + 2 * second, GRID), layered(MOVED, ["Liver", "Heart"]))

    def test_what_has_no_partner_is_listed_and_left_out_of_the_mean(self):
        result = found(layered(GRID, ["Liver", "Body"]), layered(MOVED, ["Liver", "Heart"]))
        assert result.measures["unpaired"] == {"fixed": ["Body"], "moving": ["Heart"]}
        assert result.measures["after"]["dice"]["mean"] == pytest.approx(expected_dice("Liver"))
        assert "Without a partner, so not measured: Body (fixed); Heart (moving)." in result.warnings

    def test_values_of_large_label_maps_stay_apart(self):
        far = 2**62 + 1
        array = np.zeros(GRID.shape, np.int64)
        array[BOXES["Liver"]], array[BOXES["Heart"]] = far, far + 1
        scores = found((array, GRID), (array, MOVED)).measures["after"]["dice"]
        assert scores[str(far)] == pytest.approx(expected_dice("Liver"))


class TestFiles:
    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, str]:
        names = ["Liver", "Heart", "Body"]
        for side, grid in (("fixed", GRID), ("moving", MOVED)):
            segments.write_segments(tmp_path / f"{side}.seg.nrrd", layered(grid, names))
        field = np.broadcast_to(np.array(SHIFT, np.float32), (*GRID.shape, 3))
        images.write_displacement(tmp_path / "field.nrrd", field, GRID)
        return {name: str(tmp_path / name) for name in ("fixed.seg.nrrd", "moving.seg.nrrd", "field.nrrd")}

    def test_warped_segments_are_whole_and_keep_their_names(self, shifted, files, tmp_path):
        output = str(tmp_path / "warped.seg.nrrd")
        labels = {"fixed_labels": files["fixed.seg.nrrd"], "moving_labels": files["moving.seg.nrrd"]}
        jobs.run(shifted(**labels, output_warped_labels=output), Reporter())
        warped = segments.as_segments(output)
        assert [item.name for item in warped.items] == ["Liver", "Heart", "Body"]
        wanted = [layer.sum() for layer in layered(GRID, ["Liver", "Heart", "Body"]).layers]
        assert [layer.sum() for layer in warped.layers] == wanted

    def test_label_map_that_cannot_hold_them_is_refused_before_the_work(self, shifted, files, tmp_path):
        job = shifted(moving_labels=files["moving.seg.nrrd"], output_warped_labels=str(tmp_path / "warped.nrrd"))
        with pytest.raises(EngineError, match=r"overlap.*Give it a name that ends in \.seg\.nrrd"):
            jobs.run(job, Reporter())

    def test_warp_moves_every_layer(self, files, tmp_path):
        output = str(tmp_path / "warped.seg.nrrd")
        jobs.run(
            WarpJob(moving=files["moving.seg.nrrd"], transform=files["field.nrrd"], output=output, labels=True),
            Reporter(),
        )
        for layer, wanted in zip(
            segments.as_segments(output).layers, layered(GRID, ["Liver", "Heart", "Body"]).layers, strict=True
        ):
            np.testing.assert_array_equal(layer, wanted)

    def test_metrics_of_a_field_are_by_name(self, files):
        job = MetricsJob(
            transform=files["field.nrrd"], fixed_labels=files["fixed.seg.nrrd"], moving_labels=files["moving.seg.nrrd"]
        )
        assert jobs.run(job, Reporter()).values["after"]["dice"] == dict.fromkeys(["Liver", "Heart", "Body", "mean"], 1)

    def test_segmentation_may_be_a_mask(self, shifted, files):
        assert jobs.run(shifted(fixed_mask=files["fixed.seg.nrrd"]), Reporter()).values

    def test_batch_writes_segments_for_segments(self, files):
        fields = {"fixed": "f.nrrd", "moving": "m.nrrd", "moving_labels": files["moving.seg.nrrd"]}
        job = job_of(Pair("a", fields), BatchJob(pairs="pairs.csv", output="results"))
        assert Path(job.output_warped_labels).name == "warped_labels.seg.nrrd"
