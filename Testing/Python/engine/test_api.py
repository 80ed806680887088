"""The engine as a library: one function for files, images and arrays, and what its result can do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import (
    EngineError,
    Geometry,
    Registered,
    Registrar,
    Settings,
    Volume,
    read,
    register,
    save,
    uncertainty,
)
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.contract import Progress
from DeepAttentionRegEngine.registration import registrar as registrar_module
from DeepAttentionRegEngine.volume import fields, images
from engine_cases import blob_source, centered, matrix4, moved_grid, rotation

pytestmark = pytest.mark.torch

MODULE = Path(registrar_module.__file__).resolve().parents[2]
OWN_METHOD = MODULE.parent / "Resources" / "Documentation" / "own-method" / "center_shift.json"
GRID = centered((36, 30, 28), (2.0, 2.5, 3.0), rotation(10, -20, 15), (5.0, -4.0, 3.0))
SHIFT = matrix4(np.eye(3), (4.0, -2.0, 3.0))
QUICK = Settings(method="none", alignment="none", refinement_steps=6, device="cpu")


def volumes(grid: Geometry = GRID) -> tuple[Volume, Volume]:
    """Return blobs, and the same blobs lying elsewhere."""
    source = blob_source(grid)
    return Volume(source.array, grid), Volume(source.array, moved_grid(grid, SHIFT))


@pytest.fixture(scope="module")
def registered() -> Registered:
    return register(*volumes(), QUICK)


class TestInputs:
    def test_files_images_and_arrays_give_the_same_field(self, registered: Registered, tmp_path: Path) -> None:
        fixed, moving = volumes()
        for name, volume in (("fixed", fixed), ("moving", moving)):
            save(tmp_path / f"{name}.nrrd", volume)
        given: list[tuple[Any, Any]] = [
            (str(tmp_path / "fixed.nrrd"), tmp_path / "moving.nrrd"),
            (images.to_sitk(fixed.array, fixed.geometry), images.to_sitk(moving.array, moving.geometry)),
            ((fixed.array, fixed.geometry), (moving.array, moving.geometry)),
        ]
        for pair in given:
            found = register(*pair, QUICK)
            np.testing.assert_array_equal(found.displacement_lps_mm, registered.displacement_lps_mm)

    def test_initial_map_may_be_a_matrix_a_transform_or_a_file(self, tmp_path: Path) -> None:
        images.write_linear_transform(tmp_path / "start.tfm", SHIFT)
        expected = np.broadcast_to(SHIFT[:3, 3], (*GRID.shape, 3))
        for initial in (SHIFT, images.to_affine(SHIFT), tmp_path / "start.tfm"):
            found = register(*volumes(), Settings(**{**vars(QUICK), "refinement_steps": 0}), initial=initial)
            np.testing.assert_allclose(found.displacement_lps_mm, expected, atol=1e-4)

    def test_mask_that_selects_nothing_is_refused(self) -> None:
        fixed, moving = volumes()
        nothing = Volume(np.zeros(GRID.shape, np.uint8), GRID)
        with pytest.raises(EngineError) as caught:
            register(fixed, moving, QUICK, fixed_mask=nothing)
        assert caught.value.code == errors.MASK_OUTSIDE

    def test_labels_and_landmarks_are_measured_with(self) -> None:
        fixed, moving = volumes()
        labels = [Volume((volume.array > 0.4).astype(np.uint8), volume.geometry) for volume in (fixed, moving)]
        points = GRID.index_to_lps(np.array([[18.0, 15.0, 14.0], [20.0, 12.0, 10.0]]))
        given = {"fixed_labels": labels[0], "moving_labels": labels[1]}
        landmarks = {"fixed_points": points, "moving_points": points + SHIFT[:3, 3]}
        measures = register(fixed, moving, QUICK, **given, **landmarks).measures
        assert measures["after"]["dice"]["mean"] > measures["before"]["dice"]["mean"]
        assert measures["after"]["tre_mm"]["mean"] < measures["before"]["tre_mm"]["mean"]

    @pytest.mark.parametrize(
        ("image", "complaint"),
        [
            (sitk.Image(8, 8, 8, sitk.sitkVectorFloat32), "3 values per voxel"),
            (sitk.Image([8, 8, 8, 2], sitk.sitkFloat32), "series of volumes"),
            ((np.full(GRID.shape, np.nan), GRID), "no finite value"),
            ((np.zeros((3, 4, 5)), GRID), "belong together"),
        ],
        ids=["vectors", "series", "NaN", "shape"],
    )
    def test_what_is_no_scalar_volume_is_a_sentence(self, image: Any, complaint: str) -> None:
        with pytest.raises(EngineError, match=complaint):
            register(image, volumes()[1], QUICK)

    @pytest.mark.parametrize(
        "image", [np.zeros(GRID.shape), None, [[1, 2], [3, 4]], (np.zeros(GRID.shape), GRID.spacing)], ids=str
    )
    def test_image_that_does_not_say_where_it_lies_is_a_sentence(self, image: Any) -> None:
        with pytest.raises(EngineError, match="says not where it lies"):
            register(image, volumes()[1], QUICK)

    @pytest.mark.parametrize("points", [np.zeros((2, 2)), [[0, 0, np.nan]], [["a", "b", "c"]], []])
    def test_landmarks_that_are_no_points_are_a_sentence(self, points: Any) -> None:
        with pytest.raises(EngineError, match="no list of points"):
            register(*volumes(), QUICK, fixed_points=points, moving_points=points)

    @pytest.mark.parametrize("initial", [np.eye(3), [["a"]], np.full((4, 4), np.nan)])
    def test_initial_map_that_is_no_matrix_is_a_sentence(self, initial: Any) -> None:
        with pytest.raises(EngineError, match="4x4"):
            register(*volumes(), QUICK, initial=initial)

    def test_mask_may_be_true_and_false(self) -> None:
        fixed, moving = volumes()
        register(fixed, moving, QUICK, fixed_mask=(fixed.array > 0.3, GRID))

    def test_unknown_argument_is_refused(self) -> None:
        with pytest.raises(TypeError, match="fixedmask"):
            register(*volumes(), QUICK, fixedmask=volumes()[0])

    def test_arguments_may_be_left_open(self) -> None:
        register(*volumes(), QUICK, fixed_mask=None, initial=None, on_progress=None, cancel=None, finish=None)

    def test_recursions_are_the_usual_ones_of_the_weights_that_run(self) -> None:
        registrar = Registrar(Settings(method="agf-diffeo", device="cpu"))
        assert [registrar.resolved(axes).recursions for axes in (2, 3)] == [2, 5]
        named = Registrar(Settings(method="agf-diffeo", recursions=1, device="cpu"))
        assert named.resolved(3).recursions == 1

    def test_number_that_ran_is_told(self) -> None:
        settings = Settings(method="agf-diffeo", alignment="none", refinement_steps=0, device="cpu")
        measures = register(*volumes(), settings).measures
        assert (measures["weights"], measures["recursions"], measures["settings"]["recursions"]) == (
            "agf-hippocampus-mr",
            5,
            5,
        )

    def test_recursions_that_the_method_does_not_take_are_refused_before_any_image(self) -> None:
        with pytest.raises(EngineError, match="1 to 5 recursions, not 9"):
            Registrar(Settings(method="agf-diffeo", recursions=9))

    def test_numbers_of_numpy_are_numbers(self) -> None:
        settings = Settings(recursions=np.int64(2), smoothness=np.float32(0.5), velocity=np.bool_(True))
        assert [type(value) for value in (settings.recursions, settings.smoothness, settings.velocity)] == [
            int,
            float,
            bool,
        ]
        Registrar(settings)

    def test_refinement_alone_has_no_weights(self) -> None:
        with pytest.raises(EngineError, match="no weights"):
            Registrar(Settings(method="none", weights="rman-general"))

    def test_number_out_of_range_is_named(self) -> None:
        with pytest.raises(EngineError, match=r"smoothness is -1"):
            Registrar(Settings(smoothness=-1.0))


class TestResult:
    def test_transform_samples_as_simpleitk_does(self, registered: Registered) -> None:
        fixed, moving = (images.to_sitk(volume.array, volume.geometry) for volume in volumes())
        expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, registered.transform, sitk.sitkLinear, -1.0))
        found = sitk.GetArrayFromImage(registered.warp())
        inside = expected > -1
        assert inside.mean() > 0.8
        np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)

    def test_labels_are_warped_without_mixing(self, registered: Registered) -> None:
        moving = volumes()[1]
        labels = Volume(3 * (moving.array > 0.4).astype(np.uint8), moving.geometry)
        warped = sitk.GetArrayFromImage(registered.warp(labels, nearest=True))
        assert set(np.unique(warped)) == {0, 3}

    def test_jacobian_is_that_of_the_field(self, registered: Registered) -> None:
        expected = fields.jacobian_determinant(registered.displacement_lps_mm, registered.geometry)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(registered.jacobian()), expected)

    def test_inverse_leads_back(self, registered: Registered) -> None:
        points = GRID.index_to_lps(np.array([[18.0, 15.0, 14.0], [20.0, 12.0, 10.0]]))
        inverse = registered.inverse()
        # Both fields are linear between voxels of 2 to 3 mm.
        there = fields.transform_points(registered.displacement_lps_mm, GRID, points)
        np.testing.assert_allclose(fields.transform_points(inverse.displacement, GRID, there), points, atol=0.15)

    def test_saved_folder_holds_all_of_it(self, registered: Registered, tmp_path: Path) -> None:
        files = registered.save(tmp_path / "new" / "folder")
        field, grid = images.read_displacement(files["transform"])
        np.testing.assert_array_equal(field, registered.displacement_lps_mm)
        assert grid.shape == GRID.shape
        assert read(files["warped"]).array.shape == read(files["jacobian"]).array.shape == GRID.shape
        told = json.loads(Path(files["result"]).read_text(encoding="ascii"))["result"]
        assert told["values"]["settings"]["refinement_steps"] == 6

    @pytest.mark.parametrize("name", ["file", "file/below"])
    def test_folder_that_cannot_be_made_is_a_sentence(self, registered: Registered, name: str, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(EngineError) as caught:
            registered.save(tmp_path / name)
        assert caught.value.code == errors.OUTPUT_UNWRITABLE

    def test_unknown_output_is_a_sentence(self, registered: Registered, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="jacobain"):
            registered.write({"jacobain": str(tmp_path / "j.nrrd")})

    def test_uncertainty_is_a_map_on_the_fixed_grid(self) -> None:
        found = register(*volumes(), Settings(**{**vars(QUICK), "refinement_steps": 2, "samples": 2}))
        spread = uncertainty(found)
        assert spread.shape == GRID.shape
        assert spread.max() > 0

    def test_is_told_in_a_line(self, registered: Registered) -> None:
        assert len(repr(registered)) < 1000

    def test_random_numbers_of_the_caller_go_on_as_they_would(self) -> None:
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        register(*volumes(), QUICK)
        assert torch.equal(torch.rand(3), expected)

    def test_measures_tell_what_the_quality_meant(self, registered: Registered) -> None:
        assert registered.measures["settings"]["half_precision"] is False
        assert {"load", "align", "refine", "evaluate"} <= set(registered.seconds)
        assert {"engine", "torch", "numpy", "SimpleITK"} <= set(registered.measures["versions"])


class TestFollowing:
    def test_progress_is_told_in_stages(self) -> None:
        events: list[Progress] = []
        register(*volumes(), QUICK, on_progress=events.append)
        assert list(dict.fromkeys(event.stage for event in events)) == ["load", "align", "refine", "evaluate"]

    def test_cancellation_is_an_error_with_its_code(self) -> None:
        with pytest.raises(EngineError) as caught:
            register(*volumes(), QUICK, cancel=lambda: True)
        assert caught.value.code == errors.CANCELLED

    def test_finishing_keeps_the_best_so_far(self) -> None:
        found = register(*volumes(), Settings(**{**vars(QUICK), "refinement_steps": 500}), finish=lambda: True)
        assert any("Finished early" in warning for warning in found.warnings)


class TestRegistrar:
    def test_network_is_loaded_once_for_many_pairs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = []
        proper = registrar_module.load_network

        def load(*arguments: Any) -> Any:
            loaded.append(arguments)
            return proper(*arguments)

        monkeypatch.setattr(registrar_module, "load_network", load)
        registrar = Registrar(Settings(method=str(OWN_METHOD), refinement_steps=0, device="cpu"))
        for _ in range(2):
            registrar.register(*volumes())
        assert len(loaded) == 1

    def test_same_pair_gives_the_same_field_again(self, registered: Registered) -> None:
        registrar = Registrar(QUICK)
        for _ in range(2):
            found = registrar.register(*volumes())
            np.testing.assert_array_equal(found.displacement_lps_mm, registered.displacement_lps_mm)


class TestOwnMethod:
    @pytest.mark.parametrize("size", [(36, 30, 28), (36, 30, 1)], ids=["volume", "slice"])
    def test_example_of_the_documents_finds_the_shift(self, size: tuple[int, int, int]) -> None:
        grid = centered((40, 44, 40 if size[2] > 1 else 1), (3.0, 3.0, 3.0))
        source = blob_source(grid)
        moving = Volume(source.array, moved_grid(grid, matrix4(np.eye(3), (6.0, -3.0, 0.0))))
        settings = Settings(method=str(OWN_METHOD), alignment="none", recursions=4, refinement_steps=0, device="cpu")
        found = register((source.array, grid), moving, settings)
        middle = found.displacement_lps_mm[grid.shape[0] // 2, 20, 20]
        np.testing.assert_allclose(middle, (6.0, -3.0, 0.0), atol=1.0)
        assert found.measures["recursions"] == 4

    def test_command_line_takes_it(self, tmp_path: Path) -> None:
        from DeepAttentionRegEngine import cli

        for name, volume in zip(("fixed", "moving"), volumes(), strict=True):
            save(tmp_path / f"{name}.nrrd", volume)
        files = [str(tmp_path / "fixed.nrrd"), str(tmp_path / "moving.nrrd")]
        options = ["--method", str(OWN_METHOD), "--refinement-steps", "0", "--device", "cpu"]
        assert cli.main(["register", *files, *options, "--output-transform", str(tmp_path / "t.nrrd")]) == 0
        assert images.read_displacement(tmp_path / "t.nrrd")[0].any()

    @pytest.mark.parametrize(
        ("code", "complaint"),
        [
            ("class Other: pass", "cannot be loaded"),
            ("Mine = 3", "no RegistrationNetwork"),
            ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ],
    )
    def test_file_that_cannot_work_is_a_sentence(self, code: str, complaint: str, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(code, encoding="ascii")
        (tmp_path / "mine.json").write_text('{"architecture": "mine.py:Mine"}', encoding="ascii")
        with pytest.raises(EngineError, match=complaint):
            register(*volumes(), Settings(method=str(tmp_path / "mine.json"), device="cpu"))

    def test_folder_and_title_may_be_named_as_one_likes(self, tmp_path: Path) -> None:
        folder = tmp_path / "my methods"
        folder.mkdir()
        (folder / "mine.py").write_text(OWN_METHOD.with_suffix(".py").read_text(), encoding="ascii")
        description = '{"title": "M\u00fcller", "architecture": "mine.py:CenterShift", "grid": {"3": {"margin": 4}}}'
        (folder / "mine.json").write_text(description, encoding="utf-8")
        settings = Settings(method=str(folder / "mine.json"), refinement_steps=0, device="cpu")
        assert register(*volumes(), settings).measures["recursions"] == 1

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"networks": {"3": {"nowhere": 1}}}, "nowhere"),
            ({"architecture": "unheard-of"}, "unheard-of"),
            ({"normalization": ["a", "b"]}, "is damaged"),
            ({"recursions": {"default": "many"}}, "must be int"),
        ],
        ids=["arguments", "architecture", "normalization", "recursions"],
    )
    def test_description_that_cannot_work_says_why(
        self, change: dict[str, Any], complaint: str, tmp_path: Path
    ) -> None:
        told = {**json.loads(OWN_METHOD.read_text(encoding="ascii")), **change}
        (tmp_path / "center_shift.py").write_text(OWN_METHOD.with_suffix(".py").read_text(), encoding="ascii")
        (tmp_path / "mine.json").write_text(json.dumps(told), encoding="ascii")
        with pytest.raises(EngineError, match=complaint):
            register(*volumes(), Settings(method=str(tmp_path / "mine.json"), device="cpu"))

    def test_missing_or_damaged_description_is_a_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="does not exist"):
            Registrar(Settings(method=str(tmp_path / "mine.json")))
        (tmp_path / "mine.json").write_text("{", encoding="ascii")
        with pytest.raises(EngineError, match="is damaged"):
            Registrar(Settings(method=str(tmp_path / "mine.json")))


def test_importing_the_package_loads_torch_only_when_it_is_needed() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(MODULE)!r})\n"
        "from DeepAttentionRegEngine import Settings, EngineError, Geometry, Volume, read, save\n"
        "Settings(); print('torch' in sys.modules)\n"
        "from DeepAttentionRegEngine import register; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
