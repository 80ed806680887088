"""Whether images would fit better mirrored: what tells a flipped file from a motion, and how it is called."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import Registered, Settings, expected_error, register
from DeepAttentionRegEngine.evidence.mirrored import Mirrored, mirrored
from DeepAttentionRegEngine.phantom.thorax import default_geometry, make_phantom
from DeepAttentionRegEngine.volume.geometry import Geometry

pytestmark = pytest.mark.torch

PLAIN = Settings(method="none", alignment="none", device="cpu", refinement_steps=0)
KINDS = pytest.mark.parametrize("flat", [False, True], ids=["volume", "slice"])
UPRIGHT = np.eye(3)
SIDEWAYS = np.eye(3)[[2, 0, 1]]  # i leads to P, j to S, k to L


def found(*, flat: bool = False, flipped: int | None = None, direction: np.ndarray = UPRIGHT) -> Registered:
    """Return a pair of a breathing thorax, the moving image flipped along one of (k, j, i) in its array."""
    size = (96, 96, 1) if flat else (40, 34, 40)
    spacing = (330 / 96,) * 3 if flat else (330 / 40, 275 / 34, 330 / 40)
    pair = make_phantom(default_geometry(size, spacing, flat=flat))
    moving = pair.moving if flipped is None else np.flip(pair.moving, flipped).copy()
    own = pair.fixed_geometry
    grid = Geometry.from_arrays(own.size, own.spacing, own.origin, direction @ np.reshape(own.direction, (3, 3)))
    return register((pair.fixed, grid), (moving, grid), PLAIN)


@KINDS
def test_a_moving_body_fits_less_when_mirrored(flat: bool) -> None:
    assert mirrored(found(flat=flat).search.pair).gain < 0


@KINDS
@pytest.mark.parametrize("axis", [1, 2])
def test_what_is_flipped_fits_better_when_mirrored_back(axis: int, flat: bool) -> None:
    there = found(flat=flat, flipped=axis)
    told = mirrored(there.search.pair)
    directions = np.reshape(there.geometry.direction, (3, 3))
    way = ("left to right", "front to back", "head to foot")[int(np.abs(directions[:, 2 - axis]).argmax())]
    assert told.gain > 0.05
    assert told.sides == way


def test_sides_are_those_of_the_patient() -> None:
    assert mirrored(found(flipped=2).search.pair).sides == "left to right"
    assert mirrored(found(flipped=2, direction=SIDEWAYS).search.pair).sides == "front to back"


def test_its_signs_are_how_alike_images_are_and_what_mirroring_gains() -> None:
    assert Mirrored(0.5, -0.25, "left to right").signs.tolist() == [0.5, -0.25]


def test_what_is_flipped_is_suspicious_and_says_what_to_look_at() -> None:
    told = expected_error(found(flipped=2)).told
    assert told["verdict"] == "suspicious"
    assert told["mirrored"] == "left to right"
    assert told["sentence"].endswith(
        "The moving volume fits better mirrored left to right: look whether it is flipped in its file."
    )


def test_a_sound_registration_says_nothing_of_mirrors() -> None:
    there = found()
    told = expected_error(there).told
    assert "mirrored" not in told
    assert "mirror" not in told["sentence"]
