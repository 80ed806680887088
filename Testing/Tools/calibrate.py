"""Compare the uncertainty that a registration tells of with its true error, on phantoms whose deformation is known.

    python Testing/Tools/calibrate.py --output demo-output/calibration
    python Testing/Tools/calibrate.py --method bspline --recursions 8 --refinement-steps 0

Each phantom is registered with its uncertainty. The voxels of the bodies are sorted into groups of equal size by what
was predicted; in a group of well calibrated predictions the error has the root mean square that was predicted. Writes
calibration.csv (a row a group), calibration.json (what holds for all voxels) and, where matplotlib is there, a plot.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "DeepAttentionReg"))

from DeepAttentionRegEngine import register, uncertainty
from DeepAttentionRegEngine.arguments import add_settings
from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.protocol.settings import settings_of

GROUPS = 10
FIRST_SEED = 100  # of phantoms on which nothing was chosen
VOXELS = (64, 54, 64)
SIZE_MM = (5.25, 4.5, 5.25)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_settings(parser)
    parser.set_defaults(method="none")
    add("--phantoms", type=int, default=4, help="number of phantoms (default: %(default)s)")
    add("--voxels", type=int, nargs=3, default=VOXELS, help="size of the phantoms (default: %(default)s)")
    add("--output", type=Path, default=Path("demo-output/calibration"), help="folder (default: %(default)s)")
    return parser.parse_args(arguments)


def measure(seed: int, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return what was predicted and the true error in mm, `(N,)` each, in the voxels of the body of a phantom."""
    size = tuple(options.voxels)
    spacing = tuple(usual * count / wanted for usual, count, wanted in zip(SIZE_MM, VOXELS, size, strict=True))
    geometry = thorax.default_geometry(size, spacing)
    # Breathing and noise differ, so that no single amount of either is what is calibrated.
    rng = np.random.default_rng(seed)
    settings = thorax.PhantomSettings(rng.uniform(0.03, 0.09), rng.uniform(4.0, 25.0), seed=seed)
    pair = thorax.make_phantom(geometry, settings=settings)
    registered = register((pair.fixed, geometry), (pair.moving, geometry), settings_of(options))
    predicted = uncertainty(registered)
    error = np.linalg.norm(registered.displacement_lps_mm - pair.displacement_lps_mm, axis=-1)
    body = pair.fixed_labels > 0
    return predicted[body], error[body]


def group(predicted: np.ndarray, error: np.ndarray, count: int = GROUPS) -> list[dict[str, float]]:
    """Return groups of equal size by what was predicted: range, root mean squares of prediction and error, in mm."""
    order = np.argsort(predicted, kind="stable")
    rows = []
    for part in np.array_split(order, count):
        rows.append(
            {
                "predicted_from_mm": float(predicted[part].min()),
                "predicted_to_mm": float(predicted[part].max()),
                "predicted_rms_mm": _rms(predicted[part]),
                "error_rms_mm": _rms(error[part]),
                "error_median_mm": float(np.median(error[part])),
                "error_p95_mm": float(np.percentile(error[part], 95)),
                "voxels": len(part),
            }
        )
    return rows


def summarize(predicted: np.ndarray, error: np.ndarray, rows: list[dict[str, float]]) -> dict[str, Any]:
    """Return what holds for all voxels.

    `rank_correlation` of prediction and error (Spearman); `factor` by which predictions would have to be multiplied to
    have the root mean square of the errors; `calibration_error`, the mean over the groups of the difference of error
    and prediction relative to the prediction; shares of voxels whose error is within one and two times the prediction.
    """
    differences = [abs(row["error_rms_mm"] - row["predicted_rms_mm"]) / row["predicted_rms_mm"] for row in rows]
    return {
        "body_voxels": len(error),
        "predicted_rms_mm": _rms(predicted),
        "error_rms_mm": _rms(error),
        "factor": _rms(error) / _rms(predicted),
        "rank_correlation": float(np.corrcoef(_ranks(predicted), _ranks(error))[0, 1]),
        "calibration_error": float(np.mean(differences)),
        "within_one": float((error <= predicted).mean()),
        "within_two": float((error <= 2 * predicted).mean()),
    }


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=float))))


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def plot(rows: list[dict[str, float]], title: str, path: Path) -> None:
    """Draw error against prediction, a point a group, beside the line on which they would be equal."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.5, 4.5), layout="constrained")
    predicted, error = ([row[name] for row in rows] for name in ("predicted_rms_mm", "error_rms_mm"))
    limit = 1.05 * max(*predicted, *error)
    axes.plot([0, limit], [0, limit], color="0.6", linestyle="--", label="equal")
    axes.plot(predicted, error, marker="o", color="#0072B2", label="tenths of the voxels")
    axes.set(xlim=(0, limit), ylim=(0, limit), aspect="equal", title=title)
    axes.set_xlabel("predicted uncertainty, root mean square (mm)")
    axes.set_ylabel("true error, root mean square (mm)")
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print."""
    options = parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(1, options.phantoms + 1):
        found.append(measure(FIRST_SEED + number, options))
        print(
            f"Phantom {number} of {options.phantoms}: error {_rms(found[-1][1]):.2f} mm (root mean square).", flush=True
        )
    predicted, error = (np.concatenate(parts) for parts in zip(*found, strict=True))
    rows = group(predicted, error)
    summary = {
        **{name: value for name, value in vars(options).items() if name != "output"},
        **summarize(predicted, error, rows),
    }
    with open(options.output / "calibration.csv", "w", encoding="ascii", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    (options.output / "calibration.json").write_text(json.dumps(summary, indent=1), encoding="ascii")
    try:
        plot(rows, f"{options.method}, {options.samples} samples", options.output / "calibration.png")
    except ImportError:
        print("There is no plot, for matplotlib is not installed.")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
