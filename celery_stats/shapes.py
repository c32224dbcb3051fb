"""What workers are asked, and the shapes of what Celery's workers answer. It knows only Python.

In this module, ``answers`` are those of a snapshot or a report: field to worker to that worker's
reply. A worker may send any value under any key, so nothing here takes a shape for granted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, TypeAlias

#: What workers are asked: the keys of the answer, in order, and names of Celery's commands.
FIELDS = ("active", "scheduled", "reserved", "revoked", "query_task", "stats")
#: Those whose replies are lists of tasks.
TASK_LISTS = ("active", "reserved", "scheduled")
#: Those whose replies hold tasks. The arguments of tasks are masked in these alone.
FIELDS_WITH_TASKS = frozenset((*TASK_LISTS, "query_task"))

#: A number that is larger is taken for none, because arithmetic with it can overflow.
LARGEST = 10**18

#: Control characters, as part of a regular expression. No worker's name and no task id holds one.
#: They must reach neither the broker nor a header, and a terminal would obey some of them.
CONTROL_RANGES = r"\u0000-\u001f\u007f-\u009f"
CONTROL = re.compile(f"[{CONTROL_RANGES}]")

Answers: TypeAlias = Mapping[str, Mapping[str, Any] | None]


# Any value


def as_text(value: Any) -> str:
    """Return a string unchanged, and any other value as Python writes it."""
    return value if isinstance(value, str) else repr(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a mapping, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def number(value: Any) -> float | None:
    """Return the value if it is a number. Workers also send ``"N/A"`` and null instead of one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and -LARGEST < value < LARGEST else None


def value_at(value: Any, *path: str) -> Any:
    """Return what is under a path of keys; None if nothing is."""
    for key in path:
        value = mapping(value).get(key)
    return value


def length_of(reply: Any) -> int | None:
    """Return the number of items of a list; None if the value is none."""
    return len(reply) if isinstance(reply, list | tuple) else None


# Answers


def answering(answers: Answers) -> list[str]:
    """Return the names of the workers that answered anything."""
    return sorted({*chain.from_iterable(replies or () for replies in answers.values())})


def replies_of(answers: Answers, worker: str) -> dict[str, Any]:
    """Return field to a worker's reply; None where it did not answer."""
    return {field: (replies or {}).get(worker) for field, replies in answers.items()}


def unexpected_in(field: str, reply: Any) -> Any:
    """Return what is wrong with a reply: an error that the worker reports, or the whole reply.

    None if it has the expected shape, or there is no reply.
    """
    expected = Mapping if field in ("stats", "query_task") else (list, tuple)
    if isinstance(reply, Mapping) and set(reply) == {"error"}:
        error = reply["error"]
        if error and not isinstance(error, list | tuple):
            return error
    return None if reply is None or isinstance(reply, expected) else reply


def unexpected_replies(answers: Answers) -> dict[str, list[tuple[str, Any]]]:
    """Return worker to field and text of each of its replies that has another shape."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for field, replies in answers.items():
        for worker, reply in (replies or {}).items():
            wrong = unexpected_in(field, reply)
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


def slots_of(stats: Any) -> Any:
    """Return how many tasks a worker can execute at the same time, from its statistics.

    With autoscaling, and after a change of the pool's size, ``max-concurrency`` is not true.
    """
    scaled = value_at(stats, "autoscaler", "max")
    if number(scaled) is not None:
        return scaled
    return length_of(value_at(stats, "pool", "processes")) or value_at(
        stats, "pool", "max-concurrency"
    )
