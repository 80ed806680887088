"""The DeepAttentionReg module: its place in Slicer, its panel, the logic that scripts call, its self test."""

import dataclasses
import functools
import sys
import unittest
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

import DeepAttentionRegLib as lib
from DeepAttentionRegEngine.protocol.privacy import discreet_logger
from DeepAttentionRegLib.nodes.Present import present

logger = discreet_logger(__name__)

HOMEPAGE = "https://github.com/DeepAttentionReg/SlicerDeepAttentionReg"
PACKAGES = ("DeepAttentionRegLib", "DeepAttentionRegEngine")
VOLUME_CLASS = "vtkMRMLScalarVolumeNode"


class DeepAttentionReg(ScriptedLoadableModule):
    """Name, place and help of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Deep Attention Registration")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = ["Colors", "Plots", "SampleData", "Sequences"]
        parent.contributors = ["DeepAttentionReg contributors"]
        parent.helpText = _(
            "Deformable registration of two volumes by recursive attention networks and by optimization on the pair,"
            " with the evidence to judge it: Jacobian map, folds, overlap and landmark error."
            ' See the <a href="{url}">documentation</a>.'
        ).format(url=HOMEPAGE)
        parent.acknowledgementText = _(
            "The RMAn-style network follows: Zheng, Wang, Huang, Lim, Vincent, Papiez. Recursive Deformable Image"
            " Registration Network with Mutual Attention. MIUA 2022. Please cite it if you use the network."
        )
        for prepare in (self.listSamples, self.removeLeftFolders, self.prepareViews):
            slicer.app.connect("startupCompleted()", prepare)

    def listSamples(self):
        """Add the cases to try the module with to Slicer's sample data; called when Slicer has started."""
        lib.SampleCases.registerSampleData(self.resourcePath("Icons/BreathingPhantom.png"))

    def removeLeftFolders(self):
        """Remove the temporary folders of applications that ended without doing so; called when Slicer has started."""
        lib.Folders.removeLeft()

    def prepareViews(self):
        """Know the layout of three, and mind the views of scenes that are opened; called when Slicer has started."""
        lib.SavedViews.prepare()


class DeepAttentionRegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: binds its widgets to the parameter node, starts and stops the logic, tells how it goes.

    `_updateGui` derives the state of all widgets from the parameter node and from what is going on; each section of
    the panel (DeepAttentionRegLib/panel) does so for its own widgets.
    """

    def __init__(self, parent=None):
        self.logic = DeepAttentionRegLogic()
        self._parameterNode: Any = None
        self._parameterNodeGuiTag = None
        self._isUpdating = False
        self._preview = None
        self._sections: tuple[Any, ...] = ()
        # This initializes the mixin too, and without a parent it calls setup already.
        super().__init__(parent)

    def setup(self):
        """Build the panel; called when the user opens the module the first time, and after a reload."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/DeepAttentionReg.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self._addSections()
        self.ui.swapButton.connect("clicked(bool)", self.onSwapButton)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneReady)
        self.addObserver(scene, scene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneReady)
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodeRemoved)
        self.initializeParameterNode()

    def _addSections(self):
        # What they need takes a moment to import, which Slicer's start should not wait for.
        from DeepAttentionRegLib.panel import Arguments, Parts, Progress
        from DeepAttentionRegLib.panel.BatchSection import BatchSection
        from DeepAttentionRegLib.panel.EngineSection import EngineSection
        from DeepAttentionRegLib.panel.InspectionSection import InspectionSection
        from DeepAttentionRegLib.panel.MethodSection import MethodSection
        from DeepAttentionRegLib.panel.RunSection import RunSection
        from DeepAttentionRegLib.panel.SegmentsSection import SegmentsSection
        from DeepAttentionRegLib.panel.SequenceSection import SequenceSection
        from DeepAttentionRegLib.panel.WarpSection import WarpSection
        from DeepAttentionRegLib.views import Preview, ResultView

        ui = self.ui
        self._arguments, self._previews, self._progress, self._resultView = Arguments, Preview, Progress, ResultView
        self._method = MethodSection(ui, self._tell)
        self._engine = EngineSection(ui, self.logic, self._tell, self._method.onImportWeights)
        self._run = RunSection(ui, self._updateGui, self.logic, self._engine)
        self._warp = WarpSection(ui, self._run)
        self._sequence = SequenceSection(ui, self._run, self.logic)
        self._inspection = InspectionSection(ui, self._run, self.logic, self.resourcePath)
        self._batch = BatchSection(ui, self._run, self.logic, self.resourcePath)
        self._sections = (
            SegmentsSection(ui, self._tell),
            self._run,
            self._method,
            self._engine,
            self._inspection,
            self._warp,
            self._sequence,
            self._batch,
        )
        self._fitter = Parts.arrange(ui)

    def cleanup(self):
        """Stop what runs and let go of the scene; called before a reload and when Slicer ends."""
        self.logic.close()
        self._closePreview()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Show the choices of the scene; called each time the user opens the module, even if `setup` has failed."""
        if self._sections:
            self.initializeParameterNode()

    def exit(self):
        """Stop following the choices; called each time the user opens a different module."""
        self.setParameterNode(None)

    def onReload(self):
        """Reload the module and its packages."""
        # The module file imports what is forgotten here anew, in the order the files need each other.
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller=None, event=None):
        """Give up the run, whose volumes are about to vanish, and the parameter node."""
        self._run.clear()
        self.logic.cancel()
        self._closePreview()
        self.setParameterNode(None)

    def onSceneStartImport(self, caller=None, event=None):
        """Give up the parameter node, which may be about to get choices that mean nothing here."""
        self.setParameterNode(None)

    def onSceneReady(self, caller=None, event=None):
        """Take the parameter node of the emptied or newly loaded scene."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, caller, event, node):
        """Let go of a chosen node before its selector, which would choose a neighbor in its place, hears of it."""
        if self._parameterNode is not None:
            lib.Parameters.letGo(self._parameterNode.parameterNode, node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeRemoved(self, caller, event, node):
        """Show no longer what was removed."""
        if node.IsA("vtkMRMLVolumeNode") or node.IsA("vtkMRMLTransformNode"):
            self._updateGui()

    def initializeParameterNode(self):
        """Follow the parameter node of the scene, and choose the volumes where there is no doubt which."""
        self._engine.look()
        choices, notice = self.logic.readChoices()
        self.setParameterNode(choices)
        if notice:
            self._tell(notice)
        parameters = self._chosen
        volumes = [node for node in slicer.util.getNodesByClass(VOLUME_CLASS) if _isVolume(node)]
        if not parameters.fixedVolume and not parameters.movingVolume and len(volumes) == 2:
            parameters.fixedVolume, parameters.movingVolume = volumes

    @property
    def _chosen(self):
        """The choices of the scene, while the panel follows them."""
        return present(self._parameterNode)

    def setParameterNode(self, parameterNode):
        """Bind the panel to a parameter node.

        :param parameterNode: node to bind to; None unbinds.
        """
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self._updateGui)
        self._parameterNode = parameterNode
        for section in self._sections:
            section.follow(parameterNode)
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            # Not of the wrapper, which would be kept, with an observer for every choice, after the panel has let it go.
            self.addObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self._updateGui)
            self._updateGui()

    def onSwapButton(self):
        """Exchange fixed and moving inputs."""
        parameters = self._chosen
        with slicer.util.NodeModify(parameters):
            for kind in ("Volume", "Segmentation", "Mask", "Landmarks"):
                pair = getattr(parameters, f"fixed{kind}"), getattr(parameters, f"moving{kind}")
                setattr(parameters, f"fixed{kind}", pair[1])
                setattr(parameters, f"moving{kind}", pair[0])

    def onApplyButton(self):
        """Start the registration, or cancel the one that runs."""
        if self.logic.isRunning:
            self._run.cancel()
            return
        arguments = self.logic.argumentsFrom(self._chosen)
        begin = functools.partial(self.logic.register, **arguments, onProgress=self._onProgress)
        if self._run.start(begin, onFinished=self._onFinished, onFailed=self._onFailed):
            self._openPreview()

    def _openPreview(self):
        parameters = self._chosen
        if parameters.preview:
            self._preview = self._previews.Preview(parameters.fixedVolume, parameters.movingVolume)

    def _closePreview(self):
        preview, self._preview = self._preview, None
        if preview is not None:
            preview.close()

    def _onProgress(self, progress):
        self._run.show(progress)
        if progress.file is not None and self._preview is not None:
            self._showField(self._preview, progress.file)

    def _showField(self, preview, path):
        try:
            preview.show(path)
        except Exception:
            # A registration does not depend on being watched.
            logger.exception("The deformation could not be shown")
            self._closePreview()

    def _onFinished(self, outcome):
        self._closePreview()
        self._resultView.show(outcome)
        # While another module is open the panel follows no choices, but the scene has them.
        parameters = self._parameterNode or self.logic.getParameterNode()
        parameters.inspected = parameters.warpTransform = outcome.transformNode
        self._run.tell(self._progress.summaryOf(outcome), self._progress.verdictOf(outcome))

    def _onFailed(self, failure):
        self._closePreview()
        self._run.onFailed(failure)

    def _tell(self, message):
        """Show a message until the next one."""
        self._run.tell(message)

    def _updateGui(self, caller=None, event=None):
        # What is updated may change a choice, which would call this again.
        if not self._parameterNode or self._isUpdating:
            return
        self._isUpdating = True
        try:
            self._method.update(self._engine.onGpu)
            self._engine.update(self._method.lacksWeights)
            self._inspection.update()
            self._warp.update()
            self._updateChoices()
            self._run.update(self._problem())
            otherProblem = self._method.problem or self._engine.problem or self._arguments.checkChoice(self._chosen)
            self._sequence.update(otherProblem)
            self._batch.update(otherProblem)
        finally:
            self._isUpdating = False

    def _updateChoices(self):
        parameters, ui, isRunning = self._chosen, self.ui, self.logic.isRunning
        for name in ("inputs", "method", "refinement", "outputs", "inspection", "warp", "sequence", "batch"):
            getattr(ui, f"{name}CollapsibleButton").enabled = not isRunning
        ui.previewCheckBox.enabled = not isRunning
        ui.structuresCheckBox.enabled = self._arguments.seesStructures(parameters)
        ui.alignmentComboBox.enabled = parameters.initialTransform is None
        for widget in (ui.refinementStepsSlider, ui.similarityComboBox, ui.smoothnessSlider, ui.velocityCheckBox):
            widget.enabled = parameters.refine
        self._method.showEstimate(self.logic.argumentsFrom(parameters)["settings"], self.logic.speeds)

    def _problem(self):
        """Return the first reason why the registration cannot be started, or an empty text."""
        problems = self.logic.problems(**self.logic.argumentsFrom(self._chosen))
        reasons = (self._engine.problem, self._method.problem, *problems, self._arguments.checkChoice(self._chosen))
        return next((reason for reason in reasons if reason), "")


def _isVolume(node):
    """Return whether a node is a volume that the panel offers; label maps and previews are not."""
    return node.GetClassName() == VOLUME_CLASS and not node.GetHideFromEditors()


class DeepAttentionRegLogic(ScriptedLoadableModuleLogic):
    """Registers volumes; for scripts as for the panel. One registration at a time runs in each instance.

    Example::

        outcome = DeepAttentionRegLogic().register(fixedVolume, movingVolume, method="rman", refinementSteps=60)
        print(outcome.transformNode.GetName(), outcome.result.values["jacobian"])
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        # What runs the engine.
        self.engine = lib.Engine.Engine(lib.Interpreter.savedInterpreter())
        # What the engine sees of this computer, once `checkEngine` was told it.
        self.environment = None
        self._check = None
        self._registration = None

    def getParameterNode(self):
        """Return the choices stored in the scene."""
        return self.readChoices()[0]

    def readChoices(self):
        """Return the choices stored in the scene, and a sentence on those that had to be given up; empty if none."""
        return lib.Parameters.read(ScriptedLoadableModuleLogic.getParameterNode(self))

    @property
    def otherPython(self):
        """The Python that runs the engine in place of Slicer's own; None if that does."""
        return self.engine.python

    @property
    def speeds(self):
        """Speed of this computer's devices by name; None if it is not known."""
        return self.environment and self.environment.speeds

    @property
    def isRunning(self):
        """Whether a registration was started and has not ended yet."""
        return self._registration is not None and self._registration.isRunning

    def register(
        self,
        fixedVolume,
        movingVolume,
        method=None,
        recursions=None,
        *,
        settings=None,
        wait=True,
        onProgress=None,
        onFinished=None,
        onFailed=None,
        **options,
    ):
        """Register the moving to the fixed volume. The scene does not change until the registration has succeeded.

        :param fixedVolume: scalar volume that stays.
        :param movingVolume: scalar volume to deform; a linear parent transform of it is the start.
        :param method: name of a method, or "none" for alignment and refinement alone.
        :param recursions: passes of the network; None takes as many as the quality does.
        :param settings: the engine's `Settings`; None for the usual ones.
        :param wait: return when it is done, keeping the application responsive; otherwise return at once.
        :param onProgress: called in the main thread with every `contract.Progress`.
        :param onFinished: called in the main thread with the `Results.Outcome`.
        :param onFailed: called in the main thread with the `contract.Failure`; once this or `onFinished` is called.
        :param options: fixedMask, movingMask, fixedSegmentation, movingSegmentation, fixedLandmarks, movingLandmarks,
            initialTransform as in `InputNodes`; single `Settings` in this side's spelling, such as quality,
            refinementSteps, smoothness, transformGrid; what to keep as in `Request.Kept`; existing nodes to write into:
            outputTransform, outputVolume, outputJacobian, outputError, outputSegmentation.
        :return: the `Results.Outcome`; None if not waited for.
        :raises ValueError: if the inputs or options cannot work.
        :raises RuntimeError: if one is running already, or, waited for, if it failed or was canceled.
        """
        nodes = {"fixedVolume": fixedVolume, "movingVolume": movingVolume}
        chosen = {"method": method, "recursions": recursions}
        given = {name: value for name, value in chosen.items() if value is not None}
        request = self._requestOf({**nodes, **given, **options}, settings)
        calls = {"onProgress": onProgress, "onFinished": onFinished, "onFailed": onFailed}
        return self.run(functools.partial(lib.Registration.PairRegistration, request), wait=wait, **calls)

    def registerSequence(
        self,
        sequenceNode,
        referenceFrame=0,
        *,
        settings=None,
        withVolumes=False,
        keepPartial=False,
        wait=True,
        onProgress=None,
        onFinished=None,
        onFailed=None,
        **options,
    ):
        """Register all frames of a sequence of volumes to one of them.

        :param sequenceNode: the volumes.
        :param referenceFrame: the frame that stays, counted from 0.
        :param settings: as in `register`.
        :param withVolumes: also make a sequence of the warped volumes.
        :param keepPartial: put the frames done so far into the scene if it ends early.
        :param wait: as in `register`.
        :param onProgress: called in the main thread with every `Sequences.FrameProgress`.
        :param onFinished: called in the main thread with the `Sequences.SequenceOutcome`.
        :param onFailed: as in `register`.
        :param options: single `Settings`, as in `register`.
        :return: the `Sequences.SequenceOutcome`; None if not waited for.
        :raises ValueError: if the sequence or the options cannot work.
        :raises RuntimeError: as `register`.
        """
        make = functools.partial(
            lib.Sequences.SequenceRegistration,
            sequenceNode,
            referenceFrame,
            lib.Request.settingsOf(options, settings),
            withVolumes=withVolumes,
            keepPartial=keepPartial,
        )
        return self.run(make, wait=wait, onProgress=onProgress, onFinished=onFinished, onFailed=onFailed)

    @staticmethod
    def _requestOf(arguments, settings=None):
        return lib.Request.requestOf(arguments, settings)

    def run(self, make, *, wait=True, onProgress=None, onFinished=None, onFailed=None):
        """Run anything that works as a `Task.Task`, such as those in Maps, Uncertainty and Batch.

        :param make: returns it when it is called with `callbacks` and `engine` as keyword arguments.
        :param wait: as in `register`; so are the others.
        :return: its outcome; None if not waited for.
        :raises ValueError: if it cannot work; says why.
        :raises RuntimeError: as `register`.
        """
        if self.isRunning:
            raise RuntimeError(_("A registration is running already; cancel it or wait for its end."))
        self._closeCheck()
        calls = {"onProgress": onProgress, "onFinished": self._ending(onFinished), "onFailed": self._ending(onFailed)}
        callbacks = lib.Callbacks.Callbacks(**{name: call for name, call in calls.items() if call})
        self._registration = task = make(callbacks=callbacks, engine=self.engine)
        try:
            task.start()
            return task.wait() if wait else None
        finally:
            if self._registration is task and not task.isRunning:
                self._registration = None

    def _ending(self, callback):
        """Return a callback for the end, in which nothing runs any more, nor is kept."""

        def call(value):
            self._registration = None
            if callback:
                callback(value)

        return call

    def checkEngine(self, onDone):
        """Ask the engine in the background what it sees of this computer; `environment` is its answer.

        It is asked once, and again only if it could not run.

        :param onDone: called in the main thread when there is a new answer.
        """
        known = self.environment is not None and not self.environment.problem
        if known or self.isRunning or self._check is not None:
            return

        def onAnswer(environment):
            self._check, self.environment = None, environment
            onDone()

        self._startCheck(onAnswer, self.engine)

    def usePython(self, python, onDone):
        """Have another Python run the engine, on this computer from now on, unless it turns out that it cannot.

        :param python: path of an interpreter.
        :param onDone: called in the main thread with a sentence on what is wrong with it; empty if it is used now.
        """
        engine = dataclasses.replace(self.engine, python=python)

        def onAnswer(environment):
            self._check = None
            if not environment.problem:
                self.environment, self.engine = environment, engine
                lib.Interpreter.saveInterpreter(python)
            onDone(environment.problem)

        self._closeCheck()
        self._startCheck(onAnswer, engine)

    def useOwnPython(self):
        """Have Slicer's own Python run the engine again."""
        self._closeCheck()
        self.engine = dataclasses.replace(self.engine, python=None)
        self.environment = None
        lib.Interpreter.saveInterpreter(None)

    def _startCheck(self, onAnswer, engine):
        self._check = lib.Interpreter.Check(onAnswer, engine)
        self._check.start()

    def _closeCheck(self):
        """Let nothing compete with a registration."""
        if self._check is not None:
            self._check.close()
            self._check = None

    def cancel(self):
        """Stop the running registration, if any, at the next opportunity; `onFailed` tells when it has stopped."""
        if self._registration is not None:
            self._registration.cancel()

    def finish(self):
        """Have what runs, if anything, end early with the best field so far, or with the frames so far."""
        if self._registration is not None:
            self._registration.finish()

    def close(self):
        """End the running registration, if any, at once; no callback is called any more."""
        self._closeCheck()
        registration, self._registration = self._registration, None
        if registration is not None:
            registration.close()

    def problems(self, *, settings=None, **arguments):
        """Return why `register` would refuse these arguments, as sentences."""
        return lib.Registration.checkAll(self._requestOf(arguments, settings))

    @staticmethod
    def argumentsFrom(parameters):
        """Return the arguments of `register` for the choices of the panel.

        :param parameters: a `DeepAttentionRegParameterNode`.
        """
        from DeepAttentionRegLib.panel import Arguments

        return Arguments.ofPair(parameters)


class DeepAttentionRegTest(ScriptedLoadableModuleTest):
    """Registers a phantom with known deformation in Slicer, by the engine proper."""

    def runTest(self):
        """Run all tests; the Reload and Test button calls this."""
        self.setUp()
        try:
            self.test_refinement_brings_landmarks_closer()
        except unittest.SkipTest as reason:
            self.delayDisplay(str(reason))

    def setUp(self):
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def test_refinement_brings_landmarks_closer(self):
        """The whole way from nodes to nodes, without a network."""
        finding = lib.Install.probe()
        if finding.state is not lib.Install.State.READY:
            self.skipTest(finding.message)
        from DeepAttentionRegEngine.phantom import thorax

        geometry = thorax.default_geometry((48, 40, 48), (7.0, 6.0, 7.0))
        inputs = vars(lib.SampleCases.addPhantom(geometry))
        outcome = DeepAttentionRegLogic().register(**inputs, method="none", refinementSteps=20)
        before, after = (outcome.result.values[state]["tre_mm"]["mean"] for state in ("before", "after"))
        self.assertLess(after, 0.7 * before)  # noqa: PT009 - Slicer runs this without pytest
