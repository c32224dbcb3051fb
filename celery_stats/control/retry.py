"""Asks nodes again that answered a later ping, but not the command before it.

A node answers in order. A node that has answered a ping, and not a command before it, has lost its
reply or is no worker. A worker that cannot encode a reply drops it, and resets its mailbox, which
loses the commands that wait there, those of other callers too. So each command is asked for alone,
and again where it was lost, because another caller may have been the reason.

On RabbitMQ, a worker still answers what it has received while it closes its mailbox, and what is
sent after such an answer is lost. So after a lost reply, only the answer to another ping shows
that the worker can be asked on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import NamedTuple

from .question import PROBE
from .replies import Replies

#: Seconds between a command that is sent again and the ping after it, and between pings to
#: different workers. A worker that cannot encode its reply resets its mailbox, and a ping sent
#: together with the command would be lost. After a command that is sent for the second time they
#: are twice as many, and so on, because another caller may ask the same in the same rhythm.
PING_DELAY = 0.05

#: How often a command is sent again to a worker that answers only the ping after it.
ROUNDS = 2

#: The same for a command whose reply every worker can encode. It is lost only where another caller
#: makes the worker reset its mailbox, which can happen several times in a row.
SAFE_ROUNDS = 4

#: The most workers that are asked again, because they have to be listed in a message to all.
MAX_NAMED = 100


class Step(NamedTuple):
    """One command that is sent again: its name, whether ``safe`` is asked, and how often."""

    command: str
    safe: bool = False
    rounds: int = ROUNDS


#: Asks a node that has answered nothing but pings for a reply that every worker can encode. A node
#: that answers only the ping after it is no worker.
IS_WORKER = Step(PROBE, rounds=SAFE_ROUNDS)

#: The order of asking again: commands whose reply a worker can always encode come first. ``safe``
#: turns the arguments of all active tasks into text, so it is asked only if the plain one is lost.
STEPS = (
    Step("stats", rounds=SAFE_ROUNDS),
    Step("active_queues", rounds=SAFE_ROUNDS),
    Step("revoked", rounds=SAFE_ROUNDS),
    Step("active", rounds=1),
    Step("active", safe=True, rounds=SAFE_ROUNDS),
    *(Step("query_task"), Step("scheduled"), Step("reserved")),
)

#: Sends a step to workers; returns the ticket.
SendStep = Callable[[Step, Collection[str]], str]
#: Pings nodes; returns the ticket.
SendPing = Callable[[Collection[str]], str]


@dataclass
class _Attempt:
    """A step that was sent, and the pings after it.

    Attributes:
        waiting: the workers that have answered neither the command nor two pings in turn.
        ticket: that of the command.
        ping_at: when the next ping is due, in monotonic seconds.
        over_at: when the step is over for those that are silent.
        pinged: worker to the ticket of the ping that it has to answer.
        lost: the workers that have answered a ping, and not the command.
    """

    step: Step
    waiting: set[str]
    ticket: str
    ping_at: float
    over_at: float = inf
    pinged: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)

    def to_ping(self, now: float) -> set[str]:
        """Return whom to ping now: at once if everybody who is waited for has answered a ping."""
        chosen = self.waiting - self.pinged.keys()
        return chosen if now >= self.ping_at or self.waiting <= self.lost & chosen else set()


class Retries:
    """What is asked again during one question.

    One step is under way at a time, for all workers that owe its command. So a worker that answers
    neither the command nor the ping holds the others up until ``step_timeout`` is over.
    """

    def __init__(
        self,
        replies: Replies,
        step_timeout: float,
        send: SendStep,
        ping: SendPing,
        now: Callable[[], float],
    ) -> None:
        """
        Args:
            replies: who owes what. A worker for which no step is left is not pending any more, and
                nodes that answer only the pings after :data:`IS_WORKER` are no workers.
            step_timeout: seconds after which a step is over although a worker is silent.
        """
        self._replies = replies
        self._step_timeout = step_timeout
        self._send_step = send
        self._send_ping = ping
        self._now = now
        #: Nodes that did not answer the last step, nor the ping after it.
        self._unresponsive: set[str] = set()
        #: Nodes that have answered a ping after all that they were asked.
        self._caught_up: set[str] = set()
        self._to_ask_again: set[str] = set()  # as long as there is room
        self._tried: Counter[tuple[str, Step]] = Counter()
        self._attempt: _Attempt | None = None

    def note_asked(self, workers: Collection[str]) -> None:
        """Note that these workers were asked something new."""
        self._caught_up.difference_update(workers)

    def note_reply(self, ticket: str, node: str) -> None:
        """Note a reply to anything that was sent during the question."""
        attempt = self._attempt
        is_waited_for = attempt is not None and node in attempt.waiting
        if ticket in self._replies.pinged.tickets:
            self._unresponsive.discard(node)
            if not is_waited_for:
                self._caught_up.add(node)
        elif attempt is not None and is_waited_for:
            if ticket == attempt.pinged.get(node) and node not in attempt.lost:
                attempt.lost.add(node)
                del attempt.pinged[node]
                self._conclude(attempt.step, node, is_lost=True)
            elif ticket in (attempt.ticket, attempt.pinged.get(node)):
                attempt.waiting.discard(node)
                self._caught_up.add(node)
                if node not in attempt.lost:
                    self._conclude(attempt.step, node, is_lost=False)

    def _conclude(self, step: Step, node: str, *, is_lost: bool) -> None:
        if step == IS_WORKER:
            if not is_lost:
                self._replies.add_worker(node)
            elif self._tried[node, IS_WORKER] == SAFE_ROUNDS:
                self._replies.no_workers.add(node)
            return
        # The safe form is sent only if the plain one was lost.
        if step.command == "active" and step.safe != is_lost:
            self._replies.lost_active.add(node)
            is_lost = True
        if is_lost:
            self._replies.lost.add(node)

    def proceed(self, suspects: set[str], *, without_pong: bool) -> float:
        """Send the next step, or the ping after the last one.

        Args:
            suspects: nodes that have answered a ping and no command.
            without_pong: whether workers that have not answered the ping are asked, too.

        Returns:
            float: the seconds after which more may be due; 0 if anything was sent, or a worker
            given up.
        """
        attempt = self._attempt
        if attempt is not None and attempt.waiting:
            now = self._now()
            if now < attempt.over_at and (chosen := attempt.to_ping(now)):
                attempt.pinged |= dict.fromkeys(chosen, self._send_ping(sorted(chosen)))
                attempt.ping_at = now + PING_DELAY
                attempt.over_at = now + self._step_timeout
                return 0.0
            is_ping_due = not attempt.waiting <= attempt.pinged.keys()
            remaining = (attempt.ping_at if is_ping_due else attempt.over_at) - now
            if remaining > 0:
                return remaining
            self._unresponsive |= attempt.waiting
        self._attempt = None
        new = (self._replies.pending | suspects) - self._to_ask_again
        self._to_ask_again.update(islice(new, MAX_NAMED - len(self._to_ask_again)))
        for step, workers in self._candidates(suspects, without_pong=without_pong):
            if workers:
                self._send(step, workers)
                return 0.0
        hopeless = self._caught_up & self._replies.pending
        self._replies.pending -= hopeless
        return 0.0 if hopeless else self._step_timeout

    def _candidates(
        self, suspects: set[str], *, without_pong: bool
    ) -> Iterator[tuple[Step, list[str]]]:
        """Yield each step with the workers to ask, in the order of asking."""
        heard = self._to_ask_again & self._replies.heard
        asked = heard if without_pong else heard & self._caught_up
        for times in range(1, SAFE_ROUNDS + 1):
            yield IS_WORKER, self._tried_less(times, IS_WORKER, suspects & self._caught_up)
            for step in STEPS:
                owing = self._replies.owing(step.command, asked)
                yield step, self._tried_less(min(times, step.rounds), step, owing)

    def _tried_less(self, times: int, step: Step, workers: set[str]) -> list[str]:
        chosen = workers & self._to_ask_again - self._unresponsive
        return sorted(worker for worker in chosen if self._tried[worker, step] < times)

    def _send(self, step: Step, workers: list[str]) -> None:
        ticket = self._send_step(step, workers)
        self._tried.update((worker, step) for worker in workers)
        self.note_asked(workers)
        delay = PING_DELAY * max(self._tried[worker, step] for worker in workers)
        self._attempt = _Attempt(step, set(workers), ticket, self._now() + delay)
