"""The measurement of time and memory is complete, and what it writes is read as it was measured."""

import json
import math
import sys

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

import bench
import bench_costs
import bench_measure
from DeepAttentionRegEngine.protocol import contract, estimate, registry
from DeepAttentionRegEngine.protocol.settings import ALIGNMENTS, SIMILARITIES, Settings

pytestmark = pytest.mark.torch

SETUP_S, RECURSION_S, STEP_S, START_S = 0.5, 2e-6, 1e-7, 3.0
OWN_SHARE = 0.25  # of the steps, where weights refine in a way of their own
PROCESS_BYTES, NETWORK_BYTES, WORKING_BYTES = 10**8, 600.0, 40.0


def method_of(name: str, size: str = "1x1x1") -> registry.Method:
    """Return a method by its own name or by that of weights that run on a size."""
    return bench_measure.form(name, int(bench_costs.axes_of(size)))[0]


def voxels_of(size: str, name: str = "rman") -> dict[str, int]:
    """Return the voxels of each grid for a volume with isotropic voxels."""
    i, j, *k = (int(part) for part in size.split("x"))
    policy, whole = method_of(name, size).grid[2 + len(k)], (i, j, k[0] if k else 1)
    working = math.prod(policy.working_size(whole, (1.0, 1.0, 1.0)))
    return {"fixed": math.prod(whole), "working": working, "network": min(working, policy.network_voxels)}


def pretend(case: bench.Case) -> bench_costs.Numbers:
    """Return measurements that follow simple laws."""
    kind, name, size = case
    if kind == "machine":
        return {"speed": 50.0, "threads": 2, "torch": "2", "SimpleITK": "2"}
    voxels = voxels_of(size, name if kind == "method" else "rman")
    repeats = {"recursions": method_of(name, size).recursions.default if kind == "method" else 50, "share": 10}
    if kind in ("job", "alignment", "demons"):
        seconds = START_S if kind == "job" else 1e-6
        return {"voxels": voxels, "seconds": seconds, "bytes": 1, "process_bytes": PROCESS_BYTES, **repeats}
    numbers = {"voxels": voxels, "bytes": NETWORK_BYTES * voxels["network"] + WORKING_BYTES * voxels["working"]}
    if kind in ("refinement", "own"):
        step = STEP_S * (1 if kind == "refinement" else OWN_SHARE)
        return {**numbers, "setup": SETUP_S, "step": step * voxels["working"]}
    times = {"setup": SETUP_S, "recursion": RECURSION_S * voxels["network"], "warp": 1.0}
    return {**numbers, **times, **repeats}


@pytest.fixture(scope="module")
def results() -> dict:
    """All measurements, pretended."""
    return bench.measure_all(bench.cases_of(bench.parse(["--write"])), pretend)


class TestCosts:
    @pytest.fixture(autouse=True)
    def written(self, results, monkeypatch, tmp_path):
        """Write the costs and have estimates read them."""
        (tmp_path / estimate.FILE).write_text(bench.dump(bench_costs.make_costs(results)), encoding="ascii")
        monkeypatch.setattr(estimate, "resources", lambda: tmp_path)

    @pytest.mark.parametrize("name", [*registry.method_names(), contract.METHOD_NONE])
    @pytest.mark.parametrize("size", [(70, 80, 90), (300, 1, 200)])
    def test_cover_every_method_alignment_and_refinement(self, name, size):
        for index, similarity in enumerate(SIMILARITIES):
            for alignment in ALIGNMENTS:
                chosen = {"alignment": alignment, "similarity": similarity, "velocity": bool(index % 2)}
                settings = Settings(method=name, refinement_steps=10, **chosen)
                assert estimate.estimate(size, (1.0, 1.0, 1.0), settings).seconds > 0

    def test_give_back_the_laws_of_time(self):
        settings = Settings(method="rman", recursions=4, alignment="none", refinement_steps=10)
        found = estimate.estimate((80, 80, 80), (1.0, 1.0, 1.0), settings)
        voxels = voxels_of("80x80x80")
        recursions = 1 / 64 + 1 / 64 + 1 / 8 + 1  # the first three are on coarser grids
        wanted = START_S + 2 * SETUP_S + recursions * RECURSION_S * voxels["network"] + 10 * STEP_S * voxels["working"]
        assert found.seconds == pytest.approx(wanted, rel=1e-3)

    def test_tell_the_refinement_of_weights_from_the_usual_one(self):
        settings = Settings(method="r2n2", recursions=4, alignment="none", refinement_steps=10)
        suited, other = (estimate.estimate((40, 40, 40), (edge,) * 3, settings).seconds for edge in (1.5, 5.0))
        assert other - suited == pytest.approx(10 * (1 - OWN_SHARE) * STEP_S * voxels_of("40x40x40")["working"])

    def test_give_back_the_laws_of_memory(self):
        settings = Settings(method="rman", recursions=4, alignment="none", refinement_steps=0)
        found = estimate.estimate((150, 150, 150), (1.0, 1.0, 1.0), settings)
        voxels = voxels_of("150x150x150")
        wanted = PROCESS_BYTES + NETWORK_BYTES * voxels["network"] + WORKING_BYTES * voxels["working"]
        assert found.bytes == pytest.approx(wanted, rel=1e-3)


class TestTable:
    def test_has_a_row_for_every_method_and_the_outside_peer_at_every_size(self, results):
        lines = bench_costs.table(results, bench.SIZES).splitlines()[2:]
        rows = [line for line in lines if line.startswith("|")]
        names = [row.split(" | ")[0].removeprefix("| ") for row in rows]
        volumes = [*bench.subjects(), bench_costs.OUTSIDE_PEER]
        slices = [name for name in volumes if name not in ("agf-abdomen", "agf-brain", "rman-hippocampus-mr")]
        assert names == [*volumes * 3, *slices]
        assert len({row.count("|") for row in rows}) == 1

    def test_tells_what_was_scaled(self, results):
        assert "demons: one of every 10 iterations was timed." in bench_costs.table(results, bench.SIZES)

    def test_errors_of_laws_that_hold_are_small(self, results):
        costs = bench_costs.make_costs(results)
        for name, measured in results["method"].items():
            assert max(bench_costs.errors(measured, costs["methods"][name])) < 1e-3


class TestKept:
    def test_measurement_is_not_made_twice(self, monkeypatch, tmp_path):
        made = []
        monkeypatch.setattr(bench, "KEPT", tmp_path)
        monkeypatch.setattr(bench, "in_child", lambda case, _device: made.append(case) or {"seconds": 1.0})
        for arguments in (["--write"], ["--write"], ["--write", "--fresh"]):
            assert bench.kept(("job", "job", "8x8"), bench.parse(arguments)) == {"seconds": 1.0}
        assert len(made) == 2


class TestOptions:
    @pytest.mark.parametrize("more", [["--sizes", "96x96x96"], ["--device", "cuda"]])
    def test_costs_are_written_whole_or_not_at_all(self, more):
        with pytest.raises(SystemExit):
            bench.parse(["--write", *more])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="asks the module resource for memory, POSIX has it")
class TestMeasurement:
    @pytest.mark.parametrize(
        ("case", "fields"),
        [
            (("method", "rman", "32x32"), {"setup", "recursion", "warp", "recursions", "share", "bytes", "voxels"}),
            (("refinement", "ncc-velocity", "32x32"), {"setup", "step", "bytes", "voxels"}),
            (("demons", "demons", "32x32x32"), {"seconds", "recursions", "share", "bytes"}),
        ],
        ids=["method", "refinement", "demons"],
    )
    def test_of_a_tiny_volume_is_complete(self, case, fields):
        numbers = bench.in_child(case, "cpu")
        assert set(numbers) == fields
        assert json.loads(json.dumps(numbers)) == numbers

    def test_that_fails_says_why(self):
        with pytest.raises(RuntimeError, match="magic"):
            bench.in_child(("method", "magic", "32x32"), "cpu")


class TestProgram:
    @pytest.fixture(autouse=True)
    def pretended(self, monkeypatch):
        """Let nothing be measured."""
        monkeypatch.setattr(bench, "in_child", lambda case, _device: pretend(case))

    def test_prints_machine_and_table(self, capsys):
        assert bench.main(["--sizes", "32x32x32", "--methods", "rman", "--date", "2020-01-02"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "2020-01-02" in lines[0]
        assert "torch 2" in lines[0]
        assert any(line.startswith("| rman | 32x32x32 |") for line in lines)

    def test_writes_the_costs_and_tells_their_errors(self, capsys, monkeypatch, tmp_path):
        monkeypatch.setattr(bench, "COSTS", tmp_path / estimate.FILE)
        monkeypatch.setattr(bench, "KEPT", tmp_path)
        assert bench.main(["--write"]) == 0
        assert set(json.loads((tmp_path / estimate.FILE).read_text())["methods"]) == set(bench.subjects())
        assert "rman: 0 %, 0 %" in capsys.readouterr().out
