"""Make the README's pictures from what the demo wrote: `make screenshots`."""

import sys
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "Resources" / "Screenshots"
WIDTH_PIXELS = 1600


def main(montages: list[str]) -> None:
    """Write each montage, given as NAME=FILE, reduced as NAME.png."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for montage in montages:
        name, file = montage.split("=", maxsplit=1)
        picture = Image.open(file).convert("RGB")
        size = (WIDTH_PIXELS, round(picture.height * WIDTH_PIXELS / picture.width))
        picture.resize(size, Image.Resampling.LANCZOS).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
