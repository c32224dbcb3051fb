"""Tasks as rows: the four lists of a snapshot, and what is known of a task that is looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlencode

from .words import (
    CELL,
    Count,
    Cut,
    Text,
    count,
    cut,
    from_iso,
    from_seconds,
    in_words,
    pairs,
    plural,
    shorten,
    whole,
    written,
)

Answer = Mapping[str, Mapping[str, Any] | None]

TASKS_SHOWN = 100  # in each of the four lists
NAMES_SHOWN = 3  # workers that hold one revoked id
ID_LENGTH = 255  # characters; the API looks no longer id up


@dataclass(frozen=True)
class Task:
    """One row of a task list. ``when`` is an age or the time to go, ``moment`` the time itself."""

    id: Text
    whole_id: str
    look_up: str
    name: Text
    arguments: Text
    workers: Text
    queue: Text
    when: str = ""
    moment: str = ""


@dataclass(frozen=True)
class Found:
    """What one worker knows of a task that was looked up."""

    worker: Text
    state: Text
    meaning: str
    task: Task
    pairs: Cut


@dataclass(frozen=True)
class LookUp:
    """A task id that was asked for, and the workers that know it."""

    id: Text
    found: Sequence[Found] = field(default=())


def arguments(task: Mapping[str, Any]) -> Text:
    """``2026, 3, retry=True``, as one would write the call; reprs from a retry as they came."""
    args, kwargs = task.get("args"), task.get("kwargs")
    positional = [repr(value) for value in args] if isinstance(args, list | tuple) else None
    named = [f"{k}={v!r}" for k, v in kwargs.items()] if isinstance(kwargs, Mapping) else None
    if positional is None:
        positional = [whole(args)] if args else []
    if named is None:
        named = [whole(kwargs)] if kwargs else []
    return shorten(", ".join(positional + named), fits=CELL)


def look_up_link(task_id: str) -> str:
    """The page's own address that looks a task up."""
    return f"?{urlencode({'task_id': task_id})}#look-up"


def row(worker: str, task: Any, when: str = "", moment: str = "") -> Task:
    """One task, as ``active``, ``reserved`` and ``query_task`` describe it."""
    info: Mapping[str, Any] = task if isinstance(task, Mapping) else {"id": task}
    task_id = whole(info.get("id", ""))
    usable = task_id if len(task_id) <= ID_LENGTH else ""
    delivery = info.get("delivery_info")
    queue = delivery.get("routing_key") if isinstance(delivery, Mapping) else None
    return Task(
        # The first block of a UUID tells tasks apart for a person.
        id=shorten(task_id, 9) if len(task_id) > 12 else Text(task_id),
        whole_id=usable,
        look_up=look_up_link(usable) if usable else "",
        name=shorten(info.get("name", ""), fits=CELL),
        arguments=arguments(info),
        workers=shorten(worker, fits=CELL),
        queue=shorten(queue or "", fits=CELL),
        when=when,
        moment=moment,
    )


def started(task: Any) -> datetime | None:
    """When a worker began a task. ``time_start`` is wall-clock time in every supported version:
    the worker converts its monotonic reading (``Request.on_accepted``)."""
    return from_seconds(task.get("time_start")) if isinstance(task, Mapping) else None


def active_row(worker: str, task: Any, now: datetime) -> Task:
    """A task being executed, with its age; a worker's clock may be ahead of ours."""
    begun = started(task)
    age = "" if begun is None else in_words((now - begun).total_seconds())
    return row(worker, task, age, written(begun))


def due(entry: Any) -> datetime | None:
    """The ETA of an entry of ``scheduled``."""
    return from_iso(entry.get("eta")) if isinstance(entry, Mapping) else None


def scheduled_row(worker: str, entry: Any, now: datetime) -> Task:
    """A task held until its ETA; the task stands under ``request``, beside the ETA."""
    if not isinstance(entry, Mapping) or "request" not in entry:
        return row(worker, entry)
    eta = due(entry)
    if eta is None:
        return row(worker, entry["request"], shorten(entry.get("eta") or "", 40).shown)
    to_go = (eta - now).total_seconds()
    words = f"in {in_words(to_go)}" if to_go >= 1 else "due now"
    return row(worker, entry["request"], words, written(eta))


def entries(answer: Answer, name: str) -> list[tuple[str, Any]]:
    """Every (worker, item) of one of the four lists; replies that are no list hold none."""
    replies = answer.get(name) or {}
    return [
        (worker, item)
        for worker, reply in replies.items()
        if isinstance(reply, list | tuple)
        for item in reply
    ]


LATEST = datetime.max.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class TaskList:
    """One of the four lists. ``when`` is the title of its tasks' times, if they have any."""

    key: str
    title: str
    caption: str
    when: str
    empty: str
    items: Sequence[Task]
    total: Count
    note: str


#: Title, caption, title of the times, and what an empty list says.
TEXTS = {
    "active": (
        *("Active", "Being executed, the longest first."),
        *("Running for", "No worker is executing a task."),
    ),
    "reserved": (
        *("Reserved", "Received by a worker, not yet started."),
        *("", "No task is waiting in a worker."),
    ),
    "scheduled": (
        *("Scheduled", "Held by a worker until their ETA, the soonest first."),
        *("Due", "No task is held until an ETA."),
    ),
    "revoked": (
        *("Revoked", "Ids that workers will not execute; each is counted once."),
        *("", "No task is revoked."),
    ),
}


def task_lists(answer: Answer, now: datetime) -> dict[str, TaskList]:
    """The four lists: longest-running first, and soonest due first."""
    active = sorted(entries(answer, "active"), key=lambda entry: started(entry[1]) or LATEST)
    scheduled = sorted(entries(answer, "scheduled"), key=lambda entry: due(entry[1]) or LATEST)
    reserved = entries(answer, "reserved")
    return {
        "active": _list(
            "active", answer, active, lambda worker, task: active_row(worker, task, now)
        ),
        "reserved": _list("reserved", answer, reserved, row),
        "scheduled": _list(
            "scheduled", answer, scheduled, lambda worker, entry: scheduled_row(worker, entry, now)
        ),
        "revoked": _list(
            *("revoked", answer, [(listed(w), i) for i, w in holders(answer).items()], row)
        ),
    }


def _list(
    key: str, answer: Answer, found: Sequence[tuple[str, Any]], make: Callable[..., Task]
) -> TaskList:
    title, caption, when, empty = TEXTS[key]
    items, total, note = cut(found, TASKS_SHOWN)
    if answer.get(key) is None:
        total, empty = count(None), "No worker answered this, or it was not asked for."
    return TaskList(key, title, caption, when, empty, [make(*e) for e in items], total, note)


def holders(answer: Answer) -> dict[str, list[str]]:
    """Revoked id to its workers: a revocation is broadcast, so that every worker holds it."""
    found: dict[str, list[str]] = {}
    for worker, task_id in entries(answer, "revoked"):
        found.setdefault(whole(task_id), []).append(worker)
    return found


def listed(names: Sequence[str]) -> str:
    """Names in a row; only their number where they are many."""
    if len(names) <= NAMES_SHOWN:
        return ", ".join(names)
    return plural(len(names), "worker")


def meaning(state: Any) -> str:
    """What the state that ``query_task`` reports means."""
    words = {
        "active": "being executed",
        "reserved": "received, waiting for a free process",
        "scheduled": "held until its ETA",
        "ready": "finished, or about to be started",
        "revoked": "will not be executed",
    }
    return words.get(state, "") if isinstance(state, str) else ""


def look_ups(task_ids: Sequence[str], answer: Answer) -> list[LookUp]:
    """Return what the workers know of each task: by ``query_task``, and by their lists.

    Workers older than Celery 5.7 answer nothing to ``query_task`` for a task that they hold until
    its ETA, and no worker does for a revoked one.
    """
    found: dict[str, list[Found]] = {task_id: [] for task_id in task_ids}
    told = set()
    for worker, known in (answer.get("query_task") or {}).items():
        for task_id in found:
            if isinstance(known, Mapping) and task_id in known:
                said = known[task_id]
                pair = isinstance(said, list | tuple) and len(said) == 2
                state, task = said if pair else ("?", said)
                found[task_id].append(_found(worker, state, task))
                told.add((worker, task_id))
    for state in ("active", "reserved", "scheduled"):
        for worker, entry in entries(answer, state):
            task = request(entry)
            held = task.get("id")
            if isinstance(held, str) and held in found and (worker, held) not in told:
                found[held].append(_found(worker, state, task))
                told.add((worker, held))
    for task_id, workers in holders(answer).items():
        if task_id in found:
            found[task_id].append(_found(listed(workers), "revoked", {}))
    return [LookUp(shorten(task_id), each) for task_id, each in found.items()]


def request(entry: Any) -> Mapping[str, Any]:
    """The task of an entry of a list; with its ETA, if it has one."""
    if not isinstance(entry, Mapping):
        return {"id": entry}
    held = entry.get("request")
    return {**held, "eta": entry.get("eta")} if isinstance(held, Mapping) else entry


def _found(worker: str, state: Any, task: Any) -> Found:
    return Found(
        shorten(worker), shorten(state, 40), meaning(state), row(worker, task), pairs(task)
    )
