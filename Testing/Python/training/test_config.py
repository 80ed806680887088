"""Configurations of experiments: keys, types, inheritance; and every configuration of the project."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch


from training_cases import TRAINING, chest_config

pytest.importorskip("lightning_fabric", reason="training needs the extra 'train'")
pytest.importorskip("monai", reason="training needs the extra 'train'")

from config import ConfigError, read_config, to_dict
from train import make_task

CONFIGS = sorted((TRAINING / "configs").glob("*.json"))


def edited(folder: Path, **changes: object) -> Path:
    return chest_config(folder, **changes)


class TestKeys:
    def test_unknown_key_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"tiny\.json: unknown keys stepps"):
            read_config(edited(tmp_path, stepps=3))

    def test_unknown_nested_key_is_named_with_its_place(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"tiny\.json: run: unknown keys epochs"):
            read_config(edited(tmp_path, run={"steps": 1, "epochs": 2}))

    def test_missing_key_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="run: missing keys steps"):
            read_config(edited(tmp_path, run={"batch": 1}))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"run": {"steps": "many"}}, "steps is 'many', must be of type int"),
            ({"seed": True}, "seed is True"),
            ({"task": "segment"}, "must be one of registration, segmentation"),
            ({"optimizer": {"schedule": "linear"}}, "must be one of constant"),
            ({"optimizer": {"betas": 0.9}}, "must be of type tuple"),
            ({"data": [1]}, "must be an object"),
        ],
    )
    def test_impossible_values_are_refused(self, tmp_path: Path, changes: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            read_config(edited(tmp_path, **changes))

    def test_broken_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "broken.json").write_text("{")
        with pytest.raises(ConfigError, match=r"broken\.json is not JSON"):
            read_config(tmp_path / "broken.json")

    def test_unknown_loss_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"losses: beauty unknown for registration \(known: global_ncc"):
            make_task(read_config(edited(tmp_path, losses={"beauty": 1.0})), None)

    def test_unknown_part_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="parts: heart unknown"):
            make_task(read_config(edited(tmp_path, parts={"heart": "x"})), None)

    def test_missing_part_says_which_command_trains_it(self, tmp_path: Path) -> None:
        config = read_config(edited(tmp_path, parts={"segmenter": "segmenter_jsrt"}))
        with pytest.raises(ConfigError, match=r"first run python training/train\.py training/configs/segmenter_jsrt"):
            make_task(config, tmp_path)


class TestExtends:
    def test_objects_are_merged_and_null_takes_away(self, tmp_path: Path) -> None:
        base = edited(tmp_path)
        child = {
            "extends": base.name,
            "title": "Child",
            "losses": {"total_variation": None, "ssim": 0.5},
            "run": {"batch": 1},
        }
        (tmp_path / "child.json").write_text(json.dumps(child))
        config = read_config(tmp_path / "child.json")
        assert config.title == "Child"
        assert set(config.losses) == {"global_ncc", "logit_cross_entropy", "ssim"}
        assert (config.run.steps, config.run.batch) == (4, 1)

    def test_configuration_survives_json(self, tmp_path: Path) -> None:
        config = read_config(edited(tmp_path))
        (tmp_path / "again.json").write_text(json.dumps(to_dict(config)))
        assert to_dict(read_config(tmp_path / "again.json")) == to_dict(config)

    def test_argument_of_the_command_line_wins(self, tmp_path: Path) -> None:
        assert read_config(edited(tmp_path), seed=7).seed == 7


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
class TestOfTheProject:
    def test_can_be_read_and_builds_its_network(self, path: Path) -> None:
        config = read_config(path)
        assert make_task(config, None).network is not None

    def test_names_files_that_exist(self, path: Path) -> None:
        config = read_config(path)
        assert config.data.split is None or (TRAINING / config.data.split).exists()
        for part in config.parts.values():
            assert (TRAINING / "configs" / f"{part}.json").exists()


def test_no_case_trains_and_validates() -> None:
    for path in sorted((TRAINING / "splits").glob("*.json")):
        split = json.loads(path.read_text())
        assert not set(split["train"]) & set(split["validation"]), path.name
