"""What every strategy has."""

from __future__ import annotations

from abc import ABC, abstractmethod

from celery_stats.control.connection import ControlConnection
from celery_stats.control.replies import Replies

from .memory import Memory

#: Seconds of silence after which every node is pinged: long enough for the broker to hand over
#: the replies that it has.
PING_AFTER = 0.05


class Presence(ABC):
    """Who could answer one question.

    A strategy writes the abstract methods, and the others where it has something to see or to
    remember. Only ``after_asking`` and ``after_ping`` ask the broker. They may give workers up, in
    ``replies.given_up``.

    Attributes:
        no_workers: names of nodes that this question has shown to be no workers.
        pinged: whether every node was pinged after the question.
        lost_reply: whether a reply to the question was ignored, because it is too large or cannot
            be decoded. Nobody knows whose it is.
    """

    def __init__(
        self, connection: ControlConnection, memory: Memory, requested: frozenset[str]
    ) -> None:
        """
        Args:
            connection: where the question is asked.
            memory: what earlier questions showed; updated by :meth:`remember`.
            requested: full names of the only workers that are asked; empty: all.
        """
        self.connection = connection
        self.memory = memory
        self.requested = requested
        self.no_workers: set[str] = set()
        self.pinged = self.lost_reply = False

    def after_asking(self) -> None:  # noqa: B027 - a strategy may have nothing to see
        """See who is there. Called once, just after the question was published."""

    def hear_late(self, workers: set[str]) -> None:  # noqa: B027 - nor to hear
        """Note workers whose reply to an earlier question has just come."""

    def seconds_to_listen(self, replies: Replies, now: float) -> float | None:
        """Return for how long an answer may still come.

        Returns:
            float | None: None if a worker is waited for: silence leads to pings and retries. A
            number of seconds if only unknown workers may still answer: nobody is pinged, and the
            snapshot ends after that time. 0 if nobody else will answer.
        """
        if replies.pending:
            return None
        if self.requested and self.requested <= replies.done:
            return 0.0
        return self._seconds_to_listen(replies, now)

    @abstractmethod
    def _seconds_to_listen(self, replies: Replies, now: float) -> float | None:
        """Return the same, where no worker owes a part of its answer."""

    @abstractmethod
    def ping_after(self, replies: Replies) -> float | None:
        """Return after how many seconds of silence every node should be pinged; None: never."""

    def after_ping(self, replies: Replies) -> None:
        """See who is there. Called once, just after a ping to every node was published."""
        self.pinged = True

    def remember(  # noqa: B027 - a strategy may have nothing to remember
        self, replies: Replies, *, whole_window: bool
    ) -> None:
        """Keep what the next question can use.

        Args:
            replies: who answered.
            whole_window: whether nothing new came for a whole ``timeout``.
        """

    def expected(self, replies: Replies) -> set[str]:
        """Return the workers that should answer.

        Those that did not answer everything are reported as missing.
        """
        return set(self.requested) or self._expected() | set(replies.owed)

    @abstractmethod
    def _expected(self) -> set[str]:
        """Return those of all workers from which an answer is expected."""

    @property
    def is_stale(self) -> bool:
        """Whether what this question relied on is old, so that a thread finds it out anew."""
        return False
