"""Tasks as rows for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from math import inf
from typing import Any, NamedTuple

from celery_stats.query import MAX_LENGTH
from celery_stats.report import Report
from celery_stats.shapes import Answers, as_text, entries, holders, number, task_of, value_at
from celery_stats.times import eta_of, running_for, time_before, time_to_go

from .text import (
    TEXT_LENGTH,
    Count,
    Excerpt,
    Text,
    count,
    duration,
    excerpt,
    format_time,
    isolated,
    plural,
    shorten,
)

TASKS_SHOWN = 100  # in each of the four lists
WORKERS_NAMED = 3  # that hold one revoked id

LATEST = datetime.max.replace(tzinfo=timezone.utc)

#: The fixed texts of each list. ``when`` is the title of the column with times, if there is one.
LAYOUTS: dict[str, dict[str, str]] = {
    "active": {
        "title": "Active",
        "caption": "Being executed, the longest first.",
        "empty": "No worker that answered is executing a task.",
        "when": "Running for",
    },
    "reserved": {
        "title": "Reserved",
        "caption": "Received by a worker, not yet started.",
        "empty": "No worker that answered holds a task that waits.",
    },
    "scheduled": {
        "title": "Scheduled",
        "caption": "Held by a worker until their ETA, the soonest first.",
        "empty": "No worker that answered holds a task until an ETA.",
        "when": "Due",
    },
    "revoked": {
        "title": "Revoked",
        "caption": "Ids that workers will not execute; each is counted once.",
        "empty": "No worker that answered knows a revoked task.",
    },
}

NOT_ANSWERED = "No worker answered this, or it was not asked for."


class Task(NamedTuple):
    """A task as a row.

    Attributes:
        whole_id: empty if the id is too long to be looked up.
        when: the time since the start, or until the ETA.
        at: the start or the ETA itself.
    """

    id: Text
    whole_id: str
    name: Text
    arguments: Text
    worker: Text
    queue: Text
    when: str
    at: str


class TaskList(NamedTuple):
    """One of the four lists. ``empty`` is shown in place of rows if there are none.

    The items of ``revoked`` are pairs of the workers and the tasks that these workers know, and
    those of the other lists are tasks.
    """

    key: str
    layout: Mapping[str, str]
    items: Sequence[Any]
    total: Count
    note: str
    empty: str


def start_of(entry: tuple[str, Any]) -> float:
    """Return when a task was started, to sort by; those of which that is not known come last."""
    started = number(value_at(entry[1], "time_start"))
    return inf if started is None else started


def task_lists(report: Report) -> dict[str, TaskList]:
    """Return the four lists by field."""
    answers = report.answers
    active = sorted(entries(answers, "active"), key=start_of)
    scheduled = sorted(entries(answers, "scheduled"), key=lambda entry: eta_of(entry[1]) or LATEST)
    reserved = entries(answers, "reserved")
    excerpts = {
        "active": excerpt(active, TASKS_SHOWN, lambda entry: active_row(report, *entry)),
        "reserved": excerpt(reserved, TASKS_SHOWN, lambda entry: task_row(*entry)),
        "scheduled": excerpt(scheduled, TASKS_SHOWN, lambda entry: scheduled_row(report, *entry)),
        "revoked": revoked_rows(answers),
    }
    left_out = [name for name in report.question.narrowed_by if name != "fields"]
    only = f"None, but only some {' and '.join(left_out)} were asked for." if left_out else ""
    lists = {}
    for field, (items, total, note) in excerpts.items():
        replies = (answers.get(field) or {}).values()
        answered = any(isinstance(reply, list | tuple) for reply in replies)
        lists[field] = TaskList(
            key=field,
            layout=LAYOUTS[field],
            items=items,
            total=total if answered else count(None),
            note=note,
            empty=(only or LAYOUTS[field]["empty"]) if answered else NOT_ANSWERED,
        )
    return lists


def revoked_rows(answers: Answers) -> Excerpt:
    """Return pairs of the workers that know the same revoked ids, and these tasks."""
    shown = excerpt(holders(answers).items(), TASKS_SHOWN, lambda item: item)
    groups: dict[str, list[Task]] = {}
    for task_id, workers in shown.items:
        groups.setdefault(name_a_few(workers), []).append(task_row("", task_id))
    return shown._replace(items=[(shorten(workers), ids) for workers, ids in groups.items()])


def name_a_few(workers: Sequence[str]) -> str:
    """Return the names of a few workers, or only the number of many."""
    if len(workers) <= WORKERS_NAMED:
        return ", ".join(shorten(worker).shown for worker in workers)
    return plural(len(workers), "worker")


def task_row(worker: str, entry: Any, when: str = "", at: datetime | None = None) -> Task:
    """Return the row of an item of a list, which a worker holds."""
    info = task_of(entry)
    task_id = as_text(info.get("id", ""))
    return Task(
        # The first block of a UUID is enough for a person to tell tasks apart.
        id=shorten(task_id, 9) if len(task_id) > 12 else Text(task_id),
        # A longer id cannot be looked up.
        whole_id=task_id if len(task_id) <= MAX_LENGTH else "",
        name=shorten(info.get("name", "")),
        arguments=arguments(info),
        worker=shorten(worker),
        # As far as the routing key tells.
        queue=shorten(value_at(info, "delivery_info", "routing_key") or ""),
        when=when,
        at=format_time(at),
    )


def arguments(task: Mapping[str, Any], length: int = TEXT_LENGTH) -> Text:
    """Return the arguments as in a call: ``2026, 3, retry=True``.

    A retried task has them as one text each, which is shown as it is. One that is written from
    right to left is isolated, because it would change the order of its neighbours.
    """
    args, kwargs = task.get("args"), task.get("kwargs")
    if isinstance(args, list | tuple):
        parts = [repr(value) for value in args]
    else:
        parts = [as_text(args)] if args else []
    if isinstance(kwargs, Mapping):
        parts += [f"{name}={value!r}" for name, value in kwargs.items()]
    elif kwargs:
        parts.append(as_text(kwargs))
    return shorten(", ".join(map(isolated, parts)), length)


def active_row(report: Report, worker: str, task: Any) -> Task:
    """Return the row of a task that is being executed, with its age."""
    seconds = running_for(report, worker, task)
    if seconds is None:
        return task_row(worker, task)
    return task_row(worker, task, duration(seconds), time_before(report, seconds))


def scheduled_row(report: Report, worker: str, entry: Any) -> Task:
    """Return the row of an item of ``scheduled``."""
    eta = eta_of(entry)
    if eta is None:
        return task_row(worker, entry, shorten(value_at(entry, "eta") or "", 40).shown)
    seconds = time_to_go(report, worker, eta)
    return task_row(worker, entry, f"in {duration(seconds)}" if seconds >= 1 else "due now", eta)
