"""Asks nodes again that answered a later ping, but not the command before it.

A node answers in order. A node that has answered a ping, and not a command before it, has lost its
reply or is no worker. A worker that cannot encode a reply drops it, and resets its mailbox, which
loses the commands that wait there, those of other callers too. So each command is asked for alone,
and a second time where it was lost: another caller may have been the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from .question import CONSUMERS
from .replies import Replies

#: Seconds between a command that is sent again and the ping after it. A worker that cannot encode
#: its reply resets its mailbox, and a ping sent together with the command would be lost.
PING_DELAY = 0.05

#: How often a command is sent again to a worker that answers only the ping after it.
ROUNDS = 2

#: The most workers that are asked again, because they have to be listed in a message to all.
MAX_NAMED = 100


class Step(NamedTuple):
    """One command that is sent again.

    Attributes:
        command: its name; None for :data:`IS_WORKER`.
        safe: whether ``active`` is asked to turn all arguments into text.
        rounds: how often it is sent.
    """

    command: str | None
    safe: bool = False
    rounds: int = ROUNDS


#: Asks a node that has answered nothing but pings for a reply that every worker can encode. A node
#: that answers only the ping after it is no worker.
IS_WORKER = Step(None)

#: The order of asking again: commands whose reply a worker can always encode come first. ``safe``
#: turns the arguments of all active tasks into text, so it is asked only if the plain one is lost.
STEPS = (
    *(Step("stats"), Step(CONSUMERS), Step("revoked")),
    *(Step("active", rounds=1), Step("active", safe=True)),
    *(Step("query_task"), Step("scheduled"), Step("reserved")),
)

#: Sends a step to workers; returns the ticket.
SendStep = Callable[[Step, Collection[str]], str]
#: Pings nodes; returns the ticket.
SendPing = Callable[[Collection[str]], str]


@dataclass
class _Attempt:
    """A step, sent to the workers that owe its answer.

    Attributes:
        step: what was sent.
        waiting: the workers that have answered neither the command nor the ping after it.
        ticket: the ticket of the command.
        sent_at: monotonic seconds.
        ping: the ticket of the ping after it; empty before it was sent.
    """

    step: Step
    waiting: set[str]
    ticket: str
    sent_at: float
    ping: str = field(default="")


class Retries:
    """What is asked again during one question.

    One step is under way at a time, for all workers that owe its command. So a worker that answers
    neither the command nor the ping holds the others up until ``patience`` is over.

    Attributes:
        lost_active: workers that have lost the plain reply to ``active``.
    """

    def __init__(
        self, replies: Replies, send: SendStep, ping: SendPing, now: Callable[[], float]
    ) -> None:
        """
        Args:
            replies: who owes what. Workers for which no step is left are given up in it, and nodes
                that answer the pings after :data:`IS_WORKER` alone are named there.
            send: sends a step.
            ping: sends a ping to the nodes that are named.
            now: the clock.
        """
        self.lost_active: set[str] = set()
        self._replies = replies
        self._send_step = send
        self._send_ping = ping
        self._now = now
        #: Nodes that did not answer the last step, nor the ping after it.
        self._silent: set[str] = set()
        #: Nodes that have answered a ping after all that they were asked.
        self._caught_up: set[str] = set()
        self._to_ask_again: set[str] = set()
        self._tried: Counter[tuple[str, Step]] = Counter()
        self._attempt: _Attempt | None = None

    def note_asked(self, workers: Collection[str]) -> None:
        """Note that these workers were asked something new."""
        self._caught_up -= set(workers)

    def note_pong(self, worker: str) -> None:
        """Note a node's answer to a ping that is not the one after a step."""
        self._silent.discard(worker)
        if self._attempt is None or worker not in self._attempt.waiting:
            self._caught_up.add(worker)

    def note_reply(self, ticket: str, worker: str) -> None:
        """Note a reply to a command that was sent again, or to the ping after it."""
        attempt = self._attempt
        if attempt is None or worker not in attempt.waiting:
            return
        if ticket not in (attempt.ticket, attempt.ping):
            return
        attempt.waiting.discard(worker)
        self._caught_up.add(worker)
        if ticket == attempt.ticket:
            if attempt.step == IS_WORKER:
                self._replies.add_worker(worker)
            elif attempt.step.safe:
                self.lost_active.add(worker)
        elif attempt.step == IS_WORKER and self._tried[worker, IS_WORKER] == ROUNDS:
            self._replies.no_workers.add(worker)
        elif attempt.step.command == "active" and not attempt.step.safe:
            self.lost_active.add(worker)

    def proceed(self, suspects: set[str], patience: float, *, impatient: bool) -> bool:
        """Send the next step, or the ping after the last one.

        Args:
            suspects: nodes that have answered a ping and no command.
            patience: seconds after which a step is over although a worker is silent.
            impatient: whether workers that have answered no ping are asked, too.

        Returns:
            bool: whether anything was sent, or a worker given up.
        """
        attempt = self._attempt
        if attempt is not None:
            if attempt.waiting and self._seconds_left(attempt, patience) > 0:
                return self._ping(attempt)
            self._silent |= attempt.waiting
            self._attempt = None
        pending = self._replies.pending
        self._choose(pending | suspects)
        for step, workers in self._candidates(suspects, impatient=impatient):
            if workers:
                self._send(step, workers)
                return True
        hopeless = self._caught_up & pending
        self._replies.given_up |= hopeless
        return bool(hopeless)

    def seconds_to_wait(self, patience: float) -> float:
        """Return after how many seconds :meth:`proceed` has something to do."""
        attempt = self._attempt
        if attempt is None:
            return patience
        left = self._seconds_left(attempt, patience)
        if not attempt.ping:
            left = min(left, attempt.sent_at + PING_DELAY - self._now())
        return max(left, 0.0)

    def _seconds_left(self, attempt: _Attempt, patience: float) -> float:
        return attempt.sent_at + PING_DELAY + patience - self._now()

    def _ping(self, attempt: _Attempt) -> bool:
        if attempt.ping or self._now() < attempt.sent_at + PING_DELAY:
            return False
        attempt.ping = self._send_ping(sorted(attempt.waiting))
        return True

    def _choose(self, workers: set[str]) -> None:
        """Add workers to those that are asked again, as long as there is room."""
        room = MAX_NAMED - len(self._to_ask_again)
        self._to_ask_again.update(islice(workers - self._to_ask_again, room))

    def _candidates(
        self, suspects: set[str], *, impatient: bool
    ) -> Iterator[tuple[Step, list[str]]]:
        """Yield each step with the workers to ask, in the order of asking."""
        owed = self._replies.owed
        for times in range(1, ROUNDS + 1):
            yield IS_WORKER, self._tried_less(times, IS_WORKER, suspects & self._caught_up)
            for step in STEPS:
                owing = {w for w in self._to_ask_again if step.command in owed.get(w, ())}
                if not impatient:
                    owing &= self._caught_up
                yield step, self._tried_less(min(times, step.rounds), step, owing)

    def _tried_less(self, times: int, step: Step, workers: set[str]) -> list[str]:
        chosen = workers & self._to_ask_again - self._silent
        return sorted(worker for worker in chosen if self._tried[worker, step] < times)

    def _send(self, step: Step, workers: list[str]) -> None:
        ticket = self._send_step(step, workers)
        self._tried.update((worker, step) for worker in workers)
        self._caught_up -= set(workers)
        self._attempt = _Attempt(step, set(workers), ticket, self._now())
