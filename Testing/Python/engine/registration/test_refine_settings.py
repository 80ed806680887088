"""Refinement settings that come with weights are checked as all others are."""

import pytest

from DeepAttentionRegEngine.deform.refine import RefineSettings
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.registration.search import refine_settings
from file_checks import refusal

pytestmark = pytest.mark.torch

CHOSEN = Settings(refinement_steps=7, smoothness=2.0)


def test_sound_ones_count() -> None:
    found = refine_settings(CHOSEN, 3, {"smoothness": 0.5, "levels": [2, 1]})
    assert found == RefineSettings(7, smoothness=1.0, levels=(2, 1))


@pytest.mark.parametrize(
    "told",
    [
        *({"color": 1}, {"smoothness": "a"}, {"smoothness": -1}, {"window": 0}, {"window": 2.5}, {"levels": 4}),
        *({"levels": []}, {"levels": [0]}, {"levels": ["a"]}, {"learning_rate": None}, {"structures": [1]}),
    ],
    ids=str,
)
def test_others_are_refused_in_a_sentence(told: dict) -> None:
    with refusal(errors.WEIGHTS_CORRUPT, "make no sense"):
        refine_settings(CHOSEN, 3, told)
