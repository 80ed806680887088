"""Free-form deformation: the spline, its losses, descent by levels, and a whole job."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from DeepAttentionRegEngine.deform.losses import inside_image, isotropic_total_variation, mean_squared
from DeepAttentionRegEngine.deform.warp import identity_grid, resize_displacement, warp
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.networks.base import ImagePair, Recursion
from DeepAttentionRegEngine.networks.bspline import Bspline, BsplineSettings, basis, control_size, spline
from DeepAttentionRegEngine.phantom.thorax import default_geometry, make_phantom
from DeepAttentionRegEngine.protocol.contract import RegisterJob
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.volume import images
from engine_cases import smooth_displacement, smooth_noise, write_case

pytestmark = pytest.mark.torch

FLAT, VOLUME = (61, 48), (29, 32, 27)
sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])
similarities = pytest.mark.parametrize("similarity", ["mse", "ncc"])


def make_network(nd: int, **arguments: Any) -> Bspline:
    """Return a B-spline registration of few iterations and hardly any regularity."""
    usual = {"iterations": (50, 50, 20), "regularity": 0.01}
    return Bspline(BsplineSettings(**{"nd": nd, **usual, **arguments}))


def deformed_pair(spatial: tuple[int, ...], peak: float = 2.5) -> tuple[ImagePair, Tensor]:
    """Return a pair whose moving image, sampled at x + u(x), shows the fixed one, and u."""
    moving = smooth_noise(spatial, seed=1, sigma=2.5)
    truth = smooth_displacement(spatial, peak=peak, seed=2, sigma=7.0)
    return ImagePair(warp(moving, truth), moving), truth


def states(network: Bspline, pair: ImagePair, levels: int = 3) -> list[Recursion]:
    return list(network.recurse(pair, levels))


class TestSpline:
    @pytest.mark.parametrize("order", [1, 2, 3])
    @pytest.mark.parametrize(("n", "spacing"), [(256, 7), (252, 7), (33, 4), (64, 57), (17, 8), (16, 21)])
    def test_weights_of_every_voxel_sum_to_one(self, n: int, spacing: int, order: int) -> None:
        matrix = basis(n, spacing, order)
        assert matrix.shape == (*control_size((n,), spacing), n)
        torch.testing.assert_close(matrix.sum(0), torch.ones(n), atol=1e-6, rtol=0)
        assert float(matrix.min()) >= 0

    @pytest.mark.parametrize("order", [1, 2, 3])
    @pytest.mark.parametrize(("n", "spacing"), [(256, 7), (61, 7), (33, 4), (48, 4), (17, 8), (16, 21)])
    def test_neither_end_of_an_axis_is_preferred(self, n: int, spacing: int, order: int) -> None:
        matrix = basis(n, spacing, order)
        torch.testing.assert_close(matrix.flip(0, 1), matrix, atol=1e-6, rtol=0)

    @sizes
    def test_field_is_the_transposed_convolution(self, spatial: tuple[int, ...]) -> None:
        # Away from the edges, where no control point is missing, against one convolution over all axes.
        nd, spacing = len(spatial), 4
        values = torch.randn(1, 1, *control_size(spatial, spacing), generator=torch.Generator().manual_seed(0))
        box = torch.ones(1, 1, *[spacing] * nd)
        convolve, transposed = (F.conv2d, F.conv_transpose2d) if nd == 2 else (F.conv3d, F.conv_transpose3d)
        kernel = box
        for _ in range(3):
            kernel = convolve(kernel, box / spacing**nd, padding=spacing - 1)
        whole = transposed(values, kernel, stride=spacing)
        starts = [12 + 2 * spacing - (n - spacing * (-(-n // spacing) - 1) - 1) for n in spatial]  # in half voxels
        inner = [slice(8, n - 8) for n in spatial]
        for axis, (start, n) in enumerate(zip(starts, spatial, strict=True), start=2):
            whole = (whole.narrow(axis, start // 2, n) + whole.narrow(axis, (start + 1) // 2, n)) / 2
        found = spline(values, [basis(n, spacing, 3) for n in spatial])
        torch.testing.assert_close(found[(..., *inner)], whole[(..., *inner)], atol=1e-5, rtol=0)

    def test_no_motion_without_control_values(self) -> None:
        bases = [basis(n, 7, 3) for n in FLAT]
        assert not spline(torch.zeros(1, 2, *control_size(FLAT, 7)), bases).any()

    @pytest.mark.parametrize(
        ("spatial", "spacing", "count"),
        [
            ((256, 256), 3, 15_488),
            ((256, 256), 4, 8712),
            ((256, 256), 7, 3042),
            ((256, 256), 15, 800),
            ((256, 256), 21, 450),
            ((256, 256), 29, 242),
            ((256, 256), 57, 98),
            ((192, 192, 208), 7, 86_400),
        ],
    )
    def test_number_of_control_values(self, spatial: tuple[int, ...], spacing: int, count: int) -> None:
        network = make_network(len(spatial), spacing=(2 * spacing, spacing))
        assert network.control_values(spatial) == count

    @sizes
    def test_enlarged_field_equals_the_coarse_one_at_shared_points(self, spatial: tuple[int, ...]) -> None:
        coarse = smooth_displacement(spatial, peak=3.0)
        fine = resize_displacement(coarse, [3 * n for n in spatial])  # three voxels share their middle with the old one
        middles = (..., *[slice(1, None, 3)] * len(spatial))
        torch.testing.assert_close(fine[middles], 3 * coarse, atol=1e-5, rtol=0)


class TestLosses:
    @sizes
    def test_no_motion_has_no_variation_and_no_gradient(self, spatial: tuple[int, ...]) -> None:
        still = torch.zeros(1, len(spatial), *spatial, requires_grad=True)
        loss = isotropic_total_variation(still)
        loss.backward()
        assert not loss.any()
        assert not still.grad.any()

    @sizes
    def test_variation_of_a_ramp_is_its_slope(self, spatial: tuple[int, ...]) -> None:
        grid = identity_grid(spatial, torch.zeros(1))
        ramp = (0.3 * grid[:, :1] + 0.4 * grid[:, 1:2]).expand(1, len(spatial), *spatial)
        torch.testing.assert_close(isotropic_total_variation(ramp), torch.tensor(0.5), atol=1e-5, rtol=0)

    @sizes
    def test_variation_of_a_mirrored_field_is_the_same(self, spatial: tuple[int, ...]) -> None:
        field = smooth_displacement(spatial, peak=3.0)
        for axis in range(2, field.ndim):
            mirrored = isotropic_total_variation(field.flip(axis))
            torch.testing.assert_close(mirrored, isotropic_total_variation(field), atol=1e-6, rtol=1e-6)

    @sizes
    def test_points_beyond_the_image_are_told(self, spatial: tuple[int, ...]) -> None:
        shift = torch.zeros(1, len(spatial), *spatial)
        shift[:, -1] = 3.0
        inside = inside_image(shift)
        assert inside.shape == (1, 1, *spatial)
        assert inside[..., :-3].all()
        assert not inside[..., -3:].any()

    def test_points_beyond_the_image_do_not_count(self) -> None:
        image = torch.arange(6.0).expand(1, 1, 5, 6)
        shift = torch.zeros(1, 2, 5, 6)
        shift[:, 1] = 1.0
        assert float(mean_squared(warp(image, shift), image, inside_image(shift))) == pytest.approx(1.0)

    @similarities
    def test_loss_is_finite_where_nothing_is_inside(self, similarity: str) -> None:
        pair = deformed_pair(FLAT)[0]
        network = make_network(2, similarity=similarity, iterations=(2,))
        nowhere = ImagePair(pair.fixed, pair.moving, torch.zeros_like(pair.fixed))
        assert states(network, nowhere)[-1].displacement.isfinite().all()
        away = torch.full((1, 2, *FLAT), 1e3)
        assert float(mean_squared(warp(pair.moving, away), pair.fixed, inside_image(away))) == 0


class TestDescent:
    @sizes
    @similarities
    def test_smooth_deformation_is_recovered(self, spatial: tuple[int, ...], similarity: str) -> None:
        pair, truth = deformed_pair(spatial)
        last = states(make_network(len(spatial), similarity=similarity), pair)[-1]
        inner = (..., *[slice(5, -5)] * len(spatial))  # near the edges the images say little about what is beyond
        assert float(mean_squared(last.warped, pair.fixed) / mean_squared(pair.moving, pair.fixed)) < 0.1
        error, before = ((field - truth)[inner].norm(dim=1).mean() for field in (last.displacement, 0 * truth))
        # A quarter of a voxel, of 0.7 to 1: as far as the splines of 7 voxels follow the deformation.
        assert float(error) < 0.25 < 0.5 * float(before)

    @pytest.mark.parametrize("levels", [1, 2, 3, 4])
    def test_loss_never_rises_over_a_level(self, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
        network = make_network(2, regularity=0.1, learning_rate=2.0, iterations=(10,))  # steps far too large
        started: list[tuple[Tensor, ImagePair]] = []
        descend = Bspline._descend

        def spy(self: Bspline, pair: ImagePair, start: Tensor, *rest: Any) -> Tensor:
            change = descend(self, pair, start, *rest)
            losses = [
                float(mean_squared(warp(pair.moving, field), pair.fixed, inside_image(field)) / pair.fixed.var())
                + 0.1 * float(isotropic_total_variation(field))
                for field in (start, start + change)
            ]
            assert losses[1] <= losses[0]
            started.append((start, pair))
            return change

        monkeypatch.setattr(Bspline, "_descend", spy)
        states(network, deformed_pair(FLAT)[0], levels)
        assert len(started) == levels

    @sizes
    def test_equal_images_stay_where_they_are(self, spatial: tuple[int, ...]) -> None:
        image = smooth_noise(spatial, seed=1)
        last = states(make_network(len(spatial), iterations=(5,)), ImagePair(image, image))[-1]
        assert not last.displacement.any()

    def test_states_add_up_and_show_the_moving_image(self) -> None:
        pair = deformed_pair(FLAT)[0]
        found = states(make_network(2, iterations=(5,)), pair)
        torch.testing.assert_close(sum(state.increment for state in found), found[-1].displacement)
        for state in found:
            assert torch.equal(state.warped, warp(pair.moving, state.displacement))
            assert not state.displacement.requires_grad

    @pytest.mark.parametrize("spatial", [(16, 16), (17, 63), (16, 19, 23), (35, 16, 17)])
    @pytest.mark.parametrize("levels", [1, 4])
    def test_field_has_the_size_of_any_image(self, spatial: tuple[int, ...], levels: int) -> None:
        found = states(make_network(len(spatial), iterations=(2,)), deformed_pair(spatial)[0], levels)
        assert len(found) == levels
        assert all(state.displacement.shape == (1, len(spatial), *spatial) for state in found)

    @torch.no_grad()
    def test_caller_may_have_gradients_off(self) -> None:
        pair = deformed_pair(FLAT)[0]
        last = states(make_network(2), pair)[-1]
        assert float(mean_squared(last.warped, pair.fixed)) < 0.2 * float(mean_squared(pair.moving, pair.fixed))
        assert not torch.is_grad_enabled()

    def test_same_pair_gives_the_same_field(self) -> None:
        network, pair = make_network(3, iterations=(5,)), deformed_pair(VOLUME)[0]
        assert torch.equal(*(states(network, pair)[-1].displacement for _ in range(2)))

    def test_every_iteration_is_told(self) -> None:
        network = make_network(2, iterations=(4, 3, 2))
        told: list[tuple[int, int, float]] = []
        network.on_step = lambda *step: told.append(step)
        states(network, deformed_pair(FLAT)[0])
        assert [step[:2] for step in told] == [(done, 9) for done in range(1, 10)]

    def test_caller_may_stop_at_any_iteration(self) -> None:
        def stop(done: int, of: int, loss: float) -> None:
            if done == 3:
                raise KeyboardInterrupt

        network = make_network(2)
        network.on_step = stop
        with pytest.raises(KeyboardInterrupt):
            states(network, deformed_pair(FLAT)[0])

    @similarities
    @pytest.mark.parametrize("side", ["fixed", "moving"])
    def test_nothing_outside_a_mask_counts(self, similarity: str, side: str) -> None:
        pair = deformed_pair((48, 48))[0]
        mask = torch.zeros_like(pair.fixed)
        mask[..., :24] = 1
        disturbed = {name: getattr(pair, name).clone() for name in ("fixed", "moving")}
        # Far enough from the mask that neither window nor level brings it in.
        disturbed[side][..., 36:] = 1 - disturbed[side][..., 36:]
        network = make_network(2, similarity=similarity, iterations=(10, 10), window=3)
        fields = [
            states(network, ImagePair(*both, **{f"{side}_mask": mask}), 2)[-1].displacement[..., :20]
            for both in ((pair.fixed, pair.moving), (disturbed["fixed"], disturbed["moving"]))
        ]
        assert fields[0].abs().max() > 0.3
        torch.testing.assert_close(*fields, atol=0.1, rtol=0)

    def test_two_pairs_at_once_are_refused(self) -> None:
        image = torch.rand(2, 1, 32, 32)
        with pytest.raises(ValueError, match="one pair at a time, not 2"):
            states(make_network(2), ImagePair(image, image))

    def test_small_images_are_refused(self) -> None:
        image = torch.rand(1, 1, 15, 32)
        with pytest.raises(ValueError, match="at least 16"):
            states(make_network(2), ImagePair(image, image))

    def test_unknown_similarity_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'mind'"):
            make_network(2, similarity="mind")


@pytest.mark.slow
@pytest.mark.parametrize("flat", [True, False], ids=["2d", "3d"])
def test_job_brings_landmarks_together(flat: bool, tmp_path: Path) -> None:
    size, spacing = ((64, 64, 1), (5.0, 5.0, 5.0)) if flat else ((32, 26, 32), (10.5, 9.0, 10.5))
    pair = make_phantom(default_geometry(size, spacing, flat=flat))
    files = write_case(pair, tmp_path)
    output = str(tmp_path / "t.nrrd")
    plain = {"alignment": "none", "refinement_steps": 0, "device": "cpu"}
    job = RegisterJob(**files, **plain, method="bspline", recursions=2, output_transform=output)
    result = run(job, Reporter())
    before, after = (result.values[key]["tre_mm"]["mean"] for key in ("before", "after"))
    assert after < 0.4 * before
    assert images.read_displacement(output)[0].any()
