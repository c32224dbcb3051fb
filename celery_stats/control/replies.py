"""What has come back to one question: who has answered what. Nothing else holds it.

A worker is in exactly one of these states:

    not heard    it has answered no command
    pending      it has answered in part, and may still answer the rest
    given up     it has answered in part, and will not answer the rest; if it does all the same,
                 the answer is taken
    complete     it has answered everything
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

#: Under this name replies are counted that cannot be read. No node has it.
NO_NAME = ""


class Replies:
    """The replies to one question, as they come in.

    Attributes:
        complete: names of the workers that are complete.
        owed: worker name to the commands that it still owes, for pending and given-up workers.
        given_up: names of the workers that are given up.
        last_answer_at: monotonic seconds of the last answer that was new.
        nodes: how many nodes have answered anything that was sent with the question. Several may
            share a name, and an unreadable reply stands under :data:`NO_NAME`.
        first: the tickets of what was sent with the question, its own included.
        asked: the ticket of the question, which every node answers once.
        ping: the ticket of the ping to every node; empty before it was sent.
        pongs: names of the nodes that have answered a ping.
        only_pongs: those of them that have answered no command.
        late_pongs: those that have answered a ping that was sent to them once more.
        no_workers: names of nodes that have answered pings, but no worker command when they
            were asked for it.
        gone: names of workers whose mailbox does not exist any more (AMQP).
        unreadable: how many nodes have sent a reply that cannot be decoded, or must not be.
        clocks: worker name to its own time when it answered, in seconds since 1970.
    """

    def __init__(self, commands: Collection[str], asked_at: float) -> None:
        self.complete: set[str] = set()
        self.owed: dict[str, set[str]] = {}
        self.given_up: set[str] = set()
        self.last_answer_at = asked_at
        self.nodes = 0
        self.first: set[str] = set()
        self.asked = self.ping = ""
        self.pongs: set[str] = set()
        self.only_pongs: set[str] = set()
        self.late_pongs: set[str] = set()
        self.no_workers: set[str] = set()
        self.gone: set[str] = set()
        self.unreadable = 0
        self.clocks: dict[str, float] = {}
        self._commands = tuple(commands)
        self._answers: dict[str, dict[str, Any]] = {command: {} for command in commands}
        self._times: Counter[tuple[str, str]] = Counter()  # by ticket and name
        self._total: Counter[str] = Counter()  # by ticket
        self._nodes_of: Counter[str] = Counter()  # by name

    @property
    def heard(self) -> set[str]:
        """The workers that have answered anything."""
        return self.complete | set(self.owed)

    @property
    def pending(self) -> set[str]:
        """The workers that have answered in part and may still answer the rest."""
        return self.owed.keys() - self.given_up if self.is_anybody_pending else set()

    @property
    def is_anybody_pending(self) -> bool:
        return len(self.owed) > len(self.given_up)

    def is_done(self, worker: str) -> bool:
        """Whether nothing more is to be expected from a worker."""
        return worker in self.complete or worker in self.given_up

    def count(self, ticket: str, name: str) -> int:
        """Count a reply; return how many came under this name to the same message.

        Nodes that share a name answer as often as there are of them.
        """
        self._total[ticket] += 1
        self._times[ticket, name] += 1
        times = self._times[ticket, name]
        if name == NO_NAME:
            self.unreadable = max(self.unreadable, times)
        # Whoever answers something later may not have been there when the question was asked. A
        # reply that cannot be read counts once for its node: as the answer to the question.
        is_first = ticket in self.first if name else ticket == self.asked
        if is_first and times > self._nodes_of[name]:
            self._nodes_of[name] = times
            self.nodes += 1
        return times

    @property
    def pongs_of_all(self) -> int:
        """How many nodes have answered the ping to every node, or one that was sent later."""
        late = [name for name in self.late_pongs if not self._times[self.ping, name]]
        return self._total[self.ping] + len(late)

    def total(self, ticket: str) -> int:
        """Return how many replies to one message came."""
        return self._total[ticket]

    def total_of(self, ticket: str, names: Collection[str]) -> int:
        """Return how many replies to one message came under these names."""
        return sum(self._times[ticket, name] for name in names)

    def add_pong(self, name: str) -> None:
        """Note that a node has answered a ping."""
        self.pongs.add(name)
        if name not in self.complete and name not in self.owed:
            self.only_pongs.add(name)

    def add_answers(self, worker: str, answers: Mapping[str, Any], at: float) -> bool:
        """Keep a worker's replies by command; return whether any of them is the first one."""
        new = [command for command in answers if worker not in self._answers[command]]
        for command in new:
            self._answers[command][worker] = answers[command]
        self.add_worker(worker)
        owed = self.owed.get(worker)
        if owed is not None:
            owed.difference_update(new)
            if not owed:
                del self.owed[worker]
                self.given_up.discard(worker)
                self.complete.add(worker)
        if new:
            self.last_answer_at = at
        return bool(new)

    def add_worker(self, worker: str) -> None:
        """Note that a worker is there, and owes what it has not answered."""
        self.only_pongs.discard(worker)
        if worker not in self.complete:
            self.owed.setdefault(worker, set(self._commands))

    def by_command(self, command: str) -> dict[str, Any] | None:
        """Return worker to reply, in order; None where no worker answered."""
        return dict(sorted(self._answers.get(command, {}).items())) or None

    def owed_by(self, worker: str) -> set[str]:
        """Return the commands that a worker has not answered."""
        return set() if worker in self.complete else self.owed.get(worker, set(self._commands))
