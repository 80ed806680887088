"""The parts of the panel about what computes: the device, the Python, and what is missing before anything can run."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol.privacy import discreet_logger

from ..engine import Install, Interpreter
from . import Parts

logger = discreet_logger(__name__)

OTHER_PYTHON, OWN_PYTHON = "other", "own"


class EngineSection(Parts.Section):
    """Lists the devices, and offers the one button that mends what stands between the user and a registration."""

    def __init__(
        self,
        ui: SimpleNamespace,
        logic: Any,
        tell: Callable[[str], None],
        onImportWeights: Callable[[], None],
    ) -> None:
        """Connect the widgets.

        :param ui: widgets by name.
        :param logic: the `DeepAttentionRegLogic`.
        :param tell: shows the user a sentence, and has the panel updated.
        :param onImportWeights: lets the user choose a file of weights.
        """
        super().__init__(ui, tell)
        self._logic, self._onImportWeights = logic, onImportWeights
        self._finding = Install.Finding(Install.State.READY)
        self._busy = ""
        self._mend: Callable[[], None] = self.install
        ui.deviceComboBox.connect("currentIndexChanged(int)", self.onDeviceChosen)
        ui.mendButton.connect("clicked(bool)", lambda: self._mend())
        ui.removePyTorchButton.connect("clicked(bool)", self.remove)

    def look(self) -> None:
        """Find out anew what is there; what takes longer is told when it is known."""
        self._finding = Install.probe()
        if self.isReady:
            self._logic.checkEngine(lambda: self._tell(""))

    @property
    def isReady(self) -> bool:
        """Whether nothing has to be installed; what another Python lacks is not known by this."""
        return self._logic.otherPython is not None or self._finding.state is Install.State.READY

    @property
    def onGpu(self) -> bool:
        """Whether a graphics card will compute."""
        name = self.chosen.device
        hasCard = any(device.name.startswith("cuda") for device in self._devices())
        return name.startswith("cuda") or (name == "auto" and hasCard)

    @property
    def problem(self) -> str:
        """Why nothing can run, as a sentence; empty if it can be tried."""
        if self._busy:
            return self._busy
        environment = self._logic.environment
        if environment is None:
            return ""
        unfit = environment.problem if self._logic.otherPython is not None else ""
        return unfit or Interpreter.checkDevice(self.chosen.device, environment)

    def update(self, lacksWeights: bool) -> None:
        """Show the devices and what is missing.

        :param lacksWeights: whether the method has no weights.
        """
        self._showDevices()
        sentence, text, self._mend = self._need(lacksWeights)
        self._ui.mendWidget.visible = bool(sentence)
        Parts.putText(self._ui.mendLabel, sentence)
        self._ui.mendButton.text = text
        tip = _("Downloads several hundred MB, which takes some minutes. Asks before anything is downloaded.")
        self._ui.mendButton.toolTip = tip if self._mend in (self.install, self.repair) else sentence
        self._ui.mendButton.enabled = not self._busy
        self._ui.removePyTorchButton.enabled = not self._busy and self._finding.state is not Install.State.MISSING

    def install(self) -> None:
        """Install PyTorch if the user agrees."""
        if not Install.ask(self._finding):
            self._tell(_("PyTorch was not installed."))
            return
        busy = _("PyTorch is being installed. This takes some minutes; Slicer can be used meanwhile.")
        self._change(functools.partial(Install.install, self._finding), busy, _("PyTorch is installed."))

    def repair(self) -> None:
        """Install PyTorch anew if the user agrees, what is there of it being of no use."""
        self._finding = Install.Finding(Install.State.BROKEN, self._need(lacksWeights=False)[0])
        self.install()

    def remove(self) -> None:
        """Remove PyTorch and what was downloaded with it if the user agrees."""
        if not Install.askToRemove():
            return
        if self._logic.otherPython is None:
            self._logic.environment = None
        self._change(Install.remove, _("PyTorch is being removed."), _("PyTorch was removed."))

    def _change(self, begin: Callable[..., None], busy: str, done: str) -> None:
        """Install or remove; until that has ended nothing can be registered.

        :param begin: a function of `Install`, but for its last two arguments.
        :param busy: what is being done, as a sentence.
        :param done: a sentence after success.
        """

        def end(problem: str) -> None:
            self._busy = ""
            self.look()
            self._tell(problem or done)

        self._logic.close()  # an engine that is asked what it sees would use what is to be changed
        self._busy = busy
        self._tell("")
        try:
            begin(logger.info, end)
        except Exception as error:
            logger.exception("PyTorch could not be installed or removed")
            end(_("PyTorch could not be installed or removed. {reason}").format(reason=error))

    def choosePython(self) -> None:
        """Let another Python that the user chooses run the engine, once it was found to work."""
        path = Parts.chooseFile(_("Choose a Python with PyTorch"))
        if not path:
            self._tell("")
            return
        self._tell(_("Checking {path}...").format(path=path))
        self._logic.usePython(path, self._onPythonChecked)

    def onDeviceChosen(self, index: int) -> None:
        """Take the chosen device, or another Python."""
        name = self._ui.deviceComboBox.itemData(index)
        if name == OTHER_PYTHON:
            self.choosePython()
        elif name == OWN_PYTHON:
            self._logic.useOwnPython()
            self.look()
            self._tell(_("Slicer's own Python runs the engine now."))
        elif self._parameters is not None:
            self.chosen.device = name

    def _need(self, lacksWeights: bool) -> tuple[str, str, Callable[[], None]]:
        """Return what is missing in a sentence, empty if nothing is, and the button that mends it."""
        environment, state = self._logic.environment, self._finding.state
        unfit = environment.problem if environment is not None else ""
        if environment is not None and environment.isPassing:
            return unfit, _("Try again"), self.look
        if self._logic.otherPython is not None:
            if unfit:
                return unfit, _("Choose another Python..."), self.choosePython
        elif state in (Install.State.MISSING, Install.State.OLD):
            return self._finding.message, _("Install PyTorch..."), self.install
        elif state is Install.State.BROKEN or unfit:
            return self._finding.message or unfit, _("Repair PyTorch..."), self.repair
        if lacksWeights:
            return _("Weights can be imported from a file."), _("Import weights..."), self._onImportWeights
        return "", "", self.install

    def _devices(self) -> tuple[Interpreter.Device, ...]:
        """Return the devices, of which little is known before the engine was asked."""
        environment = self._logic.environment
        if environment is not None and environment.devices:
            return environment.devices
        return Interpreter.Device("auto", _("Automatic")), Interpreter.Device("cpu", _("CPU"))

    def _showDevices(self) -> None:
        environment, other, chosen = self._logic.environment, self._logic.otherPython, self.chosen.device
        items = [(device.label, device.name) for device in self._devices()]
        if all(chosen != name for _label, name in items):
            items.append((chosen, chosen))
        items.append((_("Other Python..."), OTHER_PYTHON))
        if other is not None:
            items.append((_("Slicer's own Python"), OWN_PYTHON))
        Parts.fillComboBox(self._ui.deviceComboBox, items, chosen)
        text = _("Where the computation runs. Automatic takes a CUDA graphics card if there is one, the CPU otherwise.")
        summary = environment.summary if environment is not None else ""
        self._ui.deviceComboBox.toolTip = f"<p>{text}</p><p>{summary}</p>"
        self._ui.pythonLabel.visible = other is not None
        Parts.putText(self._ui.pythonLabel, _("The engine runs in {path}.").format(path=other))

    def _onPythonChecked(self, problem: str) -> None:
        self._tell(problem or _("The engine runs in this Python now; it is remembered on this computer."))
