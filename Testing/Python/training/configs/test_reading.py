"""Experiments: keys, types, what extends what; and every experiment of the project."""

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

from training_cases import chest_config, need

need("monai", "scipy")

from training.__main__ import COMMANDS, main
from training.configs.reading import expanded, name_of, names, read_config, to_dict
from training.configs.schema import ConfigError
from training.objectives.making import make_task
from training.paths import RESOURCES, RESULTS, ROOT, TRAINING


class TestKeys:
    def test_unknown_key_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"tiny\.json: Config does not know the field \'stepps\'"):
            read_config(chest_config(tmp_path, stepps=3))

    def test_unknown_nested_key_is_named_with_its_place(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"tiny\.json: Run does not know the field \'epochs\'"):
            read_config(chest_config(tmp_path, run={"steps": 1, "epochs": 2}))

    def test_missing_key_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="Run lacks the field 'steps'"):
            read_config(chest_config(tmp_path, run={"batch": 1}))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"run": {"steps": "many"}}, "Run.steps is 'many', but must be int"),
            ({"seed": True}, "Config.seed is True, but must be int"),
            ({"task": "segment"}, "Config.task is 'segment', but must be one of registration, segmentation"),
            ({"optimizer": {"schedule": "linear"}}, "Optimizer.schedule is 'linear', but must be one of constant"),
            ({"optimizer": {"betas": 0.9}}, "Optimizer.betas is 0.9, but must be list or tuple"),
            ({"data": [1]}, "Config.data is .1., but must be dict"),
        ],
    )
    def test_impossible_values_are_refused(self, tmp_path: Path, changes: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            read_config(chest_config(tmp_path, **changes))

    def test_broken_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "broken.json").write_text("{")
        with pytest.raises(ConfigError, match=r"broken\.json is not JSON"):
            read_config(tmp_path / "broken.json")

    def test_unknown_loss_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"losses: beauty unknown for registration \(known: global_ncc"):
            make_task(read_config(chest_config(tmp_path, losses={"beauty": 1.0})), None)

    def test_unknown_part_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="parts: heart unknown"):
            make_task(read_config(chest_config(tmp_path, parts={"heart": "x"})), None)

    def test_missing_part_says_which_command_trains_it(self, tmp_path: Path) -> None:
        config = read_config(chest_config(tmp_path, parts={"segmenter": "segmenter_jsrt"}))
        with pytest.raises(ConfigError, match=r"first run python -m training train segmenter_jsrt"):
            make_task(config, tmp_path)


class TestExtends:
    def test_objects_are_merged_and_null_takes_away(self, tmp_path: Path) -> None:
        base = chest_config(tmp_path)
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
        config = read_config(chest_config(tmp_path))
        (tmp_path / "again.json").write_text(json.dumps(to_dict(config)))
        assert to_dict(read_config(tmp_path / "again.json")) == to_dict(config)

    def test_argument_of_the_command_line_wins(self, tmp_path: Path) -> None:
        assert read_config(chest_config(tmp_path), seed=7).seed == 7

    def test_file_may_extend_an_experiment_of_the_project(self, tmp_path: Path) -> None:
        (tmp_path / "mine.json").write_text(json.dumps({"extends": "agf-no-ssim_jsrt", "run": {"steps": 7}}))
        mine, base = read_config(tmp_path / "mine.json"), read_config("agf-no-ssim_jsrt")
        assert mine.run.steps == 7
        assert (mine.losses, mine.data, mine.run.batch) == (base.losses, base.data, base.run.batch)

    def test_name_of_a_file_is_that_before_its_ending(self) -> None:
        assert name_of(Path("some") / "mine.json") == "mine"
        assert name_of("agf_jsrt") == "agf_jsrt"

    def test_unknown_experiment_is_named(self) -> None:
        with pytest.raises(ConfigError, match="no experiment 'agf_moon'"):
            read_config("agf_moon")


class TestSweep:
    def test_braces_stand_for_several_experiments(self) -> None:
        content = {"extends": "agf_{value}", "title": "AGF, {title}", "data": {"sets": ["{value}"], "labels": 1}}
        assert expanded("agf-x_{jsrt,cine}", content, {"jsrt": "JSRT"}) == {
            "agf-x_jsrt": {"extends": "agf_jsrt", "title": "AGF, JSRT", "data": {"sets": ["jsrt"], "labels": 1}},
            "agf-x_cine": {"extends": "agf_cine", "title": "AGF, cine", "data": {"sets": ["cine"], "labels": 1}},
        }

    def test_ablation_differs_from_its_base_in_what_it_says(self) -> None:
        base, ablation = (to_dict(read_config(name)) for name in ("agf_montgomery", "agf-2-scales_montgomery"))
        differing = {key for key in base if base[key] != ablation[key]}
        assert differing == {"title", "network", "release"}
        assert ablation["network"] == {**base["network"], "scales": 2}


@pytest.mark.parametrize("name", names())
class TestOfTheProject:
    def test_can_be_read_and_builds_its_network(self, name: str) -> None:
        assert make_task(read_config(name), None).network is not None

    def test_names_what_exists(self, name: str) -> None:
        config = read_config(name)
        assert config.data.split is None or (TRAINING / "data" / config.data.split).exists()
        assert {*config.parts.values(), config.start} - {None} <= set(names())


def test_experiments_without_a_result_are_stages_or_say_why() -> None:
    measured = {path.stem.removesuffix("_transfer") for path in RESULTS.glob("*.json")}
    configs = {name: read_config(name) for name in names()}
    stages = {stage for config in configs.values() for stage in (*config.parts.values(), config.start)}
    bare = {name for name, config in configs.items() if not config.note} - measured - stages
    assert not bare
    assert measured <= set(configs)


class TestCommands:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_explains_itself(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        need("ants", "lightning_fabric", "matplotlib", "tensorboard", "tqdm")
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        assert f"usage: python -m training {name}" in capsys.readouterr().out

    def test_experiments_are_listed_and_shown(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        main(["configs"])
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names()
        main(["configs", "agf-no-attention_jsrt"])
        (tmp_path / "shown.json").write_text(capsys.readouterr().out)
        assert read_config(tmp_path / "shown.json") == read_config("agf-no-attention_jsrt")

    def test_documents_name_commands_and_experiments_that_exist(self) -> None:
        cards = (ROOT / "Resources" / "ModelCards").glob("*.md")
        documents = [ROOT / "README.md", TRAINING / "README.md", RESOURCES / "weights.json", *cards]
        text = "\n".join(path.read_text(encoding="utf-8") for path in documents)
        told = re.findall(r"python -m training ([a-z][\w-]*)(?: ([\w-]+_[\w-]+))?", text)
        assert len(told) > 30
        assert {command for command, _ in told} <= set(COMMANDS)
        assert {name for _, name in told} - {""} <= set(names())

    def test_what_cannot_be_done_is_told_in_a_sentence(self) -> None:
        with pytest.raises(SystemExit, match="no experiment 'agf_moon'"):
            main(["configs", "agf_moon"])


def test_no_case_trains_and_validates() -> None:
    for path in sorted((TRAINING / "data" / "splits").glob("*.json")):
        split = json.loads(path.read_text())
        assert not set(split["train"]) & set(split["validation"]), path.name
