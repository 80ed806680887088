"""Runs the tests of the panel, which ctest runs inside Slicer, on the stand-ins; takes the arguments of unittest."""

import json
import os
import sys
import traceback
import unittest
from pathlib import Path
from types import SimpleNamespace

SUPPORT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(SUPPORT), str(SUPPORT.parent)]

import gui_stand_ins

TESTS = (
    "gui_stand_ins.self_test",
    "DeepAttentionRegGuiTest",
    "DeepAttentionRegSectionsTest",
    "DeepAttentionRegMethodTest",
    "DeepAttentionRegMapsTest",
    "DeepAttentionRegViewsTest",
    "DeepAttentionRegRecursionsTest",
    "DeepAttentionRegCorrectionTest",
    "DeepAttentionRegEvidenceTest",
)
# Names a file for the outcomes of all tests by their id: an empty text, or what went wrong.
REPORT_VARIABLE = "GUI_TEST_REPORT"


class Result(unittest.TextTestResult):
    """Counts an exception that nobody caught, such as in a slot, as an error of the test it happened in."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.outcomes = {}
        self._uncaught = []
        sys.excepthook = lambda *error: self._uncaught.append(error)

    def addSuccess(self, test):
        if self._uncaught:
            self.addError(test, self._uncaught[0])
        else:
            self.outcomes[test.id()] = ""
            super().addSuccess(test)

    def addFailure(self, test, error):
        self._note(test, error)
        super().addFailure(test, error)

    def addError(self, test, error):
        self._note(test, error)
        super().addError(test, error)

    def stopTest(self, test):
        self._uncaught.clear()
        super().stopTest(test)

    def _note(self, test, error):
        self.outcomes[test.id()] = "".join(traceback.format_exception(*error))


def main() -> int:
    """Run the tests that the command line names and return the exit code."""
    gui_stand_ins.install()
    namespace = SimpleNamespace(**{name.partition(".")[0]: __import__(name) for name in TESTS})
    runner = unittest.TextTestRunner(resultclass=Result, verbosity=2)
    result = unittest.main(namespace, TESTS, testRunner=runner, exit=False).result
    report = os.environ.get(REPORT_VARIABLE)
    if report:
        Path(report).write_text(json.dumps(result.outcomes), encoding="ascii")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Qt and VTK, each taking the other's objects with it, may crash while the interpreter ends
