"""Many images in one go: the network loaded once; for a time series a folder a frame, and stopping in between."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from DeepAttentionRegEngine import cli
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.networks.base import Evidence, StepNetwork
from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.contract import Progress, SequenceJob
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.protocol.result_files import read_result
from DeepAttentionRegEngine.registration import registrar
from DeepAttentionRegEngine.volume import images
from engine_cases import blob_source, centered, matrix4, moved_grid, quiet

pytestmark = pytest.mark.torch

GRID = centered((32, 32, 32), (2.0, 2.0, 2.0))
SHIFTS_MM = (2.0, -4.0, 6.0)


class Still(StepNetwork):
    """Moves nothing."""

    def forward(self, warped: torch.Tensor, fixed: torch.Tensor, evidence: Evidence | None = None) -> torch.Tensor:
        return torch.zeros(1, 3, *fixed.shape[2:])


@pytest.fixture
def job(tmp_path: Path) -> SequenceJob:
    """Frames that lie elsewhere, brought together by their centers."""
    source = blob_source(GRID)
    images.write_volume(tmp_path / "fixed.nrrd", source.array, GRID)
    frames = []
    for number, shift in enumerate(SHIFTS_MM):
        frames.append(str(tmp_path / f"frame{number}.nrrd"))
        images.write_volume(frames[-1], source.array, moved_grid(GRID, matrix4(np.eye(3), (shift, 0.0, 0.0))))
    plain: dict[str, Any] = {"method": "none", "alignment": "center", "refinement_steps": 0, "device": "cpu"}
    return SequenceJob(
        fixed=str(tmp_path / "fixed.nrrd"), frames=frames, output=str(tmp_path / "out"), warped=True, **plain
    )


def test_every_frame_gets_its_own_transform_and_result(job: SequenceJob) -> None:
    events: list[Progress] = []
    result = run(job, quiet(events))
    assert result.values["frames"] == len(SHIFTS_MM)
    told = [event.file for event in events if event.stage == "frame"]
    for file, shift in zip(told, SHIFTS_MM, strict=True):
        found, _ = read_result(Path(str(file)).parent)
        field, _grid = images.read_displacement(found.outputs["transform"])
        np.testing.assert_allclose(field, np.broadcast_to([shift, 0, 0], field.shape), atol=1e-4)
        assert images.read_volume(found.outputs["warped"]).geometry.matches(GRID)
        assert found.values["jacobian"]["folds"] == 0


def test_network_is_loaded_once(job: SequenceJob, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(registrar, "load_network", lambda *given: loaded.append(given) or Still())
    run(SequenceJob(**{**vars(job), "method": "rman", "recursions": 1}), quiet())
    assert len(loaded) == 1


def test_batch_with_the_same_settings_loads_it_once_too(
    job: SequenceJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(registrar, "load_network", lambda *given: loaded.append(given) or Still())
    rows = "".join(f"{job.fixed},{frame}\n" for frame in job.frames)
    (tmp_path / "pairs.csv").write_text(f"fixed,moving\n{rows}", encoding="ascii")
    settings = {"method": "rman", "recursions": 1, "refinement_steps": 0, "device": "cpu"}
    batch = contract.BatchJob(pairs=str(tmp_path / "pairs.csv"), output=str(tmp_path / "pairs"), settings=settings)
    assert run(batch, quiet()).values["done"] == len(SHIFTS_MM)
    assert len(loaded) == 1


def test_finishing_at_once_still_registers_one_frame(job: SequenceJob) -> None:
    assert run(job, Reporter(enough=lambda: True)).values["frames"] == 1


def test_frame_that_is_missing_is_told_of_before_the_first(job: SequenceJob) -> None:
    Path(job.frames[2]).unlink()
    with pytest.raises(EngineError, match="frame2"):
        run(job, quiet())
    assert not Path(job.output).exists()


def test_folder_that_cannot_be_made_is_a_sentence(job: SequenceJob, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be written"):
        run(SequenceJob(**{**vars(job), "output": str(tmp_path / "fixed.nrrd" / "x")}), quiet())


def test_frame_is_not_overwritten(job: SequenceJob, tmp_path: Path) -> None:
    inside = tmp_path / "out" / "1" / "warped.nrrd"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(Path(job.frames[0]).read_bytes())
    before = inside.read_bytes()
    with pytest.raises(EngineError, match="both read and written"):
        run(SequenceJob(**{**vars(job), "frames": [str(inside)]}), quiet())
    assert inside.read_bytes() == before


def test_finishing_keeps_the_frames_that_are_done(job: SequenceJob) -> None:
    events: list[Progress] = []
    enough = Reporter(events.append, enough=lambda: any(event.stage == "frame" for event in events))
    assert run(job, enough).values["frames"] == 1
    assert [path.name for path in Path(job.output).iterdir()] == ["1"]


def test_frame_that_cannot_be_read_ends_it_and_leaves_the_others(job: SequenceJob) -> None:
    Path(job.frames[1]).write_bytes(b"NRRD0004")
    with pytest.raises(EngineError, match="frame1"):
        run(job, quiet())
    assert [path.name for path in Path(job.output).iterdir()] == ["1"]


def test_command_line_asks_for_the_same(job: SequenceJob, capsys: pytest.CaptureFixture[str]) -> None:
    files = [job.fixed, *job.frames, "--output", job.output]
    options = ["--method", "none", "--refinement-steps", "0", "--device", "cpu", "--json"]
    assert cli.main(["sequence", *files, *options]) == 0
    result = contract.parse_event(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(result, contract.Result)
    assert result.values["frames"] == len(SHIFTS_MM)
