"""Sends commands again to nodes that answered a later ping, but not the command.

A node answers in order. A node that has answered a ping, and not a command before it, has lost
its reply or is no worker. A worker that cannot encode a reply drops it, and the commands that
wait in its mailbox. So each owed field is asked for alone: a lost reply takes no other with it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from .connection import PING, ControlConnection
from .question import Question
from .replies import Replies

#: Seconds between a command that is sent again and the ping after it. A worker that cannot encode
#: its reply resets its mailbox, and a ping sent together with the command would be lost.
PING_DELAY = 0.05

#: The most workers that are asked again, and the longest name among them, because they have to be
#: listed in a message to all.
MAX_NAMED = 100
MAX_NAME = 255


class Step(NamedTuple):
    """One command that is sent again.

    Attributes:
        field: the field that is asked for; None for :data:`IS_WORKER`.
        safe: whether ``active`` is asked to turn all arguments into text.
    """

    field: str | None
    safe: bool = False


#: Asks a node that has answered nothing but pings for a reply that every worker can encode: no
#: task is asked for. A node that answers only the ping after it is no worker.
IS_WORKER = Step(None)

#: The order of asking again: fields that a worker can always encode come first. ``safe`` turns
#: the arguments of all active tasks into text, so it is asked only if the plain one is lost.
STEPS = (
    Step("stats"),
    Step("revoked"),
    Step("active"),
    Step("active", safe=True),
    Step("query_task"),
    Step("scheduled"),
    Step("reserved"),
)


@dataclass
class _Attempt:
    """A step, sent to the workers that owe its answer.

    Attributes:
        step: what was sent.
        waiting: the workers that have answered neither the command nor the ping after it.
        ticket: the ticket of the command.
        sent_at: monotonic seconds.
        ping: the ticket of the ping after it; None before it was sent.
    """

    step: Step
    waiting: set[str]
    ticket: str
    sent_at: float = field(default_factory=time.monotonic)
    ping: str | None = None


class Retries:
    """What is asked again during one snapshot.

    One step is under way at a time, for all workers that owe its field. So a worker that answers
    neither the command nor the ping holds the others up until ``patience`` is over.

    Attributes:
        sent_at: monotonic seconds of the last message that was sent; 0.0 before the first.
    """

    def __init__(
        self,
        connection: ControlConnection,
        question: Question,
        timeout: float,
        patience: float,
        no_workers: set[str],
    ) -> None:
        """
        Args:
            connection: where to ask.
            question: what was asked.
            timeout: seconds for which an answer is of use.
            patience: seconds after which a step is over although a worker is silent.
            no_workers: nodes that answer the ping after :data:`IS_WORKER`, and not the command,
                are added to it.
        """
        self.sent_at = 0.0
        self._no_workers = no_workers
        self._connection = connection
        self._question = question
        self._timeout = timeout
        self._patience = patience
        #: Nodes that have answered a ping after all that they were asked.
        self._caught_up: set[str] = set()
        self._to_ask_again: set[str] = set()
        self._tried: set[tuple[str, Step]] = set()
        self._attempt: _Attempt | None = None
        self._field_by_ticket: dict[str, str | None] = {}  # of every attempt

    def knows(self, ticket: str) -> bool:
        """Whether a reply with this ticket answers a command that was sent again, or its ping."""
        attempt = self._attempt
        return ticket in self._field_by_ticket or (attempt is not None and ticket == attempt.ping)

    def field_of(self, ticket: str) -> str | None:
        """Return the field that a reply with this ticket answers."""
        return self._field_by_ticket.get(ticket)

    def note_reply(self, ticket: str, worker: str, replies: Replies) -> None:
        """Note a reply to a command that was sent again, or to its ping."""
        attempt = self._attempt
        if attempt is None or worker not in attempt.waiting:
            return
        if ticket not in (attempt.ticket, attempt.ping):
            return
        attempt.waiting.discard(worker)
        self._caught_up.add(worker)
        if attempt.step == IS_WORKER:
            if ticket == attempt.ticket:
                replies.add_worker(worker)
            else:
                self._no_workers.add(worker)

    def note_asked(self, workers: Collection[str]) -> None:
        """Note that these workers were asked something new."""
        self._caught_up -= set(workers)

    def note_pong(self, worker: str) -> None:
        """Note a node's answer to a ping that went to every node."""
        if self._attempt is None or worker not in self._attempt.waiting:
            self._caught_up.add(worker)

    def proceed(self, replies: Replies, suspects: set[str], *, impatient: bool) -> bool:
        """Send the next step, or the ping after the last one.

        Args:
            replies: who owes what. Workers for which no step is left are given up in it; those
                beyond :data:`MAX_NAMED` are among them.
            suspects: nodes that have answered a ping and no command.
            impatient: whether workers that have answered no ping are asked, too.

        Returns:
            bool: whether anything was sent, or a worker given up.
        """
        attempt = self._attempt
        if attempt is not None:
            if attempt.waiting and self._seconds_left(attempt) > 0:
                return self._ping(attempt)
            self._attempt = None
        self._choose(replies.pending | suspects)
        for step, workers in self._candidates(replies, suspects, impatient=impatient):
            if workers:
                self._send(step, workers)
                return True
        hopeless = self._caught_up & replies.pending
        replies.given_up |= hopeless
        return bool(hopeless)

    def seconds_to_wait(self) -> float:
        """Return after how many seconds :meth:`proceed` has something to do."""
        attempt = self._attempt
        if attempt is None:
            return self._patience
        left = self._seconds_left(attempt)
        if attempt.ping is None:
            left = min(left, attempt.sent_at + PING_DELAY - time.monotonic())
        return max(left, 0.0)

    def _seconds_left(self, attempt: _Attempt) -> float:
        return attempt.sent_at + PING_DELAY + self._patience - time.monotonic()

    def _ping(self, attempt: _Attempt) -> bool:
        if attempt.ping is not None or time.monotonic() < attempt.sent_at + PING_DELAY:
            return False
        attempt.ping = self._publish(PING, {}, sorted(attempt.waiting))
        return True

    def _choose(self, workers: set[str]) -> None:
        """Add workers to those that are asked again, as long as there is room."""
        room = MAX_NAMED - len(self._to_ask_again)
        new = (worker for worker in workers - self._to_ask_again if len(worker) <= MAX_NAME)
        self._to_ask_again.update(islice(new, room))

    def _candidates(
        self, replies: Replies, suspects: set[str], *, impatient: bool
    ) -> Iterator[tuple[Step, list[str]]]:
        """Yield each step with the workers to ask, in the order of asking."""
        yield IS_WORKER, self._not_tried(IS_WORKER, suspects & self._caught_up)
        for step in STEPS:
            owing = {w for w in self._to_ask_again if step.field in replies.owed.get(w, ())}
            yield step, self._not_tried(step, owing if impatient else owing & self._caught_up)

    def _not_tried(self, step: Step, workers: set[str]) -> list[str]:
        return sorted(w for w in workers & self._to_ask_again if (w, step) not in self._tried)

    def _send(self, step: Step, workers: list[str]) -> None:
        command = step.field or "query_task"
        arguments = self._question.arguments(step.field) if step.field else {"ids": []}
        if step.safe:
            arguments["safe"] = True
        ticket = self._publish(command, arguments, workers)
        self._tried |= {(worker, step) for worker in workers}
        self._caught_up -= set(workers)
        self._attempt = _Attempt(step, set(workers), ticket)
        self._field_by_ticket[ticket] = step.field

    def _publish(self, command: str, arguments: dict[str, Any], workers: list[str]) -> str:
        self.sent_at = time.monotonic()
        return self._connection.publish(command, arguments, expires=self._timeout, workers=workers)
