"""What has come back to one question: who has answered what, and who owes what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Set
from typing import Any

from .question import Extras

#: Under this name replies are counted that cannot be read. No node has it.
NO_NAME = ""


class NodeCount:
    """How many nodes have answered any of some messages.

    Attributes:
        tickets: those of the messages; none before they were sent.
        by_name: how many nodes have answered under each name. Several may share one.
        nodes: their sum.
    """

    def __init__(self, *tickets: str) -> None:
        self.tickets = list(tickets)
        self.by_name: Counter[str] = Counter()
        self.nodes = 0

    def add(self, name: str, times: int) -> None:
        """Note that a message was answered so many times under a name."""
        if times > self.by_name[name]:
            self.by_name[name] = times
            self.nodes += 1


class Replies:
    """The replies to one question, as they come in.

    Attributes:
        asked: counts the nodes that have answered what was sent with the question. Its own ticket
            is the first one, and every node answers it once.
        pinged: counts those that have answered the ping to every node, or a later one.
        answered: counts those that have answered anything.
        heard: names of the workers that have answered anything.
        pending: those of them that have answered in part, and may still answer the rest. A worker
            that is given up is not among them. If it answers all the same, the answer is taken.
        only_pongs: names of the nodes that have answered a ping and no command.
        no_workers: those that answered no worker command when they were asked for it.
        lost: names of the workers that have lost a reply: they have answered a ping, and not the
            command before it.
        lost_active: names of the workers that have lost the plain reply to ``active``.
        gone: names of workers whose mailbox does not exist any more (AMQP).
        last_answer_at: monotonic seconds of the last answer that was new.
        unreadable: how many nodes have sent a reply that cannot be decoded, or must not be.
        extras: worker name to what it sent beside its replies, if it has this app.
    """

    def __init__(self, commands: Collection[str], asked_at: float) -> None:
        self.asked = NodeCount()
        self.pinged = NodeCount()
        self.answered = NodeCount()
        self.heard: set[str] = set()
        self.pending: set[str] = set()
        self.only_pongs: set[str] = set()
        self.no_workers: set[str] = set()
        self.lost: set[str] = set()
        self.lost_active: set[str] = set()
        self.gone: set[str] = set()
        self.last_answer_at = asked_at
        self.unreadable = 0
        self.extras: dict[str, Extras] = {}
        self._answers: dict[str, dict[str, Any]] = {command: {} for command in commands}
        self._times: Counter[tuple[str, str]] = Counter()  # by ticket and name

    def count(self, ticket: str, name: str) -> int:
        """Count a reply; return how many came under this name to the same message.

        Nodes that share a name answer as often as there are of them.
        """
        self._times[ticket, name] += 1
        times = self._times[ticket, name]
        if name == NO_NAME:
            self.unreadable = max(self.unreadable, times)
        # Whoever answers something later may not have been there when the question was asked. A
        # reply that cannot be read counts once for its node: as the answer to the question.
        if ticket in (self.asked.tickets if name else self.asked.tickets[:1]):
            self.asked.add(name, times)
        if ticket in self.pinged.tickets:
            self.pinged.add(name, times)
        self.answered.add(name, times)
        return times

    def add_pong(self, name: str) -> None:
        if name not in self.heard:
            self.only_pongs.add(name)

    def add_worker(self, worker: str) -> None:
        """Note that a worker is there, and owes what it has not answered."""
        if worker not in self.heard:
            self.only_pongs.discard(worker)
            self.heard.add(worker)
            self.pending.add(worker)

    def add_answers(self, worker: str, answers: Mapping[str, Any], at: float) -> bool:
        """Keep a worker's replies by command; return whether any of them is the first one."""
        new = [command for command in answers if worker not in self._answers[command]]
        for command in new:
            self._answers[command][worker] = answers[command]
        self.add_worker(worker)
        if not self.owed_by(worker):
            self.pending.discard(worker)
        if new:
            self.last_answer_at = at
        return bool(new)

    def is_done(self, worker: str) -> bool:
        """Whether a worker has answered, and nothing more is expected from it."""
        return worker in self.heard and worker not in self.pending

    def without_reply(self, names: Collection[str]) -> set[str]:
        """Return those of the names under which nothing came."""
        return set(names) - self.heard - self.only_pongs

    def owed_by(self, worker: str) -> list[str]:
        """Return the commands that a worker has not answered."""
        return [command for command, by in self._answers.items() if worker not in by]

    def owing(self, command: str, workers: Set[str]) -> set[str]:
        """Return those of the workers that have not answered a command of the question."""
        return set(workers - self._answers[command].keys()) if command in self._answers else set()

    def by_command(self, command: str) -> dict[str, Any] | None:
        """Return worker to reply, in order; None where no worker answered."""
        return dict(sorted(self._answers.get(command, {}).items())) or None
