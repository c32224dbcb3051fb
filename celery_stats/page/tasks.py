"""The one place that knows the shapes of Celery's tasks and replies, and tasks as rows for people.

In this module, ``answers`` are those of a report: field to worker to that worker's reply. A worker
may send any JSON value under any key, so nothing here takes a shape for granted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, TypeAlias

from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive

from celery_stats.query import MAX_LENGTH
from celery_stats.report import Report

from .text import (
    TEXT_LENGTH,
    Count,
    Excerpt,
    Text,
    as_text,
    count,
    duration,
    excerpt,
    format_time,
    isolated,
    mapping,
    number,
    plural,
    shorten,
)

Answers: TypeAlias = Mapping[str, Mapping[str, Any] | None]

TASKS_SHOWN = 100  # in each of the four lists
WORKERS_NAMED = 3  # that hold one revoked id

#: Seconds by which an age may exceed the uptime of the worker, which is sent in whole seconds.
UPTIME_SLACK = 5
#: Seconds of the longest age that is subtracted from a time: 31 years.
LONGEST = 1e9

LATEST = datetime.max.replace(tzinfo=timezone.utc)

#: The fixed texts of each list. ``when`` is the title of the column with times, if there is one.
LAYOUTS: dict[str, dict[str, str]] = {
    "active": {
        "title": "Active",
        "caption": "Being executed, the longest first.",
        "empty": "No worker is executing a task.",
        "when": "Running for",
    },
    "reserved": {
        "title": "Reserved",
        "caption": "Received by a worker, not yet started.",
        "empty": "No task is waiting in a worker.",
    },
    "scheduled": {
        "title": "Scheduled",
        "caption": "Held by a worker until their ETA, the soonest first.",
        "empty": "No task is held until an ETA.",
        "when": "Due",
    },
    "revoked": {
        "title": "Revoked",
        "caption": "Ids that workers will not execute; each is counted once.",
        "empty": "No task is revoked.",
    },
}

NOT_ASKED = "No worker answered this, or it was not asked for."


class Task(NamedTuple):
    """A task as a row. ``whole_id`` is empty if the id is too long to be looked up."""

    id: Text
    whole_id: str
    name: Text
    arguments: Text
    worker: Text
    queue: Text
    when: str
    moment: str


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


# Shapes


def unexpected(field: str, reply: Any) -> Any:
    """Return what is wrong with a reply: an error that the worker reports, or the whole reply.

    None if it has the expected shape, or there is no reply.
    """
    expected = Mapping if field in ("stats", "query_task") else (list, tuple)
    if isinstance(reply, Mapping) and set(reply) == {"error"}:
        error = reply["error"]
        if error and not isinstance(error, list | tuple):
            return error
    return None if reply is None or isinstance(reply, expected) else reply


def errors(answers: Answers) -> dict[str, list[tuple[str, Any]]]:
    """Return worker to field and text of each of its replies that has another shape."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for field, replies in answers.items():
        for worker, reply in (replies or {}).items():
            wrong = unexpected(field, reply)
            if wrong is not None:
                found.setdefault(worker, []).append((field, wrong))
    return found


def entries(answers: Answers, field: str) -> list[tuple[str, Any]]:
    """Return a worker's name and an item of its reply, for each item of all workers' lists."""
    replies = answers.get(field) or {}
    return [
        (worker, item)
        for worker, reply in replies.items()
        if isinstance(reply, list | tuple)
        for item in reply
    ]


def task_of(entry: Any) -> Mapping[str, Any]:
    """Return the task of an item of a list, and its ETA if it is of ``scheduled``."""
    if not isinstance(entry, Mapping):
        return {"id": entry}
    request = entry.get("request")
    return {**request, "eta": entry.get("eta")} if isinstance(request, Mapping) else entry


def queried(answers: Answers) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """Yield worker, task id, state and task of each answer to ``query_task``."""
    for worker, reply in (answers.get("query_task") or {}).items():
        for task_id, told in mapping(reply).items():
            is_pair = isinstance(told, list | tuple) and len(told) == 2
            state, task = told if is_pair else ("?", told)
            yield worker, task_id, as_text(state), task_of(task)


def holders(answers: Answers) -> dict[str, list[str]]:
    """Return the workers of each revoked id. All hold it, because a revocation is broadcast."""
    found: dict[str, list[str]] = {}
    for worker, task_id in entries(answers, "revoked"):
        found.setdefault(as_text(task_id), []).append(worker)
    return found


def slots(stats: Any) -> Any:
    """Return how many tasks a worker can execute at the same time, from its statistics.

    With autoscaling, and after a change of the pool's size, ``max-concurrency`` is not true.
    """
    pool = mapping(mapping(stats).get("pool"))
    scaled = mapping(mapping(stats).get("autoscaler")).get("max")
    if number(scaled) is not None:
        return scaled
    processes = pool.get("processes")
    if isinstance(processes, list | tuple) and processes:
        return len(processes)
    return pool.get("max-concurrency")


# Times


def started(task: Any) -> datetime | None:
    """Return when a worker started a task.

    ``time_start`` is wall-clock time in every supported version, because the worker converts its
    monotonic time (``Request.on_accepted``).
    """
    seconds = number(mapping(task).get("time_start"))
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return None


def age(report: Report, worker: str, task: Any) -> float | None:
    """Return the seconds since a worker started a task; None if that is not known.

    The worker's own clock is the measure. Without it, the clocks of two machines are compared, and
    an age beyond the uptime of the worker shows that they differ.
    """
    seconds, clock = number(mapping(task).get("time_start")), number(report.clocks.get(worker))
    if seconds is None:
        return None
    passed = max((report.taken_at.timestamp() if clock is None else clock) - seconds, 0.0)
    stats = mapping((report.answers.get("stats") or {}).get(worker))
    uptime = number(stats.get("uptime"))
    if clock is None and uptime is not None and passed > uptime + UPTIME_SLACK:
        return None
    return passed


def time_before(report: Report, seconds: float) -> datetime:
    """Return the time that was so many seconds before the snapshot."""
    return report.taken_at - timedelta(seconds=min(seconds, LONGEST))


def due(task: Any) -> datetime | None:
    """Return the ETA of an item of ``scheduled``; None if it has no time zone."""
    text: Any = mapping(task).get("eta")
    try:
        eta = parse_datetime(text)
    except (TypeError, ValueError):
        return None
    return None if eta is None or is_naive(eta) else eta


def time_to_go(report: Report, worker: str, eta: datetime) -> float:
    """Return the seconds until an ETA, by the clock of the worker that holds the task."""
    clock = number(report.clocks.get(worker))
    return eta.timestamp() - (report.taken_at.timestamp() if clock is None else clock)


# Rows


def task_lists(report: Report) -> dict[str, TaskList]:
    """Return the four lists by field."""
    answers = report.answers
    active = sorted(entries(answers, "active"), key=lambda entry: started(entry[1]) or LATEST)
    scheduled = sorted(entries(answers, "scheduled"), key=lambda entry: due(entry[1]) or LATEST)
    reserved = entries(answers, "reserved")
    excerpts = {
        "active": excerpt(active, TASKS_SHOWN, lambda entry: active_row(report, *entry)),
        "reserved": excerpt(reserved, TASKS_SHOWN, lambda entry: task_row(*entry)),
        "scheduled": excerpt(scheduled, TASKS_SHOWN, lambda entry: scheduled_row(report, *entry)),
        "revoked": revoked_rows(answers),
    }
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
            empty=LAYOUTS[field]["empty"] if answered else NOT_ASKED,
        )
    return lists


def revoked_rows(answers: Answers) -> Excerpt:
    """Return pairs of the workers that know the same revoked ids, and these tasks."""
    shown = excerpt(holders(answers).items(), TASKS_SHOWN, lambda item: item)
    groups: dict[str, list[Task]] = {}
    for task_id, workers in shown.items:
        groups.setdefault(names(workers), []).append(task_row("", task_id))
    return shown._replace(items=[(shorten(workers), ids) for workers, ids in groups.items()])


def names(workers: Sequence[str]) -> str:
    """Return the names of a few workers, or only the number of many."""
    if len(workers) <= WORKERS_NAMED:
        return ", ".join(workers)
    return plural(len(workers), "worker")


def task_row(worker: str, entry: Any, when: str = "", moment: datetime | None = None) -> Task:
    """Return the row of a task.

    Args:
        worker: who holds it.
        entry: an item of a list.
        when: the time since the start, or until the ETA.
        moment: the start or the ETA itself.
    """
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
        queue=shorten(mapping(info.get("delivery_info")).get("routing_key") or ""),
        when=when,
        moment=format_time(moment),
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
    seconds = age(report, worker, task)
    if seconds is None:
        return task_row(worker, task)
    return task_row(worker, task, duration(seconds), time_before(report, seconds))


def scheduled_row(report: Report, worker: str, entry: Any) -> Task:
    """Return the row of an item of ``scheduled``."""
    eta = due(entry)
    if eta is None:
        return task_row(worker, entry, shorten(mapping(entry).get("eta") or "", 40).shown)
    seconds = time_to_go(report, worker, eta)
    return task_row(worker, entry, f"in {duration(seconds)}" if seconds >= 1 else "due now", eta)
