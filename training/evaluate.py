"""Measure shipped weights on held-out pairs, through the engine exactly as users run it.

    python training/evaluate.py training/configs/rman_hippocampus.json --pairs 40

Writes training/results/<config>.json and the means to weights.json, and prints a table. Pairs are drawn with a fixed
seed from the validation cases of the configuration's split; nothing is trained or tuned on them here.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from data import RESOURCES, ROOT, data_folder, read_split
from DeepAttentionRegEngine.contract import METHOD_NONE, RegisterJob
from DeepAttentionRegEngine.jobs import run, versions
from DeepAttentionRegEngine.reporting import Reporter

REFINEMENT_STEPS = 40
PAIR_SEED = 1


def settings(method: str) -> dict[str, dict[str, Any]]:
    """Return the compared settings by name."""
    table: dict[str, dict[str, Any]] = {f"{method}, K={k}": {"method": method, "recursions": k} for k in (1, 2, 3, 4)}
    table[f"{method}, K=3, refined"] = {"method": method, "recursions": 3, "refinement_steps": REFINEMENT_STEPS}
    table["refinement only"] = {"method": METHOD_NONE, "refinement_steps": REFINEMENT_STEPS}
    return table


def draw_pairs(names: list[str], count: int) -> list[tuple[str, str]]:
    """Return ordered pairs of different cases."""
    rng = np.random.default_rng(PAIR_SEED)
    return [tuple(names[index] for index in rng.choice(len(names), 2, replace=False)) for _ in range(count)]


def register_pair(folder: Path, pair: tuple[str, str], options: dict[str, Any]) -> dict[str, float]:
    """Register one pair and return its figures."""
    fixed, moving = pair
    job = RegisterJob(
        fixed=str(folder / "images" / fixed),
        moving=str(folder / "images" / moving),
        fixed_labels=str(folder / "labels" / fixed),
        moving_labels=str(folder / "labels" / moving),
        device="cpu",
        **options,
    )
    started = time.perf_counter()
    values = run(job, Reporter(lambda event: None, lambda: False)).values
    after = values["after"]
    return {
        "unaligned_dice": values["before"]["dice"]["mean"],
        "aligned_dice": values["aligned"]["dice"]["mean"],
        "dice": after["dice"]["mean"],
        "hd95_mm": after["hd95_mm"]["mean"],
        "assd_mm": after["assd_mm"]["mean"],
        "fold_percent": values["jacobian"]["fold_percent"],
        "sd_log_jacobian": values["jacobian"]["sd_log_jacobian"],
        "seconds": time.perf_counter() - started,
    }


def summarize(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation of every figure over the pairs."""
    return {
        name: {"mean": float(np.mean([row[name] for row in rows])), "sd": float(np.std([row[name] for row in rows]))}
        for name in rows[0]
    }


def to_markdown(summary: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the table that README and model card quote."""
    lines = ["| setting | Dice | HD95 mm | ASSD mm | folds % | SD log J | s a pair |", "|---|---|---|---|---|---|---|"]
    first = next(iter(summary.values()))
    lines.append(f"| as stored | {_cell(first['unaligned_dice'])} | | | | | |")
    lines.append(f"| centres aligned | {_cell(first['aligned_dice'])} | | | | | |")
    for name, figures in summary.items():
        cells = [_cell(figures["dice"]), *(f"{figures[key]['mean']:.2f}" for key in ("hd95_mm", "assd_mm"))]
        cells += [f"{figures['fold_percent']['mean']:.4f}", f"{figures['sd_log_jacobian']['mean']:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {figures['seconds']['mean']:.1f} |")
    return "\n".join(lines)


def _rounded(row: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in row.items()}


def _cell(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.3f} +- {figure['sd']:.3f}"


def record(identifier: str, cases: int, pairs: int, summary: dict[str, dict[str, dict[str, float]]]) -> None:
    """Note the mean figures of every setting beside the weights in weights.json."""
    path = RESOURCES / "weights.json"
    manifest = json.loads(path.read_text(encoding="ascii"))
    entry = next(entry for entry in manifest["weights"] if entry["id"] == identifier)
    figures = {
        name: {figure: round(values[figure]["mean"], 4) for figure in ("dice", "hd95_mm", "fold_percent")}
        for name, values in summary.items()
    }
    entry["validation"] = {"cases": cases, "pairs": pairs, "pair_seed": PAIR_SEED, "mean": figures}
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="ascii")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--pairs", type=int, default=40)
    arguments = parser.parse_args()
    config = json.loads(arguments.config.read_text(encoding="ascii"))
    names = read_split(arguments.config.parent.parent / config["split"])["validation"]
    folder = data_folder(config["data"])
    pairs = draw_pairs(names, arguments.pairs)
    results = {
        name: [register_pair(folder, pair, options) for pair in pairs]
        for name, options in settings(config["method"]).items()
    }
    summary = {name: summarize(rows) for name, rows in results.items()}
    report = {
        "config": arguments.config.name,
        "cases": len(names),
        "pairs": [list(pair) for pair in pairs],
        "pair_seed": PAIR_SEED,
        "machine": f"{platform.machine()}, CPU",
        "versions": versions(),
        "summary": summary,
        "per_pair": {name: [_rounded(row) for row in rows] for name, rows in results.items()},
    }
    target = ROOT / "training" / "results" / f"{arguments.config.stem}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="ascii")
    record(config["release"]["id"], len(names), len(pairs), summary)
    print(to_markdown(summary))


if __name__ == "__main__":
    main()
