"""Pairs as the children register them, made by a child of their own and kept."""

from pathlib import Path

import SimpleITK as sitk

from comparison.process import Cache, Numbers


def prepare(cache: Cache, name: str, count: int) -> list[Numbers]:
    """Return the first pairs of a set, each its "files" by field of a job, "hash", "size" and "spacing" along i, j, k.

    None is returned for images that are not at hand, and the cache knows why.
    """
    folder = cache.folder / "pairs" / name
    made = cache.get(f"pairs/{name}-{count}", {"set": name, "count": count, "folder": str(folder / str(count))})
    return [] if made is None else [described(dict(pair)) for pair in made["pairs"]]


def described(pair: dict[str, str]) -> Numbers:
    """Return a pair with the grid of its fixed volume."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(Path(pair["fixed"])))
    reader.ReadImageInformation()
    return {"hash": pair.pop("hash"), "files": pair, "size": reader.GetSize(), "spacing": reader.GetSpacing()}


def register(cache: Cache, label: str, spec: Numbers, pair: Numbers) -> Numbers | None:
    """Return what a child found that registered a pair by a spec of methods.py; None if it failed."""
    return cache.get(label, {**spec, "pair": pair["files"]}, engine="peer" not in spec, pair=pair["hash"])
