"""What of a registered pair has no counterpart, as numbers and sentences; maps/change.py says how it is found."""

from typing import Any

import numpy as np

from ..maps.change import Changes, find_changes
from ..protocol.reporting import Pause, no_pause
from ..registration.preprocess import Source, warp_volume
from ..registration.registered import Registered
from ..volume.no_data import known_voxels

LISTED, WARNED = 10, 3  # regions, the largest ones


def changes(registered: Registered, pause: Pause = no_pause) -> Changes:
    """Return what of the fixed image has no counterpart in the moving one: a map, and its regions.

    Args:
        registered: What was registered.
        pause: Called between pieces of work; may raise.

    Returns:
        A map on the fixed grid and what is cut out of it, or why it cannot be told.

    Examples:
        >>> registered = register(fixed, moving, Settings(method="none", refinement_steps=5))
        >>> found = changes(registered)
        >>> found.regions
        []
    """
    moving, device = registered.inputs.moving, registered.search.pair.fixed.device

    def warped(source: Source, *, nearest: bool) -> np.ndarray:
        return warp_volume(source, registered.deformation, registered.geometry, device, nearest=nearest)

    known = known_voxels(moving.array)
    reached = np.ones(moving.array.shape, np.uint8) if known is None else known.astype(np.uint8)
    return find_changes(
        registered.inputs.fixed.array,
        warped(moving, nearest=False),
        registered.geometry,
        warped(Source(reached, moving.geometry), nearest=True) > 0,
        pause,
    )


def told(found: Changes) -> tuple[dict[str, Any], list[str]]:
    """Return changes for a result, the ten largest one by one, and what users must know of them."""
    if found.reason:
        return {"told": False}, [found.reason]
    regions = found.regions
    values = {
        "told": True,
        "count": len(regions),
        "total": sum(region.size for region in regions),
        "unit": "mm2" if any(region.area_mm2 for region in regions) else "ml",
        "regions": [region.to_dict() for region in regions[:LISTED]],
    }
    sentences = [region.sentence for region in regions[:WARNED]]
    if len(regions) > WARNED:
        rest = sum(region.size for region in regions[WARNED:])
        sentences.append(f"{len(regions) - WARNED} smaller pieces ({rest:.3g} {values['unit']}) have none either.")
    return values, sentences
