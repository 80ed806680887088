"""Where memory runs out, a registration goes without something and says so; what fails leaves nothing behind."""

import gc
import json
import math
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from DeepAttentionRegEngine import cli
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.contract import Progress
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.registration import registrar
from DeepAttentionRegEngine.registration.free_memory import free_memory, held_memory
from DeepAttentionRegEngine.registration.memory import Economy, run_where_it_fits
from DeepAttentionRegEngine.registration.registrar import Registrar
from DeepAttentionRegEngine.volume import images
from engine_cases import blob_source, centered, matrix4, moved_grid, quiet

pytestmark = pytest.mark.torch

RUNS = Path(__file__).resolve().parents[1] / "support" / "limited_runs.py"
TIMEOUT_S = 300.0  # on a busy machine
LARGE = centered((88, 88, 88), (1.0, 1.0, 1.0))
HUGE = centered((160, 160, 160), (1.0, 1.0, 1.0))
SMALL = centered((16, 16, 16), (4.0, 4.0, 4.0))
# MIND, of whose many features refinement holds far more than anything else does.
OPTIONS = ["--method", "none", "--alignment", "none", "--similarity", "mind", "--refinement-steps", "1"]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What the command line did with all memory (first), with less (coarser), too little (none), and with a batch."""
    if sys.platform != "linux":
        pytest.skip("limits the address space of a process, which Linux alone holds to")
    folder = tmp_path_factory.mktemp("limited")
    for name, grid in (("large", LARGE), ("small", SMALL)):
        source = blob_source(grid)
        images.write_volume(folder / f"{name}.nrrd", source.array, grid)
        images.write_volume(
            folder / f"{name}_moved.nrrd", source.array, moved_grid(grid, matrix4(np.eye(3), (2, 0, 0)))
        )
    huge = (np.arange(math.prod(HUGE.size)) % 251).astype(np.uint8).reshape(HUGE.shape)
    images.write_volume(folder / "huge.nrrd", huge, HUGE)
    rows = ["huge,huge.nrrd,huge.nrrd", "small,small.nrrd,small_moved.nrrd"]
    (folder / "pairs.csv").write_text("\n".join(["name,fixed,moving", *rows]), encoding="ascii")

    def pair(name: str) -> list[str]:
        files = [str(folder / "large.nrrd"), str(folder / "large_moved.nrrd")]
        (folder / name).mkdir()
        return ["register", *files, *OPTIONS, "--output-transform", str(folder / name / "t.nrrd")]

    batch = ["batch", str(folder / "pairs.csv"), str(folder / "batch"), *OPTIONS]
    jobs = [[None, pair("first")], [0.75, pair("coarser")], [0.2, pair("none")], [0.45, batch]]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="ascii")
    # Further threads and their pools would take addresses at will, and a heap with arrays would keep what it once took.
    steady = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "16384"}
    environment = {**os.environ, **steady, "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, str(RUNS), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=True)
    outcomes = []
    for line in map(json.loads, done.stdout.splitlines()):
        outcomes.append((line["code"], [contract.parse_event(event) for event in line["events"]]))
    return SimpleNamespace(folder=folder, **dict(zip(("first", "coarser", "none", "batch"), outcomes, strict=True)))


@pytest.mark.slow
class TestLimitedProcess:
    def test_with_enough_memory_nothing_is_given_up(self, limited: SimpleNamespace) -> None:
        code, events = limited.first
        assert code == 0
        assert "economy" not in events[-1].values

    def test_pair_that_fits_only_coarser_ends_with_a_result_and_a_warning(self, limited: SimpleNamespace) -> None:
        code, events = limited.coarser
        coarser = events[-1].values["economy"]["coarser"]
        told = Economy(coarser=coarser).sentence
        assert (code, coarser > 1) == (0, True)
        assert told in events[-1].warnings
        assert told in [event.message for event in events if isinstance(event, Progress)]
        field, _ = images.read_displacement(limited.folder / "coarser" / "t.nrrd")
        assert np.abs(field).max() > 0.5

    def test_pair_that_does_not_fit_ends_in_a_sentence_and_leaves_nothing(self, limited: SimpleNamespace) -> None:
        code, events = limited.none
        ends = [event for event in events if not isinstance(event, Progress)]
        assert (code, [end.code for end in ends]) == (cli.EXIT_FAILED, [errors.OUT_OF_MEMORY])
        assert "not enough memory" in ends[0].message
        assert not list((limited.folder / "none").iterdir())

    def test_pair_of_a_batch_fails_alone(self, limited: SimpleNamespace) -> None:
        code, events = limited.batch
        assert code == 0, events[-1]
        assert (events[-1].values["done"], events[-1].values["failed"]) == (1, 1)
        assert "not enough memory" in events[-1].warnings[0]
        assert (limited.folder / "batch" / "small" / "transform.nrrd").exists()


class TestFreeing:
    def test_nothing_of_a_failed_try_is_held_in_the_next(self) -> None:
        held: list[weakref.ref[torch.Tensor]] = []

        def work() -> bool:
            if held:
                return held[0]() is None
            tensor = torch.ones(3)
            held.append(weakref.ref(tensor))
            raise MemoryError

        assert run_where_it_fits(work, lambda: True)

    def test_nothing_that_a_caller_held_outlives_the_error(self) -> None:
        held: list[weakref.ref[torch.Tensor]] = []

        def work() -> None:
            raise MemoryError

        def caller() -> None:
            tensor = torch.ones(3)
            held.append(weakref.ref(tensor))
            run_where_it_fits(work, lambda: False)

        gc.disable()
        try:
            with pytest.raises(errors.EngineError) as caught:
                caller()
            del caught
            assert held[0]() is None
        finally:
            gc.enable()

    def test_what_cannot_be_spared_ends_in_the_error(self) -> None:
        def work() -> None:
            raise MemoryError

        with pytest.raises(errors.EngineError) as caught:
            run_where_it_fits(work, lambda: False)
        assert caught.value.code == errors.OUT_OF_MEMORY


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer that seems to have a graphics card."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def ways_down(settings: Settings, stage: str, grid=LARGE) -> list[Economy]:
    """Return what is given up, again and again, if memory always runs out at a stage."""
    found, ways = Registrar(settings), []
    while (found := found.thriftier(stage, grid)) is not None:
        ways.append(found.economy)
    return ways


CARD = Economy(half_precision=True)
ON_CPU = [Economy(on_cpu=True), Economy(on_cpu=True, coarser=2), Economy(on_cpu=True, coarser=4)]
CHOSEN = Settings(method="adregnet", device="auto")


@pytest.mark.usefixtures("card")
class TestWaysDown:
    def test_half_precision_comes_first_then_a_coarser_grid_then_the_cpu(self) -> None:
        assert ways_down(CHOSEN, "recursion") == [CARD, replace(CARD, coarser=2), replace(CARD, coarser=4), *ON_CPU]

    def test_refinement_is_not_helped_by_half_precision(self) -> None:
        assert ways_down(CHOSEN, "refine") == [Economy(coarser=2), Economy(coarser=4), *ON_CPU]

    def test_measuring_and_writing_are_helped_by_the_cpu_alone(self) -> None:
        assert ways_down(CHOSEN, "write") == ON_CPU[:1]

    @pytest.mark.parametrize(("device", "last"), [("cuda", replace(CARD, coarser=4)), ("cpu", Economy(coarser=4))])
    def test_device_asked_for_by_name_stays(self, device: str, last: Economy) -> None:
        assert ways_down(replace(CHOSEN, device=device), "recursion")[-1] == last

    def test_precision_asked_for_by_name_stays(self) -> None:
        assert CARD not in ways_down(replace(CHOSEN, half_precision=False), "recursion")

    def test_small_volumes_are_not_made_coarser(self) -> None:
        assert ways_down(replace(CHOSEN, device="cpu", method="none"), "refine", SMALL) == []

    def test_economy_reaches_what_computes(self) -> None:
        half, coarser = Registrar(CHOSEN, CARD), Registrar(CHOSEN, Economy(on_cpu=True, coarser=4))
        assert (half.resolved(3).half_precision, half.device.type) == (True, "cuda")
        assert coarser.device.type == "cpu"
        voxels = [np.prod(found.policy(LARGE).working_size(LARGE.size, LARGE.spacing)) for found in (half, coarser)]
        assert voxels[0] / voxels[1] == pytest.approx(4, rel=0.1)


class TestBeforehand:
    @staticmethod
    def outcome(monkeypatch: pytest.MonkeyPatch, folder: Path, share: float) -> tuple[dict[str, Any], list[str]]:
        """Return values and messages of a run that finds free a share of what is needed."""
        monkeypatch.setattr(registrar, "LEAST_VOXELS", 1)
        monkeypatch.setattr(Registrar, "_needs", lambda self, _: 8e9 / self.economy.coarser)
        monkeypatch.setattr(registrar, "free_memory", lambda: 8e9 * share)
        events: list[Progress] = []
        path, source = str(folder / "image.nrrd"), blob_source(SMALL)
        images.write_volume(path, source.array, SMALL)
        job = contract.RegisterJob(fixed=path, moving=path, method="none", alignment="none", refinement_steps=1)
        result = run(replace(job, device="cpu"), quiet(events))
        return {**result.values, "warnings": result.warnings}, [event.message for event in events]

    def test_what_may_suffice_is_tried(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        values, messages = self.outcome(monkeypatch, tmp_path, 0.9)
        assert "economy" not in values
        assert not any("memory" in message for message in messages)

    def test_what_clearly_does_not_suffice_is_told_and_spared(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        values, messages = self.outcome(monkeypatch, tmp_path, 0.3)
        assert values["economy"]["coarser"] == 4
        assert Economy(coarser=4).sentence in values["warnings"]
        assert "About 8.0 GB of memory will be needed, and 2.4 GB are free." in messages

    def test_an_estimate_alone_refuses_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        values, messages = self.outcome(monkeypatch, tmp_path, 0.01)
        assert "economy" not in values
        assert any("0.1 GB are free" in message for message in messages)

    def test_estimate_falls_with_the_working_grid(self) -> None:
        chosen = Settings(method="none", device="cpu")
        needs = [Registrar(chosen, Economy(coarser=n))._needs(LARGE) + held_memory() for n in (1, 4)]
        assert needs[0] > needs[1] > 0


def write_system(root: Path, groups: dict[str, str], own: str) -> Path:
    """Write what a Linux system tells: 8 GB available of everyone's, and some control groups."""
    told = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 7000000 kB\nSwapFree: 1000000 kB\n", "proc/self/cgroup": own}
    for name, text in {**told, **{f"sys/fs/cgroup/{name}": text for name, text in groups.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    return root


class TestFreeMemory:
    def test_is_what_the_system_has_for_everyone(self, tmp_path: Path) -> None:
        assert free_memory(write_system(tmp_path, {}, "0::/")) == 8e6 * 1024

    def test_no_limit_of_a_group_is_none(self, tmp_path: Path) -> None:
        groups = {"a/memory.max": "max\n", "a/memory.current": "5\n"}
        assert free_memory(write_system(tmp_path, groups, "0::/a")) == 8e6 * 1024

    def test_tightest_group_of_version_2_counts(self, tmp_path: Path) -> None:
        outer = {"a/memory.max": "1000\n", "a/memory.current": "700\n", "a/memory.stat": "anon 1\ninactive_file 50\n"}
        inner = {"a/b/memory.max": "900\n", "a/b/memory.current": "500\n"}
        assert free_memory(write_system(tmp_path, {**outer, **inner}, "0::/a/b")) == 350

    def test_groups_of_version_1_count(self, tmp_path: Path) -> None:
        groups = {"memory/memory.limit_in_bytes": "1000\n", "memory/memory.usage_in_bytes": "700\n"}
        groups["memory/memory.stat"] = "total_inactive_file 0\n"
        assert free_memory(write_system(tmp_path, groups, "4:memory:/not/seen/inside\n3:cpu:/\n")) == 300

    def test_is_unknown_elsewhere(self, tmp_path: Path) -> None:
        assert free_memory(tmp_path) is None
        assert held_memory(tmp_path) == 0
