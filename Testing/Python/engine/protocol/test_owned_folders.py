"""Private folders last as long as the process that made them, and are removed afterwards by whoever looks."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from DeepAttentionRegEngine import cli
from DeepAttentionRegEngine.protocol import owned_folders
from DeepAttentionRegEngine.protocol.outputs import Outputs
from DeepAttentionRegEngine.protocol.owned_folders import LOCK, OwnedFolder, remove_left, scratch_folder
from DeepAttentionRegEngine.protocol.result_files import write_text

MODULE = Path(owned_folders.__file__).resolve().parents[2]
PREFIX = ".private-"
TIMEOUT_S = 20.0
OWNER = """
import sys
sys.path.insert(0, {module!r})
from DeepAttentionRegEngine.protocol.owned_folders import OwnedFolder
folder = OwnedFolder({parent!r}, {prefix!r})
(folder.path / "fixed.nrrd").write_bytes(b"patient")
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Return a process with a private folder in which an image lies."""
    code = OWNER.format(module=str(MODULE), parent=str(tmp_path), prefix=PREFIX)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith(str(tmp_path))
    yield process
    process.kill()
    process.communicate(timeout=TIMEOUT_S)


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(timeout=TIMEOUT_S)


class TestOwner:
    @pytest.mark.skipif(sys.platform == "win32", reason="modes are a POSIX feature")
    def test_nobody_else_can_look_into_it(self, tmp_path: Path) -> None:
        with OwnedFolder(tmp_path, PREFIX) as folder:
            assert folder.path.stat().st_mode & 0o777 == 0o700

    def test_it_is_gone_when_it_is_closed(self, tmp_path: Path) -> None:
        with OwnedFolder(tmp_path, PREFIX) as folder:
            (folder.path / "a").mkdir()
            (folder.path / "a" / "fixed.nrrd").touch()
        assert list(tmp_path.iterdir()) == []

    def test_it_is_relative_where_its_parent_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with OwnedFolder(".", PREFIX) as folder:
            assert not folder.path.is_absolute()
            assert (tmp_path / folder.path).is_dir()

    def test_missing_parent_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            OwnedFolder(tmp_path / "nowhere", PREFIX)

    def test_folder_that_is_removed_before_it_is_locked_is_made_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []
        proper = owned_folders._locked

        def hasty(file: Path, flags: int) -> int | None:
            made.append(file.parent)
            if len(made) == 1:
                file.parent.rmdir()
            return proper(file, flags)

        monkeypatch.setattr(owned_folders, "_locked", hasty)
        with OwnedFolder(tmp_path, PREFIX) as folder:
            assert (len(made), folder.path) == (2, made[1])


class TestLeft:
    def test_folder_of_a_living_owner_stays(self, tmp_path: Path, owner: subprocess.Popen[str]) -> None:
        remove_left(tmp_path, PREFIX)
        assert [path.name for path in tmp_path.glob("*/*.nrrd")] == ["fixed.nrrd"]

    def test_folder_of_this_process_stays(self, tmp_path: Path) -> None:
        with OwnedFolder(tmp_path, PREFIX) as folder:
            remove_left(tmp_path, PREFIX)
            assert folder.path.is_dir()

    def test_folder_of_a_killed_owner_goes(self, tmp_path: Path, owner: subprocess.Popen[str]) -> None:
        killed(owner)
        remove_left(tmp_path, PREFIX)
        assert list(tmp_path.iterdir()) == []

    def test_folder_from_another_machine_stays_for_a_day(
        self, tmp_path: Path, owner: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed(owner)
        monkeypatch.setattr(owned_folders.platform, "node", lambda: "another")
        remove_left(tmp_path, PREFIX)
        (folder,) = tmp_path.iterdir()
        os.utime(folder, (0, 0))
        remove_left(tmp_path, PREFIX)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["other", f"{PREFIX}file", f"{PREFIX}link", f"{PREFIX}unowned"])
    def test_what_is_none_of_these_folders_stays(self, tmp_path: Path, name: str) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / LOCK).touch()
        path = tmp_path / name
        if name.endswith("file"):
            path.touch()
        elif name.endswith("link"):
            path.symlink_to(elsewhere)
        else:
            path.mkdir()
            (path / "kept").touch()
            os.utime(path, (0, 0))
        remove_left(tmp_path, PREFIX)
        assert path.exists()
        assert (elsewhere / LOCK).exists()

    def test_folder_whose_owner_was_killed_before_it_held_anything_goes(self, tmp_path: Path) -> None:
        with OwnedFolder(tmp_path, PREFIX) as folder:
            empty = folder.path.with_name(f"{folder.path.name}x")
            empty.mkdir()
            remove_left(tmp_path, PREFIX)
            assert not empty.exists()

    def test_scratch_folder_comes_without_what_was_left(
        self, tmp_path: Path, owner: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed(owner)
        monkeypatch.setattr(owned_folders, "PREFIX", PREFIX)
        monkeypatch.setattr(owned_folders.tempfile, "gettempdir", lambda: str(tmp_path))
        with scratch_folder() as folder:
            assert list(tmp_path.iterdir()) == [folder.path]

    def test_missing_parent_is_nothing_to_clean(self, tmp_path: Path) -> None:
        remove_left(tmp_path / "nowhere", PREFIX)


class TestNoted:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return the folder of a user's notes."""
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
        return tmp_path / "home" / ".DeepAttentionReg" / "Unfinished"

    @pytest.fixture
    def noted(self, home: Path, tmp_path: Path, owner: subprocess.Popen[str]) -> Path:
        """Return a noted folder of another process."""
        (folder,) = tmp_path.glob(f"{PREFIX}*")
        owned_folders.note(folder)
        assert [path.name for path in home.iterdir()] == [folder.name]
        return folder

    def test_folder_of_a_killed_owner_goes_with_its_note(
        self, home: Path, noted: Path, owner: subprocess.Popen[str]
    ) -> None:
        killed(owner)
        owned_folders.remove_noted()
        assert (noted.exists(), list(home.iterdir())) == (False, [])

    def test_folder_of_a_living_owner_stays_noted(self, home: Path, noted: Path) -> None:
        owned_folders.remove_noted()
        assert (noted.exists(), len(list(home.iterdir()))) == (True, 1)

    def test_folder_on_a_drive_that_is_away_stays_noted_for_a_while(self, home: Path, noted: Path) -> None:
        (home / noted.name).write_bytes(b"/no/drive/" + noted.name.encode())
        owned_folders.remove_noted()
        assert len(list(home.iterdir())) == 1
        os.utime(home / noted.name, (0, 0))
        owned_folders.remove_noted()
        assert list(home.iterdir()) == []

    @pytest.mark.parametrize("text", [b"", b"elsewhere"])
    def test_note_that_names_something_else_removes_nothing(self, home: Path, noted: Path, text: bytes) -> None:
        elsewhere = noted.with_name("elsewhere")
        elsewhere.mkdir()
        (home / noted.name).write_bytes(text and os.fsencode(elsewhere))
        owned_folders.remove_noted()
        assert (elsewhere.exists(), list(home.iterdir())) == (True, [])

    def test_outputs_are_noted_until_they_are_there(self, home: Path, tmp_path: Path) -> None:
        with Outputs() as outputs:
            written = Path(outputs.place(tmp_path / "t.nrrd"))
            write_text(written, "text")  # in a private folder within the private folder
            assert [path.read_text() for path in home.iterdir()] == [str(written.parent)]
        assert list(home.iterdir()) == []

    def test_user_without_a_folder_can_do_without_notes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "home", lambda: Path(os.devnull))
        owned_folders.note(tmp_path)
        owned_folders.forget(tmp_path)
        owned_folders.remove_noted()

    def test_every_command_removes_what_was_left(self, home: Path, noted: Path, owner: subprocess.Popen[str]) -> None:
        killed(owner)
        assert cli.main(["run", str(noted / "missing.json")]) == cli.EXIT_FAILED
        assert not noted.exists()
