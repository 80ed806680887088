"""The pair of the demo: files given on the command line, or the phantom."""

from dataclasses import dataclass, field
from pathlib import Path

from DeepAttentionRegEngine.phantom import anatomy, thorax
from DeepAttentionRegEngine.volume import images


@dataclass(frozen=True)
class DemoCase:
    """A pair of images as files, with what there is to score it.

    Attributes:
        title: Name of the pair in tables and pictures.
        fixed: Image that stays.
        moving: Image to deform onto it.
        fixed_labels: Label map of the fixed image.
        moving_labels: Label map of the moving image, same values.
        fixed_points: Landmarks on the fixed image.
        moving_points: The same on the moving image, same order.
        label_names: Name of a label value; others are called by their number.
    """

    title: str
    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_points: Path | None = None
    moving_points: Path | None = None
    label_names: dict[int, str] = field(default_factory=dict)

    def label(self, value: int | str) -> str:
        """Return the name of a label value; a name stays as it is."""
        named = isinstance(value, str) and not value.isdecimal()
        return str(value) if named else self.label_names.get(int(value), f"Label {value}")


def write_phantom(folder: Path, *, flat: bool) -> DemoCase:
    """Write the breathing thorax phantom as files, a volume or a single coronal slice, and return it as a case."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = thorax.make_phantom(thorax.default_geometry(flat=flat))
    case = DemoCase(
        title="Thorax phantom, one coronal slice" if flat else "Thorax phantom",
        fixed=folder / "fixed.nii.gz",
        moving=folder / "moving.nii.gz",
        fixed_labels=folder / "fixed-labels.nii.gz",
        moving_labels=folder / "moving-labels.nii.gz",
        fixed_points=folder / "fixed-points.csv",
        moving_points=folder / "moving-points.csv",
        label_names=anatomy.LABEL_NAMES,
    )
    images.write_volume(case.fixed, pair.fixed, pair.fixed_geometry)
    images.write_volume(case.moving, pair.moving, pair.moving_geometry)
    images.write_volume(case.fixed_labels, pair.fixed_labels, pair.fixed_geometry)
    images.write_volume(case.moving_labels, pair.moving_labels, pair.moving_geometry)
    images.write_points(case.fixed_points, pair.fixed_points_lps)
    images.write_points(case.moving_points, pair.moving_points_lps)
    return case
