"""Segments from and to files: label maps, and segmentations of several layers, in which segments may overlap.

A segmentation file of Slicer (.seg.nrrd) holds a label map a layer as the components of its voxels, and in its header
what each segment is: `Segment0_Name`, `Segment0_LabelValue`, `Segment0_Layer` and more.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..protocol.errors import shown
from ..protocol.files import read_file, unfit, write_file
from . import images
from .geometry import Geometry
from .images import AnyImage, Volume
from .intensity import count_values
from .linear import invalid
from .loading import metadata_of, open_image, read_image
from .segment_pairs import Segment

SEGMENTATION_SUFFIX = ".seg.nrrd"
NRRD_SUFFIXES = (".nrrd", ".nhdr")
KEY = re.compile(r"Segment([0-9]{1,6})_(\w+)")
NUMBER = re.compile(r"-?[0-9]{1,10}")  # no label map holds larger ones
# Of the whole file, not of the segment as it will be there.
OWN_KEYS = ("Name", "LabelValue", "Layer", "Extent")


@dataclass(frozen=True)
class Segments:
    """Structures of one image, whatever they overlap.

    Attributes:
        layers: Label maps `(k, j, i)` of whole numbers.
        geometry: Their grid.
        items: What lies in them.
        notes: Sentences on what their file leaves open.
    """

    layers: list[np.ndarray]
    geometry: Geometry
    items: list[Segment]
    notes: tuple[str, ...] = ()

    @property
    def marked(self) -> np.ndarray:
        """A label map that is not 0 where any layer is not."""
        return np.maximum.reduce(self.layers)

    def mapped(self, change: Callable[[np.ndarray], np.ndarray], geometry: Geometry) -> "Segments":
        """Return what becomes of the segments when each layer is changed, onto another grid."""
        return replace(self, layers=[change(layer) for layer in self.layers], geometry=geometry)


AnySegments = AnyImage | Segments


def as_segments(labels: AnySegments) -> Segments:
    """Return segments, however they are given; each value but 0 of a plain label map is one.

    Raises:
        EngineError: As `images.as_labels`, and if a header describes segments that cannot be.
    """
    if isinstance(labels, Segments):
        return labels
    found = _described(labels)
    layers = _layers(labels) if found else [images.as_labels(labels)]
    arrays = [layer.array for layer in layers]
    items: list[Segment] = []
    for segment in found:
        if segment.layer >= len(arrays):
            what = f"says that {segment.title} lies in layer {segment.layer}, but has {len(layers)}"
            raise invalid("The segmentation", what, "Load it in Slicer and save it again.")
        kind = np.iinfo(arrays[segment.layer].dtype)
        if not kind.min <= segment.value <= kind.max:
            what = f"says that {segment.title} has the label value {segment.value}, which its voxels cannot hold"
            raise invalid("The segmentation", what, "Load it in Slicer and save it again.")
        if any(_place(segment) == _place(other) for other in items):
            arrays.append(arrays[segment.layer])
            segment = replace(segment, layer=len(arrays) - 1)
        items.append(segment)
    places = {_place(segment) for segment in items}
    for layer, volume in enumerate(layers):
        values = [value for value in count_values(volume.array) if value and (layer, value) not in places]
        items += [Segment("", value, layer) for value in values]
    return Segments(arrays, layers[0].geometry, items, layers[0].notes)


def as_mask(labels: AnyImage) -> Volume:
    """Return a label map that is above 0 where that is any layer of a label map or segmentation.

    Raises:
        EngineError: As `as_segments`.
    """
    layers = _layers(labels) if _described(labels) else [images.as_labels(labels)]
    return Volume(np.maximum.reduce([layer.array for layer in layers]), layers[0].geometry, layers[0].notes)


def write_segments(path: str | Path, segments: Segments) -> None:
    """Write segments: as .seg.nrrd whatever they overlap, as any other image if one label map can hold them.

    Raises:
        EngineError: If it cannot hold them, or the file cannot be written; an existing file is then untouched.
    """
    if not str(path).lower().endswith(SEGMENTATION_SUFFIX):
        images.write_volume(path, merged(segments, path), segments.geometry)
        return
    kind = np.result_type(*(layer.dtype for layer in segments.layers))
    array = np.stack([layer.astype(kind, copy=False) for layer in segments.layers], axis=-1)
    array = array[..., 0] if len(segments.layers) == 1 else array
    image = images.to_sitk(array, segments.geometry)
    for key, text in _header(segments).items():
        image.SetMetaData(key, text)

    def write(name: str) -> None:
        sitk.WriteImage(image, name, useCompression=True, compressionLevel=1)

    def complete(name: str) -> bool:
        return np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(name)), array)

    write_file(path, (SEGMENTATION_SUFFIX,), write, complete)


def require_room(path: str | Path, labels: AnyImage) -> None:
    """Check, before they are warped, that `write_segments` can write what is read of some labels.

    Raises:
        EngineError: If it cannot, or they cannot be read.
    """
    if not str(path).lower().endswith(SEGMENTATION_SUFFIX) and _described(labels):
        merged(as_segments(labels), path)


def merged(segments: Segments, path: str | Path) -> np.ndarray:
    """Return all segments as one label map `(k, j, i)`.

    Args:
        segments: What to join.
        path: For which file, which the error names.

    Raises:
        EngineError: If some overlap, or two have the same value.
    """
    if len(segments.layers) == 1:
        return segments.layers[0]
    used = [layer != 0 for layer in segments.layers]
    values = [segment.value for segment in segments.items]
    if len(set(values)) < len(values) or np.sum(used, axis=0, dtype=np.int32).max() > 1:
        what = "cannot hold segments that overlap or share a label value"
        raise unfit(path, what, f"Give it a name that ends in {SEGMENTATION_SUFFIX}.")
    result = np.zeros(segments.geometry.shape, np.result_type(*(layer.dtype for layer in segments.layers)))
    for layer, mask in zip(segments.layers, used, strict=True):
        result[mask] = layer[mask]
    return result


def _place(segment: Segment) -> tuple[int, int]:
    return segment.layer, segment.value


def _metadata(labels: AnyImage) -> Mapping[str, str]:
    """Return what a header says; nothing for formats and arrays without such keys."""
    if isinstance(labels, (str, Path)):
        if not str(labels).lower().endswith(NRRD_SUFFIXES):
            return {}
        source: Any = read_file(labels, open_image)
    elif isinstance(labels, sitk.Image):
        source = labels
    else:
        return {}
    return metadata_of(source)


def _described(labels: AnyImage) -> list[Segment]:
    """Return the segments that a header names.

    Raises:
        EngineError: If a number in it is none.
    """
    keys: dict[int, dict[str, str]] = {}
    for name, text in _metadata(labels).items():
        match = KEY.fullmatch(name)
        if match:
            keys.setdefault(int(match[1]), {})[match[2]] = text
    layered = any("Layer" in own for own in keys.values())
    found = []
    for order, number in enumerate(sorted(keys)):
        own = keys[number]
        # Slicer 4.10 and earlier: a layer of ones a segment.
        layer, value = own.get("Layer", "0" if layered or len(keys) == 1 else str(order)), own.get("LabelValue", "1")
        if not (NUMBER.fullmatch(layer) and int(layer) >= 0 and NUMBER.fullmatch(value)):
            what = f"gives segment {number} the layer {shown(repr(layer))} and the label value {shown(repr(value))}"
            raise invalid("The segmentation", what, "Load it in Slicer and save it again.")
        details = {key: text for key, text in own.items() if key not in OWN_KEYS}
        found.append(Segment(own.get("Name", ""), int(value), int(layer), details))
    return found


def _layers(labels: AnyImage) -> list[Volume]:
    """Return the label maps of an image whose header names segments."""
    image = read_file(labels, read_image) if isinstance(labels, (str, Path)) else labels
    if not isinstance(image, sitk.Image) or (image.GetDimension() < 4 and image.GetNumberOfComponentsPerPixel() == 1):
        return [images.as_labels(labels)]
    if image.GetDimension() == 4:
        parts = [image[:, :, :, index] for index in range(image.GetSize()[3])]
    else:
        count = image.GetNumberOfComponentsPerPixel()
        parts = [sitk.VectorIndexSelectionCast(image, index) for index in range(count)]
    return [images.as_labels(part) for part in parts]


def _header(segments: Segments) -> dict[str, str]:
    """Return the keys that tell Slicer, and `as_segments`, what lies in a file."""
    extent = " ".join(f"0 {size - 1}" for size in segments.geometry.size)
    keys = {"Segmentation_ReferenceImageExtentOffset": "0 0 0"}
    for number, segment in enumerate(segments.items):
        named = {"Name": segment.name} if segment.name else {}
        placed = {"LabelValue": str(segment.value), "Layer": str(segment.layer), "Extent": extent}
        own = {"ID": f"Segment_{number + 1}", **segment.details, **named, **placed}
        keys.update({f"Segment{number}_{key}": text for key, text in own.items()})
    return keys
