"""Figures of trained networks, their tables, and the export of weights."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import EDGE, NETWORK, TRAINING, chest_config, lungs, write, write_chest, write_slices

pytest.importorskip("lightning_fabric", reason="training needs the extra 'train'")
pytest.importorskip("matplotlib", reason="training needs the extra 'train'").use("Agg")
pytest.importorskip("monai", reason="training needs the extra 'train'")

import evaluate
import jobs_protocol
import pictures
import results
import scoring
from config import ConfigError, Evaluation, read_config
from DeepAttentionRegEngine.networks import build, load_network
from DeepAttentionRegEngine.networks.agf import Agf
from DeepAttentionRegEngine.protocol import registry
from DeepAttentionRegEngine.volume import metrics
from DeepAttentionRegEngine.volume.geometry import Geometry
from export import as_json, export
from scoring import Surfaces
from train import make_task

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with chest X-rays, where DAR_DATA points."""
    monkeypatch.setenv("DAR_DATA", str(tmp_path))
    write_chest(tmp_path)
    return tmp_path


def checkpoint(config: Path, seed: int = 0) -> dict[str, Any]:
    """Return what an untrained run would have written."""
    torch.manual_seed(seed)
    task = make_task(read_config(config), None)
    settings = json.loads(config.read_text())
    return {"config": {"seed": seed, "network": settings["network"]}, "average": task.network.state_dict(), "step": 1}


class TestScoring:
    def test_distances_of_shifted_squares(self) -> None:
        first, second = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
        first[5:10, 5:10] = 1
        second[5:10, 8:13] = 1
        figures = scoring.surface_figures(*(Surfaces(labels, 1, (0.5, 0.5)) for labels in (first, second)))
        assert figures["hd_px"] == 3
        assert figures["hd_mm"] == 1.5
        assert scoring.dice(first, second, 1) == pytest.approx(0.4)
        # Six of sixteen boundary pixels are three pixels from the other square, and so on.
        assert figures["assd_px"] == pytest.approx(1.5, abs=0.3)

    def test_average_distance_is_that_of_the_engine_for_equal_boundaries(self) -> None:
        first, second = np.zeros((12, 14, 16), np.uint8), np.zeros((12, 14, 16), np.uint8)
        first[2:6, 3:8, 4:9] = 1
        second[4:8, 5:10, 5:10] = 1
        spacing = (2.0, 1.0, 0.5)
        _, assd = Surfaces(first, 1, spacing).distances(Surfaces(second, 1, spacing))
        geometry = Geometry.from_arrays((16, 14, 12), spacing[::-1], (0, 0, 0), np.eye(3))
        assert assd == pytest.approx(metrics.surface_distances(first, second, geometry).assd_mm, abs=1e-5)

    def test_label_on_one_side_alone_has_no_distance(self) -> None:
        full, empty = np.ones((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
        assert math.isnan(Surfaces(full, 1, ()).distances(Surfaces(empty, 1, ()))[0])
        assert math.isnan(scoring.dice(empty, empty, 1))

    @pytest.mark.parametrize("nd", [2, 3])
    def test_determinants_of_scaling_and_reflection(self, nd: int) -> None:
        grid = torch.stack(torch.meshgrid(*[torch.arange(6.0)] * nd, indexing="ij"))[None]
        assert torch.allclose(scoring.determinants(0.1 * grid), torch.tensor(1.1**nd), atol=1e-5)
        mirrored = grid * torch.tensor([-2.0] + [0.0] * (nd - 1)).view(1, -1, *[1] * nd)
        figures = scoring.fold_figures(scoring.determinants(mirrored))
        assert figures["folded_px"] == 6**nd
        assert figures["folded_percent"] == 100

    def test_likeliest_label_after_a_shift(self) -> None:
        channels = torch.zeros(1, 2, 1, 6)
        channels[0, 0, 0, 1:3] = 1
        channels[0, 1, 0, 3:5] = 1
        shift = torch.zeros(1, 2, 1, 6)
        shift[:, 1] = 1
        assert scoring.warped_map(channels, shift).tolist() == [[[1, 1, 2, 2, 0, 0]]]

    def test_landmarks_are_moved_in_mm_without_rounding(self) -> None:
        shift = torch.zeros(1, 2, 8, 8)
        shift[:, 1] = 0.25
        fixed = torch.tensor([[2.0, 3.0], [4.0, 4.0]])
        errors = scoring.landmark_errors(shift, fixed, fixed + torch.tensor([0.0, 1.25]), (1.0, 2.0))
        assert torch.allclose(errors, torch.tensor(2.0))

    def test_summary_counts_what_could_not_be_told(self) -> None:
        summary = scoring.summarized([{"hd": 1.0}, {"hd": math.nan}, {"hd": 3.0}])
        assert summary["hd"] == {"mean": 2.0, "sd": 1.0, "missing": 1}


class TestPictures:
    def test_pairs_are_ranked_and_no_image_is_shown(self, folder: Path) -> None:
        path = chest_config(folder, network={**NETWORK, "attention": False})
        figure = pictures.picture(read_config(path), checkpoint(path), 1)
        titles = [axes.get_title() for axes in figure.axes]
        after = [float(title.split()[-1]) for title in titles]
        assert [axes.get_ylabel() for axes in figure.axes] == ["jsrt, worst", "jsrt, median", "jsrt, best"]
        assert after == sorted(after)
        assert not any(axes.images for axes in figure.axes)


class TestEvaluation:
    def test_untrained_network_does_as_well_as_the_identity(self, folder: Path) -> None:
        path = chest_config(folder, network={**NETWORK, "attention": False}, evaluation={"recursions": [1, 2]})
        identity, once, twice = evaluate.measure(read_config(path), checkpoint(path), CPU)
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
        rows = evaluate.measure(read_config(path), checkpoint(path), CPU)
        assert [row["setting"] for row in rows] == ["identity", "K=1", "K=1, true masks"]
        assert given[0].fixed_mask is given[0].moving_mask is None
        assert torch.equal(given[1].fixed_mask.unique(), torch.tensor([0.0, 1.0]))
        assert given[1].moving[given[1].moving_mask > 0].mean() < given[1].moving[given[1].moving_mask == 0].mean()

    def test_numbers_are_those_of_gaussians_and_of_the_finest_spline(self, folder: Path) -> None:
        network = {"nd": 2, "widths": [4, 4, 4, 4], "blocks": 1, "hidden": 4, "gaussians": 3}
        gaussians = chest_config(folder, architecture="r2n2", network=network, evaluation={"recursions": [2]})
        row = evaluate.measure(read_config(gaussians), checkpoint(gaussians), CPU)[-1]
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
        rows = evaluate.measure(read_config(path), checkpoint(path), CPU)
        whole = evaluate.measure(read_config(chest_config(folder)), checkpoint(path), CPU)
        assert rows[0]["figures"] == whole[0]["figures"]

    def test_data_sets_are_told_apart(self, folder: Path) -> None:
        path = chest_config(folder)
        settings = json.loads(path.read_text())
        settings["data"] |= {"split": None, "options": {"sets": ["jsrt", "montgomery"], "resolution": 64}}
        settings["evaluation"] = {"pairs": 3}
        path.write_text(json.dumps(settings))
        rows = evaluate.measure(read_config(path), checkpoint(path), CPU)
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
        (row,) = evaluate.measure(read_config(path), checkpoint(path), CPU)
        assert row["cases"] == 2
        assert 0 <= row["figures"]["dice"]["mean"] <= 1

    def test_checkpoint_is_asked_for(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="needs --checkpoint"):
            evaluate.measure(read_config(chest_config(folder)), None, CPU)

    def test_whole_jobs_measure_the_weights_of_a_run(self, folder: Path) -> None:
        network = {**NETWORK, "attention": False, "scales": 2}
        told = {"protocol": "job", "pairs": 1, "refinement_steps": 1}
        path = chest_config(folder, data=write_slices(folder, 2), network=network, evaluation=told)
        with pytest.raises(ConfigError, match="name a --checkpoint"):
            evaluate.measure(read_config(path), None, CPU)
        rows = evaluate.measure(read_config(path), checkpoint(path), CPU)
        assert [row["setting"] for row in rows] == ["as stored", "centres aligned", "K=1", "refined", "refinement only"]
        assert all(0.3 < row["figures"]["dice"]["mean"] <= 1 for row in rows)

    @pytest.mark.parametrize("wanted", [None, 4])
    def test_refined_rows_have_recursions_of_their_own(self, wanted: int | None) -> None:
        table = jobs_protocol.settings("agf", "mine.pt", Evaluation(recursions=(1, 2), refined_recursions=wanted))
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
        identity, _ = evaluate.measure(read_config(path), checkpoint(path), CPU)
        assert identity["figures"]["tre_mm"]["mean"] == pytest.approx(2.0)


class TestTables:
    def run(self, dice: float, seed: int) -> dict[str, Any]:
        figures = {"dice": {"mean": dice, "sd": 0.01}, "hd_px": {"mean": None, "sd": None, "missing": 3}}
        row = {"subset": "jsrt", "setting": "K=1", "pairs": 3, "figures": figures}
        return {"seed": seed, "hardware": "a computer", "rows": [row]}

    def test_seeds_are_merged_with_their_range(self, folder: Path) -> None:
        config = read_config(chest_config(folder))
        for seed, value in ((0, 0.9), (1, 0.8), (1, 0.92)):  # the second run of a seed replaces the first
            evaluate.write(folder / "results" / "tiny.json", config, self.run(value, seed))
        report = json.loads((folder / "results" / "tiny.json").read_text())
        known = {"Tests": {"rows": [{"subset": "jsrt", "method": "SyN", "dice": "0.895", "source": "a paper"}]}}
        lines = results.to_markdown([report], known).splitlines()
        assert "| jsrt | Tiny AGF | K=1 | 3 | 2 | 0.910 +- 0.010 [0.900 to 0.920] | a computer |" in lines
        assert "| jsrt | SyN | published |  |  | 0.895 | a paper |" in lines

    def test_document_of_the_project_is_up_to_date(self) -> None:
        paths = sorted((TRAINING / "results").glob("*.json"))
        reports = [json.loads(path.read_text(encoding="ascii")) for path in paths]
        published = json.loads((TRAINING / "published.json").read_text(encoding="ascii"))
        assert (TRAINING / "RESULTS.md").read_text(encoding="ascii") == results.to_markdown(reports, published)


class TestExport:
    @pytest.fixture
    def resources(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A copy of the method files without any weights."""
        resources = tmp_path / "Resources"
        (resources / "Methods").mkdir(parents=True)
        method = json.loads((TRAINING.parent / "DeepAttentionReg" / "Resources" / "Methods" / "rman.json").read_text())
        method |= {"architecture": "agf", "variants": [], "networks": {"2": NETWORK, "3": {"nd": 3}}}
        (resources / "Methods" / "agf.json").write_text(json.dumps(method))
        monkeypatch.setattr(registry, "resources", lambda: resources)
        return resources

    def arguments(self, folder: Path, resources: Path, **release: Any) -> argparse.Namespace:
        told = {"id": "tiny-weights", "training_data": "Made up", "licence": "CC0-1.0", "method": "agf", **release}
        network = {**NETWORK, "scales": 2}
        config = chest_config(folder, release=told, network=network, evaluation={"pairs": 2})
        torch.save(checkpoint(config), folder / "checkpoint.pt")
        rows = [{"subset": "jsrt", "setting": "K=1", "pairs": 2, "figures": {"dice": {"mean": 0.9, "sd": 0.1}}}]
        run = {"seed": 0, "hardware": "a computer", "rows": rows}
        evaluate.write(folder / "results" / "tiny.json", read_config(config), run)
        return argparse.Namespace(
            config=config,
            checkpoint=folder / "checkpoint.pt",
            date="2026-11-30",
            figures=False,
            file=None,
            results=folder / "results",
            resources=resources,
        )

    def test_exported_weights_are_loaded_by_the_engine(self, folder: Path, resources: Path) -> None:
        export(self.arguments(folder, resources, extent_mm=[100, 500], refinement={"smoothness": 2.0}))
        method = registry.load_method("agf")
        variant = registry.choose_variant(method, 2, None)
        assert variant.weights == "tiny-weights"
        assert variant.extent_mm == (100, 500)
        assert variant.refinement == {"smoothness": 2.0}
        assert variant.network["scales"] == 2
        network = load_network("agf", variant)
        torch.manual_seed(0)
        expected = build("agf", {**NETWORK, "scales": 2}).state_dict()
        for name, value in network.state_dict().items():
            assert torch.equal(value, expected[name].half().to(value.dtype)), name

    def test_figures_and_command_stand_beside_the_weights(self, folder: Path, resources: Path) -> None:
        arguments = self.arguments(folder, resources)
        export(arguments)
        entry = registry.load_weights()["tiny-weights"]
        assert entry.validation["mean"] == {"jsrt, K=1": {"dice": 0.9}}
        assert entry.validation["pairs"] == 2
        assert entry.command == "python training/train.py training/configs/tiny.json --output runs/tiny"
        assert entry.bytes == (resources / "Models" / entry.file).stat().st_size

    def test_second_export_replaces_the_first(self, folder: Path, resources: Path) -> None:
        arguments = self.arguments(folder, resources)
        export(arguments)
        export(arguments)
        assert len(registry.load_weights()) == len(registry.load_method("agf").variants) == 1

    def test_general_weights_are_the_first_choice(self, folder: Path, resources: Path) -> None:
        for name, general in (("heart", False), ("any", True), ("lung", False), ("any", True)):
            export(self.arguments(folder, resources, id=name, general=general))
        assert [variant.weights for variant in registry.load_method("agf").variants] == ["any", "heart", "lung"]

    def test_figures_alone_leave_the_rest(self, folder: Path, resources: Path) -> None:
        arguments = self.arguments(folder, resources)
        export(arguments)
        (folder / "results" / "tiny.json").unlink()
        export(argparse.Namespace(**{**vars(arguments), "figures": True}))
        entry = registry.load_weights()["tiny-weights"]
        assert entry.validation == {}
        assert entry.licence == "CC0-1.0"

    def test_configuration_without_release_is_refused(self, folder: Path, resources: Path) -> None:
        arguments = self.arguments(folder, resources)
        with pytest.raises(ValueError, match="has no release"):
            export(argparse.Namespace(**{**vars(arguments), "config": chest_config(folder)}))

    def test_weights_for_own_use_are_taken_by_their_path(self, folder: Path, resources: Path) -> None:
        arguments = self.arguments(folder, resources, refinement={"smoothness": 2.0})
        export(argparse.Namespace(**{**vars(arguments), "file": folder / "mine.pt"}))
        variant = registry.choose_variant(registry.load_method("agf"), 2, str(folder / "mine.pt"))
        assert variant.network["scales"] == 2
        assert variant.refinement == {"smoothness": 2.0}
        assert load_network("agf", variant).settings.scales == 2
        assert not (resources / "Models").exists()

    def test_json_keeps_short_things_on_one_line(self) -> None:
        value = {"a": [1, 2], "b": {"c": ["x" * 70, "y" * 70]}}
        text = as_json(value)
        assert json.loads(text) == value
        assert text.splitlines()[1] == '  "a": [1, 2],'
        assert max(map(len, text.splitlines())) <= 120
