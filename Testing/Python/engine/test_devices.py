"""On a device other than the CPU everything stays there: a pretended one refuses to mix, and counts what leaves it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torch.utils.backend_registration", reason="this PyTorch has no backends in Python")
other_device = pytest.importorskip(
    "other_device", reason="this PyTorch has no backends in Python", exc_type=ImportError
)

from DeepAttentionRegEngine.evidence.recursion_folder import RecursionFolder
from DeepAttentionRegEngine.evidence.uncertainty import measure_spread
from DeepAttentionRegEngine.file_jobs import KeepGaussians
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.protocol import registry
from DeepAttentionRegEngine.protocol.registry import Variant
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.protocol.settings import SIMILARITIES, Settings
from DeepAttentionRegEngine.registration.inputs import Given, load_inputs
from DeepAttentionRegEngine.registration.method_run import Observer, Tool
from DeepAttentionRegEngine.registration.registered import Registered
from DeepAttentionRegEngine.registration.registrar import Registrar
from engine_cases import blob_source, centered, matrix4
from other_device import OTHER, OtherDevice

pytestmark = pytest.mark.torch

GRIDS = {2: centered((40, 36, 1), (2.0, 2.0, 5.0)), 3: centered((32, 33, 34), (2.0, 2.0, 2.0))}
QUICK = Settings(method="none", alignment="none", refinement_steps=1, samples=2)
axes = pytest.mark.parametrize("axes", [2, pytest.param(3, marks=pytest.mark.slow)])


@pytest.fixture
def device() -> Iterator[OtherDevice]:
    with OtherDevice() as found:
        yield found


def registered_there(settings: Settings, axes: int, observer: Observer | None = None) -> Registered:
    """Return what comes of a pair that is registered on the other device, from reading to measuring."""
    registrar, grid = Registrar(replace(settings, device="cpu")), GRIDS[axes]
    registrar.device = OTHER
    if registrar.method is not None:
        registrar._tools[axes] = untrained(registrar, axes)
    moved = matrix4(np.eye(3), (3.0, 2.0, 0.0))
    fixed, moving = blob_source(grid), blob_source(grid, moved)
    labels = [((source.array > 0.5).astype(np.uint8), grid) for source in (fixed, moving)]
    points = np.array([grid.center_lps, grid.center_lps + 5.0])
    given = Given(labels=(labels[0], labels[1]), points=(points, points - moved[:3, 3]))
    inputs = load_inputs((fixed.array, grid), (moving.array, grid), given)
    return registrar._search(inputs, Reporter(), observer or Observer())


def untrained(registrar: Registrar, axes: int) -> Tool:
    method = registrar.method
    torch.manual_seed(0)
    network = build(method.architecture, method.networks[axes]).eval()
    return Tool(method, Variant(None, axes, method.networks[axes], None, {}), network.to(OTHER))


class TestPretence:
    """What the tests below rely on: that the device is told from the CPU."""

    def test_results_lie_where_their_tensors_do(self, device: OtherDevice) -> None:
        image = torch.zeros(2, 3, device=OTHER) + torch.tensor([1.0, 2.0, 3.0], device=OTHER) * torch.tensor(2.0)
        assert {image.device, image.sum().device, torch.zeros_like(image).device} == {OTHER}
        assert image.cpu().device.type == "cpu"

    @pytest.mark.parametrize(
        "mixed",
        [
            lambda image: image + torch.ones(3),
            lambda image: torch.cat([image, torch.ones(2, 3)]),
            lambda image: torch.where(torch.ones(2, 3) > 0, image, image),
            lambda image: torch.nn.functional.linear(image, torch.ones(3, 3)),
            lambda image: image.mul_(torch.ones(3)),
            lambda image: torch.arange(3).mul_(image[0]),
        ],
    )
    def test_mixture_with_the_cpu_is_refused(self, device: OtherDevice, mixed: Callable) -> None:
        with pytest.raises(RuntimeError, match="same device"):
            mixed(torch.ones(2, 3, device=OTHER))

    def test_what_leaves_is_counted(self, device: OtherDevice) -> None:
        image = torch.ones(2, 3, device=OTHER)
        float(image.sum())
        image.cpu()
        torch.zeros(2, 3).copy_(image)
        assert (device.copied, device.asked) == ([6, 6], 1)

    def test_registration_that_mixes_devices_is_found_out(
        self, device: OtherDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from DeepAttentionRegEngine.deform import refine

        monkeypatch.setattr(refine, "diffusion", lambda field, weight: (field * torch.ones(field.shape[2:])).mean())
        with pytest.raises(RuntimeError, match="same device"):
            registered_there(QUICK, 3)


class InTheLoops:
    """Keeps how much had left the device when method and refinement began, and when they were over."""

    def __init__(self, device: OtherDevice, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copied: list[int] = []
        proper = Registrar.find

        def find(*arguments: object) -> None:
            before = len(device.copied)
            proper(*arguments)
            self.copied += device.copied[before:]

        monkeypatch.setattr(Registrar, "find", find)


@axes
class TestEverythingStays:
    @pytest.mark.parametrize("method", registry.method_names())
    def test_with_every_method(
        self, axes: int, method: str, device: OtherDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loops = InTheLoops(device, monkeypatch)
        found = registered_there(replace(QUICK, method=method, recursions=None), axes)
        assert found.search.displacement.device == OTHER
        assert loops.copied == []

    @pytest.mark.parametrize("similarity", SIMILARITIES)
    @pytest.mark.parametrize("velocity", [False, True])
    def test_with_every_refinement(
        self, axes: int, similarity: str, velocity: bool, device: OtherDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loops = InTheLoops(device, monkeypatch)
        found = registered_there(replace(QUICK, similarity=similarity, velocity=velocity), axes)
        assert found.search.displacement.device == OTHER
        assert loops.copied == []

    @pytest.mark.parametrize("alignment", ["automatic", "mass", "affine"])
    def test_with_every_kind_of_alignment(self, axes: int, alignment: str, device: OtherDevice) -> None:
        assert registered_there(replace(QUICK, alignment=alignment), axes).search.pair.fixed.device == OTHER

    def test_with_gaussians_that_are_refined(
        self, axes: int, device: OtherDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loops = InTheLoops(device, monkeypatch)
        found = registered_there(replace(QUICK, method="r2n2", recursions=2), axes, KeepGaussians())
        assert found.search.displacement.device == OTHER
        assert loops.copied == []

    @pytest.mark.parametrize("method", ["rman", "adregnet", "agf"])
    def test_while_attention_is_kept(self, axes: int, method: str, device: OtherDevice, tmp_path: Path) -> None:
        folder = RecursionFolder(tmp_path, method, attends=True)
        registered_there(replace(QUICK, method=method, recursions=1), axes, folder)
        assert folder.steps[0].maps or folder.steps[0].attention

    def test_with_landmarks_that_guide(self, axes: int, device: OtherDevice) -> None:
        found = registered_there(replace(QUICK, guided=True), axes)
        assert found.measures["landmarks"]["guided"] == 2
        assert found.search.displacement.device == OTHER

    def test_with_uncertainty_and_warped_images(self, axes: int, device: OtherDevice) -> None:
        found = registered_there(QUICK, axes)
        assert measure_spread(found, Reporter()).count == 2
        assert found.warp().GetSize() == GRIDS[axes].size
