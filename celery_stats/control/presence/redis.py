"""Redis: the broker counts the subscribers of every message, and lists names."""

from __future__ import annotations

from .base import Presence

#: Seconds without another pong after which the pongs of names that are not listed count.
UNLISTED_GRACE = 0.025

#: Seconds for which a node that is no worker is pinged with each question.
BEAT_EXPECTED = 600.0

#: Seconds after the start of the server in which workers that were heard before are expected to
#: connect again. Celery tries every few seconds.
RECONNECTING = 60.0


class RedisPresence(Presence):
    """A question is complete when as many nodes have answered it as the message reached.

    A node that has answered a ping that was sent with the question, or after it, counts as well.
    If fewer answer, the question waits for a whole ``timeout``, or for a grace where no listed
    worker is silent and as many stayed silent for a whole ``timeout`` before.
    """

    def before_asking(self) -> None:
        #: Known workers that are not there, and have not left in order.
        self._not_left: set[str] = set()
        #: How many silent connections are known to be no workers with a name.
        self._explained = self.roster.silent
        self._losers = self.roster.losers()
        self._count = self.connection.count_nodes()

    def after_asking(self) -> None:
        # A node that is there before or after the question may have been reached by it. A worker
        # that resets its mailbox is not there for a moment.
        before = self._count
        self._look()
        if before is not None and self._count is not None:
            self._count = max(before, self._count)
        self._listed_when_asked = self._listed

    def after_ping(self) -> None:
        self._look()

    def to_ping(self) -> set[str]:
        # So that the number is complete without a wait where ``celery beat`` is there.
        since = self.connection.now() - BEAT_EXPECTED
        names = self.roster.no_workers()
        return {name for name in names if (self.roster.nodes[name].heard_at or 0.0) > since}

    def _look(self) -> None:
        self._count = self.connection.count_nodes()
        # If the list cannot be read, the number alone decides.
        self._listed = self.connection.listed_names() or frozenset()

    def _patience(self) -> float | None:
        if self._count is None:
            return None
        silent = self._silent
        if silent <= 0:
            if not self.replies.ping:
                # A listed worker that is silent gets a ping, unless it was silent to one before,
                # because a hostile worker can answer under several names. A known worker gets one
                # that is not there at all, because it may be resetting its mailbox.
                doubtful = self._silent_names() - self.roster.absent()
                return None if doubtful or self._unlisted() else 0.0
            # A hostile worker can answer a ping under names that it made up. Such pongs count only
            # if no other pong has come for a moment.
            by_listed = self.replies.total_of(self.replies.ping, self._listed)
            return 0.0 if by_listed >= self._count else UNLISTED_GRACE
        if self._is_unexplained(silent) or self._silent_names():
            return None
        return self._ping_after(self._count)

    def _is_unexplained(self, silent: int) -> bool:
        """Whether more are silent than those that stayed so for a whole ``timeout`` before."""
        return silent > (self._explained or 0)

    @property
    def _silent(self) -> int:
        """How many of the counted nodes have not answered; they are counted again at the ping."""
        return (self._count or 0) - self.replies.nodes

    def _silent_names(self) -> set[str]:
        """Return the listed names of workers from which nothing came."""
        listed = self._listed & self.requested if self.requested else self._listed
        return self._may_be_workers(listed - self.replies.heard - self.replies.pongs)

    def ping_after(self) -> float | None:
        # At once where the numbers are complete and a listed worker is silent, and where a worker
        # is asked for by name that cannot answer as far as is known: only a ping can tell.
        is_complete = self._count is not None and self._silent <= 0
        is_complete = is_complete and not self.replies.is_anybody_pending
        doubtful = self._silent_names() - self.roster.absent()
        if (is_complete and doubtful) or (self.requested and not doubtful):
            return 0.0
        return self._ping_after(self._count or 0)

    def awaited(self) -> set[str]:
        return self._silent_names() | (set() if self.requested else self._unlisted())

    def remember(self, *, whole_window: bool) -> None:
        known_before = self.roster.workers()
        super().remember(whole_window=whole_window)
        if self._count is None:
            return
        if whole_window:
            self.roster.silent = self._silent_without_name
        elif self.roster.silent is not None:
            self.roster.silent = min(self.roster.silent, max(self._silent, 0))
        if self._silent <= 0 and self.replies.ping:
            for name in self._silent_names():
                self.roster.node(name).is_absent = True
        if not self.requested and not self._is_unexplained(self._silent):
            self._forget_those_who_left(known_before)

    def _forget_those_who_left(self, known: set[str]) -> None:
        """Forget the workers that are neither listed nor connected.

        After a restart of the server this is so for workers that are about to connect again, and
        after a lost reply for one that resets its mailbox. These are named as missing, and so is
        one that was listed when it was asked.
        """
        left = known & self._unlisted()
        self._not_left = left & (self._losers | self._listed_when_asked)
        left -= self._not_left
        if left:
            heard_at = max(self.roster.nodes[name].heard_at or 0.0 for name in left)
            recently = self.connection.now() - RECONNECTING
            if self.connection.restarted_since(max(heard_at, recently)):
                self._not_left |= left
            else:
                self.roster.forget(left)

    def _expected(self) -> set[str]:
        listed = self._may_be_workers(self._listed_when_asked & self._listed)
        return listed | self._not_left | self._lost_by_the_list()

    def _unlisted(self) -> set[str]:
        """Return the known workers that are silent and not listed."""
        return self.roster.workers() - self._listed - self.replies.heard - self.replies.pongs

    def _lost_by_the_list(self) -> set[str]:
        """Return those of them that may be connected as far as the number tells."""
        return self._unlisted() if self._is_unexplained(self._silent) else set()

    @property
    def _silent_without_name(self) -> int:
        """How many are silent, without the workers that are named for it."""
        silent = self._listed - self.replies.heard - self.replies.pongs
        named = len(self._may_be_workers(silent)) + len(self._lost_by_the_list())
        return max(0, self._silent - named)

    @property
    def is_reply_expected(self) -> bool:
        return self._silent > 0

    @property
    def unnamed(self) -> int:
        if self._count is None or (self.requested and not self.replies.ping):
            return 0
        silent = self._listed - self.replies.heard - self.replies.pongs
        others = len(silent) - len(self._may_be_workers(silent))
        return max(0, self._silent_without_name - others)
