"""Publishes one question and reads the replies, until nobody else will answer.

The collector goes through these states, and can end in each of them:

    asked     The question is out. Replies come in.
    the rest  Workers that turned out to be without this app are asked for the fields that were
              not in their first reply.
    pinged    A worker was silent for a moment, so a ping was sent to every node. Nodes answer in
              order: a node that has answered the ping will not answer what it was asked before.
    retrying  Nodes that have answered the ping and owe an answer are asked for it again, one
              field at a time (``retry.py``).

It ends when presence says that nobody else will answer, when nothing new has come for ``timeout``
since the last message that was sent, at the deadline, or when too much has come.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from enum import Enum, auto
from typing import Any

from .connection import PING, ControlConnection
from .limits import MAX_REPLIES, MAX_WORKERS, is_too_large
from .presence import Memory, presence_for
from .presence.memory import workers_in_late_reply
from .question import ARGUMENT, FIELDS, Question
from .replies import Replies
from .retry import MAX_NAME, MAX_NAMED, Retries

logger = logging.getLogger(__name__)

#: The order in which the fields are asked. Commands whose reply a worker may fail to encode come
#: last, because it resets its mailbox then, and loses the commands that wait there.
PUBLISH_ORDER = ("stats", "revoked", "query_task", "scheduled", "reserved", "active")

#: Seconds of silence after which workers that turned out to be without this app are asked for the
#: rest: long enough that one message asks all of them.
REST_AFTER = 0.005

#: Silence after which workers that owe a part of their answer are asked again although they have
#: not answered the ping, as a share of ``timeout``.
PATIENCE_SHARE = 0.25

_NOTHING: Mapping[str, Any] = {}

#: The names of workers for which it was logged that several workers have this name.
_shared_names_logged: set[str] = set()
_MAX_LOGGED = 100


class Ending(Enum):
    """Why the collector stopped."""

    SETTLED = auto()  #: presence says that nobody else will answer
    SILENCE = auto()  #: nothing new has come for ``timeout``
    DEADLINE = auto()
    TOO_MUCH = auto()  #: the replies exceed :data:`MAX_REPLIES`


class Collector:
    """Asks one question.

    Attributes:
        replies: what has come.
        presence: who could answer.
        ending: why it stopped; None before :meth:`run` has ended.
        asked_at: when the question was published, in UTC.
    """

    def __init__(
        self, connection: ControlConnection, question: Question, memory: Memory, timeout: float
    ) -> None:
        """
        Args:
            connection: where to ask; its replies must be handed to :meth:`on_message`.
            question: what to ask.
            memory: what earlier questions showed; updated at the end.
            timeout: seconds of silence after which the silent workers are given up.
        """
        self.asked_at = datetime.now(timezone.utc)
        self.replies = Replies(question.fields, time.monotonic())
        self.presence = presence_for(connection, memory, frozenset(question.workers))
        self.ending: Ending | None = None
        self._connection = connection
        self._question = question
        self._memory = memory
        self._timeout = timeout
        self._patience = timeout * PATIENCE_SHARE
        self._retries = Retries(
            connection, question, timeout, self._patience, self.presence.no_workers
        )
        self._order = sorted(question.fields, key=PUBLISH_ORDER.index)
        self._quiet_since = time.monotonic()
        self._field_by_ticket: dict[str, str] = {}
        self._answered: set[tuple[str, str]] = set()  # ticket and worker
        self._ping: str | None = None  # the ticket of the ping to every node
        self._bytes = 0  # of all replies
        self._names: set[str] = set()  # under which anything came
        self._expected: set[str] = set()
        self._with_app: set[str] = set()
        self._asked_for_the_rest: set[str] = set()

    def run(self, ends: float) -> None:
        """Ask, then read replies until nobody else will answer.

        Args:
            ends: the monotonic time of the deadline.

        Raises:
            BrokerUnavailable: the broker failed on the way.
        """
        with self._connection.together():
            self._ask(self._order[0], self._question.workers, self._question.all_at_once)
            self._ask_for_the_rest(self._known_without_app())
        self.presence.after_asking()
        # Their replies are kept, however many other names come.
        self._expected = self.presence.expected(self.replies)
        self._quiet_since = time.monotonic()
        self.ending = self._read(ends)
        self._remember()

    def _read(self, ends: float) -> Ending:
        came = False
        while True:
            now = time.monotonic()
            wait = self.presence.seconds_to_listen(self.replies, now)
            if wait == 0.0:
                return Ending.SETTLED
            if now >= ends:
                return Ending.DEADLINE
            if self._bytes > MAX_REPLIES:
                logger.warning("The replies are too large: the rest of them is not read")
                self._connection.leave_replies()
                return Ending.TOO_MUCH
            silence = now - max(self._quiet_since, self._retries.sent_at)
            # Something may have come that is not new, such as a second answer of a worker. Then
            # the reply that is waited for may stand behind it in the queue.
            if silence >= self._timeout and not came:
                return Ending.SILENCE
            if wait is None:
                if self._ask_more(silence):
                    continue
                wait = self._seconds_to_next_step(silence)
            came = self._connection.drain(min(wait, ends - now))

    def _ask_more(self, silence: float) -> bool:
        """Go to the next state if it is due; return whether anything has changed."""
        if silence >= REST_AFTER:
            owing = self.replies.pending - self._asked_for_the_rest
            if owing:
                self._ask_for_the_rest(owing)
                return True
        if self._ping is None:
            ping_after = self.presence.ping_after(self.replies)
            if ping_after is None or silence < ping_after:
                return False
            self._ping = self._connection.publish(PING, {}, expires=self._timeout)
            self.presence.after_ping(self.replies)
            return True
        impatient = silence >= self._patience
        return self._retries.proceed(self.replies, self._suspects(), impatient=impatient)

    def _seconds_to_next_step(self, silence: float) -> float:
        """Return after how much more silence :meth:`_ask_more` may have something to do.

        Presence is asked again then as well.
        """
        ping_after = self.presence.ping_after(self.replies) if self._ping is None else None
        steps = (REST_AFTER, ping_after or 0.0, self._patience, self._timeout)
        left = [step - silence for step in steps if step > silence]
        return min([*left, self._retries.seconds_to_wait()])

    def _suspects(self) -> set[str]:
        """Return the nodes that have answered the ping and no command."""
        ponged = set(self.replies.pongs)
        if self._question.workers:
            ponged &= set(self._question.workers)
        return ponged - self.replies.heard - self.presence.no_workers

    # Asking

    def _ask(
        self, field: str, workers: Collection[str], argument: Mapping[str, Any] = _NOTHING
    ) -> None:
        ticket = self._connection.publish(
            field,
            {**self._question.arguments(field), **argument},
            expires=self._timeout,
            workers=workers,
        )
        self._field_by_ticket[ticket] = field

    def _ask_for_the_rest(self, workers: Collection[str]) -> None:
        """Ask workers without this app for the fields that are not in their first reply."""
        self._asked_for_the_rest |= set(workers)
        self._retries.note_asked(workers)
        named = sorted(worker for worker in workers if len(worker) <= MAX_NAME)
        if len(named) > MAX_NAMED:
            # Ask all. A list of so many names would be longer than the needless answers.
            named = list(self._question.workers)
        elif not named:
            return
        for field in self._order[1:]:
            self._ask(field, named)

    # Remembering

    def _known_without_app(self) -> set[str]:
        """Return the workers to ask that are remembered to be without this app."""
        known = self._memory.without_app
        return known & set(self._question.workers) if self._question.workers else set(known)

    def _remember(self) -> None:
        memory = self._memory
        if not self._question.workers:
            memory.without_app &= self.replies.heard
        memory.without_app -= self._with_app
        if len(memory.without_app) < MAX_WORKERS:
            memory.without_app |= self._asked_for_the_rest & self.replies.heard - self._with_app
        self.presence.remember(self.replies, whole_window=self.ending is Ending.SILENCE)

    # Reading

    def on_message(self, message: Any) -> None:
        """Take in a kombu message; skip it if it does not carry the ticket of a question."""
        headers = message.headers
        ticket = headers.get("ticket") if isinstance(headers, Mapping) else None
        if not isinstance(ticket, str):
            return
        if not self._knows(ticket):
            self.presence.hear_late(workers_in_late_reply(message, self._connection))
            return
        if self._bytes > MAX_REPLIES:
            return
        if is_too_large(message):
            self.presence.lost_reply = True
            self._connection.skip(message, "it is too large")
            return
        self._bytes += len(message.body or "")
        try:
            body = message.decode()
        except Exception as exc:  # noqa: BLE001 - decoders are pluggable and may raise anything
            self.presence.lost_reply = True
            self._connection.skip(message, exc)
            return
        if isinstance(body, Mapping):
            for name, reply in body.items():
                if isinstance(name, str) and self._has_room_for(name):
                    self._take_in(name, ticket, reply)

    def _has_room_for(self, name: str) -> bool:
        if name not in self._names:
            if len(self._names) >= MAX_WORKERS and name not in self._expected:
                return False
            self._names.add(name)
        return True

    def _knows(self, ticket: str) -> bool:
        ours = ticket in self._field_by_ticket or ticket == self._ping
        return ours or self._retries.knows(ticket)

    def _take_in(self, name: str, ticket: str, reply: Any) -> None:
        if ticket == self._ping:
            self.replies.add_pong(name, time.monotonic())
            self._retries.note_pong(name)
            return
        if self._question.workers and name not in self._question.workers:
            return
        field = self._field_by_ticket.get(ticket) or self._retries.field_of(ticket)
        if field is not None:
            self._take_in_answer(name, ticket, field, reply)
        self._retries.note_reply(ticket, name, self.replies)

    def _take_in_answer(self, worker: str, ticket: str, field: str, reply: Any) -> None:
        if (ticket, worker) in self._answered:
            _log_shared_name(worker)
        self._answered.add((ticket, worker))
        together = reply.get(ARGUMENT) if isinstance(reply, Mapping) else None
        if isinstance(together, str):
            answers = _decode_replies(together, self._order)
            self._with_app.add(worker)
        else:
            answers = {field: reply}
        now = time.monotonic()
        if self.replies.add_answers(worker, answers, now):
            self._quiet_since = now

    def missing(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the missing workers, each with the fields that it did not answer."""
        expected = self.presence.expected(self.replies) - self.replies.complete
        return {
            worker: tuple(n for n in FIELDS if n in self.replies.owed_by(worker))
            for worker in sorted(expected)
        }


def _decode_replies(text: str, fields: Collection[str]) -> dict[str, Any]:
    """Return field to reply, from a worker with this app.

    A field that is missing or cannot be decoded is left out, so that it is asked for alone.
    """
    try:
        replies = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(replies, dict):
        return {}
    return {field: replies[field] for field in fields if field in replies}


def _log_shared_name(worker: str) -> None:
    """Log once that two workers share a name, because the answer holds only one of them."""
    if worker not in _shared_names_logged and len(_shared_names_logged) < _MAX_LOGGED:
        _shared_names_logged.add(worker)
        logger.warning("Several answers to one question from the worker named %.255r", worker)
