"""What jobs do to files: inputs and what others have made survive, outputs come together, nothing is left behind."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepAttentionRegEngine import cli
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.networks.base import Evidence, StepNetwork
from DeepAttentionRegEngine.protocol import contract, errors, files
from DeepAttentionRegEngine.protocol.contract import RegisterJob, WarpJob
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.registration import registrar
from DeepAttentionRegEngine.registration.registrar import register
from DeepAttentionRegEngine.volume import images
from engine_cases import blob_source, centered, quiet
from file_checks import full_disk

pytestmark = pytest.mark.torch

RUN_ENGINE = Path(cli.__file__).resolve().parents[1] / "Scripts" / "run_engine.py"
GRID = centered((16, 16, 16), (2.0, 2.0, 2.0))
PLAIN: dict[str, Any] = {"method": "none", "alignment": "none", "device": "cpu", "refinement_steps": 0}
OUTPUTS = {
    "output_transform": "t.nrrd",
    "output_warped": "w.nii.gz",
    "output_jacobian": "j.mha",
    "output_warped_labels": "l.seg.nrrd",
    "output_uncertainty": "u.nrrd",
    "output_changes": "c.nrrd",
    "output_recursions": "recursions",
}


class Moving(StepNetwork):
    """Moves everything by half a voxel."""

    def forward(self, warped: torch.Tensor, fixed: torch.Tensor, evidence: Evidence | None = None) -> torch.Tensor:
        return torch.full((1, 3, *fixed.shape[2:]), 0.5)


def contents_of(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its path in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    """Return a small pair with labels."""
    image = blob_source(GRID).array
    for name in ("fixed", "moving"):
        images.write_volume(tmp_path / f"{name}.nrrd", image, GRID)
    images.write_volume(tmp_path / "labels.nrrd", (image > 0.5).astype(np.uint8), GRID)
    return {name: str(tmp_path / f"{name}.nrrd") for name in ("fixed", "moving")}


@pytest.fixture
def whole(pair: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RegisterJob:
    """Return a job with all outputs but Gaussians, into a folder of its own."""
    monkeypatch.setattr(registrar, "load_network", lambda *_: Moving())
    (tmp_path / "out").mkdir()
    wanted = {name: str(tmp_path / "out" / file) for name, file in OUTPUTS.items()}
    settings = {**PLAIN, "method": "rman", "recursions": 1, "samples": 2}
    return RegisterJob(**settings, **pair, **wanted, moving_labels=str(tmp_path / "labels.nrrd"))


def refused(job: contract.Job, folder: Path, **options: Any) -> EngineError:
    """Return the error of a job that must change nothing in a folder."""
    before = contents_of(folder)
    with pytest.raises(EngineError) as caught:
        run(job, quiet(), **options)
    assert contents_of(folder) == before
    assert caught.value.code == errors.OUTPUT_UNWRITABLE
    assert caught.value.hint
    return caught.value


class TestInputs:
    @pytest.mark.parametrize("way", ["plain", "symbolic", "hard", "folder", "case"])
    def test_input_in_the_folder_of_recursions_survives(self, pair: dict[str, str], tmp_path: Path, way: str) -> None:
        folder = tmp_path / "r"
        folder.mkdir()
        name = "RECURSION_1.nrrd" if way == "case" else "recursion_1.nrrd"
        if way == "symbolic":
            (folder / name).symlink_to(pair["fixed"])
        elif way == "hard":
            os.link(pair["fixed"], folder / name)
        else:
            os.rename(pair["fixed"], folder / name)
            pair["fixed"] = str(folder / name)
        output = folder
        if way == "folder":
            output = tmp_path / "link"
            output.symlink_to(folder)
        job = RegisterJob(**{**PLAIN, "method": "rman"}, **pair, output_recursions=str(output))
        assert "both read and written" in refused(job, tmp_path).message

    @pytest.mark.parametrize("name", ["recursion_1.nrrd", "Recursion_2.nrrd"])
    def test_output_that_is_named_as_a_recursion_is_refused(
        self, pair: dict[str, str], tmp_path: Path, name: str
    ) -> None:
        (tmp_path / "r").mkdir()
        outputs = {"output_recursions": str(tmp_path / "r"), "output_transform": str(tmp_path / "." / "r" / name)}
        assert (
            "written twice" in refused(RegisterJob(**{**PLAIN, "method": "rman"}, **pair, **outputs), tmp_path).message
        )

    @pytest.mark.parametrize("way", ["plain", "symbolic", "hard", "input"])
    def test_moving_image_is_not_warped_onto_itself(self, pair: dict[str, str], tmp_path: Path, way: str) -> None:
        field, output = tmp_path / "t.nrrd", tmp_path / "warped.nrrd"
        images.write_displacement(field, np.zeros((*GRID.shape, 3), np.float32), GRID)
        if way == "symbolic":
            output.symlink_to(pair["moving"])
        elif way == "hard":
            os.link(pair["moving"], output)
        elif way == "input":
            output.symlink_to(pair["moving"])
            pair["moving"], output = str(output), Path(pair["moving"])
        else:
            output = Path(pair["moving"])
        refused(WarpJob(moving=pair["moving"], transform=str(field), output=str(output)), tmp_path)

    def test_voxels_of_a_detached_header_survive(self, pair: dict[str, str], tmp_path: Path) -> None:
        sitk.WriteImage(sitk.ReadImage(pair["moving"]), str(tmp_path / "m.nhdr"))
        header = (tmp_path / "m.nhdr").read_text(encoding="ascii")
        (data,) = [line.partition(": ")[2] for line in header.splitlines() if line.startswith("data file")]
        (tmp_path / data).rename(tmp_path / "voxels.mha")
        (tmp_path / "m.nhdr").write_text(header.replace(data, "voxels.mha"), encoding="ascii")
        job = RegisterJob(**PLAIN, fixed=pair["fixed"], moving=str(tmp_path / "m.nhdr"))
        assert run(job, quiet())
        refused(contract.build(RegisterJob, {**vars(job), "output_warped": str(tmp_path / "voxels.mha")}), tmp_path)

    @pytest.mark.parametrize("output", ["output_error", "output_uncertainty"])
    def test_map_in_a_file_that_is_no_image_is_refused_beforehand(
        self, pair: dict[str, str], tmp_path: Path, output: str
    ) -> None:
        job = contract.build(RegisterJob, {**PLAIN, **pair, output: str(tmp_path / "map.txt")})
        assert refused(job, tmp_path).code == errors.OUTPUT_UNWRITABLE

    def test_file_of_the_method_survives(self, pair: dict[str, str], tmp_path: Path) -> None:
        method = tmp_path / "mine.json"
        method.write_text("{}", encoding="ascii")
        refused(RegisterJob(**{**PLAIN, "method": str(method)}, **pair, output_gaussians=str(method)), tmp_path)

    def test_job_file_survives(self, pair: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "job.json"
        job = RegisterJob(**{**PLAIN, "method": "r2n2"}, **pair, output_gaussians=str(path))
        path.write_text(contract.dump_job(job), encoding="ascii")
        before = contents_of(tmp_path)
        assert cli.main(["run", str(path)]) == cli.EXIT_FAILED
        assert contents_of(tmp_path) == before
        assert "both read and written" in capsys.readouterr().out

    @pytest.mark.parametrize("frame", ["moving.nrrd", "out/1/warped.nrrd"])
    def test_frame_survives(self, pair: dict[str, str], tmp_path: Path, frame: str) -> None:
        (tmp_path / "out" / "1").mkdir(parents=True)
        os.rename(pair["moving"], tmp_path / frame)
        job = contract.SequenceJob(
            **PLAIN, fixed=pair["fixed"], frames=[str(tmp_path / frame)], output=str(tmp_path / "out"), warped=True
        )
        if frame.startswith("out"):
            refused(job, tmp_path)
        else:
            before = contents_of(tmp_path)
            run(job, quiet())
            assert before.items() <= contents_of(tmp_path).items()

    def test_script_does_not_write_what_it_has_read(self, pair: dict[str, str], tmp_path: Path) -> None:
        registered = register(pair["fixed"], pair["moving"], Settings(**PLAIN))
        before = contents_of(tmp_path)
        with pytest.raises(EngineError, match="both read and written"):
            registered.write({"transform": str(tmp_path / "t.nrrd"), "warped": pair["moving"]})
        assert contents_of(tmp_path) == before


class TestStrangers:
    @pytest.mark.parametrize("name", ["recursions.json", "recursion_2.nrrd", "recursion_1_attention_1.npz"])
    def test_files_in_the_folder_of_recursions_that_others_have_made_survive(
        self, whole: RegisterJob, tmp_path: Path, name: str
    ) -> None:
        (tmp_path / "out" / "recursions").mkdir()
        (tmp_path / "out" / "recursions" / name).write_bytes(b"mine")
        assert "nothing tells that a registration has made it" in refused(whole, tmp_path).message

    def test_earlier_recursions_are_replaced_and_others_files_stay(self, whole: RegisterJob, tmp_path: Path) -> None:
        folder = tmp_path / "out" / "recursions"
        run(whole, quiet())
        (folder / "recursion_1.nrrd").write_bytes(b"")
        (folder / "recursions.json").write_bytes(b"{")
        (folder / "notes.txt").write_bytes(b"mine")
        run(whole, quiet())
        assert images.read_displacement(folder / "recursion_1.nrrd")
        assert (folder / "notes.txt").read_bytes() == b"mine"

    @pytest.mark.parametrize("name", ["result.json", "warped.nrrd"])
    def test_files_in_a_folder_to_save_in_survive(self, pair: dict[str, str], tmp_path: Path, name: str) -> None:
        registered = register(pair["fixed"], pair["moving"], Settings(**PLAIN))
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / name).write_bytes(b"mine")
        with pytest.raises(EngineError, match="nothing tells"):
            registered.save(tmp_path / "out")
        assert contents_of(tmp_path / "out") == {name: b"mine"}
        (tmp_path / "out" / name).unlink()
        for _ in range(2):
            assert len(registered.save(tmp_path / "out")) == 4


class TestTogether:
    def test_all_outputs_are_there(self, whole: RegisterJob, tmp_path: Path) -> None:
        found = run(whole, quiet()).outputs
        assert found.pop("recursions") == str(tmp_path / "out" / "recursions" / "recursions.json")
        assert found == {name[7:]: str(tmp_path / "out" / file) for name, file in list(OUTPUTS.items())[:-1]}
        recursions = {f"recursions/{name}" for name in ("recursion_1.nrrd", "recursions.json")}
        assert contents_of(tmp_path / "out").keys() == {*list(OUTPUTS.values())[:-1], *recursions}

    @pytest.mark.parametrize("earlier", [False, True])
    def test_disk_that_is_full_at_any_file_changes_nothing(
        self, whole: RegisterJob, tmp_path: Path, earlier: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if earlier:
            run(whole, quiet())
        before, proper = contents_of(tmp_path), files._is_complete
        left = [0]  # files that still fit

        def arrives(name: str, complete: Callable[[str], bool]) -> bool:
            left[0] -= 1
            return left[0] >= 0 and proper(name, complete)

        monkeypatch.setattr(files, "_is_complete", arrives)
        for fitting in range(8):
            left[0] = fitting
            with pytest.raises(EngineError, match="only a part arrived"):
                run(whole, quiet())
            assert contents_of(tmp_path) == before
        left[0] = 8  # two of the recursion, and one for each other output
        run(whole, quiet())

    @pytest.mark.parametrize("free", [0, 500, 1000, 2000])
    def test_full_disk_changes_nothing(self, whole: RegisterJob, tmp_path: Path, free: int) -> None:
        run(whole, quiet())
        before = contents_of(tmp_path)
        with full_disk(free), pytest.raises(EngineError) as caught:
            run(whole, quiet())
        assert (caught.value.code, contents_of(tmp_path)) == (errors.OUTPUT_UNWRITABLE, before)
        assert ".deepattentionreg" not in str(caught.value)


@pytest.mark.slow
def test_what_a_killed_engine_leaves_is_private_and_removed_by_the_next(pair: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    settings = ["--method", "none", "--refinement-steps", "1000", "--device", "cpu", "--json"]
    command = [sys.executable, str(RUN_ENGINE), "register", pair["fixed"], pair["moving"], *settings]
    process = subprocess.Popen([*command, "--output-transform", str(out / "t.nrrd")], stdout=subprocess.PIPE, text=True)
    while '"refine"' not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.communicate()
    (left,) = out.iterdir()
    assert sys.platform == "win32" or left.stat().st_mode & 0o777 == 0o700
    shutil.copy(pair["moving"], left / "w.nrrd")  # as if it had come as far as that
    images.write_displacement(tmp_path / "t.nrrd", np.zeros((*GRID.shape, 3), np.float32), GRID)
    assert cli.main(["jacobian", str(tmp_path / "t.nrrd"), str(out / "j.nrrd"), "--json"]) == 0
    assert [path.name for path in out.iterdir()] == ["j.nrrd"]
