"""What every strategy has."""

from __future__ import annotations

from abc import ABC, abstractmethod

from celery_stats.control.connection import ControlConnection
from celery_stats.control.replies import Replies

from .roster import NEVER, Roster

#: Seconds of silence after which every node is pinged: long enough for the broker to hand over
#: the replies that it has. The second is added for each node that is known to be there, because
#: the workers of a large fleet take longer to answer.
PING_AFTER = 0.05
PING_AFTER_EACH = 0.00025

#: What the name of ``celery beat`` begins with, where nobody gave it another one:
#: ``NODENAME_DEFAULT`` in celery/beat.py. The names of workers begin with ``celery@``.
BEAT = "celerybeat@"


def silence_before_ping(nodes: int) -> float:
    """Return the seconds of silence after which so many nodes are pinged."""
    return PING_AFTER + nodes * PING_AFTER_EACH


class Presence(ABC):
    """Who could answer one question.

    Only ``before_asking``, ``after_asking``, ``after_ping``, ``look_again`` and ``remember`` ask
    the broker.

    Attributes:
        requested: full names of the only workers that are asked; empty: all.
        needs_second_look: whether :meth:`look_again` has something to see.
        is_reply_expected: whether somebody who is connected has not answered, and may do so
            later. Known at the end.
        silent_subscribers: how many connections listen as workers do, answered nothing, and have
            no known name. Known at the end.
    """

    needs_second_look = False
    is_reply_expected = False
    silent_subscribers = 0

    def __init__(
        self,
        connection: ControlConnection,
        roster: Roster,
        requested: frozenset[str],
        replies: Replies,
    ) -> None:
        self.connection = connection
        self.roster = roster
        self.requested = requested
        self.replies = replies

    def before_asking(self) -> set[str]:
        """See who is there; return the nodes that are pinged together with the question."""
        return set()

    def after_asking(self) -> None:  # noqa: B027 - a strategy may have nothing to see
        """See who is there."""

    def hear_late(self, workers: set[str]) -> None:  # noqa: B027 - nor to hear
        """Note workers whose reply to an earlier question has just come."""

    def patience(self) -> float | None:
        """Return how many seconds of silence end the question.

        Returns:
            float | None: None for a whole ``timeout``, because somebody is waited for. Fewer
            seconds where only unknown nodes may still answer. 0 if nobody else will answer.
        """
        if self.replies.pending or self.suspects():
            return None
        return 0.0 if self.is_whole else self._patience_for_others()

    @property
    def is_whole(self) -> bool:
        """Whether everybody who was asked for by name has answered."""
        return bool(self.requested) and all(map(self.replies.is_done, self.requested))

    @abstractmethod
    def _patience_for_others(self) -> float | None:
        """Return the same, where no node that was heard owes an answer."""

    def suspects(self) -> set[str]:
        """Return the nodes that have answered a ping and no command, and may be workers."""
        return self._only_requested(self.replies.only_pongs - self.replies.no_workers)

    def _only_requested(self, names: set[str]) -> set[str]:
        return names & self.requested if self.requested else names

    def _may_be_workers(self, names: set[str]) -> set[str]:
        """Return those of the names that do not belong to nodes that are no workers.

        The name of ``celery beat`` is recognised as long as nothing was heard of it.
        """
        return set(filter(self._may_be_worker, names))

    def _may_be_worker(self, name: str) -> bool:
        node = self.roster.nodes.get(name)
        if node is not None and node.heard_at > NEVER:
            return node.is_worker
        return name not in self.replies.no_workers and not name.startswith(BEAT)

    @abstractmethod
    def ping_after(self) -> float | None:
        """Return after how many seconds of silence every node should be pinged; None: never."""

    def after_ping(self) -> None:  # noqa: B027 - nor to see again
        """See who is there."""

    @abstractmethod
    def awaited(self) -> set[str]:
        """Return the workers that are waited for."""

    def look_again(self) -> bool:
        """See again; return whether every node has to be pinged again."""
        return False

    def remember(self, *, whole_window: bool) -> None:
        """Keep what the next question can use.

        Args:
            whole_window: whether nothing new came for a whole ``timeout``.
        """
        now = self.connection.now()
        for name in self.replies.heard:
            self.roster.hear(name, now, is_worker=True)
        for name in self.replies.only_pongs:
            node = self.roster.nodes.get(name)
            is_known = node is not None and node.heard_at > NEVER
            if is_known or name in self.replies.no_workers:
                self.roster.hear(name, now, is_worker=False)

    def expected(self) -> set[str]:
        """Return the workers that should answer."""
        if self.requested:
            return set(self.requested)
        # A known worker that has answered only a ping is there, whatever the broker lists.
        known = self.replies.only_pongs & self.roster.workers()
        return self._expected() | self.replies.heard | known

    @abstractmethod
    def _expected(self) -> set[str]:
        """Return those of all workers from which an answer is expected."""
