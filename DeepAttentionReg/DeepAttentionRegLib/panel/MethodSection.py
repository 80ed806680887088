"""The section of the panel that chooses a method: what it is, its weights, and how much effort it takes."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, registry
from DeepAttentionRegEngine.protocol.settings import QUALITIES, Settings

from ..engine import Methods, Weights
from ..engine.Qualities import CUSTOM, labelOf, numbersOf, qualityOf
from ..nodes.Present import present
from ..Parameters import DeepAttentionRegParameterNode, settingsOf
from ..tasks.Request import camelCase
from . import Parts


class MethodSection(Parts.Section):
    """Follows the choice of the method; what it lists for it is known only at run time."""

    def __init__(self, ui: SimpleNamespace, tell: Callable[[str], None]) -> None:
        """Connect the widgets; parameters as `Section`."""
        super().__init__(ui, tell)
        self._shownMethod: str | None = None
        self._onGpu = False
        self._needsWeights = False
        self._entries: list[Weights.Entry] = []
        ui.copyCitationButton.connect("clicked(bool)", self.onCopyCitation)
        ui.weightsComboBox.connect("currentIndexChanged(int)", self.onWeightsChosen)
        ui.importWeightsButton.connect("clicked(bool)", self.onImportWeights)
        ui.deleteWeightsButton.connect("clicked(bool)", self.onDeleteWeights)
        ui.presetComboBox.connect("currentIndexChanged(int)", self.onPresetChosen)

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices, whose method is not a newly chosen one."""
        super().follow(parameters)
        self._shownMethod = None

    def update(self, onGpu: bool) -> None:
        """Show what belongs to the chosen method.

        :param onGpu: whether a graphics card will compute.
        """
        self._onGpu = onGpu
        self._followMethod()
        name = self.chosen.method.value
        isNetwork = name != contract.METHOD_NONE
        described = registry.load_method(name) if isNetwork else None
        summary = _("The deformation is optimized on these two volumes alone; nothing was learned before.")
        Parts.putText(self._ui.summaryLabel, described.summary if described else summary)
        Parts.putText(self._ui.citationLabel, described.citation if described else "")
        self._ui.citationGroupBox.visible = bool(described and described.citation)
        self._ui.recursionsSlider.enabled = isNetwork
        self._ui.halfPrecisionCheckBox.enabled = isNetwork
        self._needsWeights = bool(described and described.needs_weights)
        self._showWeights()
        self._showPreset()

    def showEstimate(self, settings: Settings, speeds: dict[str, float] | None) -> None:
        """Say how long a registration will take, as far as that is known.

        :param settings: of the registration.
        :param speeds: of the devices of this computer, by name.
        """
        estimate = Methods.estimateText(self.chosen.fixedVolume, settings, speeds)
        Parts.setVisible((self._ui.estimateTitleLabel, self._ui.estimateLabel), bool(estimate))
        Parts.putText(self._ui.estimateLabel, estimate)

    @property
    def lacksWeights(self) -> bool:
        """Whether the method needs weights and there are none."""
        return self._needsWeights and not self._entries

    @property
    def problem(self) -> str:
        """Why the chosen weights cannot be used, as a sentence; empty if they can."""
        entry = self._entry()
        if entry is not None:
            return entry.problem
        if self.chosen.weights and self.chosen.method.value != contract.METHOD_NONE:
            text = _("The weights {name} are not here, or not for this method; choose others or import them.")
            return text.format(name=self.chosen.weights)
        return ""

    def onCopyCitation(self) -> None:
        """Put the citation on the clipboard."""
        slicer.app.clipboard().setText(self._ui.citationLabel.text)
        self._tell(_("The citation was copied to the clipboard."))

    def onWeightsChosen(self, index: int) -> None:
        """Take the chosen weights."""
        if self._parameters is not None:
            self.chosen.weights = self._ui.weightsComboBox.itemData(index)

    def onImportWeights(self) -> None:
        """Import weights for the chosen method from a file that the user chooses."""
        path = Parts.chooseFile(_("Import weights"), _("Weights (*.pt)"))
        if not path:
            return
        try:
            entry = Weights.importWeights(path, self.chosen.method.value)
        except ValueError as error:
            self._tell(str(error))
            return
        self.chosen.weights = entry.id
        self._tell(_("The weights {title} were imported.").format(title=entry.title))

    def onDeleteWeights(self) -> None:
        """Delete the chosen weights if the user agrees."""
        entry = present(self._entry())
        question = _("Delete the weights {title} for good?").format(title=entry.title)
        if not slicer.util.confirmOkCancelDisplay(question):
            return
        try:
            Weights.deleteWeights(entry)
        except ValueError as error:
            self._tell(str(error))
            return
        self.chosen.weights = ""
        self._tell(_("The weights {title} were deleted.").format(title=entry.title))

    def onPresetChosen(self, index: int) -> None:
        """Set what the chosen quality means for the method."""
        quality = self._ui.presetComboBox.itemData(index)
        if self._parameters is not None and quality != CUSTOM:
            self._apply(quality)

    def _followMethod(self) -> None:
        """Bring what depends on the method in line with a newly chosen one."""
        parameters, name, previous = self.chosen, self.chosen.method.value, self._shownMethod
        if name == previous:
            return
        self._shownMethod = name
        # Refinement alone tells nothing of the recursions, which stay as they were before it.
        quality = CUSTOM if previous in (None, contract.METHOD_NONE) else self._quality(previous)
        if previous is not None:
            parameters.weights = ""
        if name != contract.METHOD_NONE:
            known = previous if previous != contract.METHOD_NONE else None
            choice, slider = Methods.recursionChoice(name, parameters.recursions, known), self._ui.recursionsSlider
            # Both ranges first, or the slider would bend the number on its way.
            slider.minimum, slider.maximum = min(slider.minimum, choice.minimum), max(slider.maximum, choice.maximum)
            parameters.recursions = choice.value
            slider.minimum, slider.maximum, slider.toolTip = choice.minimum, choice.maximum, choice.toolTip
        if quality != CUSTOM:
            self._apply(quality)

    def _quality(self, method: str) -> str:
        return qualityOf(replace(settingsOf(self.chosen), method=method, weights=None), self._onGpu)

    def _apply(self, quality: str) -> None:
        parameters = self.chosen
        numbers = numbersOf(quality, parameters.method.value, self._onGpu)
        with slicer.util.NodeModify(parameters):
            for name, number in numbers.items():
                if number is not None:
                    setattr(parameters, camelCase(name), number)

    def _showPreset(self) -> None:
        current = self._quality(self.chosen.method.value)
        offered = [*QUALITIES, *([CUSTOM] if current == CUSTOM else [])]
        Parts.fillComboBox(self._ui.presetComboBox, [(labelOf(quality), quality) for quality in offered], current)

    def _showWeights(self) -> None:
        ui, parameters = self._ui, self.chosen
        axes = Methods.axesOf(parameters.fixedVolume)
        self._entries = Weights.weightsFor(parameters.method.value, axes) if self._needsWeights else []
        items = [(entry.title, entry.id) for entry in self._entries]
        if parameters.weights and all(parameters.weights != entry.id for entry in self._entries):
            items.append((_("{name} (missing)").format(name=parameters.weights), parameters.weights))
        chosen = self._entry()
        current = chosen.id if chosen is not None else parameters.weights
        Parts.fillComboBox(ui.weightsComboBox, items or [(_("None yet"), "")], current)
        ui.weightsComboBox.enabled = bool(items)
        widgets = ui.weightsComboBoxLabel, ui.weightsComboBox, ui.importWeightsButton
        Parts.setVisible(widgets, self._needsWeights)
        ui.deleteWeightsButton.visible = chosen is not None and chosen.isImported
        Parts.putText(ui.licenseLabel, Weights.licenceText(chosen) if chosen is not None else "")
        ui.licenseLabel.visible = bool(ui.licenseLabel.text)
        ui.weightsComboBox.toolTip = _describe(chosen)

    def _entry(self) -> Weights.Entry | None:
        """Return the weights that will be used; None if there are none or those chosen are not there."""
        wanted = self.chosen.weights
        found = (entry for entry in self._entries if entry.id == wanted or not wanted)
        return next(found, None)


def _describe(entry: Weights.Entry | None) -> str:
    """Return a tooltip about weights."""
    texts = [_("Numbers that the network has learned, for one body region and modality.")]
    if entry is not None and entry.trainingData:
        texts.append(_("Learned from: {data}").format(data=entry.trainingData))
    if entry is not None and entry.licence:
        texts.append(_("License: {license}").format(license=entry.licence))
    return "".join(f"<p>{text}</p>" for text in texts)
