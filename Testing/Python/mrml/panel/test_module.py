"""The module on a MRML scene without the application: the choices in the scene, the logic, the texts of the panel."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")

import slicer_stand_ins

slicer_stand_ins.install()

import DeepAttentionReg as module
from DeepAttentionRegEngine.protocol import contract, registry
from DeepAttentionRegEngine.protocol.settings import choices_of
from DeepAttentionRegLib import Folders, Parameters, SampleCases, SavedViews
from DeepAttentionRegLib.panel import Arguments
from DeepAttentionRegLib.panel import Progress as PanelProgress
from DeepAttentionRegLib.tasks.Request import SETTING_NAMES
from mrml_cases import TIMEOUT_S, add_pair, add_segmentation

pytestmark = pytest.mark.mrml


@pytest.fixture(autouse=True)
def scene(application, monkeypatch):
    monkeypatch.setattr(slicer, "mrmlScene", application.scene)
    monkeypatch.setenv("FAKE_ENGINE", "work")
    yield application.scene
    application.scene.Clear(True)


@pytest.fixture
def pair(scene, oblique_geometry):
    return add_pair(oblique_geometry)


@pytest.fixture
def parameters(logic, pair):
    parameters = logic.getParameterNode()
    parameters.fixedVolume, parameters.movingVolume = pair.fixedVolume, pair.movingVolume
    return parameters


def add_sequence(parameters) -> slicer.vtkMRMLSequenceNode:
    """Add a sequence of the two volumes."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
    for index, volume in enumerate((parameters.fixedVolume, parameters.movingVolume)):
        node.SetDataNodeAtValue(volume, str(index))
    return node


def node_ids(scene) -> list[str]:
    return [scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())]


def wait_for(logic, condition) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        if logic.isRunning:
            logic._registration.poll()  # the timer of Qt does this in Slicer
        time.sleep(0.02)


class TestChoices:
    def test_survive_saving_and_loading_the_scene(self, logic, parameters, scene, tmp_path):
        parameters.method = Parameters.MethodChoice.REFINEMENT_ONLY
        parameters.recursions, parameters.smoothness, parameters.velocity = 7, 2.5, True
        scene.SetURL(str(tmp_path / "scene.mrml"))
        scene.Commit()
        scene.Connect()
        loaded = logic.getParameterNode()
        values = (loaded.method, loaded.recursions, loaded.smoothness, loaded.velocity, loaded.fixedVolume.GetName())
        assert values == (Parameters.MethodChoice.REFINEMENT_ONLY, 7, 2.5, True, "CT1")

    def test_start_over_when_the_scene_is_closed(self, logic, parameters, scene):
        parameters.recursions = 7
        scene.Clear(False)
        assert logic.getParameterNode().recursions == 6

    def test_refuse_a_number_out_of_range(self, parameters):
        with pytest.raises(ValueError, match="101"):
            parameters.recursions = 101

    @pytest.mark.parametrize(
        ("name", "text"),
        [("method", "NO_METHOD"), ("inspectComparison", "X_RAY"), ("recursions", "101"), ("refinementSteps", "2.5")],
    )
    def test_that_mean_nothing_here_become_the_usual_ones(self, logic, scene, caplog, name, text):
        usual = getattr(logic.getParameterNode(), name)
        node = scene.GetSingletonNode("DeepAttentionReg", "vtkMRMLScriptedModuleNode")
        node.SetParameter("weights", "mine.pt")
        node.SetParameter(name, text)
        parameters = logic.getParameterNode()
        assert (getattr(parameters, name), parameters.weights) == (usual, "mine.pt")
        assert f"{name} {text}" in caplog.text

    def test_follow_a_segmentation_or_a_label_map(self, parameters, pair):
        for node in (add_segmentation(pair, "Mask"), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")):
            parameters.fixedMask = node
            assert parameters.fixedMask is node

    def test_forget_a_node_that_is_removed(self, parameters, scene):
        scene.RemoveNode(parameters.fixedVolume)
        assert parameters.fixedVolume is None

    def test_offer_what_the_contract_knows(self):
        assert [item.value for item in Parameters.Alignment] == list(choices_of("alignment"))
        assert [item.value for item in Parameters.Similarity] == list(choices_of("similarity"))
        assert [item.value for item in Parameters.TransformGrid] == list(choices_of("transform_grid"))

    def test_offer_every_method_but_the_baselines(self):
        roles = {name: registry.load_method(name).role for name in registry.method_names()}
        offered = {name for name, role in roles.items() if role != "baseline"}
        assert {item.value for item in Parameters.MethodChoice} == {*offered, contract.METHOD_NONE}

    def test_start_with_the_usual_recursions_of_the_first_method(self, parameters):
        method = registry.load_method(parameters.method.value)
        assert parameters.recursions == method.usual_recursions(registry.find_variant(method, 3, None)) == 6

    @pytest.mark.parametrize("name", ["MethodChoice", "Alignment", "Similarity", "TransformGrid"])
    def test_have_different_labels(self, name):
        kind = getattr(Parameters, name)
        assert len({item.label() for item in kind}) == len(kind)


class TestArguments:
    def test_carry_the_choices_by_their_name_in_a_job(self, logic, parameters):
        parameters.alignment, parameters.device = Parameters.Alignment.RIGID, "cpu"
        parameters.transformGrid = Parameters.TransformGrid.FIXED
        settings = logic.argumentsFrom(parameters)["settings"]
        assert (settings.alignment, settings.device, settings.recursions) == ("rigid", "cpu", 6)
        assert settings.transform_grid == "fixed"

    def test_turn_refinement_off(self, logic, parameters):
        parameters.refine = False
        assert logic.argumentsFrom(parameters)["settings"].refinement_steps == 0

    def test_cover_every_choice(self, logic, parameters):
        covered = {*logic.argumentsFrom(parameters), *Arguments.ofSequence(parameters), *SETTING_NAMES}
        others = {"refine", "preview", "sequence", "sequenceVolumes"}
        later = {name for name in parameters.allParameters if name.startswith(("warp", "inspect", "batch"))}
        assert set(parameters.allParameters) - others - later <= covered

    def test_of_a_sequence_are_accepted_by_register_sequence(self, logic, parameters):
        parameters.sequence = add_sequence(parameters)
        parameters.referenceFrame = 2
        outcome = logic.registerSequence(**Arguments.ofSequence(parameters))
        assert outcome.frames == [1, 2]
        assert outcome.volumeSequenceNode is not None

    @pytest.mark.parametrize("name", ["fixedMask", "keepRecursions", "nonsense"])
    def test_that_a_sequence_cannot_use_are_refused(self, logic, parameters, name):
        with pytest.raises(TypeError, match=name):
            logic.registerSequence(add_sequence(parameters), **{name: None})

    def test_unknown_ones_are_refused(self, logic, pair):
        with pytest.raises(TypeError, match="nonsense"):
            logic.register(pair.fixedVolume, pair.movingVolume, nonsense=1)

    def test_tell_the_quality_that_the_numbers_are(self, logic, parameters):
        parameters.recursions, parameters.refinementSteps = 8, 100
        assert logic.argumentsFrom(parameters)["settings"].quality == "best"

    def test_align_nothing_else_after_an_initial_transform(self, logic, parameters, scene):
        parameters.initialTransform = scene.AddNewNodeByClass("vtkMRMLTransformNode")
        assert logic.argumentsFrom(parameters)["settings"].alignment == "none"

    def test_are_accepted_by_register(self, logic, parameters):
        assert logic.register(**logic.argumentsFrom(parameters)).transformNode is not None


class TestProblems:
    def test_are_none_for_two_volumes(self, logic, parameters):
        assert logic.problems(**logic.argumentsFrom(parameters)) == []

    def test_ask_for_volumes(self, logic):
        assert len(logic.problems(**logic.argumentsFrom(logic.getParameterNode()))) == 1

    def test_name_an_output_that_is_an_input(self, logic, parameters):
        parameters.outputVolume = parameters.movingVolume
        (problem,) = logic.problems(**logic.argumentsFrom(parameters))
        assert "CT2" in problem


class TestRegister:
    def test_writes_into_the_given_output(self, logic, pair, scene):
        output = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Mine")
        outcome = logic.register(pair.fixedVolume, pair.movingVolume, outputTransform=output)
        assert outcome.transformNode is output

    def test_calls_back_when_not_waited_for(self, logic, pair):
        outcomes = []
        logic.register(pair.fixedVolume, pair.movingVolume, wait=False, onFinished=outcomes.append)
        wait_for(logic, lambda: outcomes)
        assert outcomes[0].warpedVolumeNode is not None

    def test_has_ended_when_it_calls_back(self, logic, pair):
        states = []
        logic.register(
            pair.fixedVolume, pair.movingVolume, wait=False, onFinished=lambda _outcome: states.append(logic.isRunning)
        )
        wait_for(logic, lambda: states)
        assert states == [False]

    def test_raises_what_went_wrong_and_what_to_do(self, logic, pair, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "fail")
        with pytest.raises(RuntimeError, match=r"do not overlap\. Align them first"):
            logic.register(pair.fixedVolume, pair.movingVolume)

    def test_refuses_a_second_one_meanwhile(self, logic, pair, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "hang")
        logic.register(pair.fixedVolume, pair.movingVolume, wait=False)
        with pytest.raises(RuntimeError, match="running already"):
            logic.register(pair.fixedVolume, pair.movingVolume)

    def test_refuses_an_unknown_option(self, logic, pair):
        with pytest.raises(TypeError, match="recursion_count"):
            logic.register(pair.fixedVolume, pair.movingVolume, recursion_count=3)

    def test_can_be_tried_again_after_a_refusal(self, logic, pair):
        with pytest.raises(ValueError, match="same volume"):
            logic.register(pair.fixedVolume, pair.fixedVolume)
        assert logic.register(pair.fixedVolume, pair.movingVolume) is not None

    def test_cancelled_leaves_the_scene_as_it_was(self, logic, pair, scene, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "work until cancelled")
        before, failures = node_ids(scene), []
        logic.register(pair.fixedVolume, pair.movingVolume, wait=False, onFailed=failures.append)
        logic.cancel()
        wait_for(logic, lambda: failures)
        assert node_ids(scene) == before

    def test_closed_is_silent(self, logic, pair):
        calls = []
        logic.register(pair.fixedVolume, pair.movingVolume, wait=False, onFinished=calls.append, onFailed=calls.append)
        logic.close()
        assert not logic.isRunning
        assert not calls


class TestTexts:
    def test_stages_leave_out_what_is_not_chosen(self, parameters):
        parameters.method, parameters.refine = Parameters.MethodChoice.REFINEMENT_ONLY, False
        parameters.alignment = Parameters.Alignment.NONE
        assert PanelProgress.stagesOf(parameters) == ["export", "load", "evaluate", "write", "import"]

    def test_stages_are_those_of_the_contract(self):
        assert list(PanelProgress.STAGE_WEIGHTS) == ["export", *contract.STAGES, "import"]

    def test_progress_counts_within_a_stage(self):
        assert PanelProgress.stageText(contract.Progress("recursion", 2, 3)) == "Recursion: 2 of 3"

    def test_summary_compares_before_and_after(self, logic, pair):
        summary = PanelProgress.summaryOf(logic.register(pair.fixedVolume, pair.movingVolume))
        assert "Overlap (Dice) 0.50 before, 0.90 after." in summary
        assert "Landmark error 8.0 mm before, 1.0 mm after." in summary

    def test_summary_ends_in_the_warnings(self, logic, pair):
        summary = PanelProgress.summaryOf(logic.register(pair.fixedVolume, pair.movingVolume))
        assert summary.splitlines()[-1] == "A warning."


class TestModule:
    def test_has_title_help_and_category(self, monkeypatch):
        monkeypatch.setattr(slicer, "app", SimpleNamespace(connect=lambda *_: None), raising=False)
        parent = SimpleNamespace(path=module.__file__)
        module.DeepAttentionReg(parent)
        assert parent.title
        assert parent.categories == ["Registration"]
        # A module whose logic or node classes are used must be loaded first, or the user may have turned it off.
        assert {"Colors", "Plots", "SampleData", "Sequences"} <= set(parent.dependencies)
        assert "https://" in parent.helpText

    def test_lists_its_cases_clears_what_others_left_and_knows_its_layout_when_slicer_has_started(self, monkeypatch):
        calls, done = [], []
        monkeypatch.setattr(slicer, "app", SimpleNamespace(connect=lambda *call: calls.append(call)), raising=False)
        monkeypatch.setattr(SampleCases, "registerSampleData", done.append)
        monkeypatch.setattr(Folders, "removeLeft", lambda: done.append("removed"))
        monkeypatch.setattr(SavedViews, "prepare", lambda: done.append("prepared"))
        module.DeepAttentionReg(SimpleNamespace(path=module.__file__))
        for signal, call in calls:
            assert signal == "startupCompleted()"
            call()
        assert Path(done[0]).is_file()
        assert done[1:] == ["removed", "prepared"]
