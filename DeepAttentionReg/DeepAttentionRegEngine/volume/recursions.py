"""The state of a registration after every recursion, as files: fields, similarity and what the network attended to.

One folder holds `recursions.json` and the files it names. The index has "contract" (its version), "method", "grid" (the
network's grid, `Geometry.to_dict`, LPS mm), "alignment" (4x4, fixed to moving points, LPS) and "recursions", one entry
each:

- "displacement": the whole displacement so far, alignment included (LPS mm, as any output transform), on one grid for
  all: the nodes of the network's grid over the fixed volume, the fixed grid if that was asked for, or a coarser one.
- "similarity": local correlation on the network's grid, in [0, 1].
- "fold_percent": share of the displacement's voxels that are folded.
- "maps": scalar volumes over the grid, `{"name", "image", "file"}`. Those of the image "moving" show the moving volume
  before it is warped, seen through the alignment: with it as parent transform they lie on the moving volume.
- "attention": cross-attention, `{"name", "file"}`; `read_attention` and `Attention.heat_map` turn a point of the fixed
  volume into what the network looked at on the moving volume, warped by the field of the recursion before.
- "gaussians": the local deformations that this recursion added, as in gaussian_files.py.
"""

import json
import math
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..protocol import errors
from ..protocol.contract import VERSION, build
from ..protocol.errors import shown
from ..protocol.files import MISSHAPEN, parse_json, read_content, read_file, unreadable, write_file
from ..protocol.result_files import RECURSIONS as INDEX
from .geometry import Geometry


@dataclass(frozen=True)
class Step:
    """One recursion; files are named relative to the folder. See the module for the entries."""

    displacement: str
    similarity: float
    fold_percent: float = 0.0
    maps: list[dict[str, str]] = field(default_factory=list)
    attention: list[dict[str, str]] = field(default_factory=list)
    gaussians: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Index:
    """What a folder holds."""

    method: str
    grid: Geometry
    alignment: np.ndarray
    recursions: list[Step]


def write_index(folder: str | Path, index: Index) -> None:
    """Write the index of a folder.

    Raises:
        EngineError: If it cannot be written.
    """
    data = {
        "contract": VERSION,
        "method": index.method,
        "grid": index.grid.to_dict(),
        "alignment": np.asarray(index.alignment).tolist(),
        "recursions": [asdict(step) for step in index.recursions],
    }
    text = json.dumps(data, indent=1, allow_nan=False)
    write_file(
        Path(folder) / INDEX,
        (".json",),
        lambda name: Path(name).write_text(text, encoding="ascii"),
        lambda name: Path(name).read_text(encoding="ascii") == text,
    )


def read_index(folder: str | Path) -> Index:
    """Read the index of a folder.

    Raises:
        EngineError: If it is missing, damaged or of another version.
    """
    path = Path(folder) / INDEX
    try:
        data = parse_json(read_content(path))
        version, alignment = data["contract"], np.array(data["alignment"], float)
        steps = [_step(step) for step in data["recursions"]]
        index = Index(str(data["method"]), Geometry.from_dict(data["grid"]), alignment, steps)
        if alignment.shape != (4, 4) or not np.isfinite(alignment).all():
            msg = "its alignment is no 4x4 matrix"
            raise ValueError(msg)
    except MISSHAPEN as error:
        raise unreadable(path, error) from error
    if version != VERSION:
        raise errors.EngineError(
            errors.CONTRACT, f"{path} is of version {version!r}, not {VERSION}.", "Register the volumes again."
        )
    return index


def _step(data: dict[str, Any]) -> Step:
    """Return an entry of an index, whose files lie beside it."""
    try:
        step = build(Step, data)
    except errors.EngineError as error:
        raise ValueError(error.message) from error
    files = [step.displacement, *(entry["file"] for entry in (*step.maps, *step.attention))]
    elsewhere = next((file for file in files if Path(file).name != file), None)
    if elsewhere is not None:
        msg = f"{shown(elsewhere)} is no file beside it"
        raise ValueError(msg)
    return step


@dataclass(frozen=True)
class Attention:
    """Cross-attention of one layer; tokens lie on the network's grid as `networks.base.CrossAttention` says.

    Attributes:
        query: `(heads, n, d)` of the fixed volume.
        key: `(heads, m, d)` of the warped moving volume.
        query_size: Tokens along each axis in array order; two for a single slice.
        key_size: The same.
        query_stride: Voxels of the network's grid per token.
        key_stride: The same.
    """

    query: np.ndarray
    key: np.ndarray
    query_size: tuple[int, ...]
    key_size: tuple[int, ...]
    query_stride: float
    key_stride: float

    def row(self, token: int) -> np.ndarray:
        """Return how much a token of the fixed volume looked at each of the moving volume, mean over heads, sum 1."""
        query, key = self.query[:, token].astype(np.float32), self.key.astype(np.float32)
        score = np.einsum("hd,hmd->hm", query, key) / np.sqrt(query.shape[-1])
        weight = np.exp(score - score.max(1, keepdims=True))
        return (weight / weight.sum(1, keepdims=True)).mean(0)

    def token_at(self, grid: Geometry, point_lps: np.ndarray) -> int:
        """Return the token of the fixed volume nearest to a point, clamped to the grid."""
        index = grid.lps_to_index(np.asarray(point_lps, float)[None])[0][::-1][-len(self.query_size) :]
        nearest = np.rint((index + 0.5) / self.query_stride - 0.5).astype(int)
        clamped = np.clip(nearest, 0, np.array(self.query_size) - 1)
        return int(np.ravel_multi_index(tuple(clamped), self.query_size))

    def heat_map(self, grid: Geometry, point_lps: np.ndarray) -> tuple[np.ndarray, Geometry]:
        """Return what the network looked at for a point of the fixed volume.

        Args:
            grid: The network's grid (`Index.grid`).
            point_lps: `(3,)` mm.

        Returns:
            Weights `(k, j, i)` that sum to 1, and their grid.
        """
        tokens = self.key_grid(grid)
        return self.row(self.token_at(grid, point_lps)).reshape(tokens.shape), tokens

    def query_grid(self, grid: Geometry) -> Geometry:
        """Return the grid of the fixed volume's tokens on the network's grid."""
        return _token_grid(grid, self.query_size, self.query_stride)

    def key_grid(self, grid: Geometry) -> Geometry:
        """Return the grid of the moving volume's tokens on the network's grid."""
        return _token_grid(grid, self.key_size, self.key_stride)


def _token_grid(grid: Geometry, size: tuple[int, ...], stride: float) -> Geometry:
    strides = np.array([stride, stride, 1.0 if grid.is_flat else stride])
    matrix = grid.ijk_to_lps @ np.diag([*strides, 1.0])
    matrix[:3, 3] = (grid.ijk_to_lps @ [*((strides - 1) / 2), 1.0])[:3]
    i, j, *k = size[::-1]
    return Geometry.from_ijk_to_lps(matrix, (i, j, k[0] if k else 1))


def write_attention(path: str | Path, attention: Attention) -> None:
    """Write cross-attention as npz, query and key in half precision.

    Raises:
        EngineError: If it cannot be written.
    """
    values = asdict(attention)
    for name in ("query", "key"):
        values[name] = values[name].astype(np.float16)

    def complete(name: str) -> bool:
        return np.array_equal(_load_attention(name).key, values["key"], equal_nan=True)

    write_file(path, (".npz",), lambda name: np.savez(name, **values), complete)


def read_attention(path: str | Path) -> Attention:
    """Read what `write_attention` wrote.

    Raises:
        EngineError: If the file is missing or damaged.
    """
    try:
        return read_file(path, _load_attention)
    except zipfile.BadZipFile as error:
        raise unreadable(path) from error


def _load_attention(path: str) -> Attention:
    _require_honest_arrays(path)
    with np.load(path, allow_pickle=False) as stored:
        query_size, key_size = (tuple(int(n) for n in stored[name]) for name in ("query_size", "key_size"))
        strides = float(stored["query_stride"]), float(stored["key_stride"])
        query, key = stored["query"], stored["key"]
    counts = [math.prod(size) for size in (query_size, key_size)]
    alike = query.ndim == key.ndim == 3 and query.shape[::2] == key.shape[::2]
    if not alike or [query.shape[1], key.shape[1]] != counts or query.dtype.kind != "f" or key.dtype.kind != "f":
        msg = "its arrays do not belong together"
        raise ValueError(msg)
    return Attention(query, key, query_size, key_size, *strides)


def _require_honest_arrays(path: str) -> None:
    """Refuse arrays that claim to be larger than they are, for which NumPy would look for memory first."""
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            with archive.open(part) as stream:
                version = np.lib.format.read_magic(stream)
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _order, kind = header[version](stream)
            if math.prod(shape) * kind.itemsize > part.file_size or part.compress_type != zipfile.ZIP_STORED:
                msg = f"{part.filename} is not as large as it claims"
                raise ValueError(msg)
