"""The linear map that brings two volumes together before anything non-rigid."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import SimpleITK as sitk
from torch import device as Device

from ..deform.tensors import to_array
from ..protocol import errors
from ..protocol.grid import GridPolicy
from ..volume.geometry import Geometry, index_map
from ..volume.intensity import blocks
from .preprocess import Source
from .resampling import resample
from .working_grid import plan_grid, spatial_shape

ALIGNMENT_VOXELS = 500_000  # a linear map needs no finer image
HISTOGRAM_BINS = 32
SHRINK_FACTORS = (4, 2, 1)
ITERATIONS = 200
DARK = 1e-9  # of the full brightness
SAMPLES = 50_000  # per resolution; a small image is sampled whole
LAST_STEP = 2e-4  # voxels
LARGEST_TILT = 15.0  # degrees between two slices; 50 mm from where they cross they show anatomy 13 mm apart
FIRST_STEP = 0.5  # voxels; with 2, one optimisation in ten ran away from phantoms turned by 20 degrees


def translation(offset: np.ndarray) -> np.ndarray:
    """Return the 4x4 matrix of a shift in mm."""
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def center_of_mass(source: Source, name: str = "image") -> np.ndarray:
    """Return the intensity-weighted centre `(3,)` LPS mm of the normalised image, within its mask if it has one.

    Args:
        source: The volume.
        name: How to call it in an error, such as "fixed image".

    Raises:
        EngineError: If the image is constant or has no finite voxel, or its mask is empty.
    """
    if source.mask is not None and not (source.mask > 0).any():
        raise errors.EngineError(
            errors.MASK_OUTSIDE,
            f"The mask of the {name} selects no voxel of it.",
            "Check that the mask belongs to this volume and is not empty.",
        )
    bright = source.normalized(name)
    profiles = [np.zeros(n) for n in bright.shape]
    for block in blocks(bright.shape):
        mass = bright[block].astype(np.float64) + DARK  # a mask over darkness has its own centre
        if source.mask is not None:
            mass *= source.mask[block] > 0
        plane = mass.sum(0)
        profiles[0][block] = mass.sum((1, 2))
        profiles[1] += plane.sum(1)
        profiles[2] += plane.sum(0)
    center = [float(profile @ np.arange(len(profile)) / profile.sum()) for profile in profiles]
    return source.geometry.index_to_lps(np.array(center[::-1])[None])[0]


def align(fixed: Source, moving: Source, mode: str, initial: np.ndarray, seed: int, device: Device) -> np.ndarray:
    """Return the linear map of fixed to moving points.

    Args:
        fixed: Fixed volume.
        moving: Moving volume.
        mode: "none" (the initial map alone), "center" (fields of view), "mass" (centres of mass), "rigid" or "affine"
            (both by mutual information, starting at the centres of mass).
        initial: 4x4 map of fixed to moving points to start from, LPS mm; its rotation and scale are kept by "center"
            and "mass".
        seed: Seed of the random sampling.
        device: Where to resample.

    Returns:
        4x4 matrix, LPS mm.

    Raises:
        EngineError: If two single slices lie in planes at an angle, a mask is empty, or the optimisation fails, mostly
            for lack of overlap.
    """
    _require_parallel_slices(fixed.geometry, moving.geometry, initial)
    if mode == "none":
        return initial
    if mode == "center":
        centers = fixed.geometry.center_lps, moving.geometry.center_lps
    else:
        centers = center_of_mass(fixed, "fixed image"), center_of_mass(moving, "moving image")
    mapped = initial[:3, :3] @ centers[0] + initial[:3, 3]
    offset = centers[1] - mapped
    if fixed.geometry.is_flat and not moving.geometry.is_flat:  # where a slice lies across its plane is known
        normal = initial[:3, :3] @ fixed.geometry.normal_lps
        offset = offset - normal * (offset @ normal) / (normal @ normal)
    start = translation(offset) @ initial
    if mode in ("center", "mass"):
        return start
    return _optimised(fixed, moving, start, mode, seed, device)


def _require_parallel_slices(fixed: Geometry, moving: Geometry, initial: np.ndarray) -> None:
    if not (fixed.is_flat and moving.is_flat):
        return
    normal = np.linalg.inv(initial[:3, :3]).T @ fixed.normal_lps  # of the plane that the fixed slice is mapped to
    cosine = abs(normal @ moving.normal_lps) / np.linalg.norm(normal)
    tilt = math.degrees(math.acos(min(1.0, cosine)))
    if tilt > LARGEST_TILT:
        raise errors.EngineError(
            errors.INPUT_INVALID,
            f"The two slices lie in planes at {tilt:.0f} degrees to each other, so they show different anatomy.",
            "Reformat one into the plane of the other, or place it there with a linear transform.",
        )


def _plane_image(source: Source, to_source: np.ndarray, geometry: Geometry, device: Device) -> sitk.Image:
    """Return the volume on its working grid as a 2D or 3D image whose axes are the grid's own, in mm."""
    values, _ = resample(source.normalized(), to_source, geometry.shape, device)
    return _image(to_array(values), geometry)


def _mask_image(source: Source, to_source: np.ndarray, geometry: Geometry, device: Device) -> sitk.Image | None:
    if source.counted is None:
        return None
    values, _ = resample(source.counted, to_source, geometry.shape, device, nearest=True)
    return _image((to_array(values) > 0).astype(np.uint8), geometry)


def _image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(array.reshape(spatial_shape(geometry)))
    image.SetSpacing(geometry.spacing[: image.GetDimension()])
    return image


def _grid_to_lps(geometry: Geometry) -> np.ndarray:
    """Return the 4x4 map of working-grid coordinates in mm to LPS mm."""
    return geometry.ijk_to_lps @ np.diag([*(1 / np.array(geometry.spacing)), 1.0])


def _linear_transform(nd: int, mode: str, start: np.ndarray, center: np.ndarray) -> Any:
    """Return the SimpleITK transform at `start`, a map between grids in mm."""
    transform: Any
    if mode == "affine":
        transform = sitk.AffineTransform(nd)
        transform.SetMatrix(start[:nd, :nd].ravel().tolist())
    else:
        # The nearest rotation: the two grids may be mirrored or the initial map sheared, a rigid transform cannot be.
        left, _, right = np.linalg.svd(start[:nd, :nd])
        rotation = left @ np.diag([*[1.0] * (nd - 1), np.linalg.det(left @ right)]) @ right
        transform = sitk.Euler2DTransform() if nd == 2 else sitk.VersorRigid3DTransform()
        transform.SetMatrix(rotation.ravel().tolist(), 1e-6)
    transform.SetCenter(center[:nd].tolist())
    target = (start @ np.array([*center, 1.0]))[:nd]
    transform.SetTranslation((target - center[:nd]).tolist())
    return transform


def _optimised(fixed: Source, moving: Source, start: np.ndarray, mode: str, seed: int, device: Device) -> np.ndarray:
    policy = GridPolicy(minimum_size=8, maximum_voxels=ALIGNMENT_VOXELS)
    # In voxels, because ITK probes with steps of fixed length and would miss an embryo of 1 mm.
    to_voxels = np.diag([*[1 / plan_grid(fixed.geometry, policy).spacing[0]] * 3, 1.0])
    scaled = _rescaled(fixed.geometry, to_voxels), _rescaled(moving.geometry, to_voxels)
    start = to_voxels @ start @ np.linalg.inv(to_voxels)
    grids = plan_grid(scaled[0], policy), plan_grid(scaled[1], policy)
    nd = 2 if grids[0].is_flat else 3
    if grids[1].is_flat != grids[0].is_flat:
        raise errors.EngineError(
            errors.INPUT_INVALID,
            f"An alignment ({mode}) of a single slice with a volume is not possible.",
            "Choose 'automatic' or place the slice with a linear transform.",
        )
    to_lps = _grid_to_lps(grids[0]), _grid_to_lps(grids[1])
    between = np.linalg.inv(to_lps[1]) @ start @ to_lps[0]
    center = (np.array(grids[0].size) - 1) / 2 * grids[0].spacing
    if nd == 2:
        center[2] = 0
    transform = _linear_transform(nd, mode, between, center)
    places = [(index_map(grid, whole, np.eye(4)), grid, device) for grid, whole in zip(grids, scaled, strict=True)]
    images = _plane_image(fixed, *places[0]), _plane_image(moving, *places[1])
    masks = _mask_image(fixed, *places[0]), _mask_image(moving, *places[1])
    _run(images, masks, transform, seed)
    matrix = np.eye(4)
    matrix[:nd, :nd] = np.reshape(transform.GetMatrix(), (nd, nd))
    offset = np.array(transform.TransformPoint([0.0] * nd))
    matrix[:nd, 3] = offset
    matrix[2, 3] = between[2, 3] if nd == 2 else matrix[2, 3]
    return np.linalg.inv(to_voxels) @ to_lps[1] @ matrix @ np.linalg.inv(to_lps[0]) @ to_voxels


def _rescaled(grid: Geometry, matrix: np.ndarray) -> Geometry:
    return Geometry.from_ijk_to_lps(matrix @ grid.ijk_to_lps, grid.size)


def _run(
    images: tuple[sitk.Image, sitk.Image],
    masks: tuple[sitk.Image | None, sitk.Image | None],
    transform: sitk.Transform,
    seed: int,
) -> None:
    """Optimise `transform` in place."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    share = SAMPLES / math.prod(images[0].GetSize())
    if share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, seed + 1)  # a seed of 0 would mean the clock
    method.SetInterpolator(sitk.sitkLinear)
    if masks[0] is not None:
        method.SetMetricFixedMask(masks[0])
    if masks[1] is not None:
        method.SetMetricMovingMask(masks[1])
    shrink = [factor for factor in SHRINK_FACTORS if min(images[0].GetSize()) / factor >= 4]
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([factor / 2 if factor > 1 else 0 for factor in shrink])
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=FIRST_STEP,
        minStep=LAST_STEP,
        numberOfIterations=ITERATIONS,
        relaxationFactor=0.6,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        with _one_thread():
            method.Execute(*images)
    except RuntimeError as error:
        raise errors.EngineError(
            errors.NO_OVERLAP,
            "The linear alignment found no common structure in the two volumes.",
            "Place the moving volume roughly with a linear transform, or choose the alignment 'automatic'.",
        ) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let ITK work on one thread: several add up in any order, which the optimisation blows up to microns."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
