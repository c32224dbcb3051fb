from __future__ import annotations

from typing import Any

import pytest

from celery_stats.page.findings import FINDINGS, look_into, notes, remarks_at
from celery_stats.report import Report
from celery_stats.shapes import FIELDS
from tests.answers import ANSWERS, EMPTY, NOW

ERROR = {"error": "KeyError('eta')"}


def make_report(answers: dict[str, Any], missing: Any = (), **besides: Any) -> Report:
    return Report({**EMPTY, **answers}, dict.fromkeys(missing, FIELDS), NOW, 0.01, **besides)


#: The key of a finding to a report in which it is found.
REPORTS = {
    "none": make_report({}),
    "missing": make_report(ANSWERS, missing=["b@h"]),
    "partial": make_report({**ANSWERS, "scheduled": {"a@h": ERROR}}),
    "unreadable": make_report(ANSWERS, unreadable=1),
    "subscribers": make_report(ANSWERS, silent_subscribers=2),
    "backlog": make_report(ANSWERS, queues={"mail": 7}, active_queues={}),
    "without_queue": make_report(ANSWERS, active_queues={"a@h": []}),
    "complete": make_report(
        ANSWERS, queues={"mail": 7}, active_queues={"a@h": [{"name": "mail"}]}
    ),
}


@pytest.mark.parametrize("key", FINDINGS)
def test_finding__is_the_first_in_its_report(key: str) -> None:
    assert next(iter(look_into(REPORTS[key]))) == key


def test_all_at_once__in_order() -> None:
    report = make_report(
        {"scheduled": {"a@h": ERROR}},
        missing=["b@h"],
        queues={"mail": 7, "empty": 0},
        active_queues={"a@h": []},
        unreadable=1,
        silent_subscribers=2,
    )
    found = look_into(report)
    assert list(found) == [key for key in FINDINGS if key != "none"]
    assert found["missing"] == {"b@h"}
    assert found["backlog"] == {"mail"}
    assert list(remarks_at(found, "b@h")) == []
    assert list(remarks_at(found, "a@h")) == [
        ("scheduled", "KeyError('eta')"),
        ("", "It consumes no queue, so that it receives no task. A restart helps."),
    ]
    assert [note.partition(" that")[0].partition(" on")[0] for note in notes(report)] == [
        "1 reply came",
        "2 connections listen",
    ]


def test_consumers_not_asked__nothing_found() -> None:
    assert list(look_into(make_report(ANSWERS, queues={"mail": 7}))) == ["complete"]
