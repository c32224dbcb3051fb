"""A report as lines for a terminal; test_command.py shows them in real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from celery_stats.control.question import Question
from celery_stats.page import terminal
from celery_stats.report import Report
from celery_stats.shapes import FIELDS
from tests.answers import ANSWERS, EMPTY, NOW, STATS, TASK


def report(
    answers: Mapping[str, Any], missing: Mapping[str, tuple[str, ...]] | None = None
) -> Report:
    return Report({**EMPTY, **answers}, missing or {}, NOW, 0.0123)


def lines(report: Report, **asked: Any) -> list[str]:
    report = replace(report, question=Question(**asked))
    return [line for line, _role in terminal.lines(report)]


def test_worker_and_task() -> None:
    assert lines(report(ANSWERS)) == [
        "1 worker answered in 12 ms at 06:00:00.",
        "",
        "Worker  Busy    Reserved  Scheduled  Processed  Uptime     Revoked  Pool",
        "a@h     1 of 4         0          0      1,500  1 day 2 h        0  prefork",
        "",
        "Running for  Task           Worker  Id",
        "1 min 5 s    reports.build  a@h     82639d59-6704-4719-940c-b5595a8570f7",
    ]


def test_queues() -> None:
    found = Report(EMPTY, {}, NOW, 0.0123, {"mail": 7, "celery": 1200})
    assert lines(found) == [
        "No worker answered at 06:00:00.",
        "",
        "Queue   Waiting  Consumed by",
        "celery    1,200  \N{EN DASH}",
        "mail          7  \N{EN DASH}",
    ]


def test_queues__who_consumes_them_and_a_warning_where_nobody_does() -> None:
    active_queues = {"a@h": [{"name": "mail"}], "b@h": [{"name": "mail"}, {"name": "idle"}]}
    found = Report(
        ANSWERS, {}, NOW, 0.0123, {"mail": 7, "celery": 1200}, active_queues=active_queues
    )
    assert [line for line in lines(found) if line][1] == (
        "No worker that answered consumes celery, which holds 1,200 messages."
    )
    assert lines(found)[-4:] == [
        "Queue   Waiting  Consumed by",
        "celery    1,200  \N{EN DASH}",
        "mail          7  a@h, b@h",
        "idle          \N{EN DASH}  b@h",
    ]
    roles = [role for line, role in terminal.lines(found) if line]
    assert roles[:2] == ["WARNING", "WARNING"]


def test_queues__no_warning_where_only_some_workers_were_asked() -> None:
    found = Report(ANSWERS, {}, NOW, 0.0123, {"celery": 1200}, active_queues={"a@h": []})
    assert not any("consumes celery" in line for line in lines(found, workers=("a@h",)))
    assert any("consumes celery" in line for line in lines(found, fields=("active",)))


def test_silent_subscribers_and_unreadable__a_sentence_each() -> None:
    found = replace(report(ANSWERS), silent_subscribers=2, unreadable=1)
    assert lines(found)[1:3] == [
        "1 reply came that this process may not or cannot read. Compare its accept_content and "
        "its certificates with those of the workers, which are alive.",
        "2 connections listen on the workers\N{RIGHT SINGLE QUOTATION MARK} channel in Redis and "
        "did not answer: frozen workers, or other programs.",
    ]


def test_many_tasks__cut_and_counted() -> None:
    tasks = [{**TASK, "id": f"task-{n}"} for n in range(101)]
    found = lines(report({"active": {"a@h": tasks}}))
    assert sum("task-" in line for line in found) == 100
    assert found[-1] == "Showing 100 of 101."


def test_fields_not_asked__no_columns() -> None:
    assert lines(report({"revoked": {"a@h": ["x", "y"]}}), fields=("revoked",))[2:] == [
        "Worker  Revoked",
        "a@h           2",
    ]


def test_only_query_task__no_table_of_names() -> None:
    found = report({"query_task": {"a@h": {}}})
    assert lines(found, fields=("query_task",)) == ["1 worker answered in 12 ms at 06:00:00."]


def test_look_ups() -> None:
    known = {"query_task": {"a@h": {TASK["id"]: ["active", TASK]}}}
    assert lines(report(known), task_ids=(TASK["id"], "nope"))[-7:] == [
        "",
        "82639d59-6704-4719-940c-b5595a8570f7",
        "  reports.build(2026, 'March', draft=True)",
        "  Running on a@h for 1 min 5 s, since 05:58.",
        "",
        "nope",
        "  No worker that answered knows it.",
    ]


def test_missing__below_the_summary_and_in_the_colour_of_a_warning() -> None:
    found = report(ANSWERS, {"a@h": ("active", "stats"), "b@h": FIELDS})
    warnings = [line for line, role in terminal.lines(found) if role == "WARNING"]
    assert warnings == [
        "1 worker answered in 12 ms at 06:00:00.",
        "a@h did not answer active, stats.",
        "b@h did not answer anything.",
        "a@h     1 of 4         0          0      1,500  1 day 2 h        0  prefork",
    ]


def test_error_reply__told() -> None:
    found = lines(report({**ANSWERS, "active": {"a@h": {"error": "no list today"}}}))
    assert found[4] == "a@h: active: no list today"


def test_wide_characters__aligned() -> None:
    stats = {"日本@h": STATS, "e\N{COMBINING ACUTE ACCENT}@h": STATS, "plain@h": STATS}
    _titles, *rows = lines(report({"stats": stats}))[2:]
    assert {wcswidth(row[: row.index("  \N{EN DASH} of 4")]) for row in rows} == {len("plain@h")}


def test_clip() -> None:
    assert terminal.clip("abc", 3) == "abc"
    assert terminal.clip("abcd", 3) == "ab…"
    assert terminal.clip("日本語", 4) == "日…"


def test_clip__megabytes__only_the_beginning_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    width = terminal.width
    monkeypatch.setattr(terminal, "width", lambda text: measured.append(len(text)) or width(text))
    assert terminal.clip("日" * 1_000_000, 4) == "日…"
    assert max(measured) <= 16


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n\u202eevil\u200b\x9b31m\ud800" + "x" * 300


def test_hostile_names__escaped() -> None:
    task = {**TASK, "id": HOSTILE, "name": HOSTILE}
    stats = {**STATS, "pool": {"implementation": HOSTILE, "max-concurrency": HOSTILE}}
    answers = {
        "active": {HOSTILE: [task]},
        "stats": {HOSTILE: stats, "b@h": {"error": HOSTILE}},
        "query_task": {HOSTILE: {HOSTILE: [HOSTILE, task]}},
    }
    found = Report(
        {**EMPTY, **answers},
        {HOSTILE: ("active",), f"{HOSTILE}2": FIELDS},
        NOW,
        0.0123,
        {HOSTILE: 1},
    )
    shown = lines(found, task_ids=(HOSTILE,))
    assert all(line.isprintable() for line in shown)
    assert sum(r"\x1b[2J" in line for line in shown) == 9


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(min_size=1, max_size=80)


@given(
    answers=st.fixed_dictionaries(
        {field: st.none() | st.dictionaries(NAMES, ANYTHING, min_size=1) for field in FIELDS}
    ),
    missing=st.dictionaries(NAMES, st.just(("active",)), max_size=3),
    columns=st.integers(1, 200),
)
def test_any_reply__printable_and_clipped_to_the_width(
    answers: dict[str, Any], missing: dict[str, tuple[str, ...]], columns: int
) -> None:
    for line in lines(report(answers, missing), task_ids=("a",)):
        assert line.isprintable()
        assert wcswidth(terminal.clip(line, columns)) <= columns
        line.encode()
