"""The table of what constraints do, on a phantom small enough for a test."""

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from constraints import phantoms

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_table_has_a_row_for_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    phantoms.main(["--phantoms", "1", "--voxels", "48", "40", "48", "--refinement-steps", "10"])
    _head, _line, *rows = capsys.readouterr().out.strip().splitlines()
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}
    assert len(cells) == 17
    off = {name: float(cell[0].split()[0]) for name, cell in cells.items()}
    assert off["far, ten landmarks guide"] < 0.1 * off["far, no constraint"]
    assert off["half of the landmarks guide"] < off["no constraint"]
    assert float(cells["rigid, volume kept and sliding together"][4]) < 0.1
    assert all(cell[1] == "0" for cell in cells.values())
