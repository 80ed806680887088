"""Every setting is defined once: whoever offers or takes it has it from there."""

import argparse
import dataclasses
import typing

import pytest

from DeepAttentionRegEngine.arguments import add_settings, option_of
from DeepAttentionRegEngine.protocol import contract, errors, registry
from DeepAttentionRegEngine.protocol.quality import EFFORTS, resolve
from DeepAttentionRegEngine.protocol.settings import (
    QUALITIES,
    Settings,
    choices_of,
    default_of,
    label_of,
    range_of,
    settings_of,
)

FIELDS = dataclasses.fields(Settings)
fields = pytest.mark.parametrize("item", FIELDS, ids=lambda item: item.name)
HINTS = typing.get_type_hints(Settings)


def parsed(*arguments: str, leave_out: tuple[str, ...] = ()) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_settings(parser, leave_out)
    return parser.parse_args(arguments)


class TestDefinition:
    @fields
    def test_tells_people_what_it_is(self, item: dataclasses.Field) -> None:
        assert item.metadata["label"]
        assert item.metadata["help"]
        assert not item.metadata["help"].endswith(".")

    @fields
    def test_default_is_allowed(self, item: dataclasses.Field) -> None:
        assert getattr(contract.build(Settings, {item.name: item.default}), item.name) == item.default

    @fields
    def test_number_has_a_range_that_people_are_offered(self, item: dataclasses.Field) -> None:
        if {int, float} & set(typing.get_args(HINTS[item.name]) or (HINTS[item.name],)):
            low, high = range_of(item.name)
            assert item.metadata["at_least"] <= low < high <= item.metadata["at_most"]

    @fields
    def test_choice_has_a_text(self, item: dataclasses.Field) -> None:
        assert all(choices_of(item.name).values()) if item.metadata["choices"] else True

    def test_unknown_name_is_its_own_label(self) -> None:
        assert (label_of("smoothness"), label_of("of another release")) == ("Smoothness", "of another release")


class TestFollowers:
    @fields
    def test_job_has_it(self, item: dataclasses.Field) -> None:
        for kind in (contract.RegisterJob, contract.SequenceJob):
            assert {own.name: own.default for own in dataclasses.fields(kind)}[item.name] == item.default

    @fields
    def test_command_line_has_it(self, item: dataclasses.Field) -> None:
        assert getattr(parsed(), item.name) == default_of(item.name)

    def test_command_line_refuses_other_choices(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            parsed("--similarity", "likeness")
        assert "likeness" in capsys.readouterr().err

    def test_command_line_may_leave_some_out(self) -> None:
        assert set(vars(parsed())) - set(vars(parsed(leave_out=("samples", "velocity")))) == {"samples", "velocity"}

    def test_settings_come_back_from_a_job(self) -> None:
        settings = Settings(method="none", quality="best", smoothness=2.0)
        job = contract.RegisterJob(fixed="f", moving="m", **dataclasses.asdict(settings))
        assert settings_of(job) == settings

    def test_options_are_spelled_with_hyphens(self) -> None:
        assert option_of("refinement_steps") == "--refinement-steps"


class TestQuality:
    def test_every_quality_has_its_effort(self) -> None:
        assert list(EFFORTS) == list(QUALITIES)

    @pytest.mark.parametrize("name", [*registry.method_names(), contract.METHOD_NONE])
    def test_leaves_nothing_open(self, name: str) -> None:
        method = None if name == contract.METHOD_NONE else registry.load_method(name)
        for quality in QUALITIES:
            found = resolve(Settings(method=name, quality=quality), method)
            assert found.refinement_steps > 0
            assert found.half_precision is False
            assert (found.recursions is None) == (method is None)

    def test_explicit_numbers_win(self) -> None:
        chosen = Settings(quality="best", recursions=1, refinement_steps=0, half_precision=True)
        found = resolve(chosen, registry.load_method("rman"))
        assert (found.recursions, found.refinement_steps, found.half_precision) == (1, 0, True)

    def test_usual_one_is_what_the_method_is_described_with(self) -> None:
        method = registry.load_method("rman")
        found = resolve(Settings(), method)
        assert (found.recursions, found.refinement_steps) == (method.recursions.default, 40)

    def test_scales_the_usual_number_of_the_weights(self) -> None:
        method = registry.load_method("agf-diffeo")
        variant = registry.choose_variant(method, 3, "agf-hippocampus-mr")
        usual = dataclasses.replace(variant, recursions=3)
        found = [resolve(Settings(quality=quality), method, usual).recursions for quality in QUALITIES]
        assert found == [2, 3, 4]
        assert resolve(Settings(quality="best"), method, variant).recursions == method.recursions.maximum
        assert resolve(Settings(recursions=1), method, variant).recursions == 1

    def test_recursions_that_the_method_does_not_know_are_refused(self) -> None:
        with pytest.raises(errors.EngineError, match="1 to 10 recursions, not 50"):
            resolve(Settings(recursions=50), registry.load_method("rman"))
