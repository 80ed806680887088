"""Weights that an installation leaves out: missed by a sentence, fetched on request, kept only if they are right."""

import hashlib
import http.client
import json
import re
from pathlib import Path
from typing import Any

import pytest

from DeepAttentionRegEngine import __version__, cli
from DeepAttentionRegEngine.protocol import errors, fetching, registry
from DeepAttentionRegEngine.protocol.errors import EngineError

CONTENT = b"weights of a lung"
ENTRY: dict[str, Any] = {
    **{"id": "lung", "file": "lung.pt", "sha256": hashlib.sha256(CONTENT).hexdigest(), "bytes": len(CONTENT)},
    **{"training_data": "", "licence": "CC-BY-NC-SA-4.0", "command": "", "date": "", "validation": {}},
}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the resources of a package for pip without its one weight file, for a user who has fetched none."""
    folder = tmp_path / registry.PACKAGE
    (folder / "Models").mkdir(parents=True)
    (folder / "weights.json").write_text(json.dumps({"weights": [ENTRY]}), encoding="ascii")
    monkeypatch.setattr(registry, "resources", lambda: folder)
    monkeypatch.setattr(registry, "fetched_folder", lambda: tmp_path / "home" / "Models")
    return folder


def nothing(url: str) -> bytes:
    pytest.fail(f"{url} was asked for")


class TestMissing:
    def test_sentence_names_licence_and_command(self) -> None:
        with pytest.raises(EngineError, match=r"'lung' \(CC-BY-NC-SA-4\.0\) are not part of the package") as caught:
            fetching.weight_content("lung")
        assert caught.value.code == errors.WEIGHTS_MISSING
        assert caught.value.hint == "Fetch them once with: deepattentionreg fetch lung"

    def test_extension_is_to_be_installed_again(self, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = package.rename(package.with_name("Resources"))
        monkeypatch.setattr(registry, "resources", lambda: folder)
        with pytest.raises(EngineError, match=r"lung\.pt is missing\. Install the extension again\."):
            fetching.weight_content("lung")


class TestFetch:
    def test_file_is_found_afterwards(self) -> None:
        path = fetching.fetch("lung", lambda url: CONTENT)
        assert path.read_bytes() == CONTENT
        assert fetching.weight_content("lung") == path.read_bytes()

    def test_address_is_of_this_version(self) -> None:
        asked = []
        fetching.fetch("lung", lambda url: asked.append(url) or CONTENT)
        assert asked[0].endswith(f"/SlicerDeepAttentionReg/v{__version__}/DeepAttentionReg/Resources/Models/lung.pt")

    def test_address_is_below_the_home_page_of_the_extension(self) -> None:
        cmake = Path(__file__).resolve().parents[4] / "CMakeLists.txt"
        home = re.search(r'EXTENSION_HOMEPAGE "https://github.com/(.+)"', cmake.read_text(encoding="utf-8"))
        assert fetching.REPOSITORY.endswith(f"/{home.group(1)}")

    def test_file_that_is_there_is_not_fetched_again(self, package: Path) -> None:
        (package / "Models" / "lung.pt").write_bytes(CONTENT)
        assert fetching.fetch("lung", nothing) == package / "Models" / "lung.pt"

    def test_damaged_file_is_replaced(self) -> None:
        path = fetching.fetch("lung", lambda url: CONTENT)
        path.write_bytes(b"damaged")
        with pytest.raises(EngineError, match=r"lung\.pt is damaged.* fetch it again"):
            fetching.weight_content("lung")
        assert fetching.fetch("lung", lambda url: CONTENT).read_bytes() == CONTENT

    def test_anything_else_than_was_published_is_refused_and_not_kept(self) -> None:
        with pytest.raises(EngineError, match="not the file that was published") as caught:
            fetching.fetch("lung", lambda url: b"<html>")
        assert caught.value.code == errors.WEIGHTS_CORRUPT
        assert registry.stored_file(registry.listed_weights("lung")) is None

    @pytest.mark.parametrize("error", [OSError("no route"), http.client.IncompleteRead(b"no route")])
    def test_no_network_is_a_sentence(self, error: Exception) -> None:
        def fail(url: str) -> bytes:
            raise error

        with pytest.raises(EngineError, match=r"could not be fetched from https") as caught:
            fetching.fetch("lung", fail)
        assert caught.value.code == errors.WEIGHTS_MISSING

    def test_unlisted_weights_are_refused(self) -> None:
        with pytest.raises(EngineError, match="'heart' are not listed"):
            fetching.fetch("heart", nothing)

    def test_folder_that_cannot_be_made_is_a_sentence(self) -> None:
        registry.fetched_folder().parent.write_bytes(b"in the way")
        with pytest.raises(EngineError, match="cannot be written") as caught:
            fetching.fetch("lung", lambda url: CONTENT)
        assert caught.value.code == errors.OUTPUT_UNWRITABLE


class TestCommand:
    def test_tells_where_the_file_is(self, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (package / "Models" / "lung.pt").write_bytes(CONTENT)
        assert cli.main(["fetch", "lung"]) == 0
        assert "lung.pt" in capsys.readouterr().out

    def test_failure_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["fetch", "heart"]) == cli.EXIT_FAILED
        assert "'heart' are not listed" in capsys.readouterr().err
