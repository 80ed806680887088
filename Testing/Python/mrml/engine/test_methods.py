"""What the panel says about methods, and how it follows the choice of another one."""

import sys
import time
from dataclasses import replace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")

import slicer_stand_ins

slicer_stand_ins.install()

import fake_engine
from DeepAttentionRegEngine.protocol import errors, estimate, registry
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib import Parameters
from DeepAttentionRegLib.engine import Interpreter, Methods
from DeepAttentionRegLib.engine.Engine import Engine
from mrml_cases import ENGINE, TIMEOUT_S, add_pair

pytestmark = pytest.mark.mrml

RMAN = registry.load_method("rman")
LONG = replace(
    RMAN, name="long", title="Long", variants=(), recursions=registry.Recursions(25, 5, 40, "step", "Small steps.")
)
METHODS = {"rman": RMAN, "long": LONG}


@pytest.fixture(autouse=True)
def scene(application, monkeypatch):
    monkeypatch.setattr(slicer, "mrmlScene", application.scene)
    monkeypatch.setenv("FAKE_ENGINE", "work")
    real = registry.load_method
    monkeypatch.setattr(registry, "load_method", lambda name: METHODS.get(name) or real(name))
    yield application.scene
    application.scene.Clear(True)


def form(method: str, axes: int = 3) -> Methods.Form:
    return Methods.Form(method, None, axes)


def grid(size: tuple[int, int, int]) -> Geometry:
    return Geometry.from_arrays(size, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))


@pytest.fixture
def volume(scene):
    return add_pair(grid((12, 11, 10))).fixedVolume


@pytest.fixture
def arguments(logic, volume):
    """Return a volume and the settings of a registration on the CPU."""
    parameters = logic.getParameterNode()
    parameters.fixedVolume = volume
    return volume, replace(logic.argumentsFrom(parameters)["settings"], device="cpu")


class TestChoice:
    def test_damaged_method_is_left_out(self, monkeypatch):
        def load(name):
            if name == "agf":
                raise errors.EngineError(errors.WEIGHTS_CORRUPT, "The file agf.json is damaged.")
            return RMAN if name == "rman" else LONG

        monkeypatch.setattr(registry, "method_names", lambda: ["agf", "rman"])
        monkeypatch.setattr(registry, "load_method", load)
        assert Parameters._offered() == {"RMAN": "rman", "REFINEMENT_ONLY": "none"}


class TestRecursions:
    def test_have_the_range_and_meaning_of_the_method(self):
        choice = Methods.recursionChoice(form("long"), 10)
        assert (choice.minimum, choice.maximum) == (5, 40)
        assert "Small steps (5 to 40, usually 25)" in choice.toolTip

    @pytest.mark.parametrize(
        ("value", "previous", "expected"),
        [(10, None, 10), (10, "rman", 10), (4, None, 25), (41, "rman", 25)],
        ids=["fits", "fits the next method, too", "too few", "too many"],
    )
    def test_are_kept_where_they_fit(self, value, previous, expected):
        before = previous and form(previous)
        assert Methods.recursionChoice(form("long"), value, before).value == expected

    def test_usual_number_becomes_the_usual_number(self):
        assert Methods.recursionChoice(form("rman"), 25, form("long")).value == 6

    def test_usual_number_is_that_of_the_weights(self):
        choice = Methods.recursionChoice(form("agf-diffeo"), 2, form("agf-diffeo", axes=2))
        assert (choice.value, choice.maximum) == (5, 5)
        assert "usually 5" in choice.toolTip
        assert Methods.recursionChoice(form("agf-diffeo"), 3, form("agf-diffeo", axes=2)).value == 3

    def test_usual_number_that_was_loaded_is_kept(self):
        assert Methods.recursionChoice(form("long"), 6).value == 6


class TestWeights:
    def test_that_are_there_are_no_problem(self, volume):
        assert Methods.checkMethod("rman", volume) == []

    def test_that_are_missing_are_named_with_the_method_and_what_it_lacks_them_for(self, volume):
        (problem,) = Methods.checkMethod("long", volume)
        assert problem.startswith("Long has no trained weights for volumes")

    def test_of_slices_do_not_do_for_volumes(self, volume):
        (problem,) = Methods.checkMethod("agf", volume)
        assert "volumes" in problem

    def test_of_the_users_own_do(self, volume):
        assert Methods.checkMethod("long", volume, "mine.pt") == []

    def test_are_not_asked_for_before_a_volume_is_chosen(self):
        assert Methods.checkMethod("long", None) == []

    def test_are_not_needed_by_the_refinement(self, volume):
        assert Methods.checkMethod("none", volume) == []

    def test_missing_ones_are_a_reason_not_to_register(self, logic, scene):
        pair = add_pair(grid((12, 11, 10)))
        with pytest.raises(ValueError, match="no trained weights"):
            logic.register(pair.fixedVolume, pair.movingVolume, "agf")


class TestEstimateText:
    @pytest.fixture(autouse=True)
    def asked(self, monkeypatch):
        """Answer every question the same, and note it."""
        asked = []

        def answer(*plan, **speeds):
            asked.append((*plan, speeds))
            return estimate.Estimate(12.3, 1.26e9)

        monkeypatch.setattr(estimate, "estimate", answer)
        return asked

    def test_is_a_line_about_this_computer(self, arguments):
        assert Methods.estimateText(*arguments, {"cpu": 80.0}) == "About 12 s and 1.3 GB on this computer's CPU"

    def test_is_rough_before_the_speed_is_known(self, arguments):
        assert Methods.estimateText(*arguments, None) == "Roughly 12 s and 1.3 GB on a CPU"

    def test_asks_for_what_is_chosen(self, arguments, asked):
        volume, settings = arguments[0], replace(arguments[1], velocity=True)
        Methods.estimateText(volume, settings, {"cpu": 80.0})
        *plan, speeds = asked[0]
        assert plan == [(12, 11, 10), (1.0, 1.0, 1.0), settings]
        chosen = settings.method, settings.recursions, settings.alignment, settings.refinement_steps
        assert chosen == ("rman", 6, "automatic", 40)
        assert (settings.similarity, settings.velocity) == ("ncc", True)
        assert speeds == {"cpu": 80.0, "device": 80.0}

    def test_takes_the_speed_of_the_gpu_where_that_is_used(self, arguments, asked):
        speeds = {"cpu": 80.0, "cuda:0": 4000.0}
        for device in ("auto", "cuda"):
            assert Methods.estimateText(arguments[0], replace(arguments[1], device=device), speeds).endswith("GPU")
        assert [found["device"] for *_plan, found in asked] == [4000.0, 4000.0]

    def test_is_empty_without_a_volume_or_the_gpu_asked_for(self, arguments):
        assert Methods.estimateText(None, arguments[1], None) == ""
        assert Methods.estimateText(arguments[0], replace(arguments[1], device="cuda"), {"cpu": 80.0}) == ""

    def test_is_empty_where_costs_are_unknown(self, arguments, monkeypatch):
        monkeypatch.setattr(estimate, "estimate", lambda *_plan, **_speeds: None)
        assert Methods.estimateText(*arguments, None) == ""

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0.2, "1 s"), (99.4, "99 s"), (99.6, "2 min"), (3000, "50 min"), (6300, "2 h")]
    )
    def test_has_times_people_say(self, seconds, text):
        assert Methods.timeText(seconds) == text


class TestEngine:
    """What the logic knows of the engine."""

    @staticmethod
    def wait(logic) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while logic._check is not None:
            assert time.monotonic() < deadline, "nothing happened"
            logic._check.poll()  # the timer of Qt does this in Slicer
            time.sleep(0.02)

    def test_speed_is_what_it_measured(self, logic):
        calls = []
        logic.checkEngine(lambda: calls.append(dict(logic.speeds)))
        self.wait(logic)
        assert calls == [fake_engine.SPEED]

    def test_is_asked_once(self, logic):
        logic.checkEngine(lambda: None)
        self.wait(logic)
        logic.checkEngine(lambda: None)
        assert logic._check is None

    def test_is_asked_again_once_it_may_have_been_repaired(self, logic, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "fail")
        logic.checkEngine(lambda: None)
        self.wait(logic)
        assert logic.environment.problem
        monkeypatch.setenv("FAKE_ENGINE", "work")
        logic.checkEngine(lambda: None)
        self.wait(logic)
        assert not logic.environment.problem

    def test_question_makes_way_for_a_registration(self, logic, scene, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "hang")
        logic.checkEngine(lambda: None)
        monkeypatch.setenv("FAKE_ENGINE", "work")
        pair = add_pair(grid((12, 11, 10)))
        assert logic.register(pair.fixedVolume, pair.movingVolume) is not None
        assert logic._check is None
        assert logic.speeds is None

    def test_question_ends_with_the_panel(self, logic, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "hang")
        logic.checkEngine(lambda: None)
        logic.close()
        assert logic._check is None

    def test_moves_to_another_python_that_works(self, logic, monkeypatch):
        saved, problems = [], []
        monkeypatch.setattr(Interpreter, "saveInterpreter", saved.append)
        logic.engine = Engine(script=ENGINE.script)
        logic.usePython(sys.executable, problems.append)
        self.wait(logic)
        assert (logic.otherPython, saved, problems) == (sys.executable, [sys.executable], [""])

    def test_stays_where_it_is_if_another_python_does_not_work(self, logic, monkeypatch, tmp_path):
        saved, problems = [], []
        monkeypatch.setattr(Interpreter, "saveInterpreter", saved.append)
        logic.usePython(str(tmp_path / "python"), problems.append)
        assert (logic.otherPython, saved) == (sys.executable, [])
        assert "There is no file" in problems[0]

    def test_returns_to_slicers_python(self, logic, monkeypatch):
        saved = []
        monkeypatch.setattr(Interpreter, "saveInterpreter", saved.append)
        logic.useOwnPython()
        assert (logic.otherPython, saved) == (None, [None])
