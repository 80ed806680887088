"""Outputs appear together or not at all, replace nothing that is read, and are taken for what they are."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from DeepAttentionRegEngine.protocol import errors, outputs
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.outputs import Outputs, Places


def contents_of(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def write_all(folder: Path, content: bytes = b"new") -> None:
    """Write a file, one elsewhere, one in a new folder and two in a folder of several, as one run."""
    with Outputs() as made:
        Path(made.place(folder / "transform.nrrd")).write_bytes(content)
        Path(made.place(folder / "other" / "warped.nrrd")).write_bytes(content)
        made.make_folder(folder / "one" / "two")
        Path(made.place(folder / "one" / "two" / "result.json")).write_bytes(content)
        filled = Path(made.place_folder(folder / "recursions"))
        for name in ("recursion_1.nrrd", "recursions.json"):
            (filled / name).write_bytes(content)


WRITTEN = (
    "transform.nrrd",
    "other/warped.nrrd",
    "one/two/result.json",
    "recursions/recursion_1.nrrd",
    "recursions/recursions.json",
)
BEFORE: dict[str, dict[str, bytes]] = {
    "nothing": {"other/mine.txt": b"mine"},
    "some": {"other/warped.nrrd": b"old", "recursions/recursion_1.nrrd": b"old", "recursions/mine.txt": b"mine"},
    "all": dict.fromkeys(WRITTEN, b"old"),
}


@pytest.fixture(params=list(BEFORE))
def before(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, bytes]:
    """Return what lies in the folder of a run before it."""
    for name, content in BEFORE[request.param].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return BEFORE[request.param]


class Failing:
    """Stands for a function of the system that fails, or is interrupted, when it is called for the n-th time."""

    def __init__(self, proper: Callable[..., object], at: int, error: BaseException) -> None:
        self.proper, self.at, self.error, self.calls = proper, at, error, 0

    def __call__(self, *arguments: object, **options: object) -> object:
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.proper(*arguments, **options)


class TestTogether:
    def test_all_are_there_at_the_end(self, tmp_path: Path, before: dict[str, bytes]) -> None:
        write_all(tmp_path)
        assert contents_of(tmp_path) == {**before, **dict.fromkeys(WRITTEN, b"new")}

    def test_nothing_is_there_before(self, tmp_path: Path, before: dict[str, bytes]) -> None:
        with Outputs() as made:
            place = Path(made.place(tmp_path / "transform.nrrd"))
            place.write_bytes(b"new")
            assert {name: content for name, content in contents_of(tmp_path).items() if "/" not in name} == {
                name: content for name, content in before.items() if "/" not in name
            }
            if sys.platform != "win32":
                assert place.parent.stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize(
        "error", [EngineError(errors.INTERNAL, "Broken."), ZeroDivisionError(), KeyboardInterrupt()]
    )
    def test_failing_run_changes_nothing(self, tmp_path: Path, before: dict[str, bytes], error: BaseException) -> None:
        folders = {path for path in tmp_path.rglob("*") if path.is_dir()}

        def run() -> None:
            with Outputs() as made:
                made.make_folder(tmp_path / "one" / "two")
                Path(made.place(tmp_path / "one" / "two" / "result.json")).write_bytes(b"new")
                (Path(made.place_folder(tmp_path / "recursions")) / "recursion_1.nrrd").write_bytes(b"new")
                raise error

        with pytest.raises(type(error)):
            run()
        assert contents_of(tmp_path) == before
        assert {path for path in tmp_path.rglob("*") if path.is_dir()} == folders

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    @pytest.mark.parametrize("name", ["replace", "link", "mkdir"])
    @pytest.mark.parametrize("at", range(1, 7))
    def test_failure_at_any_move_changes_nothing(
        self,
        tmp_path: Path,
        before: dict[str, bytes],
        name: str,
        at: int,
        error: BaseException,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "other").mkdir(exist_ok=True)
        failing = Failing(getattr(os, name), at, error)
        monkeypatch.setattr(outputs.os, name, failing)
        try:
            write_all(tmp_path)
        except (EngineError, KeyboardInterrupt):
            assert contents_of(tmp_path) == before
        else:
            assert contents_of(tmp_path) == {**before, **dict.fromkeys(WRITTEN, b"new")}
        assert not list(tmp_path.rglob(f"{outputs.PREFIX}*"))

    @pytest.mark.parametrize("at", range(1, 5))
    def test_interruption_waits_until_all_moves_are_done(
        self, tmp_path: Path, before: dict[str, bytes], at: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proper, calls = os.replace, []

        def interrupted(source: str, target: str) -> None:
            calls.append(target)
            if len(calls) == at:
                signal.raise_signal(signal.SIGINT)
            proper(source, target)

        (tmp_path / "other").mkdir(exist_ok=True)
        monkeypatch.setattr(outputs.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_all(tmp_path)
        assert contents_of(tmp_path) == {**before, **dict.fromkeys(WRITTEN, b"new")}
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_file_system_without_links_keeps_what_was_there(
        self, tmp_path: Path, before: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_paths: object, **_options: object) -> None:
            raise OSError(95, "Operation not supported")

        (tmp_path / "other").mkdir(exist_ok=True)
        monkeypatch.setattr(outputs.os, "link", refuse)
        failing = Failing(os.replace, 4, OSError(28, "No space left on device"))
        monkeypatch.setattr(outputs.os, "replace", failing)
        with pytest.raises(EngineError, match="no space left"):
            write_all(tmp_path)
        assert contents_of(tmp_path) == before

    def test_error_speaks_of_files_as_they_were_named(self, tmp_path: Path) -> None:
        def run() -> None:
            with Outputs() as made:
                place = made.place(tmp_path / "transform.nrrd")
                raise EngineError(errors.OUTPUT_UNWRITABLE, f"The file {place} cannot be written.", "Try again.")

        with pytest.raises(EngineError) as caught:
            run()
        assert str(caught.value) == f"The file {tmp_path / 'transform.nrrd'} cannot be written. Try again."

    def test_what_another_run_puts_there_meanwhile_stays(self, tmp_path: Path) -> None:
        def run() -> None:
            with Outputs() as made:
                made.make_folder(tmp_path / "one")
                Path(made.place(tmp_path / "one" / "t.nrrd")).write_bytes(b"new")
                (tmp_path / "one" / "t.nrrd").write_bytes(b"another")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run()
        assert contents_of(tmp_path) == {"one/t.nrrd": b"another"}

    def test_names_stay_relative(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with Outputs() as made:
            places = made.place("t.nrrd"), made.place_folder("recursions")
            Path(places[0]).touch()
            assert not any(Path(place).is_absolute() for place in places)
            assert made.final(Path(places[1]) / "recursion_1.nrrd") == str(Path("recursions") / "recursion_1.nrrd")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["recursions", "t.nrrd"]


class TestRefusals:
    @pytest.mark.parametrize("name", ["nowhere/t.nrrd", "folder", "file/t.nrrd"])
    def test_impossible_file_is_refused_at_once(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
        with pytest.raises(EngineError) as caught, Outputs() as made:
            made.place(tmp_path / name)
        assert caught.value.code == errors.OUTPUT_UNWRITABLE

    @pytest.mark.parametrize("name", ["file", "file/recursions"])
    def test_impossible_folder_is_refused_at_once(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(EngineError) as caught, Outputs() as made:
            made.place_folder(tmp_path / name)
        assert caught.value.code == errors.OUTPUT_UNWRITABLE

    def test_file_that_is_read_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "recursions").mkdir()
        read = tmp_path / "recursions" / "recursion_1.nrrd"
        read.write_bytes(b"patient")
        with pytest.raises(EngineError, match="both read and written"), Outputs([read]) as made:
            (Path(made.place_folder(tmp_path / "recursions")) / read.name).write_bytes(b"new")
        assert contents_of(tmp_path) == {"recursions/recursion_1.nrrd": b"patient"}

    def test_folder_that_appears_under_the_name_of_a_file_stays(self, tmp_path: Path) -> None:
        def run() -> None:
            with Outputs() as made:
                Path(made.place(tmp_path / "t.nrrd")).touch()
                (tmp_path / "t.nrrd").mkdir()
                (tmp_path / "t.nrrd" / "mine.txt").touch()

        with pytest.raises(EngineError, match="is a directory"):
            run()
        assert contents_of(tmp_path) == {"t.nrrd/mine.txt": b""}


class TestPlaces:
    @pytest.fixture
    def fixed(self, tmp_path: Path) -> Path:
        path = tmp_path / "Fixed.nrrd"
        path.touch()
        return path

    @pytest.mark.parametrize("link", ["symbolic", "hard", "folder", "dots", "case", "relative"])
    def test_one_file_is_known_however_it_is_named(
        self, fixed: Path, link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other.nrrd"
        monkeypatch.chdir(tmp_path)
        if link == "symbolic":
            other.symlink_to(fixed)
        elif link == "hard":
            os.link(fixed, other)
        elif link == "folder":
            (tmp_path / "folder").symlink_to(tmp_path)
            other = tmp_path / "folder" / fixed.name
        else:
            other = {"dots": tmp_path / "x" / ".." / fixed.name, "case": tmp_path / "fixed.NRRD"}.get(
                link, Path(fixed.name)
            )
        assert other in Places([fixed])
        assert fixed in Places([other])

    @pytest.mark.parametrize("name", ["new.nrrd", "NEW.nrrd", "gr\u00fcn.nrrd", "gru\u0308n.nrrd"])
    def test_files_that_are_not_there_yet_are_told_apart_by_name(self, tmp_path: Path, name: str) -> None:
        places = Places([tmp_path / "New.nrrd", tmp_path / "gr\u00dcn.nrrd"])
        assert tmp_path / name in places
        assert tmp_path / f"x{name}" not in places

    def test_copies_are_two_files(self, fixed: Path, tmp_path: Path) -> None:
        shutil.copy(fixed, tmp_path / "copy.nrrd")
        assert tmp_path / "copy.nrrd" not in Places([fixed])

    def test_no_path_at_all_is_in_nobodys_way(self, fixed: Path) -> None:
        assert "a\0b" not in Places([fixed])
