"""Whether an answer shows one moment: tasks that move while a worker is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tests.brokers import Broker

#: Field to worker name to reply.
Answers: TypeAlias = Mapping[str, Mapping[str, Any] | None]

#: Tasks that the worker holds at any time.
_HELD = 20

#: Seconds that a task runs.
_SECONDS = 0.004

#: Seconds for which every other task of a prefork worker, and every task of a solo worker, is
#: held until its ETA.
_COUNTDOWN = 0.1


@dataclass
class Watch:
    """What snapshots of a busy worker showed, as task ids.

    Attributes:
        seen: each task that stood under any key.
        moved: those that stood under one key in one snapshot and under another in a later one.
        twice: those that stood under two keys of one snapshot, or under a key that is not the
            state that ``query_task`` gave.
        lost: those that stood under no key of a snapshot, although an earlier and a later
            snapshot showed them.
    """

    seen: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)


def watch(
    broker: Broker, pool: str, snapshots: int, ask: Callable[[Sequence[str]], Answers]
) -> Watch:
    """Keep the only worker busy with short tasks while snapshots of it are taken.

    A solo worker runs a task in the turn in which it gets it, so its tasks are shown only while
    they wait for their ETA. The tasks of a prefork worker take longer if the snapshots do, so that
    several snapshots show a task on a slow machine as well.

    Args:
        pool: the worker's.
        ask: takes a snapshot, with the given ids for ``query_task``.
    """
    found = Watch()
    last: dict[str, tuple[int, str]] = {}  # task id to the last snapshot with it, and its key
    sent: list[str] = []
    held = 0
    seconds = _SECONDS
    for number in range(snapshots):
        started = time.monotonic()
        for _ in range(_HELD - held):
            countdown = _COUNTDOWN if pool == "solo" or len(sent) % 2 else None
            sent.append(broker.send(seconds=seconds, countdown=countdown))
        answers = _of_the_worker(ask(sent[-100:]))
        keys = _keys_by_task(answers)
        held = len(keys)
        for task_id, under in keys.items():
            before, key = last.get(task_id, (number, under[0]))
            last[task_id] = number, under[-1]
            found.seen.add(task_id)
            if len(under) > 1:
                found.twice.add(task_id)
            if before < number - 1:
                found.lost.add(task_id)
            if key != under[-1]:
                found.moved.add(task_id)
        # Before Celery 5.7, query_task does not know the tasks that are held until an ETA.
        states = answers["query_task"].items()
        found.twice |= {task_id for task_id, (state, _) in states if [state] != keys.get(task_id)}
        if pool != "solo":
            seconds = max(_SECONDS, 4 * (time.monotonic() - started) / _HELD)
    return found


def _of_the_worker(answers: Answers) -> dict[str, Any]:
    """Return field to reply."""
    return {name: next(iter((replies or {}).values())) for name, replies in answers.items()}


def _keys_by_task(answers: Mapping[str, Any]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for key in ("scheduled", "reserved", "active"):
        for row in answers[key]:
            keys.setdefault(row.get("request", row)["id"], []).append(key)
    return keys
