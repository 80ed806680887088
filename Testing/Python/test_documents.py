"""Documents name what is there: links, files, functions, rules and settings of the project."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from DeepAttentionRegEngine.cli import make_parser
from DeepAttentionRegEngine.protocol import registry
from DeepAttentionRegEngine.protocol.owned_folders import PREFIX
from DeepAttentionRegEngine.protocol.watchdog import FOLDER_PREFIX
from test_rules import ENGINE, LIB, MODULE, ROOT, tracked_texts

GUIDES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "Resources" / "Documentation").glob("*.md")),
]
guides = pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)

PATH = re.compile(r"(?<!/\.)(?:python )?((?:DeepAttentionReg\w*|Resources|Testing|training)/[\w./-]+\w)")
FUNCTION = re.compile(r"((?:\w+/)?\w+\.py): (\w+)")  # of the engine, as in `deform/warp.py: sample`
COMMAND = re.compile(r"^deepattentionreg (\w+)")
METHOD = re.compile(r"((?:nodes|tasks|engine|panel)/\w+)\.(\w+)")  # of the Slicer side, as in `nodes/Volumes.startOf`


def code_in(path: Path) -> list[str]:
    """Return what a document sets as code within its text, blocks of code left out."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"`([^`]+)`", re.sub(r"\s*\n\s*", " ", text))


def definitions(path: Path) -> Iterator[str]:
    """Yield the names of functions, classes and methods in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name


@pytest.mark.parametrize("path", [path for path in tracked_texts() if path.suffix == ".md"], ids=lambda path: path.stem)
def test_links_point_at_files(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert not [link for link in links if not (path.parent / link).exists()]


@guides
def test_files_exist(path: Path) -> None:
    names = [name for code in code_in(path) for name in PATH.findall(code)]
    assert not [name for name in names if not any((start / name).exists() for start in (ROOT, MODULE))]


@guides
def test_commands_exist(path: Path) -> None:
    names = {name for code in code_in(path) for name in COMMAND.findall(code)}
    parser = make_parser()
    for name in names:
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([name, "--help"])
        assert ended.value.code == 0, name


def test_security_is_found_where_people_look() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")]
    assert all("](SECURITY.md)" in text for text in texts)


def test_security_names_what_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    grace = re.search(r"CANCEL_GRACE_S = (\d+)", (LIB / "engine" / "EngineJob.py").read_text(encoding="utf-8"))
    assert f"within {grace[1]} seconds" in text
    assert all(f"`{prefix}*`" in text for prefix in (FOLDER_PREFIX, PREFIX))
    assert registry.fetched_folder().relative_to(Path.home()).as_posix() in text


@guides
def test_functions_of_the_engine_exist(path: Path) -> None:
    for file, name in [found for code in code_in(path) for found in FUNCTION.findall(code)]:
        files = [ENGINE / file] if "/" in file else list(ENGINE.rglob(file))
        assert any(name in definitions(item) for item in files if item.exists()), f"{file}: {name}"


@guides
def test_functions_of_the_slicer_side_exist(path: Path) -> None:
    for file, name in [found for code in code_in(path) for found in METHOD.findall(code) if found[1] != "py"]:
        assert name in definitions(LIB / f"{file}.py"), f"{file}.{name}"


def test_packages_of_the_picture_are_explained() -> None:
    text = (ROOT / "Resources" / "Documentation" / "architecture.md").read_text(encoding="utf-8")
    packages = [path.name for folder in (ENGINE, LIB) for path in folder.iterdir() if (path / "__init__.py").exists()]
    assert packages
    assert not [name for name in packages if f"| `{name}` |" not in text]
