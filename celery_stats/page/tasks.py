"""Tasks as rows for people: the four lists of a snapshot, and the tasks that are looked up.

In this module, ``answers`` are those of a report: field to worker to that worker's reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple, TypeAlias

from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive

from celery_stats.query import MAX_LENGTH

from .text import (
    CELL,
    Count,
    Excerpt,
    Text,
    as_text,
    count,
    duration,
    excerpt,
    format_time,
    mapping,
    number,
    pairs,
    plural,
    shorten,
)

Answers: TypeAlias = Mapping[str, Mapping[str, Any] | None]

TASKS_SHOWN = 100  # in each of the four lists
WORKERS_NAMED = 3  # that hold one revoked id

LATEST = datetime.max.replace(tzinfo=timezone.utc)

#: The fixed texts of each list, and its columns: ``when`` is the title of the column with times,
#: if there is one. All lists share their columns, so an id spans those that its list has not.
LAYOUTS: dict[str, dict[str, Any]] = {
    "active": {
        "title": "Active",
        "caption": "Being executed, the longest first.",
        "empty": "No worker is executing a task.",
        "when": "Running for",
        "id_columns": 1,
    },
    "reserved": {
        "title": "Reserved",
        "caption": "Received by a worker, not yet started.",
        "empty": "No task is waiting in a worker.",
        "id_columns": 2,
    },
    "scheduled": {
        "title": "Scheduled",
        "caption": "Held by a worker until their ETA, the soonest first.",
        "empty": "No task is held until an ETA.",
        "when": "Due",
        "id_columns": 1,
    },
    "revoked": {
        "title": "Revoked",
        "caption": "Ids that workers will not execute; each is counted once.",
        "empty": "No task is revoked.",
        "id_columns": 4,
    },
}

NOT_ASKED = "No worker answered this, or it was not asked for."


class Task(NamedTuple):
    """A task as a row. ``whole_id`` is empty if the id is too long to be looked up."""

    id: Text
    whole_id: str
    name: Text
    arguments: Text
    workers: Text
    queue: Text
    when: str
    moment: str


class TaskList(NamedTuple):
    """One of the four lists. ``empty`` is shown in place of rows if there are none."""

    key: str
    layout: Mapping[str, Any]
    items: Sequence[Task]
    total: Count
    note: str
    empty: str


class Found(NamedTuple):
    """What a worker knows of a task that is looked up."""

    worker: Text
    state: Text
    meaning: str
    task: Task
    pairs: Excerpt


class LookUp(NamedTuple):
    """A task that is looked up, and what the workers know of it."""

    id: Text
    found: Sequence[Found]


def task_lists(answers: Answers, now: datetime) -> dict[str, TaskList]:
    """Return the four lists by field. Ages are relative to ``now``, the time of the snapshot."""
    active = sorted(entries(answers, "active"), key=lambda entry: started(entry[1]) or LATEST)
    scheduled = sorted(entries(answers, "scheduled"), key=lambda entry: due(entry[1]) or LATEST)
    revoked = [(names(workers), task_id) for task_id, workers in holders(answers).items()]
    reserved = entries(answers, "reserved")
    excerpts = {
        "active": excerpt(active, TASKS_SHOWN, lambda entry: active_row(*entry, now)),
        "reserved": excerpt(reserved, TASKS_SHOWN, lambda entry: task_row(*entry)),
        "scheduled": excerpt(scheduled, TASKS_SHOWN, lambda entry: scheduled_row(*entry, now)),
        "revoked": excerpt(revoked, TASKS_SHOWN, lambda entry: task_row(*entry)),
    }
    lists = {}
    for field, (items, total, note) in excerpts.items():
        answered = answers.get(field) is not None
        lists[field] = TaskList(
            key=field,
            layout=LAYOUTS[field],
            items=items,
            total=total if answered else count(None),
            note=note,
            empty=LAYOUTS[field]["empty"] if answered else NOT_ASKED,
        )
    return lists


def entries(answers: Answers, field: str) -> list[tuple[str, Any]]:
    """Return a worker's name and an item of its reply, for each item of all workers' lists."""
    replies = answers.get(field) or {}
    return [
        (worker, item)
        for worker, reply in replies.items()
        if isinstance(reply, list | tuple)
        for item in reply
    ]


def holders(answers: Answers) -> dict[str, list[str]]:
    """Return the workers of each revoked id. All hold it, because a revocation is broadcast."""
    found: dict[str, list[str]] = {}
    for worker, task_id in entries(answers, "revoked"):
        found.setdefault(as_text(task_id), []).append(worker)
    return found


def names(workers: Sequence[str]) -> str:
    """Return the names of a few workers, or only the number of many."""
    if len(workers) <= WORKERS_NAMED:
        return ", ".join(workers)
    return plural(len(workers), "worker")


# Rows


def task_row(workers: str, task: Any, when: str = "", moment: datetime | None = None) -> Task:
    """Return the row of a task.

    Args:
        workers: who holds it: for a revoked task, maybe several.
        task: as ``active``, ``reserved`` and ``query_task`` describe it, or its id alone.
        when: the time since the start, or until the ETA.
        moment: the start or the ETA itself.
    """
    info: Mapping[str, Any] = task if isinstance(task, Mapping) else {"id": task}
    task_id = as_text(info.get("id", ""))
    return Task(
        # The first block of a UUID is enough for a person to tell tasks apart.
        id=shorten(task_id, 9) if len(task_id) > 12 else Text(task_id),
        # A longer id cannot be looked up.
        whole_id=task_id if len(task_id) <= MAX_LENGTH else "",
        name=shorten(info.get("name", ""), fits=CELL),
        arguments=arguments(info),
        workers=shorten(workers, fits=CELL),
        queue=shorten(mapping(info.get("delivery_info")).get("routing_key") or "", fits=CELL),
        when=when,
        moment=format_time(moment),
    )


def arguments(task: Mapping[str, Any]) -> Text:
    """Return the arguments as in a call: ``2026, 3, retry=True``.

    A retried task has them as one text each, which is shown as it is.
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
    return shorten(", ".join(parts), fits=CELL)


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


def active_row(worker: str, task: Any, now: datetime) -> Task:
    """Return the row of a task that is being executed, with its age."""
    start = started(task)
    age = "" if start is None else duration((now - start).total_seconds())
    return task_row(worker, task, age, start)


def due(entry: Any) -> datetime | None:
    """Return the ETA of an item of ``scheduled``; None if it has no time zone."""
    text: Any = mapping(entry).get("eta")
    try:
        eta = parse_datetime(text)
    except (TypeError, ValueError):
        return None
    return None if eta is None or is_naive(eta) else eta


def scheduled_row(worker: str, entry: Any, now: datetime) -> Task:
    """Return the row of an item of ``scheduled``, which holds the task under ``request``."""
    if not isinstance(entry, Mapping) or "request" not in entry:
        return task_row(worker, entry)
    eta = due(entry)
    if eta is None:
        when = shorten(entry.get("eta") or "", 40).shown
    else:
        seconds = (eta - now).total_seconds()
        when = f"in {duration(seconds)}" if seconds >= 1 else "due now"
    return task_row(worker, entry["request"], when, eta)


# Look-ups


MEANINGS = {
    "active": "being executed",
    "reserved": "received, waiting for a free process",
    "scheduled": "held until its ETA",
    "ready": "finished, or about to be started",
    "revoked": "will not be executed",
}


def look_ups(task_ids: Sequence[str], answers: Answers) -> list[LookUp]:
    """Return what the workers know of each task, from ``query_task`` and from their lists.

    The lists are needed because workers older than Celery 5.7 do not answer ``query_task`` for
    a task that they hold until its ETA, and no worker does for a revoked one.
    """
    # Task id to worker to what that worker knows: query_task comes first, and is not repeated.
    known: dict[str, dict[str, Found]] = {task_id: {} for task_id in task_ids}
    for worker, reply in (answers.get("query_task") or {}).items():
        for task_id in known.keys() & mapping(reply).keys():
            told = reply[task_id]
            is_pair = isinstance(told, list | tuple) and len(told) == 2
            state, task = told if is_pair else ("?", told)
            known[task_id][worker] = found(worker, state, task)
    for state in ("active", "reserved", "scheduled"):
        for worker, entry in entries(answers, state):
            task = task_of(entry)
            held = task.get("id")
            if isinstance(held, str) and held in known and worker not in known[held]:
                known[held][worker] = found(worker, state, task)
    rows = {task_id: list(by_worker.values()) for task_id, by_worker in known.items()}
    for task_id, workers in holders(answers).items():
        if task_id in rows:
            rows[task_id].append(found(names(workers), "revoked", {}))
    return [LookUp(shorten(task_id), what) for task_id, what in rows.items()]


def task_of(entry: Any) -> Mapping[str, Any]:
    """Return the task of an item of a list, and its ETA if it is of ``scheduled``."""
    if not isinstance(entry, Mapping):
        return {"id": entry}
    request = entry.get("request")
    return {**request, "eta": entry.get("eta")} if isinstance(request, Mapping) else entry


def found(worker: str, state: Any, task: Any) -> Found:
    """Return what a worker knows of a task. State and task may have any type."""
    return Found(
        worker=shorten(worker),
        state=shorten(state, 40),
        meaning=MEANINGS.get(as_text(state), ""),
        task=task_row(worker, task),
        pairs=pairs(task),
    )
