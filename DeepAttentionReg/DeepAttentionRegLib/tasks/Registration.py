"""One registration: nodes to files, engine, files to nodes."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.owned_folders import OwnedFolder, remove_left
from DeepAttentionRegEngine.protocol.watchdog import FOLDER_PREFIX
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.segment_pairs import BETWEEN

from ..engine import Methods
from ..engine.Callbacks import Callbacks
from ..engine.Engine import Engine
from ..engine.Task import Task
from ..nodes import Record, SegmentPairs, Volumes
from ..nodes.InputNodes import InputNodes, checkInputs, startOf, tellSizes
from ..nodes.Present import present
from ..nodes.Transforms import WORLD
from . import Results
from .Request import EVIDENCE, Request
from .Results import Outcome, OutputNodes

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
OUTPUT_FILES = {
    "output_transform": "transform.nrrd",
    "output_warped": "warped.nrrd",
    "output_jacobian": "jacobian.nrrd",
    "output_error": "error.nrrd",
}


class PairRegistration(Task):
    """Registers the moving to the fixed volume without blocking; `start` it, then `wait` or let the callbacks come."""

    def __init__(
        self,
        request: Request,
        callbacks: Callbacks | None = None,
        *,
        engine: Engine | None = None,
    ) -> None:
        """Prepare; nothing is done before `start`.

        :param request: what to register, how, and where to.
        :param callbacks: whom to tell.
        :param engine: what runs it; None takes Slicer's own Python.
        """
        super().__init__(callbacks, engine)
        self._request = request
        self._case: Results.Case  # from the export on, as is
        self._notes: list[str]  # what users must know of the nodes

    def problems(self) -> list[str]:
        """Return why it cannot be started, as sentences."""
        return checkAll(self._request)

    def _release(self) -> None:
        self._request = replace(self._request, inputs=InputNodes(None, None), outputs=OutputNodes())

    def _goneMessage(self) -> str:
        areThere = self._case.fixed.get() is not None and self._case.moving.get() is not None
        return "" if areThere else _("The fixed or moving volume was removed, so the registration was stopped.")

    def _export(self) -> contract.Job:
        """Write the inputs into the job folder and return the job.

        :raises EngineError: if a setting is out of range.
        """
        inputs, settings = self._request.inputs, self._request.settings
        files = {**OUTPUT_FILES, "fixed": "fixed.nrrd", "moving": "moving.nrrd"}
        kept = self._request.kept.outputs(settings, Methods.axesOf(inputs.fixedVolume))
        values = {**asdict(settings), **kept, **files}
        contract.build(contract.RegisterJob, values)  # refuses wrong settings before the slow part
        self._case = Results.Case(
            fixed=Results.NodeReference(inputs.fixedVolume),
            moving=Results.NodeReference(inputs.movingVolume),
            outputs={role: Results.NodeReference(node) for role, node in vars(self._request.outputs).items()},
            name=_nameOf(inputs, settings.method),
            geometry=Volumes.geometryOf(inputs.fixedVolume, WORLD),
            record=_recordOf(self._request),
            movingSegmentation=Results.NodeReference(inputs.movingSegmentation),
        )
        self._notes = tellSizes(inputs)
        for note in self._notes:
            self._tell("export", note)
        numbers = SegmentPairs.numberSegments([inputs.fixedSegmentation, inputs.movingSegmentation])
        movingFrame = Volumes.frameOf(inputs.movingVolume)
        values.update(self._exportSide("fixed", WORLD, numbers[0]))
        values.update(self._exportSide("moving", movingFrame, numbers[1]))
        if inputs.movingSegmentation is not None:
            values["output_warped_labels"] = "warped_labels.seg.nrrd"
        start = startOf(inputs)
        if not np.allclose(start, WORLD, rtol=0, atol=1e-9):
            images.write_linear_transform(self._folder / "initial.tfm", LPS_RAS @ start @ LPS_RAS)
            values["initial_transform"] = "initial.tfm"
        return contract.build(contract.RegisterJob, values)

    def _exportSide(self, side: str, frame: np.ndarray, numbers: SegmentPairs.SegmentNumbers) -> dict[str, str]:
        """Write the nodes of one side, "fixed" or "moving", and return the job's fields for them."""
        given = {
            role: getattr(self._request.inputs, side + role) for role in ("Volume", "Mask", "Segmentation", "Landmarks")
        }
        folder, values = self._folder, {}
        self._tell("export", _("Exporting {name}.").format(name=given["Volume"].GetName()))
        Volumes.exportVolume(given["Volume"], frame, folder / f"{side}.nrrd")
        reference = Volumes.geometryOf(given["Volume"], frame)
        if given["Mask"] is not None:
            values[f"{side}_mask"] = f"{side}_mask.nrrd"
            Volumes.exportMask(given["Mask"], reference, frame, folder / values[f"{side}_mask"])
        if given["Segmentation"] is not None:
            values[f"{side}_labels"] = f"{side}_labels.seg.nrrd"
            path = folder / values[f"{side}_labels"]
            described = Volumes.exportLabels(given["Segmentation"], numbers, reference, frame, path)
            self._case.segments[side] = described
            if not numbers:  # a label map, whose values the engine cannot name
                names = {str(value): segment.GetName() for value, segment in described.items()}
                self._case.labelNames = {**names, **self._case.labelNames}
        if given["Landmarks"] is not None:
            isCurve = given["Landmarks"].IsA("vtkMRMLMarkupsCurveNode")
            values[f"{side}_points"] = f"{side}_points.mrk.json" if isCurve else f"{side}_points.csv"
            Volumes.exportPoints(given["Landmarks"], frame, folder / values[f"{side}_points"])
        return values

    def _load(self, result: contract.Result) -> Outcome:
        kept = self._request.kept
        result = replace(result, warnings=[*self._notes, *result.warnings])
        material = Results.read(result, self._case, withEvidence=kept.asNodes, pause=self._pause)
        self._requireInputs()
        if kept.evidenceFolder is not None:
            material = replace(material, result=keepEvidence(result, Path(kept.evidenceFolder)))
        return Results.commit(material, self._case)


def keepEvidence(result: contract.Result, folder: Path) -> contract.Result:
    """Copy what a job found besides its nodes.

    :param result: names the files of the job.
    :param folder: where they go; made if it is not there.
    :return: the result, with the names of the copies.
    :raises OSError: if they cannot be written; then none is left.
    """
    outputs = dict(result.outputs)
    folder.mkdir(parents=True, exist_ok=True)
    remove_left(folder, FOLDER_PREFIX)
    with OwnedFolder(folder, FOLDER_PREFIX) as part:
        for name in EVIDENCE.keys() & outputs.keys():
            source = Path(outputs[name])
            if source.parent.name == EVIDENCE[name]:  # a folder, by the file that names the others
                shutil.copytree(source.parent, part.path / EVIDENCE[name])
                outputs[name] = str(folder / EVIDENCE[name] / source.name)
            else:
                shutil.copy(source, part.path / EVIDENCE[name])
                outputs[name] = str(folder / EVIDENCE[name])
        for name in EVIDENCE.keys() & outputs.keys():
            (part.path / EVIDENCE[name]).rename(folder / EVIDENCE[name])
    return replace(result, outputs=outputs)


def _recordOf(request: Request) -> Record.Record:
    """Return what is to be remembered of a registration that is about to start."""
    inputs = request.inputs
    return Record.Record(
        made=Record.now(),
        inputs={role: node.GetName() for role, node in vars(inputs).items() if node is not None},
        settings=asdict(request.settings),
        method=Methods.describe(request.settings.method),
        start=startOf(inputs).ravel().tolist(),
        place=present(Volumes.matrixToWorld(inputs.movingVolume)).ravel().tolist(),
        slicer=Record.slicerVersion(),
    )


def _nameOf(inputs: InputNodes, method: str) -> str:
    return _("{moving} to {fixed} ({method})").format(
        moving=inputs.movingVolume.GetName(),
        fixed=inputs.fixedVolume.GetName(),
        method=_("refinement") if method == contract.METHOD_NONE else Path(method).stem,
    )


def checkAll(request: Request) -> list[str]:
    """Return why a registration cannot be started, as sentences."""
    inputs, settings = request.inputs, request.settings
    wrongMethod = Methods.checkMethod(settings.method, inputs.fixedVolume, settings.weights)
    return [
        *checkInputs(inputs),
        *checkHeld(request),
        *wrongMethod,
        *(checkStructures(request) if request.kept.keepStructures and not wrongMethod else ()),
        *checkOutputs(inputs, request.outputs),
        *request.kept.problems(),
    ]


def checkHeld(request: Request) -> list[str]:
    """Return that segments which are to be held or to slide are not there, as sentences; nothing if all are."""
    settings, inputs = request.settings, request.inputs
    held = BETWEEN.join((settings.steered, settings.rigid, settings.volume_keeping))
    problems = (
        SegmentPairs.checkNames((inputs.fixedSegmentation, inputs.movingSegmentation), held),
        SegmentPairs.checkNames((inputs.fixedSegmentation,), settings.sliding),
    )
    return [problem for problem in problems if problem]


def checkStructures(request: Request) -> list[str]:
    """Return that the network of a registration tells no structures apart, as a sentence; nothing if it does."""
    settings = request.settings
    if Methods.structuresOf(settings.method, request.inputs.fixedVolume, settings.weights):
        return []
    return [_("This method and its weights tell no structures apart; choose AGF, or keep no structures.")]


def checkOutputs(inputs: InputNodes, outputs: OutputNodes) -> list[str]:
    """Return why these nodes cannot be written into, as sentences."""
    problems = []
    nodes = [node for node in vars(outputs).values() if node is not None]
    for index, node in enumerate(nodes):
        if any(node is other for other in nodes[:index]):
            problems.append(_("{name} is chosen for two outputs; choose two nodes.").format(name=node.GetName()))
        elif any(node is given for given in inputs.nodes):
            problems.append(_("{name} is an input; choose another output.").format(name=node.GetName()))
        elif node.IsA("vtkMRMLLinearTransformNode") or node.IsA("vtkMRMLBSplineTransformNode"):
            text = _("{name} can hold no displacement field; let a new transform be created.")
            problems.append(text.format(name=node.GetName()))
    return problems
