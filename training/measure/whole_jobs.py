"""Measures weights by whole jobs of the engine: centres aligned, network, refinement."""

import time
from pathlib import Path
from typing import Any

from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.protocol.contract import METHOD_NONE, Job, RegisterJob, build
from DeepAttentionRegEngine.protocol.reporting import Reporter

from ..configs.schema import Config, ConfigError, Evaluation
from ..data.batches import PAIR_SEED, PairSampler
from ..data.cases import CaseSet, data_folder
from .rows import Row
from .scoring import Figures, summarized

Files = dict[str, str]
SAME_START = {"alignment": "center", "device": "cpu"}


def settings(method: str, weights: str, evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Return the compared settings of a registration job by name.

    Args:
        method: Name of the method file.
        weights: Id or file of the weights.
        evaluation: Numbers of recursions, and steps of refinement.
    """
    usual, steps = {"method": method, "weights": weights}, evaluation.refinement_steps
    table = {f"K={k}": {**usual, "recursions": k, "refinement_steps": 0} for k in evaluation.recursions}
    table["refined"] = {**usual, "recursions": evaluation.refined_recursions, "refinement_steps": steps}
    table["refinement only"] = {"method": METHOD_NONE, "refinement_steps": steps}
    return table


def method_of(config: Config) -> str:
    """Return the name of the method file that the weights of a configuration are for.

    Raises:
        ConfigError: If it is no registration.
    """
    if config.release is not None:
        return config.release.method
    if config.architecture is None:
        msg = "whole jobs are for registrations"
        raise ConfigError(msg)
    return config.architecture


def shipped_weights(config: Config, instead: str) -> str:
    """Return the id of the weights that a configuration ships.

    Args:
        config: The experiment.
        instead: What else the user can name.

    Raises:
        ConfigError: If it ships none.
    """
    if config.release is None:
        msg = f"it has no release, so there are no shipped weights; name {instead}"
        raise ConfigError(msg)
    return config.release.id


def job_rows(config: Config, validation: CaseSet, weights: str) -> list[Row]:
    """Return a row for the images as stored, with centres aligned, and for each setting.

    Args:
        config: The experiment.
        validation: Cases of a data set of images and labels in folders.
        weights: Id or file of the weights.
    """
    folder = data_folder(config.data.folder)
    pairs = PairSampler(validation, config.data.pairing).sampled(config.evaluation.pairs, PAIR_SEED)
    names = [(validation.cases[fixed].name, validation.cases[moving].name) for fixed, moving in pairs]
    rows: list[Row] = []
    for setting, options in settings(method_of(config), weights, config.evaluation).items():
        values = [_register(folder, pair, options) for pair in names]
        if not rows:
            for stage, title in (("before", "as stored"), ("aligned", "centres aligned")):
                rows.append(_row(folder.name, title, [{"dice": value[stage]["dice"]["mean"]} for value in values]))
        rows.append(_row(folder.name, setting, [_figures(value) for value in values]))
    return rows


def _row(subset: str, setting: str, figures: list[Figures]) -> Row:
    return {"subset": subset, "setting": setting, "pairs": len(figures), "figures": summarized(figures)}


def stored_files(folder: Path, pair: tuple[str, str]) -> Files:
    """Return images and labels of a pair (fixed, moving) of names in a data set of folders, by field of a job."""
    return {
        side + suffix: str(folder / part / name)
        for side, name in zip(("fixed", "moving"), pair, strict=True)
        for suffix, part in (("", "images"), ("_labels", "labels"))
    }


def run_job(job: Job) -> dict[str, Any]:
    """Run a job of the engine without a word and return what it found."""
    return run(job, Reporter()).values


def score_figures(scores: dict[str, Any]) -> Figures:
    """Return the means of what a job scored, such as its "after"."""
    return {name: scores[name]["mean"] for name in ("dice", "hd95_mm", "assd_mm", "tre_mm") if name in scores}


def regularity_figures(values: dict[str, Any]) -> Figures:
    """Return folds and spread of the Jacobian determinant of the values of a job."""
    return {
        "folded_percent": values["jacobian"]["fold_percent"],
        "sd_log_jacobian": values["jacobian"]["sd_log_jacobian"],
    }


def _register(folder: Path, pair: tuple[str, str], options: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    values = run_job(build(RegisterJob, {**stored_files(folder, pair), **SAME_START, **options}))
    return {**values, "seconds": time.perf_counter() - started}


def _figures(values: dict[str, Any]) -> Figures:
    return {**score_figures(values["after"]), **regularity_figures(values), "seconds": values["seconds"]}
