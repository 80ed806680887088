"""What the presets mean for every method, and how they are recognized."""

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene  # noqa: F401 - provides the translation
from DeepAttentionRegEngine.protocol import contract, registry
from DeepAttentionRegLib.engine.Presets import Choices, Preset, choicesOf, presetOf
from DeepAttentionRegLib.tasks import Registration

pytestmark = pytest.mark.mrml

QUALITIES = [Preset.FAST, Preset.BALANCED, Preset.BEST]
METHODS = [*registry.method_names(), contract.METHOD_NONE]


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    @pytest.mark.parametrize("on_gpu", [False, True], ids=["CPU", "GPU"])
    def test_preset_is_recognized(self, method, on_gpu):
        assert [presetOf(choicesOf(preset, method, on_gpu), method, on_gpu) for preset in QUALITIES] == QUALITIES

    def test_job_takes_every_preset(self, method):
        for preset in QUALITIES:
            settings = Registration.Settings(method=method, **vars(choicesOf(preset, method, onGpu=True)))
            values = Registration.jobValues(settings)
            job = contract.build(contract.RegisterJob, {"fixed": "f.nrrd", "moving": "m.nrrd", **values})
            if method != contract.METHOD_NONE:
                assert registry.load_method(method).recursions_for(job.recursions) == job.recursions

    def test_effort_rises(self, method):
        efforts = [(choices.recursions or 0, choices.refinementSteps) for choices in map_presets(method)]
        assert efforts == sorted(efforts)
        assert len(set(efforts)) == len(QUALITIES)


def map_presets(method: str) -> list[Choices]:
    return [choicesOf(preset, method) for preset in QUALITIES]


def test_balanced_is_what_is_usual():
    assert choicesOf(Preset.BALANCED, "rman") == Choices(recursions=3, refinementSteps=40, halfPrecision=False)


def test_network_takes_fewer_or_more_recursions():
    assert [choices.recursions for choices in map_presets("rman")] == [2, 3, 4]


def test_iterative_method_keeps_its_levels():
    assert {choices.recursions for choices in map_presets("bspline")} == {3}


def test_only_fast_networks_on_graphics_cards_run_in_half_precision():
    assert choicesOf(Preset.FAST, "rman", onGpu=True).halfPrecision
    assert not choicesOf(Preset.FAST, "rman").halfPrecision
    assert not choicesOf(Preset.FAST, "bspline", onGpu=True).halfPrecision
    assert not choicesOf(Preset.BEST, "rman", onGpu=True).halfPrecision


def test_other_numbers_are_custom():
    assert presetOf(Choices(3, 41, halfPrecision=False), "rman") is Preset.CUSTOM
    assert presetOf(Choices(5, 40, halfPrecision=False), "rman") is Preset.CUSTOM


def test_recursions_do_not_matter_without_a_network():
    assert presetOf(Choices(7, 40, halfPrecision=True), contract.METHOD_NONE) is Preset.BALANCED


def test_every_preset_has_a_label():
    assert [preset.label() for preset in Preset] == ["Fast", "Balanced", "Best", "Custom"]
