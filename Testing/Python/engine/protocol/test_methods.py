"""What holds for every method of the registry alike, in single slices and volumes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from DeepAttentionRegEngine.deform.tensors import use_full_precision
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.base import ImagePair, RegistrationNetwork
from DeepAttentionRegEngine.protocol import registry
from DeepAttentionRegEngine.protocol.contract import RegisterJob
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.registration import method_run
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.recursions import Step, read_attention, read_index
from engine_cases import blob_source, centered, matrix4, moved_grid, rotation, smooth_noise

pytestmark = pytest.mark.torch

METHODS = registry.method_names()
methods = pytest.mark.parametrize("name", METHODS)
SIZES = {2: (37, 50), 3: (33, 40, 37)}
sizes = pytest.mark.parametrize("axes", [2, pytest.param(3, marks=pytest.mark.slow)])
ATTENTIVE = {"rman", "adregnet"}
MAPS = {"adregnet": {"fixed"}, "agf": {"fixed", "moving"}, "agf-diffeo": {"fixed", "moving"}}


def stirred(name: str, axes: int) -> RegistrationNetwork:
    """Return an untrained network whose weights are far enough from the start to move something."""
    method = registry.load_method(name)
    torch.manual_seed(0)
    network = build(method.architecture, method.networks[axes]).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return network


def image_pair(axes: int) -> ImagePair:
    fixed, moving = (smooth_noise(SIZES[axes], seed=seed, sigma=1.5) for seed in (1, 2))
    return ImagePair(fixed, moving)


def field(network: RegistrationNetwork, axes: int) -> torch.Tensor:
    with torch.no_grad():
        return list(network.recurse(image_pair(axes), 1))[-1].displacement


@methods
@sizes
class TestNetwork:
    def test_field_has_the_size_of_the_images(self, name: str, axes: int) -> None:
        assert field(stirred(name, axes), axes).shape == (1, axes, *SIZES[axes])

    def test_same_images_give_the_same_field(self, name: str, axes: int) -> None:
        assert torch.equal(field(stirred(name, axes), axes), field(stirred(name, axes), axes))

    def test_start_is_close_to_the_identity(self, name: str, axes: int) -> None:
        method = registry.load_method(name)
        if not method.needs_weights:
            pytest.skip("optimises on the pair")
        torch.manual_seed(0)
        network = build(method.architecture, method.networks[axes]).eval()
        assert float(field(network, axes).abs().max()) < 0.05

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_gpu_agrees_with_the_cpu(self, name: str, axes: int) -> None:
        use_full_precision()
        network, pair = stirred(name, axes), image_pair(axes)
        expected = field(network, axes)
        there = ImagePair(pair.fixed.cuda(), pair.moving.cuda())
        with torch.no_grad():
            found = list(network.cuda().recurse(there, 1))[-1].displacement.cpu()
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.fixture
def job(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RegisterJob:
    """Register two oblique images, slices or volumes, by a stirred network."""
    name, axes = request.param
    method = registry.load_method(name)
    options = {}
    if method.needs_weights:
        torch.save(stirred(name, axes).state_dict(), tmp_path / "own.pt")
        options["weights"] = str(tmp_path / "own.pt")
    monkeypatch.setattr(method_run, "similarity", lambda *_: 1.0)  # keep the field, whatever it does
    grid = centered((40, 36, 33 if axes == 3 else 1), (2.0, 2.5, 3.0), rotation(10, 20, -30), (5.0, -40.0, 100.0))
    source = blob_source(grid)
    images.write_volume(tmp_path / "fixed.nrrd", source.array, grid)
    images.write_volume(tmp_path / "moving.nrrd", source.array, moved_grid(grid, matrix4(np.eye(3), (1.0, 0.0, 0.0))))
    return RegisterJob(
        fixed=str(tmp_path / "fixed.nrrd"),
        moving=str(tmp_path / "moving.nrrd"),
        method=name,
        recursions=method.recursions.minimum if method.needs_weights else method.recursions.default,
        refinement_steps=0,
        alignment="none",
        device="cpu",
        output_transform=str(tmp_path / "t.nrrd"),
        output_recursions=str(tmp_path / "r"),
        attention=True,
        **options,
    )


def registered(job: RegisterJob) -> tuple[np.ndarray, np.ndarray, Step]:
    """Return the field, the normal of the fixed grid, and what the first recursion left behind."""
    run(job, Reporter())
    displacement, grid = images.read_displacement(str(job.output_transform))
    return displacement, np.reshape(grid.direction, (3, 3))[:, 2], read_index(str(job.output_recursions)).recursions[0]


@pytest.mark.slow
class TestJob:
    @pytest.mark.parametrize("job", [(name, 2) for name in METHODS], ids=METHODS, indirect=True)
    def test_slice_moves_within_its_plane_alone(self, job: RegisterJob) -> None:
        displacement, normal, step = registered(job)
        assert np.abs(displacement).max() > 1e-3
        assert np.abs(displacement @ normal).max() < 5e-4  # stored as multiples of 2^-11 mm
        self.check_evidence(job, step)

    @pytest.mark.parametrize("job", [(name, 3) for name in METHODS], ids=METHODS, indirect=True)
    def test_volume_moves(self, job: RegisterJob) -> None:
        displacement, _, step = registered(job)
        assert np.abs(displacement).max() > 1e-3
        self.check_evidence(job, step)

    @staticmethod
    def check_evidence(job: RegisterJob, step: Step) -> None:
        """Check that what the method attends to is there, and whole."""
        folder = Path(str(job.output_recursions))
        assert bool(step.attention) == (job.method in ATTENTIVE)
        assert MAPS.get(job.method, set()) <= {shown["image"] for shown in step.maps}
        assert bool(step.gaussians) == (job.method == "r2n2")
        for entry in step.attention:
            attention = read_attention(folder / entry["file"])
            assert attention.row(0).shape == (np.prod(attention.key_size),)
        for shown in step.maps:
            assert np.isfinite(images.read_volume(folder / shown["file"]).array).all()
