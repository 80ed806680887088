"""The pictures of a report: slices of the volumes, of maps over the fixed one, and of how segments agree."""

import functools
from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras

from ..evidence import Maps, Pictures, SegmentNodes
from ..nodes import Metrics, Record, Volumes, Warping
from ..nodes.Deformation import Deformation
from ..nodes.Overlays import Map, Measure

ALWAYS = (Map.JACOBIAN, Map.MAGNITUDE)


@dataclass(frozen=True)
class Legend:
    """What colors mean.

    :param title: what is shown.
    :param low: text at the lower end.
    :param high: text at the upper end.
    :param image: the colors from low to high, as PNG; None for single colors.
    :param colors: single colors, "#rrggbb", and what they mean.
    """

    title: str
    low: str = ""
    high: str = ""
    image: bytes | None = None
    colors: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Figure:
    """A picture.

    :param title: what it shows.
    :param image: PNG.
    :param size: width and height of the image, pixels.
    :param legend: what its colors mean; None for gray pictures.
    """

    title: str
    image: bytes
    size: tuple[int, int]
    legend: Legend | None = None


@dataclass(frozen=True)
class Field:
    """A deformation, and what it does at the voxels of the fixed volume.

    :param displacementLps: (k, j, i, 3) mm.
    :param own: its grid.
    :param jacobian: its determinant (k, j, i) at the voxels.
    :param magnitude: its length (k, j, i) there, mm.
    :param geometry: grid of the fixed volume.
    """

    displacementLps: np.ndarray
    own: Geometry
    jacobian: np.ndarray
    magnitude: np.ndarray
    geometry: Geometry

    def extremeLps(self) -> np.ndarray:
        """Return the point (3,) where the volume of tissue changes most: at the smallest determinant or the largest."""
        change = np.abs(fields.log_jacobian(self.jacobian))
        k, j, i = np.unravel_index(int(change.argmax()), change.shape)
        return self.geometry.index_to_lps(np.array([[i, j, k]]))[0]


def draw(deformation: Deformation, field: Field, pointLps: np.ndarray, pause: Pause = no_pause) -> list[Figure]:
    """Return the pictures of a deformation.

    :param deformation: the deformation.
    :param field: what is known of it.
    :param pointLps: (3,) mm in the world, through which the slices run.
    :param pause: called between pictures.
    """
    artist = _Artist(deformation, field, pointLps)
    pause()
    figures = artist.volumes()
    pause()
    figures += artist.fusions()
    for kind in (kind for kind in Map if kind in ALWAYS or Maps.of(deformation, kind)):
        pause()
        figures.append(artist.map(kind, *artist.mapOf(kind)))
    pause()
    figures += artist.segments()
    pause()
    extreme = field.extremeLps()
    text = _("Where the volume of tissue changes most: R {0}, A {1}, S {2} mm").format(
        *(Metrics.numberText(float(value)) for value in flip_lps_ras(extreme))
    )
    worst = _Artist(deformation, field, extreme)
    return [*figures, worst.map(Map.JACOBIAN, *worst.mapOf(Map.JACOBIAN), title=text)]


class _Artist:
    """Draws slices through one point."""

    def __init__(self, deformation: Deformation, field: Field, pointLps: np.ndarray) -> None:
        self._deformation, self._field = deformation, field
        fixedGrid = Volumes.geometryOf(deformation.fixed, Warping.WORLD)
        self._planes = Pictures.planesThrough(fixedGrid, pointLps)
        fixed = slicer.util.arrayFromVolume(deformation.fixed)
        window = Pictures.grayWindow(deformation.fixed)
        self._fixed = [Pictures.gray(plane.sample(fixed, fixedGrid), window) for plane in self._planes]

    def _figure(self, title: str, pictures: list[np.ndarray], legend: Legend | None = None) -> Figure:
        image = Pictures.beside(pictures)
        names = ", ".join(plane.name.lower() for plane in self._planes)
        return Figure(f"{title} ({names})", Pictures.png(image), image.shape[1::-1], legend)

    @functools.cached_property
    def _moving(self) -> dict[str, list[np.ndarray]]:
        """Return the moving volume, gray, in all planes, by state."""
        moving = self._deformation.moving
        matrix = Warping.toFrame(moving, self._deformation.transformNode) @ Volumes.ijkToRas(moving)
        grid = Geometry.from_ijk_to_ras(matrix, moving.GetImageData().GetDimensions())
        array, window = slicer.util.arrayFromVolume(moving), Pictures.grayWindow(moving)
        start = Record.startOf(self._deformation)
        pictures: dict[str, list[np.ndarray]] = {"before": [], "after": []}
        for plane in self._planes:
            ras = flip_lps_ras(plane.pointsLps)
            before = flip_lps_ras(ras @ start[:3, :3].T + start[:3, 3]) - plane.pointsLps
            # Beyond its grid a field goes on as at the border, as Slicer has it.
            after = fields.sample_field(
                self._field.displacementLps, self._field.own, plane.pointsLps.reshape(-1, 3)
            ).reshape(plane.pointsLps.shape)
            for state, offset in (("before", before), ("after", after)):
                pictures[state].append(Pictures.gray(plane.sample(array, grid, offset), window))
        return pictures

    def volumes(self) -> list[Figure]:
        """Return the volumes themselves."""
        moving = self._moving
        titles = {
            _("Fixed volume"): self._fixed,
            _("Moving volume before"): moving["before"],
            _("Moving volume after"): moving["after"],
        }
        return [self._figure(title, [Pictures.toRgb(part) for part in parts]) for title, parts in titles.items()]

    def fusions(self) -> list[Figure]:
        """Return both volumes over each other."""
        legend = Legend(
            _("Brighter in one of the volumes"),
            colors=(("#ff00ff", _("fixed volume")), ("#00ff00", _("moving volume")), ("#808080", _("both alike"))),
        )
        titles = {"before": _("Both volumes before"), "after": _("Both volumes after")}
        return [
            self._figure(titles[state], [Pictures.fuse(*pair) for pair in zip(self._fixed, parts, strict=True)], legend)
            for state, parts in self._moving.items()
        ]

    def mapOf(self, kind: Map) -> tuple[np.ndarray, Geometry]:
        """Return a map (k, j, i) and its grid: one that the transform remembers, or of its field."""
        node = Maps.of(self._deformation, kind)
        if node is not None:
            return slicer.util.arrayFromVolume(node), Volumes.geometryOf(node, Warping.WORLD)
        if kind is Map.JACOBIAN:
            return self._field.jacobian, self._field.geometry
        return self._field.magnitude, self._field.geometry

    def map(self, kind: Map, array: np.ndarray, geometry: Geometry, title: str = "") -> Figure:
        """Return a map over the fixed volume."""
        window = kind.window(float(np.nanmax(array)))
        ends = (_("{value} (stretched)"), _("{value} (shrunk)")) if kind.measure is Measure.VOLUME else ("{value}",) * 2
        pictures = [
            Pictures.paint(Pictures.toRgb(part), plane.sample(array, geometry), kind, window)
            for part, plane in zip(self._fixed, self._planes, strict=True)
        ]
        low, high = (text.format(value=Metrics.numberText(end)) for text, end in zip(ends, window, strict=True))
        return self._figure(
            title or kind.label(), pictures, Legend(kind.label(), low, high, Pictures.legend(kind, window))
        )

    def segments(self) -> list[Figure]:
        """Return the regions of segments that have been compared."""
        colors = [(_hex(style.color), SegmentNodes.kindName(kind)) for kind, style in SegmentNodes.STYLES.items()]
        legend = Legend(_("Segments"), colors=tuple(colors))
        figures = []
        for state, title in (("before", _("Segments before")), ("after", _("Segments after"))):
            node = Record.attached(self._deformation.transformNode, SegmentNodes.ROLES[state])
            if node is not None:
                pairs = zip(self._fixed, self._planes, strict=True)
                figures.append(self._figure(title, [_drawRegions(node, *pair) for pair in pairs], legend))
        return figures


def _drawRegions(node: slicer.vtkMRMLSegmentationNode, gray: np.ndarray, plane: Pictures.Plane) -> np.ndarray:
    """Return a gray picture (height, width) in color, with the regions of all structures over it, as Slicer does."""
    picture = Pictures.toRgb(gray)
    for kind, labels, grid, value in SegmentNodes.regionsOf(node):
        style = SegmentNodes.STYLES[kind]
        Pictures.tint(picture, plane.nearest(labels, grid) == value, style.color, style.fill)
    return picture


def _hex(color: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in color)
