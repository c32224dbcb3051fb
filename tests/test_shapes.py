from __future__ import annotations

from typing import Any

import pytest

from celery_stats import shapes
from celery_stats.shapes import FIELDS, FIELDS_WITH_TASKS

TASK = {"id": "x", "name": "reports.build"}


def test_fields_with_tasks__all_but_ids_and_statistics() -> None:
    assert set(FIELDS) - FIELDS_WITH_TASKS == {"revoked", "stats"}
    assert set(FIELDS) >= FIELDS_WITH_TASKS


@pytest.mark.parametrize("value", ["N/A", None, True, [], {}, 10**18, -(10**400), float("nan")])
def test_number__none_if_it_is_no_number_to_calculate_with(value: Any) -> None:
    assert shapes.number(value) is None
    assert shapes.number(1.5) == 1.5


def test_value_at__none_where_the_path_ends() -> None:
    stats = {"pool": {"max-concurrency": 4}, "rusage": "N/A"}
    assert shapes.value_at(stats, "pool", "max-concurrency") == 4
    assert shapes.value_at(stats, "rusage", "maxrss") is None
    assert shapes.value_at(None, "rusage") is None


def test_task_of__the_request_of_a_scheduled_one_with_its_eta() -> None:
    assert shapes.task_of(TASK) == TASK
    assert shapes.task_of({"eta": "soon", "request": TASK}) == {**TASK, "eta": "soon"}
    assert shapes.task_of("odd") == {"id": "odd"}


@pytest.mark.parametrize(
    ("field", "reply", "wrong"),
    [
        ("active", [], None),
        ("active", {}, {}),
        ("stats", {}, None),
        ("stats", [], []),
        ("stats", None, None),
        ("query_task", {"error": "KeyError()"}, "KeyError()"),
        ("query_task", {"error": ["active", TASK]}, None),  # "error" is the id of a task here.
    ],
)
def test_unexpected__an_error_or_the_reply(field: str, reply: Any, wrong: Any) -> None:
    assert shapes.unexpected_in(field, reply) == wrong


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ({"pool": {"max-concurrency": 1, "processes": [7, 8]}, "autoscaler": {"max": 9}}, 9),
        ({"pool": {"max-concurrency": 1, "processes": [7, 8]}, "autoscaler": {"max": "9"}}, 2),
        ({"pool": {"max-concurrency": 1, "processes": []}}, 1),
        ({"pool": "N/A"}, None),
    ],
)
def test_slots__what_is_true_now(stats: Any, expected: Any) -> None:
    assert shapes.slots_of(stats) == expected


def test_replies_of__each_field() -> None:
    answers = {"active": {"a@h": [], "b@h": [TASK]}, "stats": None}
    assert shapes.replies_of(answers, "b@h") == {"active": [TASK], "stats": None}
    assert shapes.answering(answers) == ["a@h", "b@h"]
