"""Each rule of what can be published is broken once in a small tree and its sentence seen; the project breaks none."""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import release
import release_rules
from release_rules import Candidate, broken, catalogue_entry, is_non_commercial, metadata, wheel_problems

ROOT = Path(__file__).resolve().parents[3]
RESOURCES = ROOT / "DeepAttentionReg" / "Resources"
RAW = "https://raw.githubusercontent.com/Us/SlicerTiny/main"
CMAKE = f"""cmake_minimum_required(VERSION 3.16)
project(Tiny)
set(EXTENSION_HOMEPAGE "https://github.com/Us/SlicerTiny")
set(EXTENSION_CATEGORY "Registration")
set(EXTENSION_CONTRIBUTORS "Jo Us (We, Inc.), Al van Us (They)")
set(EXTENSION_DESCRIPTION "Does little. MIT license. No patents are known.")
set(EXTENSION_ICONURL "{RAW}/Tiny.png")
set(EXTENSION_SCREENSHOTURLS "{RAW}/one.png {RAW}/two.png")
set(EXTENSION_DEPENDS "PyTorch")
"""
README = """# SlicerTiny

Does little, and tells in one sentence what it is that it does.

![Picture](one.png)

## Module

Tiny does little.

## Tutorial

1. Load *Sample Data*.

## How to cite

Under the [MIT license](LICENSE.txt).
"""
MODULE = '''"""Tiny."""
import os
import slicer
from TinyLib import tools

def onApply():
    import torch
    slicer.util.pip_install("scikit-image")
'''
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 128, 128)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a tree that breaks no rule."""
    (tmp_path / "Tiny" / "TinyLib").mkdir(parents=True)
    texts = {"CMakeLists.txt": CMAKE, "README.md": README, "LICENSE.txt": "MIT\n", "Tiny/Tiny.py": MODULE}
    texts["Tiny/TinyLib/tools.py"] = "import numpy\n"
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="ascii", newline="\n")
    for name in ("Tiny.png", "one.png", "two.png"):
        (tmp_path / name).write_bytes(PNG)
    return tmp_path


def sentences(tree: Path, name: str = "Tiny", **changes: Any) -> list[str]:
    """Return the sentences on a tree, whose catalogue entry may differ from what its CMakeLists.txt asks for."""
    entry = {**catalogue_entry(metadata(CMAKE)), **changes}
    return broken(Candidate(tree, name, {key: value for key, value in entry.items() if value is not None}))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="ascii")
    assert old in text
    path.write_text(text.replace(old, new), encoding="ascii", newline="\n")


class TestTree:
    def test_good_one_breaks_no_rule(self, tree: Path) -> None:
        assert sentences(tree) == []

    def test_empty_one_breaks_rules_without_an_end(self, tmp_path: Path) -> None:
        assert len(sentences(tmp_path)) > 10

    @pytest.mark.parametrize(
        ("file", "old", "new", "sentence"),
        [
            ("CMakeLists.txt", "project(Tiny)", "project(Small)", "project(Small), the catalogue entry is Tiny.json"),
            ("CMakeLists.txt", "little. MIT", "little; MIT", "EXTENSION_DESCRIPTION has a semicolon"),
            ("CMakeLists.txt", "No patents are known.", "", "does not mention any patent"),
            ("CMakeLists.txt", "MIT license.", "", "does not mention any license"),
            ("CMakeLists.txt", '"Jo Us', "Jo Us", "sets no EXTENSION_CONTRIBUTORS as one quoted string"),
            ("CMakeLists.txt", "Al van Us (They)", "and others", "EXTENSION_CONTRIBUTORS names nobody"),
            ("CMakeLists.txt", "Jo Us", "Us", "EXTENSION_CONTRIBUTORS names nobody"),
            ("Tiny/Tiny.py", "Tiny.", "Tiny contributors.", "Tiny/Tiny.py has Tiny contributors in place of people"),
            ("CMakeLists.txt", '"Registration"', '"Utilities"', "EXTENSION_CATEGORY says 'Utilities'"),
            ("CMakeLists.txt", '"PyTorch"', '"NA"', "EXTENSION_DEPENDS says []"),
            ("CMakeLists.txt", 'Us/SlicerTiny")', 'Us/Other")', "EXTENSION_HOMEPAGE says"),
            ("CMakeLists.txt", "main/Tiny.png", "main/None.png", "None.png, which is no picture of this repository"),
            ("CMakeLists.txt", "main/two.png", "dev/two.png", "dev/two.png, which is no picture of this repository"),
            ("CMakeLists.txt", "set(EXTENSION_ICONURL", "set(ICONURL", "sets no EXTENSION_ICONURL"),
            ("CMakeLists.txt", "set(EXTENSION_SCREENSHOTURLS", "set(URLS", "sets no EXTENSION_SCREENSHOTURLS"),
            ("README.md", "Does little, and tells", "## Does little, and tells", "title and a summary"),
            ("README.md", "![Picture](one.png)", "", "shows no picture"),
            ("README.md", "## Module", "## What", "has no list of modules"),
            ("README.md", "## Tutorial", "## What", "has no tutorial"),
            ("README.md", "1. Load", "Load", "has no numbered steps"),
            ("README.md", "*Sample Data*", "something", "where to get sample data"),
            ("README.md", "## How to cite", "## Words", "how to cite"),
            ("README.md", "(LICENSE.txt)", "(x)", "does not link to LICENSE.txt"),
            ("Tiny/Tiny.py", "import os", "import torch", "Tiny/Tiny.py imports torch at file scope"),
            ("Tiny/Tiny.py", "import os", "if True:\n    import torch", "Tiny/Tiny.py imports torch at file scope"),
            ("Tiny/TinyLib/tools.py", "import numpy", "from monai import data", "tools.py imports monai"),
            ("Tiny/Tiny.py", "import os", "slicer.util.pip_install('x')", "calls slicer.util.pip_install() when"),
            ("Tiny/Tiny.py", '"scikit-image"', '"torch>=2"', "Tiny/Tiny.py installs PyTorch by pip"),
        ],
    )
    def test_broken_rule_is_said_once(self, tree: Path, file: str, old: str, new: str, sentence: str) -> None:
        edit(tree / file, old, new)
        assert [sentence in said for said in sentences(tree)] == [True]

    @pytest.mark.parametrize(
        ("key", "value", "sentence"),
        [
            ("scm_url", "https://github.com/Us/Tiny", "repository's name 'Tiny' must start with Slicer"),
            ("scm_url", "ssh://github.com/Us/SlicerTiny", "is neither https nor git"),
            ("scm_url", None, "The catalogue entry lacks scm_url."),
            ("category", "Magic", "The category 'Magic' is not known."),
            ("tier", 7, "The tier 7 is not in 1 to 5."),
            ("tier", "3", "may not have tier: '3'"),
            ("homepage", "x", "may not have homepage: 'x'"),
            ("$schema", "v1.0.0", "not schema 1.0.2"),
            ("build_dependencies", [], "EXTENSION_DEPENDS says ['PyTorch']"),
        ],
    )
    def test_broken_entry_is_said(self, tree: Path, key: str, value: Any, sentence: str) -> None:
        assert any(sentence in said for said in sentences(tree, **{key: value}))

    def test_name_that_starts_with_slicer_is_said(self, tree: Path) -> None:
        assert any("name SlicerTiny must not start" in said for said in sentences(tree, name="SlicerTiny"))

    def test_missing_licence_is_said(self, tree: Path) -> None:
        (tree / "LICENSE.txt").rename(tree / "Terms.txt")
        assert [said[:31] for said in sentences(tree)] == ["The root holds no license file "]

    def test_icon_of_another_size_is_said(self, tree: Path) -> None:
        (tree / "Tiny.png").write_bytes(PNG[:-4] + struct.pack(">I", 64))
        assert sentences(tree) == ["The icon Tiny.png is not a PNG of 128 x 128 pixels."]

    def test_line_ends_of_windows_are_said(self, tree: Path) -> None:
        (tree / "notes.txt").write_bytes(b"one\r\ntwo\r\n")
        assert sentences(tree) == ["Lines end in CR LF in notes.txt."]

    def test_binary_is_said(self, tree: Path) -> None:
        (tree / "tool.exe").write_bytes(b"MZ\0")
        assert sentences(tree) == ["Binaries are in the tree: tool.exe."]

    def test_history_counts_for_the_size_of_a_clone(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(release_rules, "MAXIMUM_CLONE_BYTES", 2**20)
        (tree / ".git").mkdir()
        (tree / ".git" / "pack").write_bytes(bytes(2**20))
        assert sentences(tree) == ["A full clone has 1.0 MiB; the index takes 1."]

    def test_large_weights_are_said(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(release_rules, "MAXIMUM_WEIGHTS_BYTES", 10)
        (tree / "Tiny" / "w.pt").write_bytes(bytes(11))
        assert [said[:16] for said in sentences(tree)] == ["The weights have"]


class TestProject:
    def test_breaks_no_rule(self) -> None:
        """The size of the clone and files that are not tracked are seen by `make release` alone.

        Who publishes it is to be named by those who do.
        """
        entry = catalogue_entry(metadata((ROOT / "CMakeLists.txt").read_text(encoding="utf-8")))
        found = Candidate(ROOT, release.NAME, entry)
        later = {release_rules.clone_is_small, release_rules.lines_end_in_lf, release_rules.no_binaries}
        rules = [rule for rule in release_rules.RULES if rule not in later | {release_rules.people_are_named}]
        assert [sentence for rule in rules for sentence in rule(found)] == []

    def test_entry_is_made_of_cmake(self) -> None:
        entry = catalogue_entry(metadata(CMAKE))
        assert entry["build_dependencies"] == ["PyTorch"]
        assert entry["scm_url"] == "https://github.com/Us/SlicerTiny"
        assert json.loads(release_rules.as_json(entry)) == entry


class TestFreshRepository:
    @pytest.fixture
    def source(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return the tree with a history of two commits, for somebody of whom git knows nothing."""
        for kind in ("GLOBAL", "SYSTEM"):
            monkeypatch.setenv(f"GIT_CONFIG_{kind}", str(tree.parent / "none"))
        release.git(tree, "init", "--quiet")
        for name in ("once.txt", "now.txt"):
            (tree / name).write_text(f"{name}\n", encoding="ascii")
            release.git(tree, "add", "--all")
            release.git(tree, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--message=More")
            (tree / "once.txt").unlink(missing_ok=True)
        return tree

    def test_has_one_commit_of_what_is_tracked(self, source: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        target = tmp_path_factory.mktemp("out") / "a b" / "SlicerTiny"
        (source / "stray.txt").write_text("stray\n", encoding="ascii")
        release.fresh_repository(source, target, "1.2.3")
        assert release.git(target, "log", "--all", "--format=%s %an").splitlines() == [
            "DeepAttentionReg 1.2.3 DeepAttentionReg contributors"
        ]
        assert release.git(target, "ls-files") == release.git(source, "ls-files")
        assert "once.txt" not in release.git(target, "ls-files")
        assert release.git(target, "tag").strip() == "v1.2.3"
        assert release.git(target, "branch", "--show-current").strip() == "main"

    def test_what_is_not_committed_is_said(self, source: Path) -> None:
        assert release.uncommitted(source) == []
        (source / "stray.txt").write_text("stray\n", encoding="ascii")
        assert release.uncommitted(source) == ["Not committed, so not in the release: stray.txt."]

    def test_existing_folder_is_left_alone(
        self, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.argv", ["release.py", "--output", str(source)])
        assert release.main() == 1
        assert "is there already" in capsys.readouterr().err

    @pytest.mark.parametrize(("problems", "code"), [([], 0), (["It is too large."], 1)])
    def test_ends_with_one_where_a_rule_is_broken(
        self,
        problems: list[str],
        code: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr("sys.argv", ["release.py", "--output", str(tmp_path / "out")])
        monkeypatch.setattr(release, "release", lambda source, output: problems)
        assert release.main() == code
        assert capsys.readouterr().err.splitlines() == problems


LISTED = [{"file": "free.pt", "licence": "CC0-1.0 AND GPL-3.0-only"}, {"file": "nc.pt", "licence": "CC-BY-NC-SA-4.0"}]
LICENCE = "Apache-2.0 AND CC0-1.0 AND GPL-3.0-only"


class TestWheel:
    @pytest.mark.parametrize(
        ("files", "licence", "sentence"),
        [
            (["free.pt", "nc.pt"], LICENCE, "The wheel holds nc.pt, which is not for commercial use."),
            ([], "Apache-2.0", "The wheel lacks free.pt, which anybody may use."),
            (["free.pt"], "Apache-2.0", f"The wheel declares Apache-2.0, but carries {LICENCE}."),
        ],
    )
    def test_problem_is_said(self, files: list[str], licence: str, sentence: str) -> None:
        assert sentence in wheel_problems([f"R/Models/{name}" for name in files], licence, LISTED)

    def test_right_one_has_none(self) -> None:
        assert wheel_problems(["R/Models/free.pt"], LICENCE, LISTED) == []

    def test_declared_licence_is_read(self) -> None:
        assert release.declared_licence("Name: x\nLicense-Expression: MIT AND ISC\nVersion: 1\n") == "MIT AND ISC"
        assert release.declared_licence("Name: x\n") == ""


@pytest.fixture(scope="module")
def listed() -> list[dict[str, Any]]:
    """Return the entries of weights.json."""
    return json.loads((RESOURCES / "weights.json").read_text(encoding="ascii"))["weights"]


@pytest.fixture(scope="module")
def built() -> Iterator[Any]:
    """Yield setuptools' plan of the wheel: what it would build, without building it."""
    setuptools = pytest.importorskip("setuptools", "77", reason="setuptools 77 or later is not installed")
    from setuptools.config.pyprojecttoml import apply_configuration

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield apply_configuration(setuptools.Distribution({"script_name": "setup.py"}), "pyproject.toml")


@pytest.fixture(scope="module")
def planned(built: Any) -> list[str]:
    """Return the names of the files of the wheel."""
    command = built.get_command_obj("build_py")
    command.ensure_finalized()
    data = [f"{package}/{name}" for package, _, _, names in command.data_files for name in names]
    modules = [f"{package.replace('.', '/')}/{name}.py" for package, name, _ in command.find_all_modules()]
    return [Path(name).as_posix() for name in data + modules]


class TestWheelOfThisProject:
    def test_licences_are_declared_and_all_weights_free_of_conditions_are_in(
        self, built: Any, planned: list[str], listed: list[dict[str, Any]]
    ) -> None:
        assert wheel_problems(planned, built.metadata.license_expression, listed) == []

    def test_whole_engine_is_in(self, planned: list[str]) -> None:
        engine = ROOT / "DeepAttentionReg" / "DeepAttentionRegEngine"
        expected = {path.relative_to(engine.parent).as_posix() for path in engine.rglob("*.py")}
        assert expected == {name for name in planned if name.endswith(".py")}
        assert "DeepAttentionRegEngine/py.typed" in planned

    def test_licence_texts_are_in(self, built: Any) -> None:
        built._finalize_license_files()
        found = {Path(name).name for name in built.metadata.license_files}
        assert found == {"LICENSE.txt", "GPL-3.0-only.txt", "WEIGHTS.txt"}


@pytest.fixture(scope="module")
def notice() -> str:
    """Return what tells the licences of the weights."""
    return (RESOURCES / "Licenses" / "WEIGHTS.txt").read_text(encoding="ascii")


class TestNotice:
    def test_names_the_licence_of_every_file(self, notice: str, listed: list[dict[str, Any]]) -> None:
        for entry in listed:
            tail = ", not for commercial use; not in the package for pip" if is_non_commercial(entry) else ""
            assert re.search(rf"^{entry['id']} +{re.escape(entry['licence'] + tail)}$", notice, re.MULTILINE)

    def test_says_where_the_text_of_every_licence_is(self, notice: str, listed: list[dict[str, Any]]) -> None:
        for licence in {part for entry in listed for part in entry["licence"].split(" AND ")}:
            pages = r"https://(?:creativecommons|www\.apache)\.org/\S+"
            found = re.search(rf"^{licence} +({pages}|(\S+\.txt))", notice, re.MULTILINE)
            assert found, licence
            assert found.group(2) is None or (RESOURCES / "Licenses" / found.group(2)).is_file()
