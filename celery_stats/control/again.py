"""Asking again: for what a node owes after it has answered a ping.

A node answers in order. One that has answered a ping and not a command before it has lost its
reply (a worker that cannot encode it drops it, and what stands behind in its mailbox), or is no
worker. Each is asked for one field alone, so that one lost reply takes no other with it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import islice
from typing import Any

from .connection import PING, ControlConnection
from .question import Question
from .replies import Replies

#: Seconds after a command was sent again when its ping follows. A worker that cannot encode its
#: reply resets its mailbox, and a ping sent together with the command would be lost.
PING_AFTER = 0.05

#: No more workers than these, and none with a longer name, are asked again: they would
#: have to be listed in a message to all.
MAX_WORKERS = 100
MAX_NAME = 255

#: A command that every worker answers and can encode: no task is asked for. Who answers nothing
#: is asked this first, and is no worker if only the ping after it is answered.
IS_WORKER: tuple[str, dict[str, Any]] = ("query_task", {"ids": []})

#: The order of asking again: what a worker can always encode first. ``safe`` turns the arguments
#: of all active tasks into text, so the plain command is tried before.
STEPS: tuple[tuple[str, bool], ...] = (
    ("stats", False),
    ("revoked", False),
    ("active", False),
    ("active", True),
    ("query_task", False),
    ("scheduled", False),
    ("reserved", False),
)


@dataclass
class _Round:
    """One command, sent again to those that owe its answer.

    Attributes:
        field: the field that is asked for; None for :data:`IS_WORKER`.
        waiting: those that have neither answered nor ponged.
        ticket: the command's.
        started: monotonic seconds.
        ping: the ticket of the ping that followed.
    """

    field: str | None
    waiting: set[str]
    ticket: str
    started: float = dataclass_field(default_factory=time.monotonic)
    ping: str | None = None


class AskingAgain:
    """What is asked again during one snapshot.

    Attributes:
        no_workers: nodes that answered the ping after :data:`IS_WORKER`, and not the command.
    """

    def __init__(
        self, connection: ControlConnection, question: Question, timeout: float, patience: float
    ) -> None:
        """
        Args:
            connection: where to ask.
            question: what was asked.
            timeout: seconds for which an answer is of use.
            patience: seconds after which a round is over where no pong comes either.
        """
        self.no_workers: set[str] = set()
        self._connection = connection
        self._question = question
        self._timeout = timeout
        self._patience = patience
        self._tried: set[tuple[str, tuple[str | None, bool]]] = set()
        #: Nodes that have worked off all that they were asked.
        self._idle: set[str] = set()
        self._chosen: set[str] = set()
        self._round: _Round | None = None
        self._fields: dict[str, str | None] = {}  # ticket to field, of every round

    def knows(self, ticket: str) -> bool:
        """Whether a reply with this ticket answers something that was asked again."""
        return ticket in self._fields or (self._round is not None and ticket == self._round.ping)

    def field_of(self, ticket: str) -> str | None:
        """Return the field that a reply with this ticket answers."""
        return self._fields.get(ticket)

    def take_in(self, ticket: str, worker: str, replies: Replies) -> None:
        """Note a reply to a command that was sent again, or to the ping after it."""
        asked = self._round
        if asked is None or worker not in asked.waiting:
            return
        if ticket not in (asked.ticket, asked.ping):
            return
        asked.waiting.discard(worker)
        self._idle.add(worker)
        if asked.field is None:
            if ticket == asked.ticket:
                replies.owes_the_rest(worker)
            else:
                self.no_workers.add(worker)

    def asked(self, workers: Collection[str]) -> None:
        """Note that these were asked something new since they ponged."""
        self._idle -= set(workers)

    def ponged(self, worker: str) -> None:
        """Note the answer to a ping that went to every node."""
        if self._round is None or worker not in self._round.waiting:
            self._idle.add(worker)

    def proceed(self, replies: Replies, suspects: set[str], *, impatient: bool) -> bool:
        """Ask for the next field, or ping those who have not answered the last.

        Args:
            replies: who owes what; workers that there is nothing left to ask are given up.
            suspects: nodes that have ponged and answered no command.
            impatient: whether to ask workers that have not ponged, too.

        Returns:
            bool: whether something was published.
        """
        if self._round is not None:
            if self._round.waiting and self._seconds_left() > 0:
                return self._ping(self._round)
            self._round = None
        self._choose(replies.pending | suspects)
        for step, workers in self._candidates(replies, suspects, impatient=impatient):
            if workers:
                self._ask(step, workers)
                return True
        replies.given_up |= self._idle & set(replies.owed)
        return False

    def seconds_to_wait(self) -> float:
        """Seconds after which :meth:`proceed` has something to do, as far as that is known."""
        if self._round is None:
            return self._patience
        left = self._seconds_left()
        if self._round.ping is None:
            left = min(left, self._round.started + PING_AFTER - time.monotonic())
        return max(left, 0.0)

    def _seconds_left(self) -> float:
        assert self._round is not None
        return self._round.started + PING_AFTER + self._patience - time.monotonic()

    def _ping(self, asked: _Round) -> bool:
        if asked.ping is not None or time.monotonic() < asked.started + PING_AFTER:
            return False
        asked.ping = self._connection.publish(
            PING, {}, expires=self._timeout, workers=sorted(asked.waiting)
        )
        return True

    def _choose(self, workers: set[str]) -> None:
        """Add to those who are asked again, as long as there is room."""
        room = MAX_WORKERS - len(self._chosen)
        new = (worker for worker in workers - self._chosen if len(worker) <= MAX_NAME)
        self._chosen.update(islice(new, room))

    def _candidates(
        self, replies: Replies, suspects: set[str], *, impatient: bool
    ) -> Iterator[tuple[tuple[str | None, bool], list[str]]]:
        """Yield each step with those who should be asked, in the order of asking."""
        yield (None, False), self._not_tried((None, False), suspects & self._idle)
        for step in STEPS:
            owing = {w for w in self._chosen if step[0] in replies.owed.get(w, ())}
            yield step, self._not_tried(step, owing if impatient else owing & self._idle)

    def _not_tried(self, step: tuple[str | None, bool], workers: set[str]) -> list[str]:
        return sorted(w for w in workers & self._chosen if (w, step) not in self._tried)

    def _ask(self, step: tuple[str | None, bool], workers: list[str]) -> None:
        name, safe = step
        command, arguments = IS_WORKER if name is None else (name, self._arguments(name, safe))
        ticket = self._connection.publish(
            command, arguments, expires=self._timeout, workers=workers
        )
        self._tried |= {(worker, step) for worker in workers}
        self._idle -= set(workers)
        self._round = _Round(name, set(workers), ticket)
        self._fields[ticket] = name

    def _arguments(self, name: str, safe: bool) -> dict[str, Any]:
        arguments = self._question.arguments(name)
        return {**arguments, "safe": True} if safe else arguments
