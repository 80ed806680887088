"""Asking an interpreter what it can do, played by a stand-in and once by the engine itself."""

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene  # noqa: F401 - provides the translation
from DeepAttentionRegLib.engine import Interpreter
from DeepAttentionRegLib.engine.Engine import Engine
from mrml_cases import ENGINE, TIMEOUT_S

pytestmark = pytest.mark.mrml

CARD = {"id": "cuda:0", "name": "NVIDIA A2", "free": 11.2e9, "total": 16e9}
ANSWER = {
    "devices": [CARD],
    "speed": {"cpu": 80.0, "cuda:0": 4000.0},
    "versions": {"torch": "2.5.0", "python": "3.12.1"},
}


def ask(python: str | None = sys.executable, script: Path = ENGINE.script) -> Interpreter.Environment:
    answers = []
    check = Interpreter.Check(answers.append, Engine(python, script))
    check.start()
    check.wait()
    (answer,) = answers
    return answer


def make_program(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def engine_works(monkeypatch):
    monkeypatch.setenv("FAKE_ENGINE", "work")


class TestCheck:
    def test_answer_tells_the_speed_of_each_device(self):
        answer = ask()
        assert answer.problem == ""
        assert answer.speeds == {"cpu": 80.0, "cuda:0": 4000.0}

    def test_does_not_block(self, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "hang")
        answers = []
        check = Interpreter.Check(answers.append, ENGINE)
        check.start()
        assert check.isRunning
        check.close()
        check.poll()
        assert not answers
        assert not check.isRunning

    def test_polling_alone_brings_the_answer(self):
        answers = []
        check = Interpreter.Check(answers.append, ENGINE)
        check.start()
        deadline = time.monotonic() + TIMEOUT_S
        while not answers and time.monotonic() < deadline:
            check.poll()
            time.sleep(0.02)
        assert answers[0].problem == ""

    def test_what_the_engine_lacks_is_told(self, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "fail")
        assert ask().problem == f"{sys.executable}: The volumes do not overlap. Align them first."

    @pytest.mark.skipif(sys.platform == "win32", reason="the programs are shell scripts")
    def test_lack_of_memory_is_nothing_to_repair(self, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "lack memory")
        answer = ask()
        assert "not enough memory to load PyTorch" in answer.problem
        assert answer.isPassing

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (
                "echo \"terminate called after throwing an instance of 'std::bad_alloc'\"; exit 134",
                "close other programs",
            ),
            ("kill -9 $$", "perhaps for lack of memory"),
        ],
    )
    def test_end_for_lack_of_memory_is_nothing_to_repair(self, tmp_path, text, reason):
        answer = ask(make_program(tmp_path, "python3", text))
        assert reason in answer.problem
        assert answer.isPassing

    def test_program_that_is_no_python_is_told(self, tmp_path):
        program = make_program(tmp_path, "python3", "echo unknown option; exit 2")
        problem = ask(program).problem
        assert problem.startswith(f"{program} cannot run the engine, which needs Python 3.10 or later with PyTorch.")
        assert "unknown option" in problem

    @pytest.mark.skipif(sys.platform == "win32", reason="the programs are shell scripts")
    def test_program_that_never_answers_is_given_up(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Interpreter, "TIMEOUT_S", 0.2)
        monkeypatch.setattr("DeepAttentionRegLib.engine.EngineJob.CANCEL_GRACE_S", 0.2)
        program = make_program(tmp_path, "python3", "sleep 600")
        started = threading.active_count()
        assert "did not answer within" in ask(program).problem
        assert threading.active_count() <= started

    def test_file_that_cannot_be_run_is_told(self, tmp_path):
        (tmp_path / "python.txt").write_text("no program", encoding="ascii")
        assert "could not be started" in ask(str(tmp_path / "python.txt")).problem

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [("", "is a folder"), ("python3", "There is no file"), ("Slicer", "is no Python program")],
    )
    def test_wrong_path_is_told_without_running_it(self, tmp_path, name, sentence):
        ran = tmp_path / "ran"
        make_program(tmp_path, "Slicer", f"touch {ran}")
        assert sentence in ask(str(tmp_path / name)).problem
        assert not ran.exists()

    @pytest.mark.torch
    @pytest.mark.slow
    def test_engine_itself_answers(self):
        pytest.importorskip("torch", reason="PyTorch is not installed")
        answer = ask(script=Engine().script)
        assert answer.problem == ""
        assert answer.summary.startswith("PyTorch 2.")
        assert [device.name for device in answer.devices[:2]] == ["auto", "cpu"]


class TestDevices:
    def test_are_offered_with_what_is_free(self):
        devices = Interpreter.readEnvironment(ANSWER).devices
        assert [device.name for device in devices] == ["auto", "cpu", "cuda:0"]
        assert devices[0].label == "Automatic (NVIDIA A2)"
        assert devices[2].label == "NVIDIA A2 (cuda:0, 11.2 of 16.0 GB free)"

    def test_memory_may_be_unknown(self):
        answer = {**ANSWER, "devices": [{**CARD, "free": None, "total": None}]}
        assert Interpreter.readEnvironment(answer).devices[2].label == "NVIDIA A2 (cuda:0)"

    def test_without_a_graphics_card_the_processor_is_chosen(self):
        environment = Interpreter.readEnvironment({**ANSWER, "devices": []})
        assert [device.label for device in environment.devices] == ["Automatic (CPU)", "CPU"]
        assert environment.summary == "PyTorch 2.5.0 in Python 3.12.1, no CUDA graphics card."

    @pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0"])
    def test_those_that_are_there_can_be_used(self, name):
        assert Interpreter.checkDevice(name, Interpreter.readEnvironment(ANSWER)) == ""

    def test_one_of_another_computer_is_told(self):
        problem = Interpreter.checkDevice("cuda:1", Interpreter.readEnvironment(ANSWER))
        assert problem == "This computer has no device cuda:1; choose automatic or CPU."

    def test_nothing_is_known_before_the_engine_answers(self):
        assert Interpreter.checkDevice("cuda:1", Interpreter.Environment("Not there.")) == ""


class TestSettings:
    @pytest.fixture
    def application(self, monkeypatch):
        """An application that keeps its settings in a dictionary."""
        kept = {}
        settings = SimpleNamespace(value=kept.get, setValue=kept.__setitem__, remove=kept.pop)
        monkeypatch.setattr(slicer, "app", SimpleNamespace(userSettings=lambda: settings), raising=False)

    def test_choice_is_remembered_until_it_is_taken_back(self, application):
        assert Interpreter.savedInterpreter() is None
        Interpreter.saveInterpreter("/opt/python")
        assert Interpreter.savedInterpreter() == "/opt/python"
        Interpreter.saveInterpreter(None)
        assert Interpreter.savedInterpreter() is None

    def test_nothing_is_remembered_without_slicer(self, monkeypatch):
        monkeypatch.delattr(slicer, "app", raising=False)
        assert Interpreter.savedInterpreter() is None
