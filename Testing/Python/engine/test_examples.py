"""The examples in docstrings and documents run."""

import doctest
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import DeepAttentionRegEngine
from DeepAttentionRegEngine.volume import images
from engine_cases import blob_source, centered, matrix4, moved_grid

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "Resources" / "Documentation").glob("*.md"))]


def modules() -> Iterator[str]:
    """Yield the engine's modules whose docstrings have examples."""
    for found in pkgutil.walk_packages(DeepAttentionRegEngine.__path__, "DeepAttentionRegEngine."):
        path = Path(found.module_finder.path) / f"{found.name.rpartition('.')[2]}.py"
        if path.is_file() and ">>> " in path.read_text(encoding="utf-8"):
            yield found.name


def blocks() -> list[tuple[str, str]]:
    """Return the Python that documents have for the engine: their name and the code."""
    found = []
    for path in DOCUMENTS:
        code = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        found += [
            (path.name, block) for block in code if "DeepAttentionRegEngine import" in block and "slicer" not in block
        ]
    return found


@pytest.fixture
def pair() -> dict[str, object]:
    """A small pair of images, which examples call `fixed` and `moving`."""
    grid = centered((32, 32, 32), (2.0, 2.0, 2.0))
    source = blob_source(grid)
    moving = moved_grid(grid, matrix4(np.eye(3), (2.0, 0.0, 0.0)))
    return {"fixed": images.to_sitk(source.array, grid), "moving": images.to_sitk(source.array, moving)}


@pytest.mark.parametrize("name", list(modules()))
def test_docstring_says_what_happens(name: str, pair: dict[str, object], tmp_path: Path) -> None:
    module = importlib.import_module(name)
    names = {item: getattr(DeepAttentionRegEngine, item) for item in DeepAttentionRegEngine.__all__}
    result = doctest.testmod(
        module, globs={**vars(module), **names, **pair, "folder": tmp_path}, optionflags=doctest.ELLIPSIS
    )
    assert result.attempted
    assert not result.failed


@pytest.mark.slow
@pytest.mark.parametrize(("document", "code"), blocks(), ids=lambda item: item if item.endswith(".md") else "")
def test_document_can_be_copied(
    document: str, code: str, pair: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, image in pair.items():
        volume = images.as_volume(image)
        images.write_volume(tmp_path / f"{name}.nrrd", volume.array, volume.geometry)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Resources").symlink_to(ROOT / "Resources")
    exec(compile(code, document, "exec"), {})
