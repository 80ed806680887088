"""Figures of trained networks, by their own grids and by whole jobs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import EDGE, NETWORK, chest_config, lungs, need, untrained, write, write_slices

need("monai", "scipy")

from DeepAttentionRegEngine.networks.agf import Agf
from training.configs.reading import read_config
from training.configs.schema import ConfigError, Evaluation
from training.data.cases import CaseSet, ImageCase
from training.measure import evaluate, whole_jobs
from training.measure.rows import Measured
from training.objectives.registration import Registration

CPU = torch.device("cpu")


class TestEvaluation:
    def test_untrained_network_does_as_well_as_the_identity(self, folder: Path) -> None:
        path = chest_config(folder, network={**NETWORK, "attention": False}, evaluation={"recursions": [1, 2]})
        identity, once, twice = evaluate.measure(read_config(path), untrained(path), CPU)
        assert [row["setting"] for row in (identity, once, twice)] == ["identity", "K=1", "K=2"]
        assert identity["pairs"] == 2
        assert once["figures"]["dice"]["mean"] == pytest.approx(identity["figures"]["dice"]["mean"], abs=0.02)
        assert once["figures"]["folded_px"]["mean"] == 0
        assert {"hd_px", "hd_mm", "assd_px", "ssim", "mse", "seconds"} <= set(once["figures"])
        assert once["figures"]["numbers"]["mean"] == 2 * EDGE**2

    def test_true_masks_take_the_place_of_the_segmenters(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        given, recurse = [], Agf.recurse
        monkeypatch.setattr(Agf, "recurse", lambda self, pair, count: given.append(pair) or recurse(self, pair, count))
        path = chest_config(folder, evaluation={"true_masks": True, "pairs": 1})
        rows = evaluate.measure(read_config(path), untrained(path), CPU)
        assert [row["setting"] for row in rows] == ["identity", "K=1", "K=1, true masks"]
        assert given[0].fixed_mask is given[0].moving_mask is None
        assert torch.equal(given[1].fixed_mask.unique(), torch.tensor([0.0, 1.0]))
        assert given[1].moving[given[1].moving_mask > 0].mean() < given[1].moving[given[1].moving_mask == 0].mean()

    def test_numbers_are_those_of_gaussians_and_of_the_finest_spline(self, folder: Path) -> None:
        network = {"nd": 2, "widths": [4, 4, 4, 4], "blocks": 1, "hidden": 4, "gaussians": 3}
        gaussians = chest_config(folder, architecture="r2n2", network=network, evaluation={"recursions": [2]})
        row = evaluate.measure(read_config(gaussians), untrained(gaussians), CPU)[-1]
        assert row["figures"]["numbers"]["mean"] == 2 * 3 * 7
        settings = {"nd": 2, "spacing": [8], "iterations": [1]}
        splines = chest_config(folder, architecture="bspline", network=settings, evaluation={"batch": 1})
        row = evaluate.measure(read_config(splines), None, CPU)[-1]
        assert row["figures"]["numbers"]["mean"] == 2 * (EDGE // 8 + 2) ** 2

    def test_pairs_are_scored_on_their_own_grid(self, folder: Path) -> None:
        path = chest_config(folder)
        settings = json.loads(path.read_text())
        settings["data"]["shape"] = [24, 24]
        path.write_text(json.dumps(settings))
        rows = evaluate.measure(read_config(path), untrained(path), CPU)
        whole = evaluate.measure(read_config(chest_config(folder)), untrained(path), CPU)
        assert rows[0]["figures"] == whole[0]["figures"]

    def test_data_sets_are_told_apart(self, folder: Path) -> None:
        path = chest_config(folder)
        settings = json.loads(path.read_text())
        settings["data"] |= {"split": None, "options": {"sets": ["jsrt", "montgomery"], "resolution": 64}}
        settings["evaluation"] = {"pairs": 3}
        path.write_text(json.dumps(settings))
        rows = evaluate.measure(read_config(path), untrained(path), CPU)
        assert [(row["subset"], row["pairs"]) for row in rows[::2]] == [("jsrt", 3), ("montgomery", 3)]

    @pytest.mark.parametrize(
        ("task", "network"),
        [
            ("segmentation", {"nd": 2, "width": 2}),
            ("autoencoder", {"nd": 2, "channels": 2, "size": EDGE, "code": 4}),
        ],
    )
    def test_parts_are_measured_by_case(self, folder: Path, task: str, network: dict[str, int]) -> None:
        path = chest_config(folder, task=task, network=network, losses={"cross_entropy": 1.0}, architecture=None)
        (row,) = evaluate.measure(read_config(path), untrained(path), CPU)
        assert row["cases"] == 2
        assert 0 <= row["figures"]["dice"]["mean"] <= 1

    def test_cases_without_images_are_refused(self, folder: Path) -> None:
        path = chest_config(folder)
        task = Registration(read_config(path))
        bare = CaseSet([ImageCase("bare", torch.empty(0), torch.zeros(8, 8, dtype=torch.uint8))])
        with pytest.raises(ConfigError, match="transfer"):
            Measured(task, bare, bare, CPU)

    def test_checkpoint_is_asked_for(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="needs --checkpoint"):
            evaluate.measure(read_config(chest_config(folder)), None, CPU)

    def test_whole_jobs_measure_the_weights_of_a_run(self, folder: Path) -> None:
        network = {**NETWORK, "attention": False, "scales": 2}
        told = {"protocol": "job", "pairs": 1, "refinement_steps": 1}
        path = chest_config(folder, data=write_slices(folder, 2), network=network, evaluation=told)
        with pytest.raises(ConfigError, match="name a --checkpoint"):
            evaluate.measure(read_config(path), None, CPU)
        rows = evaluate.measure(read_config(path), untrained(path), CPU)
        assert [row["setting"] for row in rows] == ["as stored", "centres aligned", "K=1", "refined", "refinement only"]
        assert all(0.3 < row["figures"]["dice"]["mean"] <= 1 for row in rows)

    @pytest.mark.parametrize("wanted", [None, 4])
    def test_refined_rows_have_recursions_of_their_own(self, wanted: int | None) -> None:
        table = whole_jobs.settings("agf", "mine.pt", Evaluation(recursions=(1, 2), refined_recursions=wanted))
        assert {name: options.get("recursions") for name, options in table.items()} == {
            **{"K=1": 1, "K=2": 2},
            **{"refined": wanted, "refinement only": None},
        }

    def test_landmarks_give_a_registration_error(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        points = folder / "l2r" / "landmarksTr"
        points.mkdir(parents=True)
        volume = np.stack([lungs(rng, 16)[0]] * 16).astype(np.float32)
        for number, offset in ((0, 0), (1, 2)):
            write(folder / "l2r" / "imagesTr" / f"a_{number}.nii.gz", np.roll(volume, offset, 2))
            (points / f"a_{number}.csv").write_text(f"{6 + offset},7,8\n")
        pair = {"fixed": "imagesTr/a_0.nii.gz", "moving": "imagesTr/a_1.nii.gz"}
        (folder / "l2r" / "dataset.json").write_text(json.dumps({"pairs": [pair]}))
        data = {"loader": "learn2reg", "folder": "l2r", "options": {"part": "pairs"}, "pairing": "listed"}
        path = chest_config(folder, data=data, network={**NETWORK, "nd": 3, "attention": False, "norm": "instance"})
        identity, _ = evaluate.measure(read_config(path), untrained(path), CPU)
        assert identity["figures"]["tre_mm"]["mean"] == pytest.approx(2.0)
