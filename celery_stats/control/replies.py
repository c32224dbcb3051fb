"""Who has answered what of one question."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Replies:
    """The replies to one question, as they come in.

    Attributes:
        complete: names of the workers that answered everything.
        owed: worker name to the fields that it still owes, for workers that answered in part.
        given_up: those of ``owed`` that will not answer, however often they are asked.
        pongs: node name to the number of its answers to a ping that went to every node. More
            than one where several nodes share a name.
        at: monotonic seconds of the last answer that was new.
        ponged_at: monotonic seconds of the last of these pongs.
    """

    def __init__(self, fields: tuple[str, ...], at: float) -> None:
        self.complete: set[str] = set()
        self.owed: dict[str, set[str]] = {}
        self.given_up: set[str] = set()
        self.pongs: Counter[str] = Counter()
        self.at = self.ponged_at = at
        self._fields = fields
        self._answers: dict[str, dict[str, Any]] = {field: {} for field in fields}
        self._copies: Counter[tuple[str, str]] = Counter()

    @property
    def heard(self) -> set[str]:
        """The workers that answered anything."""
        return self.complete | set(self.owed)

    @property
    def done(self) -> set[str]:
        """The workers that nothing more is to be expected from."""
        return self.complete | self.given_up

    @property
    def pending(self) -> set[str]:
        """The workers that answered in part and may still answer the rest."""
        return set(self.owed) - self.given_up

    @property
    def nodes(self) -> int:
        """How many nodes stand behind the workers that are done: several may share a name."""
        return len(self.given_up) + sum(
            min(self._copies[worker, field] for field in self._fields) for worker in self.complete
        )

    def take_in(self, worker: str, field: str, reply: Any, at: float) -> bool:
        """Keep a worker's reply to one field; return whether it is the first one."""
        self._copies[worker, field] += 1
        if worker in self.complete or worker in self._answers[field]:
            return False
        self._answers[field][worker] = reply
        self.owes_the_rest(worker)
        owed = self.owed[worker]
        owed.remove(field)
        if not owed:
            del self.owed[worker]
            self.given_up.discard(worker)
            self.complete.add(worker)
        self.at = at
        return True

    def take_in_pong(self, name: str, at: float) -> None:
        """Count a node's answer to the ping that went to every node."""
        self.pongs[name] += 1
        self.ponged_at = at

    def owes_the_rest(self, worker: str) -> None:
        """Note that a worker is there and owes what it has not answered."""
        if worker not in self.complete:
            self.owed.setdefault(worker, set(self._fields))

    def by_field(self, fields: tuple[str, ...]) -> dict[str, dict[str, Any] | None]:
        """Return field to worker to reply, in order; None where nobody answered."""
        return {
            field: dict(sorted(self._answers.get(field, {}).items())) or None for field in fields
        }

    def owed_by(self, worker: str) -> set[str]:
        """Return what a worker has not answered."""
        return set() if worker in self.complete else self.owed.get(worker, set(self._fields))
