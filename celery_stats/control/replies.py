"""Who has answered what of one question.

A worker is in exactly one of these states:

    not heard    it has answered nothing
    pending      it has answered in part, and may still answer the rest
    given up     it has answered in part, and will not answer the rest; if it does all the same,
                 the answer is taken
    complete     it has answered everything
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any


class Replies:
    """The replies to one question, as they come in.

    Attributes:
        complete: names of the workers that are complete.
        owed: worker name to the fields that it still owes, for pending and given-up workers.
        given_up: names of the workers that are given up.
        pongs: node name to the number of its answers to a ping that went to every node. The
            number exceeds one where several nodes share a name.
        last_answer_at: monotonic seconds of the last answer that was new.
        last_pong_at: monotonic seconds of the last of these pongs.
    """

    def __init__(self, fields: tuple[str, ...], asked_at: float) -> None:
        self.complete: set[str] = set()
        self.owed: dict[str, set[str]] = {}
        self.given_up: set[str] = set()
        self.pongs: Counter[str] = Counter()
        self.last_answer_at = self.last_pong_at = asked_at
        self._fields = fields
        self._answers: dict[str, dict[str, Any]] = {field: {} for field in fields}
        self._further: Counter[tuple[str, str]] = Counter()  # answers after the first one

    @property
    def heard(self) -> set[str]:
        """The workers that have answered anything."""
        return self.complete | set(self.owed)

    @property
    def done(self) -> set[str]:
        """The workers from which nothing more is to be expected."""
        return self.complete | self.given_up

    @property
    def pending(self) -> set[str]:
        """The workers that have answered in part and may still answer the rest."""
        return set(self.owed) - self.given_up

    @property
    def nodes(self) -> int:
        """The number of nodes behind the workers that are done.

        Workers that share a name answer as often as there are of them. The field with the fewest
        answers tells how many of them have answered everything.
        """
        sharing_a_name = {worker for worker, _ in self._further} & self.complete
        further = sum(
            min(self._further[worker, field] for field in self._fields)
            for worker in sharing_a_name
        )
        return len(self.given_up) + len(self.complete) + further

    def add_answers(self, worker: str, answers: Mapping[str, Any], at: float) -> bool:
        """Keep a worker's replies by field; return whether any of them is the first one."""
        new = []
        for field, reply in answers.items():
            known = self._answers[field]
            if worker in known:
                self._further[worker, field] += 1
            else:
                known[worker] = reply
                new.append(field)
        if not new:
            return False
        self.add_worker(worker)
        owed = self.owed[worker]
        owed.difference_update(new)
        if not owed:
            del self.owed[worker]
            self.given_up.discard(worker)
            self.complete.add(worker)
        self.last_answer_at = at
        return True

    def add_worker(self, worker: str) -> None:
        """Note that a worker is there, and owes what it has not answered."""
        if worker not in self.complete:
            self.owed.setdefault(worker, set(self._fields))

    def add_pong(self, name: str, at: float) -> None:
        """Count a node's answer to the ping that went to every node."""
        self.pongs[name] += 1
        self.last_pong_at = at

    def by_field(self, fields: tuple[str, ...]) -> dict[str, dict[str, Any] | None]:
        """Return field to worker to reply, in order; None where no worker answered."""
        return {
            field: dict(sorted(self._answers.get(field, {}).items())) or None for field in fields
        }

    def owed_by(self, worker: str) -> set[str]:
        """Return the fields that a worker has not answered."""
        return set() if worker in self.complete else self.owed.get(worker, set(self._fields))
