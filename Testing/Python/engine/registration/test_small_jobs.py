"""Small jobs: what recursions leave behind, stopping and failing without a trace."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.networks.base import AttentionMap, CrossAttention, Evidence, StepNetwork
from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.contract import Progress
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.grid import GridPolicy
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.registration import method_run, registrar, search
from DeepAttentionRegEngine.registration.registered import Registered
from DeepAttentionRegEngine.registration.registrar import Registrar
from DeepAttentionRegEngine.volume import images, recursions
from engine_cases import blob_source, centered, quiet

pytestmark = pytest.mark.torch


class Scripted(StepNetwork):
    """A network whose every pass predicts the next of some shifts in voxels along i."""

    def __init__(self, *shifts: float) -> None:
        super().__init__()
        self.shifts = iter(shifts)

    def forward(self, warped: torch.Tensor, fixed: torch.Tensor, evidence: Evidence | None = None) -> torch.Tensor:
        if evidence is not None:
            evidence.maps.append(AttentionMap("relevance", "fixed", fixed[..., ::2, ::2, ::2]))
            token = torch.arange(8.0).view(1, 8, 1)
            evidence.attention.append(CrossAttention("level 4", token, 50 * token, (2, 2, 2), (2, 2, 2), 16, 16))
        shift = torch.tensor([0.0, 0.0, next(self.shifts)]).view(1, 3, 1, 1, 1)
        return shift.expand(1, 3, *fixed.shape[2:]).clone()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts a scripted network in place of the trained one."""
    return lambda *shifts: monkeypatch.setattr(registrar, "load_network", lambda *_: Scripted(*shifts))


def contented(after: int, events: list[Progress], stage: str) -> Reporter:
    """Return a reporter that has enough once a stage was heard of so many times, its announcement not counted."""
    return Reporter(events.append, lambda: False, lambda: sum(event.stage == stage for event in events) > after)


class TestFinishing:
    def test_recursions_end_and_refinement_is_left_out(
        self, shifted: Callable, scripted: Callable, tmp_path: Path
    ) -> None:
        scripted(0.5, 0.75, 0.75)
        job = shifted(method="rman", recursions=3, refinement_steps=5, output_transform=str(tmp_path / "t.nrrd"))
        events: list[Progress] = []
        result = run(job, contented(3, events, "recursion"))  # the method is announced, too
        field, _ = images.read_displacement(tmp_path / "t.nrrd")
        np.testing.assert_allclose(field, np.broadcast_to([2.5, 0.0, 0.0], field.shape), atol=1e-4)
        assert result.values["recursions"] == 2
        assert "refine" not in {event.stage for event in events}
        assert any("Finished early" in warning for warning in result.warnings)

    def test_refinement_ends_with_the_best_field_so_far(self, shifted: Callable) -> None:
        events: list[Progress] = []
        values = run(shifted(refinement_steps=50), contented(12, events, "refine")).values
        assert [event.step for event in events if event.stage == "refine"] == list(range(13))
        assert values["refined_similarity"] > 0.1

    def test_iterations_within_a_level_end(self, shifted: Callable) -> None:
        events: list[Progress] = []
        values = run(shifted(method="bspline"), contented(12, events, "recursion")).values
        assert sum("Iteration" in event.message for event in events) == 11
        assert values["recursions"] == 1

    def test_progress_never_goes_back(self, shifted: Callable) -> None:
        events: list[Progress] = []
        run(shifted(method="bspline"), quiet(events))
        steps = [event.step for event in events if event.stage == "recursion"]
        assert steps == sorted(steps)
        assert set(steps) == {0, 1, 2, 3}


class TestMemory:
    @pytest.fixture
    def small_card(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A graphics card whose memory is never enough."""
        proper = Registrar._run

        def run_on(self: Registrar, *arguments: Any) -> Registered:
            if self.device.type != "cpu":
                msg = "CUDA out of memory"
                raise torch.cuda.OutOfMemoryError(msg)
            return proper(self, *arguments)

        monkeypatch.setattr(Registrar, "_run", run_on)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    @pytest.mark.usefixtures("small_card")
    def test_registration_moves_to_the_cpu(self, shifted: Callable) -> None:
        events: list[Progress] = []
        result = run(shifted(device="auto"), quiet(events))
        assert result.values["device"] == "cpu"
        assert any("CPU is used" in warning for warning in result.warnings)
        assert any("too little memory" in event.message for event in events)

    @pytest.mark.usefixtures("small_card")
    def test_device_that_was_asked_for_is_not_left(self, shifted: Callable) -> None:
        with pytest.raises(EngineError) as caught:
            run(shifted(device="cuda"), quiet())
        assert caught.value.code == errors.OUT_OF_MEMORY


class TestNetwork:
    def test_recursions_add_up_in_the_field(self, shifted: Callable, scripted: Callable, tmp_path: Path) -> None:
        scripted(0.5, 0.75, 0.75)
        run(shifted(method="rman", recursions=3, output_transform=str(tmp_path / "t.nrrd")), quiet())
        field, _ = images.read_displacement(tmp_path / "t.nrrd")
        np.testing.assert_allclose(field, np.broadcast_to([4.0, 0.0, 0.0], field.shape), atol=1e-4)

    def test_best_recursion_is_reported(self, shifted: Callable, scripted: Callable) -> None:
        scripted(1.0, 1.0, 0.5)
        values = run(shifted(method="rman", recursions=3), quiet()).values
        assert (values["best_recursion"], len(values["similarity"])) == (2, 4)

    @pytest.mark.parametrize("shifts", [(-2.0, -2.0), (1.0, float("nan")), (1.0, -8.0)])
    def test_field_that_ends_worse_than_it_began_is_left_out(
        self, shifted: Callable, scripted: Callable, shifts: tuple[float, ...], tmp_path: Path
    ) -> None:
        scripted(*shifts)
        run(shifted(method="rman", recursions=2, output_transform=str(tmp_path / "t.nrrd")), quiet())
        assert not images.read_displacement(tmp_path / "t.nrrd")[0].any()

    @pytest.mark.parametrize(
        ("shift", "after", "kept"),
        [(2.0, 0.4, True), (-2.0, 0.4, False), (-2.0, 0.44, False), (-2.0, 0.46, True)],
        ids=["together, as of two modalities", "apart", "apart, little too much", "apart, hardly less alike"],
    )
    def test_field_is_kept_that_brings_structures_together_or_takes_little_of_the_correlation(
        self,
        shifted: Callable,
        scripted: Callable,
        shift: float,
        after: float,
        kept: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        scripted(shift)
        falling = iter([0.5, after, after])
        monkeypatch.setattr(method_run, "similarity", lambda *_: next(falling))
        warnings = run(shifted(method="rman", recursions=1), quiet()).warnings
        assert any("less similar" in warning for warning in warnings) != kept

    def test_similarity_is_told_on_one_grid_throughout(
        self, shifted: Callable, scripted: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Scripted, "minimum_size", 16)
        monkeypatch.setattr(GridPolicy, "network_size", lambda *_: (16, 16, 16))
        scripted(0.0)
        # Without a step of refinement worth taking the field stays what it was.
        monkeypatch.setattr(search, "refine", lambda pair, initial, *_: initial)
        values = run(shifted(method="rman", recursions=1, refinement_steps=1), quiet()).values
        assert values["refined_similarity"] == pytest.approx(values["similarity"][-1], abs=1e-6)

    def test_broken_field_can_still_be_reported(self, shifted: Callable, scripted: Callable) -> None:
        scripted(float("nan"))
        assert contract.dump_event(run(shifted(method="rman", recursions=1), quiet()))

    def test_field_after_every_recursion_is_kept(self, shifted: Callable, scripted: Callable, tmp_path: Path) -> None:
        scripted(0.5, 0.75, 0.75)
        shown, folder = [], tmp_path / "a" / "b"

        def look(event: Any) -> None:
            if event.file:
                shown.append(images.read_displacement(event.file)[0].mean((0, 1, 2))[0])

        run(shifted(method="rman", recursions=3, output_recursions=str(folder)), Reporter(look))
        np.testing.assert_allclose(shown, [1.0, 2.5, 4.0], atol=1e-4)
        kept = [images.read_displacement(folder / f"recursion_{number}.nrrd")[0] for number in (1, 2, 3)]
        np.testing.assert_allclose([field.mean((0, 1, 2))[0] for field in kept], shown)

    def test_folder_of_recursions_tells_what_the_network_attended_to(
        self, shifted: Callable, scripted: Callable, tmp_path: Path
    ) -> None:
        scripted(0.5, 0.75)
        run(shifted(method="rman", recursions=2, output_recursions=str(tmp_path), attention=True), quiet())
        index = recursions.read_index(tmp_path)
        assert [step.displacement for step in index.recursions] == ["recursion_1.nrrd", "recursion_2.nrrd"]
        shown = images.read_volume(tmp_path / index.recursions[1].maps[0]["file"])
        assert shown.geometry.shape == tuple(n // 2 for n in index.grid.shape)
        np.testing.assert_allclose(shown.geometry.center_lps, index.grid.center_lps, atol=1e-6)
        # The keys of the scripted attention grow with the token, so every query looks at the last one.
        attention = recursions.read_attention(tmp_path / index.recursions[0].attention[0]["file"])
        assert attention.row(1).argmax() == 7

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"weights": "rman-hippocampus-mr"}, "no weights"),
            ({"output_recursions": "r"}, "no recursions"),
            ({"method": "rman", "attention": True}, "no place"),
            ({"method": "rman", "recursions": 99}, "1 to 10"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, shifted: Callable, options: dict[str, Any], complaint: str) -> None:
        with pytest.raises(EngineError, match=complaint):
            run(shifted(**options), quiet())

    def test_folder_that_cannot_be_written_is_told_of_before_the_method_runs(
        self, shifted: Callable, scripted: Callable, tmp_path: Path
    ) -> None:
        scripted()  # predicts nothing: running it would fail
        (tmp_path / "file").touch()
        with pytest.raises(EngineError) as caught:
            run(shifted(method="rman", output_recursions=str(tmp_path / "file")), quiet())
        assert caught.value.code == errors.OUTPUT_UNWRITABLE

    def test_unknown_refinement_beside_the_weights_is_a_sentence(
        self, shifted: Callable, scripted: Callable, tmp_path: Path
    ) -> None:
        scripted(0.5)
        (tmp_path / "own.pt").touch()
        (tmp_path / "own.json").write_text('{"refinement": {"speed": 3}}', encoding="ascii")
        job = shifted(method="rman", recursions=1, weights=str(tmp_path / "own.pt"), refinement_steps=1)
        with pytest.raises(EngineError, match="speed"):
            run(job, quiet())

    def test_field_of_view_unlike_in_training_is_warned_of(
        self, shifted: Callable, scripted: Callable, tmp_path: Path
    ) -> None:
        scripted(0.0)
        path = str(tmp_path / "large.nrrd")
        source = blob_source(centered((32, 32, 32), (4.0, 4.0, 4.0)))
        images.write_volume(path, source.array, source.geometry)
        job = shifted(method="rman", weights="rman-hippocampus-mr", recursions=1, fixed=path, moving=path)
        warnings = run(job, quiet()).warnings
        assert any("fields of view" in warning for warning in warnings)


def cancelled_at(poll: int) -> tuple[Reporter, list[int]]:
    """Return a reporter that cancels at the n-th poll, counted from 0, and the list it counts in."""
    polls: list[int] = []

    def cancelled() -> bool:
        polls.append(len(polls))
        return len(polls) > poll

    return Reporter(lambda event: None, cancelled), polls


class TestNothingLeft:
    @staticmethod
    def options(folder: Path) -> dict[str, Any]:
        return {
            "method": "rman",
            "recursions": 2,
            "refinement_steps": 1,
            "output_recursions": str(folder / "recursions"),
            "output_transform": str(folder / "t.h5"),
            "output_warped": str(folder / "w.nrrd"),
            "output_jacobian": str(folder / "j.nrrd"),
        }

    def test_cancelling_at_any_poll_leaves_no_file(self, shifted: Callable, scripted: Callable, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        job = shifted(**self.options(out))
        scripted(1.0, 1.0)
        reporter, polls = cancelled_at(10**6)
        run(job, reporter)
        assert len(polls) == 13  # load, align, recursion (4), refine (4), evaluate (2), write
        for path in sorted(out.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        for poll in range(len(polls)):
            scripted(1.0, 1.0)
            with pytest.raises(EngineError) as caught:
                run(job, cancelled_at(poll)[0])
            assert caught.value.code == errors.CANCELLED
            assert list(out.rglob("*")) == [], f"cancelled at poll {poll}"

    def test_failure_while_writing_removes_what_was_written(
        self, shifted: Callable, scripted: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: str, *_: object) -> None:
            raise EngineError(errors.OUTPUT_UNWRITABLE, f"The file {path} cannot be written: no space left on device.")

        out = tmp_path / "out"
        out.mkdir()
        scripted(1.0, 1.0)
        monkeypatch.setattr(images, "write_volume", full)
        with pytest.raises(EngineError, match="no space left"):
            run(shifted(**self.options(out)), quiet())
        assert list(out.rglob("*")) == []

    def test_file_from_before_survives_a_cancelled_job(self, shifted: Callable, tmp_path: Path) -> None:
        path = tmp_path / "t.nrrd"
        path.write_bytes(b"from before")
        with pytest.raises(EngineError):
            run(shifted(refinement_steps=1, output_transform=str(path)), cancelled_at(3)[0])
        assert path.read_bytes() == b"from before"

    @pytest.mark.parametrize("name", ["missing/t.nrrd", "t.foo", ""])
    def test_impossible_output_is_refused_before_any_work(self, shifted: Callable, tmp_path: Path, name: str) -> None:
        events: list[Progress] = []
        with pytest.raises(EngineError) as caught:
            run(shifted(output_transform=str(tmp_path / name)), quiet(events))
        assert (caught.value.code, events) == (errors.OUTPUT_UNWRITABLE, [])
