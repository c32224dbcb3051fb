"""What can be found out about tasks that no worker names: from the result backend and the queues.

find_traces ──▶ results.py        a thread asks the result backend
            └─▶ look_through.py   meanwhile, the queues are looked through
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu import Connection

from celery_stats.shapes import mapping

from .look_through import Extent, Place, look_through
from .results import Backend, Result, ResultRequest


@dataclass(frozen=True)
class Traces:
    """What was found out.

    Attributes:
        results: task id to what the result backend holds; without the tasks it does not know.
        backend: whether the result backend answered.
        places: task id to where the broker holds it; without those that were not found.
        extent: how much of the queues was looked through.
    """

    results: Mapping[str, Result]
    backend: Backend
    places: Mapping[str, Place]
    extent: Extent


def unknown_to_workers(
    task_ids: Collection[str], replies: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Return the ids that no reply to ``query_task`` names."""
    known = {task_id for reply in (replies or {}).values() for task_id in mapping(reply)}
    return tuple(task_id for task_id in task_ids if task_id not in known)


def find_traces(
    app: Celery,
    connection: Connection,
    queues: Collection[str],
    task_ids: Collection[str],
    *,
    ends: float,
) -> Traces:
    """Ask the result backend and look through the queues.

    Args:
        app: the Celery app.
        connection: an open connection to its broker.
        queues: the names of the queues to look through.
        task_ids: the whole ids of the tasks.
        ends: the monotonic time after which nothing is waited for.

    Raises:
        Exception: whatever the transport raises when the connection fails.
    """
    request = ResultRequest(app, task_ids)
    request.start()
    places, extent = look_through(connection, queues, task_ids, ends)
    request.wait(ends - time.monotonic())
    return Traces(request.results.copy(), request.backend, places, extent)
