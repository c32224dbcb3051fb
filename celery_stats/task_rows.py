"""Tasks as rows for people: the four lists of a snapshot, and the tasks that are looked up.

In this module, ``answers`` are those of a report: field to worker to that worker's reply.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple, TypeAlias

from .formatting import (
    CELL,
    Count,
    Excerpt,
    Text,
    as_text,
    count,
    duration,
    excerpt,
    format_time,
    pairs,
    plural,
    shorten,
    time_from_iso,
    time_from_seconds,
)
from .query import MAX_LENGTH

Answers: TypeAlias = Mapping[str, Mapping[str, Any] | None]
#: A worker's name, and an item of its reply.
Entry: TypeAlias = tuple[str, Any]

TASKS_SHOWN = 100  # in each of the four lists
WORKERS_NAMED = 3  # that hold one revoked id

LATEST = datetime.max.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class Task:
    """One row of a list.

    Attributes:
        whole_id: the id, if it can be looked up; empty otherwise.
        workers: the worker that holds the task, or all of them for a revoked id.
        when: the time since the start, or until the ETA.
        moment: the start or the ETA itself.
    """

    id: Text
    whole_id: str
    name: Text
    arguments: Text
    workers: Text
    queue: Text
    when: str = ""
    moment: str = ""


class Layout(NamedTuple):
    """The fixed texts of a list, and its columns.

    Attributes:
        title: the heading.
        caption: what the list holds, and its order.
        empty: what is said if the list is empty.
        when: the title of the column with times; empty if there is no such column.
        id_columns: how many columns an id spans. All lists share their columns, so that the ids
            of a list take the place of the columns that it does not have.
    """

    title: str
    caption: str
    empty: str
    when: str = ""
    id_columns: int = 1


LAYOUTS = {
    "active": Layout(
        title="Active",
        caption="Being executed, the longest first.",
        empty="No worker is executing a task.",
        when="Running for",
    ),
    "reserved": Layout(
        title="Reserved",
        caption="Received by a worker, not yet started.",
        empty="No task is waiting in a worker.",
        id_columns=2,
    ),
    "scheduled": Layout(
        title="Scheduled",
        caption="Held by a worker until their ETA, the soonest first.",
        empty="No task is held until an ETA.",
        when="Due",
    ),
    "revoked": Layout(
        title="Revoked",
        caption="Ids that workers will not execute; each is counted once.",
        empty="No task is revoked.",
        id_columns=4,
    ),
}

NOT_ASKED = "No worker answered this, or it was not asked for."


@dataclass(frozen=True)
class TaskList:
    """One of the four lists."""

    key: str
    layout: Layout
    items: Sequence[Task]
    total: Count
    note: str
    empty: str


def task_lists(answers: Answers, now: datetime) -> dict[str, TaskList]:
    """Return the four lists by field.

    Args:
        answers: those of a report.
        now: the time of the snapshot, to which ages are relative.
    """
    active = sorted(entries(answers, "active"), key=lambda entry: started(entry[1]) or LATEST)
    scheduled = sorted(entries(answers, "scheduled"), key=lambda entry: due(entry[1]) or LATEST)
    revoked = [(names(workers), task_id) for task_id, workers in holders(answers).items()]

    def task_list(key: str, found: Collection[Entry], row: Callable[[Entry], Task]) -> TaskList:
        rows = excerpt(found, TASKS_SHOWN, row)
        if answers.get(key) is None:
            return TaskList(key, LAYOUTS[key], (), count(None), "", NOT_ASKED)
        return TaskList(key, LAYOUTS[key], *rows, LAYOUTS[key].empty)

    return {
        "active": task_list("active", active, lambda entry: active_row(*entry, now)),
        "reserved": task_list(
            "reserved", entries(answers, "reserved"), lambda entry: task_row(*entry)
        ),
        "scheduled": task_list("scheduled", scheduled, lambda entry: scheduled_row(*entry, now)),
        "revoked": task_list("revoked", revoked, lambda entry: task_row(*entry)),
    }


def entries(answers: Answers, field: str) -> list[Entry]:
    """Return the items of all workers' lists. A reply that is no list has none."""
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
    """Return the row of a task as ``active``, ``reserved`` and ``query_task`` describe it.

    Args:
        workers: who holds it.
        task: its description; for a revoked task, its id alone.
        when: the time since the start, or until the ETA.
        moment: the start or the ETA itself.
    """
    info: Mapping[str, Any] = task if isinstance(task, Mapping) else {"id": task}
    task_id = as_text(info.get("id", ""))
    delivery = info.get("delivery_info")
    queue = delivery.get("routing_key") if isinstance(delivery, Mapping) else None
    return Task(
        # The first block of a UUID is enough for a person to tell tasks apart.
        id=shorten(task_id, 9) if len(task_id) > 12 else Text(task_id),
        whole_id=task_id if len(task_id) <= MAX_LENGTH else "",
        name=shorten(info.get("name", ""), fits=CELL),
        arguments=arguments(info),
        workers=shorten(workers, fits=CELL),
        queue=shorten(queue or "", fits=CELL),
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
    return time_from_seconds(task.get("time_start")) if isinstance(task, Mapping) else None


def active_row(worker: str, task: Any, now: datetime) -> Task:
    """Return the row of a task that is being executed, with its age."""
    start = started(task)
    age = "" if start is None else duration((now - start).total_seconds())
    return task_row(worker, task, age, start)


def due(entry: Any) -> datetime | None:
    """Return the ETA of an item of ``scheduled``."""
    return time_from_iso(entry.get("eta")) if isinstance(entry, Mapping) else None


def scheduled_row(worker: str, entry: Any, now: datetime) -> Task:
    """Return the row of an item of ``scheduled``, which holds the task under ``request``."""
    if not isinstance(entry, Mapping) or "request" not in entry:
        return task_row(worker, entry)
    eta = due(entry)
    if eta is None:
        return task_row(worker, entry["request"], shorten(entry.get("eta") or "", 40).shown)
    seconds = (eta - now).total_seconds()
    when = f"in {duration(seconds)}" if seconds >= 1 else "due now"
    return task_row(worker, entry["request"], when, eta)


# Look-ups


@dataclass(frozen=True)
class Found:
    """What one worker knows of a task that was looked up. ``pairs`` are all its properties."""

    worker: Text
    state: Text
    meaning: str
    task: Task
    pairs: Excerpt


@dataclass(frozen=True)
class LookUp:
    """A task id that was asked for, and what each worker knows of it."""

    id: Text
    found: Sequence[Found]


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
        for task_id in known:
            if isinstance(reply, Mapping) and task_id in reply:
                state_and_task = reply[task_id]
                if not (isinstance(state_and_task, list | tuple) and len(state_and_task) == 2):
                    state_and_task = "?", state_and_task
                known[task_id][worker] = found(worker, *state_and_task)
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
    """Return what a worker knows of a task.

    Args:
        worker: its name.
        state: as ``query_task`` names it; of any type.
        task: its description.
    """
    meaning = MEANINGS.get(state, "") if isinstance(state, str) else ""
    return Found(shorten(worker), shorten(state, 40), meaning, task_row(worker, task), pairs(task))
