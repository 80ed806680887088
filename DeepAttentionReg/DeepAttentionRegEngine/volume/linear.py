"""Linear transforms from and to files, and as matrices."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..protocol import errors
from ..protocol.files import read_file, write_file
from .transform_files import TRANSFORM_SUFFIXES, load_transform


def invalid(subject: str, what: str, hint: str) -> errors.EngineError:
    """Return the error of something that can be read but not used; `what` goes on after what it is called."""
    return errors.EngineError(errors.INPUT_INVALID, f"{subject} {what}.", hint)


def read_linear_transform(path: str | Path) -> np.ndarray:
    """Read a linear transform as the 4x4 LPS matrix that maps fixed to moving points (ITK's direction).

    Raises:
        EngineError: If the file is missing, unreadable, not linear, or without an inverse.
    """
    return linear_matrix(read_file(path, load_transform), f"The file {path}")


def linear_matrix(transform: sitk.Transform | np.ndarray, subject: str) -> np.ndarray:
    """Return a linear transform as the 4x4 LPS matrix that maps fixed to moving points (ITK's direction).

    Args:
        transform: Of SimpleITK, or such a matrix.
        subject: How to call it in an error.

    Raises:
        EngineError: If it is not linear, or without an inverse.
    """
    try:
        matrix = (
            _matrix_of(transform, subject) if isinstance(transform, sitk.Transform) else np.asarray(transform, float)
        )
    except (ValueError, TypeError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise invalid(subject, "is no 4x4 matrix of a linear map", "Give one in LPS mm, with 0, 0, 0, 1 below.")
    determinant = float(np.linalg.det(matrix))
    if not abs(determinant) > 1e-9:
        raise invalid(subject, f"scales volume by {determinant:g}, so it has no inverse", "Choose another transform.")
    return matrix


def _matrix_of(transform: sitk.Transform, subject: str) -> np.ndarray:
    if not transform.IsLinear() or transform.GetDimension() != 3:
        what = f"holds a {transform.GetName()}, not a linear 3D transform"
        raise invalid(subject, what, "Choose a linear transform.")
    matrix = np.eye(4)
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    for axis, unit in enumerate(np.eye(3).tolist()):
        matrix[:3, axis] = np.array(transform.TransformPoint(unit)) - matrix[:3, 3]
    return matrix


def to_affine(matrix: np.ndarray) -> sitk.AffineTransform:
    """Return the SimpleITK transform of a 4x4 matrix."""
    matrix = np.asarray(matrix, dtype=float)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def write_linear_transform(path: str | Path, matrix: np.ndarray) -> None:
    """Write a 4x4 LPS matrix that maps fixed to moving points as an ITK affine transform (tfm, h5, txt, mat).

    Raises:
        EngineError: If it cannot be written; an existing file is then untouched.
    """
    transform = to_affine(matrix)
    # An affine file holds the matrix to some 1e-15; coordinates of metres lose a few digits in the subtraction.
    write_file(
        path,
        TRANSFORM_SUFFIXES,
        lambda name: sitk.WriteTransform(transform, name),
        lambda name: np.allclose(linear_matrix(sitk.ReadTransform(name), name), matrix, rtol=0, atol=1e-6),
    )
