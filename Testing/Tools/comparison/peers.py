"""Registrations by others, each called as its documentation tells its users to.

Every function takes `TwoVolumes` and returns the displacement `(k, j, i, 3)` in mm along the axes i, j, k of the grid:
the moving image is sampled at x + u(x).
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

CPU = "cpu"


@dataclass(frozen=True)
class TwoVolumes:
    """Two volumes on one grid.

    Attributes:
        fixed: float32 `(k, j, i)` in [0, 1].
        moving: The same, already aligned linearly.
        spacing: mm along i, j, k.
    """

    fixed: np.ndarray
    moving: np.ndarray
    spacing: tuple[float, float, float]


Register = Callable[[TwoVolumes], np.ndarray]


@dataclass(frozen=True)
class Peer:
    """A registration by others.

    Attributes:
        title: What people call it, with what was chosen.
        module: What Python imports to call it.
        package: What pip installs.
        register: Registers a pair.
    """

    title: str
    module: str
    package: str
    register: Register

    def missing(self) -> str:
        """Return why it cannot take part; empty if it can."""
        return "" if find_spec(self.module.split(".")[0]) else f"{self.package} is not installed"


def syn(pair: TwoVolumes, **options: Any) -> np.ndarray:
    """Register by the deformable stage of ANTs' symmetric normalization."""
    import ants

    fixed, moving = (ants.from_numpy(image.T.copy(), spacing=pair.spacing) for image in (pair.fixed, pair.moving))
    with TemporaryDirectory() as folder:
        how = {"type_of_transform": "SyNOnly", "initial_transform": "Identity", "outprefix": f"{folder}/"}
        found = ants.registration(fixed, moving, **how, random_seed=1, **options)
        (file,) = (name for name in found["fwdtransforms"] if name.endswith("Warp.nii.gz"))
        return ants.image_read(file).numpy().transpose(2, 1, 0, 3)


def syn_correlation(pair: TwoVolumes) -> np.ndarray:
    """Register by SyN with local correlation, otherwise as by default."""
    return syn(pair, syn_metric="CC", syn_sampling=2)


def syn_script(pair: TwoVolumes) -> np.ndarray:
    """Register by SyN with local correlation and the iterations of the script antsRegistrationSyN."""
    return syn(pair, syn_metric="CC", syn_sampling=2, reg_iterations=(100, 70, 50, 20))


def elastix(pair: TwoVolumes) -> np.ndarray:
    """Register by elastix' default B-spline: mutual information, grid of 10 mm, four resolutions."""
    import itk

    images = [itk.image_from_array(image) for image in (pair.fixed, pair.moving)]
    for image in images:
        image.SetSpacing(pair.spacing)
    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(parameters.GetDefaultParameterMap("bspline"))
    # Threads come from the environment: given here, they end the process (ITKElastix, issues 160 and 295).
    _, found = itk.elastix_registration_method(*images, parameter_object=parameters, log_to_console=False)
    return itk.array_from_image(itk.transformix_deformation_field(images[1], found))


def demons(
    pair: TwoVolumes, shrinking: tuple[int, ...] = (4, 2, 1), iterations: tuple[int, ...] = (100, 100, 50)
) -> np.ndarray:
    """Register by SimpleITK's diffeomorphic demons, coarse to fine as in its notebooks."""
    import SimpleITK as sitk

    fixed, moving = (sitk.GetImageFromArray(image) for image in (pair.fixed, pair.moving))
    for image in (fixed, moving):
        image.SetSpacing(pair.spacing)
    moving = sitk.HistogramMatching(moving, fixed, 128, 10, True)
    field = sitk.Image(fixed.GetSize(), sitk.sitkVectorFloat64)
    field.CopyInformation(fixed)
    for factor, count in zip(shrinking, iterations, strict=True):
        level, seen = fixed, moving
        if factor > 1:
            sigma = 0.5 * factor * float(np.mean(pair.spacing))
            level = sitk.Shrink(sitk.SmoothingRecursiveGaussian(fixed, sigma), [factor] * 3)
            seen = sitk.Resample(sitk.SmoothingRecursiveGaussian(moving, sigma), level)
        method = sitk.DiffeomorphicDemonsRegistrationFilter()
        method.SetNumberOfIterations(count)
        method.SetSmoothDisplacementField(True)
        method.SetStandardDeviations(1.5)
        field = method.Execute(level, seen, sitk.Resample(field, level))
    return sitk.GetArrayFromImage(sitk.Resample(field, fixed))


def convex_adam(pair: TwoVolumes) -> np.ndarray:
    """Register by ConvexAdam with the settings of its package."""
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    images = (torch.from_numpy(image) for image in (pair.fixed, pair.moving))
    voxels = convex_adam_pt(*images, dtype=torch.float32, device=torch.device(CPU))
    return voxels[..., ::-1] * pair.spacing


def fireants(pair: TwoVolumes) -> np.ndarray:
    """Register by FireANTs' greedy method with local correlation."""
    import SimpleITK as sitk
    from fireants.io import BatchedImages, Image
    from fireants.registration.greedy import GreedyRegistration

    images = []
    for array in (pair.fixed, pair.moving):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(pair.spacing)
        images.append(BatchedImages([Image(image, device=CPU)]))
    found = GreedyRegistration([4, 2, 1], [100, 100, 50], *images, cc_kernel_size=5, progress_bar=False)
    found.optimize()
    points = found.get_warped_coordinates(*images)[0].detach().cpu().numpy()  # [-1, 1] from first to last voxel
    last = np.array(pair.fixed.shape[::-1]) - 1.0
    nodes = np.moveaxis(np.indices(pair.fixed.shape), 0, -1)[..., ::-1]
    return ((points + 1) / 2 * last - nodes) * pair.spacing


PEERS: dict[str, Peer] = {
    "ants-syn": Peer("ANTs SyN, default", "ants", "antspyx", syn),
    "ants-cc": Peer("ANTs SyN, correlation", "ants", "antspyx", syn_correlation),
    "ants-script": Peer("ANTs SyN, correlation, iterations of its script", "ants", "antspyx", syn_script),
    "elastix": Peer("elastix, default B-spline", "itk", "itk-elastix", elastix),
    "demons": Peer("SimpleITK, diffeomorphic demons", "SimpleITK", "SimpleITK", demons),
    "convexadam": Peer("ConvexAdam, default", "convexAdam.convex_adam_MIND", "convexAdam", convex_adam),
    "fireants": Peer("FireANTs, greedy", "fireants.registration.greedy", "fireants", fireants),
}
NOT_AT_HAND = {
    "uniGradICON": "its weights have to be downloaded from the releases of its project and are not at hand",
}
