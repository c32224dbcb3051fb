"""Where is this task? The sentences, and the look at the result backend and the queues."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from celery_stats.control.look_through import Extent, Place
from celery_stats.control.question import Extras, Question
from celery_stats.control.results import Backend, Result
from celery_stats.control.traces import Traces
from celery_stats.page import look_up, tasks
from celery_stats.page.look_up import LookUp, look_ups
from celery_stats.page.pasted import pasted_ids, pasted_question
from celery_stats.query import WrongQuestion
from celery_stats.report import Report
from celery_stats.shapes import FIELDS
from tests.answers import ANSWERS, EMPTY, NOW, STATS, TASK

ID = TASK["id"]
NOTHING = Traces({}, Backend.NONE, {}, Extent.ALL)


def look(*pasted: str, answers: dict[str, Any] | None = None, **known: Any) -> list[LookUp]:
    """Look up what was pasted, in these answers."""
    given = {"missing": {}, "taken_at": NOW, "elapsed": 0.01, "traces": NOTHING, **known}
    question = pasted_question({"task_id": pasted, "field": ()})
    return look_ups(Report({**EMPTY, **(answers or ANSWERS)}, **given, question=question))


def said(*pasted: str, **known: Any) -> list[list[str]]:
    return [list(look_up.sentences) for look_up in look(*pasted, **known)]


# What people paste


@pytest.mark.parametrize(
    "pasted",
    [
        ID,
        f"  {ID}\n",
        f"'{ID}'",
        f'"{ID}",',
        f"“{ID}”",
        f"[{ID}]",
        ID.upper(),
        ID[:8],
        f"{ID[:8]}…",
        f"{ID[:8].upper()}...",
    ],
)
def test_pasted_id__found_however_it_is_written(pasted: str) -> None:
    assert said(pasted) == [["Running on a@h for 1 min 5 s, since 05:58."]]


@pytest.mark.parametrize(
    "pasted",
    [
        # Two lines of Celery's log, and JSON.
        "Task reports.build[{}] received",
        "Discarding revoked task: reports.build[{}]",
        '{{"id":"{}","name":"reports.build"}}',
    ],
)
@pytest.mark.parametrize("task_id", [ID, "March"])
def test_text_around_an_id__found(pasted: str, task_id: str) -> None:
    answers = {**ANSWERS, "active": {"a@h": [{**TASK, "id": task_id}]}}
    found = {
        look_up.id.shown: look_up.state
        for look_up in look(pasted.format(task_id), answers=answers)
    }
    assert found[task_id] == "active"


@pytest.mark.parametrize(
    "pasted",
    ["https://flower/task/{}?x=1", "celery-task-meta-{}", "task_id={}", "{}.json"],
)
def test_uuid_in_a_word__found(pasted: str) -> None:
    assert said(pasted.format(ID.upper())) == [["Running on a@h for 1 min 5 s, since 05:58."]]
    (unknown,) = look(pasted.format(ID), answers=EMPTY)
    assert unknown.id.shown == pasted.format(ID)


def test_several_pasted__each_looked_up() -> None:
    running, nope = (
        "Running on a@h for 1 min 5 s, since 05:58.",
        "No worker that answered knows it.",
    )
    found = [sentences[0] for sentences in said(f"{ID}, nope 'other-one'")]
    assert found == [running, nope, nope]
    seven = " ".join(f"{n}{ID[1:]}" for n in range(7))
    assert [look_up.id.shown for look_up in look(seven)] == seven.split()


def test_id_with_spaces_and_quotes__the_exact_text_comes_first() -> None:
    odd = "my 'Task', NUMBER 7"
    answers = {**ANSWERS, "active": {"a@h": [{**TASK, "id": odd}]}}
    assert [look_up.id.shown for look_up in look(odd, answers=answers)] == [odd]
    assert pasted_ids(odd) == [("my",), ("Task", "task"), ("NUMBER", "number"), ("7",)]


def test_upper_and_lower_case_are_two_tasks__the_exact_one() -> None:
    answers = {**ANSWERS, "active": {"a@h": [{**TASK, "id": "AB"}], "b@h": [{**TASK, "id": "ab"}]}}
    (found,) = said("AB", answers=answers)
    assert found[0].startswith("Running on a@h")


def test_short_beginning__not_looked_for() -> None:
    assert said(ID[:7])[0][0] == "No worker that answered knows it."


def test_beginning_of_several__all_named() -> None:
    tasks = [{**TASK, "id": f"12345678-A{n}"} for n in range(10, 22)]
    odd = [{"id": ["12345678"]}, {"id": 12345678}, {"id": "12345679"}]
    (found,) = look("12345678-a", answers={**ANSWERS, "active": {"a@h": [*odd, *tasks]}})
    assert found.sentences == ["12 tasks that workers know begin with it."]
    assert [task.whole_id for task in found.fits] == [f"12345678-A{n}" for n in range(10, 20)]


def test_many_ids_and_many_tasks__the_lists_are_searched_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched: list[str] = []

    def entries(answers: Any, field: str) -> list[tuple[str, Any]]:
        searched.append(field)
        return tasks.entries(answers, field)

    monkeypatch.setattr(look_up, "entries", entries)
    several = " ".join(f"{ID[:8]}x{n}" for n in range(30))
    assert len(look(f"{ID[:9]} {ID[:10]} {several}", traces=None)) == 32
    # For ids, for beginnings, and for what the only beginnings mean.
    assert len(searched) == 3 * 3


def asked(*pasted: str) -> tuple[str, ...]:
    """Return the ids that are asked for if this was pasted."""
    return pasted_question({"task_id": pasted, "field": ()}).task_ids


def test_whole_text_too_long_or_with_control_characters__no_id() -> None:
    assert asked("x" * 255 + " y", "a\tb") == ("x" * 255, "y", "a", "b")


@pytest.mark.parametrize("mark", ["", "'"], ids=["as they are", "quoted"])
def test_upper_case__a_hundred_ids_as_in_lower_case(mark: str) -> None:
    ids = [f"{mark}{ID[:-3]}{n}{mark}".upper() for n in range(100, 200)]
    for pasted in (ids, [" ".join(ids)]):
        found = asked(*pasted)
        assert found[:100] == tuple(task_id.strip(mark or None) for task_id in ids)
        assert {task_id.lower() for task_id in found[:100]} <= {*found}
    with pytest.raises(WrongQuestion, match="At most 100 values are allowed"):
        asked(*ids, "x")


# What workers say


def entry(task_id: str, eta: Any) -> dict[str, Any]:
    return {"eta": eta, "priority": 6, "request": {**TASK, "id": task_id, "time_start": None}}


@pytest.mark.parametrize(
    ("answers", "sentences"),
    [
        ({"reserved": {"a@h": [TASK]}}, ["Received by a@h, not started."]),
        (
            {"reserved": {"a@h": [TASK]}, "active": {"a@h": []}, "stats": {"a@h": STATS}},
            [
                "Received by a@h, not started; slots busy: 0 of 4, so a rate limit may hold it "
                "back."
            ],
        ),
        (
            {
                "reserved": {"a@h": [TASK]},
                "active": {"a@h": [{"id": str(n)} for n in range(4)]},
                "stats": {"a@h": STATS},
            },
            ["Received by a@h, not started; slots busy: 4 of 4."],
        ),
        (
            {"reserved": {"a@h": [TASK]}, "active": {"a@h": {}}, "stats": {"a@h": STATS}},
            ["Received by a@h, not started."],
        ),
        (
            {"scheduled": {"a@h": [entry(ID, "2026-03-01T12:14:00+00:00")]}},
            ["On a@h until its ETA, due in 14 min (06:14)."],
        ),
        (
            {"scheduled": {"a@h": [entry(ID, "2026-03-03T12:00:00+00:00")]}},
            ["On a@h until its ETA, due in 2 days (2026-03-03 06:00)."],
        ),
        (
            {"scheduled": {"a@h": [entry(ID, "2026-03-01T11:59:00+00:00")]}},
            ["On a@h, due now by its ETA."],
        ),
        ({"scheduled": {"a@h": [entry(ID, "soon")]}}, ["On a@h until its ETA."]),
        (
            {"revoked": {"a@h": [ID], "b@h": [ID]}},
            ["Revoked (known to a@h, b@h): a worker that receives it will not execute it."],
        ),
        (
            {"query_task": {"a@h": {ID: ["ready", TASK]}}},
            ["Known to a@h: it has just finished, or is about to be started."],
        ),
        ({"query_task": {"a@h": {ID: ["odd", TASK]}}}, ["a@h says of it: odd."]),
        ({"query_task": {"a@h": {ID: "odd"}}}, ["a@h says of it: ?."]),
        (
            {"active": {"a@h": [{**TASK, "time_start": None}]}},
            ["Running on a@h."],
        ),
        (
            {
                "scheduled": {"a@h": [entry(ID, None)]},
                "revoked": {f"{n}@h": [ID] for n in range(4)},
            },
            [
                "On a@h until its ETA.",
                "Revoked (known to 4 workers): a worker that receives it will not execute it.",
            ],
        ),
    ],
)
def test_worker_knows_it__where_it_is(answers: dict[str, Any], sentences: list[str]) -> None:
    assert said(ID, answers={"stats": {"a@h": STATS}, **answers}) == [sentences]


def test_query_task_and_list__said_once_with_the_eta() -> None:
    answers = {
        "scheduled": {"a@h": [entry(ID, "2026-03-01T12:14:00+00:00")]},
        "query_task": {"a@h": {ID: ["scheduled", {**TASK, "time_start": None}]}},
    }
    assert said(ID, answers=answers) == [["On a@h until its ETA, due in 14 min (06:14)."]]


def test_held_and_details__of_the_task_that_a_worker_described() -> None:
    (found,) = look(ID)
    assert (found.held, found.state) == ("running on a@h", "active")
    assert found.task is not None
    assert found.task.arguments.shown == "2026, 'March', draft=True"
    long = {**TASK, "args": ["x" * 1500]}
    (looked_up,) = look(ID, answers={**ANSWERS, "active": {"a@h": [long]}})
    assert looked_up.task is not None
    assert len(looked_up.task.arguments.shown) > 1500
    assert found.pairs is not None
    assert ("delivery_info.routing_key", "reports", "") in found.pairs.items


# Clocks


def test_clock_of_the_worker__ages_are_measured_against_it() -> None:
    ahead = {"a@h": Extras(time=NOW.timestamp() + 3600)}
    late = {**TASK, "time_start": NOW.timestamp() + 3600 - 65}
    answers = {**ANSWERS, "active": {"a@h": [late]}}
    assert said(ID, answers=answers, extras=ahead)[0] == [
        "Running on a@h for 1 min 5 s, since 05:58."
    ]
    eta = (NOW + timedelta(hours=1, minutes=14)).isoformat()
    answers = {**ANSWERS, "active": {}, "scheduled": {"a@h": [entry(ID, eta)]}}
    assert "due in 14 min" in said(ID, answers=answers, extras=ahead)[0][0]


def test_no_clock_and_an_age_beyond_the_uptime__no_age() -> None:
    answers = {**ANSWERS, "stats": {"a@h": {**STATS, "uptime": 22}}}
    assert said(ID, answers=answers) == [["Running on a@h."]]


# Nobody knows it


def test_no_worker_knows_it__and_who_did_not_answer() -> None:
    missing = {"solo@h": FIELDS, "b@h": ("stats",)}
    (sentences,) = said("nope", missing=missing)
    assert sentences == [
        "No worker that answered knows it.",
        "solo@h, b@h did not answer, and may hold it or be executing it.",
        "The app has no result backend, so nothing says whether it has ended.",
    ]


def test_no_worker_answered__said() -> None:
    assert said("nope", answers=EMPTY)[0][0] == "No worker answered."


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        (
            Backend.ANSWERED,
            "The result backend has nothing of it: results expire, and tasks that ignore their "
            "result leave none.",
        ),
        (Backend.LATE, "The result backend did not answer in time."),
        (Backend.FAILED, "The result backend failed; the log of this process says why."),
        (
            Backend.PRIVATE,
            "The result goes only to the process that sent the task, so nobody else can "
            "know how it ended.",
        ),
    ],
)
def test_result_backend__a_sentence_of_its_own(backend: Backend, sentence: str) -> None:
    traces = Traces({}, backend, {}, Extent.NONE)
    assert said("nope", traces=traces) == [["No worker that answered knows it.", sentence]]


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (
            Result("SUCCESS", NOW - timedelta(minutes=3)),
            "The result backend says SUCCESS: it finished at 05:57:00, 3 min ago.",
        ),
        (Result("FAILURE", None), "The result backend says FAILURE: it failed."),
        (
            Result("RETRY", None),
            "The result backend says RETRY: it failed, and is to be tried again.",
        ),
        (
            Result("STARTED", None),
            "The result backend says STARTED: a worker has started it, and has not finished it.",
        ),
        (
            Result("HALF_DONE", None),
            "The result backend says HALF_DONE: it has a state of its own.",
        ),
    ],
)
def test_result__state_and_time(result: Result, sentence: str) -> None:
    traces = Traces({"done": result}, Backend.ANSWERED, {}, Extent.ALL)
    assert said("done", traces=traces, queues={"mail": 0}) == [
        ["No worker that answered knows it.", sentence]
    ]


def test_queues__where_it_waits_and_who_consumes_it() -> None:
    active_queues = {"a@h": [{"name": "mail"}]}
    places = {"x": Place("mail", 41), "y": Place("celery", 0), "z": Place("mail", None)}
    places["a"] = Place("", None)
    traces = Traces({}, Backend.NONE, places, Extent.ALL)
    found = said(
        "x y z a", traces=traces, queues={"mail": 50, "celery": 1}, active_queues=active_queues
    )
    assert [sentences[1] for sentences in found] == [
        "Waits in mail, about 41 messages before it, consumed by a@h.",
        "Waits in celery, no message before it, and no worker that answered consumes it.",
        "It was delivered from mail to a worker that has not acknowledged it. It may wait there, "
        "or be running there with acks_late or in the solo pool, or the worker may be gone. It is "
        "delivered again if it is not acknowledged within the visibility timeout.",
        "It was delivered to a worker that has not acknowledged it. It may wait there, "
        "or be running there with acks_late or in the solo pool, or the worker may be gone. It is "
        "delivered again if it is not acknowledged within the visibility timeout.",
    ]


def test_queues__only_some_workers_were_asked() -> None:
    traces = Traces({}, Backend.NONE, {"x": Place("celery", 0)}, Extent.ALL)
    report = Report(EMPTY, {}, NOW, 0.01, {"celery": 1}, active_queues={}, traces=traces)
    question = Question(task_ids=("x",), look_up=("x",), workers=("a@h",))
    (found,) = look_ups(replace(report, question=question))
    assert found.sentences[1] == (
        "Waits in celery, no message before it, and no worker that was asked and answered "
        "consumes it."
    )


def test_queues__not_there() -> None:
    lengths = {f"q{n}": n for n in range(7)}
    assert said("nope", queues=lengths)[0][-1] == (
        "It is not in the queues q6, q5, q4, q3, q2 and 2 more."
    )
    part = Traces({}, Backend.NONE, {}, Extent.PART)
    assert said("nope", queues={"mail": 5}, traces=part)[0][-1] == (
        "It was not found in the queues mail, of which no more than 10,000 messages and 16 MiB "
        "are looked through."
    )
    none = Traces({}, Backend.NONE, {}, Extent.NONE)
    active_queues = {"a@h": [{"name": "mail"}]}
    lengths = {"mail": 5, "lost": 7, "idle": 0}
    assert said("nope", queues=lengths, traces=none, active_queues=active_queues)[0][-3:] == [
        "Nobody can look into the queues of this broker.",
        "Messages in lost: 7, and no worker that answered consumes it.",
        "Messages in mail: 5, consumed by a@h.",
    ]
