"""Atomic writing, whatever the format."""

import errno
from pathlib import Path

import pytest

from DeepAttentionRegEngine.protocol import errors, files


def write(path: Path, text: str, complete: bool = True) -> None:
    files.write_file(path, (".txt",), lambda name: Path(name).write_text(text), lambda _name: complete)


def fail(_name: str) -> None:
    raise RuntimeError


class TestWriting:
    def test_replaces_an_existing_file(self, tmp_path: Path) -> None:
        write(tmp_path / "a.txt", "old")
        write(tmp_path / "a.txt", "new")
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "new")]

    def test_incomplete_file_leaves_the_old_one(self, tmp_path: Path) -> None:
        write(tmp_path / "a.txt", "old")
        with pytest.raises(errors.EngineError, match="only a part arrived"):
            write(tmp_path / "a.txt", "new", complete=False)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]

    def test_reader_that_fails_means_incomplete(self, tmp_path: Path) -> None:
        with pytest.raises(errors.EngineError, match="only a part arrived"):
            files.write_file(tmp_path / "a.txt", (".txt",), lambda name: Path(name).touch(), fail)  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())

    def test_writer_that_fails_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(errors.EngineError) as caught:
            files.write_file(tmp_path / "a.txt", (".txt",), fail, lambda _name: True)
        assert caught.value.code == errors.OUTPUT_UNWRITABLE
        assert not list(tmp_path.iterdir())

    def test_folder_of_the_name_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").mkdir()
        with pytest.raises(errors.EngineError, match="it is a folder"):
            write(tmp_path / "a.txt", "new")

    def test_file_in_place_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").touch()
        with pytest.raises(errors.EngineError, match=r"folder .*a\.txt does not exist"):
            write(tmp_path / "a.txt" / "b.txt", "new")


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class TestWritingTogether:
    @pytest.fixture
    def paths(self, tmp_path: Path) -> tuple[Path, Path]:
        return tmp_path / "a.html", tmp_path / "a.csv"

    def test_all_are_written_in_place_of_former_ones(self, paths: tuple[Path, Path]) -> None:
        paths[1].write_bytes(b"old")
        files.write_together(dict.fromkeys(paths, b"new"))
        assert contents_of(paths[0].parent) == {"a.html": b"new", "a.csv": b"new"}

    def test_folder_of_the_second_name_leaves_the_first_as_it_was(self, paths: tuple[Path, Path]) -> None:
        paths[0].write_bytes(b"old")
        paths[1].mkdir()
        with pytest.raises(errors.EngineError, match=r"a\.csv cannot be written: it is a folder"):
            files.write_together(dict.fromkeys(paths, b"new"))
        assert contents_of(paths[0].parent) == {"a.html": b"old"}
        assert paths[1].is_dir()

    @pytest.mark.parametrize("failing", [0, 1])
    def test_full_disk_at_any_of_them_changes_nothing(
        self, paths: tuple[Path, Path], failing: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for path in paths:
            path.write_bytes(b"old")
        proper = Path.write_bytes

        def fill(path: Path, content: bytes) -> int:
            if path.name == paths[failing].name:
                proper(path, content[:1])
                raise OSError(errno.ENOSPC, "No space left on device")
            return proper(path, content)

        monkeypatch.setattr(Path, "write_bytes", fill)
        with pytest.raises(errors.EngineError, match="no space left"):
            files.write_together(dict.fromkeys(paths, b"new"))
        assert contents_of(paths[0].parent) == {"a.html": b"old", "a.csv": b"old"}

    def test_missing_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(errors.EngineError, match=r"folder .*nowhere does not exist"):
            files.write_together({tmp_path / "nowhere" / "a.txt": b"new"})


class TestSpace:
    def test_more_than_the_disk_is_refused_with_both_sizes(self, tmp_path: Path) -> None:
        with pytest.raises(errors.EngineError, match=r"needs \d+ MB, but \d+ MB are free"):
            files.require_space(tmp_path / "a.txt", 10**18)

    def test_missing_folder_is_left_to_the_writer(self, tmp_path: Path) -> None:
        files.require_space(tmp_path / "nowhere" / "a.txt", 10**18)
