"""Outlines of the worst, the median and the best pair."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

from training_cases import NETWORK, chest_config, need, untrained

need("matplotlib", "monai", "scipy")

import matplotlib as mpl

from training.configs.reading import read_config
from training.measure import pictures

mpl.use("Agg")


class TestPictures:
    def test_pairs_are_ranked_and_no_image_is_shown(self, folder: Path) -> None:
        path = chest_config(folder, network={**NETWORK, "attention": False})
        figure = pictures.picture(read_config(path), untrained(path), 1)
        titles = [axes.get_title() for axes in figure.axes]
        after = [float(title.split()[-1]) for title in titles]
        assert [axes.get_ylabel() for axes in figure.axes] == ["jsrt, worst", "jsrt, median", "jsrt, best"]
        assert after == sorted(after)
        assert not any(axes.images for axes in figure.axes)
