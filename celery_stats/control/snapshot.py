"""Ask every worker everything at once; collect until all who are there have answered.

publish six commands ──▶ every worker's mailbox
count who is there           │
collect ◀── one reply queue ─┘   until all have answered, nothing has come for
                                 ``timeout``, or ``deadline`` is reached
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

from celery import Celery
from kombu.utils.uuid import uuid

from .broker import Broker, Census, Link, Memory, broker_for
from .exceptions import BrokerUnavailable

logger = logging.getLogger(__name__)

#: What workers are asked, in the order of the answer's keys.
FIELDS = ("active", "scheduled", "reserved", "revoked", "query_task", "stats")

#: The order in which they are asked: those that a worker may fail to encode come last,
#: since it resets its mailbox then and forgets what stood behind.
_PUBLISH_ORDER = ("stats", "revoked", "query_task", "scheduled", "reserved", "active")

#: Silence after which a worker that answered in part is asked again for the rest: as a
#: share of ``timeout``. Workers answer in order, so a gap this long is rarely slowness.
_ASK_AGAIN_AFTER = 0.25

#: Seconds of silence after which the broker is asked whether those still awaited exist;
#: long enough for it to hand over what it has.
_LOOK_AFTER = 0.05

#: The order in which they are asked again: what a worker can always encode comes first.
_ASK_AGAIN_ORDER = ("stats", "revoked", "active", "query_task", "scheduled", "reserved")

#: No more workers than these, and none with a longer name, are asked again: they would
#: have to be listed in a message to all.
_MAX_ASKED_AGAIN = 100
_MAX_NAME = 255

#: Names of workers for which two answers to one question have been logged.
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
        elapsed: seconds from the start to the last answer.
        queues: queue name to the messages that wait in it; None where they were not asked for.
    """

    answers: Mapping[str, Mapping[str, Any] | None]
    missing: Mapping[str, tuple[str, ...]]
    taken_at: datetime
    elapsed: float
    queues: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Question:
    """What is asked, and of whom.

    Attributes:
        fields: those of :data:`FIELDS` to ask.
        task_ids: the ids for ``query_task``.
        workers: full names of those who should answer; empty: all.
        queues: whether the lengths of the queues are wanted.
    """

    fields: tuple[str, ...] = FIELDS
    task_ids: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    queues: bool = False

    def arguments(self, command: str, *, safe: bool = False) -> dict[str, Any]:
        """Return the keyword arguments of a command, as ``inspect()`` sends them."""
        if command == "query_task":
            return {"ids": list(self.task_ids)}
        return {"safe": safe or None} if command == "active" else {}


def take_snapshot(
    app: Celery,
    question: Question,
    *,
    timeout: float,
    deadline: float,
    remaining: float | None = None,
) -> Snapshot:
    """Ask the workers and collect their answers.

    Args:
        app: the Celery app whose broker and remote control settings are honoured.
        question: what to ask.
        timeout: seconds of silence after which those who have not answered are given up.
        deadline: seconds that all of it may take.
        remaining: seconds left of ``deadline`` where it began before this call. A
            connection is kept for the next call with the same ``deadline``.

    Raises:
        BrokerUnavailable: the broker cannot be reached or fails on the way.
        RemoteControlUnsupported: its transport cannot broadcast.
    """
    started = time.monotonic()
    broker = broker_for(app)
    work = partial(
        _collect,
        app=app,
        broker=broker,
        question=question,
        timeout=timeout,
        started=started,
        ends=started + (deadline if remaining is None else remaining),
    )
    return broker.run(app, deadline, work)


def _collect(
    link: Link,
    *,
    app: Celery,
    broker: Broker,
    question: Question,
    timeout: float,
    started: float,
    ends: float,
) -> Snapshot:
    collection = _Collection(link, question, broker.memory)
    elapsed = 0.0
    queues: Mapping[str, int] | None = None
    try:
        with link.replies(collection.on_message):
            collection.run(timeout, ends)
            if question.queues:
                queues = link.queue_lengths(app, within=ends - time.monotonic())
            elapsed = time.monotonic() - started
    except BrokerUnavailable as exc:
        # Everybody answered and only the tidying up failed: the answer is still true.
        if not collection.settled:
            raise
        logger.warning("The broker failed after the last answer: %s", type(exc.__cause__))
    return Snapshot(
        answers=collection.answers_by_field(),
        missing=collection.missing(),
        taken_at=collection.taken_at,
        elapsed=elapsed,
        queues=queues,
    )


class _Collection:
    """One snapshot in the making: who was asked what, and who has answered."""

    def __init__(self, link: Link, question: Question, memory: Memory) -> None:
        self.link = link
        self.question = question
        self.memory = memory
        self.requested = frozenset(question.workers)
        self.taken_at = datetime.now(timezone.utc)
        self.settled = False
        self._fields_by_ticket: dict[str, str] = {}
        self._answered: set[tuple[str, str]] = set()  # ticket and worker
        self._answers: dict[str, dict[str, Any]] = {name: {} for name in question.fields}
        self._partial: dict[str, set[str]] = {}  # worker to the fields that it still owes
        self._complete: set[str] = set()
        self._awaited: set[str] = set()
        self._census = Census(frozenset(), exhaustive=False)
        self._gone: frozenset[str] = frozenset()
        self._progress = False

    # -- asking

    def run(self, timeout: float, ends: float) -> None:
        """Ask, then read replies until there is nothing left to wait for.

        Args:
            timeout: seconds of silence after which the rest is given up.
            ends: monotonic time at which all is given up.
        """
        asked_at = time.monotonic()
        with self.link.together():
            for name in sorted(self.question.fields, key=_PUBLISH_ORDER.index):
                self._ask(name, self.question.workers, expires=timeout)
        self._take_census()
        whole_window = self._read(timeout, ends)
        self._remember(asked_at, whole_window)

    def _ask(
        self, name: str, workers: Collection[str], *, expires: float, safe: bool = False
    ) -> None:
        ticket = uuid()
        self._fields_by_ticket[ticket] = name
        arguments = self.question.arguments(name, safe=safe)
        self.link.publish(name, arguments, ticket=ticket, expires=expires, workers=workers)

    def _take_census(self) -> None:
        self._census = census = self.link.census(
            self.memory, published=len(self.question.fields), workers=self.requested
        )
        awaited = census.names - census.asleep
        if self.requested:
            awaited = self.requested & awaited if census.exhaustive else self.requested
        self._awaited = set(awaited - self._complete)

    def _read(self, timeout: float, ends: float) -> bool:
        """Collect replies; return whether a whole window of silence went by."""
        ask_again_after = timeout * _ASK_AGAIN_AFTER
        heard_at = time.monotonic()
        came = looked = False
        rounds = self._ask_again(timeout)
        may_ask = True
        while not self._is_settled():
            now = time.monotonic()
            silence = now - heard_at
            if now >= ends:
                return False
            # What has come and was not read yet, behind a flood of duplicates, is no silence.
            if silence >= timeout and not came:
                return True
            limits = [max(timeout - silence, _LOOK_AFTER), ends - now]
            if not looked and self._awaited:
                if silence >= _LOOK_AFTER:
                    looked = True
                    self._look_for_the_gone(min(timeout, ends - now))
                    continue
                limits.append(_LOOK_AFTER - silence)
            if may_ask and self._partial:
                if silence >= ask_again_after:
                    may_ask = next(rounds, False)
                    heard_at = time.monotonic() if may_ask else heard_at
                    continue
                limits.append(ask_again_after - silence)
            self._progress = False
            came = self.link.drain(min(limits))
            if self._progress:
                heard_at = time.monotonic()
        self.settled = True
        return False

    def _is_settled(self) -> bool:
        """Whether everyone who is there has answered everything."""
        census = self._census
        if self._partial:
            return False
        if self.requested:
            return not self._awaited
        if census.live is None:
            return census.exhaustive and not self._awaited
        # Where all who are live are listed, only the listed count: neither a worker that
        # left in this very moment nor a name made up may stand in for one still to answer.
        counted = self._complete & census.names if census.exhaustive else self._complete
        return len(counted) >= census.live

    def _look_for_the_gone(self, within: float) -> None:
        self._gone = self.link.gone(self._awaited, within=within)
        self._awaited -= self._gone

    def _ask_again(self, timeout: float) -> Iterator[bool]:
        """Ask those that answered in part for the rest, one command at a time.

        One at a time, because a worker that cannot encode its reply drops the commands
        that it has not read yet. Yields True after each round of questions.
        """
        workers = [w for w in self._partial if len(w) <= _MAX_NAME][:_MAX_ASKED_AGAIN]
        for name in sorted(self.question.fields, key=_ASK_AGAIN_ORDER.index):
            owing = [w for w in workers if name in self._partial.get(w, ())]
            if owing:
                self._ask(name, owing, expires=timeout, safe=True)
                yield True

    # -- hearing

    def on_message(self, message: Any) -> None:
        """Take in a reply; whatever does not answer one of our tickets is skipped."""
        headers = message.headers
        ticket = headers.get("ticket") if isinstance(headers, Mapping) else None
        name = self._fields_by_ticket.get(ticket) if isinstance(ticket, str) else None
        if name is None or not isinstance(ticket, str):
            return
        try:
            body = message.decode()
        except Exception as exc:  # noqa: BLE001 - decoders are pluggable and raise what they like
            self.link.skip(message, exc)
            return
        if isinstance(body, Mapping):
            for worker, reply in body.items():
                if isinstance(worker, str) and (not self.requested or worker in self.requested):
                    self._take_in(worker, ticket, name, reply)

    def _take_in(self, worker: str, ticket: str, name: str, reply: Any) -> None:
        if (ticket, worker) in self._answered:
            _log_duplicate(worker)
            return
        self._answered.add((ticket, worker))
        if worker in self._complete:
            return
        owed = self._partial.setdefault(worker, set(self.question.fields))
        if name in owed:
            self._progress = True
            owed.remove(name)
            self._answers[name][worker] = reply
        if not owed:
            del self._partial[worker]
            self._complete.add(worker)
            self._awaited.discard(worker)

    # -- telling

    def answers_by_field(self) -> dict[str, dict[str, Any] | None]:
        """Return field to worker to reply; None where nobody answered."""
        return {name: dict(sorted(self._answers.get(name, {}).items())) or None for name in FIELDS}

    def missing(self) -> dict[str, tuple[str, ...]]:
        """Return who is known to be there, or was asked for, and owes an answer to what."""
        names = (self._census.names - self._gone) | set(self._partial)
        if self.requested:
            names = self.requested
        every = set(self.question.fields)
        return {
            worker: tuple(n for n in FIELDS if n in self._partial.get(worker, every))
            for worker in sorted(names - self._complete)
        }

    def _remember(self, asked_at: float, whole_window: bool) -> None:
        memory, heard = self.memory, self._complete | set(self._partial)
        silent = self._census.names - heard
        whole_window = whole_window and not self.requested
        if self.link.is_virtual:
            memory.silent &= silent
            if whole_window:
                memory.silent |= silent
        else:
            memory.seen -= self._gone
            memory.seen |= heard
            if whole_window:
                memory.window_at = max(memory.window_at, asked_at)


def _log_duplicate(worker: str) -> None:
    """Say once that two workers share a name; the answer holds one of them."""
    if worker not in _duplicates_logged and len(_duplicates_logged) < _MAX_ASKED_AGAIN:
        _duplicates_logged.add(worker)
        logger.warning("Several answers to one question from the worker named %.255r", worker)
