"""Weights on anatomies they never saw: the same start for all, the direction of ANTs' fields, what the tables get."""

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.torch

from training_cases import chest_config, need

need("ants", "monai", "scipy")

from DeepAttentionRegEngine.phantom.thorax import PhantomSettings, default_geometry, make_phantom
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry
from training.configs.schema import ConfigError
from training.measure import tables, transfer
from training.measure.syn import import_ants, syn
from training.measure.transfer_sets import TestSet, aligned, other_contrast, phantoms

SLICES = TestSet("Slices", 2, partial(phantoms, flat=True))


def blobs(points_lps: np.ndarray) -> np.ndarray:
    """Return a few bright spots, in LPS mm from the middle, that end well before the border of a small image."""
    centers = np.array([[0, 0, 0], [8, 3, -2], [-7, 5, 4], [2, -8, 6], [-3, 2, -9]])
    distance = ((points_lps[..., None, :] - centers) ** 2).sum(-1)
    return (np.exp(-distance / 32) * [1.0, 0.8, 0.6, 0.9, 0.7]).sum(-1).astype(np.float32)


def grid_points(grid: Geometry) -> np.ndarray:
    """Return the voxel centers `(k, j, i, 3)`, LPS mm."""
    index = np.moveaxis(np.indices(grid.shape), 0, -1)[..., ::-1]
    return grid.index_to_lps(index.reshape(-1, 3)).reshape(*grid.shape, 3)


def write_motion(motion: np.ndarray | float, pair: dict[str, str], output: str) -> None:
    """Write a displacement in LPS mm, the same everywhere if it is a number."""
    grid = images.read_volume(pair["fixed"]).geometry
    images.write_displacement(output, np.broadcast_to(motion, (*grid.shape, 3)), grid)


@pytest.mark.slow
class TestSyn:
    @pytest.mark.parametrize(
        ("size", "similarity"),
        [((28, 40, 24), "mind"), ((48, 1, 40), "mind"), ((40, 56, 1), "mind"), ((40, 56, 1), "ncc")],
    )
    def test_shift_on_an_oblique_grid_is_found_in_lps(
        self, tmp_path: Path, size: tuple[int, int, int], similarity: str, oblique_geometry: Geometry
    ) -> None:
        grid = Geometry.from_arrays(size, (1.5, 1.0, 2.0), (5, -7, 30), oblique_geometry.direction)
        shift = np.array([2.0, -1.0, 1.5])
        if grid.is_flat:
            shift -= (shift @ grid.normal_lps) * grid.normal_lps
        points = grid_points(grid) - grid.center_lps
        fixed, moving, output = (str(tmp_path / f"{name}.mha") for name in ("fixed", "moving", "output"))
        images.write_volume(fixed, blobs(points), grid)
        images.write_volume(moving, blobs(points - shift), grid)  # moving(x + shift) = fixed(x)
        syn(fixed, moving, output, similarity)
        motion, written = images.read_displacement(output)
        assert written == grid
        # 0.4 mm, for along an edge SyN sees no motion; with a wrong axis or sign it would be more than 1 mm.
        assert np.abs(motion[blobs(points) > 0.4].mean(0) - shift).max() < 0.4

    def test_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ants", None)
        with pytest.raises(ConfigError, match="pip install antspyx"):
            import_ants()


class TestCases:
    def test_labels_and_landmarks_follow_the_alignment(self, tmp_path: Path) -> None:
        (pair,) = list(phantoms(tmp_path, flat=True))[-1:]
        shift = np.array([11.0, 0.0, -7.0])
        for name in ("moving", "moving_labels"):  # the fixed image, elsewhere
            volume = images.read_volume(pair[name.replace("moving", "fixed")])
            grid = volume.geometry
            there = Geometry.from_arrays(grid.size, grid.spacing, np.array(grid.origin) + shift, grid.direction)
            images.write_volume(pair[name], volume.array, there)
        points = images.read_points(pair["fixed_points"])
        np.savetxt(pair["moving_points"], points + shift, delimiter=",")
        found = aligned(pair, "center", tmp_path)
        labels = [images.read_labels(found[name]) for name in ("fixed_labels", "moving_labels")]
        assert np.array_equal(labels[0].array, labels[1].array)
        assert labels[0].geometry == labels[1].geometry
        assert np.allclose(images.read_points(found["moving_points"]), points, atol=1e-4)

    def test_other_contrast_inverts_texture_and_keeps_air_dark(self) -> None:
        made = make_phantom(default_geometry(flat=True), settings=PhantomSettings(seed=1))
        found, again = (other_contrast(made.moving, made.moving_labels, np.random.default_rng(1)) for _ in range(2))
        lung = made.moving_labels == 2
        assert np.corrcoef(made.moving[lung], found[lung])[0, 1] < -0.3
        assert found[made.moving_labels == 0].mean() < 0.05
        assert np.array_equal(found, again)


class TestRows:
    def test_settings_are_scored_beside_the_alignment(self) -> None:
        truth = make_phantom(default_geometry(flat=True), settings=PhantomSettings(seed=0)).displacement_lps_mm
        motions = {"K=3": 0.0, "refined": truth, "refinement only": np.array([30.0, 0.0, 0.0])}
        table = {name: partial(write_motion, motion) for name, motion in motions.items()}
        rows = transfer.set_rows(SLICES, table, 1)
        start, still, right, wrong = (row["figures"] for row in rows)
        assert [row["setting"] for row in rows] == ["aligned", *table]
        assert [row.get("method") for row in rows] == ["none", None, None, "none"]
        assert start["dice"] == still["dice"]
        assert right["tre_mm"]["mean"] < 0.1 < start["tre_mm"]["mean"]
        assert [row["worse"]["mean"] for row in (still, right, wrong)] == [0, 0, 1]
        assert {"hd95_mm", "assd_mm", "folded_percent", "sd_log_jacobian", "seconds"} <= set(right)

    def test_syn_is_not_run_again_where_its_figures_are_kept(self, tmp_path: Path) -> None:
        runs: list[str] = []

        def count(name: str, pair: dict[str, str], output: str) -> None:
            runs.append(name)
            write_motion(0.0, pair, output)

        table = {name: partial(count, name) for name in ("K=3", transfer.SYN)}
        first, second = (transfer.set_rows(SLICES, table, 1, tmp_path) for _ in range(2))
        assert runs == ["K=3", transfer.SYN, "K=3"]
        assert first[2] == second[2]


@pytest.mark.slow
class TestMeasure:
    @pytest.fixture
    def config(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A configuration of a method of single slices, two test sets for it and one method that does nothing."""
        there = {"one": SLICES, "two": TestSet("More", 2, SLICES.pairs), "volumes": TestSet("Volumes", 3, phantoms)}
        monkeypatch.setattr(transfer, "SETS", there)
        table = {name: partial(write_motion, 0.0) for name in ("K=3", "refined")}
        monkeypatch.setattr(transfer, "methods", lambda *_: table)
        release = {"id": "tiny", "training_data": "Made up", "licence": "CC0-1.0", "method": "rman"}
        return chest_config(tmp_path, release=release)

    def measure(self, config: Path, *sets: str, settings: list[str] | None = None) -> dict[str, Any]:
        given = {
            "config": config,
            "date": "2026-11-30",
            "weights": None,
            "pairs": 1,
            "keep": None,
            "results": config.parent,
        }
        transfer.measure(argparse.Namespace(**given, sets=sets or None, settings=settings))
        return json.loads((config.parent / "tiny_transfer.json").read_text())

    def test_sets_measured_again_leave_the_rows_of_others(self, config: Path) -> None:
        self.measure(config)
        report = self.measure(config, "one")
        (run,) = report["runs"].values()
        assert [row["subset"] for row in run["rows"]] == ["More"] * 3 + ["Slices"] * 3
        assert run["weights"] == "tiny"

    def test_settings_measured_again_leave_the_rows_of_others(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (before,) = self.measure(config, "one")["runs"].values()
        monkeypatch.setattr(transfer, "methods", lambda *_: {"refined": partial(write_motion, np.array([30.0, 0, 0]))})
        (after,) = self.measure(config, "one", settings=["refined"])["runs"].values()
        old, new = ({row["setting"]: row["figures"]["dice"] for row in run["rows"]} for run in (before, after))
        assert old.keys() == new.keys() == {"aligned", "K=3", "refined"}
        assert {name for name in old if old[name] != new[name]} == {"refined"}

    def test_a_set_measured_again_as_a_whole_loses_its_old_settings(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.measure(config, "one")
        monkeypatch.setattr(transfer, "methods", lambda *_: {"K=2": partial(write_motion, 0.0)})
        (run,) = self.measure(config, "one")["runs"].values()
        assert [row["setting"] for row in run["rows"]] == ["aligned", "K=2"]

    def test_settings_on_other_pairs_are_not_mixed(self, config: Path) -> None:
        report = self.measure(config, "one")
        for row in report["runs"]["0"]["rows"]:
            row["pairs"] = 4
        (config.parent / "tiny_transfer.json").write_text(json.dumps(report))
        with pytest.raises(ConfigError, match="another number of pairs"):
            self.measure(config, "one", settings=["refined"])

    def test_unknown_settings_are_named(self, config: Path) -> None:
        with pytest.raises(ConfigError, match="no settings K=9; there are K=3, refined"):
            self.measure(config, "one", settings=["K=9"])

    def test_tables_tell_methods_apart_and_count_pairs_made_worse(self, config: Path) -> None:
        lines = tables.to_markdown([self.measure(config, "one")], {}).splitlines()
        assert any(line.startswith("| Slices | none | aligned | 1 | 1 |") for line in lines)
        assert any(line.startswith("| Slices | Tiny AGF | K=3 | 1 | 1 |") for line in lines)
        assert any("pairs made worse" in line for line in lines)

    def test_sets_of_other_dimensions_are_refused(self, config: Path) -> None:
        with pytest.raises(ConfigError, match="does not fit the sets volumes"):
            self.measure(config, "volumes")

    def test_missing_data_are_named_and_left_out(
        self, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def missing(_: Path) -> Iterator[dict[str, str]]:
            msg = "data set 'hearts' not found"
            raise FileNotFoundError(msg)

        monkeypatch.setitem(transfer.SETS, "two", TestSet("More", 2, missing))
        self.measure(config)
        assert "More is left out: data set 'hearts' not found" in capsys.readouterr().out
        with pytest.raises(ConfigError, match="none of the test sets"):
            self.measure(config, "two")


def test_weights_are_asked_for(tmp_path: Path) -> None:
    config = transfer.read_config(chest_config(tmp_path))
    with pytest.raises(ConfigError, match="has no release"):
        transfer.methods(config, None, "ncc")


def test_settings_are_weights_refinement_and_syn() -> None:
    config = transfer.read_config("rman_hippocampus")
    ours = ["K=3", "refined", "refinement only"]
    assert list(transfer.methods(config, None, "ncc")) == [*ours, "ANTs SyN", "ANTs SyN (defaults)"]
