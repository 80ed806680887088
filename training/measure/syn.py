"""Other people's registration, to be measured beside ours: symmetric normalization (SyN) of ANTs.

Avants BB, Epstein CL, Grossman M, Gee JC. Symmetric diffeomorphic image registration with cross-correlation. Medical
Image Analysis 12 (2008).
"""

from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.intensity import normalize

from ..configs.schema import ConfigError

# The deformable stage of the script antsRegistrationSyN as antspyx has it: local correlation of radius 2, and for two
# contrasts the mutual information of its quick form. Both look at every voxel, so there is no seed to fix.
ITERATIONS = (100, 70, 50, 20)
METRICS = {"ncc": {"syn_metric": "CC", "syn_sampling": 2}, "mind": {"syn_metric": "mattes", "syn_sampling": 32}}


def import_ants() -> Any:
    """Return the package of ANTs, which nothing else needs.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import ants
    except ImportError as error:
        msg = "ANTs is not installed; run: pip install antspyx (the extra 'train' has it)"
        raise ConfigError(msg) from error
    return ants


def syn(fixed: str, moving: str, output: str, similarity: str | None) -> None:
    """Register two images of one grid by SyN, without any linear step, and write the displacement.

    Args:
        fixed: Fixed volume or single slice.
        moving: Moving volume on the same grid.
        output: Displacement field file: the moving volume is sampled at x + u(x), LPS mm.
        similarity: "ncc" for one contrast, "mind" for two, as in the engine's jobs; None for what antspyx does if it is
            told nothing: mutual information, no iteration in full resolution.
    """
    ants = import_ants()
    options = {} if similarity is None else {"reg_iterations": ITERATIONS, **METRICS[similarity]}
    pair = [images.read_volume(path) for path in (fixed, moving)]
    grid = pair[0].geometry
    axes = [axis for axis in range(3) if grid.size[axis] > 1]  # ANTs takes a single slice as 2D
    spacing = [grid.spacing[axis] for axis in axes]
    # In mm along the grid's own axes, whose vectors are turned into LPS afterwards.
    fixed_image, moving_image = (
        ants.from_numpy(normalize(volume.array).T.reshape([grid.size[axis] for axis in axes]), spacing=spacing)
        for volume in pair
    )
    with TemporaryDirectory() as folder:
        found = ants.registration(
            fixed_image,
            moving_image,
            type_of_transform="SyNOnly",
            initial_transform="Identity",
            outprefix=f"{folder}/",
            **options,
        )
        (file,) = (name for name in found["fwdtransforms"] if name.endswith("Warp.nii.gz"))
        motion = ants.image_read(file).numpy()
    motion_lps = motion @ np.reshape(grid.direction, (3, 3))[:, axes].T
    images.write_displacement(output, motion_lps.reshape(*grid.size, 3).transpose(2, 1, 0, 3), grid)
