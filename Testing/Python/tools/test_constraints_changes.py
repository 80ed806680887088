"""The table of what is found of changes, on a phantom small enough for a test."""

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from constraints import changes

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_table_tells_what_of_each_change_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    changes.main(["--phantoms", "1", "--voxels", "64", "54", "64", "--refinement-steps", "10"])
    _head, _line, *rows = capsys.readouterr().out.strip().splitlines()
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}
    assert len(cells) == 7
    assert cells["none"][2:] == ["0.00", "", "0"]
    assert float(cells["heart enhanced"][1]) > 80
    assert all(float(cell[0]) > 0 for name, cell in cells.items() if name != "none")
