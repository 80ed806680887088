"""Measures shipped weights by whole jobs of the engine, exactly as users run them: alignment, network, refinement."""

import time
from pathlib import Path
from typing import Any

from batches import Pairing
from cases import CaseSet, data_folder
from config import Config
from DeepAttentionRegEngine.contract import METHOD_NONE, RegisterJob
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.reporting import Reporter
from protocols import PAIR_SEED, Row
from scoring import Figures, summarized


def settings(config: Config) -> dict[str, dict[str, Any]]:
    """Return the compared settings by name."""
    method, steps = config.release.method, config.evaluation.refinement_steps
    usual = {"method": method, "weights": config.release.id}
    table = {f"K={k}": {**usual, "recursions": k} for k in config.evaluation.recursions}
    table["refined"] = {**usual, "refinement_steps": steps}
    table["refinement only"] = {"method": METHOD_NONE, "refinement_steps": steps}
    return table


def job_rows(config: Config, validation: CaseSet) -> list[Row]:
    """Return a row for the images as stored, with centres aligned, and for each setting.

    Needs a data set of images and labels in folders.
    """
    folder = data_folder(config.data.folder)
    pairs = Pairing(validation, config.data.pairing).sampled(config.evaluation.pairs, PAIR_SEED)
    names = [tuple(validation.cases[index].name for index in pair) for pair in pairs]
    rows: list[Row] = []
    for setting, options in settings(config).items():
        values = [_register(folder, pair, options) for pair in names]
        if not rows:
            for stage, title in (("before", "as stored"), ("aligned", "centres aligned")):
                rows.append(_row(folder.name, title, [{"dice": value[stage]["dice"]["mean"]} for value in values]))
        rows.append(_row(folder.name, setting, [_figures(value) for value in values]))
    return rows


def _row(subset: str, setting: str, figures: list[Figures]) -> Row:
    return {"subset": subset, "setting": setting, "pairs": len(figures), "figures": summarized(figures)}


def _register(folder: Path, pair: tuple[str, str], options: dict[str, Any]) -> dict[str, Any]:
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
    return {**values, "seconds": time.perf_counter() - started}


def _figures(values: dict[str, Any]) -> Figures:
    after = values["after"]
    return {
        "dice": after["dice"]["mean"],
        "hd95_mm": after["hd95_mm"]["mean"],
        "assd_mm": after["assd_mm"]["mean"],
        "folded_percent": values["jacobian"]["fold_percent"],
        "sd_log_jacobian": values["jacobian"]["sd_log_jacobian"],
        "seconds": values["seconds"],
    }
