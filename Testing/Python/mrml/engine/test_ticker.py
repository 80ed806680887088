"""What is called again and again, until it is not to be called any more."""

import weakref

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene  # noqa: F401  (provides slicer.i18n)
from DeepAttentionRegLib.engine.Ticker import Ticker
from mrml_cases import is_let_go

pytestmark = pytest.mark.mrml


class Owner:
    """Has its own method called."""

    def __init__(self) -> None:
        self.count = 0
        self.ticker = Ticker(10)

    def call(self) -> None:
        self.count += 1


@pytest.fixture
def owner(event_loop) -> Owner:
    return Owner()


def test_calls_until_it_is_stopped(owner, event_loop):
    owner.ticker.start(owner.call)
    event_loop.processEvents()
    event_loop.processEvents()
    owner.ticker.stop()
    event_loop.processEvents()
    assert (owner.count, owner.ticker.isRunning, event_loop.is_idle) == (2, False, True)


def test_started_anew_at_once_calls_no_more_often(owner, event_loop):
    owner.ticker.start(owner.call)
    owner.ticker.stop()
    owner.ticker.start(owner.call)
    event_loop.processEvents()
    assert owner.count == 1


def test_goes_on_after_a_call_that_raised(owner, event_loop):
    def fail() -> None:
        owner.call()
        raise ZeroDivisionError

    owner.ticker.start(fail)
    for _tick in range(2):
        with pytest.raises(ZeroDivisionError):
            event_loop.processEvents()
    assert owner.count == 2


def test_lets_go_of_what_it_called(event_loop):
    owner = Owner()
    owner.ticker.start(owner.call)
    owner.ticker.stop()
    reference = weakref.ref(owner)
    del owner
    assert is_let_go([reference])
