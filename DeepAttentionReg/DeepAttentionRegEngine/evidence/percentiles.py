"""Dose and contours as they may be where the deformation errs: their percentiles, given an error map.

`maps/percentiles.py` says what an error map is taken for, and what of it follows for a voxel.
"""

import numpy as np
import SimpleITK as sitk
import torch

from ..maps import percentiles
from ..protocol import errors
from ..protocol.reporting import Pause, no_pause
from ..registration.belonging import require_reached
from ..registration.deformation import StoredDeformation
from ..registration.preprocess import Source, warp_volume
from ..registration.registered import Registered
from ..volume import images
from ..volume.geometry import Geometry
from ..volume.images import AnyImage, Volume
from ..volume.segments import AnySegments, Segments, as_segments


def warp_volume_within(
    error: Volume,
    moving: Source,
    deformation: StoredDeformation,
    fixed: Geometry,
    device: torch.device,
    pause: Pause = no_pause,
) -> dict[str, np.ndarray]:
    """Return the percentiles of a warped volume.

    Args:
        error: Bound of the displacement's error in mm, on any grid.
        moving: As of `warp_volume`, and so are the next three.
        deformation: On any grid.
        fixed: The grid to sample on.
        device: Where to work.
        pause: Called before every look at the volume.

    Returns:
        5th ("low"), 50th ("median") and 95th ("high"), `(k, j, i)` on that grid, of the moving volume's type.

    Raises:
        EngineError: If the map bounds no error on that grid.
    """
    percentiles.require_bound(error, fixed)
    view = _view(moving, deformation, device, nearest=False)
    return percentiles.of_volume(view, moving.array.dtype, error, fixed, pause)


def warp_segments_within(
    error: Volume,
    moving: Segments,
    deformation: StoredDeformation,
    fixed: Geometry,
    device: torch.device,
    pause: Pause = no_pause,
) -> dict[str, Segments]:
    """Return what belongs to warped segments with 95 % ("low"), 50 % ("median") and 5 % ("high") probability.

    Arguments and errors as of `warp_volume_within`. The last may overlap.
    """
    percentiles.require_bound(error, fixed)
    sources = [Source(layer, moving.geometry) for layer in moving.layers]
    views = [_view(source, deformation, device, nearest=True) for source in sources]
    return percentiles.of_segments(moving, views, error, fixed, pause)


def _view(moving: Source, deformation: StoredDeformation, device: torch.device, *, nearest: bool) -> percentiles.View:
    def view(grid: Geometry) -> percentiles.Look:
        motion = deformation.on(grid)

        def look(error_lps_mm: np.ndarray) -> np.ndarray:
            return warp_volume(moving, StoredDeformation(motion + error_lps_mm, grid), grid, device, nearest=nearest)

        return look

    return view


def volume_percentiles(registered: Registered, error: AnyImage, image: AnyImage | None = None) -> dict[str, sitk.Image]:
    """Return what a voxel of a warped image, such as a dose, may hold where the deformation errs.

    Args:
        registered: What was registered.
        error: Bound of the displacement's error in mm, which holds with a probability of 95 %, on any grid.
        image: Any that lies where the moving image does; None for the moving image itself.

    Returns:
        5th ("low"), 50th ("median") and 95th ("high") percentile on the fixed grid.

    Raises:
        EngineError: If the map bounds no error, or nothing of the image lies where the deformation leads.

    Examples:
        >>> registered = register(fixed, moving, Settings(method="none", refinement_steps=3))
        >>> found = volume_percentiles(registered, fixed * 0 + 1.5)
        >>> sorted(found), found["low"].GetSize()
        (['high', 'low', 'median'], (32, 32, 32))
    """
    moving = registered.inputs.moving
    if image is not None:
        volume = images.as_volume(image)
        moving = Source(volume.array, volume.geometry)
    device, grid = registered.search.pair.fixed.device, registered.geometry
    require_reached(moving, registered.deformation, grid, device, whole=True)
    found = warp_volume_within(images.as_volume(error), moving, registered.deformation, grid, device)
    return {name: images.to_sitk(array, grid) for name, array in found.items()}


def segment_percentiles(
    registered: Registered, error: AnyImage, labels: AnySegments | None = None
) -> dict[str, Segments]:
    """Return what belongs to warped segments surely, as likely as not, and possibly where the deformation errs.

    Args:
        registered: What was registered.
        error: As of `volume_percentiles`.
        labels: Any that lie where the moving image does; None for those that it was registered with.

    Returns:
        What does with a probability of 95 % ("low"), 50 % ("median") and 5 % ("high") on the fixed grid, each within
        the next one. The last may overlap; `write_segments` has room for that in .seg.nrrd.

    Raises:
        EngineError: If there are no labels, the map bounds no error, or nothing of them lies where the deformation
            leads.

    Examples:
        >>> registered = register(fixed, moving, Settings(method="none", refinement_steps=3))
        >>> found = segment_percentiles(registered, fixed * 0 + 1.5, moving > 0.5)
        >>> int(found["low"].marked.sum()) < int(found["high"].marked.sum())
        True
    """
    moving = registered.inputs.reference.moving_labels if labels is None else as_segments(labels)
    if moving is None:
        raise errors.EngineError(
            errors.INPUT_MISSING, "There are no labels to warp.", "Give some, or register with moving labels."
        )
    device, grid = registered.search.pair.fixed.device, registered.geometry
    require_reached(Source(moving.marked, moving.geometry), registered.deformation, grid, device, whole=False)
    return warp_segments_within(images.as_volume(error), moving, registered.deformation, grid, device)
