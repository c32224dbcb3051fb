"""Ask every worker everything at once; collect until all who are there have answered.

take_snapshot ──▶ broker.py       a connection of its own, kept or new
                    └─▶ collector.py   publish the question ──▶ every worker's mailbox
                          │            collect the replies ◀── one reply queue
                          ├─▶ presence/    for how long may an answer still come?
                          └─▶ retry.py     ask again for what got lost
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from celery import Celery

from celery_stats.shapes import FIELDS

from .broker import connections_for
from .collector import Collector, State
from .configuration import find_app
from .connection import ControlConnection
from .exceptions import BrokerUnavailable
from .presence import Roster
from .question import Extras, Options, Question
from .queues import consumers_by_queue, queue_lengths
from .replies import Replies
from .traces import Traces, find_traces, unknown_to_workers

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
        elapsed: seconds from the call until no more replies were waited for.
        queues: queue name to the messages that wait in it; None where they were not asked for.
        active_queues: worker name to its reply to this command; None where it was not asked for.
        extras: worker name to what it sent beside its replies, for workers with this app.
        silent_subscribers: how many connections listen as workers do, answered nothing and have no
            name that is known: frozen workers, or other programs. Redis only.
        unreadable: how many nodes sent a reply that this process cannot decode, or must not.
        keeps_names: whether the broker has a list of names, in which killed workers stay.
        traces: what was found out about the tasks that are looked up and that no worker names;
            None if there is no such task.
        question: what was asked.
    """

    answers: Mapping[str, Mapping[str, Any] | None]
    missing: Mapping[str, tuple[str, ...]]
    taken_at: datetime
    elapsed: float
    queues: Mapping[str, int] | None = None
    active_queues: Mapping[str, Any] | None = None
    extras: Mapping[str, Extras] = field(default_factory=dict)
    silent_subscribers: int = 0
    unreadable: int = 0
    keeps_names: bool = False
    traces: Traces | None = None
    question: Question = Question()  # noqa: RUF009 - it is frozen


def take_snapshot(question: Question, options: Options, remaining: float) -> Snapshot:
    """Ask the workers and collect their answers.

    Args:
        question: what to ask.
        options: whose workers to ask, and the time-outs.
        remaining: seconds left of ``options.deadline``, which may begin before this call.

    Raises:
        BrokerUnavailable: the broker cannot be reached or fails on the way.
        RemoteControlUnsupported: its transport cannot broadcast.
        CeleryAppNotFound: ``options.app`` does not lead to a Celery app.
    """
    app = find_app(options.app)
    connections = connections_for(app)
    started = time.monotonic()
    work = partial(
        _take,
        app=app,
        roster=connections.roster,
        question=question,
        timeout=options.timeout,
        started=started,
    )
    return connections.run(app, options.deadline, started + remaining, work)


def _take(
    connection: ControlConnection,
    *,
    app: Celery,
    roster: Roster,
    question: Question,
    timeout: float,
    started: float,
) -> Snapshot:
    collector = Collector(connection, question, roster, timeout)
    replies, elapsed = collector.replies, 0.0
    queues = traces = None
    try:
        with connection.replies(collector.on_message):
            collector.run(connection.ends)
            elapsed = connection.now() - started
            if collector.state is not State.SETTLED:
                connection.check()
            queues = _queues(app, connection, replies) if question.queues else None
            if question.look_up:
                traces = _traces(app, connection, replies, question, queues or ())
    except BrokerUnavailable as exc:
        # The answers are whole and true if only closing the reply queue failed.
        if collector.state is not State.SETTLED:
            raise
        logger.warning("The broker failed after the last answer: %s", type(exc.__cause__))
    return Snapshot(
        answers={field: replies.by_command(field) for field in FIELDS},
        missing=collector.missing(),
        taken_at=collector.asked_at,
        elapsed=elapsed,
        queues=queues,
        active_queues=replies.by_command("active_queues") or {} if question.queues else None,
        extras=replies.extras,
        silent_subscribers=collector.presence.silent_subscribers,
        unreadable=replies.unreadable,
        keeps_names=connection.has_shared_table,
        traces=traces,
        question=question,
    )


def _queues(app: Celery, connection: ControlConnection, replies: Replies) -> Mapping[str, int]:
    """Return how many messages wait in the queues of the app and of the workers."""
    consumed = consumers_by_queue(replies.by_command("active_queues") or {})
    within = connection.ends - connection.now()
    with connection.guarded():
        return queue_lengths(app, connection.connection, consumed, within)


def _traces(
    app: Celery,
    connection: ControlConnection,
    replies: Replies,
    question: Question,
    queues: Collection[str],
) -> Traces | None:
    """Return what is known of the tasks that no worker names; None if there is none."""
    unknown = unknown_to_workers(question.task_ids, replies.by_command("query_task"))
    if not unknown:
        return None
    with connection.guarded():
        return find_traces(app, connection.connection, queues, unknown, ends=connection.ends)
