"""The section of the panel that chooses a method: what it is, what it is to see, and how much effort it takes."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, registry
from DeepAttentionRegEngine.protocol.settings import QUALITIES, Settings

from ..engine import Anatomies, Methods, Weights
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
        self._shown: Methods.Form | None = None
        self._volumes: set[str] = set()  # ids of those that the choice of weights was made for
        self._onGpu = False
        self._needsWeights = False
        self._entries: list[Weights.Entry] = []
        self._proposal = Anatomies.ProposedWeights(None)
        ui.copyCitationButton.connect("clicked(bool)", self.onCopyCitation)
        ui.weightsComboBox.connect("currentIndexChanged(int)", self.onWeightsChosen)
        ui.importWeightsButton.connect("clicked(bool)", self.onImportWeights)
        ui.deleteWeightsButton.connect("clicked(bool)", self.onDeleteWeights)
        ui.presetComboBox.connect("currentIndexChanged(int)", self.onPresetChosen)

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices, whose method and volumes are not newly chosen ones."""
        super().follow(parameters)
        self._shown, self._volumes = None, set()

    def update(self, onGpu: bool) -> None:
        """Show what belongs to the chosen method.

        :param onGpu: whether a graphics card will compute.
        """
        self._onGpu = onGpu
        self._followImages()
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
        self._findWeights()
        self._followForm()
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
        """Take the weights for the chosen anatomy; the choice holds as long as one of its volumes is registered."""
        if self._parameters is not None:
            self._volumes = set()
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
        self._volumes = set()
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

    def _followImages(self) -> None:
        """Give up weights that were chosen for another method, or for volumes that are both gone from the choices."""
        parameters = self.chosen
        nodes = parameters.fixedVolume, parameters.movingVolume
        volumes = {node.GetID() for node in nodes if node is not None}
        isOther = self._shown is not None and self._shown.method != parameters.method.value
        if isOther or (volumes and self._volumes and volumes.isdisjoint(self._volumes)):
            parameters.weights = ""
        if not self._volumes or not parameters.weights:
            self._volumes = volumes

    def _findWeights(self) -> None:
        """List the weights of the method and see which suit the volumes."""
        parameters, name = self.chosen, self.chosen.method.value
        axes = Methods.axesOf(parameters.fixedVolume)
        self._entries, self._proposal = [], Anatomies.ProposedWeights(None)
        if self._needsWeights:
            self._entries = Weights.weightsFor(name, axes)
            self._proposal = Anatomies.propose(name, parameters.fixedVolume, parameters.movingVolume)

    def _followForm(self) -> None:
        """Bring the numbers in line with a newly chosen method or other weights."""
        parameters, previous = self.chosen, self._shown
        weights = (parameters.weights or self._proposal.weights) if self._needsWeights else None
        form = Methods.Form(parameters.method.value, weights, Methods.axesOf(parameters.fixedVolume))
        if form == previous:
            return
        self._shown = form
        # Refinement alone tells nothing of the recursions, which stay as they were before it.
        known = previous if previous is not None and previous.isNetwork else None
        quality = CUSTOM if known is None else self._quality(known)
        if form.isNetwork:
            choice, slider = Methods.recursionChoice(form, parameters.recursions, known), self._ui.recursionsSlider
            # Both ranges first, or the slider would bend the number on its way.
            slider.minimum, slider.maximum = min(slider.minimum, choice.minimum), max(slider.maximum, choice.maximum)
            parameters.recursions = choice.value
            slider.minimum, slider.maximum, slider.toolTip = choice.minimum, choice.maximum, choice.toolTip
        if quality != CUSTOM:
            self._apply(quality)

    def _quality(self, form: Methods.Form) -> str:
        settings = replace(settingsOf(self.chosen), method=form.method, weights=form.weights)
        return qualityOf(settings, form.axes, self._onGpu)

    def _apply(self, quality: str) -> None:
        parameters = self.chosen
        numbers = numbersOf(quality, present(self._shown), self._onGpu)
        with slicer.util.NodeModify(parameters):
            for name, number in numbers.items():
                if number is not None:
                    setattr(parameters, camelCase(name), number)

    def _showPreset(self) -> None:
        current = self._quality(present(self._shown))
        offered = [*QUALITIES, *([CUSTOM] if current == CUSTOM else [])]
        Parts.fillComboBox(self._ui.presetComboBox, [(labelOf(quality), quality) for quality in offered], current)

    def _showWeights(self) -> None:
        ui, parameters = self._ui, self.chosen
        labels = Anatomies.labelsOf(self._entries)
        items = [(label, entry.id) for label, entry in zip(labels, self._entries, strict=True)]
        if parameters.weights and all(parameters.weights != entry.id for entry in self._entries):
            items.append((_("{name} (missing)").format(name=parameters.weights), parameters.weights))
        chosen = self._entry()
        current = chosen.id if chosen is not None else parameters.weights
        Parts.fillComboBox(ui.weightsComboBox, items or [(_("None yet"), "")], current)
        ui.weightsComboBox.enabled = bool(items)
        widgets = ui.weightsComboBoxLabel, ui.weightsComboBox, ui.importWeightsButton
        Parts.setVisible(widgets, self._needsWeights)
        ui.deleteWeightsButton.visible = chosen is not None and chosen.isImported
        Parts.putText(ui.proposalLabel, self._proposal.textFor(chosen))
        ui.proposalLabel.visible = bool(ui.proposalLabel.text)
        Parts.putText(ui.licenseLabel, Weights.licenceText(chosen) if chosen is not None else "")
        ui.licenseLabel.visible = bool(ui.licenseLabel.text)
        ui.weightsComboBox.toolTip = _describe(chosen)

    def _entry(self) -> Weights.Entry | None:
        """Return the weights that will be used; None if there are none or those chosen are not there."""
        wanted = self.chosen.weights or self._proposal.weights
        return next((entry for entry in self._entries if entry.id == wanted), None)


def _describe(entry: Weights.Entry | None) -> str:
    """Return a tooltip about weights."""
    texts = [_("What the images show: it decides which weights the network takes, the numbers that it has learned.")]
    if entry is not None:
        texts.append(_("Weights: {title}").format(title=entry.title))
    if entry is not None and entry.trainingData:
        texts.append(_("Learned from: {data}").format(data=entry.trainingData))
    if entry is not None and entry.licence:
        texts.append(_("License: {license}").format(license=entry.licence))
    return "".join(f"<p>{text}</p>" for text in texts)
