"""What every strategy has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set

from celery_stats.control.connection import ControlConnection
from celery_stats.control.replies import Replies

from .roster import Roster

#: Seconds of silence after which every node is pinged: long enough for the broker to hand over
#: the replies that it has. The second is added for each node that is known to be there, because
#: the workers of a large fleet take longer to answer.
PING_AFTER = 0.05
PING_AFTER_EACH = 0.00025

#: What the name of ``celery beat`` begins with, where nobody gave it another one:
#: ``NODENAME_DEFAULT`` in celery/beat.py. The names of workers begin with ``celery@``.
BEAT = "celerybeat@"


class Presence(ABC):
    """Who could answer one question.

    A strategy writes the abstract methods, and the others where it has something to see or to
    remember. Only ``before_asking``, ``after_asking``, ``after_ping``, ``look_again`` and
    ``remember`` ask the broker.
    """

    def __init__(
        self,
        connection: ControlConnection,
        roster: Roster,
        requested: frozenset[str],
        replies: Replies,
    ) -> None:
        """
        Args:
            connection: where the question is asked.
            roster: what earlier questions showed; updated by :meth:`remember`.
            requested: full names of the only workers that are asked; empty: all.
            replies: what has come back to the question.
        """
        self.connection = connection
        self.roster = roster
        self.requested = requested
        self.replies = replies

    def to_ping(self) -> set[str]:
        """Return the names of nodes that are pinged together with the question."""
        return set()

    def before_asking(self) -> None:  # noqa: B027 - a strategy may have nothing to see
        """See who is there. Called once, just before the question is published."""

    def after_asking(self) -> None:  # noqa: B027 - a strategy may have nothing to see
        """See who is there. Called once, just after the question was published."""

    def hear_late(self, workers: set[str]) -> None:  # noqa: B027 - nor to hear
        """Note workers whose reply to an earlier question has just come."""

    def patience(self) -> float | None:
        """Return how many seconds of silence end the question.

        Returns:
            float | None: None for a whole ``timeout``, because somebody is waited for. Fewer
            seconds where only unknown nodes may still answer. 0 if nobody else will answer.
        """
        if self.replies.is_anybody_pending or self.suspects():
            return None
        return 0.0 if self.is_whole else self._patience()

    @property
    def is_whole(self) -> bool:
        """Whether everybody who was asked for by name has answered."""
        return bool(self.requested) and all(map(self.replies.is_done, self.requested))

    @abstractmethod
    def _patience(self) -> float | None:
        """Return the same, where no node that was heard owes an answer."""

    def suspects(self) -> set[str]:
        """Return the nodes that have answered a ping and no command, and may be workers."""
        suspects = self.replies.only_pongs - self.replies.no_workers
        return suspects & self.requested if self.requested else suspects

    def _may_be_workers(self, names: Set[str]) -> set[str]:
        """Return those of the names that do not belong to nodes that are no workers.

        The name of ``celery beat`` is recognised as long as nothing was heard of it.
        """
        nodes, others = self.roster.nodes, self.replies.no_workers
        return {
            name
            for name in names
            if (
                nodes[name].is_worker
                if name in nodes and nodes[name].heard_at is not None
                else name not in others and not name.startswith(BEAT)
            )
        }

    @abstractmethod
    def ping_after(self) -> float | None:
        """Return after how many seconds of silence every node should be pinged; None: never."""

    def _ping_after(self, nodes: int) -> float:
        return PING_AFTER + nodes * PING_AFTER_EACH

    def after_ping(self) -> None:  # noqa: B027 - nor to see again
        """See who is there. Called once, just after a ping to every node was published."""

    @abstractmethod
    def awaited(self) -> set[str]:
        """Return the names that are waited for and from which nothing came."""

    @property
    def doubts(self) -> bool:
        """Whether :meth:`look_again` has something to see."""
        return False

    def look_again(self) -> bool:
        """Look again, some time after the ping; return whether every node has to be pinged again.

        Called once if there are doubts, and as long as somebody is waited for.
        """
        return False

    def remember(self, *, whole_window: bool) -> None:
        """Keep what the next question can use. Called once, at the end. It may ask the broker.

        Args:
            whole_window: whether nothing new came for a whole ``timeout``.
        """
        now = self.connection.now()
        for name in self.replies.heard:
            self.roster.hear(name, now, is_worker=True)
        for name in self.replies.pongs - self.replies.heard:
            node = self.roster.nodes.get(name)
            is_known = node is not None and node.heard_at is not None
            if is_known or name in self.replies.no_workers:
                self.roster.hear(name, now, is_worker=False)

    def expected(self) -> set[str]:
        """Return the workers that should answer.

        Those that did not answer everything are reported as missing.
        """
        return set(self.requested) or self._expected() | set(self.replies.owed)

    @abstractmethod
    def _expected(self) -> set[str]:
        """Return those of all workers from which an answer is expected."""

    @property
    def is_reply_expected(self) -> bool:
        """Whether somebody who is connected has not answered, and may do so later."""
        return False

    @property
    def unnamed(self) -> int:
        """How many connections listen as workers do, answered nothing, and have no known name."""
        return 0
