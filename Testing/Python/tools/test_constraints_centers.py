"""The table of what centers of structures do as landmarks, on a pair that was made up."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from constraints import centers as tool
from DeepAttentionRegEngine.phantom.thorax import default_geometry, make_phantom
from DeepAttentionRegEngine.volume import images

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_table_tells_what_the_centers_of_other_structures_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = default_geometry((40, 34, 40), (8.4, 7.1, 8.4))
    pair = make_phantom(grid)
    for part, arrays in (
        ("images", (pair.fixed, pair.moving)),
        ("labels", (pair.fixed_labels, pair.moving_labels)),
    ):
        (tmp_path / part).mkdir()
        for name, array in zip("ab", arrays, strict=True):
            images.write_volume(tmp_path / part / f"{name}.nrrd", array, grid)
    tool.main([str(tmp_path), "--pairs", "1", "--refinement-steps", "10"])
    _head, _line, *rows = capsys.readouterr().out.strip().splitlines()
    errors = [float(row.split("|")[2]) for row in rows]
    assert [row.split("|")[1].strip() for row in rows] == ["aligned", "no constraint", "half of the structures guide"]
    assert max(errors[1:]) < errors[0]


def test_centers_lie_where_the_structures_do(tmp_path: Path) -> None:
    grid = default_geometry((40, 34, 40), (8.4, 7.1, 8.4))
    labels = make_phantom(grid).moving_labels
    images.write_volume(tmp_path / "labels.nrrd", labels, grid)
    found = tool.centers(tmp_path / "labels.nrrd")
    assert set(found) == set(range(1, 9))
    k, j, i = (labels == 4).nonzero()
    assert found[4] == pytest.approx(grid.index_to_lps([[i.mean(), j.mean(), k.mean()]])[0])
