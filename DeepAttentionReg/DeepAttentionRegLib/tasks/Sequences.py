"""Registration of a time series to one of its frames: a sequence of volumes in, a sequence of grid transforms out.

One process of the engine registers all frames, one after another. The scene does not change before the last one is
done.
"""

import math
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, result_files
from DeepAttentionRegEngine.protocol.privacy import discreet_logger
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.volume import fields, images
from DeepAttentionRegEngine.volume.geometry import Geometry

from ..engine import Methods
from ..engine.Callbacks import Callbacks
from ..engine.Engine import Engine
from ..engine.Task import Task
from ..nodes import Transforms, Volumes
from ..nodes.FieldMaps import Field
from ..nodes.Present import present
from . import Results

logger = discreet_logger(__name__)

VOLUME_CLASS = "vtkMRMLScalarVolumeNode"
# The coordinates of the volumes in a sequence, which have no parent transform.
FRAME = np.eye(4)


@dataclass(frozen=True)
class FrameProgress:
    """One step forward.

    :param frame: frame that is being registered, counted from 1.
    :param of: frames of the sequence.
    :param progress: how far its registration is.
    """

    frame: int
    of: int
    progress: contract.Progress

    @property
    def text(self) -> str:
        """Which frame it is, for people."""
        return _("Frame {frame} of {of}").format(frame=self.frame, of=self.of)


@dataclass(frozen=True)
class SequenceOutcome:
    """Nodes and numbers of a registered sequence.

    :param transformSequenceNode: for each frame the grid transform that moves it onto the reference frame.
    :param volumeSequenceNode: the frames as warped onto the reference frame; None if they were not asked for.
    :param browserNode: plays these and the original together; its volume of the original is under its transform.
    :param frames: the frames that the result holds, counted from 1.
    :param results: what the engine said by frame.
    """

    transformSequenceNode: slicer.vtkMRMLSequenceNode
    volumeSequenceNode: slicer.vtkMRMLSequenceNode | None
    browserNode: slicer.vtkMRMLSequenceBrowserNode
    frames: list[int]
    results: dict[int, contract.Result]


@dataclass
class _Done:
    """What is known of the registered frames, in no scene yet; by the number of the frame, from 0."""

    fields: dict[int, Field] = field(default_factory=dict)
    volumes: dict[int, slicer.vtkMRMLScalarVolumeNode] = field(default_factory=dict)
    results: dict[int, contract.Result] = field(default_factory=dict)


def checkSequence(
    sequenceNode: slicer.vtkMRMLSequenceNode | None, referenceFrame: int, settings: Settings
) -> list[str]:
    """Return why a sequence cannot be registered, as sentences; arguments as of `SequenceRegistration`."""
    if sequenceNode is None:
        return [_("Choose a sequence of volumes.")]
    name, count = sequenceNode.GetName(), sequenceNode.GetNumberOfDataNodes()
    frames = [sequenceNode.GetNthDataNode(index) for index in range(count)]
    if any(frame.GetClassName() != VOLUME_CLASS for frame in frames):
        return [_("{name} is no sequence of scalar volumes.").format(name=name)]
    if count < 2:
        return [_("{name} has fewer than two frames, so there is nothing to register.").format(name=name)]
    if not 0 <= referenceFrame < count:
        text = _("{name} has {count} frames; frame {frame}, to register to, is not among them.")
        return [text.format(name=name, count=count, frame=referenceFrame + 1)]
    text = _("Frame {frame}: {problem}")
    problems = ((number, Volumes.checkNode(frame)) for number, frame in enumerate(frames, start=1))
    unfit = [text.format(frame=number, problem=problem) for number, problem in problems if problem]
    return unfit[:1] or Methods.checkMethod(settings.method, frames[referenceFrame], settings.weights)


class SequenceRegistration(Task):
    """Registers the frames without blocking; `start` it, then `wait` or let the callbacks come.

    After a failure or a cancellation `outcome` holds what was done until then, if that was to be kept.
    """

    def __init__(
        self,
        sequenceNode: slicer.vtkMRMLSequenceNode,
        referenceFrame: int = 0,
        settings: Settings | None = None,
        callbacks: Callbacks | None = None,
        *,
        withVolumes: bool = False,
        keepPartial: bool = False,
        engine: Engine | None = None,
    ) -> None:
        """Prepare; nothing is done before `start`.

        :param sequenceNode: the volumes.
        :param referenceFrame: frame that the others are registered to, counted from 0.
        :param settings: how each is registered.
        :param callbacks: whom to tell.
        :param withVolumes: also make a sequence of the warped volumes.
        :param keepPartial: put the frames done so far into the scene if it ends early.
        :param engine: what runs it; None takes Slicer's own Python.
        """
        super().__init__(callbacks, engine)
        self._sequence = Results.NodeReference(sequenceNode)
        self._reference = referenceFrame
        self._settings = settings or Settings()
        self._withVolumes = withVolumes
        self._keepPartial = keepPartial
        self._indexValues: list[str] = []
        self._frames: list[int] = []
        self._geometry: Geometry  # from the start on
        self._done = _Done()

    def problems(self) -> list[str]:
        """Return why it cannot be started, as sentences."""
        return checkSequence(self._sequence.get(), self._reference, self._settings)

    def wait(self) -> SequenceOutcome:
        """Return the outcome when it is there, keeping the application responsive meanwhile.

        :raises RuntimeError: if it failed or was canceled; says why and how many frames were done.
        """
        outcome = super().wait()
        if self.failure is not None:
            self._raiseFailure()
        return outcome

    def _export(self) -> contract.Job:
        """Write all frames into the job folder and return the job.

        :raises EngineError: if a setting is out of range.
        """
        sequence, values = present(self._sequence.get()), asdict(self._settings)
        contract.build(Settings, values)  # refuses wrong settings before the slow part
        self._indexValues = [sequence.GetNthIndexValue(frame) for frame in range(sequence.GetNumberOfDataNodes())]
        self._frames = [frame for frame in range(len(self._indexValues)) if frame != self._reference]
        self._geometry = Volumes.geometryOf(sequence.GetNthDataNode(self._reference), FRAME)
        for frame in range(len(self._indexValues)):
            self._tell("export", _("Exporting frame {frame}.").format(frame=frame + 1))
            self._requireInputs()
            Volumes.exportVolume(self._volumeOf(frame), FRAME, self._folder / _fileOf(frame))
        frames = [_fileOf(frame) for frame in self._frames]
        files = {"fixed": _fileOf(self._reference), "frames": frames, "output": "frames", "warped": self._withVolumes}
        return contract.build(contract.SequenceJob, {**values, **files})

    @property
    def _frame(self) -> int:
        """The frame that is being registered; the last one when all are."""
        return self._frames[min(len(self._done.results), len(self._frames) - 1)]

    def _shown(self, progress: contract.Progress) -> FrameProgress:
        return FrameProgress(self._frame + 1, len(self._indexValues), progress)

    def _volumeOf(self, frame: int) -> slicer.vtkMRMLScalarVolumeNode | None:
        """Return a frame as long as it is there; the sequence may have been changed meanwhile."""
        sequence = self._sequence.get()
        return sequence and sequence.GetDataNodeAtValue(self._indexValues[frame], True)

    def _goneMessage(self) -> str:
        areThere = all(self._volumeOf(frame) is not None for frame in range(len(self._indexValues)))
        gone = _("The sequence or one of its frames was removed, so the registration was stopped.")
        return "" if areThere else gone

    def _onProgress(self, progress: contract.Progress) -> None:
        if self._stopMessage:  # what comes of a frame after that does not count
            return
        if progress.stage != "frame" or progress.file is None or self._goneMessage():
            super()._onProgress(progress)
            return
        try:
            self._keep(Path(progress.file).parent)
        except Exception as error:
            logger.exception("The result of a frame could not be loaded")
            self._stop(self._inFrame(_("The result could not be loaded ({reason}).").format(reason=error)))

    def _keep(self, folder: Path) -> None:
        """Read what the engine found for the present frame."""
        frame, (result, _job) = self._frame, result_files.read_result(folder)
        self._done.fields[frame] = images.read_displacement(self._folder / result.outputs["transform"])
        if self._withVolumes:
            image = Volumes.makeImage(images.read_volume(self._folder / result.outputs["warped"]).array)
            self._done.volumes[frame] = _makeVolume(image, self._geometry)
        self._done.results[frame] = result
        shutil.rmtree(folder, ignore_errors=True)

    def _load(self, _result: contract.Result) -> SequenceOutcome:
        self._requireInputs()
        outcome = self._commit()
        self._done = _Done()  # the scene has copies
        return outcome

    def _onFailure(self, failure: contract.Failure) -> None:
        """End early; what is done comes into the scene if that was asked for."""
        message = self._stopMessage or self._inFrame(failure.message)
        kept = _("The scene is as it was.")
        if self._keepPartial and self._done.fields and not self._goneMessage():
            try:
                self.outcome = self._commit()
                kept = _("These are in the scene.")
            except Exception:
                logger.exception("The finished frames could not be put into the scene")
        done = _("Frames done: {done} of {count}.").format(done=len(self._done.fields), count=len(self._frames))
        hint = f"{kept} {failure.hint}".strip()
        self.failure = replace(failure, message=f"{message} {done}", hint=hint)
        self._done = _Done()
        self._takeCallbacks().onFailed(self.failure)

    def _inFrame(self, message: str) -> str:
        return _("Frame {frame}: {message}").format(frame=self._frame + 1, message=message)

    def _commit(self) -> SequenceOutcome:
        """Put the result into the scene: all of it or, if something goes wrong, nothing."""
        source, reference = present(self._sequence.get()), self._volumeOf(self._reference)
        transforms = _makeTransforms(self._done.fields, self._reference)
        volumes = {**self._done.volumes, self._reference: reference} if self._withVolumes else {}
        method = self._settings.method
        text = _("{sequence} to frame {frame} ({method})").format(
            sequence=source.GetName(),
            frame=self._reference + 1,
            method=_("refinement") if method == contract.METHOD_NONE else method,
        )
        name = slicer.mrmlScene.GenerateUniqueName(text)
        with Results.allOrNothing([]):
            sequences = [self._addSequence(name, transforms)]
            if volumes:
                sequences.append(self._addSequence(_("{name} volumes").format(name=name), volumes))
            return SequenceOutcome(
                transformSequenceNode=sequences[0],
                volumeSequenceNode=sequences[1] if volumes else None,
                browserNode=_addBrowser(_("{name} browser").format(name=name), source, sequences, self._reference),
                frames=[frame + 1 for frame in sorted(transforms)],
                results={frame + 1: result for frame, result in self._done.results.items()},
            )

    def _addSequence(self, name: str, nodes: dict[int, slicer.vtkMRMLNode]) -> slicer.vtkMRMLSequenceNode:
        """Add a sequence of nodes by frame, with the index of the original one."""
        source = present(self._sequence.get())
        added = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
        added.SetIndexName(source.GetIndexName())
        added.SetIndexUnit(source.GetIndexUnit())
        added.SetIndexType(source.GetIndexType())
        added.SetNumericIndexValueTolerance(source.GetNumericIndexValueTolerance())
        for frame in sorted(nodes):
            added.SetDataNodeAtValue(nodes[frame], self._indexValues[frame])
        return added


def _fileOf(frame: int) -> str:
    return f"frame_{frame + 1}.nrrd"


def _makeTransforms(found: dict[int, Field], reference: int) -> dict[int, slicer.vtkMRMLTransformNode]:
    """Return fields by frame as nodes outside of any scene, and one that stands still for the reference.

    All are on the finest of the grids: a sequence of several ones would be saved as many files in one.
    """
    grid = max((own for _displacement, own in found.values()), key=lambda own: math.prod(own.size))
    still = np.zeros((*grid.shape, 3), np.float32), grid
    nodes = {}
    for frame, (displacement, own) in {**found, reference: still}.items():
        onGrid = displacement if own.matches(grid) else fields.resize(displacement, own, grid)
        transform = Transforms.makeGridTransform(onGrid, grid)
        transform.SetInterpolationModeToLinear()  # as Slicer does when it reads a sequence of fields
        nodes[frame] = slicer.vtkMRMLTransformNode()
        nodes[frame].SetAndObserveTransformFromParent(transform)
    return nodes


def _makeVolume(image: vtk.vtkImageData, geometry: Geometry) -> slicer.vtkMRMLScalarVolumeNode:
    node = slicer.vtkMRMLScalarVolumeNode()
    Volumes.fillVolume(node, image, geometry)
    return node


def _addBrowser(
    name: str,
    source: slicer.vtkMRMLSequenceNode,
    sequences: list[slicer.vtkMRMLSequenceNode],
    frame: int,
) -> slicer.vtkMRMLSequenceBrowserNode:
    """Add a browser of the frames that the first of the sequences has, its transforms.

    The original is played along as well, under the transform: so it stands still.
    """
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", name)
    for sequence in (*sequences, source):
        browser.AddSynchronizedSequenceNode(sequence)
    indices = [sequences[0].GetNthIndexValue(item) for item in range(sequences[0].GetNumberOfDataNodes())]
    browser.SetSelectedItemNumber(indices.index(source.GetNthIndexValue(frame)))
    browser.GetProxyNode(source).SetAndObserveTransformNodeID(browser.GetProxyNode(sequences[0]).GetID())
    for proxy in (browser.GetProxyNode(sequence) for sequence in (*sequences[1:], source)):
        proxy.GetDisplayNode().SetAutoWindowLevel(False)  # the brightness of all frames as of this one
    return browser
