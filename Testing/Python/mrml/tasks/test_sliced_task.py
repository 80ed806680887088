"""Work in slices of time: it lets the application go on, and can be stopped."""

from types import SimpleNamespace

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegLib.engine import Turns
from DeepAttentionRegLib.engine.Callbacks import Callbacks
from DeepAttentionRegLib.tasks import SlicedTask

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]


@pytest.fixture
def told():
    """What the callbacks were told, by their name."""
    return []


@pytest.fixture
def make(told):
    """The function from work, and nodes that it takes, to its task."""

    def make(work, *nodes):
        names = ("onProgress", "onFinished", "onFailed")
        calls = {name: lambda value, name=name: told.append((name, value)) for name in names}
        return SlicedTask.SlicedTask(work, nodes, Callbacks(**calls))

    return make


@pytest.fixture
def between(monkeypatch):
    """The list of what happens when the application gets its turn, which it does at every pause."""
    monkeypatch.setattr(Turns, "INTERVAL_S", 0.0)
    events = []
    application = SimpleNamespace(processEvents=lambda: [event() for event in events])
    monkeypatch.setattr(slicer, "app", application, raising=False)
    return events


def endless(pause) -> None:
    while True:
        pause()


def test_short_work_is_done_at_once_and_disturbs_nobody(make, told):
    task = make(lambda pause: pause() or 7)
    task.start()
    assert (task.wait(), told, task.isRunning) == (7, [("onFinished", 7)], False)


def test_application_gets_its_turn_while_the_work_lasts(make, between):
    turns = []
    between.append(lambda: turns.append(task.isRunning))
    task = make(lambda pause: [pause() for _piece in range(3)])
    task.start()
    assert turns == [True, True, True]


def test_canceled_work_ends_at_the_next_pause(make, told, between):
    between.append(lambda: task.cancel())
    task = make(endless)
    task.start()
    assert [name for name, _value in told] == ["onProgress", "onFailed"]
    assert task.failure.code == errors.CANCELLED


def test_work_whose_node_is_removed_ends(make, between):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    between.append(lambda: slicer.mrmlScene.RemoveNode(node))
    task = make(endless, node)
    task.start()
    with pytest.raises(RuntimeError, match="was removed"):
        task.wait()


def test_closed_work_tells_nobody(make, told, between):
    between.append(lambda: task.close())
    task = make(endless)
    task.start()
    assert [name for name, _value in told] == ["onProgress"]


def test_failure_is_told_in_its_own_words(make, told):
    def fail(_pause):
        raise ValueError("Choose another volume.")

    make(fail).start()
    ((name, failure),) = told
    assert (name, failure.message) == ("onFailed", "Choose another volume.")
