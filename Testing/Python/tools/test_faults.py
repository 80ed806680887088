"""Faults injected into the command line: a short part of `make faults`, and that it sees what goes wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import fault_trials
import faults

pytestmark = [pytest.mark.torch, pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux processes")]

OUTPUTS = tuple(fault_trials.OUTPUTS.values())
ALL = "".join(f"open('out/{name}', 'w').write('new');" for name in OUTPUTS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", fault_trials.KINDS)
def test_all_is_as_promised(kind: str) -> None:
    (found,) = faults.run([kind], trials=2)
    assert found.trials > 0
    assert found.wrong == {}


class TestWhatAnEngineDoes:
    def tell(self, kind: str, code: str, folder: Path, monkeypatch) -> str:
        """Return what a kind of trial says of an engine that runs this code."""
        monkeypatch.setattr(fault_trials, "ENGINE", [sys.executable, "-c", code])
        (folder / "out").mkdir()
        for name in (*fault_trials.INPUTS, *(f"out/{name}" for name in OUTPUTS)):
            (folder / name).write_text("as before")
        return fault_trials.KINDS[kind](fault_trials.Trial(np.random.default_rng(0), folder, 0.0))

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            (ALL, ""),
            ("raise SystemExit(1)", ""),
            ("", "exit code 0, but nothing was written"),
            ("raise SystemExit(7)", "exit code 7"),
            ("raise ValueError('three')", "ends in a traceback: ValueError: three"),
            (f"open('out/{OUTPUTS[1]}', 'w').write('new')", f"only out/{OUTPUTS[1]} of the outputs is new"),
            (ALL + "open('fixed.nrrd', 'w').write('new')", "fixed.nrrd was changed"),
            (ALL + "open('out/.part', 'w')", "out/.part was left"),
        ],
    )
    def test_under_a_limit(self, tmp_path, monkeypatch, code: str, expected: str) -> None:
        found = self.tell("full", code, tmp_path, monkeypatch)
        assert expected in found
        assert bool(expected) == bool(found)

    def test_that_writes_over_an_input(self, tmp_path, monkeypatch) -> None:
        code = f"[open(name, 'w').write('new') for name in {fault_trials.INPUTS}]"
        assert "fixed.nrrd was changed" in self.tell("collision", code, tmp_path, monkeypatch)

    def test_that_needs_its_streams(self, tmp_path, monkeypatch) -> None:
        code = "import sys; raise SystemExit(9)"
        assert "exit code 9" in self.tell("streams", code, tmp_path, monkeypatch)

    def test_that_writes_beside_its_folder(self, tmp_path, monkeypatch) -> None:
        assert "evil.nrrd was written" in self.tell("table", "open('evil.nrrd', 'w')", tmp_path, monkeypatch)

    def test_that_stops_at_a_bad_row(self, tmp_path, monkeypatch) -> None:
        code = "import os; os.mkdir('results'); open('results/summary.csv', 'w'); raise SystemExit(1)"
        assert "the good row was not registered" in self.tell("table", code, tmp_path, monkeypatch)


class TestReaders:
    def test_that_raise_what_they_should_not_are_told(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(fault_trials, "READERS", {"a.txt": lambda path: [][0]})
        (tmp_path / "a.txt").write_text("text")
        found = fault_trials.damaged(fault_trials.Trial(np.random.default_rng(0), tmp_path))
        assert found == "a.txt: IndexError: list index out of range"

    def test_that_crash_are_told(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(fault_trials, "READERS", {"a.txt": lambda path: fault_trials.os._exit(5)})
        (tmp_path / "a.txt").write_text("text")
        found = fault_trials.damaged(fault_trials.Trial(np.random.default_rng(0), tmp_path))
        assert found == "a.txt: reading ends the process (5)"


def test_counts_become_a_table_and_an_exit_code(monkeypatch, capsys) -> None:
    monkeypatch.setattr(faults.fault_trials, "make_case", lambda folder: folder.mkdir() or 0.0)
    monkeypatch.setitem(fault_trials.KINDS, "table", lambda trial: "odd" if trial.rng.random() < 0.5 else "")
    assert faults.main(["--kinds", "table", "--trials", "8"]) == 1
    first = capsys.readouterr()
    assert "| table | 8 |" in first.out
    number = first.err.split("table ")[2].split(":")[0]
    assert faults.main(["--kinds", "table", "--only", number]) == 1
    assert "| table | 1 | 1 |" in capsys.readouterr().out
