"""Estimates of time and memory add up measured laws over the grids that a registration uses."""

import itertools
import math
from dataclasses import replace

import pytest

from DeepAttentionRegEngine.protocol import contract, errors, estimate, registry
from DeepAttentionRegEngine.protocol.settings import ALIGNMENTS, SIMILARITIES, Settings

ISOTROPIC = (1.0, 1.0, 1.0)
PLAIN = Settings(method="adregnet", recursions=2, refinement_steps=0)
WHOLE = 1 + 1 / 8  # recursions of `PLAIN` on the network's own grid: the first has voxels twice as long
SIZES = [(96, 96, 96), (512, 512, 40), (20, 300, 7), (512, 512, 300), (9, 1, 1), (64, 64, 1), (1, 700, 900)]
SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (2.3, 0.4, 1.1)]
REFINEMENT = replace(PLAIN, method="none", recursions=None, refinement_steps=10)


def needed(settings: Settings = PLAIN, size: tuple[int, int, int] = (100, 100, 100), **speeds: float):
    """Return the estimate for a volume of so many voxels of 1 mm."""
    return estimate.estimate(size, ISOTROPIC, settings, **speeds)


def law(constant: float = 0.0, **slopes: float) -> estimate.Law:
    return {"constant": constant, **slopes}


COSTS = {
    "speed": 100.0,
    "process_bytes": 1000.0,
    "job": {axes: {"seconds": law(2.0, fixed=1e-6), "bytes": law(fixed=1.0)} for axes in "23"},
    "alignment": {mode: {axes: law(5.0 if mode == "rigid" else 0.0) for axes in "23"} for mode in ALIGNMENTS},
    "refinement": {
        name: {axes: {"setup": law(0.25), "step": law(working=1e-7), "bytes": law(working=3.0)} for axes in "23"}
        for name in ("ncc", "ncc-velocity")
    },
    "methods": {
        "adregnet": {
            axes: {"setup": law(1.0), "recursion": law(network=1e-6), "bytes": law(500.0, network=2.0)} for axes in "23"
        }
    },
}


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs that can be added up in the head, for volumes of a million voxels."""
    monkeypatch.setattr(estimate, "load_costs", lambda: COSTS)


@pytest.mark.usefixtures("costs")
class TestEstimate:
    def test_adds_up_job_setup_and_recursions(self) -> None:
        assert needed(PLAIN).seconds == pytest.approx(2 + 1 + 1 + WHOLE)

    def test_counts_the_usual_recursions_where_none_are_given(self) -> None:
        usual = 2 + 1 / 8 + 1 / 64  # four, of which two are on coarser grids
        assert needed(replace(PLAIN, recursions=None)).seconds == pytest.approx(2 + 1 + 1 + usual)

    def test_counts_the_usual_recursions_of_the_weights(self, monkeypatch) -> None:
        laws = {"setup": law(), "recursion": law(1.0), "bytes": law()}
        monkeypatch.setitem(COSTS["methods"], "agf-diffeo", {"2": laws, "3": laws})
        chosen = replace(PLAIN, method="agf-diffeo", recursions=None)
        for size, usual in (((100, 100, 100), 5), ((100, 100, 1), 2)):
            assert needed(chosen, size) == needed(replace(chosen, recursions=usual), size)

    def test_adds_the_alignment(self) -> None:
        seconds = [needed(replace(PLAIN, alignment=mode)).seconds for mode in ("none", "rigid")]
        assert seconds[1] - seconds[0] == pytest.approx(5)

    def test_automatic_alignment_takes_no_longer_for_volumes_that_it_thins(self, monkeypatch) -> None:
        monkeypatch.setitem(COSTS["alignment"]["automatic"], "3", law(fixed=1e-6))
        sizes = (100, 100, 100), (200, 200, 200)
        compared = [
            needed(PLAIN, size).seconds - needed(replace(PLAIN, alignment="none"), size).seconds for size in sizes
        ]
        assert compared == pytest.approx([1.0, estimate.MOST_COMPARED_VOXELS * 1e-6])

    def test_adds_the_steps_of_the_refinement(self) -> None:
        assert needed(REFINEMENT).seconds == pytest.approx(2 + 1 + 0.25 + 10 * 0.1)

    def test_segments_that_slide_make_steps_longer_and_fields_finer(self) -> None:
        plain, sliding = needed(REFINEMENT), needed(replace(REFINEMENT, sliding="Lung"))
        steps = 0.25 + 10 * 0.1
        assert sliding.seconds - plain.seconds == pytest.approx((estimate.SLIDING_TIMES - 1) * steps)
        assert sliding.bytes == 1000 + 3e6 + estimate.SLIDING_BYTES * estimate.SLIDING_NODES

    def test_weights_that_a_method_does_not_take_first_have_laws_of_their_own(self, monkeypatch) -> None:
        first, other = ({"3": {"setup": law(1.0), "recursion": law(seconds), "bytes": law()}} for seconds in (3.0, 7.0))
        monkeypatch.setitem(COSTS["methods"], "rman", first)
        monkeypatch.setitem(COSTS["methods"], "rman-hippocampus-mr", other)
        chosen = replace(PLAIN, method="rman")
        found = [
            needed(replace(chosen, weights=name)).seconds for name in (None, "rman-general", "rman-hippocampus-mr")
        ]
        general = 3 * (1 + 1 / 8)  # the first of two recursions has voxels twice as long
        assert found == pytest.approx([2 + 1 + 1 + seconds for seconds in (general, general, 14)])

    @pytest.mark.parametrize(("velocity", "slower"), [(False, 1), (True, 2)], ids=["displacement", "velocity"])
    def test_weights_refine_in_their_own_way_where_they_suit(self, monkeypatch, velocity: bool, slower: int) -> None:
        own = {"setup": law(0.5), "step": law(working=2e-8), "bytes": law(working=6.0)}
        laws = {"setup": law(), "recursion": law(), "bytes": law(), "refinement": own}
        monkeypatch.setitem(COSTS["methods"], "r2n2", {"3": laws})
        usual = COSTS["refinement"]["ncc-velocity"]["3"]
        monkeypatch.setitem(COSTS["refinement"]["ncc-velocity"], "3", {**usual, "step": law(working=2e-7)})
        chosen = replace(PLAIN, method="r2n2", refinement_steps=10, velocity=velocity, recursions=1)
        suited, other = (estimate.estimate((100,) * 3, (edge,) * 3, chosen) for edge in (0.5, 1.0))
        assert suited.seconds == pytest.approx(2 + 1 + 0.5 + 10 * 0.02 * slower, rel=0.03)
        assert other.seconds == pytest.approx(2 + 1 + 0.25 + 10 * 0.1 * slower, rel=0.03)
        assert suited.bytes == pytest.approx(1000 + 6e6)

    def test_margin_of_the_working_grid_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        method = registry.load_method("adregnet")
        wider = replace(method, grid={3: replace(method.grid[3], margin=10, network_voxels=2_000_000)})
        monkeypatch.setattr(estimate, "load_method", lambda _: wider)
        assert needed(PLAIN).seconds == pytest.approx(2 + 1 + 1 + WHOLE * 1.2**3)

    def test_network_sees_no_more_voxels_than_its_policy_allows(self) -> None:
        limit = registry.load_method("adregnet").grid[3].network_voxels
        assert needed(size=(200, 200, 200)).seconds == pytest.approx(2 + 8 + 1 + WHOLE * limit / 1e6)

    def test_voxel_size_that_the_weights_know_decides_what_the_network_sees(self, monkeypatch) -> None:
        method = registry.load_method("adregnet")
        chosen = next(variant for variant in method.variants if variant.dimensions == 3)
        known = replace(method, variants=(replace(chosen, spacing_mm=2.0),))
        monkeypatch.setattr(estimate, "load_method", lambda _: known)
        assert needed(PLAIN).seconds == pytest.approx(2 + 1 + 1 + WHOLE * 0.5**3)

    def test_stack_of_three_slices_has_no_more_than_the_limits(self) -> None:
        thin, thick = ((2048, 2048, 2), (162, 162, 162))  # beyond the limit, and near it
        for settings in (PLAIN, replace(PLAIN, refinement_steps=10), REFINEMENT):
            seconds = [needed(settings, size).seconds - 1e-6 * math.prod(size) for size in (thin, thick)]
            assert seconds[0] == pytest.approx(seconds[1], rel=0.05)

    def test_memory_is_the_process_and_its_hungriest_stage(self) -> None:
        assert needed(PLAIN).bytes == pytest.approx(1000 + 500 + 2e6)
        assert needed(replace(PLAIN, refinement_steps=1)).bytes == pytest.approx(1000 + 3e6)

    def test_slice_has_laws_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(COSTS["job"]["2"], "seconds", law(7.0))
        assert needed(replace(PLAIN, method="none", recursions=None), (100, 1, 100)).seconds == pytest.approx(7)

    def test_computer_half_as_fast_takes_twice_as_long(self) -> None:
        slow, usual = needed(PLAIN, cpu=50.0), needed(PLAIN)
        assert slow.seconds == pytest.approx(2 * usual.seconds)
        assert slow.bytes == usual.bytes

    def test_gpu_speeds_up_the_method_alone(self) -> None:
        assert needed(PLAIN, cpu=100.0, device=300.0).seconds == pytest.approx(3 + (1 + WHOLE) / 3)

    def test_is_none_for_costs_that_were_never_measured(self) -> None:
        assert needed(replace(REFINEMENT, similarity="mind")) is None

    def test_unknown_method_is_refused(self) -> None:
        with pytest.raises(errors.EngineError):
            needed(replace(PLAIN, method="magic"))


class TestFile:
    @pytest.mark.parametrize("name", [*registry.method_names(), contract.METHOD_NONE])
    @pytest.mark.parametrize("size", [(96, 96, 96), (256, 256, 1)])
    def test_that_is_shipped_knows_every_method_alignment_and_refinement(self, name, size) -> None:
        for alignment, similarity, velocity in itertools.product(ALIGNMENTS, SIMILARITIES, (0, 1)):
            chosen = {"alignment": alignment, "similarity": similarity, "velocity": bool(velocity)}
            found = needed(Settings(method=name, refinement_steps=10, **chosen), size)
            assert found.seconds > 0
            assert found.bytes > 0

    def test_absent_or_damaged_gives_no_estimate(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        monkeypatch.setattr(estimate, "resources", lambda: tmp_path)
        assert needed(PLAIN) is None
        (tmp_path / estimate.FILE).write_text("{")
        assert needed(PLAIN) is None


@pytest.mark.torch
class TestProbe:
    def test_tells_the_speed_of_the_processor(self) -> None:
        jobs = pytest.importorskip("DeepAttentionRegEngine.jobs", reason="PyTorch is not installed")
        assert jobs.probe().values["speed"]["cpu"] > 0
