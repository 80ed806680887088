"""Structures that a network tells apart: on an image, and as evidence of what a registration did to them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine import EngineError, Settings, structures
from DeepAttentionRegEngine.cli import job_from, make_parser
from DeepAttentionRegEngine.deform.warp import sample
from DeepAttentionRegEngine.evidence.structure_colors import STANDARD, color_of
from DeepAttentionRegEngine.evidence.structures import PREDICTED, _label_map
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.networks.base import Evidence, StepNetwork
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.batch import job_of
from DeepAttentionRegEngine.protocol.contract import BatchJob, RegisterJob, StructuresJob
from DeepAttentionRegEngine.protocol.pair_table import Pair
from DeepAttentionRegEngine.registration import registrar
from DeepAttentionRegEngine.registration.preprocess import Source, on_grid
from DeepAttentionRegEngine.registration.resampling import mapped_indices
from DeepAttentionRegEngine.volume import images, metrics
from DeepAttentionRegEngine.volume.geometry import index_map
from DeepAttentionRegEngine.volume.segments import as_segments
from engine_cases import blob_source, centered, matrix4, moved_grid, quiet, rotation, storage_orders, stored_otherwise

pytestmark = pytest.mark.torch

NAMES = ["left kidney", "liver"]
LOW, HIGH = 0.35, 0.65
GRID = centered((40, 34, 30), (2.0, 2.5, 3.0), rotation(10, -20, 15))
SHIFTED = moved_grid(GRID, matrix4(np.eye(3), (4.0, 0.0, 0.0)))


class Bands(StepNetwork):
    """Tells what is bright from what is less so, and moves by a number of voxels along i."""

    def __init__(self, shift: float = 0.0, high: float = HIGH) -> None:
        super().__init__()
        self.shift, self.high = shift, high

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        field = torch.zeros(1, fixed.ndim - 2, *fixed.shape[2:])
        field[:, -1] = self.shift
        return field

    def memberships(self, image: Tensor) -> Tensor:
        bright = (200 * (image - self.high)).sigmoid()
        less = (1 - bright) * (200 * (image - LOW - self.high + HIGH)).sigmoid()
        return torch.cat([1 - bright - less, less, bright], 1)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that puts a network in place of the trained one and returns the settings that choose it."""

    def put(network: StepNetwork | None = None, **told: Any) -> dict[str, Any]:
        monkeypatch.setattr(registrar, "load_network", lambda *_: network or Bands())
        weights = tmp_path / "own.pt"
        weights.touch()
        weights.with_suffix(".json").write_text(json.dumps({"structures": NAMES, **told}), encoding="ascii")
        return {"method": "rman", "weights": str(weights), "device": "cpu"}

    return put


@pytest.fixture
def job(use: Callable, tmp_path: Path) -> RegisterJob:
    """Registers the blobs to themselves, two voxels further, by a network that moves nothing."""
    source = blob_source(GRID)
    for side, grid in (("fixed", GRID), ("moving", SHIFTED)):
        images.write_volume(tmp_path / f"{side}.nrrd", source.array, grid)
    files = {side: str(tmp_path / f"{side}.nrrd") for side in ("fixed", "moving")}
    settings = {**use(Bands()), "alignment": "none", "recursions": 1, "refinement_steps": 0}
    return RegisterJob(**files, **settings, output_structures=str(tmp_path / "out"))


def expected(source: Source) -> np.ndarray:
    """Return the label map of the analytic image by its brightness."""
    low, high = np.percentile(source.array, (0.5, 99.5))
    image = (source.array - low) / (high - low)
    return (image > LOW).astype(np.uint8) + (image > HIGH)


class TestOnImage:
    @pytest.mark.parametrize("order", storage_orders()[::11], ids=str)
    def test_label_map_lies_on_the_grid_of_the_image_however_it_is_stored(self, use: Callable, order: Any) -> None:
        source = stored_otherwise(blob_source(GRID), *order)
        found = structures((source.array, source.geometry), Settings(**use()))
        assert found.geometry == source.geometry
        dice = metrics.dice(found.layers[0], expected(source))
        assert min(dice.values()) > 0.95, dice  # the working grid has voxels of another shape
        back = on_grid(Source(found.layers[0], found.geometry), GRID)
        plain = structures((blob_source(GRID).array, GRID), Settings(**use())).layers[0]
        assert min(metrics.dice(back, plain).values()) > 0.99

    def test_single_slice_is_one(self, use: Callable) -> None:
        flat = centered((60, 1, 50), (1.5, 4.0, 1.5), rotation(5, 10, 0))
        source = blob_source(flat)
        found = structures((source.array, flat), Settings(**use()))
        assert found.layers[0].shape == flat.shape
        assert min(metrics.dice(found.layers[0], expected(source)).values()) > 0.97

    def test_outlines_are_smoother_than_the_grid_of_the_network(self, use: Callable, monkeypatch: Any) -> None:
        source, settings = blob_source(GRID), Settings(**use())
        coarse = registrar.REFINEMENT_ALONE.coarser(GRID.size, GRID.spacing, 8)
        monkeypatch.setattr(registrar.Registrar, "policy", lambda *_: coarse)
        labels = structures((source.array, GRID), settings).layers[0]
        assert min(metrics.dice(labels, expected(source)).values()) > 0.9

    def test_all_names_are_listed_in_their_order_with_their_colors(self, use: Callable) -> None:
        found = structures((blob_source(GRID).array, GRID), Settings(**use()))
        assert [(item.name, item.value) for item in found.items] == [("left kidney", 1), ("liver", 2)]
        colors = [[round(255 * float(part)) for part in item.details["Color"].split()] for item in found.items]
        assert [tuple(color) for color in colors] == [STANDARD["kidney"], STANDARD["liver"]]

    def test_image_without_any_is_told(self, use: Callable) -> None:
        found = structures((blob_source(GRID).array, GRID), Settings(**use(Bands(high=2.0), anatomy="Abdomen")))
        assert not found.layers[0].any()
        assert found.notes[-1].endswith("see none of their structures (Abdomen) on the image.")

    def test_other_field_of_view_than_that_of_the_training_is_told(self, use: Callable) -> None:
        found = structures((blob_source(GRID).array, GRID), Settings(**use(extent_mm=[300, 400])))
        assert "do not rely on what they find" in found.notes[0]


class TestLabelMap:
    @pytest.mark.parametrize("turn", [(0, 0, 0), (20, -10, 30)], ids=["straight", "oblique"])
    def test_voxels_belong_to_what_is_largest_between_the_nodes(self, turn: tuple[int, int, int]) -> None:
        nodes, onto = centered((12, 11, 10), (3.0, 3.0, 3.0)), centered((30, 25, 20), (1.3, 1.4, 1.8), rotation(*turn))
        noise = torch.randn(1, 4, 10, 11, 12, generator=torch.Generator().manual_seed(0))
        memberships = torch.nn.functional.avg_pool3d(noise, 5, 1, 2)  # some nodes are like all of their neighbors
        index = mapped_indices(index_map(onto, nodes, np.eye(4)), onto.shape, slice(None), memberships)
        wanted = sample(memberships, index.flip(0)[None])[0].argmax(0)
        np.testing.assert_array_equal(_label_map(memberships, nodes, onto), wanted)


class TestRefusal:
    @pytest.mark.parametrize("settings", [Settings(method="rman"), Settings(method="none")], ids=["rman", "none"])
    def test_method_without_structures_is_a_sentence(self, settings: Settings) -> None:
        with pytest.raises(EngineError, match="tells no structures apart") as caught:
            structures((blob_source(GRID).array, GRID), settings)
        assert caught.value.code == errors.CONTRACT

    def test_names_that_are_not_those_of_the_network_are_a_sentence(self, use: Callable) -> None:
        with pytest.raises(EngineError, match="name 1 structures, but their network tells 2 apart"):
            structures((blob_source(GRID).array, GRID), Settings(**use(structures=["liver"])))

    @pytest.mark.parametrize("method", ["rman", "none"])
    def test_registration_is_refused_before_it_begins(self, job: RegisterJob, tmp_path: Path, method: str) -> None:
        events: list[Any] = []
        with pytest.raises(EngineError, match="no structures"):
            run(replace(job, method=method, weights=None), quiet(events))
        assert not events
        assert not (tmp_path / "out").exists()


class TestFile:
    @pytest.fixture
    def job(self, use: Callable, tmp_path: Path) -> StructuresJob:
        images.write_volume(tmp_path / "image.nrrd", blob_source(GRID).array, GRID)
        return StructuresJob(image=str(tmp_path / "image.nrrd"), output=str(tmp_path / "found.seg.nrrd"), **use())

    def test_segmentation_has_names_and_colors(self, job: StructuresJob) -> None:
        result = run(job, quiet())
        found = as_segments(result.outputs["structures"])
        assert [item.name for item in found.items] == NAMES
        assert all("Color" in item.details for item in found.items)
        told = result.values["structures"]["liver"]
        assert told["voxels"] == int((found.layers[0] == 2).sum()) > 0
        assert told["volume_ml"] == pytest.approx(told["voxels"] * GRID.voxel_volume / 1000)

    @pytest.mark.parametrize("name", ["found.nrrd", "found.nii.gz"])
    def test_label_map_has_the_values(self, job: StructuresJob, tmp_path: Path, name: str) -> None:
        run(replace(job, output=str(tmp_path / name)), quiet())
        assert set(np.unique(images.read_labels(tmp_path / name).array)) == {0, 1, 2}

    def test_image_is_not_replaced(self, job: StructuresJob) -> None:
        with pytest.raises(EngineError, match="both read and written"):
            run(replace(job, output=job.image), quiet())

    def test_command_line_asks_for_it(self) -> None:
        words = ["structures", "a.nrrd", "b.seg.nrrd", "--weights", "agf-hippocampus-mr"]
        job = job_from(make_parser().parse_args(words))
        assert job == StructuresJob(image="a.nrrd", output="b.seg.nrrd", weights="agf-hippocampus-mr")


class TestRegistration:
    def test_folder_holds_what_was_found_and_measured(self, job: RegisterJob, tmp_path: Path) -> None:
        result = run(job, quiet())
        assert result.outputs["structures"] == str(tmp_path / "out" / "structures.json")
        told = json.loads((tmp_path / "out" / "structures.json").read_text(encoding="ascii"))
        assert told["files"] == {side: f"{side}_structures.seg.nrrd" for side in ("fixed", "moving", "warped")}
        for side, grid in (("fixed", GRID), ("moving", SHIFTED), ("warped", GRID)):
            found = as_segments(tmp_path / "out" / told["files"][side])
            assert found.geometry.matches(grid)
            assert [item.name for item in found.items] == NAMES
        assert told["predicted"] is True
        assert told["note"] == result.values["structures"]["note"] == PREDICTED

    @pytest.mark.slow
    def test_numbers_are_those_of_the_same_segments_given(self, job: RegisterJob, tmp_path: Path) -> None:
        told = run(job, quiet()).values["structures"]
        files = {side: str(tmp_path / "out" / f"{side}_structures.seg.nrrd") for side in ("fixed", "moving")}
        given = {f"{side}_labels": file for side, file in files.items()}
        again = run(replace(job, **given, output_structures=None), quiet()).values
        for state in ("before", "aligned", "after"):
            assert told[state] == again[state]
        assert told["before"]["dice"]["liver"] < 1
        assert set(told["jacobian"]["liver"]) == set(again["jacobian"])

    def test_deformation_brings_them_together(self, job: RegisterJob, monkeypatch: pytest.MonkeyPatch) -> None:
        identity = centered((40, 34, 30), (2.0, 2.0, 2.0))
        source = blob_source(identity)
        for side, grid in (("fixed", identity), ("moving", moved_grid(identity, matrix4(np.eye(3), (4.0, 0.0, 0.0))))):
            images.write_volume(getattr(job, side), source.array, grid)
        monkeypatch.setattr(registrar, "load_network", lambda *_: Bands(shift=2.0))
        told = run(job, quiet()).values["structures"]
        assert told["before"]["dice"]["mean"] < 0.9
        assert told["after"]["dice"]["mean"] > 0.99
        assert told["volume_ml"]["liver"]["warped"] == pytest.approx(told["volume_ml"]["liver"]["moving"], rel=0.02)
        assert told["jacobian"]["liver"]["mean"] == pytest.approx(1, abs=1e-3)

    def test_anatomy_that_is_not_in_view_is_told_and_the_rest_goes_on(
        self, job: RegisterJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registrar, "load_network", lambda *_: Bands(high=2.0))
        result = run(replace(job, output_transform=str(tmp_path / "t.nrrd")), quiet())
        told = [text for text in result.warnings if "see none of their structures" in text]
        assert [text.rsplit(" on ", 1)[1] for text in told] == ["the fixed image.", "the moving image."]
        assert (tmp_path / "t.nrrd").is_file()
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["structures.json"]

    @pytest.mark.slow
    def test_folder_is_filled_anew_but_not_that_of_others(self, job: RegisterJob, tmp_path: Path) -> None:
        for _ in range(2):
            run(job, quiet())
        (tmp_path / "out" / "structures.json").unlink()
        with pytest.raises(EngineError, match="nothing tells that a registration has made it"):
            run(job, quiet())

    def test_pair_of_a_batch_gets_a_folder_of_its_own(self, job: RegisterJob, tmp_path: Path) -> None:
        fields = {"fixed": job.fixed, "moving": job.moving}
        batch = BatchJob(pairs="p.csv", output=str(tmp_path), outputs=["structures"])
        assert job_of(Pair("a", fields), batch).output_structures == str(tmp_path / "a" / "structures")


class TestColors:
    def test_sides_are_alike_where_the_standard_has_them_so(self) -> None:
        assert color_of("left thalamus", 1) == color_of("Right thalamus", 2) == STANDARD["thalamus"]
        assert color_of("left atrium", 1) != color_of("right atrium", 2)

    def test_others_differ_from_their_neighbors(self) -> None:
        colors = np.array([color_of("something", number) for number in range(1, 6)], float)
        assert np.abs(np.diff(colors, axis=0)).max(1).min() > 60
