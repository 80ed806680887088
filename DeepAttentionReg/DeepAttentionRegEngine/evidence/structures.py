"""The structures that a network tells apart: on one image, and as evidence of what a registration has done to them.

They are predicted, by the network that steers the registration. So they show where organs are and how they were
deformed, without any segmentation at hand; they prove nothing.

A folder of them holds `fixed_structures.seg.nrrd` and `moving_structures.seg.nrrd`, each on the grid of its own image,
`warped_structures.seg.nrrd`, the moving ones on the fixed grid, and `structures.json` with what was measured of them. A
side that shows none of the structures has no file.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..deform.tensors import to_array, use_full_precision
from ..deform.warp import sample, shrink
from ..protocol import errors
from ..protocol.contract import VERSION
from ..protocol.files import make_folder
from ..protocol.registry import Method, Variant, choose_variant
from ..protocol.result_files import STRUCTURE_FILES, STRUCTURES, write_text
from ..protocol.settings import Settings
from ..registration.evaluation import Reference, finite, score_states
from ..registration.method_run import Tool
from ..registration.preprocess import Source, slabs, warp_segments
from ..registration.registered import Registered
from ..registration.registrar import Registrar
from ..registration.resampling import mapped_indices, resample
from ..registration.search import misfit
from ..registration.working_grid import plan_grid, spatial_shape
from ..volume import fields, images, metrics
from ..volume.geometry import Geometry, index_map
from ..volume.images import AnyImage
from ..volume.intensity import count_values
from ..volume.segment_pairs import Segment
from ..volume.segments import Segments, write_segments
from .structure_colors import color_of

PREDICTED = (
    "These structures are predicted by the same network that steered the registration, and prove nothing by themselves."
)
INSTEAD = "Choose the method agf-diffeo and weights that name structures, or do without them."


def structures(image: AnyImage, settings: Settings) -> Segments:
    """Return the structures that the network of a method tells apart on an image.

    Args:
        image: A file, a SimpleITK image, or an array `(k, j, i)` with its `Geometry`.
        settings: Method, weights and device; nothing else matters here.

    Returns:
        A single label map on the grid of the image, 1 for the first of the structures that the weights name. All of
        them are listed, with standard colors, also those of which there is nothing; the notes say what is doubtful.

    Raises:
        EngineError: If the method tells none apart, or something cannot be read.
    """
    volume, registrar = images.as_volume(image), Registrar(settings)
    source = Source(volume.array, volume.geometry)
    variant = structured_variant(registrar.method, volume.geometry.is_flat, settings.weights)
    found = find_structures(registrar, source)
    notes = [*volume.notes, *_misfit(variant, volume.geometry), *_nothing(variant, found, "image")]
    return replace(found, notes=tuple(notes))


def structured_variant(method: Method | None, is_flat: bool, weights: str | None) -> Variant:
    """Return the form of a method that is used, which names structures.

    Args:
        method: The method; None for refinement alone.
        is_flat: Whether the images are single slices.
        weights: As in `Settings`.

    Raises:
        EngineError: If it names none, or there are no such weights.
    """
    if method is None:
        raise errors.EngineError(errors.CONTRACT, "Refinement alone tells no structures apart.", INSTEAD)
    variant = choose_variant(method, 2 if is_flat else 3, weights)
    if not variant.structures:
        used = "" if variant.weights is None else f" with the weights {variant.weights}"
        raise errors.EngineError(errors.CONTRACT, f"{method.title} tells no structures apart{used}.", INSTEAD)
    return variant


@torch.no_grad()
def find_structures(registrar: Registrar, image: Source) -> Segments:
    """Return the structures on an image as `structures`, by a network that may be loaded already.

    The network sees the image as in a registration; what it finds is interpolated to the grid of the image before each
    voxel is given to the structure that has most of it, so that outlines are smooth.
    """
    is_flat = image.geometry.is_flat
    names = structured_variant(registrar.method, is_flat, registrar.settings.weights).structures
    use_full_precision()
    tool = registrar.tool(2 if is_flat else 3)
    working = plan_grid(image.geometry, registrar.policy(image.geometry))
    view, grid = _network_view(image, working, tool, registrar.device)
    found = tool.network.memberships(view)
    if found is None or found.shape[1] != 1 + len(names):
        told = 0 if found is None else found.shape[1] - 1
        raise errors.EngineError(
            errors.WEIGHTS_CORRUPT,
            f"The weights name {len(names)} structures, but their network tells {told} apart.",
            "Correct the list of structures beside the weights.",
        )
    items = [Segment(name, number, 0, _color(name, number)) for number, name in enumerate(names, start=1)]
    return Segments([_label_map(found, grid, image.geometry)], image.geometry, items)


def _network_view(image: Source, working: Geometry, tool: Tool, device: torch.device) -> tuple[Tensor, Geometry]:
    """Return an image `(1, 1, *spatial)` in [0, 1] as a network sees the fixed one of a pair, and its grid."""
    spatial = spatial_shape(working)
    normalized = image.normalized("image", tool.method.normalization)
    values, _inside = resample(normalized, index_map(working, image.geometry, np.eye(4)), working.shape, device)
    size = tool.network_size(working)
    i, j, *k = reversed(size)
    return shrink(values.view(1, 1, *spatial), size), working.resized((i, j, k[0] if k else 1))


def _label_map(memberships: Tensor, grid: Geometry, onto: Geometry) -> np.ndarray:
    """Return for each voxel of a grid which structure has most of it: a label map `(k, j, i)`, uint8, 0 for none.

    Args:
        memberships: `(1, 1 + structures, *spatial)`.
        grid: Theirs.
        onto: That of the label map.
    """
    if memberships.ndim == 4:
        memberships = memberships[:, :, None]
    matrix, result = index_map(onto, grid, np.eye(4)), np.empty(onto.shape, np.uint8)
    nodes = memberships.argmax(1, keepdim=True).float()
    # What is largest at all nodes around a voxel is so there; only elsewhere the others have to be interpolated.
    mixed = F.max_pool3d(nodes, 3, 1, 1) != -F.max_pool3d(-nodes, 3, 1, 1)
    known = torch.cat([nodes, mixed.float()], 1)
    for slab in slabs(onto.shape):
        index = mapped_indices(matrix, onto.shape, slab, memberships).flip(0)
        labels, is_mixed = sample(known, index[None], nearest=True)[0]
        places = is_mixed > 0
        between = sample(memberships, index[:, places][None, :, None, None])
        labels[places] = between[0, :, 0, 0].argmax(0).float()
        result[slab] = to_array(labels.to(torch.uint8))
    return result


def _color(name: str, number: int) -> dict[str, str]:
    """Return what a segmentation file says of the color of a structure."""
    return {"Color": " ".join(f"{part / 255:.6g}" for part in color_of(name, number)), "ColorAutoGenerated": "0"}


def _misfit(variant: Variant, geometry: Geometry) -> list[str]:
    reason = misfit(variant, geometry)
    return [f"{reason}; do not rely on what they find."] if reason else []


def _nothing(variant: Variant, found: Segments, image: str) -> list[str]:
    """Return a sentence if an image shows no structure."""
    if found.marked.any():
        return []
    what = variant.anatomy or ", ".join(variant.structures)
    return [f"The weights {variant.weights} see none of their structures ({what}) on the {image}."]


def describe(found: Segments) -> dict[str, dict[str, float]]:
    """Return label value, voxels and volume in ml of each structure, by name."""
    labels, voxel = found.layers[0], found.geometry.voxel_volume
    counts = count_values(labels)
    return {
        item.name: {
            "label": item.value,
            "voxels": counts.get(item.value, 0),
            "volume_ml": metrics.volume_ml(labels == item.value, voxel),
        }
        for item in found.items
    }


@dataclass(frozen=True)
class PredictedStructures:
    """The structures on both sides of a registration, as its network sees them.

    Attributes:
        sides: On "fixed" and "moving", each on its own grid, and of the latter what the deformation makes of them on
            the fixed grid ("warped"). A side without any is left out; the others list what any of them shows.
        measures: What was measured of them, by name: "predicted" is true, "note" says what that means; with structures
            on both sides "before", "aligned" and "after" as for segments that were given, "jacobian" within the fixed
            ones; "volume_ml" of each side.
        warnings: Sentences that users must see.
    """

    sides: dict[str, Segments] = field(repr=False)
    measures: dict[str, Any] = field(repr=False)
    warnings: list[str]


def predicted_structures(registered: Registered) -> PredictedStructures:
    """Return where the network of a registration sees structures, and how the registration has moved them.

    Args:
        registered: Of a method and weights that name structures.

    Raises:
        EngineError: If they name none.
    """
    registrar, inputs = registered.registrar, registered.inputs
    sources = {"fixed": inputs.fixed, "moving": inputs.moving}
    variant = structured_variant(registrar.method, inputs.fixed.geometry.is_flat, registrar.settings.weights)
    warnings: list[str] = []
    if inputs.fixed.geometry.is_flat != inputs.moving.geometry.is_flat:
        del sources["moving"]
        warnings.append("A network sees slices or volumes, so there are no structures of the moving image.")
    found = {side: find_structures(registrar, source) for side, source in sources.items()}
    for side, segments in found.items():
        warnings += _nothing(variant, segments, f"{side} image")
    sides = _those_seen(found)
    if "moving" in sides:
        device = registered.search.pair.fixed.device
        warped = warp_segments(sides["moving"], registered.deformation, registered.geometry, device)
        sides.update({"warped": warped} if warped.marked.any() else {})
    measures = {"predicted": True, "note": PREDICTED, **_measure(registered, sides)}
    return PredictedStructures(sides, finite(measures), warnings)


def _those_seen(found: Mapping[str, Segments]) -> dict[str, Segments]:
    """Leave out sides that show nothing, and structures that no side shows."""
    seen = {value for segments in found.values() for value in count_values(segments.layers[0])}
    return {
        side: replace(segments, items=[item for item in segments.items if item.value in seen])
        for side, segments in found.items()
        if segments.marked.any()
    }


def _measure(registered: Registered, sides: Mapping[str, Segments]) -> dict[str, Any]:
    volumes: dict[str, dict[str, float]] = {}
    for side, segments in sides.items():
        for item in segments.items:
            ml = metrics.volume_ml(segments.layers[0] == item.value, segments.geometry.voxel_volume)
            volumes.setdefault(item.name, {})[side] = ml
    values: dict[str, Any] = {"volume_ml": volumes}
    if not {"fixed", "moving"} <= sides.keys():
        return values
    fixed, geometry, pair = sides["fixed"], registered.geometry, registered.search.pair
    reference = Reference(fixed, sides["moving"])
    linear = registered.inputs.initial, pair.alignment
    values.update(score_states(registered.deformation, linear, geometry, reference, pair.fixed.device))
    jacobian = registered.deformation.jacobian(geometry)
    within = {item.name: fixed.layers[0] == item.value for item in fixed.items}
    values["jacobian"] = {
        name: asdict(fields.summarize_jacobian(jacobian, mask)) for name, mask in within.items() if mask.any()
    }
    return values


def write_structures(folder: str | Path, found: PredictedStructures) -> Path:
    """Write what a registration has shown of structures into a folder, and return the file that names the others.

    Raises:
        EngineError: If something cannot be written.
    """
    folder = Path(folder)
    make_folder(folder)
    for side, segments in found.sides.items():
        write_segments(folder / STRUCTURE_FILES[side], segments)
    told = {"contract": VERSION, **found.measures, "files": {side: STRUCTURE_FILES[side] for side in found.sides}}
    write_text(folder / STRUCTURES, json.dumps(told, indent=1, allow_nan=False))
    return folder / STRUCTURES
