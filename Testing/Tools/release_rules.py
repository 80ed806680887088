"""The rules of the Extensions Index, as far as a tree shows them: functions that yield a sentence for each breach.

They follow ExtensionsIndex/scripts/check_description_files.py and extension_ai_analysis.py, the checklist of its pull
requests, and schema 1.0.2 of a catalogue entry. What no file shows is in `BY_HAND`.
"""

import ast
import json
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MAXIMUM_CLONE_BYTES = 100 * 2**20
MAXIMUM_WEIGHTS_BYTES = 24_000_000
ICON_SIZE = (128, 128)
SCHEMA = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json#"
)
SCHEMA_TYPES: dict[str, type] = {
    **{"$schema": str, "category": str, "scm_url": str, "scm_revision": str, "scm_type": str},
    **{"build_dependencies": list, "build_subdirectory": str, "dicom_support_rule": str, "enabled": bool, "tier": int},
}
SCHEMA_REQUIRED = ("$schema", "category", "scm_url")
# Those an extension that registers images could be in; the index knows more.
CATEGORIES = {"Analysis", "Quantification", "Radiotherapy", "Registration", "Segmentation", "Utilities"}
LICENSE_FILES = ("LICENSE", "LICENCE", "License.txt", "license.txt", "LICENSE.txt", "COPYING", "COPYING.txt")
FILE_SCOPE_PACKAGES = {"slicer", "vtk", "vtkmodules", "qt", "ctk", "numpy", "SimpleITK", "scipy", "SampleData"}
BINARIES = {".a", ".bin", ".dll", ".dylib", ".exe", ".jar", ".lib", ".o", ".pyc", ".pyd", ".so", ".whl", ".zip"}
PERSON = re.compile(r"[^\s,()]+( [^\s,()]+)+ \([^()]+\)")
PICTURES = {".png", ".jpg", ".jpeg", ".gif"}
BY_HAND = (
    "Push the repository with its tag, give it the topic 3d-slicer-extension, and hide features of GitHub nobody uses.",
    "See that the addresses of icon and screenshots answer with a picture.",
    "Copy the catalogue entry into pull requests to main and 5.12 of the index; the tier is theirs to raise.",
)
Sentences = Iterator[str]


@dataclass(frozen=True)
class Candidate:
    """What is to be published.

    Attributes:
        root: A full clone, .git included.
        name: Of the catalogue's file without extension, which is the extension's.
        entry: The catalogue entry.
    """

    root: Path
    name: str
    entry: dict[str, Any]

    @cached_property
    def cmake(self) -> str:
        """Text of the top-level CMakeLists.txt, empty if there is none."""
        return _text(self.root / "CMakeLists.txt")

    @cached_property
    def told(self) -> dict[str, str]:
        """What CMakeLists.txt sets, by name without EXTENSION_, read as the index reads it."""
        return metadata(self.cmake)

    @cached_property
    def readme(self) -> str:
        """Text of README.md, empty if there is none."""
        return _text(self.root / "README.md")

    @cached_property
    def files(self) -> list[Path]:
        """All files outside .git."""
        found = (path for path in self.root.rglob("*") if path.is_file())
        return sorted(path for path in found if path.relative_to(self.root).parts[0] != ".git")

    def names(self, paths: list[Path]) -> str:
        """Return paths as people read them."""
        return ", ".join(path.relative_to(self.root).as_posix() for path in paths)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def metadata(cmake: str) -> dict[str, str]:
    """Return the values of `set(EXTENSION_NAME "value")` on single lines, by name without EXTENSION_."""
    return dict(re.findall(r'set\s*\(EXTENSION_(\w+)\s*"([^"\n]+)"[ ]*\)', cmake))


def catalogue_entry(told: dict[str, str]) -> dict[str, Any]:
    """Return the catalogue entry that a CMakeLists.txt asks for."""
    return {
        "$schema": SCHEMA,
        "build_dependencies": _dependencies(told),
        "build_subdirectory": ".",
        "category": told.get("CATEGORY", ""),
        "scm_revision": "main",
        "scm_url": told.get("HOMEPAGE", ""),
        "tier": 1,
    }


def _dependencies(told: dict[str, str]) -> list[str]:
    return [name for name in told.get("DEPENDS", "NA").split() if name != "NA"]


def total_bytes(root: Path) -> int:
    """Return the size of all files of a folder."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def clone_is_small(found: Candidate) -> Sentences:
    """A full clone with its history has at most 100 MiB."""
    size = total_bytes(found.root)
    if size > MAXIMUM_CLONE_BYTES:
        yield f"A full clone has {size / 2**20:.1f} MiB; the index takes {MAXIMUM_CLONE_BYTES / 2**20:.0f}."


def names_agree(found: Candidate) -> Sentences:
    """Project, catalogue entry and repository are named as the index wants it."""
    project = re.search(r"^project\s*\(\s*([^\s)]+)", found.cmake, re.MULTILINE)
    if project is None or project.group(1) != found.name:
        yield f"CMakeLists.txt has project({project and project.group(1)}), the catalogue entry is {found.name}.json."
    if found.name.lower().startswith("slicer"):
        yield f"The extension's name {found.name} must not start with Slicer."
    repository = Path(urlsplit(found.entry.get("scm_url", "")).path).stem
    if not repository.startswith("Slicer"):
        yield f"The repository's name {repository!r} must start with Slicer."


def entry_fits_the_schema(found: Candidate) -> Sentences:
    """The catalogue entry has known keys of the right types, a category and an address that the index takes."""
    entry = found.entry
    for key in SCHEMA_REQUIRED:
        if not entry.get(key):
            yield f"The catalogue entry lacks {key}."
    for key, value in entry.items():
        kind = SCHEMA_TYPES.get(key)
        if kind is None or type(value) is not kind:
            yield f"The catalogue entry may not have {key}: {value!r}."
    if entry.get("$schema") not in (None, SCHEMA):
        yield f"The catalogue entry follows {entry['$schema']}, not schema 1.0.2."
    if entry.get("category") and entry["category"] not in CATEGORIES:
        yield f"The category {entry['category']!r} is not known."
    if entry.get("scm_url") and urlsplit(entry["scm_url"]).scheme not in ("git", "https"):
        yield f"The address {entry['scm_url']} is neither https nor git."
    if isinstance(entry.get("tier"), int) and not 1 <= entry["tier"] <= 5:
        yield f"The tier {entry['tier']} is not in 1 to 5."


def entry_says_what_cmake_says(found: Candidate) -> Sentences:
    """Category, home page and dependencies are the same in the catalogue entry and in CMakeLists.txt."""
    said = catalogue_entry(found.told)
    for key, name in (("category", "CATEGORY"), ("scm_url", "HOMEPAGE"), ("build_dependencies", "DEPENDS")):
        if found.entry.get(key) != said[key]:
            yield f"The catalogue entry has {key} {found.entry.get(key)!r}, EXTENSION_{name} says {said[key]!r}."


def description_arrives_whole(found: Candidate) -> Sentences:
    """What people read of the extension is there, and CMake does not cut it at a semicolon."""
    for name, value in found.told.items():
        if ";" in value:
            yield f"EXTENSION_{name} has a semicolon, where CMake cuts it."
    for name in ("DESCRIPTION", "CONTRIBUTORS", "HOMEPAGE", "CATEGORY"):
        if name not in found.told:
            yield f"CMakeLists.txt sets no EXTENSION_{name} as one quoted string."
    description = found.told.get("DESCRIPTION", "").lower()
    for word in ("license", "patent"):
        if description and word not in description:
            yield f"EXTENSION_DESCRIPTION does not mention any {word}."


def people_are_named(found: Candidate) -> Sentences:
    """Contributors are people with their organization; no placeholder stands for them anywhere."""
    told = found.told.get("CONTRIBUTORS", "")
    people = re.split(r",\s*(?![^(]*\))", told)
    if told and not all(PERSON.fullmatch(person) for person in people):
        yield f"EXTENSION_CONTRIBUTORS names nobody: {told!r}. Name people as First Last (Organization), ..."
    for name in (f"{found.name}/{found.name}.py", "CITATION.cff"):
        if f"{found.name} contributors" in _text(found.root / name):
            yield f"{name} has {found.name} contributors in place of people."


def pictures_are_there(found: Candidate) -> Sentences:
    """Icon and screenshots are addresses of pictures that this tree holds."""
    for name in ("ICONURL", "SCREENSHOTURLS"):
        urls = found.told.get(name, "").split()
        if not urls:
            yield f"CMakeLists.txt sets no EXTENSION_{name} as one quoted string."
        for url in urls:
            path = _published(found, url)
            if path is None or not path.is_file() or path.suffix.lower() not in PICTURES:
                yield f"EXTENSION_{name} names {url}, which is no picture of this repository."
            elif name == "ICONURL" and _png_size(path) != ICON_SIZE:
                yield f"The icon {path.name} is not a PNG of {ICON_SIZE[0]} x {ICON_SIZE[1]} pixels."


def _published(found: Candidate, url: str) -> Path | None:
    """Return the file of the tree that an address of GitHub's raw files names."""
    home = urlsplit(found.entry.get("scm_url", "")).path.removesuffix(".git")
    start = f"https://raw.githubusercontent.com{home}/{found.entry.get('scm_revision')}/"
    return found.root / url.removeprefix(start) if url.startswith(start) else None


def _png_size(path: Path) -> tuple[int, int] | None:
    head = path.read_bytes()[:24]
    return struct.unpack(">II", head[16:]) if len(head) == 24 and head.startswith(b"\x89PNG") else None


def licence_is_in_the_root(found: Candidate) -> Sentences:
    """A licence file has one of the names that the index looks for, and the home page links to it."""
    names = [name for name in LICENSE_FILES if (found.root / name).is_file()]
    if not names:
        yield f"The root holds no license file ({', '.join(LICENSE_FILES)})."
    elif not any(f"]({name})" in found.readme for name in names):
        yield f"README.md does not link to {names[0]}."


def readme_tells_enough(found: Candidate) -> Sentences:
    """README.md has a summary, a picture, the modules, a tutorial with sample data and how to cite."""
    parts = {
        r"\A# .+\n+[^\n#!|]{40}": "does not start with a title and a summary",
        r"!\[[^\]]*\]\(": "shows no picture",
        r"^## Modules?$": "has no list of modules",
        r"^## Tutorial$": "has no tutorial",
        r"^1\. ": "has no numbered steps",
        r"\bSample Data\b": "does not say where to get sample data",
        r"^## How to cite$": "does not say how to cite",
    }
    for pattern, lack in parts.items():
        if not re.search(pattern, found.readme, re.MULTILINE):
            yield f"README.md {lack}."


def lines_end_in_lf(found: Candidate) -> Sentences:
    """No text has the line ends of Windows."""
    contents = ((path, path.read_bytes()) for path in found.files)
    paths = [path for path, content in contents if b"\0" not in content and b"\r" in content]
    if paths:
        yield f"Lines end in CR LF in {found.names(paths)}."


def no_binaries(found: Candidate) -> Sentences:
    """Nothing compiled or packed is in the tree."""
    paths = [path for path in found.files if path.suffix in BINARIES]
    if paths:
        yield f"Binaries are in the tree: {found.names(paths)}."


def weights_are_small(found: Candidate) -> Sentences:
    """All weights together stay below this project's own limit."""
    size = sum(path.stat().st_size for path in (found.root / found.name).rglob("*.pt"))
    if size > MAXIMUM_WEIGHTS_BYTES:
        yield f"The weights have {size / 1e6:.1f} MB together, may have {MAXIMUM_WEIGHTS_BYTES / 1e6:.0f}."


def nothing_runs_at_file_scope(found: Candidate) -> Sentences:
    """What Slicer's process imports loads no foreign package and calls nothing by being imported."""
    own = {found.name, f"{found.name}Lib", f"{found.name}Engine"}
    for path, tree in _slicer_side(found):
        for node in _file_scope(tree.body):
            foreign = _roots(node) - FILE_SCOPE_PACKAGES - own - sys.stdlib_module_names
            if foreign:
                yield f"{found.names([path])} imports {', '.join(sorted(foreign))} at file scope."
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                yield f"{found.names([path])} calls {ast.unparse(node.value.func)}() when it is imported."


def torch_comes_by_its_extension(found: Candidate) -> Sentences:
    """PyTorch is not installed by pip_install, but through its own extension."""
    for path, tree in _slicer_side(found):
        calls = (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call))
        if any(re.match(r"[\w.]*pip_(install|ensure)\(.*torch", call) for call in calls):
            yield f"{found.names([path])} installs PyTorch by pip; its own extension does that."


def _slicer_side(found: Candidate) -> Iterator[tuple[Path, ast.Module]]:
    folder = found.root / found.name
    for path in [*folder.glob("*.py"), *sorted((folder / f"{found.name}Lib").rglob("*.py"))]:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def _file_scope(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run by an import; those behind `if TYPE_CHECKING` and the like count as well."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from _file_scope(getattr(node, part, []))


def _roots(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {str(node.module).split(".")[0]} if isinstance(node, ast.ImportFrom) and not node.level else set()


RULES = (
    *(clone_is_small, names_agree, entry_fits_the_schema, entry_says_what_cmake_says, description_arrives_whole),
    *(people_are_named, pictures_are_there, licence_is_in_the_root, readme_tells_enough, lines_end_in_lf, no_binaries),
    *(weights_are_small, nothing_runs_at_file_scope, torch_comes_by_its_extension),
)


def broken(found: Candidate) -> list[str]:
    """Return a sentence for each breach of a rule."""
    return [sentence for rule in RULES for sentence in rule(found)]


def wheel_problems(files: list[str], licence: str, listed: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with the licences of a wheel.

    Args:
        files: Names of its files.
        licence: The SPDX expression that it declares.
        listed: Entries of weights.json.
    """
    held = [entry for entry in listed if any(name.endswith(f"Models/{entry['file']}") for name in files)]
    problems = [f"The wheel holds {x['file']}, which is not for commercial use." for x in held if is_non_commercial(x)]
    lacking = [entry["file"] for entry in listed if entry not in held and not is_non_commercial(entry)]
    problems += [f"The wheel lacks {name}, which anybody may use." for name in lacking]
    carried = {"Apache-2.0"}.union(*(entry["licence"].split(" AND ") for entry in held))
    if set(licence.split(" AND ")) != carried:
        problems.append(f"The wheel declares {licence}, but carries {' AND '.join(sorted(carried))}.")
    return problems


def is_non_commercial(entry: dict[str, Any]) -> bool:
    """Return whether the licence of listed weights forbids commercial use."""
    return "-NC-" in entry["licence"]


def as_json(entry: dict[str, Any]) -> str:
    """Return a catalogue entry as the index formats it."""
    return json.dumps(entry, indent=2) + "\n"
