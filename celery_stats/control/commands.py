"""Publishes the commands of one question."""

from __future__ import annotations

from collections.abc import Collection, Set

from .connection import PING, ControlConnection
from .presence import Roster
from .question import PROBE, Question
from .replies import Replies
from .retry import MAX_NAMED

#: The order in which the commands are asked. Those whose reply a worker may fail to encode come
#: last, because it resets its mailbox then, and loses the commands that wait there.
PUBLISH_ORDER = (
    *("stats", "active_queues", "revoked"),
    *("query_task", "scheduled", "reserved", "active"),
)


class Commands:
    """What was published for one question.

    Attributes:
        order: the commands of the question, in the order of asking.
        tickets: ticket to command, or :data:`PROBE`.
        asked_for_the_rest: workers that were asked for more than the question to all.
    """

    def __init__(
        self,
        connection: ControlConnection,
        question: Question,
        roster: Roster,
        timeout: float,
        replies: Replies,
    ) -> None:
        """
        Args:
            timeout: seconds for which an answer is of use.
            replies: what has come, so that nobody is asked for it.
        """
        self.order = sorted(question.commands, key=PUBLISH_ORDER.index)
        self.tickets: dict[str, str] = {}
        self.asked_for_the_rest: set[str] = set()
        self._connection = connection
        self._question = question
        self._roster = roster
        self._timeout = timeout
        self._replies = replies

    def ask_everybody(self) -> None:
        """Ask the question, and those workers for the rest that were without this app."""
        workers = self._question.workers
        command = self.order[0]
        is_unsafe = command == "active" and self._roster.lately_lost_active(self._connection.now())
        # It cannot ask for a joint reply; see ask().
        if is_unsafe or command == "active_queues":
            command = PROBE
        self.ask(command, workers, everything=True)
        without_app = self._roster.names(lambda node: node.without_app)
        self.ask_for_the_rest(without_app.intersection(workers) if workers else without_app)

    def ask(
        self,
        command: str,
        workers: Collection[str],
        *,
        safe: bool = False,
        everything: bool = False,
    ) -> str:
        """Publish a command; return its ticket.

        Args:
            command: its name, or :data:`PROBE`.
            workers: who should answer; empty: all.
            safe: whether ``active`` is asked to turn the arguments of tasks into text.
            everything: whether workers with this app should answer the whole question.
        """
        arguments = {"ids": []} if command == PROBE else self._question.arguments(command)
        if safe:
            arguments["safe"] = True
        # A worker with this app can also encode a reply that is asked for alone. The function of
        # ``active_queues`` is the only one of Celery that refuses an argument it does not know.
        if command != "active_queues":
            arguments |= self._question.joint_argument(self.order if everything else [command])
        name = "query_task" if command == PROBE else command
        ticket = self._connection.publish(name, arguments, expires=self._timeout, workers=workers)
        self.tickets[ticket] = command
        return ticket

    def ping(self, nodes: Collection[str]) -> str:
        """Ping nodes by name, or all; return the ticket."""
        ticket = self._connection.publish(PING, {}, expires=self._timeout, workers=nodes)
        self.tickets[ticket] = PING
        return ticket

    def ask_for_the_rest(self, workers: Set[str]) -> None:
        """Ask workers for the commands that are not in their reply to the question."""
        self.asked_for_the_rest |= workers
        lost_active = self._roster.lately_lost_active(self._connection.now())
        asked_first = next(iter(self.tickets.values()))
        for command in self.order:
            # Whoever was not heard yet may still answer what all were asked first.
            asked = workers & self._replies.heard if command == asked_first else workers
            owing = self._replies.owing(command, asked)
            if len(owing) > MAX_NAMED:
                # Ask all. A list of so many names would be longer than the needless answers.
                self.ask(command, self._question.workers)
                continue
            safe = owing & lost_active if command == "active" else set()
            for names, is_safe in ((owing - safe, False), (safe, True)):
                if names:
                    self.ask(command, sorted(names), safe=is_safe)
