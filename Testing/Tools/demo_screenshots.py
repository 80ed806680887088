"""Make the README's pictures from what the demo wrote: `make screenshots`."""

import sys
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "Resources" / "Screenshots"
WIDTH_PIXELS = 1600


def main(pictures: list[str]) -> None:
    """Write each picture, given as NAME=FILE, as NAME.png, reduced if it is wide."""
    for given in pictures:
        name, file = given.split("=", maxsplit=1)
        picture = Image.open(file).convert("RGB")
        picture.thumbnail((WIDTH_PIXELS, picture.height), Image.Resampling.LANCZOS)
        picture.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
