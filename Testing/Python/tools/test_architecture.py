"""The picture of the packages: what it counts and what it refuses; the one in the repository is of this source."""

import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

import architecture

ENGINE, LIB = "DeepAttentionReg/DeepAttentionRegEngine", "DeepAttentionReg/DeepAttentionRegLib"
FILES = {
    f"{ENGINE}/__init__.py": "__version__ = '1'",
    f"{ENGINE}/cli.py": "from . import __version__\ndef main():\n    from .upper import one",
    f"{ENGINE}/lower/__init__.py": "",
    f"{ENGINE}/lower/base.py": "import json",
    f"{ENGINE}/upper/__init__.py": "from ..lower.base import VALUE",
    f"{ENGINE}/upper/one.py": "from ..lower import base\nfrom . import two\nfrom ..lower.base import VALUE",
    f"{ENGINE}/upper/two.py": "import DeepAttentionRegEngine.lower.base",
    f"{LIB}/__init__.py": "",
    f"{LIB}/nodes/__init__.py": "",
    f"{LIB}/nodes/Volumes.py": "from DeepAttentionRegEngine.lower import base",
    "training/__init__.py": "",
    "training/run/__init__.py": "",
    "training/run/train.py": "from DeepAttentionRegEngine.upper.one import VALUE",
}


def checkout(folder: Path, **changed: str) -> Path:
    """Write a small project; `changed` has further lines of files by the last part of their dotted name."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n{changed.get(path.stem, '')}\n", encoding="utf-8")
    return folder


class TestRepository:
    def test_picture_is_of_this_source(self) -> None:
        drawn = architecture.PICTURE.read_text(encoding="ascii")
        assert drawn == architecture.picture().svg(), "call `make architecture` and look at what changed"

    def test_arrows_lead_in_one_direction_only(self) -> None:
        picture = architecture.picture()
        rank = {package: index for index, package in enumerate(picture.order)}
        assert len(picture.between) > 20
        assert not [pair for pair in picture.between if rank[pair[0]] >= rank[pair[1]]]

    def test_picture_is_xml_without_foreign_parts(self) -> None:
        root = xml.fromstring(architecture.PICTURE.read_text(encoding="ascii"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not [item for item in root.iter() if any("href" in name for name in item.attrib)]


class TestArrows:
    def test_counts_pairs_of_modules_at_any_depth(self, tmp_path: Path) -> None:
        assert architecture.arrows(architecture.modules(checkout(tmp_path))) == {
            ("DeepAttentionRegEngine.cli", "DeepAttentionRegEngine.upper"): 1,
            ("DeepAttentionRegEngine.upper", "DeepAttentionRegEngine.lower"): 3,
            ("DeepAttentionRegLib.nodes", "DeepAttentionRegEngine.lower"): 1,
            ("training.run", "DeepAttentionRegEngine.upper"): 1,
        }

    def test_packages_stand_above_what_they_import(self, tmp_path: Path) -> None:
        assert [name.split(".")[-1] for name in architecture.picture(checkout(tmp_path)).order] == [
            *("nodes", "run", "cli", "upper", "lower")
        ]

    def test_cycle_is_refused_by_name(self, tmp_path: Path) -> None:
        checkout(tmp_path, base="def late():\n    from ..upper import two")
        with pytest.raises(ValueError, match=r"import each other: .*upper -> .*lower"):
            architecture.picture(tmp_path)

    def test_engine_that_imports_the_side_of_slicer_is_refused(self, tmp_path: Path) -> None:
        checkout(tmp_path, cli="import DeepAttentionRegLib.nodes.Volumes")
        with pytest.raises(ValueError, match=r"cli imports DeepAttentionRegLib.nodes, which is above it"):
            architecture.picture(tmp_path)


class TestPicture:
    def test_what_both_processes_import_has_its_own_color(self, tmp_path: Path) -> None:
        picture = architecture.picture(checkout(tmp_path))
        assert {name.split(".")[-1]: picture.style(name) for name in picture.order} == {
            "nodes": "slicer",
            "run": "training",
            "cli": "engine",
            "upper": "engine",
            "lower": "shared",
        }

    def test_module_at_the_top_and_start_of_a_package_have_boxes_of_their_own(self, tmp_path: Path) -> None:
        checkout(tmp_path, __init__="def late():\n    from .upper import one", train="import DeepAttentionRegEngine")
        picture = architecture.picture(tmp_path)
        assert [picture.label(name) for name in picture.order][2:4] == ["__init__", "cli"]

    def test_every_count_is_drawn_left_above_its_arrow(self, tmp_path: Path) -> None:
        root = xml.fromstring(architecture.picture(checkout(tmp_path)).svg())
        circles = [item for item in root.iter() if item.tag.endswith("circle")]
        assert len(circles) == 4 + 1  # and that of the legend
