"""Jobs and events survive their way through JSON, and whatever is wrong with them is refused with a sentence."""

import dataclasses
import json
import re
from typing import Any

import pytest

from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.contract import Failure, Progress, RegisterJob, Result

JOBS = [
    contract.ProbeJob(),
    contract.ProbeJob(cancel_file="c", parent_pid=12),
    RegisterJob(fixed="f.nrrd", moving="m.nrrd"),
    RegisterJob(
        fixed="f.nrrd",
        moving="m\u00fc.nrrd",
        method="none",
        recursions=20,
        alignment="affine",
        fixed_points="p.csv",
        refinement_steps=1000,
        similarity="mind",
        smoothness=0.25,
        velocity=True,
        output_recursions="folder",
        cancel_file="c",
        parent_pid=1,
    ),
    contract.SequenceJob(fixed="f", frames=["a", "b"], output="o", warped=True, quality="fast"),
    contract.BatchJob(pairs="p.csv", output="o", outputs=["transform"], settings={"method": "none", "recursions": 3}),
    contract.JacobianJob(transform="t.h5", output="o.nrrd", map="folds"),
    contract.WarpJob(moving="m", transform="t", output="o", labels=True, error="e", output_high="h"),
    contract.MetricsJob(transform="t", fixed_labels="a", moving_labels="b"),
    contract.RenderJob(gaussians="g", reference="r", output="o"),
    contract.StructuresJob(image="i", output="o.seg.nrrd", weights="w"),
]
EVENTS = [
    Progress("recursion", 1, 3, "Recursion 1 of 3.", "r.nrrd"),
    Progress("load"),
    Result({"transform": "t.nrrd"}, {"dice": {"1": 0.8, "mean": None}, "similarity": [0.1, 0.2]}, ["A warning."]),
    Result(),
    Failure(errors.CANCELLED, "The registration was cancelled.", ""),
]


def job_text(**changes: Any) -> str:
    """Return a valid registration job as JSON with some fields changed; None leaves a field out."""
    data = {"contract": contract.VERSION, "task": "register", "fixed": "f", "moving": "m", **changes}
    return json.dumps({name: value for name, value in data.items() if value is not None})


def event_line(**changes: Any) -> str:
    return json.dumps({"contract": contract.VERSION, "event": "progress", "stage": "load", **changes})


def refusal(text: str) -> errors.EngineError:
    with pytest.raises(errors.EngineError) as caught:
        contract.parse_job(text)
    return caught.value


class TestRoundTrip:
    @pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
    def test_job_comes_back_equal(self, job: contract.Job) -> None:
        assert contract.parse_job(contract.dump_job(job)) == job

    @pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
    def test_event_comes_back_equal(self, event: contract.Event) -> None:
        assert contract.parse_event(contract.dump_event(event)) == event

    @pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
    def test_event_is_one_line(self, event: contract.Event) -> None:
        assert "\n" not in contract.dump_event(event)

    def test_line_breaks_of_a_message_stay_in_the_line(self) -> None:
        event = Progress("load", message="one\ntwo\r\n\u2028three")
        line = contract.dump_event(event)
        assert len(line.splitlines()) == 1
        assert contract.parse_event(line) == event

    def test_event_is_ascii(self) -> None:
        assert contract.dump_event(Failure("code", "Gr\u00f6\u00dfe \u65e5\u672c")).isascii()

    def test_every_task_has_a_job_here(self) -> None:
        assert {type(job) for job in JOBS} == set(contract.TASKS.values())

    def test_every_kind_of_event_is_here(self) -> None:
        assert {type(event) for event in EVENTS} == set(contract.EVENTS.values())

    def test_whole_number_may_stand_for_a_float(self) -> None:
        assert contract.parse_job(job_text(smoothness=2)).smoothness == 2

    def test_stages_include_those_of_the_example(self) -> None:
        assert {event.stage for event in EVENTS if isinstance(event, Progress)} <= set(contract.STAGES)


@dataclasses.dataclass(frozen=True)
class Point:
    """A dataclass within others."""

    place: tuple[float, float]
    kind: str = dataclasses.field(default="plain", metadata={"choices": ("plain", "fancy")})


@dataclasses.dataclass(frozen=True)
class Shape:
    """A dataclass with everything that JSON has no type of its own for."""

    corners: tuple[Point, ...] = ()
    center: Point | None = None
    grids: tuple[tuple[int, ...], ...] = ()
    named: dict[str, Point] = dataclasses.field(default_factory=dict)
    free: dict[str, Any] = dataclasses.field(default_factory=dict)


class TestNesting:
    def test_objects_become_dataclasses_and_lists_tuples(self) -> None:
        point = {"place": [1, 2.5]}
        values = {"corners": [point, point], "center": point, "grids": [[4, 5], [6]], "named": {"a": point}}
        made = contract.build(Shape, {**values, "free": {"as": ["it", {"is": None}]}})
        expected = Point((1, 2.5))
        assert made == Shape(
            (expected, expected), expected, ((4, 5), (6,)), {"a": expected}, {"as": ["it", {"is": None}]}
        )

    def test_fields_and_json_come_back_equal(self) -> None:
        shape = Shape(corners=(Point((0, 1), "fancy"),), grids=((1, 2),))
        fields = dataclasses.asdict(shape)
        assert contract.build(Shape, fields) == contract.build(Shape, json.loads(json.dumps(fields))) == shape

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"center": {"place": [1, 2], "colour": "red"}}, "Point does not know the field 'colour'"),
            ({"center": {}}, "Point lacks the field 'place'"),
            ({"center": [1, 2]}, "Shape.center is [1, 2], but must be dict or nothing"),
            ({"center": {"place": [1, 2, 3]}}, "Point.place is [1, 2, 3], but must have 2 items"),
            ({"center": {"place": 1}}, "Point.place is 1, but must be list or tuple"),
            ({"center": {"place": [1, 2], "kind": "odd"}}, "Point.kind is 'odd', but must be one of plain, fancy"),
            ({"corners": [3]}, "Shape.corners[0] is 3, but must be dict"),
            ({"grids": [[1, 2.5]]}, "Shape.grids[0][1] is 2.5, but must be int"),
            ({"named": {"a": None}}, "Shape.named['a'] is None, but must be dict"),
        ],
    )
    def test_what_is_wrong_within_is_named(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(errors.EngineError, match=re.escape(message)):
            contract.build(Shape, values)

    def test_items_of_an_optional_list_are_checked(self) -> None:
        with pytest.raises(errors.EngineError, match=r"BatchJob.outputs\[0\] is 5"):
            contract.build(contract.BatchJob, {"pairs": "p", "output": "o", "outputs": [5]})


class TestDefaults:
    def test_shortest_job_takes_the_defaults(self) -> None:
        assert contract.parse_job(job_text()) == RegisterJob(fixed="f", moving="m")

    @pytest.mark.parametrize("kind", contract.TASKS.values(), ids=lambda kind: kind.__name__)
    def test_defaults_pass_their_own_check(self, kind: type[contract.Job]) -> None:
        missing = [item for item in dataclasses.fields(kind) if item.default is dataclasses.MISSING]
        needed = {item.name: "x" if item.type is str else ["x"] for item in missing}
        filled = dataclasses.asdict(kind(**needed))
        assert dataclasses.asdict(contract.build(kind, filled)) == filled

    @pytest.mark.parametrize("kind", contract.TASKS.values(), ids=lambda kind: kind.__name__)
    def test_every_field_is_described(self, kind: type[contract.Job]) -> None:
        own = set(kind.__annotations__)
        described = re.findall(r"^        (\w+):", kind.__doc__ or "", re.MULTILINE)
        assert not described or set(described) == own


WRONG_VALUES = {
    "recursions": [0, 101, -1, 2.5, "3", True, [3]],
    "refinement_steps": [-1, 1001, 1.5, False],
    "smoothness": [-0.1, float("nan"), float("inf"), "1", True],
    "seed": [-1, 2**40, 0.5],
    "alignment": ["", "Rigid", 1],
    "similarity": ["NCC", "mi"],
    "velocity": [1, "true"],
    "fixed": [1, ["a"], {}, True],
    "parent_pid": [1.0, "1", True, 0, 2**70],
    "cancel_file": [5],
}
WRONG = [(name, value) for name, values in WRONG_VALUES.items() for value in values]


class TestRefusals:
    @pytest.mark.parametrize(("name", "value"), WRONG)
    def test_wrong_value_is_refused_by_name(self, name: str, value: Any) -> None:
        assert f"RegisterJob.{name} is " in refusal(job_text(**{name: value})).message

    @pytest.mark.parametrize(
        "text",
        [
            *(job_text(**{name: value}) for name, value in WRONG),
            job_text(colour="red"),
            job_text(fixed=None),
            job_text(contract=2),
            job_text(contract=None),
            job_text(contract="1"),
            job_text(contract=True),
            job_text(contract=1.0),
            100_000 * "[",
            job_text(task="dance"),
            job_text(task=None),
            job_text(task=["register"]),
            job_text(task={}),
            "",
            "[]",
            "3",
            "null",
            job_text()[:-5],
        ],
    )
    def test_refusal_is_a_sentence_with_a_hint(self, text: str) -> None:
        error = refusal(text)
        assert error.code == errors.CONTRACT
        for part in (error.message, error.hint):
            assert re.fullmatch(r"[A-Z].*\.", part, re.DOTALL)

    def test_unknown_field_is_named(self) -> None:
        assert "'colour'" in refusal(job_text(colour="red")).message

    def test_missing_field_is_named(self) -> None:
        assert "'fixed'" in refusal(job_text(fixed=None)).message

    def test_other_version_is_named(self) -> None:
        assert "version 2" in refusal(job_text(contract=2)).message

    def test_null_is_refused_where_a_value_is_needed(self) -> None:
        text = job_text().replace('"m"', "null")
        assert "RegisterJob.moving is None" in refusal(text).message

    def test_null_is_accepted_where_nothing_is_meant(self) -> None:
        job = contract.parse_job(job_text().replace("}", ', "fixed_mask": null}'))
        assert job.fixed_mask is None


class TestEvents:
    @pytest.mark.parametrize("line", ["", "Loading ...", "{}", '{"event": "progress"}', "[1]", "contract"])
    def test_other_output_is_no_event(self, line: str) -> None:
        assert contract.parse_event(line) is None

    @pytest.mark.parametrize(
        "line",
        [
            event_line(contract=99),
            event_line(event="party"),
            event_line(event=["progress"]),
            event_line(step="1"),
            event_line(more=1),
            event_line()[:-3],
            '{"contract": 1, "event": "result", "outputs": {"transform": 5}}',
            '{"contract": 1, "event": "result", "warnings": [1]}',
            '{"contract": 1, "event": "result", "outputs": []}',
        ],
    )
    def test_damaged_event_is_refused(self, line: str) -> None:
        with pytest.raises(errors.EngineError) as caught:
            contract.parse_event(line)
        assert caught.value.code == errors.CONTRACT

    def test_line_may_end_with_a_line_break(self) -> None:
        assert contract.parse_event(event_line() + "\r\n") == Progress("load")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_json_lacks_are_not_written(self, value: float) -> None:
        with pytest.raises(ValueError, match="JSON"):
            contract.dump_event(Result(values={"x": value}))


class TestError:
    def test_text_is_message_and_hint(self) -> None:
        assert str(errors.EngineError("code", "It failed.", "Do this.")) == "It failed. Do this."

    def test_text_without_hint_is_the_message(self) -> None:
        assert str(errors.EngineError("code", "It failed.")) == "It failed."
