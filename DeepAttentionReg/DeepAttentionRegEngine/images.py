"""Volumes, label maps, displacement fields, linear transforms and landmarks from and to files."""

import csv
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk

from . import errors
from .geometry import Geometry, flip_lps_ras

VOLUME_SUFFIXES = (".nii.gz", ".nrrd", ".nii", ".mha", ".mhd", ".nhdr", ".png", ".tif", ".tiff", ".jpg")
TRANSFORM_SUFFIXES = (".h5", ".hdf5", ".tfm", ".txt")
# What Slicer needs to see that a vector image is a displacement field, and in which direction it works.
NRRD_FIELD = {"intent_code": "1006", "displacement field type": "resampling"}

T = TypeVar("T")


@dataclass(frozen=True)
class Volume:
    """An array `(k, j, i)` and its grid."""

    array: np.ndarray
    geometry: Geometry


def from_sitk(image: sitk.Image) -> Volume:
    """Return a 2D or 3D scalar SimpleITK image as a volume; 2D becomes a single slice."""
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    return Volume(sitk.GetArrayFromImage(image), image_geometry(image))


def image_geometry(image: sitk.Image) -> Geometry:
    """Return the grid of a 3D SimpleITK image."""
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def to_sitk(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Return a SimpleITK image of an array `(k, j, i)` or `(k, j, i, components)`."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=array.ndim == 4)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def _read(path: str | Path, reader: Callable[[str], T]) -> T:
    if not Path(path).is_file():
        raise errors.EngineError(errors.INPUT_MISSING, f"The file {path} does not exist.", "Check its path.")
    try:
        return reader(str(path))
    except (RuntimeError, OSError) as error:
        raise errors.EngineError(
            errors.INPUT_UNREADABLE,
            f"The file {path} cannot be read; it is damaged, truncated or of another kind.",
            "Open it in Slicer and export it again.",
        ) from error


def read_volume(path: str | Path) -> Volume:
    """Read a scalar volume; a 2D image becomes a single slice. NaN is kept.

    Raises:
        EngineError: If the file is missing, unreadable, a colour or vector image, or a time series.
    """
    image = _read(path, sitk.ReadImage)
    if image.GetDimension() > 3:
        raise _unfit(path, f"has {image.GetDimension()} dimensions", "Extract one time point first.")
    if image.GetNumberOfComponentsPerPixel() != 1:
        values = image.GetNumberOfComponentsPerPixel()
        raise _unfit(path, f"has {values} values per voxel", "Convert it to one channel.")
    return from_sitk(image)


def read_labels(path: str | Path) -> Volume:
    """Read a label map; whole numbers stored as floats become integers.

    Raises:
        EngineError: As `read_volume`, and if a value is no whole number.
    """
    volume = read_volume(path)
    if np.issubdtype(volume.array.dtype, np.integer):
        return volume
    if not np.isfinite(volume.array).all() or (volume.array != np.rint(volume.array)).any():
        raise _unfit(path, "holds values that are no whole numbers", "Choose a label map, not an image.")
    return Volume(volume.array.astype(np.int32), volume.geometry)


def _unfit(path: str | Path, what: str, hint: str) -> errors.EngineError:
    return errors.EngineError(errors.INPUT_INVALID, f"The file {path} {what}.", hint)


def _write(path: str | Path, write: Callable[[str], None]) -> None:
    """Write under a temporary name beside the target, then rename: a failure leaves no half file."""
    path = Path(path)
    suffix = next((s for s in (*VOLUME_SUFFIXES, *TRANSFORM_SUFFIXES) if path.name.lower().endswith(s)), path.suffix)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(suffix=suffix, prefix=".part-", dir=path.parent)
        os.close(handle)
        write(temporary)
        os.replace(temporary, path)
    except (RuntimeError, OSError) as error:
        raise errors.EngineError(
            errors.OUTPUT_UNWRITABLE,
            f"The file {path} cannot be written ({_reason(path, error)}).",
            "Check the folder, its permissions, the free disk space and the file name's extension.",
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.remove(temporary)


def _reason(path: Path, error: Exception) -> str:
    if not path.parent.is_dir():
        return "its folder does not exist"
    if isinstance(error, OSError):
        return str(error.strerror)
    return "the disk may be full or the format unknown"


def write_volume(path: str | Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write a volume `(k, j, i)` in its own type, compressed.

    Raises:
        EngineError: If it cannot be written; an existing file is then untouched.
    """
    image = to_sitk(array.astype(np.uint8) if array.dtype == bool else array, geometry)
    _write(path, lambda name: sitk.WriteImage(image, name, useCompression=True))


def write_displacement(path: str | Path, displacement_lps_mm: np.ndarray, geometry: Geometry) -> None:
    """Write a displacement field as an image (nrrd, nii.gz, mha; float32) or ITK transform (h5, tfm; float64).

    Slicer loads all of them as the transform that resamples the moving volume.

    Args:
        path: File to write.
        displacement_lps_mm: `(k, j, i, 3)`.
        geometry: Its grid.

    Raises:
        EngineError: If it cannot be written; an existing file is then untouched.
    """
    if str(path).lower().endswith(TRANSFORM_SUFFIXES):
        field = to_sitk(displacement_lps_mm.astype(np.float64), geometry)
        transform = sitk.DisplacementFieldTransform(field)
        _write(path, lambda name: sitk.WriteTransform(transform, name))
        return
    image = to_sitk(displacement_lps_mm.astype(np.float32), geometry)
    for key, value in NRRD_FIELD.items():
        image.SetMetaData(key, value)
    _write(path, lambda name: sitk.WriteImage(image, name))


def read_displacement(path: str | Path) -> tuple[np.ndarray, Geometry]:
    """Read a displacement field from an image or a transform file.

    Returns:
        float32 `(k, j, i, 3)` LPS mm and its grid.

    Raises:
        EngineError: If the file is missing, unreadable or holds something else.
    """
    if str(path).lower().endswith(TRANSFORM_SUFFIXES):
        transform = _read(path, _read_transform)
        transform = _only_part(transform)
        if transform.GetName() != "DisplacementFieldTransform":
            raise _unfit(path, f"holds a {transform.GetName()}, not a displacement field", "Choose a field file.")
        image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
    else:
        image = _read(path, sitk.ReadImage)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
        raise _unfit(path, "is no 3D field of 3-component vectors", "Choose a displacement field.")
    return sitk.GetArrayFromImage(image).astype(np.float32), image_geometry(image)


def _only_part(transform: sitk.Transform) -> sitk.Transform:
    """Unwrap a composite of one, as which Slicer saves some transforms."""
    if transform.GetName() != "CompositeTransform":
        return transform
    composite = sitk.CompositeTransform(transform)
    return composite.GetNthTransform(0) if composite.GetNumberOfTransforms() == 1 else transform


def _read_transform(name: str) -> sitk.Transform:
    return sitk.ReadTransform(name)


def read_linear_transform(path: str | Path) -> np.ndarray:
    """Read a linear transform as the 4x4 LPS matrix that maps fixed to moving points (ITK's direction).

    Raises:
        EngineError: If the file is missing, unreadable or not linear.
    """
    transform = _read(path, _read_transform)
    if not transform.IsLinear() or transform.GetDimension() != 3:
        raise _unfit(path, "holds no linear 3D transform", "Choose a translation, rigid or affine transform.")
    offset = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    for axis in range(3):
        matrix[:3, axis] = np.array(transform.TransformPoint(tuple(np.eye(3)[axis].tolist()))) - offset
    matrix[:3, 3] = offset
    return matrix


def write_linear_transform(path: str | Path, matrix: np.ndarray) -> None:
    """Write a 4x4 LPS matrix that maps fixed to moving points as an ITK affine transform."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(np.asarray(matrix)[:3, :3].ravel().tolist())
    transform.SetTranslation(np.asarray(matrix)[:3, 3].tolist())
    _write(path, lambda name: sitk.WriteTransform(transform, name))


def read_points(path: str | Path) -> np.ndarray:
    """Read landmarks: Slicer markups (mrk.json, fcsv) or a table of x, y, z in LPS mm (csv, txt).

    Returns:
        `(N, 3)` LPS mm.

    Raises:
        EngineError: If the file is missing, unreadable or without points.
    """
    name = str(path).lower()
    if not Path(path).is_file():
        raise errors.EngineError(errors.INPUT_MISSING, f"The file {path} does not exist.", "Check its path.")
    try:
        text = Path(path).read_text(encoding="utf-8")
        points = _markups_points(text) if name.endswith(".json") else _table_points(text, fcsv=name.endswith(".fcsv"))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise errors.EngineError(
            errors.INPUT_UNREADABLE,
            f"The file {path} holds no readable landmarks ({error}).",
            "Save them as mrk.json from Slicer's Markups module.",
        ) from error
    if not len(points) or not np.isfinite(points).all():
        raise _unfit(path, "holds no landmark, or one that is not placed", "Place all points and save again.")
    return points


def _markups_points(text: str) -> np.ndarray:
    markup = json.loads(text)["markups"][0]
    points = np.array([point["position"] for point in markup["controlPoints"]], dtype=float).reshape(-1, 3)
    return flip_lps_ras(points) if markup.get("coordinateSystem", "LPS") in ("RAS", "0", 0) else points


def _table_points(text: str, *, fcsv: bool) -> np.ndarray:
    lines = text.splitlines()
    ras = any(
        "coordinatesystem" in line.lower() and line.split("=")[-1].strip() in ("0", "RAS")
        for line in lines
        if line.startswith("#")
    )
    rows = [
        row
        for row in csv.reader(
            line.replace(";", ",").replace("\t", ",") if "," in line or "\t" in line else ",".join(line.split())
            for line in lines
            if not line.startswith("#")
        )
        if row
    ]
    first = 1 if fcsv else 0
    if rows and not fcsv and not _is_number(rows[0][0]):
        rows = rows[1:]
    points = np.array([[float(cell) for cell in row[first : first + 3]] for row in rows], dtype=float).reshape(-1, 3)
    return flip_lps_ras(points) if ras else points


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def write_points(path: str | Path, points_lps: np.ndarray) -> None:
    """Write landmarks `(N, 3)` LPS mm as a table with the header x,y,z."""
    rows = "".join(f"{x:.6f},{y:.6f},{z:.6f}\n" for x, y, z in points_lps)
    _write(path, lambda name: _write_text(name, "x,y,z\n" + rows))


def _write_text(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="ascii")
