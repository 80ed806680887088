"""Texts that leave the computer lose their folders, tables their formulas, and neither anything else."""

import csv
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest

from DeepAttentionRegEngine import cli
from DeepAttentionRegEngine.protocol import privacy
from DeepAttentionRegEngine.protocol.privacy import csv_text, without_folders, without_folders_within


class TestFolders:
    @pytest.mark.parametrize(
        ("text", "left"),
        [
            ("The file /srv/ann/Study 7/ct.nrrd is damaged.", "The file ct.nrrd is damaged."),
            (r"The file C:\Users\Ann Smith\ct.nrrd is damaged.", "The file ct.nrrd is damaged."),
            (r"[Errno 2] No such file: 'C:\\Users\\Ann\\ct.nrrd'", "[Errno 2] No such file: 'ct.nrrd'"),
            ("D:/scans/ann.nii.gz", "ann.nii.gz"),
            (r"\\server\share\Smith\ct.nrrd", "ct.nrrd"),
            ("file:///srv/ann/report.html", "report.html"),
            ("~/.config/slicer.org/own.pt", "own.pt"),
            ("no /tmp/a.nrrd and no (/tmp/b.nrrd).", "no a.nrrd and no (b.nrrd)."),
            ("reason:/srv/O'Brien/x", "reason:x"),
            ("/srv/J\u00fcrgen/\u80ba/ct.nrrd", "ct.nrrd"),
            ("/srv/ann/", "ann/"),
            ("/ct.nrrd", "ct.nrrd"),
            ('File "/opt/py/site-packages/torch/f.py", line 3', 'File "site-packages/torch/f.py", line 3'),
            ("/srv/ann/DeepAttentionRegEngine/cli.py", "DeepAttentionRegEngine/cli.py"),
        ],
    )
    def test_of_absolute_paths_go(self, text: str, left: str) -> None:
        assert without_folders(text) == left

    @pytest.mark.parametrize(
        "text",
        [
            "CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/)",
            "doi:10.1002/mp.12256, 3 mm/s, and/or, 1 / 2, 12:30/40",
            "case01/fixed.nrrd, ../fixed.nrrd",
            "<b>A</b>",
            "",
        ],
    )
    def test_of_nothing_else_do(self, text: str) -> None:
        assert without_folders(text) == text

    @pytest.mark.parametrize("home", ["/srv/ann lee", "/srv/'ann'", "/var/root"])
    def test_of_the_home_go_whatever_its_name(self, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("USERPROFILE", home)
        assert without_folders(f"{home}/My scans/ct.nrrd") == "ct.nrrd"
        assert without_folders(f"-I{home}/include") == "-Iinclude"
        assert without_folders(f"Home is {home}.") == "Home is ~."

    @pytest.mark.parametrize("home", ["/", "nowhere", ""])
    def test_home_that_is_none_is_no_harm(self, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("USERPROFILE", home)
        assert without_folders("nowhere to be seen") == "nowhere to be seen"

    def test_go_at_any_depth(self) -> None:
        @dataclass(frozen=True)
        class Told:
            name: str
            image: bytes

        value = {"/a/b": [Told("/a/c", b"/a/d"), ("/a/e", 1.5, None)]}
        assert without_folders_within(value) == {"b": [Told("c", b"/a/d"), ("e", 1.5, None)]}


class TestLog:
    def test_tells_no_folders_but_all_else(self) -> None:
        stream = io.StringIO()
        logger = privacy.discreet_logger("test of the log")
        logger.addHandler(logging.StreamHandler(stream))
        try:
            Path("/nowhere/Smith/ct.nrrd").read_bytes()
        except OSError:
            logger.exception("Failed with %s", "/nowhere/Smith/mr.nrrd")
        text = stream.getvalue()
        assert "Failed with mr.nrrd" in text
        assert "FileNotFoundError: [Errno 2] No such file or directory: 'ct.nrrd'" in text
        assert 'File "test_privacy.py"' in text
        assert "Smith" not in text
        assert str(Path(__file__).parent) not in text

    def test_of_the_command_line_tells_none(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def broken() -> None:
            raise OSError(2, "No such file", "/srv/Smith/ct.nrrd")

        root = logging.getLogger()
        for name, value in (("handlers", []), ("level", root.level)):
            monkeypatch.setattr(root, name, value)
        monkeypatch.setattr(cli, "_load_engine", broken)
        cli.main(["probe", "--json"])
        log = capsys.readouterr().err
        assert "FileNotFoundError: [Errno 2] No such file: 'ct.nrrd'" in log
        assert 'File "DeepAttentionRegEngine/cli.py"' in log
        assert "Smith" not in log

    def test_logger_is_made_discreet_once(self) -> None:
        assert privacy.discreet_logger("another") is privacy.discreet_logger("another")
        assert len(privacy.discreet_logger("another").filters) == 1


class TestTable:
    @pytest.mark.parametrize(
        "cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\n=1", "\uff1d1", '=HYPERLINK("http://x")']
    )
    def test_formula_is_a_text(self, cell: str) -> None:
        ((read,),) = csv.reader(io.StringIO(csv_text([[cell]]), newline=""))
        assert read == f"'{cell}"

    @pytest.mark.parametrize(("cell", "text"), [("\r=1", "'\n=1"), ("a\r=1", "a\n=1"), ("a\r\n=1", "a\n=1")])
    def test_return_begins_no_row(self, cell: str, text: str) -> None:
        assert list(csv.reader(io.StringIO(csv_text([[cell]]), newline=""))) == [[text]]

    @pytest.mark.parametrize(("cell", "text"), [(-0.5, "-0.5"), (-3, "-3"), (None, ""), ("a=b", "a=b"), ("'x", "'x")])
    def test_all_else_is_as_it_was(self, cell: object, text: str) -> None:
        assert csv_text([["name", cell]]) == f"name,{text}\n"
