"""How far a registration is and what came of it, in the words of the panel."""

from typing import Any

from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.settings import choices_of

from ..nodes import ErrorBound, Structures
from ..Parameters import Alignment, DeepAttentionRegParameterNode, MethodChoice

# Share of the time that the stages of a registration take, in their order.
STAGE_WEIGHTS = {
    "export": 1,
    "load": 1,
    "align": 3,
    "recursion": 4,
    "refine": 12,
    "evaluate": 2,
    "uncertainty": 100,
    "write": 1,
    "import": 1,
}


def stagesOf(parameters: DeepAttentionRegParameterNode, *, withUncertainty: bool = False) -> list[str]:
    """Return the stages that these choices lead through.

    :param withUncertainty: whether the uncertainty is estimated.
    """
    skipped = {
        "align": parameters.alignment is Alignment.NONE or parameters.initialTransform is not None,
        "recursion": parameters.method is MethodChoice.REFINEMENT_ONLY,
        "refine": not parameters.refine,
        "uncertainty": not withUncertainty,
    }
    return [stage for stage in STAGE_WEIGHTS if not skipped.get(stage, False)]


def shareOf(progress: contract.Progress, stages: list[str]) -> float | None:
    """Return how much of a registration is done, 0 to 1; None for a stage that was not expected.

    :param stages: from `stagesOf`.
    """
    if progress.stage not in stages:
        return None
    weights = [STAGE_WEIGHTS.get(stage, 1) for stage in stages]
    index = stages.index(progress.stage)
    return (sum(weights[:index]) + weights[index] * progress.step / max(progress.of, 1)) / sum(weights)


def stageText(progress: contract.Progress) -> str:
    """Return what is being done."""
    texts = {
        "export": _("Passing the volumes on"),
        "load": _("Reading the volumes"),
        "align": _("Initial alignment"),
        "recursion": _("Recursion"),
        "refine": _("Refinement"),
        "uncertainty": _("Registering slightly changed volumes"),
        "evaluate": _("Measuring the result"),
        "write": _("Writing the result"),
        "import": _("Loading the result"),
    }
    text = texts.get(progress.stage, progress.message)
    if not progress.of or progress.stage not in texts:
        return text
    return _("{stage}: {step} of {of}").format(stage=text, step=progress.step, of=progress.of)


def summaryOf(outcome: Any) -> str:
    """Return what a registration has brought, in sentences.

    :param outcome: a `Results.Outcome`.
    """
    values = outcome.result.values
    before, after = (values.get(state, {}) for state in ("before", "after"))
    sentences = [_('Created the transform "{name}".').format(name=outcome.transformNode.GetName())]
    start, alike = values.get("start", "none"), values.get("start_similarity", {})
    if start in alike and start != "none":
        text = _("Start: {start}, similarity {after:.2f}; as stored {before:.2f}.")
        name = choices_of("alignment").get(start, start)
        sentences.append(text.format(start=_(name), after=alike[start], before=alike["none"]))
    texts = {
        "dice": _("Overlap (Dice) {before:.2f} before, {after:.2f} after."),
        "tre_mm": _("Landmark error {before:.1f} mm before, {after:.1f} mm after."),
    }
    for measure, text in texts.items():
        means = [scores.get(measure, {}).get("mean") for scores in (before, after)]
        if None not in means:
            sentences.append(text.format(before=means[0], after=means[1]))
    sentences += _structuresOf(values.get("structures", {}))
    sentences.append(_("{percent:.2f} % of the voxels are folded.").format(percent=values["jacobian"]["fold_percent"]))
    return "\n".join([*sentences, *outcome.result.warnings])


def verdictOf(outcome: Any) -> ErrorBound.ToldVerdict | None:
    """Return what the engine expects of the error of a registration; None if it says nothing.

    :param outcome: a `Results.Outcome`.
    """
    return ErrorBound.verdictOf(outcome.result.values)


def _structuresOf(values: dict[str, Any]) -> list[str]:
    """Return what became of the structures that the network tells apart, as sentences."""
    means = [values.get(state, {}).get("dice", {}).get("mean") for state in ("before", "after")]
    if None in means:
        return []
    text = _("Structures seen by the network: overlap (Dice) {before:.2f} before, {after:.2f} after. {note}")
    return [text.format(before=means[0], after=means[1], note=Structures.note())]


def sequenceSummaryOf(outcome: Any) -> str:
    """Return what the registration of a sequence has brought, in sentences.

    :param outcome: a `Sequences.SequenceOutcome`.
    """
    name = outcome.transformSequenceNode.GetName()
    folds = [result.values["jacobian"]["fold_percent"] for result in outcome.results.values()]
    texts = (
        _('Created the sequence of transforms "{name}" of {count} frames; play it in the Sequences module.').format(
            name=name, count=len(outcome.frames)
        ),
        _("At most {percent:.2f} % of the voxels of a frame are folded.").format(percent=max(folds)),
    )
    return "\n".join([*texts, *_failuresOf(outcome.results)])


def _failuresOf(results: dict[int, contract.Result]) -> list[str]:
    """Return which frames, counted from 1, probably failed, as a sentence if there are any."""
    verdicts = {frame: ErrorBound.verdictOf(result.values) for frame, result in results.items()}
    failed = [frame for frame, verdict in verdicts.items() if verdict is not None and verdict.kind == ErrorBound.FAILED]
    text = _("Probably failed: frame {frames}.")
    return [text.format(frames=", ".join(map(str, sorted(failed))))] if failed else []


def applyText(isRunning: bool, isCanceling: bool) -> str:
    """Return the text of the button that starts and stops."""
    if not isRunning:
        return _("Apply")
    return _("Canceling...") if isCanceling else _("Cancel")


def applyToolTip(isRunning: bool) -> str:
    """Return what that button does."""
    if isRunning:
        return _("Stop the registration. The scene stays as it was.")
    return _("Register the moving volume to the fixed volume.")
