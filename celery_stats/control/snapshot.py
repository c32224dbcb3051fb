"""Ask every worker everything at once; collect until all who are there have answered.

take_snapshot ──▶ broker.py       a connection of its own, kept or new
                    └─▶ collector.py   publish the question ──▶ every worker's mailbox
                          │            collect the replies ◀── one reply queue
                          ├─▶ presence/    for how long may an answer still come?
                          └─▶ retry.py     ask again for what got lost
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from celery import Celery

from .broker import Broker, broker_for
from .collector import Collector, Ending
from .configuration import find_app
from .connection import ControlConnection
from .exceptions import BrokerUnavailable
from .presence import Memory
from .question import FIELDS, Options, Question
from .queues import queue_lengths

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What the workers answered.

    Attributes:
        answers: field (all of :data:`FIELDS`, in order) to worker name to reply; None where no
            worker answered or the field was not asked for.
        missing: worker name to the fields that it did not answer, for workers that are known to
            the broker or from earlier snapshots, that answered in part, or that were asked for
            by name.
        taken_at: when the workers were asked, in UTC.
        elapsed: seconds from the call to the last reply that was waited for.
        queues: queue name to the messages that wait in it; None where they were not asked for.
        question: what was asked.
    """

    answers: Mapping[str, Mapping[str, Any] | None]
    missing: Mapping[str, tuple[str, ...]]
    taken_at: datetime
    elapsed: float
    queues: Mapping[str, int] | None = None
    question: Question = Question()  # noqa: RUF009 - it is frozen


def take_snapshot(
    question: Question, options: Options, *, remaining: float | None = None
) -> Snapshot:
    """Ask the workers and collect their answers.

    Args:
        question: what to ask.
        options: whose workers to ask, and the time-outs.
        remaining: seconds left of ``options.deadline`` where it began before this call.

    Raises:
        BrokerUnavailable: the broker cannot be reached or fails on the way.
        RemoteControlUnsupported: its transport cannot broadcast.
        CeleryAppNotFound: ``options.app`` does not lead to a Celery app.
    """
    app = find_app(options.app)
    broker = broker_for(app)
    started = time.monotonic()
    work = partial(
        _take,
        app=app,
        memory=broker.memory,
        question=question,
        timeout=options.timeout,
        started=started,
        ends=started + (options.deadline if remaining is None else remaining),
    )
    snapshot, is_stale = broker.run(app, options.deadline, work)
    if is_stale:
        _refresh_memory(broker, app, options)
    return snapshot


def _take(
    connection: ControlConnection,
    *,
    app: Celery,
    memory: Memory,
    question: Question,
    timeout: float,
    started: float,
    ends: float,
) -> tuple[Snapshot, bool]:
    """Take the snapshot; return with it whether what is remembered is too old."""
    collector = Collector(connection, question, memory, timeout)
    elapsed = 0.0
    queues: Mapping[str, int] | None = None
    try:
        with connection.replies(collector.on_message):
            collector.run(ends)
            elapsed = time.monotonic() - started
            if collector.ending is not Ending.SETTLED:
                connection.check()
            if question.queues:
                with connection.guarded():
                    left = ends - time.monotonic()
                    queues = queue_lengths(app, connection.connection, within=left)
    except BrokerUnavailable as exc:
        # If everybody has answered, and only closing the reply queue failed, the answers are
        # whole and true.
        if collector.ending is not Ending.SETTLED:
            raise
        logger.warning("The broker failed after the last answer: %s", type(exc.__cause__))
    snapshot = Snapshot(
        answers=collector.replies.by_field(FIELDS),
        missing=collector.missing(),
        taken_at=collector.asked_at,
        elapsed=elapsed,
        queues=queues,
        question=question,
    )
    return snapshot, collector.presence.is_stale


def _refresh_memory(broker: Broker, app: Celery, options: Options) -> None:
    """Find out anew what pings showed about the broker, without making a caller wait.

    A thread asks a small question with an empty memory.
    """
    memory, fresh = broker.memory, Memory()
    if memory.ping_result is not None:  # So that the next question does not do the same.
        memory.ping_result = replace(memory.ping_result, at=time.monotonic())
    started = time.monotonic()
    work = partial(
        _take,
        app=app,
        memory=fresh,
        question=Question(fields=("query_task",)),
        timeout=options.timeout,
        started=started,
        ends=started + options.deadline,
    )

    def run() -> None:
        try:
            broker.run(app, options.deadline, work)
            memory.ping_result = fresh.ping_result
        # The boundary of this thread. The next question reports what is wrong.
        except Exception as exc:  # noqa: BLE001
            logger.debug("What is remembered was not refreshed: %s", type(exc).__name__)

    with suppress(RuntimeError):  # The system has no thread left. The next question tries again.
        threading.Thread(target=run, name="celery-stats-refresh", daemon=True).start()
