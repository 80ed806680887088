"""The spread of displacements over slightly changed images: its arithmetic, its changes, and what a job makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from DeepAttentionRegEngine.deform.warp import warp
from DeepAttentionRegEngine.evidence.uncertainty import Spread, perturb
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.contract import Progress, RegisterJob, Result
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.registration.preprocess import WorkingPair
from DeepAttentionRegEngine.volume import images
from engine_cases import CPU, blob_source, centered, matrix4, moved_grid, smooth_displacement, smooth_noise

pytestmark = pytest.mark.torch

SAMPLES = 4


def pair_of(spatial: tuple[int, ...]) -> WorkingPair:
    fixed, moving = (smooth_noise(spatial, seed=seed) for seed in (1, 2))
    grid = centered((*spatial[::-1], 1)[:3], (1.0, 1.0, 1.0))
    known = {"weight": torch.ones_like(fixed), "geometry": grid, "alignment": np.eye(4)}
    return WorkingPair(fixed, moving, None, (moving > 0.5).float(), **known)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator(CPU).manual_seed(seed)


class TestSpread:
    def test_is_the_standard_deviation_of_vectors(self):
        fields = np.random.default_rng(0).normal(size=(6, 2, 3, 4, 3)).astype(np.float32)
        spread = Spread(fields[0])
        for field in fields[1:]:
            spread.add(field)
        # Of the components, ddof 1, put together.
        np.testing.assert_allclose(spread.millimetres(), np.sqrt(fields.var(0, ddof=1).sum(-1)), rtol=1e-4)

    def test_of_equal_displacements_is_zero(self):
        field = np.full((2, 2, 2, 3), 5.0, np.float32)
        spread = Spread(field)
        spread.add(field)
        assert (spread.millimetres() == 0).all()

    def test_leaves_the_displacements_as_they_are(self):
        first = np.ones((1, 1, 1, 3), np.float32)
        Spread(first).add(3 * first)
        assert (first == 1).all()


class TestPerturbation:
    @pytest.mark.parametrize("spatial", [(24, 28, 32), (28, 32)], ids=["volume", "slice"])
    def test_bending_is_small_and_smooth(self, spatial):
        bending = perturb(pair_of(spatial), generator()).bending
        assert bending.abs().max() == pytest.approx(0.06 * sum(spatial) / len(spatial))
        steps = [bending.diff(dim=axis).abs().max() for axis in range(2, bending.ndim)]
        assert max(steps) < 0.5  # far from folding

    def test_undoing_finds_the_unchanged_image_again(self):
        pair = pair_of((24, 28, 32))
        changed = perturb(pair, generator())
        displacement = smooth_displacement((24, 28, 32), peak=1.5)
        # The changed image at x + u' is the image itself at x + undo(u'), but for color, noise and interpolation.
        seen = warp(changed.pair.moving, displacement)
        itself = warp(pair.moving, changed.undo(displacement))
        inner = (..., *[slice(4, -4)] * 3)
        together = torch.stack([seen[inner].flatten(), itself[inner].flatten()])
        assert torch.corrcoef(together)[0, 1] > 0.98

    def test_smoothness_is_changed_by_a_factor_of_four_at_most(self):
        pair, random = pair_of((16, 16)), generator()
        factors = [perturb(pair, random).smoothness for _ in range(20)]
        assert 0.25 <= min(factors) < 1 < max(factors) <= 4

    def test_mask_moves_along_and_the_grid_stays(self):
        pair = pair_of((12, 14, 16))
        changed = perturb(pair, generator()).pair
        assert not torch.equal(changed.moving_mask, pair.moving_mask)
        assert changed.fixed_mask is None
        assert changed.geometry == pair.geometry

    def test_same_seed_changes_the_same(self):
        pair = pair_of((12, 14, 16))
        first, second = (perturb(pair, generator(3)).pair.moving for _ in range(2))
        assert torch.equal(first, second)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> RegisterJob:
    """A blob that fades into nothing, to be moved by 4 mm."""
    folder = tmp_path_factory.mktemp("uncertainty")
    grid = centered((32, 32, 32), (4.0, 4.0, 4.0))
    source, moving = blob_source(grid), moved_grid(grid, matrix4(np.eye(3), (4.0, 0.0, 0.0)))
    images.write_volume(folder / "fixed.nrrd", source.array, grid)
    images.write_volume(folder / "moving.nrrd", source.array, moving)
    return RegisterJob(
        fixed=str(folder / "fixed.nrrd"),
        moving=str(folder / "moving.nrrd"),
        method="none",
        alignment="none",
        device="cpu",
        refinement_steps=15,
        samples=SAMPLES,
        output_transform=str(folder / "transform.nrrd"),
        output_uncertainty=str(folder / "uncertainty.nrrd"),
    )


@pytest.fixture(scope="module")
def events() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def result(job, events) -> Result:
    return run(job, Reporter(events.append, lambda: False))


@pytest.mark.slow
class TestJob:
    def test_map_lies_on_the_fixed_grid(self, job, result):
        written = images.read_volume(result.outputs["uncertainty"])
        assert written.geometry == images.read_volume(job.fixed).geometry
        assert result.values["uncertainty_mm"]["mean"] == pytest.approx(written.array.mean(), rel=1e-4)
        assert result.values["uncertainty_mm"]["samples"] == SAMPLES

    def test_is_larger_where_there_is_nothing_to_see(self, result):
        spread = images.read_volume(result.outputs["uncertainty"]).array
        assert spread[:2].mean() > 2 * spread[14:18, 14:18, 14:18].mean()

    def test_progress_counts_the_samples(self, result, events):
        steps = [event for event in events if event.stage == "uncertainty" and event.of]
        assert {event.of for event in steps} == {SAMPLES}
        assert {event.step for event in steps} == set(range(1, SAMPLES))
        assert steps[0].message.startswith("Sample 2 of 4: ")

    def test_same_seed_gives_the_same(self, job, result, tmp_path):
        again = run(
            RegisterJob(**{**vars(job), "output_uncertainty": str(tmp_path / "u.nrrd"), "output_transform": None}),
            Reporter(),
        )
        first, second = (images.read_volume(item.outputs["uncertainty"]).array for item in (result, again))
        np.testing.assert_array_equal(first, second)

    def test_cancellation_between_samples_leaves_nothing(self, job, tmp_path):
        seen: list[str] = []
        output = tmp_path / "u.nrrd"
        wanted = RegisterJob(**{**vars(job), "output_uncertainty": str(output), "output_transform": None})
        reporter = Reporter(lambda event: seen.append(event.stage), lambda: seen.count("uncertainty") > 3)
        with pytest.raises(errors.EngineError) as end:
            run(wanted, reporter)
        assert end.value.code == errors.CANCELLED
        assert not list(Path(tmp_path).iterdir())

    def test_finishing_early_takes_the_samples_so_far(self, job, tmp_path):
        seen: list[int] = []
        wanted = RegisterJob(**{**vars(job), "output_uncertainty": str(tmp_path / "u.nrrd"), "output_transform": None})
        reporter = Reporter(
            lambda event: seen.append(event.step) if event.stage == "uncertainty" else None,
            lambda: False,
            lambda: 1 in seen,
        )
        assert run(wanted, reporter).values["uncertainty_mm"]["samples"] == 2
