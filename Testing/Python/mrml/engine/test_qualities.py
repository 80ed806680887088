"""What the qualities mean for every method, and how they are recognized."""

from dataclasses import asdict

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene  # noqa: F401 - provides the translation
from DeepAttentionRegEngine.protocol import contract, registry
from DeepAttentionRegEngine.protocol.settings import QUALITIES, Settings
from DeepAttentionRegLib.engine.Methods import Form
from DeepAttentionRegLib.engine.Qualities import CUSTOM, labelOf, numbersOf, qualityOf

pytestmark = pytest.mark.mrml

METHODS = [*registry.method_names(), contract.METHOD_NONE]


def settings_of(quality: str, method: str, on_gpu: bool = False) -> Settings:
    return Settings(method=method, **numbers_of(quality, method, on_gpu))


def numbers_of(quality: str, method: str, on_gpu: bool = False, weights: str | None = None, axes: int = 3) -> dict:
    return numbersOf(quality, Form(method, weights, axes), on_gpu)


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    @pytest.mark.parametrize("on_gpu", [False, True], ids=["CPU", "GPU"])
    def test_quality_is_recognized(self, method, on_gpu):
        found = [qualityOf(settings_of(quality, method, on_gpu), 3, on_gpu) for quality in QUALITIES]
        assert found == list(QUALITIES)

    def test_job_takes_every_quality(self, method):
        for quality in QUALITIES:
            values = asdict(settings_of(quality, method, on_gpu=True))
            job = contract.build(contract.RegisterJob, {"fixed": "f.nrrd", "moving": "m.nrrd", **values})
            if method != contract.METHOD_NONE:
                assert registry.load_method(method).recursions_for(job.recursions) == job.recursions

    def test_effort_rises(self, method):
        numbers = [numbers_of(quality, method) for quality in QUALITIES]
        efforts = [(number["recursions"] or 0, number["refinement_steps"]) for number in numbers]
        assert efforts == sorted(efforts)
        assert len(set(efforts)) == len(QUALITIES)


def test_balanced_is_what_is_usual():
    assert numbers_of("balanced", "rman") == {"recursions": 6, "refinement_steps": 40, "half_precision": False}


def test_network_takes_fewer_or_more_recursions():
    assert [numbers_of(quality, "rman")["recursions"] for quality in QUALITIES] == [3, 6, 8]


def test_recursions_are_scaled_from_those_of_the_weights():
    assert [numbers_of(quality, "agf-diffeo")["recursions"] for quality in QUALITIES] == [2, 5, 5]
    assert [numbers_of(quality, "agf-diffeo", axes=2)["recursions"] for quality in QUALITIES] == [1, 2, 3]
    usual = Settings(method="agf-diffeo", recursions=5, refinement_steps=40, half_precision=False)
    assert [qualityOf(usual, axes) for axes in (3, 2)] == ["balanced", CUSTOM]


def test_weights_that_cannot_be_read_leave_the_numbers_of_the_method(tmp_path):
    (tmp_path / "own.json").write_text("{", encoding="ascii")
    assert numbers_of("balanced", "rman", weights=str(tmp_path / "own.pt"))["recursions"] == 3


def test_iterative_method_keeps_its_levels():
    assert {numbers_of(quality, "bspline")["recursions"] for quality in QUALITIES} == {3}


def test_only_fast_networks_on_graphics_cards_run_in_half_precision():
    assert numbers_of("fast", "rman", on_gpu=True)["half_precision"]
    assert not numbers_of("fast", "rman")["half_precision"]
    assert not numbers_of("fast", "bspline", on_gpu=True)["half_precision"]
    assert not numbers_of("best", "rman", on_gpu=True)["half_precision"]


def test_other_numbers_are_custom():
    usual = settings_of("balanced", "rman")
    assert qualityOf(contract.build(Settings, {**asdict(usual), "refinement_steps": 41}), 3) == CUSTOM
    assert qualityOf(contract.build(Settings, {**asdict(usual), "recursions": 7}), 3) == CUSTOM


def test_recursions_do_not_matter_without_a_network():
    settings = Settings(method=contract.METHOD_NONE, recursions=7, refinement_steps=40, half_precision=True)
    assert qualityOf(settings, 3) == "balanced"


def test_every_quality_has_a_label():
    assert [labelOf(quality) for quality in (*QUALITIES, CUSTOM)] == ["Fast", "Balanced", "Best", "Custom"]
