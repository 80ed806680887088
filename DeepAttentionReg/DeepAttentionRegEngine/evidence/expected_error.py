"""How far a registration is probably off: a bound in mm at every place that holds for 95 %, and whether it has failed.

Both were learned of registrations whose true error is known (error_model.py); for other methods and weights, and for
images that are unlike all of these, nothing is said.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..deform.tensors import to_array
from ..protocol import errors
from ..registration.registered import Registered
from ..volume.geometry import Geometry, place_text
from ..volume.segments import Segments
from .clues import ALIKE, Clues, gather, small_size
from .error_model import LEAST, Calibration, Layers, Verdicts, load_calibration
from .mirrored import Mirrored, mirrored

LIMIT = 0.03  # of the longest side of the field of view, from which an error is a failure
SHARE = 0.1  # of what is seen that has to be off by that, for a run to have failed
BETWEEN = 0.25  # of the way from median to bound, which is above the limit where errors above it are likely
FLIPPED = 0.05  # of correlation, that mirroring has to gain for the moving image to be called flipped
LEAST_SEEN = 100  # voxels
LEAST_SIDE = 16  # voxels of the grid of the clues
LEAST_REGION = 0.005  # of what is seen
MOST_REGIONS = 3
MOSTLY = 0.5  # of a region, that lies in a segment by which it is called
INSTEAD = "Judge the registration by landmarks or segments."


@dataclass(frozen=True)
class ExpectedError:
    """What can be said of the error of a registration.

    Attributes:
        told: For people and programs: whether it is "known", else the "reason"; the "verdict" ("failed", "suspicious"
            or "unremarkable") as a "sentence", how good such verdicts are ("measured"), the "probability" of a failure,
            which is an error above "limit_mm" in a tenth of what is seen, median and 95th percentile of the bound
            ("mm"), "regions" where larger errors are likely, and along which sides of the patient the moving image fits
            better "mirrored", if it does.
        within_mm: float32 `(k, j, i)`: with 95 % probability the true displacement lies so close; None if not known.
        geometry: Its grid, coarser than the fixed volume's, over the same field of view.
    """

    told: dict[str, Any]
    within_mm: np.ndarray | None = field(default=None, repr=False)
    geometry: Geometry | None = None

    @property
    def warnings(self) -> list[str]:
        """Sentences that users must see."""
        return [self.told["sentence"]] if self.told.get("verdict") in ("failed", "suspicious") else []


def expected_error(registered: Registered) -> ExpectedError:
    """Return how far a registration is probably off; whatever goes wrong, it is told as the reason.

    Args:
        registered: What was registered.

    Examples:
        >>> registered = register(fixed, moving, Settings(method="none", refinement_steps=5))
        >>> sorted(expected_error(registered).told)[:2]
        ['known', 'reason']
    """
    try:
        return _expected(registered)
    except errors.EngineError as error:
        return _unknown(f"{error.message[:1].lower()}{error.message[1:].rstrip('.')}")
    except (RuntimeError, MemoryError) as error:  # a finished registration must not be lost for it
        return _unknown(f"it could not be computed ({type(error).__name__})")


def _expected(registered: Registered) -> ExpectedError:
    pair, displacement = registered.search.pair, registered.search.displacement
    calibration, weights = load_calibration(pair.fixed.ndim - 2), _weights(registered)
    if not calibration.covers(weights):
        return _unknown(f"it was not calibrated for {weights}")
    if min(small_size(tuple(pair.fixed.shape[2:]))) < LEAST_SIDE:
        return _unknown("the images are thinner than all on which errors were measured")
    clues = gather(pair, displacement)
    if int(clues.seen.sum()) < LEAST_SEEN:
        return _unknown("the images show too little")
    extent = max(registered.geometry.extent_mm) / clues.voxel_mm
    values, seen = clues.values.flatten(1), clues.seen.flatten()
    flip = mirrored(pair)
    sign = signs(calibration.percentiles.bare(values[:, seen]), clues.means, flip.signs, extent)
    chance = float(torch.sigmoid(calibration.verdicts.layers(sign[:, None])))
    has_failed = chance >= calibration.verdicts.failed
    if not has_failed and float(distance(calibration.unusual, clues.means[:, None])) > calibration.limit:
        return _unknown("this registration is unlike all on which errors were measured")
    logs = calibration.percentiles(values)
    told = _told(calibration, chance, flip, clues, logs, extent, registered.inputs.reference.fixed_labels)
    if has_failed:
        return ExpectedError(told)
    within = to_array(clues.voxel_mm * (logs[1].exp() - LEAST).clamp_min(LEAST)).astype(np.float32)
    return ExpectedError(told, within.reshape(clues.geometry.shape), clues.geometry)


def _weights(registered: Registered) -> str:
    """Return by which weights a deformation was found; a method that needs none stands for itself."""
    settings = registered.search.settings
    return registered.measures.get("weights") or settings.method


def _unknown(why: str) -> ExpectedError:
    return ExpectedError({"known": False, "reason": f"The error is not known, because {why}. {INSTEAD}"})


def signs(logs: Tensor, means: Tensor, flip: Tensor, extent: float) -> Tensor:
    """Return what tells whether a run has failed `(S,)`: how much of it is off by how much, and how alike it is.

    Args:
        logs: Of median and bound in voxels `(2, N)`, of what is seen, without a margin.
        means: Of the clues.
        flip: Signs of whether images would fit better mirrored.
        extent: Longest side of the field of view, in voxels of the clues.
    """
    off = logs - float(np.log(LIMIT * extent))
    tenths = torch.tensor([0.1, 0.5, 0.9]).to(off)
    fits, gain = flip.to(off).split(1)
    loses = (gain / FLIPPED).tanh()  # how much mirroring loses is no matter where it does
    return torch.cat([off.quantile(tenths, dim=1).flatten(), (off > 0).float().mean(1), means[:ALIKE], fits, loses])


def is_likely_off(logs: Tensor, extent: float) -> Tensor:
    """Return where errors above the limit are likely `(N,)`: about half of these places are off by that.

    Args:
        logs: Of median and bound in voxels `(2, N)`.
        extent: As of `signs`.
    """
    return logs[0].lerp(logs[1], BETWEEN) > float(np.log(LIMIT * extent))


def distance(unusual: Layers, means: Tensor) -> Tensor:
    """Return how far runs are from what is known `(R,)`, by the means of their clues `(M, R)`; 1 is usual."""
    return unusual(means).square().mean(0)


def _told(
    calibration: Calibration,
    chance: float,
    flip: Mirrored,
    clues: Clues,
    logs: Tensor,
    extent: float,
    labels: Segments | None,
) -> dict[str, Any]:
    """Return what people and programs are told."""
    limit_mm, seen = clues.voxel_mm * LIMIT * extent, clues.seen.flatten()
    bound = clues.voxel_mm * (logs[1].exp() - LEAST)
    regions = _regions(clues, is_likely_off(logs, extent) & seen, bound, labels)
    verdict, sentence = _verdict(calibration.verdicts, chance, limit_mm, regions)
    sides = flip.sides if flip.gain >= FLIPPED else ""
    if sides:
        text = f"The moving volume fits better mirrored {sides}: look whether it is flipped in its file."
        verdict, sentence = ("suspicious", text) if verdict == "unremarkable" else (verdict, f"{sentence} {text}")
    told = {
        "known": True,
        "verdict": verdict,
        "sentence": sentence,
        "measured": calibration.verdicts.measured,
        "probability": chance,
        "limit_mm": limit_mm,
        "regions": regions,
    }
    if sides:
        told["mirrored"] = sides
    if verdict != "failed":
        told["mm"] = {"median": float(bound[seen].median()), "p95": float(bound[seen].quantile(0.95))}
    return told


def _verdict(verdicts: Verdicts, chance: float, limit_mm: float, regions: list[dict[str, Any]]) -> tuple[str, str]:
    """Return a word and a sentence."""
    limit = f"{limit_mm:.2g}" if limit_mm < 10 else f"{limit_mm:.0f}"
    if chance >= verdicts.failed:
        text = f"The registration probably failed: errors above {limit} mm are likely in much of what the images show."
        return "failed", text
    if chance < verdicts.suspicious:
        return "unremarkable", "Nothing suspicious was found."
    places = "; ".join(_place(region) for region in regions) or "in places"
    return "suspicious", f"Errors above {limit} mm are likely {places}."


def _regions(clues: Clues, off: Tensor, bound: Tensor, labels: Segments | None) -> list[dict[str, Any]]:
    """Return the largest connected parts of what is seen that are probably off by more than the limit."""
    grid = clues.geometry
    marked, within = (to_array(side).reshape(grid.shape) for side in (off.to(torch.uint8), bound))
    least = int(LEAST_REGION * int(clues.seen.sum())) + 1
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(sitk.GetImageFromArray(marked)), least)
    numbers = sitk.GetArrayFromImage(parts)
    found = []
    for number in range(1, min(MOST_REGIONS, int(numbers.max())) + 1):
        here = numbers == number
        points = grid.index_to_lps(np.argwhere(here)[:, ::-1].astype(float))
        size = len(points) * (grid.voxel_area if grid.is_flat else grid.voxel_volume)
        region = {
            "center_lps": points.mean(0).tolist(),
            "area_mm2" if grid.is_flat else "volume_mm3": size,
            "within_mm": float(np.median(within[here])),
        }
        name = "" if labels is None else _segment_at(labels, points)
        found.append({**region, "segment": name} if name else region)
    return found


def _segment_at(labels: Segments, points_lps: np.ndarray) -> str:
    """Return the segment in which most of some places lie; empty if there is none."""
    index = np.rint(labels.geometry.lps_to_index(points_lps)).astype(int)
    inside = ((index >= 0) & (index < labels.geometry.size)).all(1)
    i, j, k = index[inside].T
    shares = {item.title: (labels.layers[item.layer][k, j, i] == item.value).sum() for item in labels.items}
    name = max(shares, key=lambda title: shares[title], default="")
    return name if name and shares[name] > MOSTLY * len(points_lps) else ""


def _place(region: dict[str, Any]) -> str:
    area = region.get("area_mm2")
    size = f"{region['volume_mm3'] / 1000:.3g} ml" if area is None else f"{area:.0f} mm2"
    segment = region.get("segment")
    return f"around {place_text(region['center_lps'])} ({size}{f', mostly in {segment}' if segment else ''})"
