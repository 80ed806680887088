"""Labels, landmarks and transforms that do not belong to their image are refused in a sentence, never measured as 0."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import Registered, Settings, Volume, register
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.contract import MetricsJob, WarpJob
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.registration.registered import NOTHING_WARPED
from DeepAttentionRegEngine.volume import images
from engine_cases import blob_source, centered, matrix4, moved_grid, quiet

pytestmark = pytest.mark.torch

GRID = centered((24, 24, 24), (2.0, 2.0, 2.0))
FAR = moved_grid(GRID, matrix4(np.eye(3), (500.0, 0.0, 0.0)))
STILL = Settings(method="none", alignment="none", refinement_steps=0, device="cpu")
IMAGE = Volume(blob_source(GRID).array, GRID)
MARKED = (IMAGE.array > 0.4).astype(np.uint8)
HERE, ELSEWHERE, EMPTY = Volume(MARKED, GRID), Volume(MARKED, FAR), Volume(0 * MARKED, GRID)
INSIDE = np.array([[0.0, 0.0, 0.0], [5.0, -5.0, 8.0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a field without motion, and labels and images here and elsewhere, are files."""
    folder = tmp_path_factory.mktemp("files")
    images.write_displacement(folder / "t.nrrd", np.zeros((*GRID.shape, 3), np.float32), GRID)
    given = {"labels": HERE, "far_labels": ELSEWHERE, "image": IMAGE, "far_image": Volume(IMAGE.array, FAR)}
    for name, volume in given.items():
        images.write_volume(folder / f"{name}.nrrd", volume.array, volume.geometry)
    return folder


class TestLabels:
    @pytest.mark.parametrize("lost", [ELSEWHERE, EMPTY], ids=["elsewhere", "empty"])
    @pytest.mark.parametrize("side", ["fixed", "moving"])
    def test_labels_that_mark_nothing_of_their_image_are_refused(self, side: str, lost: Volume) -> None:
        given = {"fixed_labels": HERE, "moving_labels": HERE, f"{side}_labels": lost}
        with pytest.raises(EngineError, match=f"{side} labels mark no voxel of the {side} image") as caught:
            register(IMAGE, IMAGE, STILL, **given)
        assert caught.value.code == errors.INPUT_INVALID

    def test_moving_labels_alone_that_lie_elsewhere_are_refused(self) -> None:
        with pytest.raises(EngineError, match="moving labels mark no voxel"):
            register(IMAGE, IMAGE, STILL, moving_labels=ELSEWHERE)

    def test_fixed_labels_alone_are_refused(self) -> None:
        with pytest.raises(EngineError, match="no moving labels to be compared with") as caught:
            register(IMAGE, IMAGE, STILL, fixed_labels=HERE)
        assert caught.value.code == errors.INPUT_MISSING

    def test_moving_labels_alone_are_warped(self, shifted: Callable, folder: Path, tmp_path: Path) -> None:
        labels = {"moving_labels": str(folder / "labels.nrrd"), "output_warped_labels": str(tmp_path / "w.nrrd")}
        assert run(shifted(**labels), quiet()).warnings == []
        assert images.read_labels(tmp_path / "w.nrrd").array.any()

    def test_moving_labels_for_nothing_are_told(self, shifted: Callable, folder: Path) -> None:
        (warning,) = run(shifted(moving_labels=str(folder / "labels.nrrd")), quiet()).warnings
        assert warning.startswith("The moving labels were not used")

    def test_moving_labels_that_nothing_of_the_fixed_image_shows_are_told(self, tmp_path: Path) -> None:
        corner = Volume(np.pad(np.ones((4, 4, 4), np.uint8), (0, 20)), GRID)
        shown = IMAGE.array[8:, 8:, 8:], centered((16, 16, 16), (2.0, 2.0, 2.0))
        shown = Volume(shown[0], moved_grid(shown[1], matrix4(np.eye(3), (8.0, 8.0, 8.0))))
        found = register(shown, IMAGE, STILL, moving_labels=corner)
        found.write({"warped_labels": str(tmp_path / "w.nrrd")})
        assert found.warnings == [NOTHING_WARPED]

    def test_segments_that_meet_nothing_of_their_partner_are_told(self) -> None:
        first, last = (Volume(np.pad(np.ones((4, 4, 4), np.uint8), pad), GRID) for pad in ((0, 20), (20, 0)))
        (warning,) = register(IMAGE, IMAGE, STILL, fixed_labels=first, moving_labels=last).warnings
        assert warning.startswith("After the registration nothing of 1 meets its partner")


class TestLandmarks:
    @pytest.mark.parametrize("side", ["fixed", "moving"])
    def test_landmarks_that_all_lie_outside_are_refused(self, side: str) -> None:
        given = {"fixed_points": INSIDE, "moving_points": INSIDE, f"{side}_points": INSIDE + 300}
        with pytest.raises(EngineError, match=f"All 2 {side} landmarks lie outside of the {side} image"):
            register(IMAGE, IMAGE, STILL, **given)

    def test_one_landmark_outside_is_told(self) -> None:
        moving = INSIDE + np.array([[0.0, 0.0, 0.0], [0.0, 200.0, 0.0]])
        found = register(IMAGE, IMAGE, STILL, fixed_points=INSIDE, moving_points=moving)
        assert found.warnings == ["1 of 2 moving landmarks lie outside of the moving image."]

    def test_landmarks_beside_the_plane_of_a_slice_belong_to_it(self) -> None:
        plane = centered((40, 40, 1), (1.0, 1.0, 1.0))
        flat = Volume(blob_source(plane).array, plane)
        points = INSIDE + np.array([0.0, 0.0, 30.0])
        assert register(flat, flat, STILL, fixed_points=points, moving_points=points).warnings == []


class TestMeasuring:
    def job(self, folder: Path, **labels: str) -> MetricsJob:
        return MetricsJob(
            transform=str(folder / "t.nrrd"), **{key: str(folder / f"{name}.nrrd") for key, name in labels.items()}
        )

    @pytest.mark.parametrize(
        ("labels", "complaint"),
        [
            ({"fixed_labels": "far_labels", "moving_labels": "labels"}, "fixed labels mark no voxel"),
            ({"fixed_labels": "labels", "moving_labels": "far_labels"}, "leads nowhere"),
            ({"fixed_labels": "labels"}, "no moving labels"),
            ({"moving_labels": "labels"}, "no fixed labels"),
        ],
        ids=["fixed elsewhere", "moving elsewhere", "fixed alone", "moving alone"],
    )
    def test_labels_that_cannot_be_compared_are_refused(
        self, folder: Path, labels: dict[str, str], complaint: str
    ) -> None:
        with pytest.raises(EngineError, match=complaint):
            run(self.job(folder, **labels), quiet())

    def test_labels_that_belong_together_are_measured(self, folder: Path) -> None:
        found = run(self.job(folder, fixed_labels="labels", moving_labels="labels"), quiet())
        assert found.values["after"]["dice"]["mean"] == 1


class TestWarping:
    @staticmethod
    def job(folder: Path, moving: Path, output: Path, *, is_label: bool = False) -> WarpJob:
        return WarpJob(moving=str(moving), transform=str(folder / "t.nrrd"), output=str(output), labels=is_label)

    @pytest.mark.parametrize(("name", "is_label"), [("far_image", False), ("far_labels", True)])
    def test_volume_elsewhere_makes_no_empty_result(
        self, folder: Path, tmp_path: Path, name: str, is_label: bool
    ) -> None:
        with pytest.raises(EngineError, match="leads nowhere") as caught:
            run(self.job(folder, folder / f"{name}.nrrd", tmp_path / "w.nrrd", is_label=is_label), quiet())
        assert caught.value.code == errors.NO_OVERLAP
        assert not (tmp_path / "w.nrrd").exists()

    def test_dark_image_in_place_is_warped(self, folder: Path, tmp_path: Path) -> None:
        images.write_volume(tmp_path / "dark.nrrd", 0 * IMAGE.array, GRID)
        run(self.job(folder, tmp_path / "dark.nrrd", tmp_path / "w.nrrd"), quiet())
        assert not images.read_volume(tmp_path / "w.nrrd").array.any()

    def test_result_refuses_to_warp_what_lies_elsewhere(self) -> None:
        registered: Registered = register(IMAGE, IMAGE, STILL)
        with pytest.raises(EngineError, match="leads nowhere"):
            registered.warp(Volume(IMAGE.array, FAR))
