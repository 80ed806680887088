"""From an experiment to what its steps compute."""

from pathlib import Path

from ..configs.schema import Config
from .multiclass import MulticlassSegmentation
from .registration import Registration
from .tasks import Autoencoding, Segmentation


def make_task(config: Config, runs: Path | None) -> Registration | Segmentation | MulticlassSegmentation | Autoencoding:
    """Return the task of a configuration.

    Args:
        config: The experiment.
        runs: Folder of the runs that trained its parts; None leaves the parts untrained.
    """
    if config.task == "registration":
        return Registration(config, runs)
    if config.task == "multiclass":
        return MulticlassSegmentation(config, runs)
    return Segmentation(config) if config.task == "segmentation" else Autoencoding(config)
