"""Publishes one question and reads the replies, until nobody else will answer.

Meanwhile, workers that turn out to be without this app, and workers whose joint reply was too
large, are asked for the rest of their answer, and nodes that have lost a reply are asked again
(``retry.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from enum import Enum, auto
from math import inf
from typing import Any

from celery_stats.shapes import FIELDS

from .commands import Commands
from .connection import PING, ControlConnection
from .limits import MAX_NODES, MAX_REPLIES, MAX_REPLIES_VALUES, is_name, measure
from .messages import decode_joint_reply, log_shared_name, ticket_of, workers_in_late_reply
from .presence import Roster, presence_for
from .question import ARGUMENT, PROBE, Extras, Question
from .replies import NO_NAME, NodeCount, Replies
from .retry import MAX_NAMED, Retries, Step

logger = logging.getLogger(__name__)

#: Seconds of silence after which workers that owe a part of their answer are asked for the rest:
#: long enough that one message asks all of them.
REST_AFTER = 0.005

#: The silence after which more is tried, as a share of ``timeout``: every node is pinged, workers
#: that owe a part of their answer are asked again although they have not answered the ping, and
#: the broker is asked again who is there.
TRY_MORE_SHARE = 0.25

#: Seconds after the deadline for which reading goes on, as long as each read brings a reply.
LAST_LOOK = 0.1

#: Seconds from the ping to the second look at who is there.
LOOK_AGAIN_AFTER = 0.1


class State(Enum):
    """What the collector is doing, or why it has ended."""

    ASKED = auto()  #: the question is out, and replies come in
    PINGED = auto()  #: somebody was silent for a moment, so a ping was sent to every node
    SETTLED = auto()  #: it has ended, because nobody else will answer
    SILENCE = auto()  #: it has ended, because nothing new came for ``timeout``
    DEADLINE = auto()  #: it has ended, because the time is over
    TOO_MUCH = auto()  #: it has ended, because the replies exceed :data:`MAX_REPLIES`


class Collector:
    """Asks one question. The messages of its connection must be handed to :meth:`on_message`.

    Attributes:
        replies: what has come.
        presence: who could answer.
        state: what it is doing, or why it stopped.
        asked_at: when the question was published, in UTC.
    """

    def __init__(
        self, connection: ControlConnection, question: Question, roster: Roster, timeout: float
    ) -> None:
        self.asked_at = datetime.now(timezone.utc)
        self.replies = Replies(question.commands, connection.now())
        self.presence = presence_for(connection, roster, frozenset(question.workers), self.replies)
        self.state = State.ASKED
        self._connection = connection
        self._question = question
        self._roster = roster
        self._timeout = timeout
        self._try_more_after = timeout * TRY_MORE_SHARE
        self._retries = Retries(
            self.replies, self._try_more_after, self._ask_again, self._send_ping, connection.now
        )
        self._commands = Commands(connection, question, roster, timeout, self.replies)
        # Seconds in which replies could be read and none came: since the last new answer, and
        # since the last reply or ping of any kind. A command that is sent again begins both anew.
        self._silence_since_answer = self._silence_since_sign = 0.0
        self._bytes = self._values = 0  # of all replies
        self._names: set[str] = set()  # under which anything came
        self._kept_names: set[str] = set()  # their replies are kept, however many other names come
        self._with_app: set[str] = set()
        self._next_look = 1  # at who is there: its number in this silence
        self._second_look_at = inf  # unless one is needed after the ping
        self._pongs_due: set[tuple[str, str]] = set()  # ticket and node, for pings by name

    def run(self, ends: float) -> None:
        """Ask, then read replies until nobody else will answer, or until the deadline.

        Raises:
            BrokerUnavailable: the broker failed on the way.
        """
        beats = sorted(self.presence.before_asking())[:MAX_NAMED]
        with self._connection.batch():
            self._commands.ask_everybody()
            if beats and not self._question.workers:
                self._send_ping(beats)
        self.replies.asked.tickets = list(self._commands.tickets)
        self.presence.after_asking()
        self._kept_names = self.presence.expected()
        self.state = self._read(ends)
        self._remember()
        is_anybody_late = self.presence.is_reply_expected or bool(self._pongs_due)
        self._connection.is_reply_expected = is_anybody_late or self.state is not State.SETTLED

    def _read(self, ends: float) -> State:
        came = False
        while True:
            patience = self.presence.patience()
            if patience == 0.0:
                return State.SETTLED
            remaining = ends - self._connection.now()
            if remaining <= 0 and (not came or remaining < -LAST_LOOK):
                if came:
                    self._connection.leave_replies()
                return State.DEADLINE
            if self._bytes > MAX_REPLIES:
                logger.warning("The replies are too large: the rest of them is not read")
                self._connection.leave_replies()
                return State.TOO_MUCH
            due_in = self._ask_more() if remaining > 0 else inf
            if due_in == 0.0:
                continue
            if patience is None:
                silence, limit = self._silence_since_answer, self._timeout
            else:
                silence, limit = self._silence_since_sign, patience
            # Something may have come that is not new, such as a second answer of a worker. Then
            # the reply that is waited for may stand behind it in the queue.
            if silence >= limit and not came:
                return State.SILENCE if patience is None else State.SETTLED
            came = self._drain(max(min(limit - silence, due_in, remaining), 0.0))

    def _drain(self, seconds: float) -> bool:
        """Read what comes; return whether anything came, and count the silence otherwise."""
        began = self._connection.now()
        came = self._connection.drain(seconds)
        if not came:
            # If the process stood still meanwhile, no reply could be read, so this time does not
            # count, and nobody is given up for it.
            waited = min(self._connection.now() - began, max(seconds, 0.001))
            self._silence_since_answer += waited
            self._silence_since_sign += waited
        return came

    def _ask_more(self) -> float:
        """Send what is due.

        Returns:
            float: the seconds after which more may be due; 0 if something has changed.
        """
        rest = REST_AFTER - self._silence_since_answer if self.replies.pending else inf
        if rest <= 0:
            owing = self.replies.pending - self._commands.asked_for_the_rest
            if owing:
                self._commands.ask_for_the_rest(owing)
                self._retries.note_asked(owing)
                return 0.0
            rest = inf
        if self.state is State.ASKED:
            after = self.presence.ping_after()
            due = inf if after is None else min(after, self._try_more_after)
            ping = due - self._silence_since_sign
            if ping > 0:
                return min(rest, ping)
            self._connection.bind_again()
            self._ping_everybody()
            self.state = State.PINGED
            return 0.0
        look = self._try_more_after * self._next_look - self._silence_since_answer
        second_look = self._second_look_at - self._connection.now()
        if min(look, second_look) <= 0:
            self._next_look += look <= 0
            self._look_again()
            return 0.0
        is_long = self._silence_since_answer >= self._try_more_after
        retry = self._retries.proceed(self.presence.suspects(), without_pong=is_long)
        return min(rest, look, second_look, retry)

    def _ping_everybody(self) -> None:
        self.replies.pinged = NodeCount(self._send_ping(()))
        self.presence.after_ping()
        is_due = self.presence.needs_second_look
        self._second_look_at = self._connection.now() + LOOK_AGAIN_AFTER if is_due else inf

    def _look_again(self) -> None:
        """Ping whoever is waited for, because a ping may be lost with a mailbox, or everybody."""
        self._second_look_at = inf
        if self.presence.look_again():
            self._ping_everybody()
            return
        names = self.replies.without_reply(self.presence.awaited()) | self.replies.pending
        if names:
            self.replies.pinged.tickets.append(self._send_ping(sorted(names)[:MAX_NAMED]))

    # Asking

    def _send_ping(self, nodes: Collection[str]) -> str:
        """Ping nodes by name, or all; return the ticket."""
        self._silence_since_sign = 0.0
        ticket = self._commands.ping(nodes)
        self._pongs_due.update((ticket, node) for node in nodes)
        return ticket

    def _ask_again(self, step: Step, workers: Collection[str]) -> str:
        self._silence_since_answer = self._silence_since_sign = 0.0
        self._next_look = 1
        is_probe = step.command == PROBE
        return self._commands.ask(step.command, workers, safe=step.safe, everything=is_probe)

    # What is remembered

    def _remember(self) -> None:
        self.presence.remember(whole_window=self.state is State.SILENCE)
        replies, now = self.replies, self._connection.now()
        for worker in replies.heard:
            self._roster.note_answers(
                worker,
                now,
                with_app=worker in self._with_app,
                has_lost_active=worker in replies.lost_active,
                has_lost_any=worker in replies.lost,
            )

    # Reading

    def on_message(self, message: Any) -> None:
        """Take in a kombu message; skip it if it does not carry the ticket of a question."""
        ticket = ticket_of(message)
        if ticket not in self._commands.tickets:
            self.presence.hear_late(workers_in_late_reply(message, self._connection))
            return
        if self._bytes > MAX_REPLIES:
            return
        try:
            size, values = measure(message)
            self._bytes += size
            if self._values + values > MAX_REPLIES_VALUES:
                raise ValueError("all replies hold too much")
            self._values += values
            body = message.decode()
        except Exception as exc:  # noqa: BLE001 - decoders are pluggable and may raise anything
            self.replies.count(ticket, NO_NAME)
            self._silence_since_sign = 0.0
            self._connection.skip(message, exc)
            return
        for name, reply in body.items() if isinstance(body, Mapping) else ():
            if self._has_room_for(name):
                self._take_in(name, ticket, reply)

    def _has_room_for(self, name: Any) -> bool:
        if name in self._names:
            return True
        if not is_name(name):
            self._connection.skip(None, "no worker has such a name")
            return False
        if len(self._names) >= MAX_NODES and name not in self._kept_names:
            return False
        self._names.add(name)
        return True

    def _take_in(self, name: str, ticket: str, reply: Any) -> None:
        self._silence_since_sign = 0.0
        self._pongs_due.discard((ticket, name))
        command = self._commands.tickets[ticket]
        times = self.replies.count(ticket, name)
        if command == PING:
            self.replies.add_pong(name)
            node = self._roster.nodes.get(name)
            if node is not None and node.is_no_worker:
                self.replies.no_workers.add(name)
        elif not self._question.workers or name in self._question.workers:
            if times > 1:
                log_shared_name(name)
            self._take_in_answer(name, command, reply)
        self._retries.note_reply(ticket, name)

    def _take_in_answer(self, worker: str, command: str, reply: Any) -> None:
        joint_reply = reply.get(ARGUMENT) if isinstance(reply, Mapping) else None
        if isinstance(joint_reply, str):
            self._with_app.add(worker)
            answers, extras = decode_joint_reply(joint_reply, self._commands.order)
            if extras != Extras():
                self.replies.extras[worker] = extras
        else:
            answers = {} if command == PROBE else {command: reply}
        was_heard = worker in self.replies.heard
        is_new = self.replies.add_answers(worker, answers, self._connection.now())
        if is_new or not was_heard:
            self._silence_since_answer = 0.0
            self._next_look = 1

    def missing(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the missing workers, each with the fields that it did not answer."""
        workers = self.presence.expected()
        # What is asked beside the fields makes nobody missing.
        owing = {field: self.replies.owing(field, workers) for field in FIELDS}
        return {
            worker: tuple(field for field in FIELDS if worker in owing[field])
            for worker in sorted(set[str]().union(*owing.values()))
        }
