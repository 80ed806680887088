"""The comparison asks for what it is told to, tells medians and ratios, and keeps what it measured."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

import pareto
from comparison import checks, child, document, methods, peers, process, tables
from DeepAttentionRegEngine.protocol import registry
from DeepAttentionRegEngine.volume.images import Volume

pytestmark = pytest.mark.torch


def row(cpu: float = 1.0, seconds: float = 2.0, mib: float = 100.0, **figures: float) -> tables.Numbers:
    """Return what a child tells of a pair."""
    aligned = {name: figures[name] / 2 for name in ("dice", "tre_mm") if name in figures}
    taken = {"cpu_seconds": cpu, "seconds": seconds, "bytes": mib * tables.MIB, "start_cpu_seconds": 0.5}
    return {**taken, "folds": 0, **figures, "aligned": aligned}


class TestOptions:
    @pytest.mark.parametrize(
        "more",
        [["--sets", "brain"], ["--methods", "demons"], ["--parts", "pairs"], ["--pairs", "1"], ["--busy"]],
        ids=lambda more: more[0],
    )
    def test_document_is_written_whole_or_not_at_all(self, more: list[str]) -> None:
        with pytest.raises(SystemExit):
            pareto.parse(["--write", *more])

    def test_unknown_method_is_refused(self) -> None:
        with pytest.raises(SystemExit):
            pareto.parse(["--methods", "magic"])

    def test_whole_comparison_can_be_written(self) -> None:
        assert pareto.parse(["--write", "--date", "2020-01-02"]).write


class TestMethods:
    def test_ours_start_at_the_same_alignment(self) -> None:
        settings = [methods.spec(name)["settings"] for name in methods.OURS]
        assert {found["alignment"] for found in settings} == {"none"}

    def test_every_name_has_a_title(self) -> None:
        assert len({methods.title(name) for name in methods.NAMES}) == len(methods.NAMES)

    def test_peer_that_is_not_installed_is_left_out_with_the_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(peers.PEERS, "magic", peers.Peer("Magic", "no_such_module.part", "magic", peers.syn))
        assert methods.left_out()["Magic"] == "magic is not installed"


class TestTables:
    def test_medians_are_over_the_pairs(self) -> None:
        rows = tables.summarize({"demons": [row(cpu, dice=cpu / 10) for cpu in (1.0, 2.0, 9.0)]})
        assert rows["demons"]["cpu_seconds"] == 2.0
        assert rows["demons"]["dice"] == pytest.approx(0.2)
        assert math.isnan(rows["demons"]["tre_mm"])

    def test_methods_without_a_result_have_no_row(self) -> None:
        assert list(tables.summarize({"demons": [], "network": [row()]})) == ["network"]

    def test_ratios_are_those_to_the_reference(self) -> None:
        found = {"ants-syn": [row(2.0, 1.0, 100.0)], "fast": [row(1.0, 3.0, 400.0)]}
        lines = tables.comparison(tables.summarize(found), tables.aligned(found), "ants-syn").splitlines()
        assert lines[-1].endswith("| 0.5 | 3 | 4 |")

    def test_without_the_reference_there_are_no_ratios(self) -> None:
        found = {"fast": [row()]}
        lines = tables.comparison(tables.summarize(found), tables.aligned(found), "ants-syn").splitlines()
        assert lines[-1].endswith("| - | - | - |")

    def test_alignment_alone_comes_first(self) -> None:
        found = {"fast": [row(dice=0.8, tre_mm=3.0)]}
        lines = tables.comparison(tables.summarize(found), tables.aligned(found), "fast").splitlines()
        assert lines[2].startswith("| Alignment alone | - | - | - | 0.400 | 1.50 |")

    def test_columns_agree(self) -> None:
        found = {"fast": [row(dice=0.8)], "demons": [row()]}
        lines = tables.comparison(tables.summarize(found), tables.aligned(found), "fast").splitlines()
        assert len({line.count("|") for line in lines}) == 1

    def test_front_holds_what_nothing_beats_in_both(self) -> None:
        told = {"network": (1.0, 0.7), "fast": (2.0, 0.6), "demons": (3.0, 0.8), "best": (4.0, 0.8)}
        rows = tables.summarize({name: [row(seconds=s, dice=d)] for name, (s, d) in told.items()})
        assert tables.front(rows) == ["network", "demons"]

    def test_front_of_errors_goes_down(self) -> None:
        told = {"network": (1.0, 3.0), "fast": (2.0, 4.0), "demons": (3.0, 2.0)}
        rows = tables.summarize({name: [row(seconds=s, tre_mm=e)] for name, (s, e) in told.items()})
        assert tables.front(rows, "tre_mm") == ["network", "demons"]

    def test_error_of_an_estimate_is_relative_to_what_was_measured(self) -> None:
        assert tables.error_percent(3.0, 4.0) == pytest.approx(-25)


class TestChecks:
    def test_cover_all_weights_in_slices_and_volumes(self) -> None:
        found = {(name, phantom) for name, _, phantom in checks.cases()}
        assert set(registry.load_weights()) <= {name for name, _ in found}
        alone = {phantom for name, phantom in found if name == "refinement alone"}
        assert alone == {checks.SLICE, checks.VOLUME, checks.LARGE}

    def test_compare_the_estimate_with_the_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        numbers = {"process_seconds": 4.0, "thread_seconds": 2.0, "cpu_seconds": 6.0, "bytes": 10**9, "warnings": []}
        monkeypatch.setattr(process, "run_child", lambda spec, _threads: numbers)
        pair = {"hash": "", "files": {"fixed": "a", "moving": "b"}, "size": (96, 80, 96), "spacing": (3.5, 3.0, 3.5)}
        passed, computed = (
            checks.check(process.Cache(tmp_path, 2), {checks.VOLUME: pair}, None, busy=busy) for busy in (False, True)
        )
        assert {found["size"] for found in passed} == {"96x80x96"}
        for first, second in zip(passed, computed, strict=True):
            assert (first["measured"], second["measured"]) == (4.0, 2.0)
            assert first["error"] == pytest.approx(100 * (first["estimated"] / 4 - 1))

    def test_field_that_was_left_out_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        warnings = ["RMAn made the volumes much less similar, so its deformation was left out; it may not suit."]
        numbers = {"process_seconds": 4.0, "bytes": 10**9, "warnings": warnings}
        monkeypatch.setattr(process, "run_child", lambda spec, _threads: numbers)
        pair = {"hash": "", "files": {"fixed": "a", "moving": "b"}, "size": (256, 256, 1), "spacing": (1.0, 1.0, 1.0)}
        found = tables.checks(checks.check(process.Cache(tmp_path, 2), {checks.SLICE: pair}, None))
        assert "| r2n2-cine-mr (field left out) |" in found


class TestCache:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tables.Numbers]:
        """Return the specs that children would have been started for."""
        specs: list[tables.Numbers] = []
        monkeypatch.setattr(process, "run_child", lambda spec, _threads: specs.append(spec) or {"seconds": 1.0})
        return specs

    def test_child_is_asked_once(self, tmp_path: Path, asked: list) -> None:
        for _ in range(2):
            assert process.Cache(tmp_path, 2).get("a/b", {"peer": "demons"}) == {"seconds": 1.0}
        assert len(asked) == 1

    def test_child_is_asked_again_for_anything_else(self, tmp_path: Path, asked: list) -> None:
        process.Cache(tmp_path, 2).get("a", {"peer": "demons"}, pair="1")
        process.Cache(tmp_path, 2).get("a", {"peer": "demons"}, pair="2")
        process.Cache(tmp_path, 1).get("a", {"peer": "demons"}, pair="2")
        process.Cache(tmp_path, 1, fresh=True).get("a", {"peer": "demons"}, pair="2")
        assert len(asked) == 4

    def test_change_of_the_engine_leaves_others_results_alone(
        self, tmp_path: Path, asked: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for digest in ("before", "after"):
            monkeypatch.setattr(process, "digest_of_engine", lambda digest=digest: digest)
            process.Cache(tmp_path, 2).get("theirs", {"peer": "demons"}, engine=False)
            process.Cache(tmp_path, 2).get("ours", {"settings": {}})
        assert [next(iter(spec)) for spec in asked] == ["peer", "settings", "settings"]

    def test_failure_is_told_and_not_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("no memory")

        monkeypatch.setattr(process, "run_child", fail)
        cache = process.Cache(tmp_path, 2)
        assert cache.get("a", {}) is None
        assert cache.failures == {"a": "no memory"}
        assert not list(tmp_path.iterdir())


class TestDocument:
    def test_names_the_computer_the_date_and_what_took_no_part(self) -> None:
        told = document.SetFindings("Phantoms", "Drawn.", (32, 32, 32), {"fast": [row(dice=0.5)]})
        found = document.Findings("A computer.", "2020-01-02", "ants-syn", [told], left_out={"Magic": "it is none"})
        text = document.write(found)
        for part in ("2020-01-02", "A computer.", "Drawn. 1 pair, the first of 32 x 32 x 32", "- Magic: it is none."):
            assert part in text
        assert all(len(line) <= document.WIDTH for line in text.splitlines() if not line.startswith("|"))


class TestPictures:
    def test_are_drawn_of_any_figures(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
        from comparison import pictures

        sets = {
            "Dice": tables.summarize({"fast": [row(dice=0.5)], "demons": [row(seconds=9.0, dice=0.6)]}),
            "Landmarks": tables.summarize({"demons": [row(tre_mm=2.0)], "best": [row(seconds=1.0, tre_mm=3.0)]}),
        }
        pictures.accuracy_against_time(sets, tmp_path / "accuracy.png")
        pictures.growth({"demons": [(1e4, 1.0), (1e5, 8.0)]}, [(1, 1.0), (2, 2.0)], [], tmp_path / "growth.png")
        for name in ("accuracy.png", "growth.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


class TestPeers:
    def test_field_along_the_axes_is_turned_into_lps(self, oblique_geometry, monkeypatch: pytest.MonkeyPatch) -> None:
        along = np.array([1.0, -2.0, 3.0])
        still = peers.Peer("Still", "math", "", lambda pair: np.broadcast_to(along, (*pair.fixed.shape, 3)))
        monkeypatch.setitem(peers.PEERS, "still", still)
        image = np.random.default_rng(0).random(oblique_geometry.shape, np.float32)
        found = child.theirs("still")((Volume(image, oblique_geometry),) * 2)
        axes = np.reshape(oblique_geometry.direction, (3, 3)).T
        assert found[4, 5, 6] == pytest.approx(sum(mm * axis for mm, axis in zip(along, axes, strict=True)))

    def test_demons_find_a_shift_along_the_axes(self) -> None:
        i, j, k = np.meshgrid(*[np.arange(32.0)] * 3, indexing="xy")
        j, i, k = (np.moveaxis(axis, 2, 0) for axis in (j, i, k))

        def blob(shift: float) -> np.ndarray:
            distance = (i - 16 - shift) ** 2 + (j - 15) ** 2 + (k - 17) ** 2
            return np.exp(-distance / 60).astype(np.float32)

        found = peers.demons(peers.TwoVolumes(blob(0.0), blob(2.0), (1.5, 1.0, 1.0)), (2, 1), (20, 20))
        assert found.shape == (32, 32, 32, 3)
        assert found[17, 15, 16] == pytest.approx([3.0, 0.0, 0.0], abs=0.4)  # two voxels of 1.5 mm


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="asks the module resource for memory, POSIX has it")
def test_small_comparison_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(pareto.SETS, "phantom-32x32x32", (1, "Small phantom", "Drawn."))
    arguments = ["--sets", "phantom-32x32x32", "--methods", "demons", "--parts", "pairs", "--reference", "demons"]
    assert pareto.main([*arguments, "--threads", "1", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / document.NAME).read_text(encoding="ascii").strip() == text.strip()
    line = next(line for line in text.splitlines() if line.startswith("| SimpleITK"))
    assert line.endswith("| 1 | 1 | 1 |")
    numbers = json.loads((tmp_path / "phantom-32x32x32" / "demons-0.json").read_text(encoding="ascii"))["numbers"]
    assert numbers["dice"] > numbers["aligned"]["dice"]
    assert numbers["tre_mm"] < numbers["aligned"]["tre_mm"]
    assert 0 < numbers["cpu_seconds"] < 60
    assert numbers["bytes"] > 10 * tables.MIB
