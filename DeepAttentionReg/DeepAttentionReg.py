"""The DeepAttentionReg module: its place in Slicer, its panel, the logic that scripts call, its self test."""

import logging
import sys
import unittest

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin

from DeepAttentionRegLib import Install, Methods
from DeepAttentionRegLib.Parameters import Alignment, DeepAttentionRegParameterNode, Method

HOMEPAGE = "https://github.com/DeepAttentionReg/SlicerDeepAttentionReg"
PACKAGES = ("DeepAttentionRegLib", "DeepAttentionRegEngine")
VOLUME_CLASS = "vtkMRMLScalarVolumeNode"
INPUT_NAMES = (
    "fixedVolume",
    "movingVolume",
    "fixedSegmentation",
    "movingSegmentation",
    "fixedMask",
    "movingMask",
    "fixedLandmarks",
    "movingLandmarks",
)
# Arguments of `register` that name existing nodes to write into, and what they become in `Results.Outputs`.
OUTPUT_NAMES = {
    "outputTransform": "transformNode",
    "outputVolume": "warpedVolumeNode",
    "outputJacobian": "jacobianVolumeNode",
    "outputSegmentation": "warpedSegmentationNode",
}
FOREGROUND_OPACITY = 0.5
# Share of the time that the stages of a registration take, in their order.
STAGE_WEIGHTS = {
    "export": 1,
    "load": 1,
    "align": 3,
    "recursion": 4,
    "refine": 12,
    "evaluate": 2,
    "write": 1,
    "import": 1,
}


class DeepAttentionReg(ScriptedLoadableModule):
    """Name, place and help of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Deep Attention Registration")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = []
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


class DeepAttentionRegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: binds its widgets to the parameter node, starts and stops the logic, tells how it goes.

    `_updateGui` derives the state of all widgets from the parameter node and from what is going on.
    """

    def __init__(self, parent=None):
        self.logic = DeepAttentionRegLogic()
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._finding = None
        self._shownMethod = None
        self._isInstalling = False
        self._isCanceling = False
        self._message = ""
        self._stages = []
        # This initializes the mixin too, and without a parent it calls setup already.
        super().__init__(parent)

    def setup(self):
        """Build the panel; called when the user opens the module the first time, and after a reload."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/DeepAttentionReg.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneReady)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneReady)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.ui.installButton.connect("clicked(bool)", self.onInstallButton)
        self.initializeParameterNode()

    def cleanup(self):
        """Stop what runs and let go of the scene; called before a reload and when Slicer ends."""
        self.logic.close()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Show the choices of the scene; called each time the user opens the module."""
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
        self._message = ""
        self.logic.cancel()
        self.setParameterNode(None)

    def onSceneReady(self, caller=None, event=None):
        """Take the parameter node of the emptied or newly loaded scene."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Follow the parameter node of the scene, and choose the volumes where there is no doubt which."""
        self._finding = Install.probe()
        if self._finding.state is Install.State.READY:
            self.logic.measureSpeed(self._updateGui)
        self.setParameterNode(self.logic.getParameterNode())
        parameters = self._parameterNode
        volumes = [node for node in slicer.util.getNodesByClass(VOLUME_CLASS) if node.GetClassName() == VOLUME_CLASS]
        if not parameters.fixedVolume and not parameters.movingVolume and len(volumes) == 2:
            parameters.fixedVolume, parameters.movingVolume = volumes

    def setParameterNode(self, parameterNode):
        """Bind the panel to a parameter node.

        :param parameterNode: node to bind to; None unbinds.
        """
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._updateGui)
        self._parameterNode = parameterNode
        self._shownMethod = None
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._updateGui)
            self._updateGui()

    def onApplyButton(self):
        """Start the registration, or cancel the one that runs."""
        if self.logic.isRunning:
            self._isCanceling = True
            self.logic.cancel()
            self._updateGui()
            return
        self._finding = Install.probe()
        if self._finding.state is not Install.State.READY:
            self.onInstallButton()
            return
        self._isCanceling = False
        self._message = ""
        self._stages = _stagesOf(self._parameterNode)
        self.ui.progressBar.value = 0
        try:
            # Exporting the volumes takes a moment during which the application cannot react.
            with slicer.util.tryWithErrorDisplay(show=False, waitCursor=True):
                self.logic.register(
                    **self.logic.argumentsFrom(self._parameterNode),
                    wait=False,
                    onProgress=self._onProgress,
                    onFinished=self._onFinished,
                    onFailed=self._onFailed,
                )
        except Exception as error:
            logging.exception("The registration could not be started")
            self._message = _("The registration could not be started. {reason}").format(reason=error)
        self._updateGui()

    def onInstallButton(self):
        """Install PyTorch if the user agrees."""
        self._isInstalling = True
        self._message = ""
        self._updateGui()
        try:
            if not Install.install(self._finding, logging.info, self._onInstalled):
                self._onInstalled(_("PyTorch was not installed."))
        except Exception as error:
            logging.exception("PyTorch could not be installed")
            self._onInstalled(_("PyTorch could not be installed. {reason}").format(reason=error))

    def _onInstalled(self, problem):
        self._isInstalling = False
        self._message = problem or _("PyTorch is installed.")
        self._finding = Install.probe()
        self._updateGui()

    def _onProgress(self, progress):
        if progress.stage in self._stages:
            weights = [STAGE_WEIGHTS[stage] for stage in self._stages]
            index = self._stages.index(progress.stage)
            done = sum(weights[:index]) + weights[index] * progress.step / max(progress.of, 1)
            self.ui.progressBar.value = round(100 * done / sum(weights))
        self._message = _stageText(progress)
        self._updateGui()

    def _onFinished(self, outcome):
        self._message = _summaryOf(outcome)
        self._updateGui()
        slicer.util.setSliceViewerLayers(
            background=outcome.transformNode.GetNodeReference(outcome.transformNode.GetFixedNodeReferenceRole()),
            foreground=outcome.warpedVolumeNode,
            foregroundOpacity=FOREGROUND_OPACITY,
            fit=True,
        )

    def _onFailed(self, failure):
        self._message = f"{failure.message} {failure.hint}".strip()
        self._updateGui()

    def _updateGui(self, caller=None, event=None):
        parameters, ui, isRunning = self._parameterNode, self.ui, self.logic.isRunning
        if not parameters:
            return
        self._offerRecursions()
        for section in (ui.inputsCollapsibleButton, ui.methodCollapsibleButton, ui.outputsCollapsibleButton):
            section.enabled = not isRunning
        ui.refinementCollapsibleButton.enabled = not isRunning
        ui.recursionsSlider.enabled = parameters.method is not Method.REFINEMENT_ONLY
        for widget in (ui.refinementStepsSlider, ui.similarityComboBox, ui.smoothnessSlider, ui.velocityCheckBox):
            widget.enabled = parameters.refine
        ui.estimateLabel.text = Methods.estimateText(self.logic.argumentsFrom(parameters), self.logic.speeds)
        ui.estimateLabel.visible = bool(ui.estimateLabel.text)
        isReady = self._finding.state is Install.State.READY
        ui.installWidget.visible = not isReady
        ui.installLabel.text = self._finding.message
        ui.installButton.enabled = not self._isInstalling
        problem = "" if isRunning else self._problem()
        ui.applyButton.enabled = not (problem or (isRunning and self._isCanceling))
        ui.applyButton.text = _applyText(isRunning, self._isCanceling)
        ui.applyButton.toolTip = problem or _applyToolTip(isRunning)
        ui.progressBar.visible = isRunning
        ui.statusLabel.text = "\n".join(text for text in (problem, self._message) if text)

    def _offerRecursions(self):
        """Give the slider the range of a newly chosen method."""
        parameters, slider = self._parameterNode, self.ui.recursionsSlider
        if parameters.method is Method.REFINEMENT_ONLY or parameters.method is self._shownMethod:
            return
        previous = self._shownMethod and self._shownMethod.value
        choice = Methods.recursionChoice(parameters.method.value, parameters.recursions, previous)
        self._shownMethod = parameters.method
        # Both ranges first, or the slider would bend the number on its way.
        slider.minimum, slider.maximum = min(slider.minimum, choice.minimum), max(slider.maximum, choice.maximum)
        parameters.recursions = choice.value
        slider.minimum, slider.maximum, slider.toolTip = choice.minimum, choice.maximum, choice.toolTip

    def _problem(self):
        """Return the first reason why the registration cannot be started, or an empty text."""
        if self._isInstalling:
            return _("PyTorch is being installed. This takes some minutes; Slicer can be used meanwhile.")
        parameters = self._parameterNode
        problems = self.logic.problems(**self.logic.argumentsFrom(parameters))
        isLinear = parameters.alignment in (Alignment.RIGID, Alignment.AFFINE)
        if parameters.method is Method.REFINEMENT_ONLY and not parameters.refine and not isLinear:
            problems.append(_("Nothing would be registered: choose a method or turn on the refinement."))
        return problems[0] if problems else ""


def _applyText(isRunning, isCanceling):
    if not isRunning:
        return _("Apply")
    return _("Canceling...") if isCanceling else _("Cancel")


def _applyToolTip(isRunning):
    if isRunning:
        return _("Stop the registration. The scene stays as it was.")
    return _("Register the moving volume to the fixed volume.")


def _stagesOf(parameters):
    """Return the stages that these choices lead through."""
    skipped = {
        "align": parameters.alignment is Alignment.NONE,
        "recursion": parameters.method is Method.REFINEMENT_ONLY,
        "refine": not parameters.refine,
    }
    return [stage for stage in STAGE_WEIGHTS if not skipped.get(stage, False)]


def _stageText(progress):
    texts = {
        "export": _("Passing the volumes on"),
        "load": _("Reading the volumes"),
        "align": _("Initial alignment"),
        "recursion": _("Recursion"),
        "refine": _("Refinement"),
        "evaluate": _("Measuring the result"),
        "write": _("Writing the result"),
        "import": _("Loading the result"),
    }
    text = texts.get(progress.stage, progress.message)
    if not progress.of:
        return text
    return _("{stage}: {step} of {of}").format(stage=text, step=progress.step, of=progress.of)


def _summaryOf(outcome):
    """Return what a registration has brought, in sentences."""
    values = outcome.result.values
    before, after = (values.get(state, {}) for state in ("before", "after"))
    sentences = [_('Created the transform "{name}".').format(name=outcome.transformNode.GetName())]
    texts = {
        "dice": _("Overlap (Dice) {before:.2f} before, {after:.2f} after."),
        "tre_mm": _("Landmark error {before:.1f} mm before, {after:.1f} mm after."),
    }
    for measure, text in texts.items():
        means = [scores.get(measure, {}).get("mean") for scores in (before, after)]
        if None not in means:
            sentences.append(text.format(before=means[0], after=means[1]))
    sentences.append(_("{percent:.2f} % of the voxels are folded.").format(percent=values["jacobian"]["fold_percent"]))
    return "\n".join([*sentences, *outcome.result.warnings])


class DeepAttentionRegLogic(ScriptedLoadableModuleLogic):
    """Registers volumes; for scripts as for the panel. One registration at a time runs in each instance.

    Example::

        outcome = DeepAttentionRegLogic().register(fixedVolume, movingVolume, method="rman", refinementSteps=60)
        print(outcome.transformNode.GetName(), outcome.result.values["jacobian"])
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        # Keyword arguments of Registration that choose another interpreter or engine.
        self.engineOptions = {}
        # Speed of this computer's devices by name, once `measureSpeed` was told it; empty if it cannot be told.
        self.speeds = None
        self._speedJob = None
        self._registration = None

    def getParameterNode(self):
        """Return the choices stored in the scene."""
        return DeepAttentionRegParameterNode(ScriptedLoadableModuleLogic.getParameterNode(self))

    @property
    def isRunning(self):
        """Whether a registration was started and has not ended yet."""
        return self._registration is not None and self._registration.isRunning

    def register(
        self,
        fixedVolume,
        movingVolume,
        method="rman",
        recursions=None,
        *,
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
        :param recursions: passes of the network; None takes the method's usual number.
        :param wait: return when it is done, keeping the application responsive; otherwise return at once.
        :param onProgress: called in the main thread with every `contract.Progress`.
        :param onFinished: called in the main thread with the `Results.Outcome`.
        :param onFailed: called in the main thread with the `contract.Failure`; once this or `onFinished` is called.
        :param options: fixedMask, movingMask, fixedSegmentation, movingSegmentation, fixedLandmarks, movingLandmarks
            as in `Volumes.Inputs`; weights, device, alignment, refinementSteps, similarity, smoothness, velocity,
            halfPrecision, keepRecursions, keepAttention, keepGaussians, evidenceFolder, seed as in
            `Registration.Settings`; existing nodes to write into: outputTransform, outputVolume, outputJacobian,
            outputSegmentation.
        :return: the `Results.Outcome`; None if not waited for.
        :raises ValueError: if the inputs or options cannot work.
        :raises RuntimeError: if one is running already, or, waited for, if it failed or was canceled.
        """
        from DeepAttentionRegLib import Registration

        if self.isRunning:
            raise RuntimeError(_("A registration is running already; cancel it or wait for its end."))
        arguments = {"fixedVolume": fixedVolume, "movingVolume": movingVolume, "method": method}
        inputs, settings, outputs = _sorted({**arguments, "recursions": recursions, **options})
        calls = {"onProgress": onProgress, "onFinished": self._ending(onFinished), "onFailed": self._ending(onFailed)}
        callbacks = Registration.Callbacks(**{name: call for name, call in calls.items() if call})
        registration = Registration.Registration(inputs, settings, outputs, callbacks, **self.engineOptions)
        self._stopMeasuringSpeed()
        self._registration = registration
        registration.start()
        return registration.wait() if wait else None

    def _ending(self, callback):
        """Return a callback for the end, in which nothing runs any more."""

        def call(value):
            self._registration = None
            callback(value)

        return callback and call

    def measureSpeed(self, onDone):
        """Have the engine measure the speed of this computer in the background, once; estimates take it from `speeds`.

        :param onDone: called in the main thread when `speeds` is set.
        """
        from DeepAttentionRegEngine import contract
        from DeepAttentionRegLib import Job

        if self.isRunning or self._speedJob is not None or self.speeds is not None:
            return

        def onAnswer(answer):
            self._speedJob = None
            self.speeds = getattr(answer, "values", {}).get("speed", {})
            onDone()

        job = Job.EngineJob(Job.Callbacks(onFinished=onAnswer, onFailed=onAnswer), **self.engineOptions)
        try:
            job.start(contract.ProbeJob())
        except RuntimeError:
            logging.exception("The speed of this computer could not be measured")
            return
        self._speedJob = job

    def _stopMeasuringSpeed(self):
        """Let nothing compete with a registration."""
        if self._speedJob is not None:
            self._speedJob.close()
            self._speedJob = None

    def cancel(self):
        """Stop the running registration, if any, at the next opportunity; `onFailed` tells when it has stopped."""
        if self._registration is not None:
            self._registration.cancel()

    def finish(self):
        """Have the running registration, if any, end early with the best it has found so far."""
        if self._registration is not None:
            self._registration.finish()

    def close(self):
        """End the running registration, if any, at once; no callback is called any more."""
        self._stopMeasuringSpeed()
        if self._registration is not None:
            self._registration.close()

    def problems(self, **arguments):
        """Return why `register` would refuse these arguments, as sentences."""
        from DeepAttentionRegLib import Registration

        return Registration.checkAll(*_sorted(arguments))

    @staticmethod
    def argumentsFrom(parameters):
        """Return the arguments of `register` for the choices of the panel.

        :param parameters: a `DeepAttentionRegParameterNode`.
        """
        nodes = {name: getattr(parameters, name) for name in (*INPUT_NAMES, *OUTPUT_NAMES)}
        choices = {name: getattr(parameters, name) for name in ("recursions", "smoothness", "velocity")}
        named = {name: getattr(parameters, name).value for name in ("method", "alignment", "device", "similarity")}
        return {**nodes, **choices, **named, "refinementSteps": parameters.refinementSteps if parameters.refine else 0}


def _sorted(arguments):
    """Return the inputs, settings and outputs among the arguments of `register`."""
    from DeepAttentionRegLib import Registration, Results, Volumes

    inputs = {name: arguments.get(name) for name in INPUT_NAMES}
    outputs = {role: arguments.get(name) for name, role in OUTPUT_NAMES.items()}
    settings = {name: value for name, value in arguments.items() if name not in (*INPUT_NAMES, *OUTPUT_NAMES)}
    return Volumes.Inputs(**inputs), Registration.Settings(**settings), Results.Outputs(**outputs)


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
        finding = Install.probe()
        if finding.state is not Install.State.READY:
            self.skipTest(finding.message)
        volumes, landmarks = _addPhantom()
        outcome = DeepAttentionRegLogic().register(
            *volumes, "none", refinementSteps=20, fixedLandmarks=landmarks[0], movingLandmarks=landmarks[1]
        )
        before, after = (outcome.result.values[state]["tre_mm"]["mean"] for state in ("before", "after"))
        self.assertLess(after, 0.7 * before)  # noqa: PT009 - Slicer runs this without pytest


def _addPhantom():
    """Add a small breathing phantom and return its volumes and landmarks, fixed and moving."""
    from DeepAttentionRegEngine import geometry, phantom
    from DeepAttentionRegLib import Volumes

    pair = phantom.make_phantom(phantom.default_geometry((48, 40, 48), (7.0, 6.0, 7.0)))
    volumes, landmarks = [], []
    for name in ("fixed", "moving"):
        volume = slicer.mrmlScene.AddNewNodeByClass(VOLUME_CLASS, name)
        Volumes.fillVolume(volume, Volumes.makeImage(getattr(pair, name)), getattr(pair, f"{name}_geometry"))
        volume.CreateDefaultDisplayNodes()
        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{name} landmarks")
        slicer.util.updateMarkupsControlPointsFromArray(
            points, geometry.flip_lps_ras(getattr(pair, f"{name}_points_lps"))
        )
        volumes.append(volume)
        landmarks.append(points)
    return volumes, landmarks
