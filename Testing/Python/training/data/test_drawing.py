"""Images drawn from label maps of structures, and the reader of these."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import body_config, need, same_tensors

need("monai", "scipy")

from training.configs.reading import read_config
from training.configs.schema import Config, ConfigError
from training.data.batches import Batches, CaseSource
from training.data.cases import CaseSet
from training.data.drawing import ABSENT, DRAWN, Drawer, drawn_cases, mirrored, model, without_side
from training.data.loaders import load
from training.data.loaders.structures import load_structures, numbered

STILL: dict[str, Any] = {"zoom": 0.0, "stretch": 0.0, "turn": 0.0, "shift": 0.0, "elastic": 0.0, "mirrored": 0.0}
PLACES = {1: (12, 10, 15), 2: (12, 10, 6)}  # within the left and the right organ, as written


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAR_DATA", str(tmp_path))
    return tmp_path


def draw(config: Config, seed: int = 0, case: int = 0) -> dict[str, torch.Tensor]:
    """Return an image of one of the training cases: bodies, then rocks."""
    shown = model(load(config.data, "train").cases[case], 2)
    return Drawer(config, [shown], np.random.default_rng(seed)).portrait(shown, config.drawing.shapes[0])


class TestLoader:
    def test_structures_come_first_then_what_is_named_then_the_rest(self, data: Path) -> None:
        found = load(read_config(body_config(data)).data, "train")
        assert [case.subset for case in found.cases] == ["bodies", "bodies", "rocks"]
        body, _, rock = (case.labels for case in found.cases)
        assert body.shape == (20, 16, 20)  # cut to what is not background
        assert body.unique().tolist() == [1, 2, 3]
        assert rock.unique().tolist() == [0, 4, 5]

    def test_left_and_right_of_mirrored_files_are_exchanged(self, data: Path) -> None:
        options = read_config(body_config(data)).data.options["structures"]
        plain, turned = (
            load_structures(data, None, structures=options, sets={"bodies": {"mirrored": mirror}}).cases[0].labels
            for mirror in (False, True)
        )
        assert torch.equal(turned, plain.flip(2))

    def test_images_are_brought_to_the_spacing(self, data: Path) -> None:
        case = load(read_config(body_config(data)).data, "validation").cases[-1]
        assert case.image.shape == (1, 24, 20, 22)
        assert case.spacing == (2.0, 2.0, 2.0)
        assert [int(case.labels[place]) for place in PLACES.values()] == [1, 2]
        assert case.labels.max() == 2

    def test_value_of_a_structure_that_is_missing_is_no_obstacle(self) -> None:
        assert numbered(np.array([0, 2, 5]), [[7], [5]], shown=True).tolist() == [0, 3, 2]

    def test_unknown_key_of_a_set_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="color"):
            load_structures(tmp_path, None, structures={}, sets={"bodies": {"color": 1}})


class TestContrast:
    def test_two_people_of_one_contrast_look_alike(self, data: Path) -> None:
        config = read_config(body_config(data))
        shown = [model(case, 2) for case in load(config.data, "train").cases[:2]]
        apart = []
        for alike in (True, False):
            differences = []
            for seed in range(8):
                drawer = Drawer(config, shown, np.random.default_rng(seed))
                means = drawer.contrast()
                levels = []
                for one in shown:
                    drawn = drawer.portrait(one, config.drawing.shapes[0], means if alike else None)
                    inside = drawn["labels"] == 1
                    levels.append(float(drawn["image"][0][inside].mean()) if inside.any() else 0.5)
                differences.append(abs(levels[0] - levels[1]))
            apart.append(np.mean(differences))
        assert apart[0] < 0.6 * apart[1]


class TestSides:
    def test_left_becomes_right(self) -> None:
        assert mirrored(["left ear", "nose", "right ear"]) == [0, 3, 2, 1]

    def test_one_side_alone_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="right ear"):
            mirrored(["left ear"])

    def test_name_of_both_sides(self) -> None:
        assert [without_side(name) for name in ("left ear", "right ear", "nose")] == ["ear", "ear", "nose"]

    @pytest.mark.parametrize("mirror", [0.0, 1.0])
    def test_left_stays_where_left_is(self, data: Path, mirror: float) -> None:
        labels = draw(read_config(body_config(data, **{**STILL, "mirrored": mirror})))["labels"]
        assert labels[12, 10, 16] == 1
        assert labels[12, 10, 5] == 2
        # The left organ is the larger; in a mirror the right one is.
        assert bool((labels == 1).sum() > (labels == 2).sum()) == (mirror == 0)


class TestImage:
    def test_same_chance_gives_the_same_image(self, data: Path) -> None:
        config = read_config(body_config(data))
        assert same_tensors(draw(config, 1), draw(config, 1))
        assert not same_tensors(draw(config, 1), draw(config, 2))

    def test_image_is_in_its_range_and_labels_are_structures(self, data: Path) -> None:
        config = read_config(body_config(data, absent=0.3, stripped=0.5))
        batches = Batches(CaseSource(replace(config, run=replace(config.run, batch=3)), load(config.data, "train")))
        empty = 0
        for step in range(5):
            batch = batches[step]
            assert batch["image"].shape == (3, 1, 24, 20, 22)
            assert batch["labels"].shape == (3, 24, 20, 22)
            assert 0 <= float(batch["image"].min()) <= float(batch["image"].max()) < 1.00001
            assert set(batch["labels"].unique().tolist()) <= {0, 1, 2}
            empty += sum(not labels.any() for labels in batch["labels"])
        assert 0 < empty < 15

    def test_other_anatomy_has_no_structures(self, data: Path) -> None:
        drawn = draw(read_config(body_config(data)), case=2)
        assert not drawn["labels"].any()
        assert drawn["image"].std() > 0

    def test_beyond_the_end_of_a_scan_there_is_nothing(self, data: Path) -> None:
        config = read_config(body_config(data, shapes=[[48, 20, 22]], **STILL))
        drawn = draw(config)
        for edge in (slice(0, 12), slice(36, 48)):
            assert drawn["image"][0, edge].unique().numel() == 1
            assert not drawn["labels"][edge].any()

    def test_both_sides_look_alike(self, data: Path) -> None:
        config = read_config(body_config(data, noise=0.0, **STILL))
        for seed in range(4):
            image = draw(config, seed)["image"][0]
            skin = abs(float(image[12, 4, 10] - image[PLACES[1]]))
            assert abs(float(image[PLACES[1]] - image[PLACES[2]])) < 0.5 * skin + 0.2

    @pytest.mark.parametrize("stripped", [0.0, 1.0])
    def test_stripped_images_show_no_skin_in_half(self, data: Path, stripped: float) -> None:
        config = read_config(body_config(data, noise=0.0, stripped=stripped, **STILL))
        bare = 0
        for seed in range(12):
            drawn = draw(config, seed)
            outside = drawn["image"][0][:, 3:17, 3:17][drawn["labels"][:, 3:17, 3:17] == 0]
            bare += float(outside.quantile(0.9) - outside.quantile(0.1)) < 1e-6
        assert bare == 0 if stripped == 0 else 1 <= bare < 12

    def test_body_surrounds_the_structures(self, data: Path) -> None:
        data_only = read_config(body_config(data, body=True, **STILL))
        shown = model(load(data_only.data, "train").cases[0], 2)
        drawer = Drawer(data_only, [shown], np.random.default_rng(0))
        places, _, _ = drawer._places(shown, (24, 60, 60))
        tissue = drawer._body(shown, places)
        assert tissue[12, 30, 30] > 0
        assert tissue[12, 0, 0] == tissue[12, 59, 59] == 0
        assert len(tissue.unique()) > 2


class TestValidation:
    def test_images_are_the_same_every_time(self, data: Path) -> None:
        config = read_config(body_config(data))
        found = load(config.data, "validation")
        first, second = drawn_cases(config, found), drawn_cases(config, found)
        assert [case.subset for case in first] == [DRAWN] * 4 + [ABSENT] * 2 + ["seen"]
        assert all(torch.equal(a.image, b.image) for a, b in zip(first, second, strict=True))
        assert not torch.equal(first[0].image, first[1].image)

    def test_without_a_drawing_none_is_made(self, data: Path) -> None:
        config = replace(read_config(body_config(data)), drawing=None)
        with pytest.raises(ConfigError, match="needs a drawing"):
            drawn_cases(config, CaseSet([]))
