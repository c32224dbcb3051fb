"""Ask every worker everything at once; collect until all who are there have answered.

publish the commands ──▶ every worker's mailbox
look who is there            │
collect ◀── one reply queue ─┘   until presence says that all have answered, nothing has
                                 come for ``timeout``, or ``deadline`` is reached
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any

from celery import Celery

from .again import MAX_NAME, MAX_WORKERS, AskingAgain
from .broker import Broker, broker_for, find_app
from .connection import PING, ControlConnection
from .exceptions import BrokerUnavailable, CeleryStatsError
from .presence import MAX_KNOWN, Memory, Presence, hear_late, presence_for
from .question import ARGUMENT, FIELDS, Options, Question
from .queues import queue_lengths
from .replies import Replies

logger = logging.getLogger(__name__)

#: The order in which workers are asked: those commands that a worker may fail to encode come
#: last, since it resets its mailbox then and forgets what stood behind.
_PUBLISH_ORDER = ("stats", "revoked", "query_task", "scheduled", "reserved", "active")

#: Seconds of silence after which workers that turned out to be without this app are asked for
#: the rest, all together.
_REST_AFTER = 0.005

#: Seconds of silence after which every node is pinged; long enough for the broker to hand
#: over what it has.
_PING_AFTER = 0.05

#: Silence after which a worker that answered in part, and no ping since, is asked again for the
#: rest: as a share of ``timeout``. Workers answer in order, so such a gap is rarely slowness.
_ASK_AGAIN_AFTER = 0.25

_NOTHING: Mapping[str, Any] = {}

#: Names of workers for which two answers to one question have been logged.
_MAX_LOGGED = 100
_duplicates_logged: set[str] = set()


@dataclass(frozen=True)
class Snapshot:
    """What the workers answered.

    Attributes:
        answers: field (all of :data:`FIELDS`, in order) to worker name to reply, as it
            was decoded; None where no worker answered or the field was not asked for.
        missing: worker name to the fields that it did not answer, for workers that the
            broker lists, that answered in part, or that were asked for by name.
        taken_at: when the workers were asked, in UTC.
        elapsed: seconds from the call to the end of listening.
        queues: queue name to the messages that wait in it; None where they were not asked for.
    """

    answers: Mapping[str, Mapping[str, Any] | None]
    missing: Mapping[str, tuple[str, ...]]
    taken_at: datetime
    elapsed: float
    queues: Mapping[str, int] | None = None


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
    started = time.monotonic()
    app = find_app(options.app)
    broker = broker_for(app)
    work = partial(
        _collect,
        app=app,
        memory=broker.memory,
        question=question,
        timeout=options.timeout,
        started=started,
        ends=started + (options.deadline if remaining is None else remaining),
    )
    snapshot, is_stale = broker.run(app, options.deadline, work)
    if is_stale:
        _find_out_again(broker, app, options)
    return snapshot


def _collect(
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
    presence = presence_for(connection, memory, frozenset(question.workers))
    collector = _Collector(connection, question, presence, timeout)
    elapsed = 0.0
    queues: Mapping[str, int] | None = None
    try:
        with connection.replies(collector.on_message):
            collector.run(ends)
            elapsed = time.monotonic() - started
            if not collector.settled:
                connection.check()
            if question.queues:
                with connection.guarded():
                    left = ends - time.monotonic()
                    queues = queue_lengths(app, connection.connection, within=left)
    except BrokerUnavailable as exc:
        # Everybody answered and only the tidying up failed: the answer is still true.
        if not collector.settled:
            raise
        logger.warning("The broker failed after the last answer: %s", type(exc.__cause__))
    snapshot = Snapshot(
        answers=collector.replies.by_field(FIELDS),
        missing=collector.missing(),
        taken_at=collector.taken_at,
        elapsed=elapsed,
        queues=queues,
    )
    return snapshot, presence.is_stale


class _Collector:
    """Reads the replies to one question, and asks again where one does not come.

    The states of :meth:`run`:

        asked         the commands are out, replies come in
        pinged        somebody was silent for a moment, so every node was asked for a pong
        asking again  who has ponged and owes an answer is asked for it alone (``again.py``)
        settled       presence says that nobody else will answer
        given up      nothing has come for ``timeout``, or ``deadline`` is reached
    """

    def __init__(
        self, connection: ControlConnection, question: Question, presence: Presence, timeout: float
    ) -> None:
        self.connection = connection
        self.question = question
        self.presence = presence
        self.timeout = timeout
        self.taken_at = datetime.now(timezone.utc)
        self.replies = Replies(question.fields, time.monotonic())
        self.settled = False
        self._patience = timeout * _ASK_AGAIN_AFTER
        self._again = AskingAgain(connection, question, timeout, self._patience)
        self._quiet_since = self.replies.at
        self._field_by_ticket: dict[str, str] = {}
        self._answered: set[tuple[str, str]] = set()  # ticket and worker
        self._ping: str | None = None  # the ticket of the ping to every node
        self._order = sorted(question.fields, key=_PUBLISH_ORDER.index)
        self._first = self._order[0]
        self._asked_for_the_rest: set[str] = set()
        self._answered_together: set[str] = set()

    def run(self, ends: float) -> None:
        """Ask, then read replies until there is nothing left to wait for.

        Args:
            ends: monotonic time at which all is given up.
        """
        memory = self.presence.memory
        plain = memory.plain & (set(self.question.workers) or memory.plain)
        with self.connection.together():
            self._ask(self._first, self.question.workers, self.question.all_at_once)
            self._ask_for_the_rest(plain)
        self.presence.look()
        whole_window = self._read(ends)
        if not self.question.workers:
            memory.plain &= self.replies.heard
        memory.plain -= self._answered_together
        if len(memory.plain) < MAX_KNOWN:
            memory.plain |= (
                self._asked_for_the_rest & self.replies.heard
            ) - self._answered_together
        self.presence.remember(self.replies, whole_window)

    def _read(self, ends: float) -> bool:
        """Collect replies; return whether a whole window of silence went by."""
        self._quiet_since = time.monotonic()
        came = False
        while True:
            now = time.monotonic()
            grace = self.presence.listen(self.replies, now)
            if grace == 0.0:
                self.settled = True
                return False
            silence = now - self._quiet_since
            if now >= ends:
                return False
            # What has come and was not read yet, behind a flood of duplicates, is no silence.
            if silence >= self.timeout and not came:
                return True
            if grace is None:
                to_ask = self._to_ask_for_the_rest(silence)
                if to_ask:
                    self._ask_for_the_rest(to_ask)
                    continue
                if self._ask_more(silence):
                    continue
                grace = self._next_step(silence)
            came = self.connection.drain(min(grace, ends - now))

    def _ask(
        self, field: str, workers: Collection[str], argument: Mapping[str, Any] = _NOTHING
    ) -> None:
        ticket = self.connection.publish(
            field,
            {**self.question.arguments(field), **argument},
            expires=self.timeout,
            workers=workers,
        )
        self._field_by_ticket[ticket] = field

    def _ask_for_the_rest(self, plain: Collection[str]) -> None:
        """Ask workers without this app for what does not come with the first answer."""
        self._asked_for_the_rest |= set(plain)
        self._again.asked(plain)
        short = sorted(worker for worker in plain if len(worker) <= MAX_NAME)
        if len(short) > MAX_WORKERS:  # The list would be longer than the needless answers.
            short = list(self.question.workers)
        elif not short:
            return
        for field in self._order[1:]:
            self._ask(field, short)

    def _ask_more(self, silence: float) -> bool:
        """Ping every node, or ask a worker again; return whether anything was published."""
        if self._ping is None:
            if not self.presence.is_somebody_silent(self.replies):
                return False
            if silence < _PING_AFTER and not self.presence.is_doubtful(self.replies):
                return False
            self._ping = self.connection.publish(PING, {}, expires=self.timeout)
            self.presence.look_again(self.replies)
            return True
        before = len(self.replies.given_up), len(self.presence.no_workers)
        published = self._again.proceed(
            self.replies, self._suspects(), impatient=silence >= self._patience
        )
        self.presence.no_workers |= self._again.no_workers
        if published:
            self._quiet_since = time.monotonic()
        return published or before != (len(self.replies.given_up), len(self.presence.no_workers))

    def _next_step(self, silence: float) -> float:
        """Seconds of further silence after which there is something else to do."""
        steps = [
            step - silence for step in (_REST_AFTER, _PING_AFTER, self._patience, self.timeout)
        ]
        return min([*(step for step in steps if step > 0), self._again.seconds_to_wait()])

    def _to_ask_for_the_rest(self, silence: float) -> set[str]:
        """Workers that answered the first command alone, once there are no more for a moment."""
        if silence < _REST_AFTER:
            return set()
        return self.replies.pending - self._asked_for_the_rest

    def _suspects(self) -> set[str]:
        """Nodes that have ponged and answered no command."""
        ponged = set(self.replies.pongs)
        if self.question.workers:
            ponged &= set(self.question.workers)
        return ponged - self.replies.heard - self.presence.no_workers

    # -- hearing

    def on_message(self, message: Any) -> None:
        """Take in a reply; whatever does not carry one of our tickets is skipped."""
        headers = message.headers
        ticket = headers.get("ticket") if isinstance(headers, Mapping) else None
        if not isinstance(ticket, str):
            return
        if not self._knows(ticket):
            hear_late(message, self.connection, self.presence.memory)
            return
        try:
            body = message.decode()
        except Exception as exc:  # noqa: BLE001 - decoders are pluggable and raise what they like
            self.connection.skip(message, exc)
            return
        if isinstance(body, Mapping):
            for name, reply in body.items():
                if isinstance(name, str):
                    self._take_in(name, ticket, reply)

    def _knows(self, ticket: str) -> bool:
        ours = ticket in self._field_by_ticket or ticket == self._ping
        return ours or self._again.knows(ticket)

    def _take_in(self, name: str, ticket: str, reply: Any) -> None:
        if ticket == self._ping:
            self.replies.take_in_pong(name, time.monotonic())
            self._again.ponged(name)
            return
        if self.question.workers and name not in self.question.workers:
            return
        field = self._field_by_ticket.get(ticket) or self._again.field_of(ticket)
        if field is not None:
            self._take_in_answer(name, ticket, field, reply)
        self._again.take_in(ticket, name, self.replies)

    def _take_in_answer(self, worker: str, ticket: str, field: str, reply: Any) -> None:
        if (ticket, worker) in self._answered:
            _log_duplicate(worker)
        self._answered.add((ticket, worker))
        together = reply.get(ARGUMENT) if isinstance(reply, Mapping) else None
        if isinstance(together, Mapping):
            answers = {name: together[name] for name in self._order if name in together}
            self._answered_together.add(worker)
        else:
            answers = {field: reply}
        now = time.monotonic()
        for name, answer in answers.items():
            if self.replies.take_in(worker, name, answer, now):
                self._quiet_since = now

    def missing(self) -> dict[str, tuple[str, ...]]:
        """Return who is known to be there, or was asked for, and owes an answer to what."""
        expected = self.presence.expected(self.replies) - self.replies.complete
        return {
            worker: tuple(n for n in FIELDS if n in self.replies.owed_by(worker))
            for worker in sorted(expected)
        }


def _log_duplicate(worker: str) -> None:
    """Log once that two workers share a name; the answer holds one of them."""
    if worker not in _duplicates_logged and len(_duplicates_logged) < _MAX_LOGGED:
        _duplicates_logged.add(worker)
        logger.warning("Several answers to one question from the worker named %.255r", worker)


def _find_out_again(broker: Broker, app: Celery, options: Options) -> None:
    """Find out anew what is remembered of the broker, without making a caller wait.

    Asks something small, relying on nothing that is remembered, in a thread of its own.
    """
    memory, fresh = broker.memory, Memory()
    if memory.finding is not None:  # The next question shall not do the same.
        memory.finding = replace(memory.finding, at=time.monotonic())
    started = time.monotonic()
    work = partial(
        _collect,
        app=app,
        memory=fresh,
        question=Question(fields=("query_task",)),
        timeout=options.timeout,
        started=started,
        ends=started + options.deadline,
    )

    def run() -> None:
        with suppress(CeleryStatsError):  # The next question says what is wrong.
            broker.run(app, options.deadline, work)
            memory.finding = fresh.finding

    with suppress(RuntimeError):  # The system has no thread left: the next question tries.
        threading.Thread(target=run, name="celery-stats-look", daemon=True).start()
