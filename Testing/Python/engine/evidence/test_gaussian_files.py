"""Sequences of Gaussians as files: the same field in the world as in the network, rendered at any resolution."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from DeepAttentionRegEngine.deform.gaussians import Gaussians, move, rotation_2d, rotation_3d
from DeepAttentionRegEngine.deform.gaussians import render as render_voxels
from DeepAttentionRegEngine.evidence.gaussian_files import (
    ACROSS_MM,
    Sequence3d,
    gather,
    in_world,
    read_sequence,
    render,
    write_sequence,
)
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.base import Evidence, StepNetwork
from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.registration import method_run, registrar
from DeepAttentionRegEngine.registration.preprocess import displacement_to_lps
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.recursions import read_index
from engine_cases import blob_source, centered, matrix4, rotation

pytestmark = pytest.mark.torch

TURN = rotation(12, -25, 40)
VOLUME = centered((26, 34, 20), (2.0, 2.0, 2.0), TURN, (15.0, -60.0, 200.0))
SLICE = centered((26, 34, 1), (2.0, 2.0, 7.0), TURN, (15.0, -60.0, 200.0))
FINE = centered((40, 31, 23), (1.1, 2.3, 1.7), rotation(-3, 8, 20), (15.0, -60.0, 200.0))
grids = pytest.mark.parametrize("grid", [VOLUME, SLICE], ids=["volume", "slice"])
AFFINE = matrix4(np.diag([1.1, 0.9, 1.0]) @ rotation(0, 0, 5), (4.0, -7.0, 2.0))


def make_steps(nd: int, count: int = 3) -> list[Gaussians]:
    """Return steps of two bumps each."""
    torch.manual_seed(0)
    center, vector = (0.6 * torch.rand(count, 1, 2, nd) - 0.3 for _ in range(2))
    sigma = 0.15 + 0.2 * torch.rand(count, 1, 2, nd)
    turn = rotation_2d(math.pi * torch.rand(count, 1, 2)) if nd == 2 else rotation_3d(torch.randn(count, 1, 2, 3))
    return [Gaussians(*parts) for parts in zip(center, sigma, turn, 0.2 * vector, strict=True)]


def sequence(grid: Geometry, mode: str = "compose", alignment: np.ndarray | None = None) -> Sequence3d:
    return gather(make_steps(2 if grid.is_flat else 3), grid, mode, np.eye(4) if alignment is None else alignment)


class TestWorld:
    @grids
    @pytest.mark.parametrize("mode", ["sum", "compose"])
    def test_field_is_that_of_the_network(self, grid: Geometry, mode: str) -> None:
        steps = make_steps(2 if grid.is_flat else 3)
        spatial = grid.shape[1:] if grid.is_flat else grid.shape
        expected = displacement_to_lps(render_voxels(steps, mode, spatial), grid).movedim(0, -1)
        # 1e-3 mm: coordinates of the network in single precision, over 68 mm.
        np.testing.assert_allclose(render(sequence(grid, mode), grid), expected, atol=1e-3)

    @pytest.mark.parametrize("size", [(26, 34, 20), (26, 34, 1)], ids=["volume", "slice"])
    def test_voxels_need_not_be_cubes(self, size: tuple[int, int, int]) -> None:
        grid = centered(size, (2.0, 2.3, 1.8), TURN, (15.0, -60.0, 200.0))
        steps = make_steps(2 if grid.is_flat else 3)
        spatial = grid.shape[1:] if grid.is_flat else grid.shape
        expected = displacement_to_lps(render_voxels(steps, "compose", spatial), grid).movedim(0, -1)
        np.testing.assert_allclose(render(gather(steps, grid, "compose", np.eye(4)), grid), expected, atol=1e-3)

    @grids
    def test_distant_gaussians_are_left_out(self, grid: Geometry) -> None:
        # Vectors of 7 mm at most, each of six Gaussians cut where it is below 0.0004 of its peak.
        steps = [
            Gaussians(s.center, s.sigma / 4, s.rotation, s.vector / 4) for s in make_steps(2 if grid.is_flat else 3)
        ]
        found = gather(steps, grid, "sum", np.eye(4))
        fine = grid.resized((2 * grid.size[0], 2 * grid.size[1], grid.size[2]))
        index = np.indices(fine.shape).reshape(3, -1)[::-1].T
        points = torch.tensor(fine.index_to_lps(index).T.copy())[None]
        expected = (move(points, found.steps, "sum") - points)[0].T.reshape(*fine.shape, 3)
        np.testing.assert_allclose(render(found, fine), expected, atol=6 * 7 * 4e-4)

    def test_slice_does_not_move_across_its_plane(self) -> None:
        normal = np.reshape(SLICE.direction, (3, 3))[:, 2]
        np.testing.assert_allclose(render(sequence(SLICE), FINE) @ normal, 0, atol=1e-4)

    def test_axes_are_turned_into_the_world(self) -> None:
        world = in_world(make_steps(3)[0], VOLUME)
        identity = torch.eye(3, dtype=torch.float64).expand(1, 2, 3, 3)
        torch.testing.assert_close(world.rotation @ world.rotation.transpose(2, 3), identity, atol=1e-5, rtol=0)

    def test_slice_extends_alike_across_its_plane(self) -> None:
        assert bool((in_world(make_steps(2)[0], SLICE).sigma[..., 2] == ACROSS_MM).all())

    @grids
    def test_alignment_acts_after_the_sequence(self, grid: Geometry) -> None:
        points = FINE.index_to_lps(np.indices(FINE.size).reshape(3, -1).T).reshape(*FINE.size, 3).transpose(2, 1, 0, 3)
        moved = points + render(sequence(grid), FINE)
        expected = moved @ AFFINE[:3, :3].T + AFFINE[:3, 3]
        np.testing.assert_allclose(points + render(sequence(grid, alignment=AFFINE), FINE), expected, atol=1e-3)


class TestFile:
    @grids
    def test_what_is_written_renders_the_same(self, grid: Geometry, tmp_path: Path) -> None:
        written = sequence(grid, alignment=AFFINE)
        write_sequence(tmp_path / "g.json", written)
        np.testing.assert_allclose(render(read_sequence(tmp_path / "g.json"), FINE), render(written, FINE), atol=1e-5)

    @pytest.mark.parametrize(("grid", "numbers"), [(VOLUME, 3 * 2 * 12), (SLICE, 3 * 2 * 7)], ids=["volume", "slice"])
    def test_numbers_are_counted(self, grid: Geometry, numbers: int, tmp_path: Path) -> None:
        write_sequence(tmp_path / "g.json", sequence(grid))
        assert json.loads((tmp_path / "g.json").read_text(encoding="ascii"))["numbers"] == numbers
        assert read_sequence(tmp_path / "g.json").numbers == numbers

    @pytest.mark.parametrize(
        "changes",
        [
            {"mode": "dance"},
            {"dimensions": 4},
            {"alignment": [1]},
            {"steps": []},
            {"steps": [[]]},
            {"steps": [[{"center_lps": [0, 0, 0]}]]},
            {"steps": 3},
        ],
    )
    def test_damaged_file_is_refused(self, changes: dict[str, object], tmp_path: Path) -> None:
        path = tmp_path / "g.json"
        write_sequence(path, sequence(VOLUME))
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="ascii")), **changes}), encoding="ascii")
        with pytest.raises(EngineError, match="damaged") as caught:
            read_sequence(path)
        assert caught.value.code == errors.INPUT_UNREADABLE

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("center_lps", [float("nan"), 0.0, 0.0]),
            ("center_lps", [10**400, 0, 0]),
            ("vector_lps", [1.0, 2.0]),
            ("axes_lps", [[1, 0, 0], [1, 0, 0], [0, 0, 1]]),
            ("axes_lps", [[2, 0, 0], [0, 1, 0], [0, 0, 1]]),
            ("sigma_mm", [0.0, 1.0, 1.0]),
        ],
    )
    def test_impossible_gaussian_is_refused(self, name: str, value: object, tmp_path: Path) -> None:
        path = tmp_path / "g.json"
        write_sequence(path, sequence(VOLUME))
        data = json.loads(path.read_text(encoding="ascii"))
        data["steps"][1][0][name] = value
        path.write_text(json.dumps(data), encoding="ascii")
        with pytest.raises(EngineError, match="damaged"):
            read_sequence(path)

    def test_truncated_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "g.json"
        write_sequence(path, sequence(VOLUME))
        path.write_text(path.read_text(encoding="ascii")[:-40], encoding="ascii")
        with pytest.raises(EngineError, match="damaged"):
            read_sequence(path)

    def test_negative_deviation_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "g.json"
        write_sequence(path, sequence(VOLUME))
        path.write_text(path.read_text(encoding="ascii").replace('"sigma_mm": [', '"sigma_mm": [-'), encoding="ascii")
        with pytest.raises(EngineError, match="damaged"):
            read_sequence(path)


TINY = {"widths": (4, 4, 4, 8), "blocks": 1, "hidden": 8, "norm": "none", "mode": "compose"}


class Still(StepNetwork):
    """Moves nothing."""

    def forward(self, warped: torch.Tensor, fixed: torch.Tensor, evidence: Evidence | None = None) -> torch.Tensor:
        return torch.zeros(1, fixed.ndim - 2, *fixed.shape[2:])


class TestJob:
    @pytest.fixture(params=[pytest.param(3, marks=pytest.mark.slow), 2], ids=["volume", "slice"])
    def job(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> contract.RegisterJob:
        """Register a blob with itself by a small network that says something at random."""
        torch.manual_seed(1)
        network = build("r2n2", {"nd": request.param, "gaussians": 2, **TINY}).eval()
        torch.nn.init.normal_(network.parameter_head.numbers.weight, std=0.2)
        monkeypatch.setattr(registrar, "load_network", lambda *_: network)
        monkeypatch.setattr(method_run, "similarity", lambda *_: 1.0)  # keep the field, whatever it does
        torch.save({}, tmp_path / "any.pt")
        source = blob_source(centered((44, 38, 33 if request.param == 3 else 1), (2.0, 2.5, 3.0), TURN))
        images.write_volume(tmp_path / "image.nrrd", source.array, source.geometry)
        return contract.RegisterJob(
            fixed=str(tmp_path / "image.nrrd"),
            moving=str(tmp_path / "image.nrrd"),
            method="r2n2",
            weights=str(tmp_path / "any.pt"),
            recursions=3,
            refinement_steps=0,
            output_transform=str(tmp_path / "t.nrrd"),
            output_gaussians=str(tmp_path / "g.json"),
            output_recursions=str(tmp_path / "r"),
            attention=True,
        )

    def test_rendered_sequence_is_the_transform(self, job: contract.RegisterJob, tmp_path: Path) -> None:
        quiet = Reporter()
        result = run(job, quiet)
        rendered = str(tmp_path / "rendered.nrrd")
        run(contract.RenderJob(gaussians=str(job.output_gaussians), reference=job.fixed, output=rendered), quiet)
        expected, _ = images.read_displacement(str(job.output_transform))
        found, _ = images.read_displacement(rendered)
        assert np.abs(expected).max() > 1
        # 0.2 mm: the transform interpolates linearly between voxels of 2.5 mm once a step, the narrowest bumps worse.
        assert np.quantile(np.abs(found - expected), 0.999) < 0.2
        nd = 2 if found.shape[0] == 1 else 3
        seen = read_index(tmp_path / "r").grid.size[:nd]
        assert result.values["gaussian_numbers"] == 3 * 2 * (7 if nd == 2 else 12)
        assert result.values["spline_numbers"] == nd * math.prod(math.ceil(n / 7) + 2 for n in seen)

    def test_refined_sequence_is_the_transform_too(self, job: contract.RegisterJob, tmp_path: Path) -> None:
        quiet = Reporter()
        run(job, quiet)
        before, _ = images.read_displacement(str(job.output_transform))
        values = run(contract.RegisterJob(**{**vars(job), "refinement_steps": 4, "similarity": "mse"}), quiet).values
        expected, grid = images.read_displacement(str(job.output_transform))
        assert np.abs(expected - before).max() > 0.01
        assert np.quantile(np.abs(render(read_sequence(tmp_path / "g.json"), grid) - expected), 0.999) < 0.2
        assert "refined_similarity" in values

    def test_sequence_is_not_refined_by_mind(self, job: contract.RegisterJob) -> None:
        other = contract.RegisterJob(**{**vars(job), "refinement_steps": 4, "similarity": "mind"})
        with pytest.raises(EngineError, match="MIND"):
            run(other, Reporter())

    def test_recursions_tell_their_gaussians(self, job: contract.RegisterJob, tmp_path: Path) -> None:
        run(job, Reporter())
        told = [step.gaussians for step in read_index(tmp_path / "r").recursions]
        assert told == json.loads((tmp_path / "g.json").read_text(encoding="ascii"))["steps"]

    def test_method_without_gaussians_says_so(self, job: contract.RegisterJob, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registrar, "load_network", lambda *_: Still())
        with pytest.raises(EngineError, match="no sequence of Gaussians"):
            run(job, Reporter())

    def test_method_without_gaussians_says_so_where_it_fails_too(
        self, job: contract.RegisterJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registrar, "load_network", lambda *_: Still())
        self.make_worse(monkeypatch)
        with pytest.raises(EngineError, match="no sequence of Gaussians"):
            run(job, Reporter())

    def test_user_is_told_that_no_gaussians_are_left(
        self, job: contract.RegisterJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.make_worse(monkeypatch)
        result = run(job, Reporter())
        assert any("no Gaussians left" in warning for warning in result.warnings)
        assert "gaussians" not in result.outputs
        assert not (tmp_path / "g.json").exists()

    @staticmethod
    def make_worse(monkeypatch: pytest.MonkeyPatch) -> None:
        falling = itertools.count(0, -1)
        monkeypatch.setattr(method_run, "similarity", lambda *_: float(next(falling)))
