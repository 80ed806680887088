"""Atomic writing, whatever the format, and why a file cannot be read."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from DeepAttentionRegEngine.protocol import errors, files
from file_checks import refusal


def write(path: Path, text: str, complete: bool = True) -> None:
    files.write_file(path, (".txt",), lambda name: Path(name).write_text(text), lambda _name: complete)


def fail(_name: str) -> None:
    raise RuntimeError


def failing(error: BaseException) -> Callable[[str], None]:
    def read(_name: str) -> None:
        raise error

    return read


class TestReading:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        (tmp_path / "a.txt").write_text("x", encoding="ascii")
        return tmp_path / "a.txt"

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            OSError(errno.ENOMEM, "Cannot allocate memory"),
            RuntimeError("Failed to allocate memory for image."),
            RuntimeError("Exception thrown in SimpleITK ReadTransform: std::bad_alloc"),
            RuntimeError("[nrrd] nrrdAlloc_nva: couldn't allocate data"),
            ValueError("Unable to allocate 7.45 GiB for an array"),
        ],
        ids=str,
    )
    def test_lack_of_memory_is_no_damage(self, file: Path, error: Exception) -> None:
        with refusal(errors.OUT_OF_MEMORY, r"not enough memory to read the file .*a\.txt"):
            files.read_file(file, failing(error))

    @pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), OverflowError("x"), RecursionError()], ids=repr)
    def test_whatever_a_reader_raises_is_damage(self, file: Path, error: Exception) -> None:
        with refusal(errors.INPUT_UNREADABLE, "damaged"):
            files.read_file(file, failing(error))

    @pytest.mark.parametrize("where", ["open", "reader"])
    def test_lack_of_permission_is_no_damage(self, file: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
        error = PermissionError(errno.EACCES, "Permission denied")
        if where == "open":
            monkeypatch.setattr("builtins.open", lambda *_: failing(error)(""))
        with refusal(errors.INPUT_UNREADABLE, r"a\.txt cannot be read: you have no permission"):
            files.read_file(file, failing(error))

    def test_links_in_a_circle_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        with refusal(errors.INPUT_UNREADABLE, "links lead in a circle"):
            files.read_file(tmp_path / "a", str)

    def test_long_name_is_named_and_not_written_out(self, tmp_path: Path) -> None:
        with refusal(errors.INPUT_UNREADABLE, "its name is too long") as caught:
            files.read_file(tmp_path / ("n" * 5000), str)
        assert len(caught.value.message) < 500

    @pytest.mark.parametrize("name", ["a\0b", "\ud800", os.fsdecode(b"\xff.nrrd")])
    def test_name_that_is_no_text_is_named(self, tmp_path: Path, name: str) -> None:
        with refusal(errors.INPUT_UNREADABLE, "its name holds what is no character"):
            files.read_file(tmp_path / name, str)

    def test_missing_file_and_file_for_a_folder_do_not_exist(self, file: Path) -> None:
        for path in (file.with_name("b"), file / "b"):
            with refusal(errors.INPUT_MISSING, "does not exist"):
                files.read_file(path, str)

    def test_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        if not hasattr(os, "mkfifo"):
            pytest.skip("pipes with names are a POSIX feature")
        os.mkfifo(tmp_path / "pipe")
        with refusal(errors.INPUT_UNREADABLE, "no ordinary file"):
            files.read_file(tmp_path / "pipe", str)


class TestOutputs:
    @pytest.mark.parametrize("name", ["a\0b.txt", "\ud800.txt", "n" * 5000 + ".txt", "loop.txt"])
    def test_name_that_cannot_be_written_is_refused_before_the_work(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
        with refusal(errors.OUTPUT_UNWRITABLE, "no character|too long|symbolic links"):
            files.require_writable(tmp_path / name, (".txt",))


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
